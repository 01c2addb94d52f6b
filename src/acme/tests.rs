//! Orders and renewal information (RFC 9773), from an authority that has little else.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Failure;
use super::account::Authority;
use super::leaf::renewal_info;
use super::order::order;
use super::store::Store;
use crate::config::{Acme, AcmeChallenge, DnsSolver};
use crate::tls::Automatic;

/// A certificate for this machine, with its key, from an authority that is trusted here.
pub(super) struct Made {
    ca: String,
    pub(super) cert: CertificateDer<'static>,
    key: KeyPair,
}

pub(super) fn made() -> Made {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    own.use_authority_key_identifier_extension = true;
    let cert = own.signed_by(&key, &issuer).unwrap().der().clone();
    Made { ca, cert, key }
}

/// Answers each connection once, from `page` by path.
async fn serve(made: &Made, page: fn(&str, u16) -> Option<String>) -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(made.key.serialize_pem().as_bytes());
    let config = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.clone()], key.unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    break;
                };
                head.push(byte);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|l| l.lines().next()?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            if stream.read_exact(&mut body).await.is_err() {
                continue;
            }
            let path = head.split(' ').nth(1).unwrap_or_default();
            let answer = match page(path, port) {
                Some(body) => format!(
                    "HTTP/1.1 200 OK\r\nretry-after: 7200\r\nreplay-nonce: n\r\n\
                     location: https://127.0.0.1/it\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                ),
                None => "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
            };
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    });
    port
}

fn directory(port: u16, more: &str) -> String {
    let url = |path: &str| format!("\"https://127.0.0.1:{port}/{path}\"");
    format!(
        "{{\"newNonce\": {}, \"newAccount\": {}, \"newOrder\": {}{more}}}",
        url("nonce"),
        url("account"),
        url("order")
    )
}

/// With an account, so that nothing has to be registered.
pub(super) fn authority(
    made: &Made,
    port: u16,
    at: &TempDir,
    change: impl FnOnce(&mut Acme),
) -> Authority {
    let ca = at.path().join("ca.pem");
    std::fs::write(&ca, &made.ca).unwrap();
    let mut config = Acme {
        directory: format!("https://127.0.0.1:{port}/directory"),
        ca: Some(ca),
        contact: Vec::new(),
        cache: at.path().join("cache"),
        challenge: AcmeChallenge::TlsAlpn01,
        domains: vec!["app.test".to_owned()],
        circuits: None,
        orders_per_hour: 1,
        dns: None,
        propagation: Duration::ZERO,
        eab: None,
    };
    change(&mut config);
    let store = Store::open(&config.cache, &config.directory).unwrap();
    let (_, key) = instant_acme::Key::generate_pkcs8().unwrap();
    use base64::Engine as _;
    let key = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key.secret_pkcs8_der());
    let account = serde_json::json!({
        "id": "https://127.0.0.1/account/1", "key_pkcs8": key, "directory": config.directory,
    });
    store.write_account(account.to_string().as_bytes()).unwrap();
    Authority::new(config, store).unwrap()
}

#[tokio::test]
async fn a_suggested_window_is_read_and_one_without_is_no_fault() {
    crate::tls::install_provider();
    let (made, at) = (made(), tempfile::tempdir().unwrap());
    let port = serve(&made, |path, port| match path {
        "/directory" => {
            let info = format!(", \"renewalInfo\": \"https://127.0.0.1:{port}/info\"");
            Some(directory(port, &info))
        }
        // RFC 9773 section 4.1: key identifier and serial number, a dot between them.
        path if path.starts_with("/info/") && path.contains('.') => Some(
            "{\"suggestedWindow\": {\"start\": \"2030-01-01T00:00:00Z\", \
             \"end\": \"2030-01-02T00:00:00Z\"}}"
                .to_owned(),
        ),
        _ => None,
    })
    .await;
    let found = renewal_info(&authority(&made, port, &at, |_| ()), &made.cert).await;
    let ((start, end), again) = found.unwrap().unwrap();
    let seconds = |t: SystemTime| t.duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(
        (seconds(start), seconds(end)),
        (1_893_456_000, 1_893_542_400)
    );
    assert!(again > Duration::from_secs(7000) && again <= Duration::from_secs(7200));

    let (made, at) = (self::made(), tempfile::tempdir().unwrap());
    let port = serve(&made, |path, port| {
        (path == "/directory").then(|| directory(port, ""))
    })
    .await;
    let none = renewal_info(&authority(&made, port, &at, |_| ()), &made.cert).await;
    assert!(none.unwrap().is_none());
}

/// What a program has written before it failed is taken away by nobody else.
#[tokio::test]
async fn a_hook_that_fails_is_called_again_to_clean_up() {
    crate::tls::install_provider();
    let (made, at) = (made(), tempfile::tempdir().unwrap());
    let port = serve(&made, |path, port| match path {
        "/directory" => Some(directory(port, "")),
        "/nonce" => Some(String::new()),
        "/order" => Some(format!(
            "{{\"status\": \"pending\", \"authorizations\": [\"https://127.0.0.1:{port}/proof\"], \
             \"finalize\": \"https://127.0.0.1:{port}/finalize\"}}"
        )),
        "/proof" => Some(format!(
            "{{\"identifier\": {{\"type\": \"dns\", \"value\": \"app.test\"}}, \"status\": \"pending\", \
             \"challenges\": [{{\"type\": \"dns-01\", \"url\": \"https://127.0.0.1:{port}/ready\", \
             \"token\": \"t\", \"status\": \"pending\"}}]}}"
        )),
        _ => None,
    })
    .await;
    let said = at.path().join("said");
    let script = format!(
        "echo \"$1 $2\" >> {}; test \"$1\" = cleanup",
        said.display()
    );
    let authority = authority(&made, port, &at, |config| {
        let hook = ["/bin/sh", "-c", &script, "hook"].map(str::to_owned);
        config.challenge = AcmeChallenge::Dns01;
        config.dns = Some(DnsSolver::Hook(hook.into()));
    });
    let (automatic, _wanted) = Automatic::new(&[], None).unwrap();
    let failed = order(&authority, &automatic, "app.test", None).await;
    let failure = failed.err().expect("nothing was proven");
    assert!(matches!(failure, Failure::Dns(_)), "{failure}");
    assert_eq!(
        std::fs::read_to_string(said).unwrap(),
        "present _acme-challenge.app.test\ncleanup _acme-challenge.app.test\n"
    );
}
