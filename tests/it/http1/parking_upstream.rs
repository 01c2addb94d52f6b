//! Connections to endpoints that nobody wants for a while.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::Notify;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, to};
use crate::support::circuit::circuit;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::origin::Origin;
use crate::support::raw::Raw;

async fn through(origin: &Origin) -> (TestApp, Raw) {
    let manager = json!({
        "route_config": to("a"), "upgrade_configs": [{"upgrade_type": "websocket"}]});
    let clusters = [cluster("a", origin.address)];
    let text = bootstrap(&[listener("web", &http(&manager))], &clusters).to_string();
    let app = TestApp::bootstrap(&text).await;
    let raw = Raw::connect(app.listener("web")).await;
    (app, raw)
}

async fn parked(app: &TestApp, count: i64) {
    let of_all = || {
        let clusters = app.running.stats.clusters();
        let each = clusters
            .iter()
            .map(|(_, stats)| stats.upstream_cx_parked.value());
        each.sum::<i64>()
    };
    eventually("as many are parked", || of_all() == count).await;
}

async fn get(raw: &mut Raw, target: &str) -> String {
    raw.send(format!("GET {target} HTTP/1.1\r\nhost: any\r\n\r\n"))
        .await;
    raw.answer().await.text()
}

#[tokio::test]
async fn a_parked_connection_is_used_again_and_parked_again() {
    let origin = Origin::fixed("here").await;
    let (app, mut raw) = through(&origin).await;
    for _ in 0..3 {
        assert_eq!(get(&mut raw, "/").await, "here");
        parked(&app, 1).await;
        assert_eq!(
            app.upstream_connections(),
            1,
            "it counts as one that is there"
        );
    }
    assert_eq!(origin.connections(), 1);
    app.shutdown().await;
    origin.has_no_connection().await;
}

#[tokio::test]
async fn what_was_parked_can_become_a_tunnel() {
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.header("upgrade").is_empty() {
                conn.reply(200, &[], "plain").await;
                continue;
            }
            let answer = "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            conn.send(answer).await;
            let (mut stream, _) = conn.into_parts();
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.ok();
            return;
        }
    })
    .await;
    let (app, mut raw) = through(&origin).await;
    assert_eq!(get(&mut raw, "/").await, "plain");
    parked(&app, 1).await;
    raw.send(
        "GET / HTTP/1.1\r\nhost: any\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    )
    .await;
    assert_eq!(raw.head().await.unwrap().status, 101);
    raw.send("to and fro").await;
    assert_eq!(raw.bytes(10).await, b"to and fro");
    parked(&app, 0).await;
    assert_eq!(origin.connections(), 1);
}

/// The danger: a request goes into a connection whose endpoint has gone meanwhile.
#[tokio::test]
async fn a_parked_connection_ends_with_its_endpoint() {
    let leave = Arc::new(Notify::new());
    let told = Arc::clone(&leave);
    let origin = Origin::http(move |mut conn| {
        let leave = Arc::clone(&told);
        async move {
            conn.request().await;
            conn.reply(200, &[], "one").await;
            leave.notified().await;
        }
    })
    .await;
    let (app, mut raw) = through(&origin).await;
    assert_eq!(get(&mut raw, "/").await, "one");
    parked(&app, 1).await;
    leave.notify_one();
    parked(&app, 0).await;
    eventually("it is gone", || app.upstream_connections() == 0).await;
    assert_eq!(get(&mut raw, "/").await, "one");
    assert_eq!(origin.connections(), 2);
}

/// The danger: what an endpoint says without being asked is taken for the answer to the next request.
#[tokio::test]
async fn a_parked_connection_on_which_the_endpoint_speaks_is_closed() {
    let speak = Arc::new(Notify::new());
    let told = Arc::clone(&speak);
    let origin = Origin::http(move |mut conn| {
        let speak = Arc::clone(&told);
        async move {
            conn.request().await;
            conn.reply(200, &[], "asked").await;
            speak.notified().await;
            conn.reply(408, &[], "unasked").await;
            conn.left().await;
        }
    })
    .await;
    let (app, mut raw) = through(&origin).await;
    assert_eq!(get(&mut raw, "/").await, "asked");
    parked(&app, 1).await;
    speak.notify_one();
    origin.has_no_connection().await;
    parked(&app, 0).await;
    assert_eq!(get(&mut raw, "/").await, "asked");
}

#[tokio::test]
async fn a_parked_connection_ends_with_its_circuit() {
    let origin = Origin::fixed("here").await;
    let circuit = circuit(1).kernel(origin.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut client = Http1::connect(app.wildcard()).await;
    assert_eq!(client.get(&circuit.host(), "/").await.status, 200);
    parked(&app, 1).await;
    app.remove(&circuit).await;
    origin.has_no_connection().await;
}

/// The danger: sessions of TLS 1.3 hear of tickets while nobody reads.
#[tokio::test]
async fn a_connection_over_tls_is_parked_too() {
    let certified = Arc::new(crate::tls::certified());
    let origin = Origin::tcp(move |stream| {
        let certified = Arc::clone(&certified);
        async move { crate::tls::answer(stream, &certified).await }
    })
    .await;
    let mut endpoint = cluster("a", origin.address);
    endpoint["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}});
    let manager = http(&json!({"route_config": to("a")}));
    let text = bootstrap(&[listener("web", &manager)], &[endpoint]).to_string();
    let app = TestApp::bootstrap(&text).await;
    let mut raw = Raw::connect(app.listener("web")).await;
    for _ in 0..2 {
        assert_eq!(get(&mut raw, "/").await, "tls");
        parked(&app, 1).await;
    }
    assert_eq!(origin.connections(), 1);
}
