//! Circuits of protocol tcp, reached through a WebSocket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use causeway::app::{self, Config, Options};
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use uuid::Uuid;

use crate::support::app::{TestApp, worker, worker_with_permits};
use crate::support::bootstrap::{bootstrap, cluster, http, listener, to};
use crate::support::circuit::{Circuit, circuit};
use crate::support::client::{Http2, empty};
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{eventually, pattern, refusing, tcp_echo, within, ws};

const TUNNEL: &str = "v1.tunnel.causeway";

fn by_subdomain(origin: &Origin) -> Circuit {
    circuit(1).kernel(origin.address).protocol("tcp")
}

/// A WebSocket with these subprotocols on offer, and the one that was chosen.
async fn open(
    at: SocketAddr,
    host: &str,
    path: &str,
    fields: &[(&'static str, &str)],
) -> Result<(ws::Socket, String), Error> {
    let stream = TcpStream::connect(at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut request = ws::handshake(host, path);
    for (name, value) in fields {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().insert(*name, value);
    }
    let handshake = client_async_with_config(request, stream, Some(ws::config()));
    let (socket, response) = within("a WebSocket handshake", handshake).await?;
    let chosen = response.headers().get("sec-websocket-protocol");
    let chosen = chosen.map_or("", |name| name.to_str().unwrap()).to_owned();
    Ok((socket, chosen))
}

async fn serving(origin: &Origin, protocol: &str) -> (TestApp, ws::Socket) {
    let circuit = by_subdomain(origin);
    let app = TestApp::serving(&[&circuit]).await;
    let fields = [("sec-websocket-protocol", protocol)];
    let (socket, chosen) = open(app.wildcard(), &circuit.host(), "/", &fields)
        .await
        .unwrap();
    assert_eq!(chosen, protocol);
    (app, socket)
}

/// So many bytes out of messages.
async fn bytes(socket: &mut ws::Socket, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        match within("a message", socket.next()).await {
            Some(Ok(Message::Binary(data))) => all.extend_from_slice(&data),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("{other:?} after {} bytes", all.len()),
        }
    }
    all
}

/// What a client is told at the end.
async fn closed(socket: &mut ws::Socket) -> (u16, String) {
    loop {
        match within("a close", socket.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => {
                return (frame.code.into(), frame.reason.to_string());
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_by_subdomain_and_by_path() {
    let origin = tcp_echo().await;
    let circuit = by_subdomain(&origin);
    let app = TestApp::serving(&[&circuit]).await;
    let path = circuit.prefix();
    let below = format!("{path}/websockify?token=1");
    for (at, host, path) in [
        (app.wildcard(), circuit.host(), "/"),
        (app.wildcard(), circuit.host(), "/websockify"),
        (app.path(), "localhost".to_owned(), path.as_str()),
        (app.path(), "localhost".to_owned(), below.as_str()),
    ] {
        let offered = [("sec-websocket-protocol", "base64, binary")];
        let (mut socket, chosen) = open(at, &host, path, &offered).await.unwrap();
        assert_eq!(chosen, "binary");
        for size in [1, 125, 126, 65_535, 65_536, 1_000_000] {
            let data = pattern(size);
            socket.send(Message::binary(data.clone())).await.unwrap();
            assert!(
                bytes(&mut socket, size).await == data,
                "{size} bytes changed"
            );
        }
        socket.close(None).await.unwrap();
        ws::until_closed(&mut socket).await;
    }
    origin.has_no_connection().await;
    assert_eq!(app.upstream_connections(), 0);
}

/// By its port it speaks as ever.
#[tokio::test]
async fn a_port_stays_raw_and_its_path_is_a_websocket() {
    let origin = tcp_echo().await;
    let circuit = by_subdomain(&origin).at_slot(1);
    let app = TestApp::serving(&[&circuit]).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("raw").await;
    assert_eq!(raw.bytes(3).await, b"raw");
    let (mut socket, chosen) = open(app.path(), "localhost", &circuit.prefix(), &[])
        .await
        .unwrap();
    assert_eq!(chosen, "", "none was offered");
    socket.send(Message::binary("message")).await.unwrap();
    assert_eq!(bytes(&mut socket, 7).await, b"message");
}

#[tokio::test]
async fn large_transfers_pass_both_ways_at_once() {
    const SIZE: usize = 24 << 20;
    let origin = tcp_echo().await;
    let (_app, socket) = serving(&origin, "binary").await;
    let (mut sink, mut stream) = socket.split();
    let data = Bytes::from(pattern(SIZE));
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        for piece in sent.chunks(300_000) {
            sink.send(Message::binary(piece.to_vec())).await.unwrap();
        }
        sink
    });
    let mut at = 0;
    within("all of it", async {
        while at < SIZE {
            let message = stream.next().await.unwrap().unwrap();
            if let Message::Binary(piece) = message {
                assert!(data[at..at + piece.len()] == piece, "changed near {at}");
                at += piece.len();
            }
        }
    })
    .await;
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_half_close_lets_the_answer_come() {
    let origin = Origin::tcp(|mut stream| async move {
        let mut question = String::new();
        // Returns at the end of the client's side, and only then is there an answer.
        stream.read_to_string(&mut question).await.unwrap();
        let answer = format!("you said: {question}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let (_app, mut socket) = serving(&origin, TUNNEL).await;
    socket.send(Message::binary("hello")).await.unwrap();
    socket.send(Message::binary("")).await.unwrap();
    assert_eq!(bytes(&mut socket, 15).await, b"you said: hello");
    let end = within("the end", socket.next()).await.unwrap().unwrap();
    assert_eq!(end, Message::binary(""));
    assert_eq!(closed(&mut socket).await, (1000, String::new()));
    origin.has_no_connection().await;
}

#[tokio::test]
async fn each_end_has_its_code() {
    let origin = Origin::tcp(|mut stream| async move {
        let mut word = [0; 5];
        if stream.read_exact(&mut word).await.is_err() {
            return;
        }
        match &word {
            b"close" => {}
            b"reset" => {
                socket2::SockRef::from(&stream)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
            _ => {
                stream.write_all(&word).await.unwrap();
                // Until the client has gone.
                stream.read_to_end(&mut Vec::new()).await.ok();
            }
        }
    })
    .await;
    let circuit = by_subdomain(&origin);
    let app = TestApp::serving(&[&circuit]).await;
    let too_large = Message::binary(vec![0; (4 << 20) + 1]);
    for (message, code) in [
        (Message::binary("close"), 1000),
        (Message::binary("reset"), 1011),
        (Message::text("stays"), 1003),
        (too_large, 1009),
    ] {
        let (mut socket, _) = open(app.wildcard(), &circuit.host(), "/", &[])
            .await
            .unwrap();
        // The one that is too large is refused before it is sent.
        socket.send(message).await.ok();
        assert_eq!(closed(&mut socket).await.0, code);
    }
    let (mut socket, _) = open(app.wildcard(), &circuit.host(), "/", &[])
        .await
        .unwrap();
    let frame = CloseFrame {
        code: CloseCode::Library(4321),
        reason: "enough".into(),
    };
    socket.close(Some(frame)).await.unwrap();
    let answer = closed(&mut socket).await;
    assert_eq!(answer, (4321, "enough".to_owned()));
    origin.has_no_connection().await;

    let (mut socket, _) = open(app.wildcard(), &circuit.host(), "/", &[])
        .await
        .unwrap();
    socket.send(Message::binary("stays")).await.unwrap();
    assert_eq!(bytes(&mut socket, 5).await, b"stays");
    app.remove(&circuit).await;
    let told = closed(&mut socket).await;
    assert_eq!(told, (1001, "no longer available".to_owned()));
    origin.has_no_connection().await;
}

#[tokio::test]
async fn the_end_of_the_process_is_told() {
    let origin = tcp_echo().await;
    let circuit = by_subdomain(&origin);
    let options = Options {
        concurrency: 2,
        drain_time: Duration::from_millis(50),
        ..Options::default()
    };
    let config = Config::Worker(Box::new(worker()));
    let running = app::start(config, options).await.unwrap();
    let app = TestApp { running };
    app.announce(&[&circuit]).await;
    // Some that have ended long before.
    for _ in 0..4 {
        let opened = open(app.wildcard(), &circuit.host(), "/", &[]).await;
        let (mut socket, _) = opened.unwrap();
        socket.close(None).await.unwrap();
        ws::until_closed(&mut socket).await;
    }
    origin.has_no_connection().await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let opened = open(app.wildcard(), &circuit.host(), "/", &[]).await;
        sockets.push(opened.unwrap().0);
    }
    let down = tokio::spawn(app.shutdown());
    for mut socket in sockets {
        assert_eq!(closed(&mut socket).await, (1012, "restarting".to_owned()));
    }
    within("the shutdown", down).await.unwrap();
}

#[tokio::test]
async fn whoever_does_not_read_holds_the_application_back() {
    const ALL: usize = 256 << 20;
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    let origin = Origin::tcp(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            let piece = vec![7; 64 * 1024];
            while counter.load(Relaxed) < ALL as u64 {
                stream.write_all(&piece).await.unwrap();
                counter.fetch_add(piece.len() as u64, Relaxed);
            }
        }
    })
    .await;
    let (_app, mut socket) = serving(&origin, "binary").await;
    // It has come to a stop when nothing more was written for a while. Looking too early can only
    // find less.
    let (mut last, mut same) = (0, 0);
    eventually("the application stops", || {
        let now = written.load(Relaxed);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        same > 100
    })
    .await;
    assert!(
        last < ALL as u64 / 4,
        "{last} bytes were taken from the application"
    );
    let mut count = 0;
    within("all of it", async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(data) = message {
                assert!(data.iter().all(|byte| *byte == 7));
                count += data.len();
            }
        }
    })
    .await;
    assert_eq!(count, ALL);
}

#[tokio::test]
async fn what_is_no_websocket_is_told_so() {
    let origin = tcp_echo().await;
    let circuit = by_subdomain(&origin);
    let app = TestApp::serving(&[&circuit]).await;
    let host = circuit.host();
    let reply = app.get(&circuit, "/").await;
    assert_eq!(reply.status, 426);
    assert_eq!(reply.header("upgrade"), "websocket");
    assert_eq!(reply.header("sec-websocket-version"), "13");
    for (field, value, status) in [
        ("sec-websocket-version", "12", 426),
        ("sec-websocket-key", "short", 400),
    ] {
        let error = open(app.wildcard(), &host, "/", &[(field, value)]).await;
        let Err(Error::Http(response)) = error else {
            panic!("{error:?}")
        };
        assert_eq!(response.status(), status, "{field}");
    }
    assert_eq!(
        origin.connections(),
        0,
        "none of them came to the application"
    );
}

/// Whatever page somebody looks at may try; only some are let in.
#[tokio::test]
async fn pages_of_other_hosts_reach_no_public_circuit() {
    let mut config = worker();
    config.causeway.tcp_websocket_origins = vec!["https://portal.test".to_owned()];
    let app = TestApp::with(config).await;
    let origin = tcp_echo().await;
    let circuit = by_subdomain(&origin);
    app.announce(&[&circuit]).await;
    let own = format!("http://{}", circuit.host());
    for (page, admitted) in [
        ("https://evil.test", false),
        ("https://portal.test", true),
        (own.as_str(), true),
    ] {
        let opened = open(app.wildcard(), &circuit.host(), "/", &[("origin", page)]).await;
        match opened {
            Ok(_) => assert!(admitted, "{page}"),
            Err(Error::Http(response)) => {
                assert_eq!(
                    (response.status().as_u16(), admitted),
                    (403, false),
                    "{page}"
                );
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_application_that_is_not_there_is_an_ordinary_answer() {
    let (_socket, nobody) = refusing();
    let circuit = circuit(1).kernel(nobody).protocol("tcp");
    let app = TestApp::serving(&[&circuit]).await;
    let error = open(app.wildcard(), &circuit.host(), "/", &[]).await;
    let Err(Error::Http(response)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(response.status(), 502);
}

#[tokio::test]
async fn a_private_circuit_asks_for_its_permit() {
    let user = Uuid::from_u128(7);
    let (config, permits) = worker_with_permits();
    let app = TestApp::with(config).await;
    let origin = tcp_echo().await;
    let private = |circuit: Circuit| {
        let circuit = circuit.with("open_to_public", json!(false));
        circuit.with("user_id", json!(user))
    };
    let mine = private(by_subdomain(&origin));
    // Nobody can prove to be its user: it is served by its port alone.
    let nobodys = circuit(2).kernel(origin.address).protocol("tcp").at_slot(1);
    let nobodys = nobodys.with("open_to_public", json!(false));
    app.announce(&[&mine, &nobodys]).await;
    let of_user = format!("appproxy_permit=\"{}\"", permits.of_user(user).expose());
    let of_circuit = permits.of_circuit(user, mine.id);
    let of_circuit = format!("appproxy_permit={}", of_circuit.expose());
    let prefix = mine.prefix();
    for (at, host, path, cookie) in [
        (app.wildcard(), mine.host(), "/", &of_user),
        (
            app.path(),
            "localhost".to_owned(),
            prefix.as_str(),
            &of_circuit,
        ),
    ] {
        for wrong in ["", "appproxy_permit=x"] {
            let error = open(at, &host, path, &[("cookie", wrong)]).await;
            let Err(Error::Http(response)) = error else {
                panic!("{error:?}")
            };
            assert_eq!(response.status(), 401, "{path} {wrong}");
        }
        let (mut socket, _) = open(at, &host, path, &[("cookie", cookie)]).await.unwrap();
        socket.send(Message::binary("in")).await.unwrap();
        assert_eq!(bytes(&mut socket, 2).await, b"in");
    }
    let error = open(app.path(), "localhost", &nobodys.prefix(), &[]).await;
    let Err(Error::Http(response)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn a_tcp_circuit_on_which_nothing_moves_is_closed_if_somebody_wants_it() {
    let mut config = worker();
    config.causeway.tcp_idle_timeout = Duration::from_millis(200);
    let app = TestApp::with(config).await;
    let origin = tcp_echo().await;
    let circuit = by_subdomain(&origin).at_slot(1);
    app.announce(&[&circuit]).await;
    let opened = open(app.path(), "localhost", &circuit.prefix(), &[]).await;
    let (mut socket, _) = opened.unwrap();
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("x").await;
    assert_eq!(raw.rest().await.0, b"x");
    assert_eq!(closed(&mut socket).await, (1001, "idle".to_owned()));
    origin.has_no_connection().await;
}

#[tokio::test]
async fn it_works_over_http2_as_well() {
    let origin = tcp_echo().await;
    let circuit = by_subdomain(&origin);
    let app = TestApp::serving(&[&circuit]).await;
    let client = Http2::connect(app.wildcard()).await;
    // The settings of the proxy have come once it has answered.
    assert_eq!(client.get(&circuit.host(), "/").await.status, 426);
    let mut request = http::Request::connect(format!("http://{}/ws", circuit.host()))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "binary")
        .body(empty())
        .unwrap();
    let protocol = hyper::ext::Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    let mut response = client.start(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "binary");
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let stream = within("a tunnel", hyper::upgrade::on(&mut response))
        .await
        .unwrap();
    let stream = TokioIo::new(stream);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    let data = pattern(500_000);
    socket.send(Message::binary(data.clone())).await.unwrap();
    let mut back = Vec::new();
    while back.len() < data.len() {
        if let Message::Binary(piece) = within("an echo", socket.next()).await.unwrap().unwrap() {
            back.extend_from_slice(&piece);
        }
    }
    assert!(back == data, "changed on the way");
    socket.close(None).await.unwrap();
    origin.has_no_connection().await;
}

/// One second instead of half a minute: somebody who has gone without a word is noticed.
#[tokio::test]
async fn a_client_that_answers_no_ping_is_cut() {
    let origin = tcp_echo().await;
    let filter = json!({"name": "causeway.websocket_bridge", "typed_config": {
        "@type": "type.googleapis.com/causeway.v1.WebSocketBridge", "ping_interval": 1,
    }});
    let mut routes = to("a");
    routes["virtual_hosts"][0]["typed_per_filter_config"] = json!({
        "causeway.websocket_bridge":
            {"@type": "type.googleapis.com/causeway.v1.WebSocketBridgePerRoute"},
    });
    let mut manager = http(&json!({
        "route_config": routes,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }));
    let filters = manager["typed_config"]["http_filters"]
        .as_array_mut()
        .unwrap();
    filters.insert(0, filter);
    let text = bootstrap(
        &[listener("web", &manager)],
        &[cluster("a", origin.address)],
    );
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut raw = Raw::connect(app.listener("web")).await;
    raw.send(
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    let answer = raw.head().await.unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(
        answer.header("sec-websocket-accept"),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    let (rest, _) = raw.rest().await;
    assert_eq!(rest, [0x89, 0], "a ping, and then the end");
    origin.has_no_connection().await;
}

#[tokio::test]
async fn a_kernel_that_cannot_be_reached_is_passed_over() {
    let origin = tcp_echo().await;
    let (_held, dead) = refusing();
    let circuit = by_subdomain(&origin).kernels(&[dead, origin.address]);
    let app = TestApp::serving(&[&circuit]).await;
    for _ in 0..8 {
        let opened = open(app.wildcard(), &circuit.host(), "/", &[]).await;
        let (mut socket, _) = opened.expect("a WebSocket");
        let hello = Message::Binary(Bytes::from_static(b"hello"));
        socket.send(hello).await.unwrap();
        assert_eq!(bytes(&mut socket, 5).await, b"hello");
    }
}
