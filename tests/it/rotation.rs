//! Certificates that change under open connections.
//!
//! `CAUSEWAY_ROTATION` is the number of connections of each kind, 100 when it is not set.

use std::path::Path;
use std::sync::Arc;

use causeway::demo::xds::server::ManagementServer;
use causeway::demo::xds::subscription::Versioned;
use causeway_xds::ResourceType;
use futures_util::future::join_all;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::support::app::TestApp;
use crate::support::bootstrap::{cluster, http, http2_cluster, listener};
use crate::support::client::Http1;
use crate::support::origin::Origin;
use crate::support::process::allow_open_files;
use crate::support::{pebble, within, ws};

const NAME: &str = "app.test";
type Made = CertifiedKey<rcgen::KeyPair>;

fn made() -> Made {
    generate_simple_self_signed([NAME.to_owned()]).unwrap()
}

fn count() -> usize {
    let given = std::env::var("CAUSEWAY_ROTATION").ok();
    given.map_or(100, |text| text.parse().expect("a number"))
}

fn trusting(certificates: &[&Made]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for made in certificates {
        roots.add(made.cert.der().clone()).unwrap();
    }
    pebble::client(roots)
}

/// A listener with TLS by `common`, in front of an application that echoes WebSockets under `/ws`.
fn bootstrap(common: &Value, web: &Origin, sockets: &Origin, server: Option<&Value>) -> String {
    let routes = json!({
        "name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
            {"match": {"prefix": "/ws"}, "route": {"cluster": "sockets"}},
            {"match": {"prefix": "/"}, "route": {"cluster": "web"}},
        ]}],
    });
    let manager = http(&json!({
        "route_config": routes, "upgrade_configs": [{"upgrade_type": "websocket"}],
    }));
    let mut front = listener("front", &manager);
    front["filter_chains"][0]["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/\
                  envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common,
    }});
    // Every client has a connection of its own, and so may every request behind it.
    let limits = json!({"thresholds": [{"max_connections": 100_000, "max_requests": 100_000,
        "max_pending_requests": 100_000}]});
    let mut clusters = vec![
        cluster("web", web.address),
        cluster("sockets", sockets.address),
    ];
    for cluster in &mut clusters {
        cluster["circuit_breakers"] = limits.clone();
    }
    clusters.extend(server.cloned());
    let mut text = json!({
        "node": {"id": "n", "cluster": "c"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": [front], "clusters": clusters},
    });
    if server.is_some() {
        text["dynamic_resources"] = json!({"ads_config": {
            "api_type": "DELTA_GRPC",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
        }});
    }
    text.to_string()
}

async fn connect(app: &TestApp, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(app.listener("front")).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
    within("a TLS handshake", connecting).await.unwrap()
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

/// Waits until new connections are shown this certificate.
async fn shown(app: &TestApp, config: &Arc<ClientConfig>, made: &Made) {
    within("the new certificate", async {
        while leaf(&connect(app, config).await) != *made.cert.der() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Open connections: requests between which nothing closes, and WebSockets.
struct Open {
    requests: Vec<Http1>,
    sockets: Vec<WebSocketStream<TlsStream<TcpStream>>>,
}

impl Open {
    async fn start(app: &TestApp, config: &Arc<ClientConfig>) -> Self {
        let one = async || {
            let handshake = ws::handshake(NAME, "/ws");
            let stream = connect(app, config).await;
            let upgrade = client_async_with_config(handshake, stream, Some(ws::config()));
            let socket = within("an upgrade", upgrade).await.unwrap().0;
            (Http1::over(connect(app, config).await).await, socket)
        };
        let mut open = Self {
            requests: Vec::new(),
            sockets: Vec::new(),
        };
        // Some at a time: a thousand handshakes at once would only wait for each other.
        for _ in 0..count().div_ceil(50) {
            for (request, socket) in join_all((0..count().min(50)).map(|_| one())).await {
                open.requests.push(request);
                open.sockets.push(socket);
            }
        }
        open
    }

    async fn all_answer(&mut self, text: &str) {
        for request in &mut self.requests {
            assert_eq!(request.get(NAME, "/").await.text(), "here", "{text}");
            assert!(!request.is_closed(), "{text}");
        }
        for socket in &mut self.sockets {
            use futures_util::{SinkExt as _, StreamExt as _};
            use tokio_tungstenite::tungstenite::Message;
            socket.send(Message::text(text)).await.unwrap();
            let back = within("an echo", socket.next()).await.unwrap().unwrap();
            assert_eq!(back, Message::text(text));
        }
    }
}

async fn origins() -> (Origin, Origin) {
    allow_open_files(u64::try_from(count()).unwrap() * 8 + 1000);
    (Origin::fixed("here").await, ws::echo_origin().await)
}

fn write(directory: &Path, made: &Made) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
}

#[tokio::test]
async fn connections_survive_new_certificate_files() {
    let (web, sockets) = origins().await;
    let (first, second, third) = (made(), made(), made());
    let config = trusting(&[&first, &second, &third]);
    // As Kubernetes mounts a secret: names that lead through a link which is swapped.
    let at = tempfile::tempdir().unwrap();
    let data = at.path().join("..data");
    write(&at.path().join("..1"), &first);
    std::os::unix::fs::symlink("..1", &data).unwrap();
    for file in ["cert.pem", "key.pem"] {
        let link = Path::new("..data").join(file);
        std::os::unix::fs::symlink(link, at.path().join(file)).unwrap();
    }
    let common = json!({"tls_certificates": [{
        "certificate_chain": {"filename": at.path().join("cert.pem")},
        "private_key": {"filename": at.path().join("key.pem")},
        "watched_directory": {"path": at.path()},
    }]});
    let app = TestApp::bootstrap(&bootstrap(&common, &web, &sockets, None)).await;
    let mut open = Open::start(&app, &config).await;
    open.all_answer("before").await;

    write(&at.path().join("..2"), &second);
    let swapped = at.path().join("..new");
    std::os::unix::fs::symlink("..2", &swapped).unwrap();
    std::fs::rename(&swapped, &data).unwrap();
    shown(&app, &config, &second).await;
    open.all_answer("after a swap").await;

    // A certificate without its key is not used; what is in use stays.
    let (cert, key) = (at.path().join("cert.pem"), at.path().join("key.pem"));
    let renamed = |text: String, to: &Path| {
        let beside = at.path().join("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, to).unwrap();
    };
    renamed(third.cert.pem(), &cert);
    within("the mismatch is told", async {
        while !app
            .admin("/config_dump")
            .await
            .text()
            .contains("does not match the certificate")
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(leaf(&connect(&app, &config).await), *second.cert.der());
    renamed(third.signing_key.serialize_pem(), &key);
    shown(&app, &config, &third).await;
    open.all_answer("after a renaming").await;
    assert_eq!(
        open.requests.len() + open.sockets.len(),
        count().div_ceil(50) * count().min(50) * 2
    );
}

#[tokio::test]
async fn connections_survive_new_secrets() {
    let (web, sockets) = origins().await;
    let (sender, _said) = mpsc::unbounded_channel();
    let server = ManagementServer::start(0, sender).await.unwrap();
    let tell = |made: &Made| {
        let any = causeway_xds::text::any_from_value(&json!({
            "@type": ResourceType::Secret.type_url(), "name": "front",
            "tls_certificate": {
                "certificate_chain": {"inline_string": made.cert.pem()},
                "private_key": {"inline_string": made.signing_key.serialize_pem()},
            },
        }))
        .unwrap();
        server.tell(|world| {
            world.version += 1;
            let version = world.version;
            let all = world.resources.entry(ResourceType::Secret).or_default();
            all.insert("front".to_owned(), Versioned { version, any });
        });
    };
    let (first, second) = (made(), made());
    let config = trusting(&[&first, &second]);
    tell(&first);
    let common = json!({"tls_certificate_sds_secret_configs": [
        {"name": "front", "sds_config": {"resource_api_version": "V3", "ads": {}}},
    ]});
    let xds = http2_cluster("xds", server.address);
    let app = TestApp::bootstrap(&bootstrap(&common, &web, &sockets, Some(&xds))).await;
    let open = || app.running.addresses.of("front").is_some();
    crate::support::eventually("the secret is there, and the listener open", open).await;
    let mut open = Open::start(&app, &config).await;
    open.all_answer("before").await;
    tell(&second);
    shown(&app, &config, &second).await;
    open.all_answer("after").await;
}

#[tokio::test]
async fn the_port_of_a_worker_shows_renewed_files() {
    let (first, second) = (made(), made());
    let at = tempfile::tempdir().unwrap();
    write(at.path(), &first);
    let mut worker = crate::support::app::worker();
    worker.tls.listen = Some(causeway::config::Certificates::Files(
        causeway::config::TlsFiles {
            certificate: at.path().join("cert.pem"),
            private_key: at.path().join("key.pem"),
        },
    ));
    let app = TestApp::with(worker).await;
    let config = trusting(&[&first, &second]);
    let shown = async || {
        let stream = TcpStream::connect(app.slot(1)).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let connecting = TlsConnector::from(Arc::clone(&config)).connect(name, stream);
        leaf(&within("a TLS handshake", connecting).await.unwrap())
    };
    assert_eq!(shown().await, *first.cert.der());
    write(at.path(), &second);
    within("the renewed certificate", async {
        while shown().await != *second.cert.der() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}
