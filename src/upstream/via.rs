//! What a connection to an endpoint is made for, where that makes a difference: the server name that
//! a request asks for, and the client whose connection it stands for. Nothing else may use it.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use causeway_xds::resource::cluster::ProxyProtocolVersion;
use http::header::{HOST, HeaderMap};
use rustls_pki_types::ServerName;

use super::Transport;

/// How long a connection that stands for one client's is kept for its next request: no other
/// client's can use it.
pub const SHORT_IDLE: Duration = Duration::from_secs(10);

/// See the module. Shared by all connections that are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Via {
    pub server_name: Option<ServerName<'static>>,
    /// Who the client is, and where it connected to.
    pub client: Option<(SocketAddr, SocketAddr)>,
}

impl Via {
    /// For a request; `None` where all connections to the endpoints are alike.
    pub fn of_request(
        transport: &Transport,
        headers: &HeaderMap,
        client: Option<(SocketAddr, SocketAddr)>,
    ) -> Option<Rc<Self>> {
        if !transport.varies() {
            return None;
        }
        let server_name = transport.auto_sni.as_ref().and_then(|rules| {
            let own = (!rules.header.is_empty()).then(|| headers.get(&rules.header));
            let value = own.flatten().or_else(|| headers.get(HOST))?;
            server_name(value.to_str().ok()?)
        });
        let client = client.filter(|_| transport.proxy_protocol.is_some());
        Some(Rc::new(Self {
            server_name,
            client,
        }))
    }

    /// For a connection that is relayed as bytes.
    pub fn of_connection(
        transport: &Transport,
        client: Option<(SocketAddr, SocketAddr)>,
    ) -> Option<Rc<Self>> {
        transport.proxy_protocol?;
        Some(Rc::new(Self {
            server_name: None,
            client,
        }))
    }

    /// The PROXY protocol header that says so. Without a client it is a connection of our own.
    pub fn header(&self, version: ProxyProtocolVersion) -> Vec<u8> {
        let client = self.client.map(|(source, destination)| {
            let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
            (from, to, source.port(), destination.port())
        });
        match version {
            ProxyProtocolVersion::V1 => match client {
                Some((from, to, source, destination)) if from.is_ipv4() == to.is_ipv4() => {
                    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                    format!("PROXY {family} {from} {to} {source} {destination}\r\n").into_bytes()
                }
                _ => b"PROXY UNKNOWN\r\n".to_vec(),
            },
            ProxyProtocolVersion::V2 => {
                let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
                match client {
                    Some((IpAddr::V4(from), IpAddr::V4(to), source, destination)) => {
                        header.extend([0x21, 0x11, 0, 12]);
                        header.extend(from.octets());
                        header.extend(to.octets());
                        header.extend(source.to_be_bytes());
                        header.extend(destination.to_be_bytes());
                    }
                    Some((IpAddr::V6(from), IpAddr::V6(to), source, destination)) => {
                        header.extend([0x21, 0x21, 0, 36]);
                        header.extend(from.octets());
                        header.extend(to.octets());
                        header.extend(source.to_be_bytes());
                        header.extend(destination.to_be_bytes());
                    }
                    _ => header.extend([0x20, 0, 0, 0]),
                }
                header
            }
        }
    }
}

/// The host of an authority.
fn server_name(authority: &str) -> Option<ServerName<'static>> {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host),
    };
    ServerName::try_from(host.to_ascii_lowercase()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(source: &str, destination: &str, version: ProxyProtocolVersion) -> Vec<u8> {
        let client = (source.parse().unwrap(), destination.parse().unwrap());
        let via = Via {
            client: Some(client),
            ..Via::default()
        };
        via.header(version)
    }

    #[test]
    fn a_header_says_whose_connection_it_is() {
        use ProxyProtocolVersion::{V1, V2};
        let one = |from, to| String::from_utf8(header(from, to, V1)).unwrap();
        assert_eq!(
            one("1.2.3.4:5", "6.7.8.9:10"),
            "PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n"
        );
        assert_eq!(
            one("[::ffff:1.2.3.4]:5", "6.7.8.9:10"),
            "PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n"
        );
        assert_eq!(one("[::1]:5", "[::2]:10"), "PROXY TCP6 ::1 ::2 5 10\r\n");
        assert_eq!(one("[::1]:5", "6.7.8.9:10"), "PROXY UNKNOWN\r\n");
        let two = header("1.2.3.4:5", "6.7.8.9:258", V2);
        assert_eq!(
            two[12..],
            [0x21, 0x11, 0, 12, 1, 2, 3, 4, 6, 7, 8, 9, 0, 5, 1, 2]
        );
        let six = header("[::1]:5", "[::2]:10", V2);
        assert_eq!((six.len(), &six[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
        assert_eq!(Via::default().header(V2)[12..], [0x20, 0, 0, 0]);
        assert_eq!(Via::default().header(V1), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn a_server_name_is_the_host_without_its_port() {
        let named = |text| server_name(text).map(|name| name.to_str().into_owned());
        assert_eq!(named("App.test:8443").as_deref(), Some("app.test"));
        assert_eq!(named("app.test").as_deref(), Some("app.test"));
        assert_eq!(named("[::1]:80").as_deref(), Some("::1"));
        assert_eq!(named("a b"), None);
        assert_eq!(named(""), None);
    }
}
