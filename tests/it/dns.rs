//! Clusters whose endpoints are names.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, forwarding};
use crate::support::client::get;
use crate::support::eventually;
use crate::support::origin::Origin;

fn named(kind: &str, host: &str, port: u16) -> Value {
    let address = json!({"address": host, "port_value": port});
    let endpoint = json!({"endpoint": {"address": {"socket_address": address}}});
    json!({
        "name": "app",
        "type": kind,
        "dns_lookup_family": "V4_ONLY",
        "load_assignment": {
            "cluster_name": "app",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    })
}

/// Serves the cluster, once its listener is open.
async fn serving(cluster: Value) -> TestApp {
    let text = bootstrap(&[forwarding("web", "app")], &[cluster]).to_string();
    let app = TestApp::bootstrap(&text).await;
    let addresses = app.running.addresses.clone();
    eventually("the listener is open", || addresses.of("web").is_some()).await;
    app
}

#[tokio::test]
async fn requests_go_to_the_address_of_a_name() {
    let origin = Origin::fixed("here").await;
    let port = origin.address.port();
    let mut custom = named("STATIC", "localhost", port);
    custom.as_object_mut().unwrap().remove("type");
    custom["cluster_type"] = json!({
        "name": "envoy.clusters.dns",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
            "dns_lookup_family": "V4_ONLY",
        },
    });
    for cluster in [
        named("STRICT_DNS", "localhost", port),
        named("LOGICAL_DNS", "localhost", port),
        custom,
    ] {
        let app = serving(cluster).await;
        let reply = get(app.listener("web"), "x", "/").await;
        assert_eq!((reply.status.as_u16(), &*reply.text()), (200, "here"));
    }
}

#[tokio::test]
async fn a_name_that_is_nowhere_is_answered_for() {
    // RFC 1035 section 2.3.4 allows labels of 63 bytes, so that nobody is asked for this one.
    let host = format!("{}.invalid", "a".repeat(64));
    let app = serving(named("STRICT_DNS", &host, 1)).await;
    assert_eq!(get(app.listener("web"), "x", "/").await.status, 503);
}
