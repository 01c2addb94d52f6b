//! Upstream connections: how many there are, who may use one, and when one ends.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, forwarding, http2_cluster};
use crate::support::circuit::circuit;
use crate::support::client::{Http2, Reply, full};
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{A_MOMENT, eventually, within};

/// An HTTP/2 origin that answers `ok`: at `/held` once `go` lets it, elsewhere at once. It lets
/// `streams` run on a connection, and says goodbye to one when `leave` says so.
async fn shared_origin(streams: u32, go: &Arc<Semaphore>, leave: &Arc<Notify>) -> Origin {
    let (go, leave) = (Arc::clone(go), Arc::clone(leave));
    Origin::tcp(move |stream| {
        let (go, leave) = (Arc::clone(&go), Arc::clone(&leave));
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let go = Arc::clone(&go);
                async move {
                    if request.uri().path() == "/held" {
                        go.acquire().await.unwrap().forget();
                    }
                    request.into_body().collect().await.unwrap();
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok"))))
                }
            });
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(streams);
            let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                _ = serving.as_mut() => return,
                () = leave.notified() => serving.as_mut().graceful_shutdown(),
            }
            // Ends with its peer, in whatever way.
            serving.await.ok();
        }
    })
    .await
}

async fn through(cluster: &Value) -> (TestApp, Http2) {
    let text = bootstrap(&[forwarding("web", "a")], std::slice::from_ref(cluster)).to_string();
    let app = TestApp::bootstrap(&text).await;
    // One connection of the client, so that all requests are served by one data thread.
    let client = Http2::connect(app.listener("web")).await;
    (app, client)
}

fn post(path: &str) -> Request<crate::support::client::Body> {
    let uri = format!("http://any.example{path}");
    Request::post(uri).body(full("body")).unwrap()
}

fn posts(client: &Http2, path: &'static str, count: usize) -> JoinSet<Reply> {
    (0..count)
        .map(|_| {
            let client = client.clone();
            async move { client.send(post(path)).await }
        })
        .collect()
}

async fn statuses(replies: JoinSet<Reply>) -> Vec<u16> {
    let replies = replies.join_all().await;
    replies.iter().map(|r| r.status.as_u16()).collect()
}

fn limited(at: SocketAddr) -> Value {
    let mut cluster = cluster("a", at);
    cluster["connect_timeout"] = json!("20s");
    cluster["circuit_breakers"] = json!({"thresholds": [{"max_connections": 1}]});
    cluster
}

#[tokio::test]
async fn requests_take_turns_on_the_one_connection_that_the_limit_allows() {
    let origin = Origin::fixed("ok").await;
    let (_app, client) = through(&limited(origin.address)).await;
    assert_eq!(statuses(posts(&client, "/", 20)).await, [200; 20]);
    assert_eq!(origin.connections(), 1);
}

/// Its end answers the first request that it gets once it may be on its way whole, reads nothing of it,
/// and never will.
async fn answers_unread(mut first: UnixStream) {
    let mut head = [0; 1024];
    first.read_exact(&mut head).await.unwrap();
    tokio::time::sleep(A_MOMENT).await;
    let answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
    first.write_all(answer).await.unwrap();
    std::future::pending::<()>().await;
}

/// The danger: the connection looks idle, and whoever gets it next waits for ever.
#[tokio::test]
async fn an_answer_to_a_request_that_nobody_reads_keeps_no_other_request_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app");
    let socket = UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(async move {
        let first = tokio::spawn(answers_unread(socket.accept().await.unwrap().0));
        let (mut second, _) = socket.accept().await.unwrap();
        let mut head = [0; 4096];
        while second.read(&mut head).await.is_ok_and(|length| length > 0) {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            second.write_all(answer).await.unwrap();
        }
        first.abort();
    });
    let endpoint = json!({"endpoint": {"address": {"pipe": {"path": path}}}});
    let cluster = json!({"name": "a", "type": "STATIC", "load_assignment": {
        "cluster_name": "a", "endpoints": [{"lb_endpoints": [endpoint]}],
    }});
    let (_app, client) = through(&cluster).await;
    // More than a Unix socket takes, and less than the codec keeps besides.
    let large = Request::post("http://any.example/").body(full(vec![b'x'; 300_000]));
    assert_eq!(client.send(large.unwrap()).await.status, 413);
    let next = within("the next request", client.get("any.example", "/"));
    assert_eq!(next.await.status, 200);
    serving.abort();
}

/// The danger: whoever writes meets the reset first, and the answer that came before it is lost.
#[tokio::test]
async fn an_answer_is_passed_on_when_its_endpoint_leaves_without_having_read_the_request() {
    let origin = Origin::tcp(|mut stream| async move {
        let mut head = [0; 1024];
        stream.read_exact(&mut head).await.unwrap();
        let answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\n\r\ntoo large";
        stream.write_all(answer).await.unwrap();
        // With something unread: a reset.
    })
    .await;
    let (_app, client) = through(&cluster("a", origin.address)).await;
    for _ in 0..20 {
        let large = Request::post("http://any.example/").body(full(vec![b'x'; 1_000_000]));
        let reply = client.send(large.unwrap()).await;
        assert_eq!((reply.status.as_u16(), &*reply.text()), (413, "too large"));
    }
}

/// The danger: a connection that is idle, and for another client, takes the room until it grows old.
#[tokio::test]
async fn a_connection_that_is_for_another_client_makes_room_once_it_is_idle() {
    const SOCKETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets";
    let origin = Origin::tcp(|mut stream| async move {
        let mut seen = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            seen.extend_from_slice(&piece[..length]);
            if seen.ends_with(b"\r\n\r\n") {
                // So that the others wait.
                tokio::time::sleep(A_MOMENT).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                seen.clear();
            }
        }
    })
    .await;
    let mut cluster = limited(origin.address);
    // Less than such a connection may be idle.
    cluster["metadata"] = json!({"filter_metadata": {"causeway": {"queue_timeout": "8s"}}});
    cluster["transport_socket"] = json!({
        "name": "proxy_protocol",
        "typed_config": {
            "@type": format!("{SOCKETS}.proxy_protocol.v3.ProxyProtocolUpstreamTransport"),
            "config": {"version": "V1"},
            "transport_socket": {
                "name": "raw",
                "typed_config": {"@type": format!("{SOCKETS}.raw_buffer.v3.RawBuffer")},
            },
        },
    });
    let text = bootstrap(&[forwarding("web", "a")], &[cluster]).to_string();
    let app = TestApp::bootstrap(&text).await;
    // Of five, some are served by one thread.
    let mut clients = JoinSet::new();
    for _ in 0..5 {
        let client = Http2::connect(app.listener("web")).await;
        clients.spawn(async move { (client.get("any.example", "/").await.status, client) });
    }
    for (status, _open) in clients.join_all().await {
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn who_waits_too_long_for_a_connection_is_told_so() {
    let go = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&go);
    let origin = Origin::tcp(move |mut stream| {
        let held = Arc::clone(&held);
        async move {
            let mut head = [0; 4096];
            while stream.read(&mut head).await.is_ok_and(|length| length > 0) {
                held.acquire().await.unwrap().forget();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let mut cluster = limited(origin.address);
    cluster["metadata"] = json!({"filter_metadata": {"causeway": {"queue_timeout": "0.05s"}}});
    let (app, client) = through(&cluster).await;
    let first = posts(&client, "/", 1);
    eventually("it is under way", || origin.connections() == 1).await;
    let reply = client.send(post("/")).await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().ends_with("overflow"), "{}", reply.text());
    let stats = app.running.stats.cluster("a");
    assert_eq!(stats.upstream_rq_queue_timeout.value(), 1);
    assert_eq!(stats.upstream_rq_pending_overflow.value(), 1);
    assert_eq!(stats.upstream_cx_connect_timeout.value(), 0);
    go.add_permits(1);
    assert_eq!(statuses(first).await, [200]);
}

#[tokio::test]
async fn who_waits_opens_a_connection_when_the_one_has_ended() {
    let origin = Origin::once(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let origin = origin.await;
    let (_app, client) = through(&limited(origin.address)).await;
    assert_eq!(statuses(posts(&client, "/", 5)).await, [200; 5]);
    assert_eq!(origin.connections(), 5);
}

/// The other data thread may hold the only connection; its requests are not ours to wait for.
#[tokio::test]
async fn every_thread_has_a_connection_whatever_the_limit() {
    let origin = Origin::fixed("ok").await;
    let (app, first) = through(&limited(origin.address)).await;
    assert_eq!(first.send(post("/")).await.status, 200);
    for _ in 0..16 {
        let client = Http2::connect(app.listener("web")).await;
        assert_eq!(client.send(post("/")).await.status, 200);
    }
    assert!(origin.connections() <= 2);
}

#[tokio::test]
async fn a_request_after_a_goodbye_goes_over_another_connection() {
    let (go, leave) = (Arc::new(Semaphore::new(0)), Arc::default());
    let origin = shared_origin(100, &go, &leave).await;
    let (_app, client) = through(&http2_cluster("a", origin.address)).await;
    assert_eq!(client.send(post("/")).await.status, 200);
    // A stream that keeps the connection open after the goodbye.
    let held = posts(&client, "/held", 1);
    assert_eq!(client.send(post("/")).await.status, 200);
    leave.notify_one();
    while origin.connections() < 2 {
        assert_eq!(client.send(post("/")).await.status, 200);
    }
    go.add_permits(1);
    assert_eq!(statuses(held).await, [200]);
}

#[tokio::test]
async fn streams_beyond_what_the_peer_allows_go_over_another_connection() {
    let go = Arc::new(Semaphore::new(0));
    let origin = shared_origin(1, &go, &Arc::default()).await;
    let (app, client) = through(&http2_cluster("a", origin.address)).await;
    assert_eq!(client.send(post("/")).await.status, 200);
    let held = posts(&client, "/held", 3);
    eventually("three connections", || origin.connections() == 3).await;
    assert_eq!(client.send(post("/")).await.status, 200);
    go.add_permits(3);
    assert_eq!(statuses(held).await, [200; 3]);
    assert_eq!(app.upstream_connections(), 4);
}

#[tokio::test]
async fn streams_wait_for_a_place_on_the_connections_that_there_may_be() {
    let go = Arc::new(Semaphore::new(0));
    let origin = shared_origin(1, &go, &Arc::default()).await;
    let mut cluster = http2_cluster("a", origin.address);
    cluster["circuit_breakers"] = json!({"thresholds": [{"max_connections": 1}]});
    cluster["metadata"] = json!({"filter_metadata": {"causeway": {"queue_timeout": "20s"}}});
    let (app, client) = through(&cluster).await;
    assert_eq!(client.send(post("/")).await.status, 200);
    let held = posts(&client, "/held", 4);
    let waiting = || {
        app.running
            .stats
            .cluster("a")
            .upstream_rq_pending_active
            .value()
    };
    eventually("three wait", || waiting() == 3).await;
    go.add_permits(4);
    assert_eq!(statuses(held).await, [200; 4]);
    assert_eq!((origin.connections(), waiting()), (1, 0));
}

#[tokio::test]
async fn all_who_wait_for_a_connection_fail_with_it() {
    // Takes connections and never shakes hands.
    let silent = Origin::tcp(|mut stream| async move {
        let mut nothing = Vec::new();
        stream.read_to_end(&mut nothing).await.ok();
    })
    .await;
    let mut cluster = http2_cluster("a", silent.address);
    cluster["connect_timeout"] = json!("1s");
    cluster["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    }});
    let (_app, client) = through(&cluster).await;
    assert_eq!(statuses(posts(&client, "/", 5)).await, [503; 5]);
    assert_eq!(silent.connections(), 1);
}

#[tokio::test]
async fn names_of_fields_keep_their_letters_where_that_is_asked_for() {
    let seen = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&seen);
    let origin = Origin::tcp(move |mut stream| {
        let noted = Arc::clone(&noted);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    return;
                };
                head.push(byte);
            }
            noted
                .lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&head));
            let answer = "HTTP/1.1 200 Fine\r\nX-RePly: 1\r\nContent-LENGTH: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.ok();
        }
    })
    .await;
    let preserve = json!({"header_key_format": {"stateful_formatter": {
        "name": "p",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"},
    }}});
    let mut web = forwarding("web", "a");
    web["filter_chains"][0]["filters"][0]["typed_config"]["http_protocol_options"] =
        preserve.clone();
    let mut upstream = cluster("a", origin.address);
    upstream["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": preserve},
        },
    });
    let app = TestApp::bootstrap(&bootstrap(&[web], &[upstream]).to_string()).await;
    let mut raw = Raw::connect(app.listener("web")).await;
    raw.send("GET / HTTP/1.1\r\nHoSt: a\r\nX-MiXed: 1\r\nConnection: close\r\n\r\n")
        .await;
    let (bytes, _) = raw.rest().await;
    let head = String::from_utf8(bytes).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("X-RePly: 1\r\n"), "{head}");
    let seen = seen.lock().unwrap();
    assert!(
        seen.contains("HoSt: a\r\n") && seen.contains("X-MiXed: 1\r\n"),
        "{seen}"
    );
    assert!(seen.contains("x-forwarded-proto: http\r\n"), "{seen}");
}

#[tokio::test]
async fn a_connection_that_is_old_enough_takes_no_more_requests() {
    let origin = Origin::echo().await;
    for (limit, connections) in [("0.000000001s", 3), ("3600s", 1)] {
        let mut upstream = cluster("a", origin.address);
        upstream["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"max_connection_duration": limit},
                "explicit_http_config": {"http_protocol_options": {}},
            },
        });
        let (app, client) = through(&upstream).await;
        let before = origin.connections();
        for _ in 0..3 {
            assert_eq!(client.send(post("/")).await.status, 200);
        }
        assert_eq!(origin.connections() - before, connections, "{limit}");
        drop(app);
    }
}

#[tokio::test]
async fn streams_of_a_removed_circuit_end() {
    let go = Arc::new(Semaphore::new(0));
    let origin = shared_origin(100, &go, &Arc::default()).await;
    let circuit = circuit(1).kernel(origin.address).protocol("h2");
    let app = TestApp::serving(&[&circuit]).await;
    let client = Http2::connect(app.wildcard()).await;
    let uri = format!("http://{}/held", circuit.host());
    let held = tokio::spawn(async move {
        let request = Request::post(uri).body(full("body")).unwrap();
        client.send(request).await.status
    });
    eventually("a connection", || origin.open() == 1).await;
    app.remove(&circuit).await;
    assert_eq!(held.await.unwrap(), 502);
    origin.has_no_connection().await;
}

/// Where more connections are wanted than are needed.
fn preconnecting(mut cluster: Value, policy: &Value) -> Value {
    cluster["connect_timeout"] = json!("20s");
    cluster["preconnect_policy"] = policy.clone();
    cluster
}

#[tokio::test]
async fn a_connection_is_there_before_the_request_that_uses_it() {
    let origin = Origin::held("ok").await;
    let policy = json!({"per_upstream_preconnect_ratio": 1.5});
    let mut cluster = preconnecting(cluster("a", origin.address), &policy);
    cluster["circuit_breakers"] = json!({"thresholds": [{"max_connections": 2}]});
    let (app, client) = through(&cluster).await;
    let first = posts(&client, "/", 1);
    origin.has_requests(1).await;
    eventually("one more connection", || origin.connections() == 2).await;
    // There may not be a third one, so that this is the one that was opened before.
    let second = posts(&client, "/", 1);
    origin.has_requests(2).await;
    let stats = app.running.stats.cluster("a");
    eventually("a third one is wanted", || {
        stats.upstream_cx_overflow.value() > 0
    })
    .await;
    origin.release(2);
    assert_eq!(statuses(first).await, [200]);
    assert_eq!(statuses(second).await, [200]);
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn an_endpoint_that_is_not_well_gets_the_connections_that_are_needed() {
    let origin = Origin::fixed("ok").await;
    let policy = json!({
        "per_upstream_preconnect_ratio": 3.0, "predictive_preconnect_ratio": 3.0,
    });
    let mut cluster = preconnecting(cluster("a", origin.address), &policy);
    let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
    endpoint["health_status"] = json!("DEGRADED");
    let (_app, client) = through(&cluster).await;
    assert_eq!(statuses(posts(&client, "/", 1)).await, [200]);
    tokio::time::sleep(A_MOMENT).await;
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_connection_of_http2_is_opened_when_places_run_out() {
    let (go, leave) = (Arc::new(Semaphore::new(0)), Arc::default());
    let origin = shared_origin(1, &go, &leave).await;
    let policy = json!({"per_upstream_preconnect_ratio": 1.5});
    let mut cluster = preconnecting(http2_cluster("a", origin.address), &policy);
    cluster["circuit_breakers"] = json!({"thresholds": [{"max_connections": 2}]});
    let (_app, client) = through(&cluster).await;
    // The settings of the endpoint have come with it.
    assert_eq!(statuses(posts(&client, "/", 1)).await, [200]);
    let held = posts(&client, "/held", 1);
    eventually("one more connection", || origin.connections() == 2).await;
    assert_eq!(statuses(posts(&client, "/", 1)).await, [200]);
    go.add_permits(1);
    assert_eq!(statuses(held).await, [200]);
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn the_endpoint_that_is_next_is_connected_to_before_its_turn() {
    let origins = [
        Origin::fixed("one").await,
        Origin::fixed("two").await,
        Origin::fixed("three").await,
    ];
    let policy = json!({"predictive_preconnect_ratio": 1.5});
    let mut cluster = preconnecting(cluster("a", origins[0].address), &policy);
    let endpoints = origins.each_ref().map(|origin| {
        let address = json!({"address": "127.0.0.1", "port_value": origin.address.port()});
        json!({"endpoint": {"address": {"socket_address": address}}})
    });
    cluster["load_assignment"]["endpoints"] = json!([{"lb_endpoints": endpoints}]);
    let (_app, client) = through(&cluster).await;
    let connections = || origins.iter().map(Origin::connections).sum::<usize>();
    let first = client.send(post("/")).await;
    eventually("the next one is connected to", || connections() == 2).await;
    let waiting = |o: &&Origin| o.connections() == 1 && o.requests().is_empty();
    let next = origins.iter().find(waiting).unwrap();
    let second = client.send(post("/")).await;
    assert_ne!(first.text(), second.text());
    assert_eq!((next.requests().len(), next.connections()), (1, 1));
}
