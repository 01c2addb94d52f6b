//! Moving a circuit to other kernels, and taking it away.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::app::TestApp;
use crate::support::circuit::circuit;
use crate::support::client::{Http1, empty, request};
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{tcp_echo, within, ws};

#[tokio::test]
async fn a_route_update_moves_new_requests_and_lets_old_ones_finish() {
    let old = Origin::held("from the old kernel").await;
    let new = Origin::fixed("from the new kernel").await;
    let circuit = circuit(1).kernel(old.address);
    let app = TestApp::serving(&[&circuit]).await;

    let mut client = Http1::connect(app.wildcard()).await;
    let get = request("GET", &circuit.host(), "/long")
        .body(empty())
        .unwrap();
    let pending = tokio::spawn(async move { client.send_body(get).await });
    old.has_requests(1).await;
    let answer = app.set_routes(&circuit, &[new.address]).await;
    assert_eq!(answer["changed"], true);

    for _ in 0..10 {
        assert_eq!(app.get(&circuit, "/").await.text(), "from the new kernel");
    }
    assert!(!pending.is_finished(), "the old request still runs");
    old.release(1);
    assert_eq!(
        within("the old request", pending).await.unwrap().text(),
        "from the old kernel"
    );
    assert_eq!(
        old.requests().len(),
        1,
        "nothing new reached the old kernel"
    );
}

#[tokio::test]
async fn a_route_update_keeps_the_websockets_of_a_kernel_that_stays() {
    let echo = ws::echo_origin().await;
    let other = Origin::fixed("other").await;
    let circuit = circuit(1).kernel(echo.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut socket = ws::open(app.wildcard(), &circuit.host(), "/ws").await;

    app.set_routes(&circuit, &[echo.address, other.address])
        .await;
    ws::echoed(&mut socket, "still here").await.unwrap();
    app.set_routes(&circuit, &[echo.address]).await;
    ws::echoed(&mut socket, "and here").await.unwrap();
    assert_eq!(echo.connections(), 1);
}

#[tokio::test]
async fn a_kept_client_connection_follows_route_updates() {
    let (first, second) = (Origin::fixed("first").await, Origin::fixed("second").await);
    let circuit = circuit(1).kernel(first.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut client = Http1::connect(app.wildcard()).await;
    for _ in 0..5 {
        app.set_routes(&circuit, &[first.address]).await;
        assert_eq!(client.get(&circuit.host(), "/").await.text(), "first");
        app.set_routes(&circuit, &[second.address]).await;
        assert_eq!(client.get(&circuit.host(), "/").await.text(), "second");
    }
}

#[tokio::test]
async fn removing_a_circuit_closes_what_it_carried_and_nothing_else() {
    let (echo, held, tcp) = (
        ws::echo_origin().await,
        Origin::held("").await,
        tcp_echo().await,
    );
    let websockets = circuit(1).kernel(echo.address);
    let requests = circuit(2).kernel(held.address);
    let connections = circuit(3).kernel(tcp.address).at_slot(1).protocol("tcp");
    let bystander = circuit(4).kernel(echo.address);
    let app = TestApp::serving(&[&websockets, &requests, &connections, &bystander]).await;

    let mut socket = ws::open(app.wildcard(), &websockets.host(), "/ws").await;
    let mut by_path = ws::open(
        app.path(),
        "localhost",
        &format!("{}/ws", websockets.prefix()),
    )
    .await;
    let mut survivor = ws::open(app.wildcard(), &bystander.host(), "/ws").await;
    let mut connection = TcpStream::connect(app.slot(1)).await.unwrap();
    connection.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    within("an echo", connection.read_exact(&mut hello))
        .await
        .unwrap();
    let mut pending = Raw::connect(app.wildcard()).await;
    pending
        .send(format!(
            "GET / HTTP/1.1\r\nhost: {}\r\n\r\n",
            requests.host()
        ))
        .await;
    held.has_requests(1).await;

    app.remove(&websockets).await;
    ws::until_closed(&mut socket).await;
    ws::until_closed(&mut by_path).await;
    app.remove(&connections).await;
    let ended = within("the end of a TCP connection", connection.read(&mut hello)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    tcp.has_no_connection().await;
    app.remove(&requests).await;
    // The request has no answer yet, so there is one to give: 502, never silence.
    match pending.try_answer().await {
        Ok(answer) => assert_eq!(answer.status, 502, "{}", answer.text()),
        Err(broken) => panic!("the request in flight got no answer: {broken:?}"),
    }
    held.has_no_connection().await;

    ws::echoed(&mut survivor, "untouched").await.unwrap();
    assert_eq!(echo.open(), 1, "only the bystander's connection is left");
}

#[tokio::test]
async fn a_download_of_a_removed_circuit_is_seen_as_broken() {
    let endless = Origin::http(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n")
            .await;
        conn.left().await;
    })
    .await;
    let circuit = circuit(1).kernel(endless.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut client = Raw::connect(app.wildcard()).await;
    client
        .send(format!(
            "GET / HTTP/1.1\r\nhost: {}\r\n\r\n",
            circuit.host()
        ))
        .await;
    assert_eq!(client.head().await.unwrap().status, 200);
    client.bytes(b"5\r\nbegin\r\n".len()).await;
    app.remove(&circuit).await;
    let (rest, _) = client.rest().await;
    assert!(
        !rest.ends_with(b"0\r\n\r\n"),
        "{:?}",
        String::from_utf8_lossy(&rest)
    );
    endless.has_no_connection().await;
}

#[tokio::test]
async fn after_its_removal_every_way_to_a_circuit_says_that_it_is_not_registered() {
    let origin = Origin::fixed("here").await;
    let named = circuit(1).kernel(origin.address);
    let placed = circuit(2).kernel(origin.address).at_slot(1);
    let tcp = circuit(3).kernel(origin.address).at_slot(2).protocol("tcp");
    let app = TestApp::serving(&[&named, &placed, &tcp]).await;
    let mut kept = Http1::connect(app.wildcard()).await;
    assert_eq!(kept.get(&named.host(), "/").await.text(), "here");
    for circuit in [&named, &placed, &tcp] {
        assert_eq!(app.remove(circuit).await["changed"], true);
    }

    let by_subdomain = kept.get(&named.host(), "/").await;
    assert_eq!(by_subdomain.status, 400);
    assert!(
        by_subdomain
            .text()
            .contains("E20009: Subdomain c1 not registered")
    );
    assert_eq!(
        by_subdomain.header("content-type"),
        "text/html; charset=utf-8"
    );
    let by_port = app.get(&placed, "/").await;
    assert_eq!(by_port.status, 400);
    assert!(
        by_port.text().contains("Unregistered slot 1"),
        "{}",
        by_port.text()
    );
    let after_tcp = app.get(&tcp, "/").await;
    assert!(
        after_tcp.text().contains("Unregistered slot 2"),
        "{}",
        after_tcp.text()
    );
    let by_path = crate::support::client::get(app.path(), "localhost", &named.prefix()).await;
    assert_eq!(by_path.status, 404);
    assert_eq!(
        origin.requests().len(),
        1,
        "nothing more reached the kernel"
    );
}

#[tokio::test]
async fn a_circuit_without_kernels_answers_503_until_it_has_one() {
    let circuit = circuit(1);
    let app = TestApp::serving(&[&circuit]).await;
    assert_eq!(app.get(&circuit, "/").await.status, 503);
    let origin = Origin::fixed("here").await;
    app.set_routes(&circuit, &[origin.address]).await;
    assert_eq!(app.get(&circuit, "/").await.text(), "here");
}

#[tokio::test]
async fn a_slot_changes_from_tcp_to_http_and_back() {
    let (http, tcp) = (Origin::fixed("http").await, tcp_echo().await);
    let as_http = circuit(1).kernel(http.address).at_slot(1);
    let as_tcp = circuit(2).kernel(tcp.address).at_slot(1).protocol("tcp");
    let app = TestApp::worker().await;
    for _ in 0..3 {
        app.announce(&[&as_http]).await;
        assert_eq!(app.get(&as_http, "/").await.text(), "http");
        app.announce(&[&as_tcp]).await;
        let mut raw = Raw::connect(app.slot(1)).await;
        raw.send("raw").await;
        assert_eq!(raw.bytes(3).await, b"raw");
    }
}
