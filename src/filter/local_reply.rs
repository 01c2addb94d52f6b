//! Responses we make ourselves, and what of a request decides their form.

use std::borrow::Cow;

use http::header::{ACCEPT, ACCEPT_LANGUAGE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};

/// A response we make ourselves.
#[derive(Clone, Debug)]
pub struct LocalReply {
    pub status: StatusCode,
    pub body: Cow<'static, str>,
    pub headers: HeaderMap,
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
        let get = |name: HeaderName| request.headers.get(name).cloned();
        Self {
            accept: get(ACCEPT),
            accept_language: get(ACCEPT_LANGUAGE),
            host: None,
            request_id: None,
            method: request.method.clone(),
        }
    }
}
