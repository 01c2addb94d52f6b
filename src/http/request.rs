//! The head of a request on its way up.

use h2::ext::Protocol;
use http::header::{
    CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, VIA,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};

use super::exchange::Exchange;
use super::forwarded::{X_FORWARDED_HOST, X_FORWARDED_PREFIX, X_FORWARDED_PROTO};
use super::head::{UpgradeRequest, say_upgrade, unsay_upgrade};
use super::observed::Observed;
use crate::formatter::Facts;
use crate::route::action::Forward;
use crate::route::rewrite::HostRewrite;
use crate::route::{Chosen, HeaderEdits};
use crate::upstream::pool::Lease;

const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// Adds our name to the list of those that a message went through (RFC 9110 section 7.6.3).
pub fn append_via(headers: &mut http::HeaderMap, via: &str) {
    if via.is_empty() {
        return;
    }
    let mut all: Vec<u8> = Vec::new();
    for value in headers.get_all(VIA) {
        all.extend_from_slice(value.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(via.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(VIA, value);
    }
}

/// Who knows more of a request than its head.
pub trait Observer {
    fn observe<'o>(&'o self, request: &'o Parts) -> impl Facts + 'o;
}

impl Observer for Exchange {
    fn observe<'o>(&'o self, request: &'o Parts) -> impl Facts + 'o {
        Observed {
            request: Some(request),
            ..Observed::of(self)
        }
    }
}

/// Edits that are the same for every attempt.
pub fn edit_request(
    parts: &mut Parts,
    forward: &Forward,
    chosen: &Chosen,
    envoy_headers: bool,
    observer: &impl Observer,
) {
    // First, because what follows may depend on headers that are added here.
    edit_head(chosen.edits(), parts, observer);
    if let Some(host) = chosen.host() {
        // Envoy does not tell of this one.
        parts.headers.insert(HOST, host.clone());
    } else if let Some(rewrite) = &forward.host_rewrite
        && let Some(host) = rewrite.apply(&parts.headers, parts.uri.path())
    {
        replace_host(parts, host, forward, envoy_headers);
    }
    if parts.method == Method::CONNECT {
        // It has no path.
        return;
    }
    let Some(rewrite) = &forward.path_rewrite else {
        return;
    };
    if let Some(prefix) = rewrite.told_prefix(parts.uri.path())
        && let Ok(prefix) = HeaderValue::from_str(prefix)
    {
        parts.headers.insert(X_FORWARDED_PREFIX, prefix);
    }
    if let Some(target) = rewrite.apply(parts.uri.path(), parts.uri.query())
        && let Some(rewritten) = rewritten(target)
    {
        if envoy_headers
            && let Some(original) = parts.uri.path_and_query()
            && let Ok(original) = HeaderValue::from_str(original.as_str())
        {
            parts.headers.insert(ORIGINAL_PATH, original);
        }
        parts.uri = rewritten;
    }
}

/// The target that a rewrite has made. Rewrites may take the slash at the start of a path, and Envoy sends what they
/// leave. A target may be a path or an authority (RFC 9112 section 3.2), so that a single word can be sent as it is,
/// in the form of the latter; anything else gets its slash back.
fn rewritten(mut target: String) -> Option<Uri> {
    if !target.starts_with('/') {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if !target.is_empty() && target.bytes().all(word) {
            return target.parse::<Authority>().ok().map(Uri::from);
        }
        target.insert(0, '/');
    }
    target.parse::<PathAndQuery>().ok().map(Uri::from)
}

/// The path of a request, as the log has it; where a rewrite has left a single word, that with a slash.
pub fn path_of(parts: &Parts) -> Option<PathAndQuery> {
    match (parts.uri.path_and_query(), parts.uri.authority()) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(word)) if parts.method != Method::CONNECT => format!("/{word}").parse().ok(),
        (None, _) => None,
    }
}

fn replace_host(parts: &mut Parts, host: HeaderValue, forward: &Forward, envoy_headers: bool) {
    if let Some(original) = parts.headers.insert(HOST, host) {
        if forward.append_x_forwarded_host {
            append_host(&mut parts.headers, &original);
        }
        if envoy_headers {
            parts.headers.insert(ORIGINAL_HOST, original);
        }
    }
}

/// One more host that the request was for, behind those before it.
fn append_host(headers: &mut HeaderMap, host: &HeaderValue) {
    let mut all: Vec<u8> = Vec::new();
    for value in headers.get_all(X_FORWARDED_HOST) {
        all.extend_from_slice(value.as_bytes());
        all.push(b',');
    }
    all.extend_from_slice(host.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(X_FORWARDED_HOST, value);
    }
}

/// Edits of a request, level after level.
pub fn edit_head(edits: &HeaderEdits, parts: &mut Parts, observer: &impl Observer) {
    for level in edits.request_levels() {
        if !level.apply_plain(&mut parts.headers) {
            let facts = observer.observe(parts);
            let changes = level.evaluate(&parts.headers, &facts);
            drop(facts);
            changes.apply(&mut parts.headers);
        }
    }
}

/// The edits of a route on a response, of the upstream or of our own.
pub fn edit_response(edits: &HeaderEdits, headers: &mut HeaderMap, exchange: Option<&Exchange>) {
    for level in edits.response_levels() {
        if level.apply_plain(headers) {
            continue;
        }
        let Some(exchange) = exchange else {
            continue;
        };
        let facts = Observed {
            response: Some(headers),
            ..Observed::of(exchange)
        };
        let changes = level.evaluate(headers, &facts);
        changes.apply(headers);
    }
}

/// Puts the pseudo headers where the endpoint's protocol has them.
pub fn suit(head: &mut Parts, http2: bool) {
    if !http2 {
        head.version = Version::HTTP_11;
        return;
    }
    head.version = Version::HTTP_2;
    let path = path_of(head);
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    match head.method {
        // It is for an authority and nothing else (RFC 9113 section 8.5).
        Method::CONNECT => uri.path_and_query = None,
        _ => {
            uri.scheme = Some(scheme(is_for_https(&head.headers)));
            uri.path_and_query = path;
        }
    }
    // Not there when the request comes back from a connection that did not send it.
    if let Some(host) = head.headers.remove(HOST) {
        uri.authority = host.to_str().ok().and_then(|h| h.parse().ok());
    }
    head.uri = Uri::from_parts(uri).unwrap_or_default();
}

fn scheme(https: bool) -> Scheme {
    match https {
        true => Scheme::HTTPS,
        false => Scheme::HTTP,
    }
}

/// What the first proxy has said of the client's connection.
fn is_for_https(headers: &HeaderMap) -> bool {
    headers
        .get(&X_FORWARDED_PROTO)
        .is_some_and(|proto| proto == "https")
}

/// `:scheme` says how the endpoint is connected to (`SchemeHeaderTransformation.match_upstream`).
pub fn match_upstream(head: &mut Parts, tls: bool) {
    if head.version != Version::HTTP_2 || head.uri.scheme().is_none() {
        return;
    }
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    uri.scheme = Some(scheme(tls));
    head.uri = Uri::from_parts(uri).unwrap_or_default();
}

/// Puts a head into the form that the endpoint's protocol wants.
pub fn prepare(
    head: &mut Parts,
    lease: &Lease,
    forward: &Forward,
    upgrade: Option<&UpgradeRequest>,
    envoy_headers: bool,
    bodyless: bool,
) {
    if lease.is_http2() {
        // How the names of fields were written is all that an HTTP/1 connection reads of them.
        head.extensions.clear();
    }
    let hostname = &lease.endpoint().attributes.hostname;
    if matches!(forward.host_rewrite.as_deref(), Some(HostRewrite::Auto))
        && !hostname.is_empty()
        && let Ok(host) = HeaderValue::from_str(hostname)
    {
        replace_host(head, host, forward, envoy_headers);
    }
    let upgrade = upgrade.filter(|upgrade| !upgrade.connect);
    if let Some(upgrade) = upgrade {
        unextend(head, upgrade);
    }
    suit(head, lease.is_http2());
    if !lease.is_http2() {
        // Every method but these may have a body, so that its absence is said (as Envoy does).
        let plain = [Method::GET, Method::HEAD, Method::CONNECT, Method::TRACE];
        if bodyless && upgrade.is_none() && !plain.contains(&head.method) {
            head.headers
                .entry(CONTENT_LENGTH)
                .or_insert_with(|| HeaderValue::from_static("0"));
        }
    }
    match upgrade {
        None => {}
        Some(upgrade) if lease.is_http2() => extend(head, upgrade),
        Some(upgrade) => say_upgrade(&mut head.headers, upgrade.protocol.clone()),
    }
}

/// Makes of an upgrade of HTTP/1.1 the extended CONNECT that means the same (RFC 8441 section 5).
fn extend(head: &mut Parts, upgrade: &UpgradeRequest) {
    let Ok(protocol) = upgrade.protocol.to_str() else {
        return;
    };
    unsay_upgrade(&mut head.headers);
    head.headers.remove(SEC_WEBSOCKET_KEY);
    head.method = Method::CONNECT;
    head.extensions.insert(Protocol::from(protocol));
}

/// The other way, of a request that comes back from a connection that did not send it.
fn unextend(head: &mut Parts, upgrade: &UpgradeRequest) {
    if head.method == Method::CONNECT {
        head.method = Method::GET;
        if let Some(key) = &upgrade.key {
            head.headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        }
    }
}
