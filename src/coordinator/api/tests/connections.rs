//! What a connection may and may not do.

use rcgen::generate_simple_self_signed;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;

use super::*;

const REQUEST: &[u8] = b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n";

struct Served {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    run: tokio::task::JoinHandle<()>,
}

fn serve(tls: Option<Arc<ServerConfig>>, limits: Limits) -> Served {
    let (stop, stopped) = watch::channel(false);
    let mut server = Server::bind("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    server.limits = limits;
    let address = server.local_addr().unwrap();
    let router = interface(World::default(), addresses(false));
    let run = tokio::spawn(server.run(router, stopped));
    Served { address, stop, run }
}

/// Short times for what is to fire, long ones for what is not.
fn limits() -> Limits {
    let long = Duration::from_secs(60);
    Limits {
        handshake: long,
        keep_alive: long,
        age: long,
        connections: 16,
    }
}

const SHORT: Duration = Duration::from_millis(50);

fn tls_pair() -> (Arc<ServerConfig>, TlsConnector) {
    let made = generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), TlsConnector::from(Arc::new(client)))
}

/// Reads until one whole answer to [`REQUEST`] is there.
async fn answered(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.ends_with("\"v2\"}") {
        let n = stream.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    text
}

/// Whether the other side ends the connection, whatever it says before.
async fn is_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> bool {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    ended.is_ok()
}

#[tokio::test]
async fn tls_is_spoken_where_it_is_configured() {
    let (server, client) = tls_pair();
    let served = serve(Some(server), limits());
    let stream = TcpStream::connect(served.address).await.unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let mut stream = client.connect(name, stream).await.unwrap();
    for _ in 0..2 {
        stream.write_all(REQUEST).await.unwrap();
        let answer = answered(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_handshake_has_an_end() {
    let (server, _) = tls_pair();
    let served = serve(
        Some(server),
        Limits {
            handshake: SHORT,
            ..limits()
        },
    );
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    assert!(is_closed(&mut silent).await);
}

#[tokio::test]
async fn a_head_has_an_end_and_so_has_silence() {
    let served = serve(
        None,
        Limits {
            keep_alive: SHORT,
            ..limits()
        },
    );
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
    assert!(is_closed(&mut slow).await);
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(REQUEST).await.unwrap();
    answered(&mut idle).await;
    assert!(is_closed(&mut idle).await);
}

#[tokio::test]
async fn connections_do_not_grow_old() {
    let served = serve(
        None,
        Limits {
            age: SHORT,
            ..limits()
        },
    );
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    answered(&mut stream).await;
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn there_are_only_so_many_connections() {
    let served = serve(
        None,
        Limits {
            connections: 1,
            ..limits()
        },
    );
    let mut first = TcpStream::connect(served.address).await.unwrap();
    first.write_all(REQUEST).await.unwrap();
    answered(&mut first).await;
    let mut second = TcpStream::connect(served.address).await.unwrap();
    second.write_all(REQUEST).await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(SHORT, second.read(&mut byte)).await;
    assert!(early.is_err(), "the second waits");
    drop(first);
    answered(&mut second).await;
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_the_port() {
    let served = serve(None, limits());
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    answered(&mut stream).await;
    served.stop.send(true).unwrap();
    served.run.await.unwrap();
    assert!(is_closed(&mut stream).await);
    assert!(TcpListener::bind(served.address).await.is_ok());
}
