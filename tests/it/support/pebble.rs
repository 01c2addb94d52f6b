//! Pebble, a certificate authority for tests, with names that all lead to this machine.
//!
//! Both are programs of the Debian package `pebble`; tests that need them are skipped without.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use causeway::config::Acme;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;

use super::client::Http1;
use super::within;

pub const EAB_KEY_ID: &str = "kid-1";
pub const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// Whether there is one; says so if not.
pub fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| std::env::split_paths(&path).any(|at| at.join(program).is_file());
    let installed = there("pebble") && there("pebble-challtestsrv");
    if !installed {
        println!("skipped: the Debian package pebble is not installed");
    }
    installed
}

/// Where an authority will be, before it is there.
pub struct Site {
    directory: TempDir,
    address: SocketAddr,
    management: SocketAddr,
}

/// What it is to be like.
pub struct Settings {
    /// Where the authority looks for the proof of TLS-ALPN-01.
    pub tls_port: u16,
    pub dns: SocketAddr,
    /// Of certificates, in seconds.
    pub validity: u64,
    pub needs_eab: bool,
}

/// A running authority. Killed when dropped.
pub struct Pebble {
    _child: Child,
}

/// A name server that leads every name here and has the records that it is told to have.
pub struct Names {
    _child: Child,
    pub dns: SocketAddr,
    pub management: SocketAddr,
}

/// A port that nobody has now. Both programs have to be told theirs.
fn free_port() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

async fn reachable(at: SocketAddr) {
    within("a program that listens", async {
        while TcpStream::connect(at).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn program(name: &str, arguments: &[&str]) -> Child {
    Command::new(name)
        .args(arguments)
        .envs([
            ("PEBBLE_VA_NOSLEEP", "1"),
            // Every order proves anew.
            ("PEBBLE_AUTHZREUSE", "0"),
            // A twentieth of all nonces is refused, as it may happen.
            ("PEBBLE_WFE_NONCEREJECT", "5"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

impl Names {
    pub async fn start() -> Self {
        let (dns, management) = (free_port(), free_port());
        let child = program(
            "pebble-challtestsrv",
            &[
                "-dns01",
                &dns.to_string(),
                "-management",
                &management.to_string(),
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
                "-defaultIPv6",
                "",
            ],
        );
        reachable(management).await;
        Self {
            _child: child,
            dns,
            management,
        }
    }
}

impl Site {
    /// With a certificate for itself, from an authority that only it has.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(params, ca_key);
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let own = CertificateParams::new(names).unwrap();
        let own = own.signed_by(&key, &issuer).unwrap();
        for (name, pem) in [
            ("ca.pem", ca.pem()),
            ("cert.pem", own.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            std::fs::write(directory.path().join(name), pem).unwrap();
        }
        Self {
            directory,
            address: free_port(),
            management: free_port(),
        }
    }

    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Certificates from here, kept in a directory of the site.
    pub fn acme(&self) -> Acme {
        Acme {
            directory: format!("https://{}/dir", self.address),
            ca: Some(self.ca()),
            contact: vec!["mailto:ops@example.org".to_owned()],
            cache: self.directory.path().join("cache"),
            challenge: causeway::config::AcmeChallenge::TlsAlpn01,
            domains: Vec::new(),
            circuits: None,
            orders_per_hour: 5,
            dns: None,
            propagation: std::time::Duration::ZERO,
            eab: None,
        }
    }

    pub async fn start(&self, settings: &Settings) -> Pebble {
        let file = |name: &str| self.directory.path().join(name);
        let config = json!({"pebble": {
            "listenAddress": self.address, "managementListenAddress": self.management,
            "certificate": file("cert.pem"), "privateKey": file("key.pem"),
            "httpPort": 1, "tlsPort": settings.tls_port,
            "ocspResponderURL": "", "externalAccountBindingRequired": settings.needs_eab,
            "externalAccountMACKeys": {EAB_KEY_ID: EAB_KEY},
            "certificateValidityPeriod": settings.validity,
        }});
        std::fs::write(file("pebble.json"), config.to_string()).unwrap();
        let path = file("pebble.json").display().to_string();
        let dns = settings.dns.to_string();
        let child = program("pebble", &["-config", &path, "-dnsserver", &dns]);
        reachable(self.address).await;
        reachable(self.management).await;
        Pebble { _child: child }
    }

    /// What certificates of this authority are checked by. It is another one after each start.
    pub async fn roots(&self) -> RootCertStore {
        let mut own = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.ca()).unwrap();
        own.add(ca).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TcpStream::connect(self.management).await.unwrap();
        let connector = TlsConnector::from(client(own));
        let stream = within("a handshake", connector.connect(name, stream)).await;
        let mut http = Http1::over(stream.unwrap()).await;
        let reply = http.get("127.0.0.1", "/roots/0").await;
        let root = CertificateDer::from_pem_slice(reply.text().as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        roots
    }
}

/// Trusts `roots` and speaks HTTP/1.1.
pub fn client(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each handshake is a whole one: a resumed session shows no certificate.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}
