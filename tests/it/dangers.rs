//! One test for each danger that users of the legacy worker met (docs/MIGRATION.md), unless a test of
//! another module is about it already: truncation and aborts in `http1::bodies`, close codes and
//! handshakes in `websocket`, half-closes in `tcp`, repeated fields and the path in `http1::heads`.

use crate::support::app::TestApp;
use crate::support::circuit::circuit;
use crate::support::client::{Http1, full, request};
use crate::support::origin::Origin;
use crate::support::raw::{End, Raw};
use crate::support::{refusing, tcp_echo, ws};

#[tokio::test]
async fn a_dead_replica_costs_no_request() {
    let alive = Origin::fixed("alive").await;
    let (_socket, dead) = refusing();
    let circuit = circuit(1).kernels(&[dead, alive.address]);
    let app = TestApp::serving(&[&circuit]).await;
    let mut client = Http1::connect(app.wildcard()).await;
    for _ in 0..20 {
        assert_eq!(client.get(&circuit.host(), "/").await.text(), "alive");
        // Nothing of it was sent to the dead one, so it need not be safe to repeat.
        let post = request("POST", &circuit.host(), "/").body(full("once"));
        assert_eq!(client.send_body(post.unwrap()).await.status, 200);
    }
    assert_eq!(alive.requests().len(), 40);
}

#[tokio::test]
async fn a_dead_replica_costs_no_tcp_connection() {
    let alive = tcp_echo().await;
    let (_socket, dead) = refusing();
    let circuit = circuit(1).at_slot(1).protocol("tcp");
    let app = TestApp::serving(&[&circuit.kernels(&[dead, alive.address])]).await;
    for _ in 0..10 {
        let mut raw = Raw::connect(app.slot(1)).await;
        raw.send(b"ssh").await;
        assert_eq!(raw.bytes(3).await, b"ssh");
    }
}

#[tokio::test]
async fn the_hundred_and_first_connection_is_served_like_the_first() {
    let echo = ws::echo_origin().await;
    let circuit = circuit(1).kernel(echo.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut sockets = Vec::new();
    for _ in 0..130 {
        sockets.push(ws::open(app.wildcard(), &circuit.host(), "/").await);
    }
    for socket in &mut sockets {
        ws::echoed(socket, "here").await.unwrap();
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_whole_answers() {
    let origin = Origin::http(|mut connection| async move {
        while let Some(head) = connection.request().await {
            connection.content(&head).await;
            connection
                .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nwhol\r\n1\r\ne\r\n0\r\n\r\n")
                .await;
        }
    })
    .await;
    let circuit = circuit(1).kernel(origin.address).at_slot(1);
    let app = TestApp::serving(&[&circuit]).await;
    for head in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: x\r\n\r\n",
    ] {
        let mut raw = Raw::connect(app.slot(1)).await;
        raw.send(head).await;
        let (answer, end) = raw.rest().await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nwhole"),
            "no chunks for 1.0: {answer}"
        );
        assert_eq!(end, End::Closed);
    }
}

#[tokio::test]
async fn an_apps_own_cors_answer_is_kept() {
    let origin = Origin::http(|mut connection| async move {
        while let Some(head) = connection.request().await {
            let own = [
                ("access-control-allow-origin", "https://portal.test"),
                ("access-control-allow-credentials", "true"),
            ];
            let silent = head.target == "/silent";
            connection
                .reply(200, if silent { &[] } else { &own }, "")
                .await;
        }
    })
    .await;
    let circuit = circuit(1).kernel(origin.address);
    let app = TestApp::serving(&[&circuit]).await;
    let own = app.get(&circuit, "/own").await;
    let allowed: Vec<_> = own
        .headers
        .get_all("access-control-allow-origin")
        .iter()
        .collect();
    assert_eq!(allowed, ["https://portal.test"]);
    // As the legacy worker answers for apps that have no word of their own.
    let silent = app.get(&circuit, "/silent").await;
    assert_eq!(silent.header("access-control-allow-origin"), "*");
}

#[tokio::test]
async fn what_the_client_claims_of_itself_does_not_replace_what_is_known() {
    let origin = Origin::echo().await;
    let circuit = circuit(1).kernel(origin.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut client = Http1::connect(app.wildcard()).await;
    let asked = request("GET", &circuit.host(), "/")
        .header("x-forwarded-for", "192.0.2.9")
        .body(full(""))
        .unwrap();
    client.send_body(asked).await;
    let seen = &origin.requests()[0];
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-forwarded-host"), circuit.host());
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(
        seen.header("x-forwarded-port"),
        "80",
        "not the client's own port"
    );
    assert_eq!(
        seen.header("forwarded"),
        format!("host={};proto=http", circuit.host())
    );
}

#[tokio::test]
async fn a_preflight_never_becomes_a_tunnel() {
    let echo = ws::echo_origin().await;
    let circuit = circuit(1).kernel(echo.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut raw = Raw::connect(app.wildcard()).await;
    // It passes without credentials, so what it asks for besides must not be granted.
    raw.send(format!(
        "OPTIONS / HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        circuit.host()
    ))
    .await;
    let answer = raw.answer().await;
    assert_ne!(answer.status, 101);
    assert_eq!(answer.header("upgrade"), "");
}
