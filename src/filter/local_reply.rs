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

/// What of a request decides how a failure is told. Kept from before the request is sent on.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub accept: Option<HeaderValue>,
    pub accept_language: Option<HeaderValue>,
    /// This and the next are known once the head has been looked at.
    pub host: Option<HeaderValue>,
    pub request_id: Option<HeaderValue>,
    pub method: Method,
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
                _ => continue,
            };
            first(place, value);
        }
        asked
    }

    /// What is known of a head that was looked at.
    pub fn looked_at(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            match *name {
                HOST => first(&mut self.host, value),
                _ if name.as_str() == "x-request-id" => first(&mut self.request_id, value),
                _ => {}
            }
        }
    }
}

/// Of several fields of a name the first counts.
fn first(place: &mut Option<HeaderValue>, value: &HeaderValue) {
    if place.is_none() {
        *place = Some(value.clone());
    }
}
