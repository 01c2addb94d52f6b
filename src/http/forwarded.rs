//! Who the client is, and telling the upstream.

use std::net::{IpAddr, SocketAddr};

use causeway_xds::resource::address::contain;
use causeway_xds::resource::http_manager::{Forwarded, HttpManager, Trusted, XffDetection};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::names::Names;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known about the connection a request came on; made once per connection.
#[derive(Debug)]
pub struct Peer {
    pub ip: IpAddr,
    pub tls: bool,
    /// `ip` as `x-forwarded-for` shows it.
    pub text: HeaderValue,
    pub scheme: HeaderValue,
}

impl Peer {
    pub fn new(ip: IpAddr, tls: bool) -> Self {
        let text = HeaderValue::try_from(ip.to_string())
            .expect("an address is made of visible characters");
        Self {
            ip,
            tls,
            text,
            scheme: HeaderValue::from_static(if tls { "https" } else { "http" }),
        }
    }
}

/// Sets the fields that tell the upstream where a request came from, and returns the client's
/// address: the peer's, or the one that the last trusted hop saw.
pub fn apply(headers: &mut HeaderMap, names: Names, rules: &Forwarded, peer: &Peer) -> IpAddr {
    if let Some(detection) = &rules.detection {
        return detect(headers, names, detection, peer);
    }
    let hops = rules.xff_num_trusted_hops as usize;
    let mut client = peer.ip;
    // With use_remote_address the peer itself is the first hop that we can vouch for.
    let wanted = if rules.use_remote_address {
        hops.checked_sub(1)
    } else {
        Some(hops)
    };
    if names.forwarded_for
        && let Some(from_right) = wanted
        && let Some(seen) = nth_from_right(headers, from_right)
    {
        client = seen;
    }
    if rules.use_remote_address && !rules.skip_xff_append {
        append_peer(headers, names, peer);
    }
    let told = names.forwarded_proto && headers.contains_key(&X_FORWARDED_PROTO);
    if !told || (rules.use_remote_address && hops == 0) {
        headers.insert(X_FORWARDED_PROTO, peer.scheme.clone());
    }
    client
}

/// As [`apply`], by who is trusted and not by how the peer is reached.
fn detect(headers: &mut HeaderMap, names: Names, detection: &XffDetection, peer: &Peer) -> IpAddr {
    let (client, believed) = match &detection.trusted {
        // Whoever can connect is behind the proxies that are counted.
        Trusted::Hops(hops) if names.forwarded_for => {
            (nth_from_right(headers, *hops as usize), true)
        }
        Trusted::Hops(_) => (None, true),
        Trusted::Networks(trusted) => {
            let believed = contain(trusted, peer.ip);
            let walk = believed && names.forwarded_for;
            let client = walk.then(|| first_stranger(headers, trusted));
            (client.flatten(), believed)
        }
    };
    if detection.append {
        append_peer(headers, names, peer);
    }
    let told = names.forwarded_proto && headers.contains_key(&X_FORWARDED_PROTO);
    if !told || !believed {
        headers.insert(X_FORWARDED_PROTO, peer.scheme.clone());
    }
    client.unwrap_or(peer.ip)
}

/// Stands for a client whose address cannot be read.
const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// From the right, the first address that is not trusted, because only what trusted proxies have
/// written can be believed; or the last that was understood, if that is not reached.
fn first_stranger(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut client = None;
    for value in headers.get_all(&X_FORWARDED_FOR).iter().rev() {
        for hop in value.as_bytes().rsplit(|b| *b == b',') {
            let hop = hop.trim_ascii();
            if hop.is_empty() {
                continue;
            }
            // What a trusted proxy did not understand either is somebody, and nobody in any list.
            let Some(address) = address(hop) else {
                return Some(NOBODY);
            };
            client = Some(address);
            if !contain(trusted, address) {
                return client;
            }
        }
    }
    client
}

/// An address; some proxies add the port.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    text.parse().or_else(|_| with_port()).ok()
}

fn nth_from_right(headers: &HeaderMap, n: usize) -> Option<IpAddr> {
    let mut all = Vec::new();
    for value in headers.get_all(&X_FORWARDED_FOR) {
        all.extend(value.to_str().ok()?.split(',').map(str::trim));
    }
    all.iter().rev().nth(n)?.parse().ok()
}

fn append_peer(headers: &mut HeaderMap, names: Names, peer: &Peer) {
    if !names.forwarded_for {
        headers.insert(X_FORWARDED_FOR, peer.text.clone());
        return;
    }
    let mut joined: Vec<u8> = Vec::new();
    for value in headers.get_all(&X_FORWARDED_FOR) {
        joined.extend_from_slice(value.as_bytes());
        joined.push(b',');
    }
    joined.extend_from_slice(peer.text.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// Gives the request an id unless it has one that may be kept.
pub fn request_id(headers: &mut HeaderMap, names: Names, manager: &HttpManager) {
    if !manager.generate_request_id {
        return;
    }
    let keep = !manager.forwarded.use_remote_address || manager.preserve_external_request_id;
    if keep && names.request_id && headers.contains_key(&X_REQUEST_ID) {
        return;
    }
    headers.insert(X_REQUEST_ID, new_request_id());
}

/// A random version 4 UUID. Unique, not secret: a fast generator will do.
fn new_request_id() -> HeaderValue {
    let mut buffer = uuid::Uuid::encode_buffer();
    let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
    let text = id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).expect("hexadecimal digits and hyphens")
}

/// Removes `x-envoy-*` from a client's request: they steer retries and timeouts, and no client of
/// ours is internal.
pub fn strip_internal(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .keys()
        .filter(|n| n.as_str().starts_with("x-envoy-"))
        .cloned()
        .collect();
    for name in named {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
