//! What the codecs take and a strict one would not.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use causeway_xds::resource::http_manager::HttpManager;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Version};

use super::framing::Heads;
use super::head::{NO_HOST, UNDERSCORE};
use crate::error::{Failure, ResponseFlag};

/// What an HTTP/2 codec answers with a reset instead of words.
pub fn is_of_the_codec(failure: &Failure) -> bool {
    failure.details == UNDERSCORE || failure.details == TOO_LARGE
}

/// What its codec would have found to be malformed, were it strict (RFC 9113 section 8.3.1).
pub fn is_malformed(failure: &Failure) -> bool {
    failure.details == NO_HOST
}

const TOO_LARGE: &str = "http2.headers_too_large";

/// HTTP/2: the parser's limit is a rough one, so that the stream can be reset instead of answered.
pub fn size(parts: &Parts, manager: &HttpManager) -> Result<(), Failure> {
    let fields = parts.headers.iter();
    let fields: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let target = parts.uri.path_and_query().map_or(0, |p| p.as_str().len());
    if fields + target > manager.max_request_headers_kb as usize * 1024
        || parts.headers.len() > manager.max_headers_count as usize
    {
        return Err(Failure::local(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ResponseFlag::DownstreamProtocolError,
            TOO_LARGE,
        ));
    }
    Ok(())
}

/// Methods beyond those of RFC 9110 that Envoy takes.
const OTHER_METHODS: [&str; 26] = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "M-SEARCH",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
    "PATCH",
];

/// HTTP/1 takes methods that are known, unless it is to take any.
pub fn method(parts: &Parts, manager: &HttpManager) -> Result<(), Failure> {
    let standard = matches!(
        parts.method,
        Method::GET
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::HEAD
            | Method::OPTIONS
            | Method::CONNECT
            | Method::PATCH
            | Method::TRACE
    );
    if standard
        || parts.version == Version::HTTP_2
        || manager.http1.allow_custom_methods
        || OTHER_METHODS.contains(&parts.method.as_str())
    {
        return Ok(());
    }
    Err(Failure::bad_request("http1.codec_error"))
}

/// The parser takes bytes that no target can have, and drops a fragment (RFC 9112 section 3.2).
pub fn whole_target(parts: &Parts, heads: Option<&Mutex<Heads>>) -> Result<(), Failure> {
    let Some(target) = parts.uri.path_and_query().map(PathAndQuery::as_str) else {
        return Ok(());
    };
    if !target.is_ascii() {
        return Err(Failure::bad_request("http1.codec_error"));
    }
    let Some(heads) = heads else {
        return Ok(());
    };
    let heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
    if heads.behind(target.as_bytes()) == Some(b'#') {
        return Err(Failure {
            body: Cow::Borrowed(""),
            ..Failure::bad_request("path_normalization_failed")
        });
    }
    Ok(())
}
