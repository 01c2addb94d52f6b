//! Addresses and networks.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::context::{At, fault, not_empty, refuse};
use crate::proto::core::address::Address as Kind;
use crate::proto::core::socket_address::PortSpecifier;
use crate::proto::core::{self, SocketAddress};
use crate::reject::Invalid;

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

fn refuse_mode(mode: u32) -> Result<(), Invalid> {
    refuse!(mode);
    Ok(())
}
