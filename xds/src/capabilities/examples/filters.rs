//! The filters of Envoy in front of requests and connections.

use serde_json::{Value, json};

use super::{address, any};

const HTTP: &str = "envoy.extensions.filters.http";
const NETWORK: &str = "envoy.extensions.filters.network";

fn filter(message: &str, fields: Value) -> Value {
    json!({"name": message, "typed_config": any(message, fields)})
}

/// Each of the HTTP filters, one behind the other.
pub(super) fn http() -> Value {
    let fraction = json!({"default_value": {"numerator": 1}});
    let exact = json!({"exact": "x"});
    let header = json!({"name": "x", "string_match": exact});
    let edit = json!([{"header": {"key": "a", "value": "b"}}]);
    let bucket = json!({"max_tokens": 1, "fill_interval": "1s"});
    let policy = json!({"permissions": [{"any": true}], "principals": [{"any": true}]});
    let text = json!({"text_format_source": {"inline_string": "x"}});
    let http = |name: &str, fields: Value| filter(&format!("{HTTP}.{name}"), fields);
    let filters = [
        http(
            "api_key_auth.v3.ApiKeyAuth",
            json!({
                "credentials": [{"key": "k", "client": "c"}],
                "key_sources": [{"header": "x"}],
                "forwarding": {},
            }),
        ),
        http(
            "bandwidth_limit.v3.BandwidthLimit",
            json!({"stat_prefix": "s", "limit_kbps": 1}),
        ),
        http(
            "basic_auth.v3.BasicAuth",
            json!({"users": {"inline_string": "a:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw="}}),
        ),
        http("cors.v3.Cors", json!({})),
        http(
            "csrf.v3.CsrfPolicy",
            json!({"filter_enabled": fraction, "additional_origins": [exact]}),
        ),
        http(
            "fault.v3.HTTPFault",
            json!({
                "delay": {"fixed_delay": "1s"},
                "abort": {"http_status": 503},
                "response_rate_limit": {"fixed_limit": {"limit_kbps": 1}},
            }),
        ),
        http("grpc_stats.v3.FilterConfig", json!({})),
        http(
            "header_mutation.v3.HeaderMutation",
            json!({"mutations": {
                "request_mutations": [{"remove": "x"}],
                "query_parameter_mutations": [{"remove": "x"}],
            }}),
        ),
        http(
            "header_to_metadata.v3.Config",
            json!({"request_rules": [{"header": "x", "on_header_present": {"key": "k"}}]}),
        ),
        http(
            "health_check.v3.HealthCheck",
            json!({"pass_through_mode": true, "headers": [header]}),
        ),
        http(
            "local_ratelimit.v3.LocalRateLimit",
            json!({
                "stat_prefix": "s",
                "token_bucket": bucket,
                "filter_enabled": fraction,
                "response_headers_to_add": edit,
                "descriptors": [{"entries": [{"key": "k"}], "token_bucket": bucket}],
                "rate_limits": [{"actions": [{"remote_address": {}}]}],
            }),
        ),
        http("on_demand.v3.OnDemand", json!({})),
        http("original_src.v3.OriginalSrc", json!({})),
        http(
            "rbac.v3.RBAC",
            json!({"rules": {"policies": {"p": policy}}}),
        ),
        http(
            "set_filter_state.v3.Config",
            json!({"on_request_headers": [{
                "object_key": "k", "factory_key": "envoy.string", "format_string": text,
            }]}),
        ),
        http(
            "set_metadata.v3.Config",
            json!({"metadata": [{"metadata_namespace": "n", "value": {}}]}),
        ),
        http("router.v3.Router", json!({})),
    ];
    manager(&filters)
}

fn manager(filters: &[Value]) -> Value {
    let manager = json!({
        "stat_prefix": "s",
        "rds": {"route_config_name": "r", "config_source": {"ads": {}}},
        "http_filters": filters,
    });
    let name = format!("{NETWORK}.http_connection_manager.v3.HttpConnectionManager");
    listener(&[filter(&name, manager)])
}

/// Those that ask somebody, and those that change bodies.
pub(super) fn asking() -> Value {
    let http = |name: &str, fields: Value| filter(&format!("{HTTP}.{name}"), fields);
    let library = |coding: &str, message: &str| {
        let name = format!("envoy.extensions.compression.{coding}.v3.{message}");
        json!({"name": "l", "typed_config": any(&name, json!({}))})
    };
    let uri = json!({"uri": "http://a.test/x", "cluster": "a", "timeout": "1s"});
    let grpc = json!({"envoy_grpc": {"cluster_name": "a"}});
    let path = json!({"path": {"exact": "/x"}});
    let token = any(
        "envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2",
        json!({
            "token_endpoint": uri,
            "client_credentials": {"client_id": "c", "client_secret": {"name": "s"}},
            "endpoint_params": [{"name": "n"}],
        }),
    );
    let session = any(
        "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
        json!({"name": "x"}),
    );
    manager(&[
        http("buffer.v3.Buffer", json!({"max_request_bytes": 1})),
        http(
            "compressor.v3.Compressor",
            json!({
                "compressor_library": library("gzip.compressor", "Gzip"),
                "response_direction_config": {"common_config": {}},
            }),
        ),
        http(
            "credential_injector.v3.CredentialInjector",
            json!({"credential": {"name": "c", "typed_config": token}}),
        ),
        http(
            "decompressor.v3.Decompressor",
            json!({"decompressor_library": library("gzip.decompressor", "Gzip")}),
        ),
        http(
            "ext_authz.v3.ExtAuthz",
            json!({"transport_api_version": "V3", "grpc_service": grpc}),
        ),
        http(
            "ext_proc.v3.ExternalProcessor",
            json!({
                "grpc_service": grpc, "processing_mode": {}, "mutation_rules": {},
                "metadata_options": {"forwarding_namespaces": {}},
            }),
        ),
        http("grpc_http1_bridge.v3.Config", json!({})),
        http("grpc_web.v3.GrpcWeb", json!({})),
        http(
            "jwt_authn.v3.JwtAuthentication",
            json!({"providers": {"p": {"remote_jwks": {"http_uri": uri}}}}),
        ),
        http(
            "oauth2.v3.OAuth2",
            json!({"config": {
                "token_endpoint": uri,
                "authorization_endpoint": "http://a.test/a",
                "credentials": {
                    "client_id": "c", "token_secret": {"name": "t"}, "hmac_secret": {"name": "h"},
                },
                "redirect_uri": "http://b.test/x",
                "redirect_path_matcher": path,
                "signout_path": path,
            }}),
        ),
        http(
            "ratelimit.v3.RateLimit",
            json!({
                "domain": "d",
                "rate_limit_service": {"transport_api_version": "V3", "grpc_service": grpc},
            }),
        ),
        http(
            "stateful_session.v3.StatefulSession",
            json!({"session_state": {"name": "s", "typed_config": session}}),
        ),
        http("router.v3.Router", json!({})),
    ])
}

/// Each of the network filters, one behind the other.
pub(super) fn network() -> Value {
    let policy = json!({"permissions": [{"any": true}], "principals": [{"any": true}]});
    let network = |name: &str, fields: Value| filter(&format!("{NETWORK}.{name}"), fields);
    listener(&[
        network(
            "connection_limit.v3.ConnectionLimit",
            json!({"stat_prefix": "s", "max_connections": 1}),
        ),
        network(
            "local_ratelimit.v3.LocalRateLimit",
            json!({
                "stat_prefix": "s",
                "token_bucket": {"max_tokens": 1, "fill_interval": "1s"},
            }),
        ),
        network(
            "rbac.v3.RBAC",
            json!({"stat_prefix": "s", "rules": {"policies": {"p": policy}}}),
        ),
        network("set_filter_state.v3.Config", json!({})),
        network("sni_cluster.v3.SniCluster", json!({})),
        network(
            "direct_response.v3.Config",
            json!({"response": {"inline_string": "x"}}),
        ),
    ])
}

fn listener(filters: &[Value]) -> Value {
    json!({"name": "l", "address": address(), "filter_chains": [{"filters": filters}]})
}
