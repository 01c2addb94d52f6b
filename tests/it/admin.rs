//! The management port.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::app::{SECRET, TestApp, worker};
use crate::support::bootstrap::{bootstrap, cluster, forwarding};
use crate::support::circuit::circuit;
use crate::support::client::{Http1, empty, get, request};
use crate::support::eventually;
use crate::support::origin::Origin;

async fn serving() -> (TestApp, Origin) {
    let origin = Origin::fixed("ok").await;
    let circuit = circuit(1).kernel(origin.address);
    let app = TestApp::serving(&[&circuit]).await;
    for _ in 0..3 {
        app.get(&circuit, "/").await;
    }
    (app, origin)
}

#[tokio::test]
async fn health_in_every_spelling() {
    let (app, _origin) = serving().await;
    let ready = app.admin("/ready").await;
    assert_eq!(
        (ready.status.as_u16(), ready.text().as_str()),
        (200, "LIVE\n")
    );
    for path in ["/health", "/livez", "/readyz"] {
        let reply = app.admin(path).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["status"]),
            (200, &json!("healthy"))
        );
    }
    assert!(app.admin("/status").await.json()["api_version"].is_string());
    let info = app.admin("/server_info").await.json();
    assert_eq!(info["state"], "LIVE");
}

#[tokio::test]
async fn what_would_happen_to_a_request_is_told_by_the_snapshot_in_force() {
    let listener = forwarding("web", "a");
    let clusters = [cluster("a", SocketAddr::from(([127, 0, 0, 1], 9)))];
    let mut config = bootstrap(&[listener], &clusters);
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
    config["admin"] = json!({ "address": address });
    let app = TestApp::bootstrap(&config.to_string()).await;
    let path = "/explain?url=http://any.test/x%3Fy&header=x-a:1&header=x-b:2&client_ip=192.0.2.1";
    let text = app.admin(path).await.text();
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("outcome") && last.contains("to cluster \"a\" (1 endpoints)"),
        "{text}"
    );
    assert!(text.contains("192.0.2.1 (external)"), "{text}");
    let steps = app.admin(&format!("{path}&format=json")).await.json();
    assert_eq!(steps["steps"][0]["step"], "listener");
    let bad = app.admin("/explain?url=nowhere").await;
    assert_eq!(bad.status, 400);
    assert!(bad.text().contains("\"nowhere\" is not an absolute URL"));
}

/// Whoever else can reach the port may ask whether the worker is well, and nothing more.
#[tokio::test]
async fn beyond_loopback_everything_but_health_needs_the_token() {
    let mut config = worker();
    config.causeway.management = SocketAddr::from(([0, 0, 0, 0], 0));
    let app = TestApp::with(config).await;
    let mut shim = app.shim().await;
    for path in [
        "/config_dump",
        "/stats",
        "/metrics",
        "/v1/circuits",
        "/nothing",
    ] {
        assert_eq!(
            shim.call_as(None, "GET", path, "").await.status,
            401,
            "{path}"
        );
    }
    assert_eq!(
        shim.call_as(None, "POST", "/quitquitquit", "").await.status,
        401
    );
    for path in ["/ready", "/livez", "/readyz", "/health", "/status"] {
        assert_eq!(
            shim.call_as(None, "GET", path, "").await.status,
            200,
            "{path}"
        );
    }
    assert_eq!(
        shim.call_as(Some(SECRET), "GET", "/stats", "").await.status,
        200
    );
}

#[tokio::test]
async fn traffic_is_counted_under_envoys_names() {
    let (app, _origin) = serving().await;
    let value = |stats: &Value, name: &str| {
        let stats = stats["stats"].as_array().unwrap();
        stats
            .iter()
            .find(|s| s["name"] == name)
            .map(|s| s["value"].clone())
    };
    let stats = app.admin("/stats?format=json").await.json();
    for (name, expected) in [
        ("http.wildcard.downstream_rq_total", 3),
        ("http.wildcard.downstream_rq_2xx", 3),
        ("http.wildcard.downstream_cx_total", 3),
        ("listener_manager.total_listeners_active", 5),
    ] {
        assert_eq!(value(&stats, name), Some(json!(expected)), "{name}");
    }
    let text = app.admin("/stats").await.text();
    assert!(
        text.contains("http.wildcard.downstream_rq_total: 3\n"),
        "{text}"
    );
    let envoy = app.admin("/stats/prometheus").await.text();
    assert!(envoy.contains("envoy_http_downstream_rq_total"), "{envoy}");
    let own = app.admin("/metrics").await;
    assert!(
        own.text().ends_with("# EOF\n"),
        "OpenMetrics ends with a mark"
    );
    assert!(own.text().contains("causeway_"), "{}", own.text());
}

#[tokio::test]
async fn a_gauge_goes_down_when_its_connections_end() {
    let (app, _origin) = serving().await;
    let stats = app.running.stats.http("wildcard");
    eventually("no connection is left", || {
        stats.downstream_cx_active.value() == 0
    })
    .await;
    eventually("no request is left", || {
        stats.downstream_rq_active.value() == 0
    })
    .await;
    let listeners = app.running.stats.listeners();
    let open = || {
        listeners
            .iter()
            .map(|(_, s)| s.downstream_cx_active.value())
            .sum::<i64>()
    };
    eventually("no listener counts a connection", || open() == 0).await;
}

#[tokio::test]
async fn clusters_and_listeners_are_listed() {
    let (app, origin) = serving().await;
    let clusters = app.admin("/clusters?format=json").await.json();
    let all = clusters["cluster_statuses"].as_array().unwrap();
    let name = format!("circuit/{}", circuit(1).id);
    let ours = all
        .iter()
        .find(|c| c["name"] == name)
        .expect("the circuit's cluster");
    let port = &ours["host_statuses"][0]["address"]["socket_address"]["port_value"];
    assert_eq!(port, &json!(origin.address.port()));
    let text = app.admin("/clusters").await.text();
    assert!(
        text.contains(&format!("{name}::{}::", origin.address)),
        "{text}"
    );
    let listeners = app.admin("/listeners").await.text();
    assert!(
        listeners.contains(&format!("wildcard::{}", app.wildcard())),
        "{listeners}"
    );
    let listeners = app.admin("/listeners?format=json").await.json();
    assert_eq!(listeners["listener_statuses"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn the_dump_shows_resources_with_their_origin_and_no_secret() {
    let (app, _origin) = serving().await;
    let dump = app.admin("/config_dump?include_eds").await;
    let configs = dump.json();
    let kinds: Vec<_> = configs["configs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["@type"])
        .collect();
    for kind in ["Bootstrap", "Clusters", "Endpoints", "Listeners", "Routes"] {
        let full = json!(format!(
            "type.googleapis.com/envoy.admin.v3.{kind}ConfigDump"
        ));
        assert!(kinds.contains(&&full), "{kind}: {kinds:?}");
    }
    assert!(dump.text().contains(&format!("circuit/{}", circuit(1).id)));
    for path in [
        "/config_dump",
        "/status",
        "/server_info",
        "/stats",
        "/metrics",
        "/clusters",
        "/listeners",
    ] {
        assert!(!app.admin(path).await.text().contains(SECRET), "{path}");
    }
}

#[tokio::test]
async fn what_changes_something_wants_post() {
    let (app, _origin) = serving().await;
    for path in [
        "/quitquitquit",
        "/drain_listeners",
        "/healthcheck/fail",
        "/healthcheck/ok",
        "/logging?level=debug",
        "/reset_counters",
    ] {
        assert_eq!(app.admin(path).await.status, 405, "{path}");
    }
    assert_eq!(app.admin("/ready").await.text(), "LIVE\n");
    assert_eq!(app.admin("/nothing").await.status, 404);
    let mut client = Http1::connect(app.management()).await;
    let post = |path: &str| request("POST", "localhost", path).body(empty()).unwrap();
    assert_eq!(
        client.send_body(post("/healthcheck/fail")).await.status,
        200
    );
    assert_eq!(app.admin("/ready").await.status, 503);
    assert_eq!(
        app.admin("/livez").await.status,
        200,
        "it lives all the same"
    );
    assert_eq!(client.send_body(post("/healthcheck/ok")).await.status, 200);
    assert_eq!(app.admin("/ready").await.status, 200);
}

#[tokio::test]
async fn the_admin_address_of_a_bootstrap_serves_the_same() {
    let origin = Origin::fixed("ok").await;
    let mut text = bootstrap(&[forwarding("web", "a")], &[cluster("a", origin.address)]);
    text["admin"] =
        json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}});
    text["node"] = json!({"id": "n1", "cluster": "c1"});
    let app = TestApp::bootstrap(&text.to_string()).await;
    get(app.listener("web"), "x", "/").await;
    assert_eq!(app.admin("/ready").await.text(), "LIVE\n");
    let stats = app
        .admin("/stats?filter=^cluster.a.upstream_rq_total$")
        .await
        .text();
    assert_eq!(stats, "cluster.a.upstream_rq_total: 1\n");
    let dump = app.admin("/config_dump").await.json();
    assert_eq!(dump["configs"][0]["bootstrap"]["node"]["id"], "n1");
    assert_eq!(app.admin("/v1/circuits").await.status, 404, "no shim here");
}
