//! HTTP/2, in clear text and with prior knowledge, on either side.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::support::app::TestApp;
use crate::support::bootstrap::{
    bootstrap, cluster, forwarding, http, http2_cluster, listener, to,
};
use crate::support::circuit::circuit;
use crate::support::client::{Http1, Http2, LARGE_WINDOW, SMALL_WINDOW, empty, full, request};
use crate::support::origin::Origin;
use crate::support::{refusing, within};

type Answer = Response<Frames>;

/// An origin that speaks HTTP/2 with prior knowledge.
async fn http2_origin<F, Served>(serve: F) -> Origin
where
    F: Fn(Request<Incoming>) -> Served + Clone + Send + Sync + 'static,
    Served: Future<Output = Answer> + Send + 'static,
{
    Origin::tcp(move |stream| {
        let serve = serve.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = serve(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            // Ends with its peer, in whatever way.
            let mut server = http2::Builder::new(TokioExecutor::new());
            server
                .initial_stream_window_size(SMALL_WINDOW)
                .initial_connection_window_size(LARGE_WINDOW)
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        }
    })
    .await
}

/// Frames as they come out of a channel; an error resets the stream.
struct Frames(mpsc::Receiver<std::io::Result<Frame<Bytes>>>);

impl Frames {
    /// For a client, which takes no errors.
    fn into_request_body(self) -> crate::support::client::Body {
        self.map_err(|e| -> std::convert::Infallible { panic!("{e}") })
            .boxed()
    }
}

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}

/// A gRPC method that answers every message with itself, and ends with `grpc-status: 0`.
async fn grpc_echo(request: Request<Incoming>) -> Answer {
    assert_eq!(request.headers()["te"], "trailers");
    let (tell, told) = mpsc::channel(8);
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data()
                && tell.send(Ok(Frame::data(data))).await.is_err()
            {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("grpc-message", "fine".parse().unwrap());
        tell.send(Ok(Frame::trailers(trailers))).await.ok();
    });
    let answer = Response::builder().header("content-type", "application/grpc");
    answer.body(Frames(told)).unwrap()
}

fn grpc(
    authority: &str,
    body: crate::support::client::Body,
) -> Request<crate::support::client::Body> {
    Request::post(format!("http://{authority}/test.Echo/Both"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn http2_comes_down_to_http1() {
    let origin = Origin::echo().await;
    let circuit = circuit(1).kernel(origin.address);
    let app = TestApp::serving(&[&circuit]).await;
    let client = Http2::connect(app.wildcard()).await;
    let request = Request::post(format!("http://{}/a?b", circuit.host()))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(full("hello"))
        .unwrap();
    let reply = client.send(request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let echoed = reply.json();
    assert_eq!(
        (&echoed["target"], &echoed["body"]),
        (&"/a?b".into(), &"hello".into())
    );
    let seen = &origin.requests()[0];
    assert_eq!(seen.header("host"), circuit.host());
    assert_eq!(
        (seen.header("cookie"), seen.count("cookie")),
        ("a=1; b=2", 1)
    );
    assert_eq!(
        seen.header("x-forwarded-for"),
        crate::support::own_address()
    );
}

#[tokio::test]
async fn parallel_streams_do_not_wait_for_each_other() {
    let slow = Origin::held("slow").await;
    let fast = Origin::fixed("fast").await;
    let (held, quick) = (
        circuit(1).kernel(slow.address),
        circuit(2).kernel(fast.address),
    );
    let app = TestApp::serving(&[&held, &quick]).await;
    let client = Http2::connect(app.wildcard()).await;
    let mut pending = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (client, host) = (client.clone(), held.host());
        pending.spawn(async move { client.get(&host, "/").await });
    }
    slow.has_requests(50).await;
    for _ in 0..10 {
        assert_eq!(client.get(&quick.host(), "/").await.text(), "fast");
    }
    slow.release(50);
    let replies = pending.join_all().await;
    assert!(replies.iter().all(|reply| reply.text() == "slow"));
}

#[tokio::test]
async fn a_reset_of_one_stream_cancels_it_and_leaves_the_others() {
    let leaving = Origin::held("never").await;
    let staying = Origin::held("stayed").await;
    let (one, other) = (
        circuit(1).kernel(leaving.address),
        circuit(2).kernel(staying.address),
    );
    let app = TestApp::serving(&[&one, &other]).await;
    let client = Http2::connect(app.wildcard()).await;
    let get = |host: String| {
        let client = client.clone();
        tokio::spawn(async move { client.get(&host, "/").await })
    };
    let (cancelled, pending) = (get(one.host()), get(other.host()));
    leaving.has_requests(1).await;
    staying.has_requests(1).await;
    cancelled.abort();
    leaving.has_no_connection().await;
    staying.release(1);
    assert_eq!(pending.await.unwrap().text(), "stayed");
}

#[tokio::test]
async fn http1_goes_up_as_http2_over_one_connection() {
    let origin = http2_origin(|request| async move {
        let (head, body) = request.into_parts();
        let authority = head.uri.authority().map_or("", |a| a.as_str()).to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let (tell, told) = mpsc::channel(1);
        tell.send(Ok(Frame::data(body))).await.unwrap();
        let answer = Response::builder().header("x-authority", authority);
        answer
            .header("x-path", head.uri.path())
            .body(Frames(told))
            .unwrap()
    })
    .await;
    let circuit = circuit(1).kernel(origin.address).protocol("h2");
    let app = TestApp::serving(&[&circuit]).await;
    let mut client = Http1::connect(app.wildcard()).await;
    for _ in 0..10 {
        let post = request("POST", &circuit.host(), "/p")
            .body(full("text"))
            .unwrap();
        let reply = client.send_body(post).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.text(), "text");
        assert_eq!(reply.header("x-authority"), circuit.host());
        assert_eq!(reply.header("x-path"), "/p");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn grpc_passes_from_end_to_end_with_its_trailers() {
    let origin = http2_origin(grpc_echo).await;
    let circuit = circuit(1).kernel(origin.address).protocol("grpc");
    let app = TestApp::serving(&[&circuit]).await;
    let client = Http2::connect(app.wildcard()).await;
    for message in ["one", "two"] {
        let reply = client.send(grpc(&circuit.host(), full(message))).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text().as_str()),
            (200, message)
        );
        assert_eq!(reply.header("content-type"), "application/grpc");
        let trailers = reply.trailers.expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["grpc-message"], "fine");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn messages_of_a_bidirectional_stream_pass_while_it_is_open() {
    let origin = http2_origin(grpc_echo).await;
    let circuit = circuit(1).kernel(origin.address).protocol("grpc");
    let app = TestApp::serving(&[&circuit]).await;
    let client = Http2::connect(app.wildcard()).await;
    let (say, said) = mpsc::channel(8);
    let body = Frames(said).into_request_body();
    let mut answer = client
        .start(grpc(&circuit.host(), body))
        .await
        .unwrap()
        .into_body();
    for i in 0..10 {
        let message = Bytes::from(format!("message {i}"));
        say.send(Ok(Frame::data(message.clone()))).await.unwrap();
        let frame = within("an answer", answer.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message);
    }
    drop(say);
    let last = within("trailers", answer.frame()).await.unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
}

/// More than the small window of either peer takes, less than ours.
const SMALL_MESSAGES: usize = 28_000;

/// The messages, and what ends when all of them are on their way or nobody takes them any more.
fn say_small_messages() -> (Frames, JoinHandle<()>) {
    let (say, said) = mpsc::channel(64);
    let all_said = tokio::spawn(async move {
        for _ in 0..SMALL_MESSAGES {
            let message = Frame::data(Bytes::from_static(b"nine byte"));
            if say.send(Ok(message)).await.is_err() {
                return;
            }
        }
    });
    (Frames(said), all_said)
}

#[tokio::test]
async fn small_messages_that_wait_for_the_client_end_no_connection() {
    let (tell, mut told) = mpsc::channel(1);
    let origin = http2_origin(move |_| {
        let tell = tell.clone();
        async move {
            let (messages, all_said) = say_small_messages();
            tell.send(all_said).await.unwrap();
            Response::new(messages)
        }
    })
    .await;
    let circuit = circuit(1).kernel(origin.address).protocol("grpc");
    let app = TestApp::serving(&[&circuit]).await;
    let client = Http2::connect(app.wildcard()).await;
    let answer = client
        .start(grpc(&circuit.host(), full("")))
        .await
        .expect("a head");
    told.recv().await.unwrap().await.unwrap();
    let body = within("the messages", answer.into_body().collect()).await;
    assert_eq!(
        body.expect("all of them").to_bytes().len(),
        SMALL_MESSAGES * 9
    );
}

#[tokio::test]
async fn small_messages_that_wait_for_the_origin_end_no_connection() {
    let go = Arc::new(Semaphore::new(0));
    let reading = Arc::clone(&go);
    let origin = http2_origin(move |request| {
        let reading = Arc::clone(&reading);
        async move {
            reading.acquire().await.unwrap().forget();
            let body = request.into_body().collect().await;
            let length = body.expect("all of them").to_bytes().len();
            let (tell, told) = mpsc::channel(1);
            let length = Bytes::from(length.to_string());
            tell.send(Ok(Frame::data(length))).await.unwrap();
            Response::new(Frames(told))
        }
    })
    .await;
    let circuit = circuit(1).kernel(origin.address).protocol("grpc");
    let app = TestApp::serving(&[&circuit]).await;
    let client = Http2::connect(app.wildcard()).await;
    let (messages, all_said) = say_small_messages();
    let reply = client.try_send(grpc(&circuit.host(), messages.into_request_body()));
    let (reply, ()) = tokio::join!(reply, async {
        all_said.await.unwrap();
        go.add_permits(1);
    });
    let reply = reply.expect("a whole answer");
    assert_eq!(reply.text(), (SMALL_MESSAGES * 9).to_string());
}

#[tokio::test]
async fn a_failure_of_ours_is_a_grpc_status_to_a_grpc_client() {
    let (_socket, nowhere) = refusing();
    let circuit = circuit(1).kernel(nowhere).protocol("grpc");
    let app = TestApp::serving(&[&circuit]).await;
    let client = Http2::connect(app.wildcard()).await;
    let reply = client.send(grpc(&circuit.host(), empty())).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("grpc-status")),
        (200, "14")
    );
}

#[tokio::test]
async fn a_stream_that_the_origin_resets_is_seen_as_broken() {
    let reset = Arc::new(Semaphore::new(0));
    let when = Arc::clone(&reset);
    let origin = http2_origin(move |_| {
        let when = Arc::clone(&when);
        async move {
            let (tell, told) = mpsc::channel(2);
            tell.send(Ok(Frame::data(Bytes::from_static(b"some"))))
                .await
                .unwrap();
            tokio::spawn(async move {
                when.acquire().await.unwrap().forget();
                tell.send(Err(std::io::Error::other("broken")))
                    .await
                    .unwrap();
            });
            Response::new(Frames(told))
        }
    })
    .await;
    let circuit = circuit(1).kernel(origin.address).protocol("h2");
    let app = TestApp::serving(&[&circuit]).await;
    let get = Request::get(format!("http://{}/", circuit.host()))
        .body(empty())
        .unwrap();
    let by_http2 = Http2::connect(app.wildcard())
        .await
        .start(get)
        .await
        .unwrap();
    let get = request("GET", &circuit.host(), "/").body(empty()).unwrap();
    let by_http1 = Http1::connect(app.wildcard())
        .await
        .start(get)
        .await
        .unwrap();
    for answer in [by_http2, by_http1] {
        let mut body = answer.into_body();
        let first = within("the first data", body.frame())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(first.into_data().unwrap(), "some");
        reset.add_permits(2);
        let last = within("the end", body.frame())
            .await
            .expect("an end that is no end");
        assert!(last.is_err());
    }
}

#[tokio::test]
async fn a_truncated_http1_answer_is_a_reset_stream() {
    let origin = Origin::once(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await;
    let circuit = circuit(1).kernel(origin.address);
    let app = TestApp::serving(&[&circuit]).await;
    let client = Http2::connect(app.wildcard()).await;
    let get = Request::get(format!("http://{}/", circuit.host()))
        .body(empty())
        .unwrap();
    assert!(client.try_send(get).await.is_err());
    // The connection goes on.
    assert_eq!(client.get("nobody.apps.test", "/").await.status, 400);
}

/// Reads frames of HTTP/2 up to one of that type, and returns its payload; `None` at the end.
async fn payload_of(stream: &mut TcpStream, kind: u8) -> Option<Vec<u8>> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.ok()?;
        if head[3] == kind {
            return Some(payload);
        }
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_gone() {
    const PING: u8 = 6;
    let manager = json!({
        "codec_type": "HTTP2", "route_config": to("a"),
        "http2_protocol_options": {"connection_keepalive": {"interval": "0.05s", "timeout": "2s"}},
    });
    let (_socket, nowhere) = refusing();
    let text = bootstrap(
        &[listener("web", &http(&manager))],
        &[cluster("a", nowhere)],
    );
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut stream = TcpStream::connect(app.listener("web")).await.unwrap();
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(opening).await.unwrap();
    for _ in 0..2 {
        let ping = within("a ping", payload_of(&mut stream, PING))
            .await
            .unwrap();
        let mut pong = vec![0, 0, 8, PING, 1, 0, 0, 0, 0];
        pong.extend(ping);
        stream.write_all(&pong).await.unwrap();
    }
    within("the last ping", payload_of(&mut stream, PING))
        .await
        .unwrap();
    let nothing = within("the end", payload_of(&mut stream, PING)).await;
    assert_eq!(nothing, None);
}

#[tokio::test]
async fn a_bootstrap_says_what_its_clusters_speak() {
    let origin = http2_origin(grpc_echo).await;
    let clusters = [http2_cluster("a", origin.address)];
    let text = bootstrap(&[forwarding("web", "a")], &clusters).to_string();
    let app = TestApp::bootstrap(&text).await;
    let client = Http2::connect(app.listener("web")).await;
    let reply = client.send(grpc("any.example", full("message"))).await;
    assert_eq!(reply.text(), "message");
    assert_eq!(reply.trailers.expect("trailers")["grpc-status"], "0");
}

/// The danger: the codec waits for the acknowledgement of a ping before it closes, and nobody limits how long.
#[tokio::test]
async fn a_connection_ends_when_its_client_does_not_acknowledge_its_end() {
    const GOAWAY: u8 = 7;
    let origin = Origin::fixed("ok").await;
    let manager = http(&json!({
        "route_config": to("a"),
        "common_http_protocol_options": {"idle_timeout": "0.1s"},
        "drain_timeout": "0.1s",
        "delayed_close_timeout": "0.1s",
    }));
    let text = bootstrap(
        &[listener("web", &manager)],
        &[cluster("a", origin.address)],
    );
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut client = TcpStream::connect(app.listener("web")).await.unwrap();
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0")
        .await
        .unwrap();
    let mut said = Vec::new();
    let end = within("the end of the connection", client.read_to_end(&mut said));
    end.await.unwrap();
    let mut frames = &said[..];
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *frames {
        kinds.push(kind);
        frames = &frames[9 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c))..];
    }
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}
