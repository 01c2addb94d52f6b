//! Addresses and networks.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::context::{At, fault, not_empty, refuse};
use crate::proto::core::address::Address as Kind;
use crate::proto::core::socket_address::PortSpecifier;
use crate::proto::core::{self, CidrRange, SocketAddress};
use crate::reject::{FieldPath, Invalid};

/// Where to listen or to connect (`envoy.config.core.v3.Address`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// A name to be resolved, and a port.
    Named { host: String, port: u16 },
    /// A Unix domain socket.
    Pipe(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Named { host, port } => write!(f, "{host}:{port}"),
            Self::Pipe(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    pub(crate) fn decode(message: core::Address) -> Result<Self, Invalid> {
        let core::Address { address } = message;
        match address {
            None => Err(fault("must be given")),
            Some(Kind::SocketAddress(socket)) => Self::socket(socket).at("socket_address"),
            Some(Kind::Pipe(core::Pipe { path, mode })) => {
                // Permissions of the socket file: leaving them to the umask would not be what the
                // configuration asks for.
                refuse_mode(mode).at("pipe")?;
                Ok(Self::Pipe(not_empty(path, "path").at("pipe")?.into()))
            }
            Some(Kind::EnvoyInternalAddress(_)) => {
                Err(Invalid::at("envoy_internal_address", "not supported yet"))
            }
        }
    }

    /// As [`Self::decode`], for the places where a name is not resolved.
    pub(crate) fn decode_literal(message: core::Address) -> Result<Self, Invalid> {
        match Self::decode(message)? {
            Self::Named { host, .. } => Err(Invalid::at(
                "socket_address.address",
                format!("{host:?} is not an IP address"),
            )),
            literal => Ok(literal),
        }
    }

    /// An IP address and a port.
    pub(crate) fn decode_socket(message: SocketAddress) -> Result<SocketAddr, Invalid> {
        match Self::socket(message)? {
            Self::Socket(address) => Ok(address),
            other => Err(Invalid::at(
                "address",
                format!("{:?} is not an IP address", other.host()),
            )),
        }
    }

    fn host(&self) -> String {
        match self {
            Self::Named { host, .. } => host.clone(),
            other => other.to_string(),
        }
    }

    fn socket(message: SocketAddress) -> Result<Self, Invalid> {
        let SocketAddress {
            protocol,
            address,
            resolver_name,
            ipv4_compat,
            network_namespace_filepath,
            port_specifier,
        } = message;
        // Anything but TCP (0) is UDP, or a value nobody has defined.
        refuse!(
            protocol,
            resolver_name,
            ipv4_compat,
            network_namespace_filepath
        );

        let host = not_empty(address, "address")?;
        let port = match port_specifier {
            None => return Err(Invalid::at("port_value", "must be given")),
            Some(PortSpecifier::NamedPort(_)) => {
                return Err(Invalid::at("named_port", "not supported yet"));
            }
            Some(PortSpecifier::PortValue(port)) => u16::try_from(port)
                .map_err(|_| Invalid::at("port_value", format!("{port} is above 65535")))?,
        };
        Ok(match host.parse::<IpAddr>() {
            Ok(ip) => Self::Socket(SocketAddr::new(ip, port)),
            Err(_) => Self::Named { host, port },
        })
    }
}

/// Networks in words: `10.0.0.0/8`, or an address for itself alone. Host bits may be set.
///
/// # Errors
/// One of them is neither; `field` is what the list is called.
pub fn networks(list: &[String], field: &str) -> Result<Vec<IpNet>, Invalid> {
    let parse = |text: &String| -> Option<IpNet> {
        let network = text.parse().ok();
        network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    };
    list.iter()
        .enumerate()
        .map(|(i, text)| {
            parse(text).ok_or_else(|| {
                let at = FieldPath::root().field(field).index(i);
                Invalid::new(at, format!("{text:?} is no address and no network"))
            })
        })
        .collect()
}

/// Whether an address is in one of the networks. An IPv4 address in IPv6 clothes is the same
/// address.
pub fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// A `CidrRange`, whose length is 0 when it is not given, as in Envoy.
pub(crate) fn network(message: CidrRange) -> Result<IpNet, Invalid> {
    let CidrRange {
        address_prefix,
        prefix_len,
    } = message;
    let address: IpAddr = address_prefix.parse().map_err(|_| {
        let reason = format!("{address_prefix:?} is not an IP address");
        Invalid::at("address_prefix", reason)
    })?;
    let length = prefix_len.map_or(0, |length| length.value);
    u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok())
        .ok_or_else(|| Invalid::at("prefix_len", format!("{length} is too long")))
}

fn refuse_mode(mode: u32) -> Result<(), Invalid> {
    refuse!(mode);
    Ok(())
}
