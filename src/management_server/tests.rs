//! Connections over loopback to servers that say one word.

use std::net::SocketAddr;
use std::path::Path;

use causeway_xds::client::Io;
use causeway_xds::resource::api_source::{ChannelTls, Metadata};
use causeway_xds::resource::tls::DataSource;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::bootstrap::{BootstrapConfig, Overrides};
use crate::tls::provider;

fn system() -> (Lookup, DnsFamily) {
    (Resolvers::default().lookup(None, false), DnsFamily::All)
}

const WORD: &str = "welcome";

/// An authority with its certificate in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.as_ref().pem()).unwrap();
        Self { issuer, directory }
    }

    fn path(&self, file: &str) -> String {
        self.directory.path().join(file).display().to_string()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.as_ref().der().clone()).unwrap();
        roots
    }

    fn issue(&self, names: &[&str], uri: Option<&str>) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let uri = uri.map(|uri| SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uri);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A certificate and its key in files of that name.
    fn write(&self, name: &str) {
        let (cert, key) = self.issue(&[name], None);
        std::fs::write(self.path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// A server that welcomes everybody, or only who has a certificate of this authority.
    async fn serve(&self, names: &[&str], uri: Option<&str>, mutual: bool) -> SocketAddr {
        let (cert, key) = self.issue(names, uri);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // A client that turns away is the point of some tests.
                if let Ok(stream) = acceptor.accept(tcp).await {
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                    welcome(stream).await;
                }
            }
        });
        address
    }
}

async fn welcome(mut stream: impl AsyncWrite + Unpin) {
    stream.write_all(WORD.as_bytes()).await.ok();
    stream.shutdown().await.ok();
}

async fn plain() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            welcome(tcp).await;
        }
    });
    address
}

/// Connects, and hears what the server says.
async fn hear(server: &Server) -> Result<String, String> {
    let mut io: Box<dyn Io> = server.connect.connect().await.map_err(|e| e.to_string())?;
    let mut heard = String::new();
    let read = io.read_to_string(&mut heard).await;
    read.map(|_| heard)
        .map_err(|e| format!("after the handshake: {e}"))
}

/// The server of a bootstrap whose cluster is at `host:port` and has these fields.
fn from_bootstrap(host: &str, port: u16, fields: &str, secrets: &str) -> Result<Server, String> {
    let address = format!("socket_address: {{address: {host}, port_value: {port}}}");
    from_address(&address, fields, secrets)
}

fn from_address(address: &str, fields: &str, secrets: &str) -> Result<Server, String> {
    let text = format!(
        "node: {{id: n1, cluster: c1}}\n\
         static_resources:\n  secrets: [{secrets}]\n  clusters:\n  - {{name: xds, {fields}, \
         load_assignment: {{cluster_name: xds, endpoints: [{{lb_endpoints: [{{endpoint: \
         {{address: {{{address}}}}}}}]}}]}}}}\n\
         dynamic_resources: {{ads_config: {{api_type: GRPC, grpc_services: [{{envoy_grpc: \
         {{cluster_name: xds}}, initial_metadata: [{{key: k, value: v}}]}}]}}}}\n"
    );
    let config = BootstrapConfig::parse("b", &text, &Overrides::default());
    let config = config.map_err(|e| e.to_string())?;
    let statics = Statics::read(&config.static_updates, None).map_err(|e| e.to_string())?;
    let servers = servers(&config.xds.ads.unwrap(), &statics).map_err(|e| e.to_string())?;
    Ok(servers.into_iter().next().unwrap())
}

/// A TLS context with this in its common part.
fn tls(sni: &str, common: &str) -> String {
    format!(
        "type: STRICT_DNS, transport_socket: {{name: tls, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, \
         sni: '{sni}', common_tls_context: {{{common}}}}}}}"
    )
}

fn trusting(authority: &Authority) -> String {
    format!(
        "validation_context: {{trusted_ca: {{filename: {}}}}}",
        authority.path("ca.pem")
    )
}

#[tokio::test]
async fn a_cluster_is_reached_by_name_and_by_address() {
    let port = plain().await.port();
    let options = "type: STRICT_DNS, connect_timeout: 3s, http2_protocol_options: \
                   {connection_keepalive: {interval: 30s, timeout: 5s}}";
    let named = from_bootstrap("localhost", port, options, "").unwrap();
    assert_eq!(hear(&named).await.as_deref(), Ok(WORD));
    assert_eq!((&*named.name, &*named.authority), ("xds", "xds"));
    assert!(!named.secure);
    assert_eq!(named.max_message, MAX_MESSAGE);
    assert_eq!(named.metadata, Metadata(vec![("k".into(), b"v".to_vec())]));
    let keepalive = named.keepalive.unwrap();
    assert_eq!(keepalive.interval, Duration::from_secs(30));
    let literal = from_bootstrap("127.0.0.1", port, "type: STATIC", "").unwrap();
    assert_eq!(hear(&literal).await.as_deref(), Ok(WORD));
}

#[tokio::test]
async fn a_socket_file_is_reached_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("xds.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((unix, _)) = listener.accept().await {
            welcome(unix).await;
        }
    });
    let pipe = format!("pipe: {{path: {}}}", path.display());
    let cluster = from_address(&pipe, "type: STATIC", "").unwrap();
    assert_eq!(hear(&cluster).await.as_deref(), Ok(WORD));
    let target = uri(&format!("unix:{}", path.display()), None, None);
    assert_eq!(target.authority, "localhost");
    assert_eq!(hear(&target).await.as_deref(), Ok(WORD));
}

fn uri(uri: &str, tls: Option<ChannelTls>, token: Option<&str>) -> Server {
    let source = ApiSource {
        protocol: ApiProtocol::Incremental,
        servers: vec![ServerRef {
            target: Target::Uri {
                uri: uri.to_owned(),
                tls,
                token: token.map(|token| Token(token.to_owned())),
            },
            metadata: Metadata::default(),
            max_message: Some(5),
        }],
        node_on_first_message_only: false,
    };
    let servers = servers(&source, &Statics::default()).unwrap();
    servers.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_cluster_checks_who_answers() {
    let authority = Authority::new();
    let port = authority.serve(&["xds.test"], None, false).await.port();
    let server =
        |sni: &str, common: &str| from_bootstrap("127.0.0.1", port, &tls(sni, common), "").unwrap();
    let good = server("xds.test", &trusting(&authority));
    assert!(good.secure);
    assert_eq!(hear(&good).await.as_deref(), Ok(WORD));
    // Nothing to check by: as in Envoy.
    assert_eq!(hear(&server("", "")).await.as_deref(), Ok(WORD));

    let error = hear(&server("other.test", &trusting(&authority)))
        .await
        .unwrap_err();
    assert!(
        error.contains("127.0.0.1") && error.contains("not valid for name"),
        "{error}"
    );
    let error = hear(&server("xds.test", &trusting(&Authority::new())))
        .await
        .unwrap_err();
    assert!(
        error.contains("UnknownIssuer") || error.contains("BadSignature"),
        "{error}"
    );
}

#[tokio::test]
async fn listed_names_count_instead_of_the_server_name() {
    let authority = Authority::new();
    let uri = "spiffe://mesh/control-plane";
    let port = authority
        .serve(&["*.xds.test"], Some(uri), false)
        .await
        .port();
    let server = |kind: &str, matcher: &str| {
        let common = format!(
            "validation_context: {{trusted_ca: {{filename: {}}}, match_typed_subject_alt_names: \
             [{{san_type: {kind}, matcher: {{{matcher}}}}}]}}",
            authority.path("ca.pem")
        );
        from_bootstrap("localhost", port, &tls("whatever.test", &common), "").unwrap()
    };
    for (kind, matcher) in [
        ("DNS", "exact: a.xds.test"),
        ("DNS", "suffix: .xds.test"),
        ("URI", "exact: 'spiffe://mesh/control-plane'"),
        ("URI", "prefix: 'spiffe://MESH/', ignore_case: true"),
        (
            "URI",
            "safe_regex: {regex: 'spiffe://[a-z]+/control-plane'}",
        ),
        ("URI", "contains: control"),
    ] {
        let heard = hear(&server(kind, matcher)).await;
        assert_eq!(heard.as_deref(), Ok(WORD), "{kind} {matcher}");
    }
    for (kind, matcher) in [
        ("DNS", "exact: whatever.test"),
        ("DNS", "exact: 'spiffe://mesh/control-plane'"),
        ("URI", "exact: a.xds.test"),
        ("URI", "safe_regex: {regex: control-plane}"),
        ("IP_ADDRESS", "exact: 127.0.0.1"),
    ] {
        assert!(
            hear(&server(kind, matcher)).await.is_err(),
            "{kind} {matcher}"
        );
    }
}

#[tokio::test]
async fn both_sides_show_a_certificate_which_is_read_again() {
    let authority = Authority::new();
    let port = authority.serve(&["xds.test"], None, true).await.port();
    let inline = format!(
        "tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}], {}",
        authority.path("me.pem"),
        authority.path("me.key"),
        trusting(&authority)
    );
    let server = from_bootstrap("127.0.0.1", port, &tls("xds.test", &inline), "").unwrap();
    // Not there yet: an agent may write them after the start.
    let error = hear(&server).await.unwrap_err();
    assert!(error.contains("me.pem"), "{error}");
    authority.write("me");
    assert_eq!(hear(&server).await.as_deref(), Ok(WORD));
    // Renewed by somebody whom the server does not know.
    let stranger = Authority::new();
    stranger.write("me");
    for file in ["me.pem", "me.key"] {
        std::fs::copy(stranger.path(file), authority.path(file)).unwrap();
    }
    assert!(hear(&server).await.is_err());

    let none = from_bootstrap(
        "127.0.0.1",
        port,
        &tls("xds.test", &trusting(&authority)),
        "",
    );
    assert!(hear(&none.unwrap()).await.is_err());
}

#[tokio::test]
async fn secrets_come_from_the_bootstrap_and_from_files() {
    let authority = Authority::new();
    authority.write("me");
    let port = authority.serve(&["xds.test"], None, true).await.port();
    let secret = |name: &str, value: &str| {
        format!(
            "{{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret, \
             name: {name}, {value}}}"
        )
    };
    let certificate = format!(
        "tls_certificate: {{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}",
        authority.path("me.pem"),
        authority.path("me.key")
    );
    let file = authority.path("sds.yaml");
    let text = format!("resources: [{}]", secret("me", &certificate));
    std::fs::write(&file, text).unwrap();
    let common = |ca: &str| {
        format!(
            "tls_certificate_sds_secret_configs: [{{name: me, sds_config: {{path_config_source: \
             {{path: {file}}}}}}}], combined_validation_context: {{default_validation_context: \
             {{match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: xds.test}}}}]}}, \
             validation_context_sds_secret_config: {{name: ca{ca}}}}}"
        )
    };
    let statics = format!("{{name: ca, {}}}", trusting(&authority));
    let server = from_bootstrap("localhost", port, &tls("", &common("")), &statics).unwrap();
    assert_eq!(hear(&server).await.as_deref(), Ok(WORD));

    let error = from_bootstrap("localhost", port, &tls("", &common("")), "").unwrap_err();
    let want =
        "grpc_services[0]: cluster \"xds\": secret \"ca\" is not in static_resources.secrets";
    assert_eq!(error, want);
    let ads = ", sds_config: {ads: {}}";
    let error = from_bootstrap("localhost", port, &tls("", &common(ads)), "").unwrap_err();
    assert!(
        error.contains("would come from a management server"),
        "{error}"
    );
    std::fs::remove_file(Path::new(&file)).unwrap();
    let error = hear(&server).await.unwrap_err();
    assert!(error.contains("secret \"me\" is not known"), "{error}");
}

#[tokio::test]
async fn a_channel_is_always_checked() {
    let authority = Authority::new();
    authority.write("me");
    let port = authority.serve(&["localhost"], None, true).await.port();
    let file = |name: &str| DataSource::File(authority.path(name).into());
    let channel = |roots, server_name: &str| ChannelTls {
        roots,
        client_certificate: Some((file("me.pem"), file("me.key"))),
        server_name: server_name.to_owned(),
    };
    let target = format!("dns:///localhost:{port}");
    let good = uri(
        &target,
        Some(channel(Some(file("ca.pem")), "")),
        Some("t0ken"),
    );
    assert_eq!(good.authority, format!("localhost:{port}"));
    assert_eq!((good.secure, good.max_message), (true, 5));
    let bearer = ("authorization".to_owned(), b"Bearer t0ken".to_vec());
    assert_eq!(good.metadata, Metadata(vec![bearer]));
    assert!(!format!("{good:?}").contains("t0ken"));
    assert_eq!(hear(&good).await.as_deref(), Ok(WORD));

    let by_address = format!("127.0.0.1:{port}");
    let named = uri(
        &by_address,
        Some(channel(Some(file("ca.pem")), "localhost")),
        None,
    );
    assert_eq!(hear(&named).await.as_deref(), Ok(WORD));
    let unnamed = uri(&by_address, Some(channel(Some(file("ca.pem")), "")), None);
    let error = hear(&unnamed).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn an_address_that_fails_makes_way_for_the_next() {
    let good = plain().await;
    let directory = tempfile::tempdir().unwrap();
    let nothing = Address::Pipe(directory.path().join("nothing"));
    let addresses = vec![nothing.clone(), Address::Socket(good)];
    let connector = Connector::new(
        addresses,
        system(),
        CONNECT_TIMEOUT,
        None,
        Security::None,
        "h2",
    );
    let server = Server {
        connect: Arc::new(connector),
        ..uri("a:1", None, None)
    };
    for _ in 0..3 {
        assert_eq!(hear(&server).await.as_deref(), Ok(WORD));
    }
    let alone = vec![nothing.clone()];
    let connector = Connector::new(alone, system(), CONNECT_TIMEOUT, None, Security::None, "h2");
    let server = Server {
        connect: Arc::new(connector),
        ..server
    };
    let error = hear(&server).await.unwrap_err();
    assert!(error.starts_with(&format!("{nothing}: ")), "{error}");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up() {
    let authority = Authority::new();
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let fields = format!(
        "connect_timeout: 0.05s, {}",
        tls("xds.test", &trusting(&authority))
    );
    let server = from_bootstrap("127.0.0.1", port, &fields, "").unwrap();
    let error = hear(&server).await.unwrap_err();
    assert_eq!(
        error,
        format!("127.0.0.1:{port}: no connection within 50ms")
    );
}

#[test]
fn clusters_without_endpoints_of_their_own_are_refused() {
    let source = |name: &str| ApiSource {
        protocol: ApiProtocol::Incremental,
        servers: vec![ServerRef {
            target: Target::Cluster {
                name: name.to_owned(),
                authority: String::new(),
            },
            metadata: Metadata::default(),
            max_message: None,
        }],
        node_on_first_message_only: false,
    };
    let text = "static_resources: {clusters: [{name: empty}, {name: eds, type: EDS, \
                eds_cluster_config: {eds_config: {path: /x}}}]}";
    let config = BootstrapConfig::parse("b", text, &Overrides::default()).unwrap();
    let statics = Statics::read(&config.static_updates, None).unwrap();
    for (name, want) in [
        (
            "empty",
            "grpc_services[0]: cluster \"empty\": has no endpoint",
        ),
        (
            "eds",
            "grpc_services[0]: cluster \"eds\": gets its endpoints by EDS, which needs a \
                 management server first",
        ),
        (
            "x",
            "grpc_services[0]: \"x\" is not among static_resources.clusters",
        ),
    ] {
        let error = servers(&source(name), &statics).unwrap_err().to_string();
        assert_eq!(error, want);
    }
}
