//! The head of a message, as others than we want it changed: processors, scripts.

use causeway_xds::resource::parts::AppendAction;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use super::query::set_path;
use crate::matching::headers::{Values, request_values};
use crate::route::edits::put;

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What is changed.
pub enum Target<'t> {
    Request(&'t mut Parts),
    Response(&'t mut StatusCode, &'t mut HeaderMap),
    /// Trailers, or the head of an answer of ours.
    Plain(&'t mut HeaderMap),
}

impl Target<'_> {
    pub fn headers(&mut self) -> &mut HeaderMap {
        match self {
            Self::Request(parts) => &mut parts.headers,
            Self::Response(_, headers) | Self::Plain(headers) => headers,
        }
    }

    /// The fields, the head of a message first: `:method`, `:path`, `:scheme`, `:authority`, `:status`.
    pub fn each(&self, mut f: impl FnMut(&str, &[u8])) {
        let headers = match self {
            Self::Request(parts) => {
                for name in [":method", ":path", ":scheme", ":authority"] {
                    self.values(name).for_each(|value| f(name, value));
                }
                &parts.headers
            }
            Self::Response(status, headers) => {
                f(":status", status.as_str().as_bytes());
                &**headers
            }
            Self::Plain(headers) => headers,
        };
        let is_request = matches!(self, Self::Request(_));
        for (name, value) in headers {
            if !is_request || *name != HOST {
                f(name.as_str(), value.as_bytes());
            }
        }
    }

    /// Of one field, which may be a pseudo header; `name` in lower case.
    pub fn values(&self, name: &str) -> Values<'_> {
        match self {
            Self::Request(parts) if name == ":scheme" => {
                let used = parts
                    .headers
                    .get(X_FORWARDED_PROTO)
                    .map(HeaderValue::as_bytes);
                Values::One(used.or_else(|| parts.uri.scheme_str().map(str::as_bytes)))
            }
            Self::Request(parts) => request_values(parts, name),
            Self::Response(status, _) if name == ":status" => {
                Values::One(Some(status.as_str().as_bytes()))
            }
            Self::Response(_, headers) | Self::Plain(headers) => Values::of(headers, name),
        }
    }

    /// Whether that can be done.
    pub fn set(&mut self, name: &str, value: &[u8], action: AppendAction) -> bool {
        match (name, &mut *self) {
            (":path", Self::Request(parts)) => {
                let path = PathAndQuery::try_from(value).ok();
                let path = path.filter(|_| value.starts_with(b"/"));
                return path.is_some_and(|path| {
                    set_path(&mut parts.uri, path);
                    true
                });
            }
            (":method", Self::Request(parts)) => {
                let method = Method::from_bytes(value).ok();
                return method.is_some_and(|method| {
                    parts.method = method;
                    true
                });
            }
            (":authority" | "host", Self::Request(parts)) => {
                let value = HeaderValue::from_bytes(value).ok();
                let value = value.filter(|v| {
                    v.to_str()
                        .is_ok_and(|v| v.parse::<http::uri::Authority>().is_ok())
                });
                return value.is_some_and(|value| {
                    parts.headers.insert(HOST, value);
                    true
                });
            }
            // It is not changed, as the scheme is what the client used.
            (":scheme", Self::Request(_)) => return matches!(value, b"http" | b"https"),
            (":status", Self::Response(status, _)) => {
                let code = StatusCode::from_bytes(value)
                    .ok()
                    .filter(|s| s.as_u16() >= 200);
                return code.is_some_and(|code| {
                    **status = code;
                    true
                });
            }
            _ => {}
        }
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value))
        else {
            return false;
        };
        // How a message is delimited is for who sends it to say.
        if name == TRANSFER_ENCODING || (name == CONTENT_LENGTH && !is_length(&value)) {
            return false;
        }
        // Of lengths there is one.
        let action = match action {
            AppendAction::AppendOrAdd if name == CONTENT_LENGTH => AppendAction::OverwriteOrAdd,
            action => action,
        };
        put(self.headers(), name, value, action);
        true
    }
}

fn is_length(value: &HeaderValue) -> bool {
    !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit)
}
