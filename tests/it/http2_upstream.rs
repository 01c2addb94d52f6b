//! HTTP/2 towards endpoints, down to the frames: what an endpoint says besides answers, and what it
//! is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::h2_conformance::wire::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, REFUSED, RST_STREAM,
    SETTINGS, all, data, fields, frame, headers, settings, window,
};
use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, forwarding, http, http2_cluster, listener, routes};
use crate::support::client::{Http1, Http2, empty, full};
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{eventually, within};

/// 200, by the static table.
const OK: &[u8] = &[0x88];
const WINDOW_SIZE: u16 = 4;
const MAX_STREAMS: u16 = 3;

/// What an endpoint has got, and from which of its connections, counted from one.
type Came = (usize, Frame);

/// An endpoint whose connections begin with these settings, and which says what `answer` makes of
/// each frame.
async fn scripted(
    first: Vec<u8>,
    answer: impl Fn(&Came) -> Vec<u8> + Send + Sync + 'static,
) -> (Origin, mpsc::UnboundedReceiver<Came>) {
    let (tell, told) = mpsc::unbounded_channel();
    let count = AtomicUsize::new(0);
    let shared = Arc::new((first, answer, tell, count));
    let origin = Origin::tcp(move |mut stream: TcpStream| {
        let shared = Arc::clone(&shared);
        async move {
            let (first, answer, tell, count) = &*shared;
            let number = count.fetch_add(1, SeqCst) + 1;
            let mut bytes = vec![0; PREFACE.len()];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(first).await.unwrap();
            bytes.clear();
            loop {
                while let Some(got) = Frame::take(&mut bytes) {
                    let came = (number, got);
                    let said = match &came.1 {
                        f if f.kind == SETTINGS && f.flags & ACK == 0 => {
                            frame(SETTINGS, ACK, 0, b"")
                        }
                        _ => answer(&came),
                    };
                    tell.send(came).ok();
                    if stream.write_all(&said).await.is_err() {
                        return;
                    }
                }
                if !matches!(stream.read_buf(&mut bytes).await, Ok(count) if count > 0) {
                    return;
                }
            }
        }
    })
    .await;
    (origin, told)
}

fn plain() -> Vec<u8> {
    frame(SETTINGS, 0, 0, b"")
}

/// A whole answer.
fn ok(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS | END_STREAM, OK)
}

async fn through(cluster: Value) -> (TestApp, Http2) {
    let text = bootstrap(&[forwarding("web", "a")], &[cluster]).to_string();
    let app = TestApp::bootstrap(&text).await;
    let client = Http2::connect(app.listener("web")).await;
    (app, client)
}

fn get() -> Request<crate::support::client::Body> {
    Request::get("http://h.test/").body(empty()).unwrap()
}

fn post(body: impl Into<Bytes>) -> Request<crate::support::client::Body> {
    Request::post("http://h.test/").body(full(body)).unwrap()
}

/// The next frame of that kind.
async fn next(told: &mut mpsc::UnboundedReceiver<Came>, kind: u8) -> Frame {
    within("a frame", async {
        loop {
            let (_, frame) = told.recv().await.unwrap();
            // What is ACK for some ends a stream for others.
            let answers = matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK != 0;
            if frame.kind == kind && !answers {
                return frame;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_a_goodbye_leaves_out_is_sent_again_elsewhere() {
    let (origin, _told) = scripted(plain(), |(connection, came)| match came.kind {
        // The first of the first connection is the last that it answers.
        HEADERS if *connection == 1 && came.stream > 1 => {
            let mut last = 1_u32.to_be_bytes().to_vec();
            last.extend(0_u32.to_be_bytes());
            frame(GOAWAY, 0, 0, &last)
        }
        HEADERS => ok(came.stream),
        _ => Vec::new(),
    })
    .await;
    let (_app, client) = through(http2_cluster("a", origin.address)).await;
    for _ in 0..3 {
        assert_eq!(client.send(get()).await.status, 200);
    }
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn a_stream_that_is_refused_is_asked_for_again_where_the_route_says_so() {
    let refusals = AtomicUsize::new(0);
    let (origin, _told) = scripted(plain(), move |(_, came)| match came.kind {
        HEADERS if refusals.fetch_add(1, SeqCst) == 0 => {
            frame(RST_STREAM, 0, came.stream, &REFUSED.to_be_bytes())
        }
        HEADERS => ok(came.stream),
        _ => Vec::new(),
    })
    .await;
    let route = json!({"match": {"prefix": "/"}, "route": {
        "cluster": "a", "retry_policy": {"retry_on": "refused-stream"},
    }});
    let web = http(&json!({"route_config": routes(&json!([route]))}));
    let clusters = [http2_cluster("a", origin.address)];
    let text = bootstrap(&[listener("web", &web)], &clusters).to_string();
    let app = TestApp::bootstrap(&text).await;
    let client = Http2::connect(app.listener("web")).await;
    assert_eq!(client.send(get()).await.status, 200);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn what_comes_before_an_answer_is_no_answer() {
    let hints = fields(&[(":status", "103"), ("link", "</a>")]);
    let (origin, _told) = scripted(plain(), move |(_, came)| match came.kind {
        HEADERS => all(&[
            headers(came.stream, END_HEADERS, &hints),
            headers(came.stream, END_HEADERS, OK),
            data(came.stream, 0, b"body"),
            headers(
                came.stream,
                END_HEADERS | END_STREAM,
                &fields(&[("x-end", "1")]),
            ),
        ]),
        _ => Vec::new(),
    })
    .await;
    let (_app, client) = through(http2_cluster("a", origin.address)).await;
    let answer = client.start(get()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = within("the body", answer.into_body().collect())
        .await
        .unwrap();
    assert_eq!(body.trailers().unwrap()["x-end"], "1");
    assert_eq!(body.to_bytes(), "body");
}

#[tokio::test]
async fn who_leaves_cancels_the_stream_and_keeps_the_connection() {
    let (origin, mut told) = scripted(plain(), |(_, came)| match came.kind {
        HEADERS if came.stream > 1 => ok(came.stream),
        _ => Vec::new(),
    })
    .await;
    let (app, client) = through(http2_cluster("a", origin.address)).await;
    {
        let mut asking = std::pin::pin!(client.start(get()));
        tokio::select! {
            answer = &mut asking => panic!("an answer: {answer:?}"),
            _ = next(&mut told, HEADERS) => {}
        }
    }
    let reset = next(&mut told, RST_STREAM).await;
    assert_eq!((reset.stream, &reset.payload[..]), (1, &[0, 0, 0, 8][..]));
    assert_eq!(client.send(get()).await.status, 200);
    assert_eq!((origin.connections(), app.upstream_connections()), (1, 1));
}

#[tokio::test]
async fn a_body_whose_client_breaks_off_is_no_whole_body() {
    let (origin, mut told) = scripted(plain(), |_| Vec::new()).await;
    let (app, _client) = through(http2_cluster("a", origin.address)).await;
    let mut broken = TcpStream::connect(app.listener("web")).await.unwrap();
    let half = b"POST / HTTP/1.1\r\nhost: h.test\r\ncontent-length: 8\r\n\r\nhalf";
    broken.write_all(half).await.unwrap();
    assert_eq!(next(&mut told, DATA).await.payload, b"half");
    drop(broken);
    let end = within("the end", async {
        loop {
            let (_, came) = told.recv().await.unwrap();
            if matches!(came.kind, DATA | RST_STREAM) {
                return came;
            }
        }
    })
    .await;
    assert_eq!(end.kind, RST_STREAM, "{end:?}");
}

/// What the endpoint hears when the client ends its upload with that word.
async fn passed_on(said: h2::Reason) -> u32 {
    let (origin, mut told) = scripted(plain(), |_| Vec::new()).await;
    let (app, _client) = through(http2_cluster("a", origin.address)).await;
    let stream = TcpStream::connect(app.listener("web")).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    // Ends with its client.
    tokio::spawn(connection);
    let post = Request::post("http://h.test/").body(()).unwrap();
    let (_answer, mut upload) = client.send_request(post, false).unwrap();
    upload
        .send_data(Bytes::from_static(b"half"), false)
        .unwrap();
    assert_eq!(next(&mut told, DATA).await.payload, b"half");
    upload.send_reset(said);
    let reset = next(&mut told, RST_STREAM).await;
    u32::from_be_bytes(reset.payload[..].try_into().unwrap())
}

#[tokio::test]
async fn why_a_client_resets_is_passed_on_unless_it_looks_like_an_end() {
    let calm = h2::Reason::ENHANCE_YOUR_CALM;
    assert_eq!(passed_on(calm).await, u32::from(calm));
    let internal = u32::from(h2::Reason::INTERNAL_ERROR);
    for like_an_end in [h2::Reason::NO_ERROR, h2::Reason::CANCEL] {
        assert_eq!(passed_on(like_an_end).await, internal);
    }
}

#[tokio::test]
async fn an_answer_to_head_keeps_its_length() {
    let long = fields(&[(":status", "200"), ("content-length", "5")]);
    let (origin, _told) = scripted(plain(), move |(_, came)| match came.kind {
        HEADERS => headers(came.stream, END_HEADERS | END_STREAM, &long),
        _ => Vec::new(),
    })
    .await;
    let (app, client) = through(http2_cluster("a", origin.address)).await;
    let head = Request::head("http://h.test/").body(empty()).unwrap();
    assert_eq!(client.send(head).await.header("content-length"), "5");
    let mut older = Http1::connect(app.listener("web")).await;
    let head = Request::head("/").header("host", "h.test");
    let answer = older.send_body(head.body(empty()).unwrap()).await;
    assert_eq!(
        (answer.header("content-length"), answer.body.len()),
        ("5", 0)
    );
}

#[tokio::test]
async fn no_more_of_a_body_is_sent_than_the_endpoint_has_room_for() {
    const SMALL: usize = 100;
    let size = u32::try_from(SMALL).unwrap();
    let (origin, mut told) = scripted(settings(&[(WINDOW_SIZE, size)]), |(_, came)| {
        match came.kind {
            DATA if came.flags & END_STREAM != 0 => ok(came.stream),
            DATA => window(came.stream, u32::try_from(came.payload.len()).unwrap()),
            // Its settings have come when this one has.
            HEADERS if came.flags & END_STREAM != 0 => ok(came.stream),
            _ => Vec::new(),
        }
    })
    .await;
    let (_app, client) = through(http2_cluster("a", origin.address)).await;
    assert_eq!(client.send(get()).await.status, 200);
    assert_eq!(client.send(post(vec![b'x'; 10 * SMALL])).await.status, 200);
    let mut whole = 0;
    while let Ok((_, came)) = told.try_recv() {
        if came.kind == DATA {
            assert!(came.payload.len() <= SMALL, "{}", came.payload.len());
            whole += came.payload.len();
        }
    }
    assert_eq!(whole, 10 * SMALL);
}

#[tokio::test]
async fn an_upload_goes_on_while_nobody_takes_the_answer() {
    const PIECE: usize = 16 << 10;
    const PIECES: usize = 15;
    let piece = vec![b'a'; PIECE];
    // It answers before it has got the request, with more than the client has room for.
    let (origin, mut told) = scripted(plain(), move |(_, came)| match came.kind {
        HEADERS => {
            let mut said = headers(came.stream, END_HEADERS, OK);
            for _ in 0..PIECES {
                said.extend(data(came.stream, 0, &piece));
            }
            said
        }
        DATA if came.flags & END_STREAM != 0 => data(came.stream, END_STREAM, b""),
        DATA => {
            let room = u32::try_from(came.payload.len()).unwrap();
            all(&[window(0, room), window(came.stream, room)])
        }
        _ => Vec::new(),
    })
    .await;
    let (app, _client) = through(http2_cluster("a", origin.address)).await;
    let stream = TcpStream::connect(app.listener("web")).await.unwrap();
    let narrow = h2::client::Builder::new()
        .initial_window_size(100)
        .handshake::<_, Bytes>(stream);
    let (mut client, connection) = narrow.await.unwrap();
    // Ends with its client.
    tokio::spawn(connection);
    let post = Request::post("http://h.test/").body(()).unwrap();
    let (answer, mut upload) = client.send_request(post, false).unwrap();
    for n in 1..=64 {
        let piece = Bytes::from(vec![b'b'; PIECE]);
        upload.send_data(piece, n == 64).unwrap();
    }
    let answer = within("the head", answer).await.unwrap();
    while next(&mut told, DATA).await.flags & END_STREAM == 0 {}
    let mut body = answer.into_body();
    let mut got = 0;
    while let Some(data) = within("data", body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        got += data.len();
    }
    assert_eq!(got, PIECES * PIECE);
}

#[tokio::test]
async fn an_endpoint_that_takes_few_streams_gets_connections_at_once() {
    // Answers nothing on the connections after the first, and does not even say its settings: who
    // had to wait for them would wait for ever.
    let held = Origin::tcp({
        let count = Arc::new(AtomicUsize::new(0));
        move |mut stream: TcpStream| {
            let number = count.fetch_add(1, SeqCst);
            async move {
                let mut bytes = vec![0; PREFACE.len()];
                stream.read_exact(&mut bytes).await.unwrap();
                bytes.clear();
                if number == 0 {
                    let first = settings(&[(MAX_STREAMS, 1)]);
                    stream.write_all(&first).await.unwrap();
                }
                while matches!(stream.read_buf(&mut bytes).await, Ok(count) if count > 0) {}
            }
        }
    })
    .await;
    let (_app, client) = through(http2_cluster("a", held.address)).await;
    let asking = std::array::from_fn::<_, 4, _>(|_| client.start(get()));
    let asked = futures_util::future::join_all(asking);
    tokio::select! {
        _ = asked => panic!("answers"),
        () = eventually("a connection for each", || held.connections() == 4) => {}
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_no_ping_is_left() {
    let (origin, mut told) = scripted(plain(), |(_, came)| match came.kind {
        HEADERS if came.stream == 1 => ok(1),
        _ => Vec::new(),
    })
    .await;
    let mut cluster = http2_cluster("a", origin.address);
    let options = &mut cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
        ["explicit_http_config"]["http2_protocol_options"];
    *options = json!({"connection_keepalive": {"interval": "0.2s", "timeout": "0.2s"}});
    let (_app, client) = through(cluster).await;
    assert_eq!(client.send(get()).await.status, 200);
    assert_eq!(next(&mut told, PING).await.payload.len(), 8);
    origin.has_no_connection().await;
}

#[tokio::test]
async fn over_http1_an_answer_that_is_reset_is_cut() {
    let (origin, _told) = scripted(plain(), |(_, came)| match came.kind {
        HEADERS => all(&[
            headers(came.stream, END_HEADERS, OK),
            data(came.stream, 0, b"some"),
            frame(RST_STREAM, 0, came.stream, &8_u32.to_be_bytes()),
        ]),
        _ => Vec::new(),
    })
    .await;
    let (app, _client) = through(http2_cluster("a", origin.address)).await;
    let get = Request::get("/").header("host", "h.test");
    let answer = Http1::connect(app.listener("web"))
        .await
        .try_send(get.body(empty()).unwrap())
        .await;
    assert!(answer.is_err(), "{answer:?}");
}

/// The danger: an endpoint that answers and reads no more keeps the places of its streams for ever, and all
/// requests behind them waiting.
#[tokio::test]
async fn an_upload_outlives_its_whole_answer_by_a_moment_only() {
    let (origin, mut told) = scripted(settings(&[(MAX_STREAMS, 1)]), |(_, came)| match came.kind {
        HEADERS => ok(came.stream),
        _ => Vec::new(),
    })
    .await;
    let (_app, client) = through(http2_cluster("a", origin.address)).await;
    assert_eq!(client.send(get()).await.status, 200);
    // More than the endpoint's window, which stays as it is.
    assert_eq!(client.send(post(vec![b'x'; 200_000])).await.status, 200);
    assert_eq!(next(&mut told, RST_STREAM).await.stream, 3);
    assert_eq!(client.send(get()).await.status, 200);
    assert_eq!(origin.connections(), 1);
}

/// The danger: a client that has all it was promised, and looks no further, counts as one that has left, and
/// the stream is cancelled.
#[tokio::test]
async fn the_end_of_an_answer_may_come_by_itself() {
    let long = fields(&[(":status", "200"), ("content-length", "5")]);
    let (origin, mut told) = scripted(plain(), move |(_, came)| match (came.kind, came.stream) {
        (HEADERS, 1) => all(&[
            headers(1, END_HEADERS, &long),
            data(1, 0, b"hello"),
            data(1, END_STREAM, b""),
        ]),
        // HEAD.
        (HEADERS, 5) => all(&[headers(5, END_HEADERS, &long), data(5, END_STREAM, b"")]),
        (HEADERS, 3) => all(&[headers(3, END_HEADERS, &long), data(3, 0, b"hello")]),
        // Ends the one before as well.
        (HEADERS, 7) => all(&[data(3, END_STREAM, b""), ok(7)]),
        _ => Vec::new(),
    })
    .await;
    let (app, _client) = through(http2_cluster("a", origin.address)).await;
    let mut client = Http1::connect(app.listener("web")).await;
    for _ in 0..2 {
        assert_eq!(client.get("h.test", "/").await.text(), "hello");
    }
    let head = Request::head("/").header("host", "h.test");
    let answer = client.send_body(head.body(empty()).unwrap()).await;
    assert_eq!(answer.header("content-length"), "5");
    assert_eq!(client.get("h.test", "/").await.status, 200);
    let stats = app.running.stats.http("web");
    assert_eq!(stats.downstream_rq_rx_reset.value(), 0);
    while let Ok((_, came)) = told.try_recv() {
        assert_ne!(came.kind, RST_STREAM, "of stream {}", came.stream);
    }
    assert_eq!(origin.connections(), 1);
}

/// An endpoint that goes has not broken off an answer of which everything was there.
#[tokio::test]
async fn an_answer_is_whole_when_its_length_is_reached() {
    let long = fields(&[(":status", "200"), ("content-length", "5")]);
    let origin = Origin::tcp(move |mut stream: TcpStream| {
        let long = long.clone();
        async move {
            let mut bytes = vec![0; 1024];
            stream
                .read_exact(&mut bytes[..PREFACE.len()])
                .await
                .unwrap();
            stream.write_all(&plain()).await.unwrap();
            assert!(stream.read(&mut bytes).await.unwrap() > 0);
            let said = [headers(1, END_HEADERS, &long), data(1, 0, b"hello")];
            stream.write_all(&all(&said)).await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut bytes).await.ok();
        }
    })
    .await;
    let (_app, client) = through(http2_cluster("a", origin.address)).await;
    assert_eq!(client.send(get()).await.text(), "hello");
}

/// The danger: a trailer that HTTP/2 has no place for leaves a request without an end.
#[tokio::test]
async fn trailers_of_the_connection_end_a_request_and_go_no_further() {
    let (origin, mut told) = scripted(plain(), |(_, came)| match came.kind {
        HEADERS | DATA if came.ends_stream() => ok(came.stream),
        _ => Vec::new(),
    })
    .await;
    let (app, _client) = through(http2_cluster("a", origin.address)).await;
    let mut raw = Raw::connect(app.listener("web")).await;
    raw.send(
        "POST / HTTP/1.1\r\nhost: h.test\r\ntransfer-encoding: chunked\r\ntrailer: keep-alive, x-end\r\n\r\n\
         3\r\nabc\r\n0\r\nkeep-alive: 1\r\nx-end: 2\r\n\r\n",
    )
    .await;
    assert_eq!(raw.answer().await.status, 200);
    assert_eq!(next(&mut told, DATA).await.payload, b"abc");
    let trailers = next(&mut told, HEADERS).await;
    assert!(trailers.ends_stream());
}

#[tokio::test]
async fn connections_of_one_request_each_are_opened_at_once() {
    // Says nothing, so that who waited for its settings would wait for ever.
    let silent = Origin::tcp(|mut stream: TcpStream| async move {
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let mut cluster = http2_cluster("a", silent.address);
    cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
        ["common_http_protocol_options"] = json!({"max_requests_per_connection": 1});
    let (_app, client) = through(cluster).await;
    let asking = std::array::from_fn::<_, 4, _>(|_| client.start(get()));
    let asked = futures_util::future::join_all(asking);
    tokio::select! {
        _ = asked => panic!("answers"),
        () = eventually("a connection for each", || silent.connections() == 4) => {}
    }
}
