//! Nothing drops when something else changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::app::TestApp;
use crate::support::circuit::{Circuit, circuit};
use crate::support::client::{Http1, empty, request};
use crate::support::origin::Origin;
use crate::support::process::allow_open_files;
use crate::support::{eventually, within, ws};

const SOCKETS: usize = 1000;
const DOWNLOADS: usize = 100;
const PUSHES: u32 = 1000;
const EQUAL_PUSHES: usize = 100;
/// Both ends of both connections of each are in this process.
const FILES: u64 = 4 * (SOCKETS + DOWNLOADS) as u64 + 500;

const PIECE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";

/// Streams pieces until told to end, then ends the body properly.
async fn streaming_origin(end: Arc<AtomicBool>) -> Origin {
    Origin::http(move |mut conn| {
        let end = Arc::clone(&end);
        async move {
            if conn.request().await.is_none() {
                return;
            }
            conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            let chunk = format!("{:x}\r\n{PIECE}\r\n", PIECE.len());
            while !end.load(SeqCst) {
                if !conn.send(&chunk).await {
                    return;
                }
                // The pace of the stream, not a condition.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            conn.send("0\r\n\r\n").await;
            conn.left().await;
        }
    })
    .await
}

/// 1,000 sockets, spread over the three ways to a circuit.
async fn open_sockets(app: &TestApp, named: &Circuit, placed: &Circuit) -> Vec<ws::Socket> {
    let mut opening = JoinSet::new();
    let ways = [
        (app.wildcard(), named.host(), "/ws".to_owned()),
        (app.frontend(placed), placed.host(), "/ws".to_owned()),
        (
            app.path(),
            "localhost".to_owned(),
            format!("{}/ws", named.prefix()),
        ),
    ];
    let mut sockets = Vec::with_capacity(SOCKETS);
    for (at, host, path) in ways.into_iter().cycle().take(SOCKETS) {
        opening.spawn(async move { ws::open(at, &host, &path).await });
        // A few at a time: this is not a test of backlogs.
        if opening.len() >= 50 {
            sockets.push(opening.join_next().await.unwrap().unwrap());
        }
    }
    sockets.append(&mut opening.join_all().await);
    sockets
}

async fn all_echo(sockets: &mut [ws::Socket], round: &str) {
    for (i, socket) in sockets.iter_mut().enumerate() {
        let text = format!("{round} {i}");
        ws::echoed(socket, &text)
            .await
            .unwrap_or_else(|e| panic!("socket {i}, {round}: {e}"));
    }
}

/// One download; its length once it has come to a proper end.
async fn download(mut client: Http1, host: String, running: Arc<AtomicUsize>) -> usize {
    let request = request("GET", &host, "/download").body(empty()).unwrap();
    let mut body = client.start(request).await.unwrap().into_body();
    let mut length = 0;
    while let Some(frame) = within("a piece", body.frame()).await {
        let data = frame.expect("the download goes on").into_data().unwrap();
        for byte in data {
            assert_eq!(byte, PIECE.as_bytes()[length % PIECE.len()], "at {length}");
            length += 1;
        }
        if length == PIECE.len() {
            running.fetch_add(1, SeqCst);
        }
    }
    length
}

/// A change of another circuit than those with open connections: it comes, moves to other kernels
/// and goes, on every frontend.
fn other_change(step: u32, elsewhere: &Origin) -> (&'static str, String, Value) {
    let (cycle, phase) = (step / 4, step % 4);
    let other = circuit(1000 + cycle % 7).kernel(elsewhere.address);
    let other = if cycle.is_multiple_of(2) {
        other
    } else {
        other.at_slot(3)
    };
    let mut moved = other.clone().kernel("127.0.0.1:9".parse().unwrap()).value;
    let id = other.id;
    match phase {
        0 => ("POST", "/v1/circuits".to_owned(), json!([other.value])),
        1 => (
            "PUT",
            format!("/v1/circuits/{id}/routes"),
            moved["route_info"].take(),
        ),
        2 => {
            let mut renamed = other.value;
            renamed["app"] = json!("renamed");
            ("POST", "/v1/circuits".to_owned(), renamed)
        }
        _ => ("DELETE", format!("/v1/circuits/{id}"), Value::Null),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_and_downloads_survive_a_thousand_changes_of_others() {
    allow_open_files(FILES);
    let end = Arc::new(AtomicBool::new(false));
    let (echo, stream) = (
        ws::echo_origin().await,
        streaming_origin(Arc::clone(&end)).await,
    );
    let elsewhere = Origin::fixed("elsewhere").await;
    let named = circuit(1).kernel(echo.address);
    let placed = circuit(2).kernel(echo.address).at_slot(1);
    let downloads = circuit(3).kernel(stream.address);
    let own = [&named, &placed, &downloads];
    let app = TestApp::serving(&own).await;

    let mut sockets = open_sockets(&app, &named, &placed).await;
    let running = Arc::new(AtomicUsize::new(0));
    let mut downloading = JoinSet::new();
    for _ in 0..DOWNLOADS {
        let client = Http1::connect(app.frontend(&downloads)).await;
        downloading.spawn(download(client, downloads.host(), Arc::clone(&running)));
    }
    eventually("all downloads run", || running.load(SeqCst) == DOWNLOADS).await;
    all_echo(&mut sockets, "before").await;
    let (before, served) = (app.generation(), echo.connections());

    let mut shim = app.shim().await;
    for step in 0..PUSHES {
        let (method, path, body) = other_change(step, &elsewhere);
        let answer = shim.accepted(method, &path, &body).await;
        assert_eq!(answer["changed"], true, "push {step}: {method} {path}");
    }
    assert!(
        app.generation() >= before + u64::from(PUSHES),
        "every change is a generation"
    );
    all_echo(&mut sockets, "changed").await;

    let before = app.generation();
    let body: Vec<&Value> = own.iter().map(|c| &c.value).collect();
    let body = serde_json::to_value(body).unwrap();
    for i in 0..EQUAL_PUSHES {
        // Announcing again and replacing the whole set by itself are both no change.
        let method = if i % 2 == 0 { "POST" } else { "PUT" };
        let answer = shim.accepted(method, "/v1/circuits", &body).await;
        assert_eq!(answer["changed"], false, "equal push {i}");
        assert_eq!(answer["generation"], before, "equal push {i}");
    }
    assert_eq!(app.generation(), before, "equal pushes publish nothing");

    all_echo(&mut sockets, "after").await;
    assert_eq!(echo.connections(), served, "no socket was opened anew");
    end.store(true, SeqCst);
    let lengths = downloading.join_all().await;
    assert_eq!(lengths.len(), DOWNLOADS);
    assert!(
        lengths.iter().all(|l| l % PIECE.len() == 0),
        "whole pieces only: {lengths:?}"
    );
}
