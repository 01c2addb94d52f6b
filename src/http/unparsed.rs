//! Answers to heads that the parser refuses.

use std::rc::Rc;
use std::sync::PoisonError;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};

use super::body::Body;
use super::connection_manager::Connection;
use super::exchange::Exchange;
use super::reply::{self, Manner};
use super::router;
use crate::error::{Failure, ResponseFlag};

/// The whole answer as bytes. `automatic` is the one that the parser made, which knows the date.
///
/// The request is counted and logged like any other, but nothing of it is known for certain.
pub fn answer(error: &hyper::Error, automatic: &[u8], connection: &Rc<Connection>) -> Vec<u8> {
    connection.request_began();
    let head = connection.activity().heads.as_ref().map(|heads| {
        let heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.seen().to_vec()
    });
    let failure = failure(automatic, &head.unwrap_or_default()).because(error);
    let (parts, ()) = Request::new(()).into_parts();
    let exchange = Exchange::begin(connection, &parts);
    let manner = Manner {
        close: true,
        ..Manner::default()
    };
    let mut response = reply::from_failure(&failure, manner, exchange);
    router::server_header(response.headers_mut(), connection);
    written(response, automatic)
}

/// What is wrong: told by the status that the parser chose, and by the text.
fn failure(automatic: &[u8], head: &[u8]) -> Failure {
    let flag = ResponseFlag::DownstreamProtocolError;
    if automatic.starts_with(b"HTTP/1.1 431") || automatic.starts_with(b"HTTP/1.1 414") {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Failure::local(status, flag, "http1.headers_too_large")
            .saying("Request Header Fields Too Large")
            .closing();
    }
    let mut lines = head
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .skip_while(|line| line.is_empty());
    let words: Vec<&[u8]> = lines
        .next()
        .unwrap_or_default()
        .split(|b| *b == b' ')
        .collect();
    let other_version = match words[..] {
        [method, _] => !method.is_empty() && method.iter().all(u8::is_ascii_uppercase),
        [_, _, version] => is_other_version(version),
        _ => false,
    };
    if other_version {
        return Failure::local(StatusCode::UPGRADE_REQUIRED, flag, "low_version")
            .saying("Upgrade Required")
            .closing();
    }
    let coding = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            const NAME: &[u8] = b"transfer-encoding:";
            let (name, value) = line.split_at_checked(NAME.len())?;
            name.eq_ignore_ascii_case(NAME).then_some(value)
        })
        .find(|value| !value.trim_ascii().eq_ignore_ascii_case(b"chunked"));
    match coding {
        Some(_) => Failure::local(
            StatusCode::NOT_IMPLEMENTED,
            flag,
            "http1.invalid_transfer_encoding",
        )
        .saying("Not Implemented")
        .closing(),
        None => Failure::bad_request("http1.codec_error"),
    }
}

/// A version of HTTP, and not one that is spoken here.
fn is_other_version(word: &[u8]) -> bool {
    match word {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] => {
            major.is_ascii_digit() && minor.is_ascii_digit() && (*major, *minor) != (b'1', b'1')
        }
        _ => false,
    }
}

fn written(response: Response<Body>, automatic: &[u8]) -> Vec<u8> {
    let (mut head, body) = response.into_parts();
    let (bytes, exchange) = match body {
        Body::Full(bytes, exchange) => (bytes.unwrap_or_default(), exchange),
        // A local reply has a body at hand.
        Body::Empty | Body::Upstream(_) | Body::Transformed(_) | Body::Renewed(_) => {
            return Vec::new();
        }
    };
    let length = HeaderValue::from(bytes.len() as u64);
    head.headers.insert(CONTENT_LENGTH, length);
    let mut out = Vec::with_capacity(256 + bytes.len());
    let reason = head.status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", head.status.as_u16()).as_bytes());
    write_fields(&head.headers, &mut out);
    let lines = automatic.split_inclusive(|b| *b == b'\n');
    let date = lines.into_iter().find(|line| {
        let name = line.get(..5);
        name.is_some_and(|name| name.eq_ignore_ascii_case(b"date:"))
    });
    out.extend_from_slice(date.unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&bytes);
    exchange.progress.sent.set(bytes.len() as u64);
    exchange.complete();
    out
}

fn write_fields(headers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_by_the_text() {
        let bad = b"HTTP/1.1 400 Bad Request\r\n";
        for (head, status) in [
            ("GET /d\r\n\r\n", 426),
            ("GET /e HTTP/2.0\r\nHost: x\r\n\r\n", 426),
            ("\r\nGET /e HTTP/1.2\r\n\r\n", 426),
            ("GET /e http/1.1\r\n\r\n", 400),
            ("FOO BAR / HTTP/1.1\r\n\r\n", 400),
            ("\x16\x03\x01junk\r\n\r\n", 400),
            ("", 400),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
                501,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nA\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding : identity\r\n\r\n",
                400,
            ),
        ] {
            let found = failure(bad, head.as_bytes());
            assert_eq!(found.status.as_u16(), status, "{head:?}");
            assert!(found.close);
        }
        let large = failure(b"HTTP/1.1 431 x\r\n", b"");
        assert_eq!(large.status.as_u16(), 431);
    }
}
