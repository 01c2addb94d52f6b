//! The fields that are accepted without having an effect.

// Reasons of many fields.
const ARRIVING: &str = "about requests that arrive, not requests that are sent";
const BROKEN: &str = "a message that breaks the protocol always closes the connection or resets the stream, as its protocol says";
const FLOODS: &str = "the HTTP/2 implementation has flood limits of its own";
const FORMATS: &str = "has a meaning for formats only, and the value is a plain text as long as the runtime does not say otherwise";
const HPACK: &str = "header compression is not adjustable";
const KERNEL: &str = "the kernel spreads connections over the threads";
const LOGS: &str = "for logs of a kind that is not offered";
const LOG_ENDS: &str = "log entries are written when a stream or connection ends";
const METADATA: &str = "metadata has no reader";
const NO_NAMES: &str = "without effect for clusters that look no names up";
const STATISTICS: &str = "statistics have their own fixed set";
const SYSTEM: &str = "the operating system's setting is used";
const TRACING: &str = "tracing is not offered";
const UDP: &str = "each question over UDP has a socket of its own";

/// Every accepted-and-ignored field: `Message.field`, and why it can be ignored. They tune or
/// observe; a field that would change what a request means is refused instead.
///
/// Options that mean different things for a listener and for a cluster are listed as
/// `Cluster.<message>.<field>` for the latter.
pub const IGNORED: &[(&str, &str)] = &[
    ("AdditionalAddress.socket_options", SYSTEM),
    ("AdditionalAddress.tcp_keepalive", SYSTEM),
    (
        "ApiConfigSource.rate_limit_settings",
        "a request is sent for each answer and each change of what is wanted, not more",
    ),
    ("CaresDnsResolverConfig.max_udp_channel_duration", UDP),
    (
        "CaresDnsResolverConfig.qcache_max_ttl",
        "answers are not kept: each lookup asks",
    ),
    ("CaresDnsResolverConfig.reinit_channel_on_timeout", UDP),
    ("CaresDnsResolverConfig.udp_max_queries", UDP),
    (
        "CircuitBreakers.Thresholds.max_connection_pools",
        "the number of pools follows from the number of threads",
    ),
    ("Cluster.Http1ProtocolOptions.accept_http_10", ARRIVING),
    ("Cluster.Http1ProtocolOptions.allow_absolute_url", ARRIVING),
    (
        "Cluster.Http1ProtocolOptions.allow_custom_methods",
        ARRIVING,
    ),
    (
        "Cluster.Http1ProtocolOptions.default_host_for_http_10",
        ARRIVING,
    ),
    (
        "Cluster.Http1ProtocolOptions.enable_trailers",
        "trailers that are announced are always passed on",
    ),
    (
        "Cluster.Http1ProtocolOptions.override_stream_error_on_invalid_http_message",
        BROKEN,
    ),
    (
        "Cluster.Http1ProtocolOptions.use_balsa_parser",
        "there is one parser",
    ),
    (
        "Cluster.Http2ProtocolOptions.max_concurrent_streams",
        "the limit that the endpoint announces holds",
    ),
    (
        "Cluster.Http2ProtocolOptions.override_stream_error_on_invalid_http_message",
        BROKEN,
    ),
    (
        "Cluster.Http2ProtocolOptions.stream_error_on_invalid_http_messaging",
        BROKEN,
    ),
    (
        "Cluster.HttpProtocolOptions.headers_with_underscores_action",
        "without effect on responses, in Envoy too",
    ),
    (
        "Cluster.HttpProtocolOptions.max_connection_duration_jitter",
        "without effect on connections to endpoints, in Envoy too",
    ),
    (
        "Cluster.HttpProtocolOptions.max_headers_count",
        "the limits of the HTTP client are fixed",
    ),
    (
        "Cluster.cleanup_interval",
        "for clusters of type ORIGINAL_DST only",
    ),
    ("Cluster.dns_failure_refresh_rate", NO_NAMES),
    ("Cluster.dns_jitter", NO_NAMES),
    ("Cluster.dns_lookup_family", NO_NAMES),
    ("Cluster.dns_refresh_rate", NO_NAMES),
    ("Cluster.dns_resolution_config", NO_NAMES),
    ("Cluster.dns_resolvers", NO_NAMES),
    (
        "Cluster.ignore_health_on_host_removal",
        "endpoints that are no longer named go at once, healthy or not",
    ),
    (
        "Cluster.lrs_report_endpoint_metrics",
        "reports of load have no metrics of the endpoints' own",
    ),
    ("Cluster.metadata", "typed metadata has no reader"),
    (
        "Cluster.per_connection_buffer_limit_bytes",
        "back-pressure uses a buffer size of its own",
    ),
    ("Cluster.respect_dns_ttl", NO_NAMES),
    ("Cluster.stats_matcher", STATISTICS),
    ("Cluster.track_cluster_stats", STATISTICS),
    ("Cluster.track_timeout_budgets", STATISTICS),
    ("Cluster.typed_dns_resolver_config", NO_NAMES),
    ("Cluster.use_tcp_for_dns_lookups", NO_NAMES),
    (
        "Cluster.wait_for_warm_on_init",
        "warming is the same for every cluster",
    ),
    (
        "CommonLbConfig.ignore_new_hosts_until_first_hc",
        "an endpoint that was not checked yet counts as unhealthy",
    ),
    (
        "CommonTlsContext.key_log",
        "session keys are never written out",
    ),
    (
        "DownstreamTlsContext.full_scan_certs_on_sni_mismatch",
        "a certificate is always chosen among all of them",
    ),
    (
        "DownstreamTlsContext.prefer_client_ciphers",
        "the set of ciphers is fixed and all are strong",
    ),
    (
        "DownstreamTlsContext.session_timeout",
        "resumption is that of the TLS library",
    ),
    ("Endpoint.observability_name", STATISTICS),
    (
        "EnvoyGrpc.retry_policy",
        "streams are opened again with a back-off of their own",
    ),
    ("EnvoyGrpc.skip_envoy_headers", "no such headers are sent"),
    ("ExtAuthz.emit_filter_state_stats", LOGS),
    ("ExtAuthz.filter_metadata", LOGS),
    ("ExternalProcessor.filter_metadata", LOGS),
    (
        "Filter.observing_filter",
        "network filters that only observe: Istio's statistics",
    ),
    ("FilterChain.metadata", METADATA),
    (
        "GetAddrInfoDnsResolverConfig.num_resolver_threads",
        "lookups run side by side on threads of the runtime",
    ),
    (
        "GetAddrInfoDnsResolverConfig.num_retries",
        "a lookup that failed is repeated as dns_failure_refresh_rate says",
    ),
    (
        "GoogleGrpc.channel_args",
        "arguments of another gRPC implementation",
    ),
    (
        "GoogleGrpc.per_stream_buffer_limit_bytes",
        "what is sent to a management server is small",
    ),
    ("GoogleGrpc.stat_prefix", STATISTICS),
    (
        "GrpcService.retry_policy",
        "streams are opened again with a back-off of their own",
    ),
    ("GrpcService.timeout", "streams have no end"),
    (
        "GrpcStats.emit_filter_state",
        "what is counted can be read from the statistics",
    ),
    (
        "Http1ProtocolOptions.enable_trailers",
        "trailers that are announced are always passed on",
    ),
    (
        "Http1ProtocolOptions.override_stream_error_on_invalid_http_message",
        BROKEN,
    ),
    (
        "Http1ProtocolOptions.use_balsa_parser",
        "there is one parser",
    ),
    ("Http2ProtocolOptions.enable_huffman_encoding", HPACK),
    ("Http2ProtocolOptions.hpack_table_size", HPACK),
    (
        "Http2ProtocolOptions.max_consecutive_inbound_frames_with_empty_payload",
        FLOODS,
    ),
    ("Http2ProtocolOptions.max_header_field_size_kb", HPACK),
    (
        "Http2ProtocolOptions.max_inbound_priority_frames_per_stream",
        FLOODS,
    ),
    (
        "Http2ProtocolOptions.max_inbound_window_update_frames_per_data_frame_sent",
        FLOODS,
    ),
    (
        "Http2ProtocolOptions.max_metadata_size",
        "metadata frames are refused where they would be switched on",
    ),
    ("Http2ProtocolOptions.max_outbound_control_frames", FLOODS),
    ("Http2ProtocolOptions.max_outbound_frames", FLOODS),
    ("Http2ProtocolOptions.stream_reset_burst", FLOODS),
    ("Http2ProtocolOptions.stream_reset_rate", FLOODS),
    (
        "Http2ProtocolOptions.use_oghttp2_codec",
        "there is one codec",
    ),
    ("HttpConnectionManager.access_log_flush_interval", LOG_ENDS),
    ("HttpConnectionManager.access_log_options", LOG_ENDS),
    (
        "HttpConnectionManager.add_proxy_protocol_connection_state",
        "filters do not see the PROXY protocol",
    ),
    (
        "HttpConnectionManager.append_local_overload",
        "there is no overload manager whose state could be told",
    ),
    (
        "HttpConnectionManager.drain_timeout_jitter",
        "connections drain at their own time anyway",
    ),
    (
        "HttpConnectionManager.flush_access_log_on_new_request",
        LOG_ENDS,
    ),
    (
        "HttpConnectionManager.http1_safe_max_connection_duration",
        "no connection is ended by max_connection_duration while a request is on it",
    ),
    (
        "HttpConnectionManager.http3_protocol_options",
        "HTTP/3 is not offered",
    ),
    (
        "HttpConnectionManager.stream_flush_timeout",
        "the stream idle timeout covers it",
    ),
    ("HttpConnectionManager.tracing", TRACING),
    (
        "HttpFilter.observing_filter",
        "filters that only observe: Istio's statistics, tap",
    ),
    (
        "HttpFilter.unknown_optional_filter",
        "an unknown filter with is_optional is left out, as it asks",
    ),
    (
        "HttpProtocolOptions.max_response_headers_kb",
        "a limit of clusters, not of listeners",
    ),
    (
        "JsonFormatOptions.sort_properties",
        "the keys of a JSON format are always sorted",
    ),
    ("JwtProvider.jwt_cache_config", "each token is verified"),
    (
        "KeepaliveSettings.connection_idle_interval",
        "pings are sent at their interval, whether the connection was idle or not",
    ),
    (
        "KeepaliveSettings.interval_jitter",
        "connections are not opened at one moment, so that their pings are spread already",
    ),
    ("LbEndpoint.metadata", "typed metadata has no reader"),
    (
        "Listener.access_log",
        "connections that no chain takes are counted, not logged",
    ),
    (
        "Listener.api_listener",
        "it is for who embeds Envoy and calls it over no socket, so that nobody comes by it here",
    ),
    (
        "Listener.bypass_overload_manager",
        "there is no overload manager",
    ),
    ("Listener.connection_balance_config", KERNEL),
    (
        "Listener.default_filter_chain.filter_chain_match",
        "without effect on the default chain, in Envoy too",
    ),
    (
        "Listener.drain_type",
        "every listener drains when it changes and when the program stops",
    ),
    ("Listener.enable_mptcp", SYSTEM),
    ("Listener.enable_reuse_port", KERNEL),
    (
        "Listener.max_connections_to_accept_per_socket_event",
        KERNEL,
    ),
    ("Listener.metadata", METADATA),
    (
        "Listener.per_connection_buffer_limit_bytes",
        "back-pressure uses a buffer size of its own",
    ),
    ("Listener.reuse_port", KERNEL),
    ("Listener.socket_options", SYSTEM),
    ("Listener.stats_matcher", STATISTICS),
    ("Listener.tcp_backlog_size", SYSTEM),
    ("Listener.tcp_fast_open_queue_length", SYSTEM),
    ("Listener.tcp_keepalive", SYSTEM),
    (
        "Listener.traffic_direction",
        "only a label, and a filter for draining by direction",
    ),
    (
        "LocalityLbEndpoints.metadata",
        "all but envoy.transport_socket_match: the rest has no reader",
    ),
    (
        "LocalityLbEndpoints.proximity",
        "without effect in Envoy too",
    ),
    (
        "OAuth2Config.use_access_token_expiry_for_id_token_cookie",
        "the cookie of the ID token always lasts as long as that of the access token",
    ),
    (
        "PathConfigSource.poll_interval",
        "the file system reports changes",
    ),
    ("RateLimit.Action.GenericKey.default_value", FORMATS),
    ("RateLimit.Action.HeaderValueMatch.default_value", FORMATS),
    (
        "RateLimit.Action.QueryParameterValueMatch.default_value",
        FORMATS,
    ),
    ("RateLimit.Action.RemoteAddressMatch.default_value", FORMATS),
    ("RegexMatcher.engine_type", "there is one engine"),
    (
        "RequestIDExtension.typed_config",
        "settings of the UUID extension are about tracing",
    ),
    ("RequestMirrorPolicy.trace_sampled", TRACING),
    ("Route.decorator", TRACING),
    ("Route.stat_prefix", STATISTICS),
    ("Route.tracing", TRACING),
    (
        "RouteAction.early_data_policy",
        "TLS early data is not offered",
    ),
    ("RouteAction.flush_timeout", "the idle timeout covers it"),
    (
        "RouteAction.max_internal_redirects",
        "`internal_redirect_policy` has its own",
    ),
    ("RouteConfiguration.metadata", METADATA),
    (
        "RouteConfiguration.validate_clusters",
        "a route to an unknown cluster answers with its cluster_not_found_response_code",
    ),
    ("Router.start_child_span", TRACING),
    (
        "RuntimeFilter.runtime_key",
        "there is no runtime that could change the share",
    ),
    (
        "RuntimeFilter.use_independent_randomness",
        "the share is always drawn independently",
    ),
    (
        "RuntimeUInt32.runtime_key",
        "there is no runtime that could change the value",
    ),
    (
        "TcpProxy.check_drain_close",
        "draining is the same for every connection",
    ),
    (
        "TlsInspector.initial_read_buffer_size",
        "the buffer grows with what arrives",
    ),
    (
        "TlsParameters.cipher_suites",
        "those without forward secrecy or with CBC, as long as another one is named: they are not spoken",
    ),
    (
        "UpstreamConnectionOptions.set_local_interface_name_on_upstream_connections",
        "connections do not report the local interface",
    ),
    (
        "UpstreamTlsContext.allow_renegotiation",
        "TLS 1.2 renegotiation is never done",
    ),
    (
        "UpstreamTlsContext.enforce_rsa_key_usage",
        "key usage is always enforced",
    ),
    (
        "UpstreamTlsContext.max_session_keys",
        "resumption is that of the TLS library",
    ),
    (
        "UpstreamTlsContext.sni",
        "an address, or a name that ends with a number, which cannot be sent; a name is only taken where something else says whose the certificate has to be",
    ),
    ("VirtualHost.metadata", METADATA),
    ("VirtualHost.virtual_clusters", STATISTICS),
    (
        "WatchedDirectory.watch_modify",
        "changes inside a watched directory are always seen",
    ),
    (
        "WeightedCluster.total_weight",
        "the sum of the weights counts, as in Envoy",
    ),
];

/// Whether a field is in the table. For the compiler, which asks at every use of `accept!`.
pub(crate) const fn is_listed(field: &str) -> bool {
    let mut i = 0;
    while i < IGNORED.len() {
        if same(IGNORED[i].0.as_bytes(), field.as_bytes()) {
            return true;
        }
        i += 1;
    }
    false
}

/// `==` of slices is not `const`.
const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Every `Message.field` that an `accept!` in this directory names.
    fn accepted_in(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                accepted_in(&path, found);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for call in source.split("accept!(ctx, \"").skip(1) {
                let Some((message, rest)) = call.split_once("\":") else {
                    continue;
                };
                let fields = rest.split(')').next().unwrap_or_default();
                let fields = fields
                    .split(',')
                    .map(str::trim)
                    .filter(|field| !field.is_empty());
                found.extend(fields.map(|field| format!("{message}.{field}")));
            }
        }
    }

    /// The compiler checks that what is ignored is in the table; this is the other direction.
    #[test]
    fn the_table_is_what_the_decoders_ignore() {
        let mut found = BTreeSet::new();
        accepted_in(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/resource"),
            &mut found,
        );
        // The loop above finds itself.
        found.retain(|field| !field.contains('"') && !field.contains('\\'));
        let listed: BTreeSet<String> = IGNORED.iter().map(|(field, _)| field.to_string()).collect();
        assert_eq!(found, listed);
        assert_eq!(listed.len(), IGNORED.len(), "a field is listed twice");
        assert!(IGNORED.is_sorted());
    }
}
