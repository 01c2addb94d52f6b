//! Listener and its filter chains: message to typed.

use std::net::SocketAddr;
use std::time::Duration;

use super::chain_match::{ChainMatch, ChainMatcher};
use super::{FilterChain, Listener, ListenerFilter, ListenerFilterKind, filters};
use crate::proto;
use crate::proto::listener;
use crate::reject::Invalid;
use crate::resource::address::Address;
use crate::resource::context::{
    At, Context, accept, duration, each, flag, refuse, refuse_true, required,
};
use crate::resource::tls::DownstreamTls;

/// `listener_filters_timeout` when it is not given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

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
            fcds_config,
            filter_chain_matcher,
            per_connection_buffer_high_watermark_timeout,
            deprecated_v1,
            udp_listener_config,
            listener_specifier,
        );
        let use_original_dst = flag(use_original_dst, false);
        let timeout = duration(listener_filters_timeout, "listener_filters_timeout")?;
        accept!(ctx, "Listener":
            stats_matcher,
            per_connection_buffer_limit_bytes,
            metadata,
            drain_type,
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
            bypass_overload_manager,
            tcp_keepalive,
            api_listener,
        );
        let mut listener_filters = each("listener_filters", listener_filters, |filter| {
            ListenerFilter::decode(filter, ctx)
        })?;
        let mut kinds = listener_filters.iter().map(|filter| &filter.kind);
        if use_original_dst && !kinds.any(|kind| *kind == ListenerFilterKind::OriginalDst) {
            listener_filters.push(ListenerFilter {
                kind: ListenerFilterKind::OriginalDst,
                disabled: None,
            });
        }

        // Whoever embeds Envoy calls it, over no socket; whatever else is said of it does not count.
        let is_api = api_listener.is_some();
        let address = match is_api {
            true => Address::Socket(SocketAddr::from(([0; 4], 0))),
            false => Address::decode_literal(required(address, "address")?).at("address")?,
        };
        let more_addresses = each("additional_addresses", additional_addresses, |more| {
            additional(more, ctx)
        })?;
        if !more_addresses.is_empty() && matches!(address, Address::Pipe(_)) {
            let reason = "a Unix socket can only be the one address of a listener";
            return Err(Invalid::at("additional_addresses", reason));
        }
        let mut fixed = more_addresses.clone();
        if let Address::Socket(first) = address {
            fixed.push(first);
        }
        fixed.sort();
        if fixed.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Invalid::at(
                "additional_addresses",
                "an address is given twice",
            ));
        }
        let name = match name.is_empty() {
            true => address.to_string(),
            false => name,
        };
        if filter_chains.is_empty() && default_filter_chain.is_none() && !is_api {
            return Err(Invalid::at("filter_chains", "must not be empty"));
        }
        let mut matches = Vec::with_capacity(filter_chains.len());
        let filter_chains = each("filter_chains", filter_chains, |mut chain| {
            let criteria = ChainMatch::decode(chain.filter_chain_match.take());
            matches.push(criteria.at("filter_chain_match")?);
            FilterChain::decode(chain, ctx)
        })?;
        let default_filter_chain = default_filter_chain
            .map(|chain| FilterChain::decode_default(chain, ctx))
            .transpose()
            .at("default_filter_chain")?;
        let mut all = filter_chains.iter().chain(&default_filter_chain);
        if matches!(address, Address::Pipe(_)) && all.any(|chain| chain.tls.is_some()) {
            let reason = "TLS over a Unix socket is not supported";
            return Err(Invalid::at("address.pipe", reason));
        }
        Ok(Self {
            name,
            stat_prefix,
            address,
            more_addresses,
            transparent: flag(transparent, false),
            freebind: flag(freebind, false),
            bind_to_port: flag(bind_to_port, true) && !is_api,
            use_original_dst,
            counts_globally: !ignore_global_conn_limit,
            listener_filters,
            listener_filters_timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
            continue_on_listener_filters_timeout,
            filter_chains,
            matcher: ChainMatcher::new(&matches)?,
            default_filter_chain,
            filter_secrets: Vec::new(),
        })
    }
}

fn additional(
    message: listener::AdditionalAddress,
    ctx: &Context<'_>,
) -> Result<SocketAddr, Invalid> {
    let listener::AdditionalAddress {
        address,
        socket_options,
        tcp_keepalive,
    } = message;
    accept!(ctx, "AdditionalAddress": socket_options, tcp_keepalive);
    match Address::decode_literal(required(address, "address")?).at("address")? {
        Address::Socket(address) => Ok(address),
        _ => {
            let reason = "a Unix socket can only be the one address of a listener";
            Err(Invalid::at("address", reason))
        }
    }
}

impl FilterChain {
    fn decode(message: listener::FilterChain, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that it can be refused")]
        let listener::FilterChain {
            // Decoded by the listener, which puts the chains in order.
            filter_chain_match: _,
            filters,
            use_proxy_proto,
            metadata,
            transport_socket,
            transport_socket_connect_timeout,
            name,
        } = message;
        refuse_true!(use_proxy_proto);
        accept!(ctx, "FilterChain": metadata);

        let timeout = duration(
            transport_socket_connect_timeout,
            "transport_socket_connect_timeout",
        )?;
        let mut tls = DownstreamTls::from_socket(transport_socket, ctx).at("transport_socket")?;
        if let Some(tls) = &mut tls {
            // Zero is "none" for Envoy, as for all its timeouts.
            tls.handshake_timeout = timeout.filter(|timeout| !timeout.is_zero());
        }
        let (before, filter) = filters::decode(filters, ctx)?;
        Ok(Self {
            name,
            tls,
            before,
            filter,
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
