//! Bootstraps, as values: JSON is the one form, YAML is tested where YAML matters.

use std::net::SocketAddr;

use serde_json::{Value, json};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

pub fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

/// A listener on a port that the system chooses, with one filter chain.
pub fn listener(name: &str, filter: &Value) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [filter]}],
    })
}

/// An HTTP connection manager; `more` is merged into it.
pub fn http(more: &Value) -> Value {
    let mut config = json!({
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "web",
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router")},
        }],
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}

/// A TCP proxy; `more` is merged into it.
pub fn tcp(cluster: &str, more: &Value) -> Value {
    let mut config = json!({
        "@type": format!("{FILTERS}.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "t",
        "cluster": cluster,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": config})
}

/// One virtual host for everybody.
pub fn routes(routes: &Value) -> Value {
    json!({"name": "r", "virtual_hosts": [{"name": "any", "domains": ["*"], "routes": routes}]})
}

pub fn to(cluster: &str) -> Value {
    routes(&json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]))
}

/// A listener that sends everything to one cluster.
pub fn forwarding(name: &str, cluster: &str) -> Value {
    listener(name, &http(&json!({"route_config": to(cluster)})))
}

pub fn assignment(name: &str, at: SocketAddr) -> Value {
    let address = json!({"address": at.ip(), "port_value": at.port()});
    let endpoint = json!({"endpoint": {"address": {"socket_address": address}}});
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]})
}

pub fn cluster(name: &str, at: SocketAddr) -> Value {
    json!({"name": name, "type": "STATIC", "load_assignment": assignment(name, at)})
}

/// A cluster that speaks HTTP/2 to its endpoints.
pub fn http2_cluster(name: &str, at: SocketAddr) -> Value {
    let mut cluster = cluster(name, at);
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        },
    });
    cluster
}
