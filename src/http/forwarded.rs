//! Who the client is, and telling the upstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_xds::resource::address::contain;
use causeway_xds::resource::http_manager::{Detection, Forwarded, HttpManager, Trusted};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::names::Names;
use crate::net::own_address;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known about the connection a request came on; made once per connection.
#[derive(Debug)]
pub struct Peer {
    pub ip: IpAddr,
    pub tls: bool,
    /// `ip` as text.
    pub text: HeaderValue,
    /// What is added to `x-forwarded-for`: the address, or of a client on this machine the
    /// machine's own, as Envoy has it.
    pub hop: HeaderValue,
    /// There is no address.
    pub unix: bool,
    pub local_port: Option<u16>,
    pub scheme: HeaderValue,
}

impl Peer {
    pub fn new(ip: IpAddr, tls: bool) -> Self {
        let text = HeaderValue::try_from(ip.to_string())
            .expect("an address is made of visible characters");
        Self {
            ip,
            tls,
            hop: text.clone(),
            text,
            unix: false,
            local_port: None,
            scheme: HeaderValue::from_static(if tls { "https" } else { "http" }),
        }
    }

    /// What an upstream is told of a client on this machine is the machine's own address, if it
    /// is told addresses at all.
    #[must_use]
    pub fn telling(mut self, addresses: bool) -> Self {
        let here = [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        if addresses
            && here.contains(&self.ip)
            && let Some(own) = own_address()
            && let Ok(own) = HeaderValue::try_from(own.to_string())
        {
            self.hop = own;
        }
        self
    }
}

/// Who a request is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The peer's address, or the one that the last trusted hop saw.
    pub ip: IpAddr,
    /// It may steer retries and timeouts (`internal_address_config`).
    pub internal: bool,
}

/// A request that has to say who its client is does not, and is answered by this status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown(pub StatusCode);

/// Sets the fields that tell the upstream where a request came from, and returns who that is.
pub fn apply(
    headers: &mut HeaderMap,
    names: Names,
    rules: &Forwarded,
    peer: &Peer,
) -> Result<Client, Unknown> {
    let told_port = rules.append_port && headers.contains_key(&X_FORWARDED_PORT);
    let mut client = match &rules.detection {
        Some(detection) => detect(headers, names, detection, peer)?,
        None => by_hops(headers, names, rules, peer),
    };
    client.internal &= is_internal(rules, peer, client.ip);
    let trusted = !rules.use_remote_address || rules.xff_num_trusted_hops > 0;
    if rules.append_port
        && !(told_port && trusted)
        && let Some(port) = peer.local_port
    {
        headers.insert(X_FORWARDED_PORT, HeaderValue::from(port));
    }
    if client.internal {
        headers.insert(ENVOY_INTERNAL, HeaderValue::from_static("true"));
    } else {
        if names.internal {
            strip_internal(headers, rules.use_remote_address);
        }
        if rules.use_remote_address {
            let address = match client.ip == peer.ip {
                true => Ok(peer.text.clone()),
                false => HeaderValue::try_from(client.ip.to_string()),
            };
            // An address is made of visible characters.
            if let Ok(address) = address {
                headers.insert(EXTERNAL_ADDRESS, address);
            }
        }
    }
    Ok(client)
}

/// Of a request that says one address at most: what an internal proxy passes on has two.
fn is_internal(rules: &Forwarded, peer: &Peer, ip: IpAddr) -> bool {
    if peer.unix {
        return rules.internal.unix_sockets;
    }
    contain(&rules.internal.networks, ip)
}

/// [`Client::internal`] says whether the request may be internal at all.
fn by_hops(headers: &mut HeaderMap, names: Names, rules: &Forwarded, peer: &Peer) -> Client {
    let hops = rules.xff_num_trusted_hops as usize;
    let mut client = peer.ip;
    // With use_remote_address the peer itself is the first hop that we can vouch for.
    let wanted = if rules.use_remote_address {
        hops.checked_sub(1)
    } else {
        Some(hops)
    };
    let given = names.forwarded_for && headers.contains_key(&X_FORWARDED_FOR);
    let mut internal = if rules.use_remote_address {
        !given
    } else {
        given && nth_from_right(headers, 1).is_none()
    };
    if given && let Some(from_right) = wanted {
        match nth_from_right(headers, from_right) {
            Some(seen) => client = seen,
            None => internal &= rules.use_remote_address,
        }
    }
    if rules.use_remote_address && !rules.skip_xff_append {
        match rules.map_ipv4 {
            true => append_hop(headers, names, &mapped(&peer.hop)),
            false => append_hop(headers, names, &peer.hop),
        }
    }
    let told = names.forwarded_proto && headers.contains_key(&X_FORWARDED_PROTO);
    if !told || (rules.use_remote_address && hops == 0) {
        headers.insert(X_FORWARDED_PROTO, peer.scheme.clone());
    }
    Client {
        ip: client,
        internal,
    }
}

/// As [`by_hops`], by who is trusted and not by how the peer is reached.
fn detect(
    headers: &mut HeaderMap,
    names: Names,
    detection: &Detection,
    peer: &Peer,
) -> Result<Client, Unknown> {
    let mut may_be_internal = nth_from_right(headers, 1).is_none();
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
        Trusted::Header {
            name,
            internal,
            otherwise,
        } => {
            may_be_internal = *internal;
            let told = headers.get(name).and_then(|told| told.to_str().ok());
            let client = told.and_then(|told| told.parse().ok());
            match otherwise.and_then(|code| StatusCode::from_u16(code).ok()) {
                Some(status) if client.is_none() => return Err(Unknown(status)),
                _ => (client, true),
            }
        }
    };
    if detection.append {
        append_hop(headers, names, &peer.hop);
    }
    let told = names.forwarded_proto && headers.contains_key(&X_FORWARDED_PROTO);
    if !told || !believed {
        headers.insert(X_FORWARDED_PROTO, peer.scheme.clone());
    }
    Ok(Client {
        ip: client.unwrap_or(peer.ip),
        internal: client.is_some() && may_be_internal,
    })
}

/// Stands for a client whose address cannot be read.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

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

/// An address of IPv4 as one of IPv6.
fn mapped(hop: &HeaderValue) -> HeaderValue {
    let text = hop.to_str().ok();
    let four = text.and_then(|text| text.parse::<Ipv4Addr>().ok());
    let six = four.and_then(|four| four.to_ipv6_mapped().to_string().try_into().ok());
    six.unwrap_or_else(|| hop.clone())
}

fn append_hop(headers: &mut HeaderMap, names: Names, hop: &HeaderValue) {
    if !names.forwarded_for {
        headers.insert(X_FORWARDED_FOR, hop.clone());
        return;
    }
    let mut joined: Vec<u8> = Vec::new();
    for value in headers.get_all(&X_FORWARDED_FOR) {
        joined.extend_from_slice(value.as_bytes());
        joined.push(b',');
    }
    joined.extend_from_slice(hop.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// Gives the request an id unless it has one that may be kept: at the edge only an internal
/// client's may, or any if so configured.
pub fn request_id(headers: &mut HeaderMap, names: Names, manager: &HttpManager, client: Client) {
    if !manager.generate_request_id {
        return;
    }
    let edge = manager.forwarded.use_remote_address && !client.internal;
    let keep = !edge || manager.preserve_external_request_id;
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

/// What steers retries, timeouts and tracing; no client may say so that is not internal.
const STEERING: [&str; 15] = [
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-path",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
];

/// Removed as well where we are the first proxy.
const AT_THE_EDGE: [&str; 3] = [
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
];

/// Removes from a client's request what only an internal one may say.
fn strip_internal(headers: &mut HeaderMap, edge: bool) {
    for name in STEERING {
        headers.remove(name);
    }
    headers.remove("x-envoy-upstream-rq-timeout-ms");
    if edge {
        for name in AT_THE_EDGE {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests;
