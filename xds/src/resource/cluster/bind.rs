//! `upstream_bind_config`: where connections to endpoints come from.

use std::net::SocketAddr;

use crate::proto::core::{BindConfig, ExtraSourceAddress};
use crate::reject::Invalid;
use crate::resource::address::Address;
use crate::resource::context::{At, each, flag, refuse, required};

/// `envoy.config.core.v3.BindConfig`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceAddresses {
    /// At most one of each family. Empty: the system chooses.
    pub addresses: Vec<SocketAddr>,
    /// They need not be those of this machine (`IP_FREEBIND`).
    pub freebind: bool,
}

/// At most one address of each family, the first one counts
/// where none is of the endpoint's. Empty: the system chooses.
pub(super) fn decode(message: BindConfig) -> Result<SourceAddresses, Invalid> {
    #[allow(deprecated, reason = "named so that it can be refused")]
    let BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = message;
    refuse!(
        socket_options,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    );
    let freebind = flag(freebind, false);
    let Some(first) = source_address else {
        refuse!(extra_source_addresses);
        return Ok(SourceAddresses::default());
    };
    let mut all = vec![Address::decode_socket(first).at("source_address")?];
    let extra = each("extra_source_addresses", extra_source_addresses, |extra| {
        let ExtraSourceAddress {
            address: source,
            socket_options,
        } = extra;
        refuse!(socket_options);
        Address::decode_socket(required(source, "address")?).at("address")
    })?;
    if extra.len() > 1 {
        return Err(Invalid::at(
            "extra_source_addresses",
            "only one is supported",
        ));
    }
    if extra.iter().any(|one| one.is_ipv4() == all[0].is_ipv4()) {
        return Err(Invalid::at(
            "extra_source_addresses",
            "must be of the other family than source_address",
        ));
    }
    all.extend(extra);
    Ok(SourceAddresses {
        addresses: all,
        freebind,
    })
}
