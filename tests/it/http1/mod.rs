//! HTTP/1.1 on both sides.

mod bodies;
mod deadlines;
mod heads;
mod malformed;
mod parking;
mod parking_upstream;
mod retry;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, to};
use crate::support::circuit::circuit;
use crate::support::client::Http1;
use crate::support::origin::{Head, Origin};
use crate::support::raw::Raw;

/// A worker with one circuit, and what belongs into `Host` to reach it.
async fn serving(origin: &Origin) -> (TestApp, String) {
    let circuit = circuit(1).kernel(origin.address);
    (TestApp::serving(&[&circuit]).await, circuit.host())
}

async fn raw(app: &TestApp) -> Raw {
    Raw::connect(app.wildcard()).await
}

async fn client(app: &TestApp) -> Http1 {
    Http1::connect(app.wildcard()).await
}

fn targets(requests: &[Head]) -> Vec<&str> {
    requests.iter().map(|r| r.target.as_str()).collect()
}

#[tokio::test]
async fn one_connection_serves_many_requests_over_one_upstream_connection() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    for i in 0..100 {
        let target = format!("/{i}");
        assert_eq!(client.get(&host, &target).await.json()["target"], target);
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_idle_client_is_told_when_its_drain_is_over() {
    let origin = Origin::fixed("ok").await;
    let manager = http(&json!({
        "route_config": to("a"),
        "common_http_protocol_options": {"idle_timeout": "0.1s"},
        "drain_timeout": "0.05s",
        "delayed_close_timeout": "0.05s",
    }));
    let clusters = [cluster("a", origin.address)];
    let text = bootstrap(&[listener("web", &manager)], &clusters).to_string();
    let app = TestApp::bootstrap(&text).await;
    let mut raw = Raw::connect(app.listener("web")).await;
    raw.send("GET / HTTP/1.1\r\nhost: any\r\n\r\n").await;
    assert_eq!(raw.answer().await.text(), "ok");
    let start = Instant::now();
    raw.ended().await;
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    let one =
        |i: usize| format!("POST /{i} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 4\r\n\r\n{i:04}");
    raw.send((0..20).map(one).collect::<String>()).await;
    for i in 0..20 {
        let answer: serde_json::Value = serde_json::from_slice(&raw.answer().await.body).unwrap();
        assert_eq!(answer["target"], format!("/{i}"));
        assert_eq!(answer["body"], format!("{i:04}"));
    }
}

#[tokio::test]
async fn a_client_that_asks_for_close_gets_it() {
    let origin = Origin::fixed("bye").await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!(
        "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    ))
    .await;
    let answer = raw.answer().await;
    assert_eq!(answer.text(), "bye");
    assert_eq!(answer.header("connection"), "close");
    raw.ended().await;
}

#[tokio::test]
async fn an_origin_that_says_close_does_not_close_the_client() {
    let origin = Origin::http(|mut conn| async move {
        conn.request().await;
        conn.reply(200, &[("connection", "close")], "one").await;
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    for _ in 0..5 {
        let reply = client.get(&host, "/").await;
        assert_eq!(
            (reply.text().as_str(), reply.header("connection")),
            ("one", "")
        );
    }
    assert_eq!(origin.connections(), 5);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request_at_once() {
    let origin = Origin::held("never").await;
    let (app, host) = serving(&origin).await;
    let mut leaving = raw(&app).await;
    leaving
        .send(format!("GET /1 HTTP/1.1\r\nhost: {host}\r\n\r\n"))
        .await;
    origin.has_requests(1).await;
    drop(leaving);
    origin.has_no_connection().await;

    let mut resetting = raw(&app).await;
    resetting
        .send(format!("GET /2 HTTP/1.1\r\nhost: {host}\r\n\r\n"))
        .await;
    origin.has_requests(2).await;
    resetting.reset();
    origin.has_no_connection().await;
}

#[tokio::test]
async fn a_client_that_leaves_during_a_download_cancels_it() {
    let origin = Origin::http(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nwait\r\n")
            .await;
        conn.left().await;
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
        .await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    raw.bytes(9).await;
    drop(raw);
    origin.has_no_connection().await;
}

#[tokio::test]
async fn a_shutdown_lets_a_running_request_finish() {
    let origin = Origin::held("done").await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    let pending = tokio::spawn(async move { client.get(&host, "/").await });
    origin.has_requests(1).await;
    let draining = tokio::spawn(app.shutdown());
    origin.release(1);
    assert_eq!(pending.await.unwrap().text(), "done");
    draining.await.unwrap();
}
