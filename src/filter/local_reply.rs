//! Responses we make ourselves, and what of a request decides their form.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_LANGUAGE, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};

use crate::error::ResponseFlag;

/// A response we make ourselves.
#[derive(Clone, Debug)]
pub struct LocalReply {
    pub status: StatusCode,
    pub body: Bytes,
    pub headers: HeaderMap,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    pub flag: Option<ResponseFlag>,
    /// What a gRPC client is told; by the HTTP status, if nothing else is said.
    pub grpc_status: Option<u8>,
}

impl LocalReply {
    pub fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            body: Bytes::new(),
            headers: HeaderMap::new(),
            details: details.into(),
            flag: None,
            grpc_status: None,
        }
    }

    /// To a request with a body larger than a filter may keep.
    pub fn too_large() -> Self {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "request_payload_too_large").saying("Payload Too Large")
    }

    /// To a request whose body breaks off while a filter reads it.
    pub fn broken_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "request_body_broken").saying("Bad Request")
    }

    #[must_use]
    pub fn saying(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    #[must_use]
    pub fn flagged(mut self, flag: ResponseFlag) -> Self {
        self.flag = Some(flag);
        self
    }
}

/// What of a request decides how a failure is told. Kept from before the request is sent on, once
/// its head has been looked at, which gives it a host and an id.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub accept: Option<HeaderValue>,
    pub accept_language: Option<HeaderValue>,
    pub host: Option<HeaderValue>,
    pub request_id: RequestId,
    pub method: Method,
}

/// The id of a request, as text; it may have none. Those that are made here are copied: a second
/// owner of a new value costs an allocation.
#[derive(Clone, Debug, Default)]
pub enum RequestId {
    #[default]
    None,
    Uuid([u8; Self::UUID]),
    Other(HeaderValue),
}

impl RequestId {
    const UUID: usize = uuid::fmt::Hyphenated::LENGTH;

    /// Empty if there is none.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Uuid(text) => text,
            Self::Other(value) => value.as_bytes(),
        }
    }
}

impl From<&HeaderValue> for RequestId {
    fn from(value: &HeaderValue) -> Self {
        match value.as_bytes().try_into() {
            Ok(text) => Self::Uuid(text),
            Err(_) => Self::Other(value.clone()),
        }
    }
}

impl Asked {
    pub fn of(request: &Parts) -> Self {
        let mut asked = Self {
            method: request.method.clone(),
            ..Self::default()
        };
        // One pass: each separate look-up would hash a name.
        for (name, value) in &request.headers {
            let place = match *name {
                ACCEPT => &mut asked.accept,
                ACCEPT_LANGUAGE => &mut asked.accept_language,
                HOST => &mut asked.host,
                _ => {
                    if name.as_str() == "x-request-id"
                        && matches!(asked.request_id, RequestId::None)
                    {
                        asked.request_id = value.into();
                    }
                    continue;
                }
            };
            // Of several fields of a name the first counts.
            if place.is_none() {
                *place = Some(value.clone());
            }
        }
        asked
    }
}
