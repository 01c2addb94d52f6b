//! What a request is about: one form of target, one host, a path that means one thing.

use std::borrow::Cow;

use causeway_xds::resource::http_manager::{HttpManager, StripPort};
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri, Version};

use crate::error::{Failure, ResponseFlag};
use crate::http::path::{self, Outcome};

/// Brings absolute form and the HTTP/2 pseudo headers down to origin form plus `Host`.
pub(super) fn target(parts: &mut Parts, manager: &HttpManager) -> Result<(), Failure> {
    if parts.method == Method::CONNECT {
        return connect_target(parts, manager);
    }
    if let Some(authority) = parts.uri.authority() {
        if parts.uri.scheme().is_none() {
            // Authority form is for CONNECT alone (RFC 9112 section 3.2.3).
            return Err(Failure::bad_request("invalid_path"));
        }
        if authority.as_str().contains('@') {
            return Err(Failure::bad_request("userinfo_in_authority"));
        }
        // RFC 9110 section 4.2.1.
        if authority.host().is_empty() {
            return Err(Failure::bad_request("invalid_authority"));
        }
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Failure::bad_request("invalid_authority"))?;
        let path = parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        parts.headers.insert(HOST, host);
    } else if parts.uri.path_and_query().is_none()
        || !matches!(parts.uri.path().as_bytes().first(), Some(b'/' | b'*'))
    {
        return Err(Failure::bad_request("invalid_path"));
    }
    if parts.version == Version::HTTP_10
        && !parts.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(&manager.http1.default_host_for_http_10)
        && !host.is_empty()
    {
        parts.headers.insert(HOST, host);
    }
    Ok(())
}

/// The target of a CONNECT is its host, and stays as it is (RFC 9112 section 3.2.3).
fn connect_target(parts: &mut Parts, manager: &HttpManager) -> Result<(), Failure> {
    if parts.version == Version::HTTP_2 && !manager.http2.allow_connect {
        return Err(Failure::local(
            StatusCode::NOT_FOUND,
            ResponseFlag::NoRoute,
            "connect_not_configured",
        )
        .closing());
    }
    let host = parts
        .uri
        .authority()
        .filter(|a| parts.uri.path_and_query().is_none() && !a.as_str().contains('@'))
        .and_then(|a| HeaderValue::from_str(a.as_str()).ok())
        .ok_or_else(|| Failure::bad_request("invalid_authority"))?;
    parts.headers.insert(HOST, host);
    Ok(())
}

/// The detail word of a request without a host.
pub const NO_HOST: &str = "host_missing";

/// Exactly one host, of characters a host can have (RFC 9112 section 3.2).
pub(super) fn host(
    parts: &mut Parts,
    manager: &HttpManager,
    local_port: Option<u16>,
) -> Result<(), Failure> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        let missing = Failure {
            body: Cow::Borrowed(""),
            ..Failure::bad_request(NO_HOST)
        };
        return Err(missing);
    };
    if hosts.next().is_some() {
        return Err(Failure::bad_request("host_repeated"));
    }
    let text = host.as_bytes();
    if !text.iter().all(|b| HOST_BYTES[usize::from(*b)]) {
        return Err(Failure::bad_request("host_invalid"));
    }
    let rules = &manager.host;
    if rules.strip_port == StripPort::Keep && !rules.strip_trailing_dot {
        return Ok(());
    }
    // Of ASCII by the check above.
    let Ok(text) = std::str::from_utf8(text) else {
        return Ok(());
    };
    let mut kept = Cow::Borrowed(text);
    // The dot first: behind it may be a port.
    if rules.strip_trailing_dot {
        kept = without_dot(text);
    }
    let (name, port) = crate::route::action::split_port(&kept);
    if let Some(port) = port.and_then(|p| p.parse::<u16>().ok()) {
        let strip = match rules.strip_port {
            StripPort::Keep => false,
            StripPort::Any => true,
            StripPort::Matching => Some(port) == local_port,
        };
        // What has several ports has none that could be meant.
        if strip && (name.starts_with('[') || !name.contains(':')) {
            kept = Cow::Owned(name.to_owned());
        }
    }
    if kept.len() != text.len()
        && let Ok(kept) = HeaderValue::from_str(&kept)
    {
        parts.headers.insert(HOST, kept);
    }
    Ok(())
}

/// A host without the dot that ends its name, also before a port. Of several dots all stay: that is no name.
fn without_dot(host: &str) -> Cow<'_, str> {
    let undotted = |name: &str| {
        let name = name.strip_suffix('.')?;
        (!name.ends_with('.')).then_some(name.len())
    };
    let host = undotted(host).map_or(host, |length| &host[..length]);
    let (name, port) = crate::route::action::split_port(host);
    match (undotted(name), port) {
        (Some(length), Some(port)) => Cow::Owned([&name[..length], ":", port].concat()),
        _ => Cow::Borrowed(host),
    }
}

/// Which bytes a host can have; a table, because every byte of every host is looked up.
const HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let marks = b"-._~:[]%!$&'()*+,;=";
    let mut i = 0;
    while i < 256 {
        table[i] = (i as u8).is_ascii_alphanumeric();
        i += 1;
    }
    let mut i = 0;
    while i < marks.len() {
        table[marks[i] as usize] = true;
        i += 1;
    }
    table
};

pub(super) fn normal_path(
    parts: &mut Parts,
    manager: &HttpManager,
) -> Result<Option<String>, Failure> {
    let with_query = |path: &str, query: Option<&str>| match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let (path, query) = (parts.uri.path(), parts.uri.query());
    match path::apply(path, &manager.path) {
        Outcome::Path(Cow::Borrowed(_)) => Ok(None),
        Outcome::Path(Cow::Owned(normal)) if normal == path => Ok(None),
        Outcome::Path(Cow::Owned(normal)) => {
            let target = with_query(&normal, query);
            parts.uri = Uri::try_from(target).map_err(|_| Failure::bad_request("invalid_path"))?;
            Ok(None)
        }
        Outcome::Redirect(normal) => Ok(Some(with_query(&normal, query))),
        Outcome::Reject(why) => Err(Failure {
            close: false,
            body: Cow::Borrowed(""),
            ..Failure::bad_request(why)
        }),
    }
}
