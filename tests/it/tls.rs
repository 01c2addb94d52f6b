//! TLS towards clients.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, forwarding};
use crate::support::client::{Http1, Http2, empty, request};
use crate::support::origin::Origin;
use crate::support::process::run;
use crate::support::within;

const NAME: &str = "app.test";

pub fn certified() -> CertifiedKey<rcgen::KeyPair> {
    generate_simple_self_signed([NAME.to_owned()]).unwrap()
}

/// The server of an endpoint with that certificate, which answers whatever it reads with `tls`.
pub async fn answer(stream: TcpStream, certified: &CertifiedKey<rcgen::KeyPair>) {
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let Ok(mut tls) = acceptor.accept(stream).await else {
        return;
    };
    let mut head = [0; 4096];
    while tls.read(&mut head).await.is_ok_and(|length| length > 0) {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntls";
        tls.write_all(answer).await.ok();
    }
}

/// A listener with TLS in front of cluster `a`.
fn tls_listener(certificate: &Value) -> Value {
    let mut listener = forwarding("web", "a");
    listener["filter_chains"][0]["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/\
                      envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [certificate],
            },
        },
    });
    listener
}

pub fn inline(certified: &CertifiedKey<rcgen::KeyPair>) -> Value {
    json!({
        "certificate_chain": {"inline_string": certified.cert.pem()},
        "private_key": {"inline_string": certified.signing_key.serialize_pem()},
    })
}

fn in_files(directory: &Path, certified: &CertifiedKey<rcgen::KeyPair>) -> Value {
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    json!({"certificate_chain": {"filename": cert}, "private_key": {"filename": key}})
}

pub async fn serving(origin: &Origin, certificate: &Value) -> TestApp {
    let text = bootstrap(
        &[tls_listener(certificate)],
        &[cluster("a", origin.address)],
    );
    TestApp::bootstrap(&text.to_string()).await
}

pub async fn connect(
    app: &TestApp,
    certified: &CertifiedKey<rcgen::KeyPair>,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(app.listener("web")).await?;
    let name = ServerName::try_from(NAME).unwrap();
    within(
        "a TLS handshake",
        TlsConnector::from(Arc::new(config)).connect(name, stream),
    )
    .await
}

#[tokio::test]
async fn http1_and_http2_are_chosen_by_alpn() {
    let (origin, certified) = (Origin::echo().await, certified());
    let directory = tempfile::tempdir().unwrap();
    let app = serving(&origin, &in_files(directory.path(), &certified)).await;

    let stream = connect(&app, &certified, &["http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let reply = Http1::over(stream).await.get(NAME, "/1").await;
    assert_eq!(reply.json()["target"], "/1");

    let stream = connect(&app, &certified, &["http/1.1", "h2"])
        .await
        .unwrap();
    assert_eq!(
        stream.get_ref().1.alpn_protocol(),
        Some(&b"h2"[..]),
        "the server's order counts"
    );
    let reply = Http2::over(stream).await.get(NAME, "/2").await;
    assert_eq!(reply.json()["target"], "/2");

    let stream = connect(&app, &certified, &[]).await.unwrap();
    assert_eq!(
        Http1::over(stream).await.get(NAME, "/3").await.json()["target"],
        "/3"
    );
    // Without use_remote_address the scheme is still the connection's own.
    let protos: Vec<_> = origin
        .requests()
        .iter()
        .map(|r| r.header("x-forwarded-proto").to_owned())
        .collect();
    assert_eq!(protos, ["https"; 3]);
}

#[tokio::test]
async fn certificates_may_be_inline() {
    let (origin, certified) = (Origin::fixed("inline").await, certified());
    let app = serving(&origin, &inline(&certified)).await;
    let stream = connect(&app, &certified, &["h2"]).await.unwrap();
    assert_eq!(
        Http2::over(stream).await.get(NAME, "/").await.text(),
        "inline"
    );
}

#[tokio::test]
async fn large_bodies_pass_whole_through_tls() {
    let (origin, certified) = (Origin::echo().await, certified());
    let app = serving(&origin, &inline(&certified)).await;
    let large = "0123456789".repeat(200_000);
    let stream = connect(&app, &certified, &["http/1.1"]).await.unwrap();
    let put = request("PUT", NAME, "/")
        .body(crate::support::client::full(large.clone()))
        .unwrap();
    let reply = Http1::over(stream).await.send_body(put).await;
    assert!(reply.json()["body"] == large, "changed on the way");
}

#[tokio::test]
async fn a_truncated_answer_is_seen_as_broken_through_tls() {
    let certified = certified();
    let origin = Origin::once(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await;
    let app = serving(&origin, &inline(&certified)).await;
    let stream = connect(&app, &certified, &["http/1.1"]).await.unwrap();
    let get = request("GET", NAME, "/").body(empty()).unwrap();
    assert!(Http1::over(stream).await.try_send(get).await.is_err());
}

#[tokio::test]
async fn clear_text_on_a_tls_port_and_a_stranger_harm_nobody() {
    let (origin, certified) = (Origin::fixed("ok").await, certified());
    let app = serving(&origin, &inline(&certified)).await;
    let mut raw = crate::support::raw::Raw::connect(app.listener("web")).await;
    raw.send("GET / HTTP/1.1\r\nhost: app.test\r\n\r\n").await;
    let (answer, _) = raw.rest().await;
    assert!(!answer.starts_with(b"HTTP/"), "no answer in clear text");
    let stranger = self::certified();
    assert!(
        connect(&app, &stranger, &["h2"]).await.is_err(),
        "not its certificate"
    );
    let stream = connect(&app, &certified, &["h2"]).await.unwrap();
    assert_eq!(Http2::over(stream).await.get(NAME, "/").await.text(), "ok");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_refused_by_name_and_path() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (certified(), certified());
    let mut mismatched = inline(&one);
    mismatched["private_key"] = inline(&other)["private_key"].clone();
    let missing = json!({
        "certificate_chain": {"filename": "/nonexistent/cert.pem"},
        "private_key": {"filename": "/nonexistent/key.pem"},
    });
    let garbage = json!({
        "certificate_chain": {"inline_string": "not a certificate"},
        "private_key": {"inline_string": one.signing_key.serialize_pem()},
    });
    let key = one.signing_key.serialize_pem();
    for (certificate, word) in [
        (mismatched, "private_key"),
        (missing, "/nonexistent/"),
        (garbage, "certificate_chain"),
    ] {
        let at = "127.0.0.1:9".parse().unwrap();
        let text = bootstrap(&[tls_listener(&certificate)], &[cluster("a", at)]).to_string();
        let path = directory.path().join("tls.json");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        for arguments in [&["validate", "-c", path][..], &["-c", path]] {
            let finished = run(arguments).await;
            assert_eq!(finished.code, Some(1), "{word}: {}", finished.stderr);
            for part in [
                "listener \"web\"",
                "filter_chains[0].transport_socket",
                word,
            ] {
                assert!(
                    finished.stderr.contains(part),
                    "{part}: {}",
                    finished.stderr
                );
            }
            assert!(
                !finished.stderr.contains(key.lines().nth(1).unwrap()),
                "a key in the log"
            );
        }
    }
}
