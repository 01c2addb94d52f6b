//! TCP circuits.

use tokio::io::AsyncReadExt;

use crate::support::app::TestApp;
use crate::support::circuit::circuit;
use crate::support::origin::Origin;
use crate::support::raw::{End, Raw};
use crate::support::{refusing, tcp_echo};

async fn serving(origin: &Origin) -> TestApp {
    let circuit = circuit(1).kernel(origin.address).at_slot(1).protocol("tcp");
    TestApp::serving(&[&circuit]).await
}

#[tokio::test]
async fn bytes_pass_both_ways_unchanged() {
    let origin = tcp_echo().await;
    let app = serving(&origin).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send(b"GET / HTTP/1.1\r\n\x00\xff").await;
    assert_eq!(raw.bytes(18).await, b"GET / HTTP/1.1\r\n\x00\xff");
    let large: Vec<u8> = (0..300_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    raw.send(&large).await;
    assert!(raw.bytes(large.len()).await == large, "changed on the way");
}

#[tokio::test]
async fn many_connections_do_not_mix() {
    let origin = tcp_echo().await;
    let app = serving(&origin).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(Raw::connect(app.slot(1)).await);
    }
    for round in 0..3 {
        for (i, client) in clients.iter_mut().enumerate() {
            client.send(format!("{round:03}{i:05}")).await;
        }
        for (i, client) in clients.iter_mut().enumerate() {
            assert_eq!(
                client.bytes(8).await,
                format!("{round:03}{i:05}").as_bytes()
            );
        }
    }
    drop(clients);
    origin.has_no_connection().await;
}

#[tokio::test]
async fn a_clients_half_close_lets_the_answer_come() {
    let origin = Origin::tcp(|mut stream| async move {
        let mut question = String::new();
        // Returns at the end of the client's side, and only then is there an answer.
        stream.read_to_string(&mut question).await.unwrap();
        let answer = format!("you said: {question}");
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes())
            .await
            .unwrap();
    })
    .await;
    let app = serving(&origin).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("hello").await;
    raw.finish().await;
    let (rest, end) = raw.rest().await;
    assert_eq!((&rest[..], end), (&b"you said: hello"[..], End::Closed));
    origin.has_no_connection().await;
}

#[tokio::test]
async fn an_origins_half_close_lets_the_client_go_on() {
    let (said, heard) = tokio::sync::mpsc::channel(1);
    let origin = Origin::tcp(move |mut stream| {
        let said = said.clone();
        async move {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"greeting")
                .await
                .unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut stream)
                .await
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            said.send(text).await.unwrap();
        }
    })
    .await;
    let mut heard = heard;
    let app = serving(&origin).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    let (rest, end) = raw.rest().await;
    assert_eq!((&rest[..], end), (&b"greeting"[..], End::Closed));
    raw.send("goodbye").await;
    raw.finish().await;
    let heard = crate::support::within("the client's words", heard.recv()).await;
    assert_eq!(heard.as_deref(), Some("goodbye"));
}

#[tokio::test]
async fn an_origin_that_refuses_closes_the_client() {
    let (_socket, address) = refusing();
    let circuit = circuit(1).kernel(address).at_slot(1).protocol("tcp");
    let app = TestApp::serving(&[&circuit]).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.ended().await;
}

#[tokio::test]
async fn a_circuit_without_kernels_closes_the_client() {
    let app = TestApp::serving(&[&circuit(1).at_slot(1).protocol("tcp")]).await;
    Raw::connect(app.slot(1)).await.ended().await;
}

#[tokio::test]
async fn a_reset_of_either_side_ends_the_other() {
    let origin = tcp_echo().await;
    let app = serving(&origin).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("x").await;
    raw.bytes(1).await;
    raw.reset();
    origin.has_no_connection().await;

    let resetting = Origin::tcp(|mut stream| async move {
        let mut one = [0; 1];
        stream.read_exact(&mut one).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let app = serving(&resetting).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("x").await;
    raw.ended().await;
}

#[tokio::test]
async fn a_route_update_leaves_open_connections_of_a_kernel_that_stays() {
    let (origin, other) = (tcp_echo().await, tcp_echo().await);
    let circuit = circuit(1).kernel(origin.address).at_slot(1).protocol("tcp");
    let app = TestApp::serving(&[&circuit]).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("a").await;
    raw.bytes(1).await;
    app.set_routes(&circuit, &[origin.address, other.address])
        .await;
    raw.send("b").await;
    assert_eq!(raw.bytes(1).await, b"b");
}
