//! Small resources that are accepted. Every message in them has its fields tried, so that a message
//! that is to be in the table has to be in one of these.

mod filters;

use serde_json::{Value, json};

use crate::type_url::{PREFIX, ResourceType};

fn any(message: &str, mut fields: Value) -> Value {
    fields["@type"] = format!("{PREFIX}{message}").into();
    fields
}

fn address() -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": 1}})
}

/// With the one field that is looked at, when the others mean less than they do without it.
pub(super) fn all() -> Vec<(Value, Option<&'static str>)> {
    let of = |kind: ResourceType, fields: Value| (any(kind.message_name(), fields), None);
    let balanced = any(ResourceType::Cluster.message_name(), cluster_with_policy());
    vec![
        of(ResourceType::Listener, http_listener()),
        of(ResourceType::Listener, tcp_listener()),
        of(ResourceType::Listener, filters::http()),
        of(ResourceType::Listener, filters::asking()),
        of(ResourceType::Listener, filters::network()),
        of(ResourceType::RouteConfiguration, routes()),
        of(ResourceType::Cluster, cluster_by_discovery()),
        of(ResourceType::Cluster, cluster_in_place()),
        of(ResourceType::Cluster, cluster_by_name()),
        of(ResourceType::Cluster, cluster_by_type()),
        of(ResourceType::LoadAssignment, endpoints()),
        of(ResourceType::Secret, secret()),
        of(ResourceType::FilterConfig, filter_config()),
        (balanced, Some("load_balancing_policy")),
    ]
}

fn certificate() -> Value {
    json!({"certificate_chain": {"filename": "/c.pem"}, "private_key": {"filename": "/k.pem"}})
}

fn http_listener() -> Value {
    const NETWORK: &str = "envoy.extensions.filters.network.http_connection_manager.v3";
    let spiffe = any(
        "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
        json!({"trust_domains": [{"name": "d", "trust_bundle": {"filename": "/ca.pem"}}]}),
    );
    let tls = json!({"common_tls_context": {
        "tls_params": {"cipher_suites": ["ECDHE-ECDSA-AES128-GCM-SHA256"], "ecdh_curves": ["X25519"]},
        "tls_certificates": [certificate()], "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": {"filename": "/ca.pem"},
            "custom_validator_config": {"name": "v", "typed_config": spiffe},
        },
    }});
    let tls = any(
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        tls,
    );
    let router = any("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let log = any(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        json!({"path": "/dev/null"}),
    );
    let service = log_service("HttpGrpcAccessLogConfig");
    let inspector = any(
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        json!({}),
    );
    let proxied = any(
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        json!({}),
    );
    let transparent = any(
        "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
        json!({}),
    );
    let discovered = json!({"name": "d", "config_discovery": {
        "config_source": {"ads": {}},
        "type_urls": ["type.googleapis.com/causeway.v1.Forwarded"],
        "default_config": any("causeway.v1.Forwarded", json!({})),
    }});
    let manager = json!({
        "stat_prefix": "s",
        "access_log": [
            {"name": "a", "typed_config": log},
            {"name": "b", "typed_config": service},
        ],
        "common_http_protocol_options": {},
        "http_protocol_options": {},
        "http2_protocol_options": {},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "set_current_client_cert_details": {},
        "proxy_status_config": {},
        "scheme_header_transformation": {},
        "rds": {"route_config_name": "r", "config_source": {"ads": {}}},
        "http_filters": [discovered, {"name": "r", "typed_config": router}],
    });
    let manager = any(&format!("{NETWORK}.HttpConnectionManager"), manager);
    json!({
        "name": "l",
        "address": address(),
        "listener_filters": [
            {"name": "p", "typed_config": proxied},
            {"name": "o", "typed_config": transparent},
            {"name": "i", "typed_config": inspector},
        ],
        "filter_chains": [{
            "filter_chain_match": {},
            "filters": [{"name": "f", "typed_config": manager}],
            "transport_socket": {"name": "t", "typed_config": tls},
        }],
    })
}

/// A logger that sends entries to a service.
fn log_service(message: &str) -> Value {
    let common = json!({
        "log_name": "l",
        "grpc_service": {"envoy_grpc": {"cluster_name": "c"}},
    });
    any(
        &format!("envoy.extensions.access_loggers.grpc.v3.{message}"),
        json!({"common_config": common}),
    )
}

fn tcp_listener() -> Value {
    let service = log_service("TcpGrpcAccessLogConfig");
    let proxy = any(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({
            "stat_prefix": "s",
            "cluster": "c",
            "access_log": [{"name": "a", "typed_config": service}],
        }),
    );
    json!({
        "name": "l",
        "address": address(),
        "filter_chains": [{"filters": [{"name": "f", "typed_config": proxy}]}],
    })
}

fn routes() -> Value {
    const PATH: &str = "envoy.extensions.path";
    let exact = json!({"exact": "x"});
    let fraction = json!({"default_value": {"numerator": 1}});
    let template = any(
        &format!("{PATH}.match.uri_template.v3.UriTemplateMatchConfig"),
        json!({"path_template": "/{a}"}),
    );
    let rewrite = any(
        &format!("{PATH}.rewrite.uri_template.v3.UriTemplateRewriteConfig"),
        json!({"path_template_rewrite": "/{a}"}),
    );
    let pages = any(
        "causeway.v1.ErrorPagesPerRoute",
        json!({"failure": "no_app"}),
    );
    json!({
        "name": "r",
        "vhost_header": ":first-path-segment",
        "typed_per_filter_config": {"causeway.error_pages": pages},
        "virtual_hosts": [{
            "name": "v",
            "domains": ["*"],
            "typed_per_filter_config": {"causeway.error_pages": pages},
            "routes": [
                {
                    "match": {
                        "prefix": "/",
                        "headers": [{"name": "x", "string_match": exact}],
                        "query_parameters": [{"name": "x", "string_match": exact}],
                        "cookies": [{"name": "x", "string_match": exact}],
                        "runtime_fraction": fraction,
                    },
                    "route": {
                        "cluster": "c",
                        "hash_policy": [
                            {"header": {"header_name": "x"}},
                            {"cookie": {"name": "x", "attributes": [{"name": "x"}]}},
                            {"connection_properties": {}},
                            {"query_parameter": {"name": "x"}},
                        ],
                        "internal_redirect_policy": {},
                        "max_stream_duration": {},
                        "request_mirror_policies": [{"cluster": "c", "runtime_fraction": fraction}],
                        "retry_policy": {
                            "retry_on": "5xx",
                            "retry_back_off": {"base_interval": "1s"},
                            "rate_limited_retry_back_off": {"reset_headers": [{"name": "x"}]},
                        },
                        "upgrade_configs": [
                            {"upgrade_type": "connect", "connect_config": {}},
                        ],
                    },
                    "typed_per_filter_config": {"causeway.error_pages": pages},
                    "request_headers_to_add": [{"header": {"key": "a", "value": "b"}}],
                },
                {"match": {"safe_regex": {"regex": "/.*"}}, "redirect": {}},
                {
                    "match": {"path_match_policy": {"name": "m", "typed_config": template}},
                    "route": {
                        "weighted_clusters": {"clusters": [{
                            "name": "c", "weight": 1,
                            "typed_per_filter_config": {"causeway.error_pages": pages},
                        }]},
                        "path_rewrite_policy": {"name": "r", "typed_config": rewrite},
                    },
                },
                {
                    "match": {"path": "/", "tls_context": {}},
                    "direct_response": {
                        "status": 200,
                        "body": {"inline_string": "x"},
                        "body_format": {"text_format": "x"},
                    },
                },
            ],
        }, {
            "name": "t",
            "domains": ["t"],
            "matcher": tree(),
        }],
    })
}

fn tree() -> Value {
    let input = any(
        "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
        json!({"header_name": "x"}),
    );
    let input = json!({"name": "i", "typed_config": input});
    let route = json!({"match": {"prefix": "/"}, "direct_response": {"status": 200}});
    let route = any("envoy.config.route.v3.Route", route);
    let action = json!({"action": {"name": "a", "typed_config": route}});
    let single = json!({"single_predicate": {"input": input, "value_match": {"exact": "x"}}});
    let list = json!([{"predicate": single, "on_match": action}]);
    let map = json!({"input": input, "exact_match_map": {"map": {"x": action}}});
    json!({
        "matcher_list": {"matchers": list},
        "on_no_match": {"matcher": {"matcher_tree": map}},
    })
}

fn cluster_by_discovery() -> Value {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let options = json!({
        "common_http_protocol_options": {},
        "explicit_http_config": {"http2_protocol_options": {}},
    });
    let tls = json!({
        "sni": "x",
        "common_tls_context": {"validation_context": {"trusted_ca": {"filename": "/ca.pem"}}},
    });
    let tls = any(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        tls,
    );
    let proxied = any(
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        json!({"config": {}, "transport_socket": {"name": "t", "typed_config": tls}}),
    );
    json!({
        "name": "c",
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {"ads": {}}, "service_name": "s"},
        "circuit_breakers": {"thresholds": [{"retry_budget": {}}]},
        "lrs_server": {"self": {}},
        "common_lb_config": {},
        "outlier_detection": {},
        "upstream_connection_options": {"tcp_keepalive": {}},
        "typed_extension_protocol_options": {OPTIONS: any(OPTIONS, options)},
        "transport_socket": {"name": "p", "typed_config": proxied},
    })
}

/// The policy makes the older fields for it mean nothing.
fn cluster_with_policy() -> Value {
    let least = any(
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        json!({}),
    );
    let policy = json!({"typed_extension_config": {"name": "p", "typed_config": least}});
    json!({"name": "c", "load_balancing_policy": {"policies": [policy]}})
}

fn cluster_by_name() -> Value {
    let system = any(
        "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
        json!({}),
    );
    json!({
        "name": "c",
        "type": "STRICT_DNS",
        "load_assignment": endpoints(),
        "typed_dns_resolver_config": {"name": "s", "typed_config": system},
    })
}

fn cluster_by_type() -> Value {
    let servers = any(
        "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        json!({"resolvers": [address()], "dns_resolver_options": {}}),
    );
    let dns = any(
        "envoy.extensions.clusters.dns.v3.DnsCluster",
        json!({"typed_dns_resolver_config": {"name": "r", "typed_config": servers}}),
    );
    json!({
        "name": "c",
        "cluster_type": {"name": "d", "typed_config": dns},
        "load_assignment": endpoints(),
    })
}

fn cluster_in_place() -> Value {
    json!({
        "name": "c",
        "type": "STATIC",
        "load_assignment": endpoints(),
        "common_http_protocol_options": {},
        "upstream_http_protocol_options": {},
        "http_protocol_options": {},
        "http2_protocol_options": {},
        "preconnect_policy": {"per_upstream_preconnect_ratio": 1.5},
    })
}

fn endpoints() -> Value {
    json!({
        "cluster_name": "c",
        "policy": {},
        "endpoints": [{"locality": {}, "lb_endpoints": [{"endpoint": {"address": address()}}]}],
    })
}

fn filter_config() -> Value {
    json!({"name": "f", "typed_config": any("causeway.v1.Forwarded", json!({}))})
}

fn secret() -> Value {
    json!({"name": "s", "tls_certificate": certificate()})
}
