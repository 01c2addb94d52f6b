//! Listener and its filter chains: message to typed.

use super::{FilterChain, Listener, filters};
use crate::proto;
use crate::proto::listener::{self, FilterChainMatch, ListenerFilter, listener_filter};
use crate::reject::Invalid;
use crate::resource::address::Address;
use crate::resource::context::{
    At, Context, accept, duration, each, flag, refuse, refuse_true, required, unknown_type,
};
use crate::resource::tls::DownstreamTls;
use crate::type_url::message_name;

/// Accepted without effect: the accept path looks at the first bytes whenever a chain asks for it.
const INSPECTORS: [&str; 2] = [
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
];

impl Listener {
    pub(crate) fn decode(message: proto::Listener, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let proto::Listener {
            name,
            address,
            additional_addresses,
            stat_prefix,
            stats_matcher,
            filter_chains,
            fcds_config,
            filter_chain_matcher,
            use_original_dst,
            default_filter_chain,
            per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout,
            metadata,
            deprecated_v1,
            drain_type,
            listener_filters,
            listener_filters_timeout,
            continue_on_listener_filters_timeout,
            transparent,
            freebind,
            socket_options,
            tcp_fast_open_queue_length,
            traffic_direction,
            udp_listener_config,
            api_listener,
            connection_balance_config,
            reuse_port,
            enable_reuse_port,
            access_log,
            tcp_backlog_size,
            max_connections_to_accept_per_socket_event,
            bind_to_port,
            enable_mptcp,
            ignore_global_conn_limit,
            bypass_overload_manager,
            tcp_keepalive,
            listener_specifier,
        } = message;
        refuse!(
            additional_addresses,
            fcds_config,
            filter_chain_matcher,
            per_connection_buffer_high_watermark_timeout,
            deprecated_v1,
            udp_listener_config,
            api_listener,
            listener_specifier,
        );
        refuse_true!(use_original_dst, transparent, freebind);
        if !flag(bind_to_port, true) {
            return Err(Invalid::at("bind_to_port", "not supported yet"));
        }
        duration(listener_filters_timeout, "listener_filters_timeout")?;
        accept!(ctx, "Listener":
            stats_matcher,
            per_connection_buffer_limit_bytes,
            metadata,
            drain_type,
            listener_filters_timeout,
            continue_on_listener_filters_timeout,
            socket_options,
            tcp_fast_open_queue_length,
            traffic_direction,
            connection_balance_config,
            reuse_port,
            enable_reuse_port,
            access_log,
            tcp_backlog_size,
            max_connections_to_accept_per_socket_event,
            enable_mptcp,
            ignore_global_conn_limit,
            bypass_overload_manager,
            tcp_keepalive,
        );
        each("listener_filters", listener_filters, |f| {
            check_listener_filter(f, ctx)
        })?;

        let address = Address::decode_literal(required(address, "address")?).at("address")?;
        let name = match name.is_empty() {
            true => address.to_string(),
            false => name,
        };
        if filter_chains.is_empty() && default_filter_chain.is_none() {
            return Err(Invalid::at("filter_chains", "must not be empty"));
        }
        let filter_chains = each("filter_chains", filter_chains, |c| {
            FilterChain::decode(c, ctx)
        })?;
        if filter_chains.len() > 1 {
            // Without a criterion every chain matches everything.
            return Err(Invalid::at(
                "filter_chains[1].filter_chain_match",
                "is the same as that of filter_chains[0]",
            ));
        }
        Ok(Self {
            name,
            stat_prefix,
            address,
            filter_chains,
            default_filter_chain: default_filter_chain
                .map(|chain| FilterChain::decode_default(chain, ctx))
                .transpose()
                .at("default_filter_chain")?,
        })
    }
}

fn check_listener_filter(message: ListenerFilter, ctx: &Context<'_>) -> Result<(), Invalid> {
    let ListenerFilter {
        name: _,
        filter_disabled,
        config_type,
    } = message;
    let typed_config = match required(config_type, "typed_config")? {
        listener_filter::ConfigType::TypedConfig(any) => any,
        listener_filter::ConfigType::ConfigDiscovery(_) => {
            return Err(Invalid::at("config_discovery", "not supported yet"));
        }
    };
    if !INSPECTORS.contains(&message_name(&typed_config.type_url)) {
        return Err(unknown_type(&typed_config.type_url)).at("typed_config");
    }
    accept!(ctx, "ListenerFilter": filter_disabled, typed_config);
    Ok(())
}

/// Every criterion is refused by its own name; a match without one is as good as none.
fn check_match(message: Option<FilterChainMatch>) -> Result<(), Invalid> {
    let Some(FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    }) = message
    else {
        return Ok(());
    };
    refuse!(
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    );
    Ok(())
}

impl FilterChain {
    fn decode(message: listener::FilterChain, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that it can be refused")]
        let listener::FilterChain {
            filter_chain_match,
            filters,
            use_proxy_proto,
            metadata,
            transport_socket,
            transport_socket_connect_timeout,
            name,
        } = message;
        check_match(filter_chain_match).at("filter_chain_match")?;
        refuse_true!(use_proxy_proto);
        accept!(ctx, "FilterChain": metadata, name);

        let timeout = duration(
            transport_socket_connect_timeout,
            "transport_socket_connect_timeout",
        )?;
        let mut tls = DownstreamTls::from_socket(transport_socket, ctx).at("transport_socket")?;
        if let Some(tls) = &mut tls {
            // Zero is "none" for Envoy, as for all its timeouts.
            tls.handshake_timeout = timeout.filter(|timeout| !timeout.is_zero());
        }
        Ok(Self {
            tls,
            filter: filters::decode(filters, ctx)?,
        })
    }

    /// The chain for connections that no other chain takes; a match of its own is not looked at.
    fn decode_default(
        mut message: listener::FilterChain,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let filter_chain_match = message.filter_chain_match.take();
        accept!(ctx, "Listener.default_filter_chain": filter_chain_match);
        Self::decode(message, ctx)
    }
}
