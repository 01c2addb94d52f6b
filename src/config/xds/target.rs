//! Targets as gRPC writes them (<https://github.com/grpc/grpc/blob/master/doc/naming.md>).

use std::net::{IpAddr, SocketAddr};

use causeway_xds::resource::Address;

/// The port of a target that names none, as in gRPC.
const DEFAULT_PORT: u16 = 443;

/// Where a target is: `host:port`, `dns:host:port`, `dns:///host:port`, `ipv4:address:port`,
/// `ipv6:[address]:port`, `unix:PATH` or `unix:///PATH`. Port 443 when none is given.
///
/// # Errors
/// It is none of these; the reason.
pub fn endpoint(uri: &str) -> Result<Address, String> {
    if let Some(path) = uri.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(format!("{uri:?} names no socket"));
        }
        return Ok(Address::Pipe(path.into()));
    }
    if let Some(rest) = uri.strip_prefix("dns:") {
        let name = match rest.strip_prefix("//") {
            None => rest,
            // What is before the next slash is the server to ask for names.
            Some(rest) => rest
                .strip_prefix('/')
                .ok_or_else(|| format!("{uri:?}: a DNS server of its own is not supported"))?,
        };
        return host_and_port(name).ok_or_else(|| format!("{uri:?} is no host and port"));
    }
    for scheme in ["ipv4:", "ipv6:"] {
        if let Some(rest) = uri.strip_prefix(scheme) {
            let literal = host_and_port(rest).filter(|a| matches!(a, Address::Socket(_)));
            return literal.ok_or_else(|| format!("{uri:?} is not one address and port"));
        }
    }
    host_and_port(uri).ok_or_else(|| format!("{uri:?} is no host and port"))
}

fn host_and_port(text: &str) -> Option<Address> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Address::Socket(SocketAddr::new(ip, DEFAULT_PORT)));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            let port = match after {
                "" => DEFAULT_PORT,
                after => after.strip_prefix(':')?.parse().ok()?,
            };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, DEFAULT_PORT),
        },
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(Address::Socket(SocketAddr::new(ip, port)));
    }
    // RFC 1123 section 2.1, and the underscores that names inside of clusters have.
    let label = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    let named = !host.is_empty() && host.bytes().all(label);
    named.then(|| Address::Named {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_all_kinds() {
        for (uri, address) in [
            ("xds.example:18000", "xds.example:18000"),
            ("xds.example", "xds.example:443"),
            ("dns:///xds.example:1", "xds.example:1"),
            ("dns:xds.example:1", "xds.example:1"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("::1", "[::1]:443"),
            ("ipv4:10.0.0.1:80", "10.0.0.1:80"),
            ("ipv6:[::1]:80", "[::1]:80"),
            ("unix:./run/xds.sock", "./run/xds.sock"),
            ("unix:/run/xds.sock", "/run/xds.sock"),
            ("unix:///run/xds.sock", "/run/xds.sock"),
        ] {
            assert_eq!(endpoint(uri).map(|a| a.to_string()), Ok(address.into()));
        }
        for uri in [
            "",
            ":80",
            "unix:",
            "dns://8.8.8.8/xds.example:1",
            "xds:///x",
            "ipv4:xds.example:80",
            "http://xds.example:80",
            "a:b:c",
            "[::1",
            "host:99999",
        ] {
            assert!(endpoint(uri).is_err(), "{uri}");
        }
    }
}
