//! What a connection to an endpoint is made for, where that makes a difference: the server name that
//! a request asks for, and the client whose connection it stands for. Nothing else may use it.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use causeway_xds::resource::cluster::{ProxyProtocol, ProxyProtocolVersion};
use causeway_xds::resource::tlv::Tlv;
use http::header::{HOST, HeaderMap};
use rustls_pki_types::ServerName;

use super::Transport;
use crate::net::Source;

/// How long a connection that stands for one client's is kept for its next request: no other
/// client's can use it.
pub const SHORT_IDLE: Duration = Duration::from_secs(10);

/// See the module. Shared by all connections that are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Via {
    pub server_name: Option<ServerName<'static>>,
    /// Who the client is, and where it connected to.
    pub client: Option<(SocketAddr, SocketAddr)>,
    /// What its PROXY protocol header said besides, and may be passed on.
    pub tlvs: Vec<Tlv>,
    /// Where the connection comes from, if not from here.
    pub source: Option<Source>,
}

/// The client whose connection one stands for; without addresses it is one of our own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client<'c> {
    /// Who it is, and where it connected to.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    pub tlvs: &'c [Tlv],
}

impl Via {
    /// For a request; `None` where all connections to the endpoints are alike.
    pub fn of_request(
        transport: &Transport,
        headers: &HeaderMap,
        client: Client<'_>,
        source: Option<Source>,
    ) -> Option<Rc<Self>> {
        if !transport.varies && source.is_none() {
            return None;
        }
        let server_name = transport.auto_sni.as_ref().and_then(|rules| {
            let own = (!rules.header.is_empty()).then(|| headers.get(&rules.header));
            let value = own.flatten().or_else(|| headers.get(HOST))?;
            server_name(value.to_str().ok()?)
        });
        Some(Rc::new(Self {
            server_name,
            source,
            ..Self::standing_for(client, transport)
        }))
    }

    /// For a connection that is relayed as bytes.
    pub fn of_connection(
        transport: &Transport,
        client: Client<'_>,
        source: Option<Source>,
    ) -> Option<Rc<Self>> {
        if transport.proxy_protocol.is_none() && source.is_none() {
            return None;
        }
        Some(Rc::new(Self {
            source,
            ..Self::standing_for(client, transport)
        }))
    }

    /// How long a connection for this may be idle, where others may for `limit` (zero: for ever).
    pub fn patience(via: Option<&Rc<Self>>, limit: Duration) -> Duration {
        match via {
            Some(via) if via.source.is_some() => match limit {
                Duration::ZERO => SHORT_IDLE,
                limit => limit.min(SHORT_IDLE),
            },
            _ => limit,
        }
    }

    fn standing_for(client: Client<'_>, transport: &Transport) -> Self {
        let Some(rules) = &transport.proxy_protocol else {
            return Self::default();
        };
        let passed = client.tlvs.iter().filter(|tlv| rules.passes(tlv));
        Self {
            server_name: None,
            source: None,
            client: client.addresses,
            tlvs: passed.cloned().collect(),
        }
    }

    /// The PROXY protocol header that says so. Without a client it is a connection of our own.
    pub fn header(&self, rules: &ProxyProtocol) -> Vec<u8> {
        let client = self.client.map(|(source, destination)| {
            let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
            (from, to, source.port(), destination.port())
        });
        match rules.version {
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
                        header.extend([0x21, 0x11, 0, 0]);
                        header.extend(from.octets());
                        header.extend(to.octets());
                        header.extend(source.to_be_bytes());
                        header.extend(destination.to_be_bytes());
                    }
                    Some((IpAddr::V6(from), IpAddr::V6(to), source, destination)) => {
                        header.extend([0x21, 0x21, 0, 0]);
                        header.extend(from.octets());
                        header.extend(to.octets());
                        header.extend(source.to_be_bytes());
                        header.extend(destination.to_be_bytes());
                    }
                    _ => {
                        header.extend([0x20, 0, 0, 0]);
                        return header;
                    }
                }
                for tlv in self.tlvs.iter().chain(&rules.added) {
                    append(&mut header, tlv);
                }
                let length = u16::try_from(header.len() - HEAD).unwrap_or(u16::MAX);
                header[HEAD - 2..HEAD].copy_from_slice(&length.to_be_bytes());
                header
            }
        }
    }
}

/// Up to the addresses, in version 2. The last two bytes say how much follows.
const HEAD: usize = 16;

/// What the length of the header leaves no room for is left out.
fn append(header: &mut Vec<u8>, tlv: &Tlv) {
    let Ok(length) = u16::try_from(tlv.value.len()) else {
        return;
    };
    if header.len() - HEAD + 3 + tlv.value.len() <= usize::from(u16::MAX) {
        header.push(tlv.kind);
        header.extend(length.to_be_bytes());
        header.extend(&tlv.value);
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
    use causeway_xds::resource::tlv::PassTlvs;

    use super::*;

    fn rules(version: ProxyProtocolVersion) -> ProxyProtocol {
        ProxyProtocol {
            version,
            pass: PassTlvs::Only(vec![1, 2]),
            added: Vec::new(),
        }
    }

    #[test]
    fn extensions_follow_the_addresses_as_far_as_there_is_room() {
        let tlv = |kind: u8, value: &[u8]| Tlv {
            kind,
            value: value.to_vec(),
        };
        let mut rules = rules(ProxyProtocolVersion::V2);
        rules.added = vec![tlv(2, b"own"), tlv(9, b"x")];
        let passed = [tlv(1, b"one"), tlv(2, b"two"), tlv(3, b"three")];
        assert_eq!(
            passed.each_ref().map(|t| rules.passes(t)),
            [true, false, false]
        );
        let client = ("1.2.3.4:5".parse().unwrap(), "6.7.8.9:10".parse().unwrap());
        let mut via = Via {
            client: Some(client),
            tlvs: vec![tlv(1, b"one")],
            ..Via::default()
        };
        let header = via.header(&rules);
        assert_eq!(header[14..16], [0, 12 + 6 + 6 + 4]);
        assert_eq!(header[28..], *b"\x01\0\x03one\x02\0\x03own\x09\0\x01x");
        via.tlvs = vec![tlv(1, &[0; 65_535]), tlv(1, &[0; 65_500])];
        let header = via.header(&rules);
        assert_eq!(header.len(), HEAD + 12 + 65_503 + 6 + 4);
        via.client = None;
        assert_eq!(via.header(&rules)[12..], [0x20, 0, 0, 0]);
    }

    fn header(source: &str, destination: &str, version: ProxyProtocolVersion) -> Vec<u8> {
        let client = (source.parse().unwrap(), destination.parse().unwrap());
        let via = Via {
            client: Some(client),
            ..Via::default()
        };
        via.header(&rules(version))
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
        assert_eq!(Via::default().header(&rules(V2))[12..], [0x20, 0, 0, 0]);
        assert_eq!(Via::default().header(&rules(V1)), b"PROXY UNKNOWN\r\n");
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
