use std::sync::Arc;
use std::time::Duration;

use causeway_xds::source::{Batch, Outcome};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::coordinator::model::Circuit;
use crate::coordinator::translate::Frame;
use crate::coordinator::wire::WireCircuit;
use crate::coordinator::{Circuits, shim};

async fn get(address: SocketAddr, request: String) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_circuits_are_valid_and_lead_to_the_back_ends() {
    let backends = start_backends().await.unwrap();
    let wires: Vec<WireCircuit> = serde_json::from_value(circuits(&backends)).unwrap();
    let circuits: Vec<Circuit> = wires
        .into_iter()
        .map(|wire| Circuit::try_from(wire).unwrap())
        .collect();
    let addresses: Vec<_> = circuits.iter().map(|c| c.routes[0].address).collect();
    let Backends {
        notebook,
        llm,
        echo,
        ..
    } = backends;
    assert_eq!(addresses, [notebook, notebook, llm, echo].map(Some));
}

#[tokio::test]
async fn the_notebook_echoes_and_ticks() {
    use futures_util::{SinkExt, StreamExt};
    let backends = start_backends().await.unwrap();
    let stream = TcpStream::connect(backends.notebook).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://x/ws", stream)
        .await
        .unwrap();
    socket.send(Message::text("ping")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("ping"));

    let mut events = TcpStream::connect(backends.notebook).await.unwrap();
    events
        .write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    let ticking = async {
        while !seen.contains("data: 0") {
            let mut piece = [0; 1024];
            let n = events.read(&mut piece).await.unwrap();
            seen.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ticking)
        .await
        .unwrap();

    let page = get(
        backends.notebook,
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(),
    )
    .await;
    assert!(page.contains("WebSocket echo"));
    assert!(
        !page.contains("src=") && !page.contains("//cdn"),
        "nothing from elsewhere"
    );
}

#[tokio::test]
async fn the_model_streams_or_answers_at_once() {
    let backends = start_backends().await.unwrap();
    for (body, expected) in [
        ("{\"stream\":true}", "data: [DONE]"),
        ("{}", "chat.completion\""),
    ] {
        let answer = get(
            backends.llm,
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            ),
        )
        .await;
        assert!(answer.contains(expected), "{answer}");
    }
}

#[tokio::test]
async fn the_event_stream_can_be_a_short_one() {
    let backends = start_backends().await.unwrap();
    let request = "GET /events?ticks=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = get(backends.notebook, request.into()).await;
    assert!(
        answer.contains("data: 0") && !answer.contains("data: 1"),
        "{answer}"
    );
}

/// In pieces, as a proxy may cut it.
#[tokio::test]
async fn the_echo_ends_when_it_is_told_to() {
    let backends = start_backends().await.unwrap();
    let mut stream = TcpStream::connect(backends.echo).await.unwrap();
    for piece in ["hello QUIT", "\r", "\nQU", "IT\r\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        let mut back = vec![0; piece.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, piece.as_bytes());
    }
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn the_echo_ends_when_its_client_has() {
    let backends = start_backends().await.unwrap();
    let mut stream = TcpStream::connect(backends.echo).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello");
}

/// A worker's management port, in front of a control plane that takes everything.
async fn shim(config: &WorkerConfig, running: &mut JoinSet<()>) -> (SocketAddr, Arc<Circuits>) {
    let (batches, mut inbox) = tokio::sync::mpsc::channel::<Batch>(1);
    tokio::spawn(async move {
        while let Some(batch) = inbox.recv().await {
            let outcome = Outcome {
                generation: 1,
                changed: true,
                rejected: vec![],
            };
            let _ = batch.answer.unwrap().send(outcome);
        }
    });
    let known = Circuits::new(Frame::from(config), batches, Arc::default());
    known.install_frame().await.unwrap();
    let router = shim::router(Arc::clone(&known), config.api_secret.clone());
    (serve(router, running).await.unwrap(), known)
}

/// How many circuits a worker has after these were pushed.
pub(super) async fn pushed(config: &WorkerConfig, circuits: &Value) -> usize {
    let mut running = JoinSet::new();
    let (management, known) = shim(config, &mut running).await;
    push(management, &config.api_secret, circuits)
        .await
        .unwrap();
    known.list().await.1.len()
}

/// The demo's circuits are ones that the demo's worker takes, pushed as a Coordinator would.
#[tokio::test]
async fn the_circuits_go_through_the_shim() {
    let backends = start_backends().await.unwrap();
    let config = config();
    let mut running = JoinSet::new();
    let (management, known) = shim(&config, &mut running).await;
    let refused = push(management, &Secret::new("guess"), &circuits(&backends)).await;
    assert!(matches!(
        refused,
        Err(PushFailed::Refused(StatusCode::UNAUTHORIZED, _))
    ));
    let answer = push(management, &config.api_secret, &circuits(&backends))
        .await
        .unwrap();
    assert_eq!(
        (&answer["generation"], &answer["changed"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(known.list().await.1.len(), 4);
}

#[test]
fn the_banner_has_a_line_for_each_way() {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let text = banner(&Addresses {
        wildcard: at(8080),
        notebook: at(8081),
        echo: at(8082),
        path: at(5050),
        management: at(6040),
    });
    for expected in [
        "http://notebook.localhost:8080/",
        "http://127.0.0.1:8081/",
        "http://127.0.0.1:5050/00000000-cafe-4000-8000-000000000001/notebook/",
        "curl -N http://llm.localhost:8080/v1/chat/completions -d '{\"stream\":true}'",
        "127.0.0.1:8082",
        "http://127.0.0.1:6040/status",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}
