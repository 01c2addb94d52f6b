//! Connections on which nothing happens for a while, and what comes after.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, to};
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{eventually, within};

struct Parking {
    app: TestApp,
    raw: Raw,
}

impl Parking {
    async fn with(origin: &Origin, more: serde_json::Value) -> Self {
        let mut manager = json!({"route_config": to("a")});
        manager
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let clusters = [cluster("a", origin.address)];
        let text = bootstrap(&[listener("web", &http(&manager))], &clusters).to_string();
        let app = TestApp::bootstrap(&text).await;
        let raw = Raw::connect(app.listener("web")).await;
        Self { app, raw }
    }

    async fn parked(&self, count: i64) {
        let stats = self.app.running.stats.http("web");
        eventually("as many are parked", || {
            stats.downstream_cx_parked.value() == count
        })
        .await;
    }

    async fn get(&mut self, target: &str) {
        let head = format!("GET {target} HTTP/1.1\r\nhost: any\r\n\r\n");
        self.raw.send(head).await;
        self.answered(target).await;
    }

    async fn answered(&mut self, target: &str) {
        let answer = self.raw.answer().await;
        let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(told["target"], target);
    }
}

#[tokio::test]
async fn a_parked_connection_goes_on_where_it_was() {
    let origin = Origin::echo().await;
    let mut client = Parking::with(&origin, json!({})).await;
    client.get("/1").await;
    client.parked(1).await;
    client.get("/2").await;
    client.parked(1).await;
    // A head that comes in pieces wakes it with the first.
    client.raw.send("G").await;
    client.parked(0).await;
    client.raw.send("ET /3 HTTP/1.1\r\nhost: any\r\n\r\n").await;
    client.answered("/3").await;
    client.parked(1).await;
    let post =
        "POST /4 HTTP/1.1\r\nhost: any\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    client.raw.send(post).await;
    client.answered("/4").await;
    client.parked(1).await;
    assert_eq!(origin.connections(), 1);
}

/// The danger: bytes that the codec had read go with it.
#[tokio::test]
async fn the_beginning_of_a_pipelined_head_is_not_lost() {
    let origin = Origin::echo().await;
    let mut client = Parking::with(&origin, json!({})).await;
    let one = "GET /1 HTTP/1.1\r\nhost: any\r\n\r\nGET /2 HTT";
    client.raw.send(one).await;
    client.answered("/1").await;
    // Longer than it takes until a silent one is parked.
    let mut other = Raw::connect(client.app.listener("web")).await;
    other.send("GET / HTTP/1.1\r\nhost: any\r\n\r\n").await;
    assert_eq!(other.answer().await.status, 200);
    client.parked(1).await;
    client.raw.send("P/1.1\r\nhost: any\r\n\r\n").await;
    client.answered("/2").await;
}

#[tokio::test]
async fn a_parked_connection_ends_when_it_was_idle_for_too_long() {
    let origin = Origin::echo().await;
    let limits = json!({
        "common_http_protocol_options": {"idle_timeout": "2s"},
        "drain_timeout": "0.05s",
        "delayed_close_timeout": "0.05s",
    });
    let mut client = Parking::with(&origin, limits).await;
    client.get("/").await;
    client.parked(1).await;
    client.raw.ended().await;
    client.parked(0).await;
    let stats = client.app.running.stats.http("web");
    assert_eq!(stats.downstream_cx_idle_timeout.value(), 1);
}

#[tokio::test]
async fn a_parked_connection_ends_with_a_drain() {
    let origin = Origin::echo().await;
    let mut client = Parking::with(&origin, json!({})).await;
    client.get("/").await;
    client.parked(1).await;
    let Parking { app, mut raw } = client;
    tokio::join!(app.shutdown(), raw.ended());
}

/// The danger: what is left of an upload that was answered early is taken for the next request.
#[tokio::test]
async fn an_upload_that_was_answered_early_is_not_parked() {
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.reply(200, &[], "early").await;
            conn.content(&head).await;
        }
    })
    .await;
    let mut client = Parking::with(&origin, json!({})).await;
    let head = "PUT /1 HTTP/1.1\r\nhost: any\r\ncontent-length: 100\r\n\r\nxyz";
    client.raw.send(head).await;
    assert_eq!(client.raw.answer().await.text(), "early");
    // Another one that is silent for as long is parked meanwhile.
    let mut other = Raw::connect(client.app.listener("web")).await;
    other.send("GET / HTTP/1.1\r\nhost: any\r\n\r\n").await;
    assert_eq!(other.answer().await.text(), "early");
    client.parked(1).await;
    let rest = "GET /smuggled HTTP/1.1\r\nhost: any\r\n\r\n";
    let padding = "x".repeat(97 - rest.len());
    client.raw.try_send(format!("{rest}{padding}")).await.ok();
    other.send("GET /2 HTTP/1.1\r\nhost: any\r\n\r\n").await;
    assert_eq!(other.answer().await.text(), "early");
    let smuggled = origin.requests();
    assert!(smuggled.iter().all(|head| head.target != "/smuggled"));
}

/// The danger: what TLS holds back of an answer, because the socket took no more, is forgotten.
#[tokio::test]
async fn the_end_of_an_answer_reaches_a_client_that_reads_late() {
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let size: usize = head.target.trim_start_matches('/').parse().unwrap();
            conn.reply(200, &[], &"x".repeat(size)).await;
        }
    })
    .await;
    let certified = crate::tls::certified();
    let app = crate::tls::serving(&origin, &crate::tls::inline(&certified)).await;
    let mut clients = Vec::new();
    // One of these sizes leaves its end behind, whatever the buffers of the system are.
    for size in (0..96).map(|n| n * 48 * 1024 + 1) {
        let mut tls = crate::tls::connect(&app, &certified, &["http/1.1"])
            .await
            .unwrap();
        let head = format!("GET /{size} HTTP/1.1\r\nhost: app.test\r\n\r\n");
        within("asking", tls.write_all(head.as_bytes()))
            .await
            .unwrap();
        clients.push((size, tls));
    }
    eventually("all that fits is sent", || {
        origin.requests().len() == clients.len()
    })
    .await;
    // Longer than it takes until a silent connection is parked.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for (size, mut tls) in clients {
        let mut got = Vec::new();
        let whole = async {
            let mut piece = vec![0; 64 * 1024];
            loop {
                let head = got.windows(4).position(|w| w == b"\r\n\r\n");
                if head.is_some_and(|at| got.len() - at - 4 == size) {
                    return;
                }
                let n = tls.read(&mut piece).await.unwrap();
                assert!(n > 0, "ended early");
                got.extend_from_slice(&piece[..n]);
            }
        };
        within("the rest of an answer", whole).await;
    }
}
