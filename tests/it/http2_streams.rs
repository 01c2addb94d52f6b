//! Streams of clients of HTTP/2, down to their frames: what is malformed, what breaks off, and what
//! comes before an answer.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::h2_conformance::wire::{
    ACK, DATA, END_HEADERS, Frame, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, all, data,
    fields, frame, get, headers, request, whole,
};
use crate::support::app::TestApp;
use crate::support::bootstrap::{
    bootstrap, cluster, forwarding, http, http2_cluster, listener, to,
};
use crate::support::client::{Http1, Http2, empty, full};
use crate::support::origin::{Conn, Origin};
use crate::support::within;

async fn client(at: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(at).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    // Ends with its client; what it ended with is seen by whoever sent a request.
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// Begins a request with a body.
fn upload(
    client: &mut SendRequest<Bytes>,
    headers: &[(&str, &str)],
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = Request::post("http://h.test/up");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client
        .send_request(request.body(()).unwrap(), false)
        .unwrap()
}

// --- malformed requests --------------------------------------------------------------------------

/// Heads that are no requests (RFC 9113 sections 8.2 and 8.3).
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let with = |name, value| request("GET", "/", &[(name, value)]);
    vec![
        ("a field of the connection", with("connection", "close")),
        ("a transfer coding", with("transfer-encoding", "chunked")),
        ("te", with("te", "gzip")),
        ("a value with a line in it", with("x-a", "a\nb")),
        ("a name in upper case", with("X-Upper", "1")),
        ("an unknown pseudo field", with(":foo", "x")),
        ("a late pseudo field", {
            let mut block = with("x-a", "1");
            block.extend(fields(&[(":path", "/late")]));
            block
        }),
        (
            "no method",
            fields(&[(":scheme", "http"), (":path", "/"), (":authority", "h")]),
        ),
        (
            "no path",
            fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "h")]),
        ),
        (
            "no host",
            fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/")]),
        ),
    ]
}

/// All that is said on a connection: one good request, then a bad one, then a good one.
async fn said(at: SocketAddr, bad: &[u8]) -> Vec<Frame> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let begin = all(&[PREFACE.to_vec(), frame(SETTINGS, 0, 0, b""), get(1)]);
    stream.write_all(&begin).await.unwrap();
    let (mut bytes, mut seen) = (Vec::new(), Vec::new());
    let mut bad = Some(all(&[whole(3, bad), get(5)]));
    loop {
        while let Some(found) = Frame::take(&mut bytes) {
            let ended = found.ends_stream();
            if ended && found.stream == 1 {
                stream.write_all(&bad.take().unwrap()).await.unwrap();
            }
            let last = ended && found.stream == 5;
            seen.push(found);
            if last {
                return seen;
            }
        }
        let mut more = [0; 4096];
        match within("a frame, or the end", stream.read(&mut more)).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&more[..count]),
            _ => return seen,
        }
    }
}

async fn fronted(more: &Value) -> (TestApp, Origin) {
    let origin = Origin::fixed("in").await;
    let mut manager = json!({"route_config": to("a")});
    for (key, value) in more.as_object().unwrap() {
        manager[key] = value.clone();
    }
    let listener = listener("web", &http(&manager));
    let text = bootstrap(&[listener], &[cluster("a", origin.address)]);
    (TestApp::bootstrap(&text.to_string()).await, origin)
}

fn has(seen: &[Frame], kind: u8, stream: u32) -> bool {
    seen.iter().any(|f| f.kind == kind && f.stream == stream)
}

#[tokio::test]
async fn a_malformed_request_ends_its_connection_without_a_word() {
    let (app, origin) = fronted(&json!({})).await;
    for (what, bad) in malformed() {
        let seen = said(app.listener("web"), &bad).await;
        assert!(has(&seen, HEADERS, 1), "{what}: the first was not answered");
        for (kind, stream) in [(HEADERS, 3), (HEADERS, 5), (RST_STREAM, 3), (GOAWAY, 0)] {
            assert!(!has(&seen, kind, stream), "{what}: {kind} on {stream}");
        }
    }
    assert!(origin.requests().iter().all(|head| head.target == "/"));
}

#[tokio::test]
async fn where_that_is_wanted_it_ends_its_stream_and_the_others_go_on() {
    let (app, _origin) = fronted(&json!({"http2_protocol_options":
        {"override_stream_error_on_invalid_http_message": true}}))
    .await;
    for (what, bad) in malformed() {
        // After these nobody knows what the rest of a head says.
        let unread = ["a value with", "a name in", "an unknown"];
        let unread = unread.iter().any(|begin| what.starts_with(begin));
        let seen = said(app.listener("web"), &bad).await;
        assert_eq!(has(&seen, HEADERS, 5), !unread, "{what}");
        assert_eq!(has(&seen, GOAWAY, 0), unread, "{what}");
        let refused = has(&seen, RST_STREAM, 3) || has(&seen, HEADERS, 3);
        assert_eq!(refused, !unread, "{what}");
    }
}

#[tokio::test]
async fn a_body_of_another_length_ends_its_stream_only() {
    let (app, _origin) = fronted(&json!({})).await;
    let mut client = client(app.listener("web")).await;
    let (answer, mut body) = upload(&mut client, &[("content-length", "9")]);
    body.send_data(Bytes::from_static(b"abc"), true).unwrap();
    let error = within("a reset", answer).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
    assert!(error.is_reset(), "{error}");
    let get = Request::get("http://h.test/").body(()).unwrap();
    let (answer, _) = client.send_request(get, true).unwrap();
    assert_eq!(within("an answer", answer).await.unwrap().status(), 200);
}

// --- what comes before an answer -----------------------------------------------------------------

#[tokio::test]
async fn a_client_that_waits_to_be_told_is_told_to_go_on() {
    let origin = Origin::http(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            assert_eq!(head.header("expect"), "");
            let content = conn.content(&head).await.unwrap();
            let text = String::from_utf8(content.data).unwrap();
            conn.reply(200, &[], &text).await;
        }
    })
    .await;
    let text = bootstrap(&[forwarding("web", "a")], &[cluster("a", origin.address)]);
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut client = client(app.listener("web")).await;
    let (mut answer, mut body) = upload(&mut client, &[("expect", "100-continue")]);
    let told = std::future::poll_fn(|cx| answer.poll_informational(cx));
    let told = within("a word", told).await.unwrap().unwrap();
    assert_eq!(told.status(), StatusCode::CONTINUE);
    body.send_data(Bytes::from_static(b"at last"), true)
        .unwrap();
    let (head, mut body) = within("an answer", answer).await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    assert_eq!(
        within("a body", body.data()).await.unwrap().unwrap(),
        "at last"
    );
}

#[tokio::test]
async fn a_client_whose_body_nobody_wants_is_not_told_to_go_on() {
    let (app, origin) = fronted(&json!({"route_config": {"name": "r", "virtual_hosts": []}})).await;
    let mut client = client(app.listener("web")).await;
    let (mut answer, _body) = upload(&mut client, &[("expect", "100-continue")]);
    let told = std::future::poll_fn(|cx| answer.poll_informational(cx));
    assert!(within("no word", told).await.is_none());
    assert_eq!(within("an answer", answer).await.unwrap().status(), 404);
    assert!(origin.requests().is_empty());
}

// --- what breaks off -----------------------------------------------------------------------------

#[tokio::test]
async fn a_reset_without_an_error_is_no_end_of_an_upload() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::http(move |mut conn: Conn| {
        let tell = tell.clone();
        async move {
            let head = conn.request().await.unwrap();
            tell.send(None).unwrap();
            tell.send(Some(conn.content(&head).await.is_some()))
                .unwrap();
        }
    })
    .await;
    let text = bootstrap(&[forwarding("web", "a")], &[cluster("a", origin.address)]);
    let app = TestApp::bootstrap(&text.to_string()).await;
    for reason in [Reason::NO_ERROR, Reason::CANCEL] {
        let mut client = client(app.listener("web")).await;
        let (_answer, mut body) = upload(&mut client, &[]);
        body.send_data(Bytes::from_static(b"half"), false).unwrap();
        assert_eq!(within("a head", told.recv()).await, Some(None));
        body.send_reset(reason);
        let whole = within("the end", told.recv()).await;
        assert_eq!(whole, Some(Some(false)), "{reason:?}");
    }
}

/// Resets each stream without an error: at once, or once it has begun to answer and has got some of
/// the body.
async fn leaving(answers: bool) -> Origin {
    Origin::tcp(move |mut stream| async move {
        let mut bytes = vec![0; PREFACE.len()];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        bytes.clear();
        loop {
            while let Some(came) = Frame::take(&mut bytes) {
                let leave = frame(RST_STREAM, 0, came.stream, &[0; 4]);
                // 200, by the static table.
                let head = headers(came.stream, END_HEADERS, &[0x88]);
                let said = match came.kind {
                    SETTINGS if came.flags & ACK == 0 => frame(SETTINGS, ACK, 0, b""),
                    HEADERS if answers => all(&[head, data(came.stream, 0, b"some")]),
                    HEADERS => leave,
                    DATA if answers => leave,
                    _ => continue,
                };
                stream.write_all(&said).await.unwrap();
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(count) if count > 0) {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_reset_without_an_error_by_the_origin_is_no_answer_to_an_upload() {
    for answers in [false, true] {
        let origin = leaving(answers).await;
        let clusters = [http2_cluster("a", origin.address)];
        let text = bootstrap(&[forwarding("web", "a")], &clusters).to_string();
        let app = TestApp::bootstrap(&text).await;
        let mut by_http2 = client(app.listener("web")).await;
        let (answer, mut body) = upload(&mut by_http2, &[]);
        body.send_data(Bytes::from_static(b"half"), false).unwrap();
        let answer = within("an answer", answer).await;
        let post = Request::post("/up").header("host", "h.test");
        let post = post.body(full("whole")).unwrap();
        let by_http1 = Http1::connect(app.listener("web"))
            .await
            .try_send(post)
            .await;
        if answers {
            // The reset may have come before the head had left.
            if let Ok(answer) = answer {
                let mut body = answer.into_body();
                let end = within("the end", async {
                    loop {
                        match body.data().await {
                            Some(Ok(_)) => {}
                            other => return other,
                        }
                    }
                })
                .await;
                assert!(matches!(end, Some(Err(_))), "an end that is none: {end:?}");
            }
            assert!(by_http1.is_err(), "{by_http1:?}");
        } else {
            assert!(answer.unwrap().status().is_server_error());
            assert!(by_http1.unwrap().status.is_server_error());
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_stream_in_time() {
    let (app, _origin) = fronted(&json!({"stream_idle_timeout": "0.2s"})).await;
    let stream = TcpStream::connect(app.listener("web")).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let client = builder.initial_window_size(0).handshake::<_, Bytes>(stream);
    let (sender, connection) = client.await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let get = Request::get("http://h.test/").body(()).unwrap();
    let (answer, _) = sender.send_request(get, true).unwrap();
    let mut body = within("a head", answer).await.unwrap().into_body();
    let end = within("the end", body.data()).await.unwrap();
    assert_eq!(end.unwrap_err().reason(), Some(Reason::CANCEL));
}

#[tokio::test]
async fn an_answer_that_a_filter_makes_one_without_a_body_has_none() {
    let types = "type.googleapis.com/envoy";
    let origin = Origin::http(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.reply(503, &[], "a stack trace").await;
        }
    })
    .await;
    let input = json!({"name": "i", "typed_config": {
        "@type": format!("{types}.type.matcher.v3.HttpResponseStatusCodeClassMatchInput")}});
    let single = json!({"single_predicate": {"input": input, "value_match": {"exact": "5xx"}}});
    let policy = json!({"name": "p", "typed_config": {
        "@type": format!("{types}.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy"),
        "body": {"inline_string": "of no use"}, "status_code": 204}});
    let tree = json!({"matcher_list": {"matchers": [
        {"predicate": single, "on_match": {"action": policy}}]}});
    let filter = json!({"name": "custom", "typed_config": {
        "@type": format!("{types}.extensions.filters.http.custom_response.v3.CustomResponse"),
        "custom_response_matcher": tree}});
    let mut manager = http(&json!({"route_config": to("a")}));
    let chain = manager["typed_config"]["http_filters"].as_array_mut();
    chain.unwrap().insert(0, filter);
    let text = bootstrap(
        &[listener("web", &manager)],
        &[cluster("a", origin.address)],
    );
    let app = TestApp::bootstrap(&text.to_string()).await;
    let client = Http2::connect(app.listener("web")).await;
    for _ in 0..2 {
        let get = Request::get("http://h.test/").body(empty()).unwrap();
        let reply = client.send(get).await;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (204, ""));
        assert_eq!(reply.header("content-length"), "");
    }
}
