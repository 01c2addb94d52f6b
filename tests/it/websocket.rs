//! WebSocket and other upgrades.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async, client_async_with_config};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, http2_cluster, listener, routes};
use crate::support::circuit::circuit;
use crate::support::client::{Body, Http2, empty};
use crate::support::origin::Origin;
use crate::support::raw::{End, Raw};
use crate::support::{own_address, within, ws};

/// Answers an upgrade with fields of its own choice, then echoes bytes.
async fn upgrading(fields: &'static str) -> Origin {
    Origin::http(move |mut conn| async move {
        let Some(head) = conn.request().await else {
            return;
        };
        let accept = derive_accept_key(head.header("sec-websocket-key").as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: {}\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\n{fields}\r\n",
            head.header("upgrade")
        );
        conn.send(answer).await;
        let (mut stream, early) = conn.into_parts();
        stream.write_all(&early).await.ok();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.ok();
        write.shutdown().await.ok();
    })
    .await
}

async fn serving(origin: &Origin) -> (TestApp, String) {
    let circuit = circuit(1).kernel(origin.address);
    (TestApp::serving(&[&circuit]).await, circuit.host())
}

#[tokio::test]
async fn the_origins_own_answer_to_an_upgrade_is_relayed() {
    let fields = "sec-websocket-protocol: v2.kernel\r\n\
                  sec-websocket-extensions: permessage-deflate; client_max_window_bits=12\r\n\
                  x-origin: yes\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n";
    let origin = upgrading(fields).await;
    let (app, host) = serving(&origin).await;
    let mut raw = Raw::connect(app.wildcard()).await;
    raw.send(format!(
        "GET /ws HTTP/1.1\r\nhost: {host}\r\nconnection: keep-alive, Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: v1.kernel, v2.kernel\r\n\
         sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    ))
    .await;
    let answer = raw.head().await.unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(
        answer.header("sec-websocket-accept"),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    assert_eq!(answer.header("sec-websocket-protocol"), "v2.kernel");
    let extensions = answer.header("sec-websocket-extensions");
    assert_eq!(extensions, "permessage-deflate; client_max_window_bits=12");
    assert_eq!(answer.header("x-origin"), "yes");
    assert_eq!(
        answer
            .headers
            .iter()
            .filter(|(n, _)| n == "set-cookie")
            .count(),
        2
    );
    assert_eq!(answer.header("upgrade"), "websocket");
    assert_eq!(answer.header("connection").to_ascii_lowercase(), "upgrade");
    assert_eq!(answer.header("content-length"), "");

    let seen = &origin.requests()[0];
    assert_eq!(
        seen.header("sec-websocket-protocol"),
        "v1.kernel, v2.kernel"
    );
    assert_eq!(seen.header("connection").to_ascii_lowercase(), "upgrade");
    assert_eq!(seen.header("upgrade"), "websocket");
}

#[tokio::test]
async fn text_binary_and_large_messages_pass_both_ways() {
    let origin = ws::echo_origin().await;
    let (app, host) = serving(&origin).await;
    let mut socket = ws::open(app.wildcard(), &host, "/ws").await;
    ws::echoed(&mut socket, "small").await.unwrap();
    for size in [0, 125, 126, 65_535, 65_536, 5_000_000] {
        let data: Bytes = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
        socket.send(Message::binary(data.clone())).await.unwrap();
        let back = within("an echo", socket.next()).await.unwrap().unwrap();
        assert!(
            back == Message::binary(data),
            "{size} bytes came back changed"
        );
    }
}

#[tokio::test]
async fn pings_pongs_and_close_codes_pass() {
    let origin = ws::echo_origin().await;
    let (app, host) = serving(&origin).await;
    let mut socket = ws::open(app.wildcard(), &host, "/ws").await;
    socket
        .send(Message::Ping("are you there".into()))
        .await
        .unwrap();
    let pong = within("a pong", socket.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("are you there".into()));
    let frame = CloseFrame {
        code: CloseCode::Library(4321),
        reason: "enough".into(),
    };
    socket.close(Some(frame.clone())).await.unwrap();
    let close = within("a close", socket.next()).await.unwrap().unwrap();
    assert_eq!(
        close,
        Message::Close(Some(frame)),
        "the origin's answer, not one of ours"
    );
    ws::until_closed(&mut socket).await;
    origin.has_no_connection().await;
}

#[tokio::test]
async fn a_declined_upgrade_is_an_ordinary_answer() {
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.content(&head).await;
            conn.reply(403, &[("x-why", "no cookie")], "not you").await;
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let stream = TcpStream::connect(app.wildcard()).await.unwrap();
    let error = client_async(ws::handshake(&host, "/ws"), stream)
        .await
        .unwrap_err();
    let Error::Http(response) = error else {
        panic!("{error}")
    };
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["x-why"], "no cookie");
    assert_eq!(response.body().as_deref(), Some(&b"not you"[..]));
}

#[tokio::test]
async fn an_upgrade_of_any_protocol_is_a_tunnel() {
    let origin = upgrading("").await;
    let (app, host) = serving(&origin).await;
    let mut raw = Raw::connect(app.wildcard()).await;
    raw.send(format!(
        "POST /x HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: my-protocol/7\r\n\r\n"
    ))
    .await;
    let answer = raw.head().await.unwrap();
    assert_eq!(
        (answer.status, answer.header("upgrade")),
        (101, "my-protocol/7")
    );
    raw.send(b"\x00\xffGET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(raw.bytes(20).await, b"\x00\xffGET / HTTP/1.1\r\n\r\n");
    // Half-close passes too: the origin ends only after it has seen ours.
    raw.send("last").await;
    raw.finish().await;
    let (rest, end) = raw.rest().await;
    assert_eq!((&rest[..], end), (&b"last"[..], End::Closed));
    origin.has_no_connection().await;
}

#[tokio::test]
async fn bytes_sent_along_with_the_handshake_reach_the_tunnel_once() {
    let origin = upgrading("").await;
    let (app, host) = serving(&origin).await;
    let mut raw = Raw::connect(app.wildcard()).await;
    raw.send(format!(
        "GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: bytes\r\n\r\nearly"
    ))
    .await;
    assert_eq!(raw.head().await.unwrap().status, 101);
    raw.send("-late").await;
    assert_eq!(raw.bytes(10).await, b"early-late");
    raw.finish().await;
    assert_eq!(raw.ended().await, End::Closed);
}

#[tokio::test]
async fn bytes_sent_along_with_a_declined_upgrade_are_no_second_request() {
    let origin = Origin::fixed("declined").await;
    let (app, host) = serving(&origin).await;
    let mut raw = Raw::connect(app.wildcard()).await;
    // What follows was meant for the tunnel; taken as a request it would be request smuggling.
    raw.send(format!(
        "GET /ws HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
         GET /smuggled HTTP/1.1\r\nhost: {host}\r\n\r\n"
    ))
    .await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "declined"));
    assert_eq!(answer.header("connection"), "close");
    raw.ended().await;
    let targets: Vec<_> = origin.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/ws"]);
}

#[tokio::test]
async fn bytes_the_origin_sends_along_with_its_101_reach_the_client() {
    let origin = Origin::once(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: bytes\r\n\r\nhello",
    )
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = Raw::connect(app.wildcard()).await;
    raw.send(format!(
        "GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: bytes\r\n\r\n"
    ))
    .await;
    assert_eq!(raw.head().await.unwrap().status, 101);
    raw.finish().await;
    let (rest, _) = raw.rest().await;
    assert_eq!(rest, b"hello");
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_502() {
    let origin = Origin::once(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: bytes\r\n\r\nhello",
    )
    .await;
    let (app, host) = serving(&origin).await;
    let mut raw = Raw::connect(app.wildcard()).await;
    raw.send(format!("GET /x HTTP/1.1\r\nhost: {host}\r\n\r\n"))
        .await;
    assert_eq!(raw.answer().await.status, 502);
}

#[tokio::test]
async fn an_upgrade_without_its_connection_option_is_a_plain_request() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let mut raw = Raw::connect(app.wildcard()).await;
    raw.send(format!(
        "GET /x HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\n\r\n"
    ))
    .await;
    assert_eq!(raw.answer().await.status, 200);
    let seen = &origin.requests()[0];
    assert_eq!(
        (seen.header("upgrade"), seen.header("connection")),
        ("", "")
    );
}

#[tokio::test]
async fn a_client_that_vanishes_closes_the_origins_socket() {
    let origin = ws::echo_origin().await;
    let (app, host) = serving(&origin).await;
    let mut socket = ws::open(app.wildcard(), &host, "/ws").await;
    ws::echoed(&mut socket, "here").await.unwrap();
    socket.get_ref().set_zero_linger().unwrap();
    drop(socket);
    origin.has_no_connection().await;
}

#[tokio::test]
async fn an_origin_that_vanishes_closes_the_clients_socket() {
    let origin = ws::echo_origin().await;
    let (app, host) = serving(&origin).await;
    let mut socket = ws::open(app.wildcard(), &host, "/ws").await;
    ws::echoed(&mut socket, "here").await.unwrap();
    drop(origin);
    ws::until_closed(&mut socket).await;
}

#[tokio::test]
async fn the_handshake_carries_credentials_and_origin_as_sent() {
    let origin = upgrading("").await;
    let (app, host) = serving(&origin).await;
    let mut handshake = ws::handshake(&host, "/api/kernels/1/channels?session_id=a%20b");
    for (name, value) in [
        ("origin", "https://hub.example"),
        ("cookie", "_xsrf=1; token=2"),
        ("authorization", "token abc"),
    ] {
        handshake
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let stream = TcpStream::connect(app.wildcard()).await.unwrap();
    let opened = client_async_with_config(handshake, stream, Some(ws::config())).await;
    let (mut socket, _) = opened.unwrap();
    let seen = &origin.requests()[0];
    assert_eq!(seen.target, "/api/kernels/1/channels?session_id=a%20b");
    assert_eq!(seen.header("origin"), "https://hub.example");
    assert_eq!(seen.header("cookie"), "_xsrf=1; token=2");
    assert_eq!(seen.header("authorization"), "token abc");
    assert_eq!(seen.header("x-forwarded-for"), own_address());
    let mut one = [0; 1];
    socket.get_mut().write_all(b"x").await.unwrap();
    within("a byte", socket.get_mut().read_exact(&mut one))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_upgrade_that_is_not_allowed_is_a_403_and_reaches_nobody() {
    let origin = ws::echo_origin().await;
    let allowed = json!([{"upgrade_type": "websocket"}]);
    let routes = routes(&json!([
        {"match": {"prefix": "/ws"}, "route": {"cluster": "a", "upgrade_configs": allowed}},
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}},
    ]));
    let web = listener("web", &http(&json!({"route_config": routes})));
    let text = bootstrap(&[web], &[cluster("a", origin.address)]).to_string();
    let app = TestApp::bootstrap(&text).await;
    let stream = TcpStream::connect(app.listener("web")).await.unwrap();
    let error = client_async(ws::handshake("x", "/"), stream)
        .await
        .unwrap_err();
    let Error::Http(response) = error else {
        panic!("{error}")
    };
    assert_eq!(response.status(), 403);
    assert_eq!(origin.connections(), 0);
    let mut socket = ws::open(app.listener("web"), "x", "/ws").await;
    ws::echoed(&mut socket, "allowed").await.unwrap();
}

/// A tunnel outlives the kernel's place in the circuit, but not the circuit.
#[tokio::test]
async fn a_tunnel_to_a_former_kernel_ends_with_the_circuit() {
    let (old, new) = (ws::echo_origin().await, ws::echo_origin().await);
    let circuit = circuit(1).kernel(old.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut socket = ws::open(app.wildcard(), &circuit.host(), "/").await;
    app.set_routes(&circuit, &[new.address]).await;
    app.set_routes(&circuit, &[]).await;
    ws::echoed(&mut socket, "still there").await.unwrap();
    app.remove(&circuit).await;
    ws::until_closed(&mut socket).await;
    old.has_no_connection().await;
}

#[tokio::test]
async fn an_upgraded_stream_ends_with_its_duration() {
    let origin = ws::echo_origin().await;
    let manager = http(&json!({
        "route_config": routes(&json!([{
            "match": {"prefix": "/"},
            "route": {"cluster": "a", "max_stream_duration": {"max_stream_duration": "0.3s"}},
        }])),
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }));
    let text = bootstrap(
        &[listener("web", &manager)],
        &[cluster("a", origin.address)],
    );
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut socket = ws::open(app.listener("web"), "h", "/").await;
    // Nobody ends it, and nothing else here has a limit.
    ws::until_closed(&mut socket).await;
}

/// A request for a WebSocket over HTTP/2, which has no key and no `Upgrade` (RFC 8441).
fn extended(host: &str) -> http::Request<Body> {
    let mut request = http::Request::connect(format!("http://{host}/ws"))
        .header("sec-websocket-version", "13")
        .body(empty())
        .unwrap();
    let protocol = hyper::ext::Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    request
}

/// A proxy that takes WebSockets over HTTP/2, and a client that knows that it does.
pub async fn extended_app(origin: &Origin) -> (TestApp, Http2) {
    let manager = http(&json!({
        "route_config": routes(&json!([
            {"match": {"path": "/plain"}, "direct_response": {"status": 204}},
            {"match": {"prefix": "/"}, "route": {"cluster": "a"}},
        ])),
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }));
    let text = bootstrap(
        &[listener("web", &manager)],
        &[cluster("a", origin.address)],
    );
    let app = TestApp::bootstrap(&text.to_string()).await;
    let client = Http2::connect(app.listener("web")).await;
    // The settings of the proxy have come once it has answered.
    assert_eq!(client.get("h", "/plain").await.status, 204);
    (app, client)
}

#[tokio::test]
async fn a_websocket_over_http2_is_an_upgrade_to_the_origin() {
    let origin = ws::echo_origin().await;
    let (_app, client) = extended_app(&origin).await;
    let mut response = client.start(extended("h")).await.unwrap();
    assert_eq!(response.status(), 200);
    for name in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
    let stream = within("a tunnel", hyper::upgrade::on(&mut response))
        .await
        .unwrap();
    let stream = TokioIo::new(stream);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        let back = within("an echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(back, Message::text(text));
    }
    // Other requests go on beside it.
    assert_eq!(client.get("h", "/plain").await.status, 204);
    socket.close(None).await.unwrap();
    within("the end", async {
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
}

/// In front of one that takes them over HTTP/2.
async fn in_front_of(far: std::net::SocketAddr) -> TestApp {
    let manager = http(&json!({
        "route_config": routes(&json!([
            {"match": {"path": "/plain"}, "direct_response": {"status": 204}},
            {"match": {"prefix": "/"}, "route": {"cluster": "far"}},
        ])),
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }));
    let text = bootstrap(&[listener("web", &manager)], &[http2_cluster("far", far)]);
    TestApp::bootstrap(&text.to_string()).await
}

#[tokio::test]
async fn a_websocket_goes_on_over_http2_to_an_endpoint_that_speaks_it() {
    let origin = ws::echo_origin().await;
    let (far, _client) = extended_app(&origin).await;
    let near = in_front_of(far.listener("web")).await;
    // The handshake is checked by the client, its key included.
    for text in ["one", "two"] {
        let mut socket = ws::open(near.listener("web"), "h", "/ws?x").await;
        ws::echoed(&mut socket, text).await.unwrap();
        socket.close(None).await.unwrap();
        ws::until_closed(&mut socket).await;
    }
    let client = Http2::connect(near.listener("web")).await;
    assert_eq!(client.get("h", "/plain").await.status, 204);
    let mut response = client.start(extended("h")).await.unwrap();
    assert_eq!(response.status(), 200);
    let stream = within("a tunnel", hyper::upgrade::on(&mut response))
        .await
        .unwrap();
    let stream = TokioIo::new(stream);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    socket.send(Message::text("three")).await.unwrap();
    let back = within("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(back, Message::text("three"));
}

#[tokio::test]
async fn an_endpoint_over_http2_that_takes_no_upgrades_is_asked_for_none() {
    let origin = Origin::fixed("plain").await;
    // Speaks HTTP/2, and allows no CONNECT.
    let manager = http(&json!({"route_config": routes(&json!([
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}}]))}));
    let clusters = [cluster("a", origin.address)];
    let far = bootstrap(&[listener("web", &manager)], &clusters);
    let far = TestApp::bootstrap(&far.to_string()).await;
    let near = in_front_of(far.listener("web")).await;
    let mut raw = Raw::connect(near.listener("web")).await;
    raw.send(
        "GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert_eq!(raw.head().await.unwrap().status, 502);
    assert_eq!(origin.requests().len(), 0);
}

#[tokio::test]
async fn an_origin_that_does_not_upgrade_is_no_tunnel_over_http2() {
    let origin = Origin::fixed("declined").await;
    let (_app, client) = extended_app(&origin).await;
    let response = client.start(extended("h")).await.unwrap();
    assert_eq!(response.status(), 502);
}
