//! Deadlines of a stream: each fires by its name, and only where it belongs.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, routes};
use crate::support::origin::Origin;
use crate::support::raw::Raw;

async fn serving(origin: &Origin, manager: Value, route: Value) -> (TestApp, Raw) {
    let mut action = json!({"cluster": "a"});
    for (key, value) in route.as_object().unwrap() {
        action[key] = value.clone();
    }
    let mut settings =
        json!({"route_config": routes(&json!([{"match": {"prefix": "/"}, "route": action}]))});
    for (key, value) in manager.as_object().unwrap() {
        settings[key] = value.clone();
    }
    let clusters = [cluster("a", origin.address)];
    let listeners = [listener("web", &http(&settings))];
    let app = TestApp::bootstrap(&bootstrap(&listeners, &clusters).to_string()).await;
    let raw = Raw::connect(app.listener("web")).await;
    (app, raw)
}

/// The upstream's time begins when the last byte of the body has been passed on, which another task
/// than the waiting one sees.
#[tokio::test]
async fn the_route_timeout_begins_at_the_end_of_the_body() {
    let origin = Origin::held("never").await;
    let (_app, mut raw) = serving(&origin, json!({}), json!({"timeout": "0.1s"})).await;
    raw.send("POST / HTTP/1.1\r\nhost: any\r\ncontent-length: 4\r\n\r\nab")
        .await;
    origin.has_requests(1).await;
    raw.send("cd").await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (504, "upstream request timeout")
    );
}

#[tokio::test]
async fn a_request_that_does_not_end_in_time_is_answered_with_408() {
    let origin = Origin::held("never").await;
    let (_app, mut raw) = serving(&origin, json!({"request_timeout": "0.1s"}), json!({})).await;
    raw.send("POST / HTTP/1.1\r\nhost: any\r\ncontent-length: 4\r\n\r\nab")
        .await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (408, "request timeout")
    );
    raw.ended().await;
}

#[tokio::test]
async fn a_stream_without_a_byte_is_ended_by_the_route_s_idle_timeout() {
    let origin = Origin::held("never").await;
    let (_app, mut raw) = serving(
        &origin,
        json!({}),
        json!({"idle_timeout": "0.1s", "timeout": "0s"}),
    )
    .await;
    raw.send("GET / HTTP/1.1\r\nhost: any\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (504, "stream timeout")
    );
}

#[tokio::test]
async fn a_head_that_does_not_end_in_time_is_answered_with_408() {
    let origin = Origin::fixed("never").await;
    let manager = json!({"request_headers_timeout": "0.1s"});
    let (_app, mut raw) = serving(&origin, manager, json!({})).await;
    raw.send("GET / HTTP/1.1\r\nhost: an").await;
    assert_eq!(raw.answer().await.status, 408);
    raw.ended().await;
}

/// While hyper waits for the socket it asks no body for more, so that only the connection can see
/// that the client takes nothing.
#[tokio::test]
async fn a_client_that_takes_nothing_does_not_hold_its_upstream() {
    let origin = Origin::http(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while conn.send(&chunk).await {}
    })
    .await;
    let manager = json!({"stream_idle_timeout": "0.2s"});
    let (_app, mut raw) = serving(&origin, manager, json!({"timeout": "0s"})).await;
    raw.send("GET / HTTP/1.1\r\nhost: any\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    origin.has_no_connection().await;
}
