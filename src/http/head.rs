//! Making a request head safe and uniform before anything looks at it.
//!
//! hyper has parsed the head; what hyper leaves to its user is done here: host rules, framing
//! fields, hop-by-hop fields, one form of target. After [`sanitise`] the target is in origin form
//! and `Host` is there, whatever the protocol.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_xds::resource::http_manager::{HttpManager, StripPort, Underscores};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri, Version};

use super::framing::Heads;
use super::names::{HOP_BY_HOP, Names};
use super::path::{self, Outcome};
use super::strict;
use crate::error::{Failure, ResponseFlag};

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

/// Brings absolute form and the HTTP/2 pseudo headers down to origin form plus `Host`.
fn target(parts: &mut Parts, manager: &HttpManager) -> Result<(), Failure> {
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

/// The detail word of a request without a host.
pub const NO_HOST: &str = "host_missing";

/// Exactly one host, of characters a host can have (RFC 9112 section 3.2).
fn host(parts: &mut Parts, manager: &HttpManager, local_port: Option<u16>) -> Result<(), Failure> {
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
    let mut kept = text;
    let (name, port) = crate::route::action::split_port(kept);
    if let Some(port) = port.and_then(|p| p.parse::<u16>().ok()) {
        let strip = match rules.strip_port {
            StripPort::Keep => false,
            StripPort::Any => true,
            StripPort::Matching => Some(port) == local_port,
        };
        // What has several ports has none that could be meant.
        if strip && (name.starts_with('[') || !name.contains(':')) {
            kept = name;
        }
    }
    if rules.strip_trailing_dot
        && let Some(name) = kept.strip_suffix('.')
        && !name.ends_with('.')
    {
        kept = name;
    }
    if kept.len() != text.len()
        && let Ok(kept) = HeaderValue::from_str(kept)
    {
        parts.headers.insert(HOST, kept);
    }
    Ok(())
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

/// Removes what describes this connection (RFC 9110 section 7.6.1), and tells what upgrade was
/// asked for. `TE: trailers` survives, because gRPC servers require it.
fn hop_by_hop(parts: &mut Parts, names: Names) -> Result<Option<UpgradeRequest>, Failure> {
    let headers = &mut parts.headers;
    let mut wants_upgrade = false;
    if names.connection {
        let named = connection_options(headers)?;
        for option in &named {
            wants_upgrade |= option == UPGRADE;
            if option != TE && option != UPGRADE {
                headers.remove(option);
            }
        }
        headers.remove(CONNECTION);
    }
    if names.hop_by_hop {
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
    }
    if names.te {
        let trailers = headers.get_all(TE).iter().any(|v| {
            v.to_str().is_ok_and(|v| {
                v.split(',')
                    .any(|t| t.trim().eq_ignore_ascii_case("trailers"))
            })
        });
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if names.expect
        && headers
            .get(EXPECT)
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        // Answered by us, when the body is first asked for.
        headers.remove(EXPECT);
    }
    let protocol = if names.upgrade {
        headers.remove(UPGRADE)
    } else {
        None
    };
    let asked = wants_upgrade && parts.version == Version::HTTP_11;
    Ok(protocol.filter(|_| asked).map(|protocol| UpgradeRequest {
        protocol,
        connect: false,
        extended: false,
        key: headers.get(SEC_WEBSOCKET_KEY).cloned(),
    }))
}

/// The fields of an upgrade (RFC 9110 section 7.8), as they go on.
pub fn say_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Of a request that gets no upgrade.
pub fn unsay_upgrade(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
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

/// The fields named by `Connection`.
///
/// # Errors
/// It names a field that the message depends on: dropping it would let a client change what the
/// origin sees, a known smuggling trick.
fn connection_options(headers: &HeaderMap) -> Result<Vec<HeaderName>, Failure> {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        // Nearly all messages that have the field say just this.
        let alone = value.as_bytes();
        if alone.eq_ignore_ascii_case(b"keep-alive") || alone.eq_ignore_ascii_case(b"close") {
            continue;
        }
        let text = value
            .to_str()
            .map_err(|_| Failure::bad_request("connection_invalid"))?;
        for option in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            if option.eq_ignore_ascii_case("close") || option.eq_ignore_ascii_case("keep-alive") {
                continue;
            }
            let name: HeaderName = option
                .parse()
                .map_err(|_| Failure::bad_request("connection_invalid"))?;
            if name == HOST || name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
                return Err(Failure::bad_request("connection_names_framing_field"));
            }
            named.push(name);
        }
    }
    Ok(named)
}

fn normal_path(parts: &mut Parts, manager: &HttpManager) -> Result<Option<String>, Failure> {
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

/// Both `Content-Length` and `Transfer-Encoding`: which of the two counts is where response
/// splitting begins (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the response has both Content-Length and Transfer-Encoding")]
pub struct TwoFramings;

/// Removes connection fields from a response. Framing is decided anew for the client.
///
/// # Errors
/// [`TwoFramings`]
pub fn strip_response(headers: &mut HeaderMap) -> Result<(), TwoFramings> {
    let (mut connection, mut fixed, mut length, mut coding) = (false, false, false, false);
    for name in headers.keys() {
        let name = name.as_str();
        match name.len() {
            7 => fixed |= name == "upgrade",
            10 => {
                connection |= name == "connection";
                fixed |= name == "keep-alive";
            }
            14 => length |= name == "content-length",
            16 => fixed |= name == "proxy-connection",
            17 => coding |= name == "transfer-encoding",
            _ => {}
        }
    }
    if length && coding {
        return Err(TwoFramings);
    }
    if connection {
        // A response cannot smuggle by naming fields, so an odd list is simply dropped.
        for name in connection_options(headers).unwrap_or_default() {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if coding {
        headers.remove(TRANSFER_ENCODING);
    }
    if fixed {
        headers.remove(UPGRADE);
        headers.remove("keep-alive");
        headers.remove("proxy-connection");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
