//! CONNECT over HTTP/2, on either side, and how its tunnels end.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, http2_cluster, listener, routes};
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{eventually, tcp_echo, within};

/// Takes CONNECT over either protocol; `connect` says what becomes of it.
async fn app(connect: &Value, more: &Value, clusters: &[Value]) -> TestApp {
    let all = json!([
        {"match": {"connect_matcher": {}}, "route": connect},
        {"match": {"prefix": "/"}, "direct_response": {"status": 204}},
    ]);
    let mut manager = json!({
        "route_config": routes(&all),
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
    });
    for (key, value) in more.as_object().unwrap() {
        manager[key] = value.clone();
    }
    let text = bootstrap(&[listener("web", &http(&manager))], clusters);
    TestApp::bootstrap(&text.to_string()).await
}

/// To an endpoint that speaks whatever it likes.
fn ending(cluster: &str) -> Value {
    json!({"cluster": cluster, "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]})
}

async fn client(app: &TestApp) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(app.listener("web")).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn connect(client: &mut SendRequest<Bytes>) -> (ResponseFuture, SendStream<Bytes>) {
    *client = within("a place", client.clone().ready()).await.unwrap();
    let request = http::Request::connect("any.test:443").body(()).unwrap();
    client.send_request(request, false).unwrap()
}

/// A tunnel that was opened.
async fn tunnel(client: &mut SendRequest<Bytes>) -> (SendStream<Bytes>, RecvStream) {
    let (response, up) = connect(client).await;
    let response = within("an answer", response).await.unwrap();
    assert_eq!(response.status(), 200);
    (up, response.into_body())
}

async fn read(down: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let data = within("data", down.data()).await.unwrap().unwrap();
        down.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

/// Waits for an end in good order, and nothing before it.
async fn ended(down: &mut RecvStream) {
    while let Some(data) = within("the end", down.data()).await {
        assert!(data.expect("no reset").is_empty());
    }
}

/// Says how each connection ended: `Ok` in good order.
async fn watched() -> (
    Origin,
    mpsc::UnboundedReceiver<Result<(), std::io::ErrorKind>>,
) {
    let (tell, told) = mpsc::unbounded_channel();
    let origin = Origin::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            let mut sink = [0; 64];
            let ended = loop {
                match stream.read(&mut sink).await {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error.kind()),
                }
            };
            tell.send(ended).unwrap();
        }
    })
    .await;
    (origin, told)
}

#[tokio::test]
async fn a_tunnel_over_http2_ends_at_an_endpoint_with_half_closes() {
    let echo = tcp_echo().await;
    let app = app(&ending("a"), &json!({}), &[cluster("a", echo.address)]).await;
    let mut client = client(&app).await;
    let (mut up, mut down) = tunnel(&mut client).await;
    up.send_data("ping".into(), false).unwrap();
    assert_eq!(read(&mut down, 4).await, b"ping");
    // What comes with the end comes through, and so does the end.
    up.send_data("last".into(), true).unwrap();
    assert_eq!(read(&mut down, 4).await, b"last");
    ended(&mut down).await;
    echo.has_no_connection().await;
    // The connection serves others.
    drop(tunnel(&mut client).await);
}

#[tokio::test]
async fn without_allow_connect_there_are_no_tunnels_over_http2() {
    let echo = tcp_echo().await;
    let more = json!({"http2_protocol_options": {}});
    let app = app(&ending("a"), &more, &[cluster("a", echo.address)]).await;
    let (response, _up) = connect(&mut client(&app).await).await;
    let response = within("an answer", response).await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(echo.connections(), 0);
}

#[tokio::test]
async fn a_tunnel_goes_on_through_another_proxy_over_http2() {
    let echo = tcp_echo().await;
    let far = app(&ending("a"), &json!({}), &[cluster("a", echo.address)]).await;
    let to_far = [http2_cluster("far", far.listener("web"))];
    let near = app(&json!({"cluster": "far"}), &json!({}), &to_far).await;

    let (mut up, mut down) = tunnel(&mut client(&near).await).await;
    up.send_data("two".into(), true).unwrap();
    assert_eq!(read(&mut down, 3).await, b"two");
    ended(&mut down).await;

    let mut one = Raw::connect(near.listener("web")).await;
    one.send("CONNECT any.test:443 HTTP/1.1\r\nHost: any.test:443\r\n\r\n")
        .await;
    assert_eq!(one.head().await.unwrap().status, 200);
    one.send("one").await;
    assert_eq!(one.bytes(3).await, b"one");
    one.finish().await;
    one.ended().await;
    eventually("the tunnels end", || echo.open() == 0).await;
}

/// An endpoint that takes tunnels over HTTP/2, and says how each of them ended: `None` in good order.
async fn watched_over_http2() -> (Origin, mpsc::UnboundedReceiver<Option<Reason>>) {
    let (tell, told) = mpsc::unbounded_channel();
    let origin = Origin::tcp(move |stream| {
        let tell = tell.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let tell = tell.clone();
                tokio::spawn(async move {
                    let answer = respond.send_response(http::Response::new(()), false);
                    let mut answer = answer.unwrap();
                    answer.send_data("hello".into(), false).unwrap();
                    let mut body = request.into_body();
                    let ended = loop {
                        match body.data().await {
                            None => break None,
                            Some(Ok(_)) => {}
                            Some(Err(error)) => break error.reason(),
                        }
                    };
                    tell.send(ended).unwrap();
                    // In good order the other way, too.
                    answer.send_data(Bytes::new(), true).ok();
                });
            }
        }
    })
    .await;
    (origin, told)
}

#[tokio::test]
async fn a_tunnel_that_is_cut_is_a_reset_for_an_endpoint_that_speaks_http2() {
    let (origin, mut ends) = watched_over_http2().await;
    let clusters = [http2_cluster("a", origin.address)];
    let app = app(&json!({"cluster": "a"}), &json!({}), &clusters).await;
    // One connection of a client, so that one data thread serves both tunnels.
    let mut one = client(&app).await;
    let mut other = one.clone();
    for (reason, ended) in [
        (Some(Reason::CANCEL), Some(Reason::CANCEL)),
        (Some(Reason::INTERNAL_ERROR), Some(Reason::CANCEL)),
        (None, None),
    ] {
        // Both on one connection to the endpoint: each has its own writer.
        let (mut staying, mut heard) = tunnel(&mut other).await;
        assert_eq!(read(&mut heard, 5).await, b"hello");
        let (mut up, mut down) = tunnel(&mut one).await;
        assert_eq!(read(&mut down, 5).await, b"hello");
        match reason {
            Some(reason) => up.send_reset(reason),
            None => up.send_data(Bytes::new(), true).unwrap(),
        }
        assert_eq!(
            within("an end", ends.recv()).await,
            Some(ended),
            "{reason:?}"
        );
        staying.send_data(Bytes::new(), true).unwrap();
        assert_eq!(within("an end", ends.recv()).await, Some(None));
        assert_eq!(origin.connections(), 1);
    }
    // A client that is gone, connection and all.
    let mut raw = Raw::connect(app.listener("web")).await;
    raw.send("CONNECT any.test:443 HTTP/1.1\r\nHost: any.test:443\r\n\r\n")
        .await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    assert_eq!(raw.bytes(5).await, b"hello");
    raw.reset();
    let ended = within("an end", ends.recv()).await;
    assert_eq!(ended, Some(Some(Reason::CANCEL)));
}

#[tokio::test]
async fn a_reset_by_the_client_is_a_reset_for_the_endpoint() {
    let (origin, mut ends) = watched().await;
    let app = app(&ending("a"), &json!({}), &[cluster("a", origin.address)]).await;
    let mut client = client(&app).await;
    for (reason, ended) in [
        (
            Some(Reason::CANCEL),
            Err(std::io::ErrorKind::ConnectionReset),
        ),
        (
            Some(Reason::INTERNAL_ERROR),
            Err(std::io::ErrorKind::ConnectionReset),
        ),
        (None, Ok(())),
    ] {
        let (mut up, mut down) = tunnel(&mut client).await;
        assert_eq!(read(&mut down, 5).await, b"hello");
        match reason {
            Some(reason) => up.send_reset(reason),
            None => up.send_data(Bytes::new(), true).unwrap(),
        }
        assert_eq!(
            within("an end", ends.recv()).await,
            Some(ended),
            "{reason:?}"
        );
    }
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_does_not_look_as_if_it_had_ended() {
    let origin = Origin::tcp(|mut stream| async move {
        let mut one = [0; 1];
        stream.read_exact(&mut one).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut one).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let app = app(&ending("a"), &json!({}), &[cluster("a", origin.address)]).await;
    let (mut up, mut down) = tunnel(&mut client(&app).await).await;
    up.send_data("a".into(), false).unwrap();
    assert_eq!(read(&mut down, 1).await, b"x");
    up.send_data("b".into(), false).unwrap();
    let end = within("an end", down.data()).await;
    let error = end.expect("more than an end").unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
}

#[tokio::test]
async fn a_tunnel_that_idles_out_while_its_client_reads_nothing_lets_the_connection_end() {
    // More than the client has room for.
    let origin = Origin::tcp(|mut stream| async move {
        stream.write_all(&vec![0; 1 << 20]).await.ok();
        let mut sink = [0; 64];
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let more = json!({"stream_idle_timeout": "0.3s"});
    let app = app(&ending("a"), &more, &[cluster("a", origin.address)]).await;
    let stream = TcpStream::connect(app.listener("web")).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let (up, mut down) = tunnel(&mut client).await;
    // What it may have without saying that it has read it.
    let error = within("a reset", async {
        loop {
            match down.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("it looks whole"),
            }
        }
    })
    .await;
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    drop((client, up, down));
    within("the connection ends", connection)
        .await
        .unwrap()
        .ok();
    within(
        "the proxy ends",
        tokio::time::timeout(Duration::from_secs(20), app.shutdown()),
    )
    .await
    .expect("soon");
}
