//! Clusters whose endpoints are names.

use serde_json::{Value, json};

use crate::support::app::{TestApp, worker};
use crate::support::bootstrap::{bootstrap, forwarding};
use crate::support::circuit::circuit;
use crate::support::client::get;
use crate::support::eventually;
use crate::support::origin::Origin;
use crate::support::zone::Zone;

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
    opened(bootstrap(&[forwarding("web", "app")], &[cluster])).await
}

async fn opened(bootstrap: Value) -> TestApp {
    let app = TestApp::bootstrap(&bootstrap.to_string()).await;
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

/// Of a top-level domain that is nobody's (RFC 6761, section 6.2).
#[tokio::test]
async fn names_are_asked_of_the_servers_that_are_configured() {
    let zone = Zone::start().await;
    let origin = Origin::fixed("here").await;
    let resolver = json!({
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/\
                      envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": {
                "protocol": "UDP", "address": "127.0.0.1", "port_value": zone.dns.port(),
            }}],
            "dns_resolver_options": {"no_default_search_domain": true},
        },
    });
    let cluster = || named("STRICT_DNS", "app.kernels.test", origin.address.port());
    let mut own = cluster();
    own["typed_dns_resolver_config"] = resolver.clone();
    let mut older = cluster();
    older["dns_resolvers"] = resolver["typed_config"]["resolvers"].clone();
    let mut everywhere = bootstrap(&[forwarding("web", "app")], &[cluster()]);
    everywhere["typed_dns_resolver_config"] = resolver;
    for app in [
        serving(own).await,
        serving(older).await,
        opened(everywhere).await,
    ] {
        let reply = get(app.listener("web"), "x", "/").await;
        assert_eq!((reply.status.as_u16(), &*reply.text()), (200, "here"));
    }
}

#[tokio::test]
async fn kernels_are_asked_for_where_the_worker_is_told_to() {
    let zone = Zone::start().await;
    let origin = Origin::fixed("here").await;
    let mut config = worker();
    config.causeway.dns_servers = vec![zone.dns];
    let app = TestApp::with(config).await;
    let mut circuit = circuit(1).kernel(origin.address);
    circuit.value["route_info"][0]["kernel_host"] = json!("kernel.kernels.test.");
    app.announce(&[&circuit]).await;
    assert_eq!(app.get(&circuit, "/").await.text(), "here");
}
