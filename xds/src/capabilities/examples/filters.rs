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
    let manager = json!({
        "stat_prefix": "s",
        "rds": {"route_config_name": "r", "config_source": {"ads": {}}},
        "http_filters": filters,
    });
    let name = format!("{NETWORK}.http_connection_manager.v3.HttpConnectionManager");
    listener(&[filter(&name, manager)])
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
