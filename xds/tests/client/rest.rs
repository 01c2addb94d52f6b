//! REST.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use causeway_xds::resource::api_source::Metadata;
use causeway_xds::source::Extent;
use causeway_xds::type_url::ResourceType::{Cluster, LoadAssignment};
use serde_json::json;
use tokio::time::Instant;

use super::http::Polled;
use super::*;

const REST: ApiProtocol = ApiProtocol::Rest {
    refresh_delay: seconds(10),
    request_timeout: seconds(1),
};

fn body(version: &str, kind: ResourceType, names: &[&str]) -> String {
    let key = if kind == LoadAssignment {
        "cluster_name"
    } else {
        "name"
    };
    let resource = |name: &&str| json!({"@type": kind.type_url(), key: name});
    let resources: Vec<_> = names.iter().map(resource).collect();
    json!({"version_info": version, "resources": resources}).to_string()
}

/// The response names neither type nor nonce; the next poll says what became of it.
#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_polled() {
    let mut server = Polled::start("first");
    server.server.metadata = Metadata(vec![("x-token".to_owned(), b"t".to_vec())]);
    let mut control = Control::with(REST, vec![server.server.clone()]);
    control.all(Cluster);
    let poll = server.next().await;
    assert_eq!(poll.path, "/v3/discovery:clusters");
    assert_eq!(poll.headers["host"], "rest.test");
    assert_eq!(poll.headers["content-type"], "application/json");
    assert_eq!(poll.headers["x-token"], "t");
    assert_eq!(poll.body["node"]["id"], "n1");
    assert_eq!(poll.body["type_url"], Cluster.type_url());
    assert!(poll.body.get("version_info").is_none());
    poll.answer(200, &body("v1", Cluster, &["a"]));
    let (update, answer) = control.update().await;
    assert_eq!(update.extent, Extent::StateOfTheWorld);
    assert_eq!(update.upserts, [cluster("a")]);
    // What is wanted anew is asked for at once.
    control.subscribe(LoadAssignment, &["a"]);
    answer.send(Outcome::default()).unwrap();
    let since = Instant::now();
    let poll = server.next().await;
    assert_eq!(poll.path, "/v3/discovery:endpoints");
    assert_eq!(poll.body["resource_names"], json!(["a"]));
    assert!(since.elapsed() < seconds(1));
    poll.answer(200, &body("e1", LoadAssignment, &["a"]));
    control.accept().await;
    let poll = server.next_of("clusters").await;
    let waited = since.elapsed();
    assert!((seconds(8)..=seconds(12)).contains(&waited), "{waited:?}");
    assert_eq!(poll.body["version_info"], "v1");
    poll.answer(304, "");
    let poll = server.next_of("endpoints").await;
    assert_eq!(poll.body["version_info"], "e1");
    // A server that had endpoints and answers 404 may be the wrong one.
    poll.answer(404, "default backend");
    let poll = server.next_of("clusters").await;
    poll.answer(200, &body("v2", Cluster, &["a", "b"]));
    control.refuse("b", "bad").await;
    let poll = server.next_of("clusters").await;
    assert_eq!(poll.body["version_info"], "v1");
    assert_eq!(poll.body["error_detail"]["code"], 13);
    poll.answer(200, "{ not json");
    let poll = server.next_of("clusters").await;
    let message = poll.body["error_detail"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("response of clusters rejected."),
        "{message}"
    );
    poll.answer(304, "");
    assert!(
        server
            .next_of("clusters")
            .await
            .body
            .get("error_detail")
            .is_none()
    );
    assert!(control.batches.try_recv().is_err());
    assert_eq!(
        server.dialer.dialed.load(SeqCst),
        1,
        "one connection for all"
    );
    let of = control.status.of(Cluster);
    assert_eq!(of.update_failure.load(Relaxed), 0);
    assert_eq!(of.update_rejected.load(Relaxed), 2);
    assert!(control.status.is_connected());
    control.stop().await;
}

/// A server that has nothing yet says so with 404: control can go on.
/// A version stands for the names it was sent for: a server that has a version for all it knows would
/// answer "unchanged" to one who asks for more.
#[tokio::test(start_paused = true)]
async fn a_new_name_is_asked_for_without_a_version() {
    let mut server = Polled::start("first");
    let mut control = Control::with(REST, vec![server.server.clone()]);
    control.subscribe(LoadAssignment, &["a"]);
    let poll = server.next().await;
    poll.answer(200, &body("e1", LoadAssignment, &["a"]));
    control.accept().await;
    control.subscribe(LoadAssignment, &["b"]);
    let poll = server.next().await;
    assert_eq!(poll.body["resource_names"], json!(["a", "b"]));
    assert!(poll.body.get("version_info").is_none(), "{}", poll.body);
    poll.answer(200, &body("e1", LoadAssignment, &["a", "b"]));
    control.accept().await;
    let poll = server.next().await;
    assert_eq!(poll.body["version_info"], "e1");
}

#[tokio::test(start_paused = true)]
async fn nothing_at_first_is_an_empty_world() {
    let mut server = Polled::start("first");
    let mut control = Control::with(REST, vec![server.server.clone()]);
    control.all(Cluster);
    server.next().await.answer(404, "");
    let update = control.accept().await;
    assert!(update.upserts.is_empty() && update.extent == Extent::StateOfTheWorld);
    control.stop().await;
}

/// Failures are retried, and another server is asked.
#[tokio::test(start_paused = true)]
async fn failures_are_retried() {
    let mut server = Polled::start("first");
    let mut control = Control::with(REST, vec![server.server.clone()]);
    control.all(Cluster);
    server.next().await.answer(500, "");
    let silent = server.next().await;
    let since = Instant::now();
    let poll = server.next().await;
    assert!(since.elapsed() >= seconds(1), "the timeout");
    assert!(since.elapsed() < seconds(3), "not a whole delay");
    silent.answer(200, "too late");
    poll.answer(200, &body("v1", Cluster, &[&"x".repeat(2 << 20)]));
    server
        .next()
        .await
        .answer(200, &body("v2", Cluster, &["a"]));
    assert_eq!(control.accept().await.version, "v2");
    let of = control.status.of(Cluster);
    assert_eq!(of.update_failure.load(Relaxed), 3);
    control.stop().await;

    let (mut first, mut second) = (Polled::start("first"), Polled::start("second"));
    let servers = vec![first.server.clone(), second.server.clone()];
    let mut control = Control::with(REST, servers);
    control.all(Cluster);
    first.next().await.answer(503, "");
    second
        .next()
        .await
        .answer(200, &body("v1", Cluster, &["a"]));
    control.accept().await;
    assert_eq!(control.status.server(), "second");
    // The second is polled for as long as the first is not looked for.
    let poll = loop {
        tokio::select! {
            poll = first.next() => break poll,
            poll = second.next() => poll.answer(304, ""),
        }
    };
    assert!(poll.body.get("version_info").is_none(), "of another server");
    poll.answer(200, &body("v7", Cluster, &["a"]));
    assert_eq!(control.accept().await.version, "v7");
    assert_eq!(control.status.server(), "first");
    control.stop().await;
}
