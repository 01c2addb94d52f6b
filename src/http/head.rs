//! Making a request head safe and uniform before anything looks at it.
//!
//! hyper has parsed the head; what hyper leaves to its user is done here: host rules, framing
//! fields, hop-by-hop fields, one form of target. After [`sanitise`] the target is in origin form
//! and `Host` is there, whatever the protocol.

mod hop_by_hop;
mod target;

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_xds::resource::http_manager::{HttpManager, Underscores};
use http::header::{
    CONTENT_LENGTH, COOKIE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY,
    TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Method, StatusCode, Version};

use super::framing::Heads;
use super::names::Names;
use super::strict;
use crate::error::{Failure, ResponseFlag};
use hop_by_hop::hop_by_hop;
pub use hop_by_hop::{TwoFramings, say_upgrade, strip_response, unsay_upgrade};
pub use target::NO_HOST;
use target::{host, normal_path, target};

/// What a request asks its connection to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeRequest {
    /// As sent.
    pub protocol: HeaderValue,
    /// The method CONNECT, and not a field.
    pub connect: bool,
    /// By extended CONNECT over HTTP/2 (RFC 8441); to filters it is an upgrade of HTTP/1.1, and to
    /// endpoints whatever they speak.
    pub extended: bool,
    /// Of a WebSocket (RFC 6455 section 4.1): there is none over HTTP/2, and an answer needs it.
    pub key: Option<HeaderValue>,
}

/// What [`sanitise`] found.
#[derive(Debug, Default)]
pub struct Facts {
    pub upgrade: Option<UpgradeRequest>,
    /// Send the client to this path and query (307) instead of forwarding.
    pub redirect: Option<String>,
    pub names: Names,
}

/// Checks a head and brings it into the one form that the rest of the program handles.
///
/// # Errors
/// A [`Failure`] with the answer; the connection is closed whenever framing is in doubt.
pub fn sanitise(
    parts: &mut Parts,
    manager: &HttpManager,
    local_port: Option<u16>,
    heads: Option<&Mutex<Heads>>,
) -> Result<Facts, Failure> {
    let extended = extended_connect(parts);
    version(parts, manager)?;
    strict::method(parts, manager)?;
    let names = Names::of(&parts.headers);
    if parts.version == Version::HTTP_2 {
        strict::size(parts, manager)?;
    }
    strict::whole_target(parts, heads)?;
    // First, while all fields are as they were parsed.
    framing(parts, names, heads)?;
    target(parts, manager)?;
    underscores(&mut parts.headers, manager.underscores)?;
    host(parts, manager, local_port)?;
    let upgrade = hop_by_hop(parts, names)?.or(extended);
    if names.cookie && parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    if parts.headers.len() != parts.headers.keys_len() {
        join_lists(&mut parts.headers);
    }
    if parts.method == Method::CONNECT {
        return Ok(Facts {
            upgrade: Some(UpgradeRequest {
                protocol: HeaderValue::from_static("CONNECT"),
                connect: true,
                extended: false,
                key: None,
            }),
            redirect: None,
            names,
        });
    }
    if let Some(upgrade) = &upgrade {
        // Routes, rules and services that are asked have to see what a request wants to become.
        say_upgrade(&mut parts.headers, upgrade.protocol.clone());
    }
    let redirect = normal_path(parts, manager)?;
    Ok(Facts {
        upgrade,
        redirect,
        names,
    })
}

/// As [`sanitise`], of a head that an answer has changed: only its host and its target are new.
/// `Some`: where to send the client instead.
///
/// # Errors
/// A [`Failure`] with the answer.
pub fn sanitise_target(
    parts: &mut Parts,
    manager: &HttpManager,
    local_port: Option<u16>,
) -> Result<Option<String>, Failure> {
    host(parts, manager, local_port)?;
    normal_path(parts, manager)
}

/// Makes of an extended CONNECT the request for an upgrade that it stands for, as Envoy does; with
/// the key that RFC 6455 section 4.1 asks for, since there is none over HTTP/2.
fn extended_connect(parts: &mut Parts) -> Option<UpgradeRequest> {
    if parts.method != Method::CONNECT || parts.version != Version::HTTP_2 {
        return None;
    }
    let protocol = parts.extensions.remove::<h2::ext::Protocol>()?;
    let protocol = HeaderValue::from_str(protocol.as_str()).ok()?;
    parts.method = Method::GET;
    if protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
        && !parts.headers.contains_key(SEC_WEBSOCKET_KEY)
        && let Ok(key) = HeaderValue::from_str(&STANDARD.encode(fastrand::u128(..).to_le_bytes()))
    {
        parts.headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    Some(UpgradeRequest {
        protocol,
        connect: false,
        extended: true,
        key: parts.headers.get(SEC_WEBSOCKET_KEY).cloned(),
    })
}

fn version(parts: &Parts, manager: &HttpManager) -> Result<(), Failure> {
    if parts.version == Version::HTTP_10 && !manager.http1.accept_http_10 {
        return Err(Failure::local(
            StatusCode::UPGRADE_REQUIRED,
            ResponseFlag::DownstreamProtocolError,
            "low_version",
        )
        .saying("Upgrade Required")
        .closing());
    }
    Ok(())
}

/// hyper takes any list that ends in `chunked`; the next hop might read it differently.
fn framing(parts: &mut Parts, names: Names, heads: Option<&Mutex<Heads>>) -> Result<(), Failure> {
    if !names.transfer_encoding && !names.content_length {
        return Ok(());
    }
    if let Some(heads) = heads {
        let mut heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.check(&parts.headers)?;
    }
    let headers = &parts.headers;
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if parts.version == Version::HTTP_2
            || codings.next().is_some()
            || !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        {
            return Err(Failure::local(
                StatusCode::NOT_IMPLEMENTED,
                ResponseFlag::DownstreamProtocolError,
                "http1.invalid_transfer_encoding",
            )
            .saying("Not Implemented")
            .closing());
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(Failure::bad_request("http1.content_length_and_chunked"));
        }
    }
    if names.transfer_encoding {
        // The next hop's framing is decided anew.
        parts.headers.remove(TRANSFER_ENCODING);
    }
    let headers = &parts.headers;
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || !length.as_bytes().iter().all(u8::is_ascii_digit))
    {
        return Err(Failure::bad_request("http1.invalid_content_length"));
    }
    Ok(())
}

/// The detail word of a header with an underscore in its name.
pub const UNDERSCORE: &str = "unexpected_underscore";

fn underscores(headers: &mut HeaderMap, action: Underscores) -> Result<(), Failure> {
    if action == Underscores::Allow || !headers.keys().any(|n| n.as_str().contains('_')) {
        return Ok(());
    }
    if action == Underscores::RejectRequest {
        return Err(Failure::bad_request(UNDERSCORE));
    }
    let named: Vec<HeaderName> = headers
        .keys()
        .filter(|n| n.as_str().contains('_'))
        .cloned()
        .collect();
    for name in named {
        headers.remove(name);
    }
    Ok(())
}

/// HTTP/2 may split cookies over several fields; HTTP/1.1 may not (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut all: Vec<u8> = Vec::new();
    for value in headers.get_all(COOKIE) {
        if !all.is_empty() {
            all.extend_from_slice(b"; ");
        }
        all.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(COOKIE, value);
    }
}

/// Lists that Envoy passes on in one field, however many they came in.
const LISTS: [HeaderName; 6] = [
    http::header::ACCEPT,
    http::header::ACCEPT_ENCODING,
    http::header::ACCESS_CONTROL_REQUEST_HEADERS,
    http::header::CACHE_CONTROL,
    http::header::ORIGIN,
    http::header::VIA,
];

fn join_lists(headers: &mut HeaderMap) {
    for name in &LISTS {
        if headers.get_all(name).iter().nth(1).is_none() {
            continue;
        }
        let all: Vec<&[u8]> = headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(&all.join(&b',')) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests;
