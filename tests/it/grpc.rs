//! gRPC through the proxy, where it goes wrong: servers that die in the middle of an answer.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, http, http2_cluster, listener, to};
use crate::support::client::{Body, Http1, Http2};
use crate::support::origin::Origin;
use crate::support::{eventually, within};

/// A message that is whole, and part of another.
const SENT: &[u8] = b"\0\0\0\0\x03one\0\0\0\0\x05tw";
/// The first of them.
const WHOLE: &[u8] = b"\0\0\0\0\x03one";

/// Answers by what `SENT` has, or by as much of it as the path says (`/whole`), and breaks off once
/// the client has said something: by the code in `x-code`, or with its connection.
async fn breaking() -> Origin {
    Origin::tcp(|stream| async move {
        serve(stream).await;
    })
    .await
}

async fn serve(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let gone = Arc::new(Notify::new());
    loop {
        let next = tokio::select! {
            next = connection.accept() => next,
            () = gone.notified() => return,
        };
        let Some(Ok((request, mut respond))) = next else {
            return;
        };
        let gone = Arc::clone(&gone);
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let kind = head
                .headers
                .get("x-kind")
                .map_or("application/grpc", |kind| kind.to_str().unwrap());
            let answer = Response::builder().header("content-type", kind);
            let answer = match head.headers.get("x-length") {
                Some(length) => answer.header("content-length", length),
                None => answer,
            };
            let mut answer = respond
                .send_response(answer.body(()).unwrap(), false)
                .unwrap();
            let sent = match head.uri.path() {
                "/whole" => WHOLE,
                _ => SENT,
            };
            answer.send_data(Bytes::from_static(sent), false).unwrap();
            body.data().await.unwrap().unwrap();
            match head.headers.get("x-code") {
                Some(code) => answer.send_reset(reason(code.to_str().unwrap())),
                None => {
                    gone.notify_one();
                    std::future::pending().await
                }
            }
        });
    }
}

fn reason(code: &str) -> Reason {
    code.parse::<u32>().unwrap().into()
}

async fn app(origin: &Origin, more: &Value) -> TestApp {
    let mut manager = json!({"route_config": to("a")});
    for (key, value) in more.as_object().unwrap() {
        manager[key] = value.clone();
    }
    let clusters = [http2_cluster("a", origin.address)];
    let text = bootstrap(&[listener("web", &http(&manager))], &clusters);
    TestApp::bootstrap(&text.to_string()).await
}

/// A request that goes on, and what lets the server break off.
fn asking(path: &str, kind: &str, fields: &[(&str, &str)]) -> (Request<Body>, mpsc::Sender<()>) {
    let (go, mut gone) = mpsc::channel::<()>(1);
    let frames = async_stream(async move {
        gone.recv().await?;
        Some(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))
    });
    let mut request = Request::post(path)
        .header("host", "h")
        .header("content-type", kind)
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    (request.body(frames).unwrap(), go)
}

/// One frame when it is there, and an end that never comes.
fn async_stream(first: impl Future<Output = Option<Frame<Bytes>>> + Send + Sync + 'static) -> Body {
    let stream = futures_util::stream::unfold(Some(first), |first| async move {
        match first {
            Some(first) => Some((Ok(first.await?), None)),
            None => std::future::pending().await,
        }
    });
    StreamBody::new(stream).boxed()
}

/// Reads `length` bytes, lets the server break off, and reads the rest.
async fn broken(
    answer: Response<Incoming>,
    length: usize,
    go: mpsc::Sender<()>,
) -> Result<(Vec<u8>, Option<HeaderMap>), hyper::Error> {
    let mut body = answer.into_body();
    let mut all = Vec::new();
    while all.len() < length {
        let frame = within("data", body.frame()).await.unwrap()?;
        all.extend_from_slice(&frame.into_data().unwrap());
    }
    go.send(()).await.unwrap();
    loop {
        match within("the end", body.frame()).await.transpose()? {
            None => return Ok((all, None)),
            Some(frame) => match frame.into_data() {
                Ok(data) => all.extend_from_slice(&data),
                Err(frame) => return Ok((all, frame.into_trailers().ok())),
            },
        }
    }
}

#[tokio::test]
async fn a_server_that_dies_in_the_middle_of_an_answer_is_unavailable() {
    let origin = breaking().await;
    let log = tempfile::tempdir().unwrap();
    let path = log.path().join("access.log");
    let format =
        "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %TRAILER(grpc-status)%\n";
    let app = app(
        &origin,
        &json!({"access_log": [{"name": "file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path, "log_format": {"text_format_source": {"inline_string": format}},
        }}]}),
    )
    .await;
    let client = Http2::connect(app.listener("web")).await;
    for (code, status, flag) in [
        (None, "14", "UC"),
        (Some(Reason::INTERNAL_ERROR), "13", "UR"),
        (Some(Reason::REFUSED_STREAM), "14", "UR"),
        (Some(Reason::CANCEL), "1", "UR"),
        (Some(Reason::ENHANCE_YOUR_CALM), "8", "UR"),
        (Some(Reason::INADEQUATE_SECURITY), "7", "UR"),
        (Some(Reason::NO_ERROR), "13", "UR"),
    ] {
        let number = code.map(|code| u32::from(code).to_string());
        let fields: Vec<_> = number.iter().map(|n| ("x-code", n.as_str())).collect();
        let (request, go) = asking("http://h/", "application/grpc+proto", &fields);
        let answer = client.start(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let (data, trailers) = broken(answer, SENT.len(), go).await.unwrap();
        assert_eq!(data, SENT, "{code:?}");
        let trailers = trailers.expect("trailers");
        assert_eq!(trailers["grpc-status"], status, "{code:?}");
        assert!(!trailers["grpc-message"].is_empty());
        let reason = match flag {
            "UC" => "connection_termination",
            _ => "remote_reset",
        };
        let line =
            format!("200 {flag} upstream_reset_after_response_started{{{reason}}} {status}\n");
        eventually("the log", || {
            std::fs::read_to_string(&path).is_ok_and(|log| log.ends_with(&line))
        })
        .await;
    }
}

/// What is no gRPC, or says how long it is, is reset: trailers would make it look whole.
#[tokio::test]
async fn what_has_no_status_of_grpc_is_reset() {
    let origin = breaking().await;
    let app = app(&origin, &json!({})).await;
    let client = Http2::connect(app.listener("web")).await;
    for (kind, fields) in [
        ("text/plain", vec![]),
        ("application/grpc-web", vec![]),
        ("application/grpc", vec![("x-kind", "text/html")]),
        ("application/grpc", vec![("x-length", "100")]),
    ] {
        for code in [Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
            let number = u32::from(code).to_string();
            let mut fields = fields.clone();
            fields.push(("x-code", &number));
            let (request, go) = asking("http://h/", kind, &fields);
            let answer = client.start(request).await.unwrap();
            let ended = broken(answer, SENT.len(), go).await;
            assert!(ended.is_err(), "{kind} {fields:?} {ended:?}");
        }
    }
    let (request, go) = asking("/", "application/grpc", &[("x-code", "2")]);
    let mut client = Http1::connect(app.listener("web")).await;
    let answer = client.start(request).await.unwrap();
    assert!(broken(answer, SENT.len(), go).await.is_err());
}

#[tokio::test]
async fn a_client_of_grpc_web_is_told_in_the_body_unless_a_message_was_cut() {
    let origin = breaking().await;
    let filter = |name: &str, message: &str| {
        json!({"name": name, "typed_config": {"@type":
            format!("type.googleapis.com/envoy.extensions.filters.http.{message}")}})
    };
    let app = app(
        &origin,
        &json!({"http_filters": [
            filter("envoy.filters.http.grpc_web", "grpc_web.v3.GrpcWeb"),
            filter("envoy.filters.http.router", "router.v3.Router"),
        ]}),
    )
    .await;
    for text in [false, true] {
        let kind = match text {
            true => "application/grpc-web-text",
            false => "application/grpc-web+proto",
        };
        let fields = [("x-code", "7"), ("accept", kind)];
        for whole in [true, false] {
            let path = if whole { "/whole" } else { "/" };
            let sent = if whole { WHOLE } else { SENT };
            let length = match text {
                true => sent.len().div_ceil(3) * 4,
                false => sent.len(),
            };
            let mut client = Http1::connect(app.listener("web")).await;
            let (request, go) = web(path, kind, &fields);
            let answer = client.start(request).await.unwrap();
            let ended = broken(answer, length, go).await;
            if !whole {
                assert!(ended.is_err(), "{kind} {ended:?}");
                continue;
            }
            let (data, trailers) = ended.unwrap();
            assert!(trailers.is_none());
            let frame = match text {
                true => base64(&data[length..]),
                false => data[length..].to_vec(),
            };
            assert_eq!(frame[0], 0x80);
            let told = String::from_utf8_lossy(&frame[5..]);
            assert!(told.contains("grpc-status:14\r\n"), "{told}");
        }
    }
}

/// What goes up in base64 is the same empty message.
fn web(path: &str, kind: &str, fields: &[(&str, &str)]) -> (Request<Body>, mpsc::Sender<()>) {
    if !kind.ends_with("text") {
        return asking(path, kind, fields);
    }
    let (request, go) = asking(path, kind, fields);
    let request = request.map(|body| {
        body.map_frame(|frame| frame.map_data(|_| Bytes::from_static(b"AAAAAAA=")))
            .boxed()
    });
    (request, go)
}

fn base64(text: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}
