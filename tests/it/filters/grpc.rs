//! The filters that bring gRPC to clients without trailers, and count it, each in front of a service.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::policies::{filter, front};
use crate::support::app::TestApp;
use crate::support::client::{Http1, Reply, full, request};
use crate::support::origin::{Conn, Origin};

/// A message of gRPC: no compression, and four bytes of length.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// Sends messages back. The status is the last digit of the path.
async fn service() -> Origin {
    Origin::http(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            let content = conn.content(&head).await.unwrap().data;
            let status = head.target.chars().last().unwrap();
            let size = content.len();
            let mut answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntrailer: grpc-status\r\n\
                 transfer-encoding: chunked\r\n\r\n{size:x}\r\n"
            )
            .into_bytes();
            answer.extend(&content);
            answer.extend(format!("\r\n0\r\ngrpc-status: {status}\r\n\r\n").as_bytes());
            conn.send(answer).await;
        }
    })
    .await
}

async fn call(app: &TestApp, path: &str, kind: &str, body: Vec<u8>) -> Reply {
    let request = request("POST", "app.test", path)
        .header("content-type", kind)
        .header("accept", kind);
    let request = request.body(full(body)).unwrap();
    let mut client = Http1::connect(app.listener("web")).await;
    client.send_body(request).await
}

async fn behind(name: &str, message: &str, more: &serde_json::Value, origin: &Origin) -> TestApp {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}});
    let text = front(&[filter(name, message, more)], &[route], origin);
    TestApp::bootstrap(&text).await
}

#[tokio::test]
async fn a_browser_gets_the_trailers_in_the_body() {
    let origin = service().await;
    let app = behind("web", "grpc_web.v3.GrpcWeb", &json!({}), &origin).await;
    let message = framed(b"hello");
    let mut whole = message.clone();
    whole.extend(b"\x80\x00\x00\x00\x0fgrpc-status:0\r\n");
    let reply = call(
        &app,
        "/p.S/M0",
        "application/grpc-web+proto",
        message.clone(),
    )
    .await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &whole[..]));
    assert_eq!(reply.header("content-type"), "application/grpc-web+proto");
    let text = "application/grpc-web-text+proto";
    let reply = call(
        &app,
        "/p.S/M0",
        text,
        STANDARD.encode(&message).into_bytes(),
    )
    .await;
    // Each piece is encoded by itself, and may be padded.
    let pieces = reply.text();
    let pieces = pieces
        .split_inclusive("==")
        .flat_map(|p| p.split_inclusive('='));
    let mut decoded = Vec::new();
    let mut left = String::new();
    for piece in pieces {
        left.push_str(piece);
        if left.len().is_multiple_of(4) {
            decoded.extend(STANDARD.decode(&left).unwrap());
            left.clear();
        }
    }
    assert_eq!(decoded, whole);
    for seen in origin.requests() {
        assert_eq!(seen.header("content-type"), "application/grpc");
        assert_eq!(seen.header("te"), "trailers");
    }
}

#[tokio::test]
async fn a_client_without_trailers_finds_the_status_in_the_head() {
    let origin = service().await;
    let app = behind(
        "bridge",
        "grpc_http1_bridge.v3.Config",
        &json!({"upgrade_protobuf_to_grpc": true}),
        &origin,
    )
    .await;
    for (path, status, grpc) in [("/p.S/M0", 200, "0"), ("/p.S/M5", 503, "5")] {
        let reply = call(&app, path, "application/grpc", framed(b"hello")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("grpc-status")),
            (status, grpc)
        );
    }
    let bare = call(&app, "/p.S/M0", "application/x-protobuf", b"hello".to_vec()).await;
    assert_eq!((bare.status.as_u16(), bare.text().as_str()), (200, "hello"));
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.header("content-type"), "application/grpc");
}

#[tokio::test]
async fn calls_are_counted_by_their_method() {
    let origin = service().await;
    let config = json!({"stats_for_all_methods": true});
    let app = behind("stats", "grpc_stats.v3.FilterConfig", &config, &origin).await;
    for path in ["/p.S/M0", "/p.S/M0", "/p.S/M5"] {
        call(&app, path, "application/grpc", framed(b"hello")).await;
    }
    let counted = |method: &str, name: &str| {
        let scope = format!("cluster.a.grpc.p.S.{method}.");
        app.running.stats.named(&scope).counter(name).value()
    };
    assert_eq!((counted("M0", "success"), counted("M0", "total")), (2, 2));
    assert_eq!((counted("M5", "failure"), counted("M5", "5")), (1, 1));
    assert_eq!(counted("M0", "request_message_count"), 2);
    assert_eq!(counted("M5", "success"), 0);
}
