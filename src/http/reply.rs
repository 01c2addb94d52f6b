//! Local replies: what a client is told when the answer is ours.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Response, StatusCode};

use super::body::Body;
use super::exchange::Exchange;
use super::observed::Observed;
use crate::error::Failure;
use crate::filter::LocalReply;
use crate::formatter::BodyFormat;
use crate::local_reply::{LocalReplies, Mapper};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a local reply depends on besides what it says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// The request was gRPC: the status goes into trailers-only form.
    pub grpc: bool,
    /// The connection ends after this reply.
    pub close: bool,
    /// The client speaks HTTP/2, which has no way to say so.
    pub http2: bool,
}

/// Whether a request is gRPC, by its content type (gRPC over HTTP/2, "Requests").
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/grpc") && matches!(value.get(16), None | Some(b'+' | b';'))
    })
}

pub fn from_failure(failure: &Failure, manner: Manner, exchange: Box<Exchange>) -> Response<Body> {
    exchange.failed(failure);
    tracing::debug!(
        status = failure.status.as_u16(),
        flag = failure.flag.map_or("-", crate::error::ResponseFlag::short),
        details = failure.word(),
        cause = failure.cause.as_deref().unwrap_or("-"),
        "local reply"
    );
    let manner = Manner {
        close: manner.close || failure.close,
        ..manner
    };
    if !manner.grpc {
        let filters = &exchange.connection.manager.filters;
        if let Some(told) = filters.render(failure, exchange.asked.as_deref()) {
            return direct(told.status, told.body, told.headers, manner, exchange);
        }
    }
    let body = match &failure.body {
        Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        Cow::Owned(text) => Bytes::copy_from_slice(text.as_bytes()),
    };
    direct(failure.status, body, HeaderMap::new(), manner, exchange)
}

/// The answer of a filter or of a route.
pub fn local(reply: LocalReply, manner: Manner, exchange: Box<Exchange>) -> Response<Body> {
    exchange.detail(reply.details);
    if let Some(flag) = reply.flag {
        exchange.flag(flag);
    }
    let mut headers = reply.headers;
    // How long the body is, it says itself.
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    let mut response = direct(reply.status, reply.body, headers, manner, exchange);
    if let Some(status) = reply.grpc_status.filter(|_| manner.grpc) {
        let headers = response.headers_mut();
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
    }
    response
}

/// What `local_reply_config` makes of an answer.
fn rewritten(
    rules: &LocalReplies,
    mut status: StatusCode,
    mut body: Bytes,
    headers: &mut HeaderMap,
    exchange: &Exchange,
) -> (StatusCode, Bytes) {
    let held = |mapper: &&Mapper| mapper.filter.holds(&Observed::of(exchange));
    let mapper = rules.mappers.iter().find(held);
    if let Some(mapper) = mapper {
        if let Some(replaced) = mapper.status {
            status = replaced;
            exchange.answered(status);
        }
        if let Some(replaced) = &mapper.body {
            body = replaced.clone();
        }
        let facts = Observed {
            response: Some(headers),
            body: &body,
            ..Observed::of(exchange)
        };
        let changes = mapper.edits.evaluate(headers, &facts);
        changes.apply(headers);
    }
    let own = mapper.and_then(|mapper| mapper.format.as_ref());
    if let Some(format) = own.or(rules.format.as_ref()) {
        let facts = Observed {
            response: Some(headers),
            body: &body,
            ..Observed::of(exchange)
        };
        body = Bytes::from(format.text.render(&facts));
        headers.insert(CONTENT_TYPE, format.content_type.clone());
    }
    (status, body)
}

/// The body of a direct response, and the fields that go with it.
pub fn written(
    body: &Bytes,
    format: Option<&BodyFormat>,
    request: &Parts,
    exchange: &Exchange,
) -> (Bytes, HeaderMap) {
    let mut headers = HeaderMap::new();
    let mut kind = HeaderValue::from_static("text/plain");
    let mut body = body.clone();
    if let Some(format) = format {
        let facts = Observed {
            request: Some(request),
            body: &body,
            ..Observed::of(exchange)
        };
        body = Bytes::from(format.text.render(&facts));
        kind = format.content_type.clone();
    }
    if !body.is_empty() {
        headers.insert(CONTENT_TYPE, kind);
    }
    (body, headers)
}

/// A response with a body of ours; `headers` are kept.
pub fn direct(
    status: StatusCode,
    body: Bytes,
    mut headers: HeaderMap,
    manner: Manner,
    exchange: Box<Exchange>,
) -> Response<Body> {
    let mut status = status;
    let mut body = body;
    exchange.answered(status);
    if let Some(rules) = &exchange.connection.manager.local_replies {
        (status, body) = rewritten(rules, status, body, &mut headers, &exchange);
    }
    if manner.grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, grpc_status(status));
        if !body.is_empty()
            && let Ok(message) = HeaderValue::from_str(&percent_encoded(&body))
        {
            headers.insert(GRPC_MESSAGE, message);
        }
        status = StatusCode::OK;
        body = Bytes::new();
    } else if !body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    if manner.close && !manner.http2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let mut response = Response::new(Body::full(body, exchange));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

pub fn redirect(
    status: StatusCode,
    location: &str,
    mut headers: HeaderMap,
    manner: Manner,
    exchange: Box<Exchange>,
) -> Response<Body> {
    // A location is built from checked parts; one that is no header value is not sent.
    if let Ok(location) = HeaderValue::from_str(location) {
        headers.insert(LOCATION, location);
    }
    direct(
        status,
        Bytes::new(),
        headers,
        Manner {
            grpc: false,
            ..manner
        },
        exchange,
    )
}

/// HTTP status to gRPC status ("HTTP to gRPC Status Code Mapping").
fn grpc_status(status: StatusCode) -> HeaderValue {
    HeaderValue::from_static(match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502..=504 => "14",
        _ => "2",
    })
}

/// gRPC "Status-Message": visible ASCII as it is, the rest and `%` percent-encoded.
fn percent_encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_content_type() {
        let with = |value: &'static str| {
            is_grpc(&HeaderMap::from_iter([(
                CONTENT_TYPE,
                HeaderValue::from_static(value),
            )]))
        };
        assert!(with("application/grpc") && with("application/grpc+proto"));
        assert!(!with("application/grpc-web") && !with("text/plain"));
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(
            percent_encoded("a b%\n\u{e9}".as_bytes()),
            "a b%25%0A%C3%A9"
        );
    }
}
