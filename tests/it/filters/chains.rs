//! Network filters: who may connect, and connections that end here.

use serde_json::{Value, json};

use super::policies::{filter, front};
use crate::support::app::TestApp;
use crate::support::bootstrap::{self, bootstrap, cluster, listener};
use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::raw::{End, Raw};
use crate::support::{eventually, tcp_echo};

fn network(message: &str, more: &Value) -> Value {
    let mut filter = filter("n", message, more);
    let message = format!("type.googleapis.com/envoy.extensions.filters.network.{message}");
    filter["typed_config"]["@type"] = json!(message);
    filter
}

fn rules(network: &str) -> Value {
    let policy = json!({"permissions": [{"any": true}],
        "principals": [{"direct_remote_ip": {"address_prefix": network, "prefix_len": 8}}]});
    json!({"stat_prefix": "nr", "rules": {"policies": {"p": policy}}})
}

#[tokio::test]
async fn rules_say_who_may_connect() {
    let origin = tcp_echo().await;
    for (allowed, admitted) in [("127.0.0.0", true), ("10.0.0.0", false)] {
        let mut tcp = listener("tcp", &bootstrap::tcp("a", &json!({})));
        let filters = &mut tcp["filter_chains"][0]["filters"];
        let rbac = network("rbac.v3.RBAC", &rules(allowed));
        filters.as_array_mut().unwrap().insert(0, rbac);
        let text = bootstrap(&[tcp], &[cluster("a", origin.address)]);
        let app = TestApp::bootstrap(&text.to_string()).await;
        let mut raw = Raw::connect(app.listener("tcp")).await;
        if admitted {
            raw.send("a").await;
            assert_eq!(raw.bytes(1).await, b"a");
        } else {
            assert_eq!(raw.ended().await, End::Closed);
        }
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn rules_stand_before_http_as_well() {
    let origin = Origin::fixed("in").await;
    let text = front(
        &[],
        &[json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}})],
        &origin,
    );
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let chain = &mut config["static_resources"]["listeners"][0]["filter_chains"][0];
    let rbac = network("rbac.v3.RBAC", &rules("127.0.0.0"));
    chain["filters"].as_array_mut().unwrap().insert(0, rbac);
    let app = TestApp::bootstrap(&config.to_string()).await;
    assert_eq!(get(app.listener("web"), "app.test", "/").await.status, 200);
}

#[tokio::test]
async fn connections_are_limited_while_they_are_open() {
    let limit = json!({"stat_prefix": "c", "max_connections": 1});
    let mut echo = listener("echo", &network("echo.v3.Echo", &json!({})));
    let limit = network("connection_limit.v3.ConnectionLimit", &limit);
    let filters = &mut echo["filter_chains"][0]["filters"];
    filters.as_array_mut().unwrap().insert(0, limit);
    let app = TestApp::bootstrap(&bootstrap(&[echo], &[]).to_string()).await;
    let at = app.listener("echo");
    let mut first = Raw::connect(at).await;
    first.send("hello").await;
    assert_eq!(first.bytes(5).await, b"hello");
    assert_eq!(Raw::connect(at).await.ended().await, End::Closed);
    drop(first);
    let stats = &app.running.stats;
    let open = stats
        .named("connection_limit.c.")
        .gauge("active_connections");
    eventually("the first is gone", || open.value() == 0).await;
    let mut next = Raw::connect(at).await;
    next.send("again").await;
    assert_eq!(next.bytes(5).await, b"again");
}

#[tokio::test]
async fn a_listener_can_answer_with_fixed_bytes() {
    let response = json!({"response": {"inline_string": "closed for today\n"}});
    let direct = listener("direct", &network("direct_response.v3.Config", &response));
    let app = TestApp::bootstrap(&bootstrap(&[direct], &[]).to_string()).await;
    let mut raw = Raw::connect(app.listener("direct")).await;
    assert_eq!(raw.bytes(17).await, b"closed for today\n");
    assert_eq!(raw.ended().await, End::Closed);
}
