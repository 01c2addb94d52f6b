//! `ProxyProtocolUpstreamTransport`: message to typed.

use super::{ProxyProtocol, ProxyProtocolVersion};
use crate::proto::core::proxy_protocol_config::Version;
use crate::proto::core::{ProxyProtocolConfig, TransportSocket, transport_socket};
use crate::proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use crate::reject::Invalid;
use crate::resource::context::{At, each, enumeration, refuse, required, unpack};
use crate::resource::tlv::{PassTlvs, Tlv};
use crate::type_url::message_name;

const TYPE: &str =
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// What to say, and the transport socket inside; of another socket, that socket.
pub(super) fn unwrap(
    socket: Option<TransportSocket>,
) -> Result<(Option<ProxyProtocol>, Option<TransportSocket>, &'static str), Invalid> {
    const OUTER: &str = "transport_socket";
    const INNER: &str = "transport_socket.typed_config.transport_socket";
    let any = match &socket {
        Some(TransportSocket {
            config_type: Some(transport_socket::ConfigType::TypedConfig(any)),
            ..
        }) if message_name(&any.type_url) == TYPE => any,
        _ => return Ok((None, socket, OUTER)),
    };
    let decoded = unpack(any).and_then(decode);
    let (spoken, inner) = decoded.at("typed_config").at(OUTER)?;
    Ok((Some(spoken), Some(inner), INNER))
}

fn decode(
    message: ProxyProtocolUpstreamTransport,
) -> Result<(ProxyProtocol, TransportSocket), Invalid> {
    let ProxyProtocolUpstreamTransport {
        config,
        transport_socket,
        allow_unspecified_address,
        // Connections are for one client's anyway.
        tlv_as_pool_key: _,
    } = message;
    refuse!(allow_unspecified_address);
    let ProxyProtocolConfig {
        version,
        pass_through_tlvs,
        added_tlvs,
    } = config.unwrap_or_default();
    let check = || -> Result<ProxyProtocol, Invalid> {
        Ok(ProxyProtocol {
            version: match enumeration(version, "version")? {
                Version::V1 => ProxyProtocolVersion::V1,
                Version::V2 => ProxyProtocolVersion::V2,
            },
            pass: PassTlvs::decode(pass_through_tlvs).at("pass_through_tlvs")?,
            added: each("added_tlvs", added_tlvs, Tlv::decode)?,
        })
    };
    Ok((
        check().at("config")?,
        required(transport_socket, "transport_socket")?,
    ))
}
