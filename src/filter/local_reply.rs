//! Responses we make ourselves, and what of a request decides their form.

use std::borrow::Cow;

use http::header::{ACCEPT, ACCEPT_LANGUAGE, HOST, HeaderMap, HeaderValue};
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
