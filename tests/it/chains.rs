//! Which filter chain serves a connection, and what has to be shown to it.

mod upstream;

use std::sync::Arc;

use causeway::telemetry::stats::ListenerStats;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, routes, tcp, to};
use crate::support::client::{Http1, empty, get, request};
use crate::support::origin::Origin;
use crate::support::raw::{End, Raw};
use crate::support::{eventually, refusing, tcp_echo, within};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.listener";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// An authority, and what it vouches for.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

struct Certificate {
    pem: String,
    key: String,
    der: CertificateDer<'static>,
    private: PrivateKeyDer<'static>,
    /// Shown with it: who vouches for it, and is vouched for.
    above: Vec<CertificateDer<'static>>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self {
            pem: cert.pem(),
            der: cert.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// One that is vouched for by this one.
    fn below(&self) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, "between");
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            pem: cert.pem(),
            der: cert.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn certificate(&self, dns: &str, uri: Option<&str>) -> Certificate {
        self.certificate_until(dns, uri, None)
    }

    /// With the year in which it ends.
    fn certificate_until(&self, dns: &str, uri: Option<&str>, year: Option<i32>) -> Certificate {
        let mut params = CertificateParams::new([dns.to_owned()]).unwrap();
        let name = &mut params.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::CommonName, dns);
        if let Some(year) = year {
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        }
        let uri = uri.map(|uri| SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uri);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Certificate {
            pem: cert.pem(),
            key: key.serialize_pem(),
            der: cert.der().clone(),
            private: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            above: Vec::new(),
        }
    }
}

fn tls(certificates: &[&Certificate], more: &Value, common: &Value) -> Value {
    let certificates = certificates.iter().map(|certificate| {
        json!({
            "certificate_chain": {"inline_string": certificate.pem},
            "private_key": {"inline_string": certificate.key},
        })
    });
    let mut context = json!({
        "@type": format!("{TLS}.DownstreamTlsContext"),
        "common_tls_context": {"tls_certificates": certificates.collect::<Vec<_>>()},
    });
    for (key, value) in common.as_object().unwrap() {
        context["common_tls_context"][key] = value.clone();
    }
    for (key, value) in more.as_object().unwrap() {
        context[key] = value.clone();
    }
    json!({"name": "tls", "typed_config": context})
}

/// A chain that answers with `text`.
fn saying(text: &str, criteria: &Value, socket: Option<Value>) -> Value {
    let answer = json!({"status": 200, "body": {"inline_string": text}});
    let route = json!([{"match": {"prefix": "/"}, "direct_response": answer}]);
    let filter = http(&json!({"route_config": routes(&route)}));
    let mut chain = json!({"filter_chain_match": criteria, "filters": [filter]});
    if let Some(socket) = socket {
        chain["transport_socket"] = socket;
    }
    chain
}

fn inspector(kind: &str, message: &str, more: &Value) -> Value {
    let mut config = json!({"@type": format!("{FILTERS}.{kind}.v3.{message}")});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": kind, "typed_config": config})
}

/// Of the one listener.
fn stats(app: &TestApp) -> Arc<ListenerStats> {
    Arc::clone(&app.running.stats.listeners()[0].1)
}

async fn connect(
    app: &TestApp,
    authority: &Authority,
    name: &str,
    own: Option<&Certificate>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => config
            .with_client_auth_cert(
                [std::slice::from_ref(&own.der), &own.above].concat(),
                own.private.clone_key(),
            )
            .unwrap(),
    };
    let stream = TcpStream::connect(app.listener("web")).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    within("a TLS handshake", connector.connect(name, stream)).await
}

/// What is answered, if anything: a server of TLS 1.3 turns a client away after its handshake.
async fn ask(stream: std::io::Result<TlsStream<TcpStream>>) -> Option<String> {
    let mut client = Http1::over(stream.ok()?).await;
    let get = request("GET", "app.test", "/").body(empty()).unwrap();
    let reply = client.try_send(get).await.ok()?;
    Some(reply.text())
}

#[tokio::test]
async fn a_chain_is_chosen_by_what_a_client_asks_for() {
    let authority = Authority::new();
    let (one, other) = (
        authority.certificate("one.test", None),
        authority.certificate("*.other.test", None),
    );
    let behind = tcp_echo().await;
    let mut web = listener("web", &http(&json!({"route_config": routes(&json!([]))})));
    let none = json!({});
    web["listener_filters"] = json!([inspector("tls_inspector", "TlsInspector", &none)]);
    let mut passed = saying("", &json!({"server_names": ["pass.test"]}), None);
    passed["filters"] = json!([tcp("echo", &json!({}))]);
    web["filter_chains"] = json!([
        saying(
            "one",
            &json!({"server_names": ["one.test"]}),
            Some(tls(&[&one], &none, &none))
        ),
        saying(
            "both",
            &json!({"server_names": ["*.test"]}),
            Some(tls(&[&one, &other], &none, &none))
        ),
        saying("clear", &json!({"transport_protocol": "raw_buffer"}), None),
        passed,
    ]);
    let text = bootstrap(&[web], &[cluster("echo", behind.address)]);
    let app = TestApp::bootstrap(&text.to_string()).await;

    let said = async |name| ask(connect(&app, &authority, name, None).await).await;
    assert_eq!(said("one.test").await.as_deref(), Some("one"));
    assert_eq!(said("ONE.test").await.as_deref(), Some("one"));
    assert_eq!(said("x.other.test").await.as_deref(), Some("both"));
    assert_eq!(
        get(app.listener("web"), "one.test", "/").await.text(),
        "clear"
    );
    assert_eq!(said("example.com").await, None, "no chain");
    assert_eq!(stats(&app).no_filter_chain_match.value(), 1);

    // What was looked at is passed on untouched.
    let mut raw = Raw::connect(app.listener("web")).await;
    let hello = first_flight("pass.test");
    let (start, rest) = hello.split_at(7);
    raw.send(start).await;
    raw.send(rest).await;
    assert_eq!(raw.bytes(hello.len()).await, hello);
}

fn first_flight(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_client_shows_a_certificate_and_the_origin_is_told() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.certificate("app.test", Some("spiffe://x/server"));
    let good = authority.certificate("client.test", Some("spiffe://x/good"));
    let bad = authority.certificate("client.test", Some("spiffe://x/bad"));
    let foreign = stranger.certificate("client.test", Some("spiffe://x/good"));
    let matchers = json!([{"san_type": "URI", "matcher": {"exact": "spiffe://x/good"}}]);
    let checked = json!({"validation_context": {
        "trusted_ca": {"inline_string": authority.pem},
        "match_typed_subject_alt_names": matchers,
    }});
    let origin = Origin::echo().await;
    for required in [true, false] {
        let mut web = listener(
            "web",
            &http(&json!({
                "route_config": to("a"),
                "forward_client_cert_details": "SANITIZE_SET",
                "set_current_client_cert_details": {"subject": true, "uri": true, "dns": true},
            })),
        );
        let more = json!({"require_client_certificate": required, "require_sni": true});
        web["filter_chains"][0]["transport_socket"] = tls(&[&server], &more, &checked);
        let text = bootstrap(&[web], &[cluster("a", origin.address)]);
        let app = TestApp::bootstrap(&text.to_string()).await;
        origin.forget();

        assert!(
            ask(connect(&app, &authority, "app.test", Some(&good)).await)
                .await
                .is_some()
        );
        let told = origin.requests()[0]
            .header("x-forwarded-client-cert")
            .to_owned();
        let (start, end) = (
            "By=spiffe://x/server;Hash=",
            ";Subject=\"CN=client.test\";URI=spiffe://x/good;DNS=client.test",
        );
        assert!(told.starts_with(start) && told.ends_with(end), "{told}");
        assert_eq!(told.len(), start.len() + 64 + end.len());

        for wrong in [&bad, &foreign] {
            assert_eq!(
                ask(connect(&app, &authority, "app.test", Some(wrong)).await).await,
                None
            );
        }
        origin.forget();
        let without = connect(&app, &authority, "app.test", None).await;
        assert_eq!(ask(without).await.is_some(), !required);
        assert_eq!(origin.requests().len(), usize::from(!required));
        let nameless = connect(&app, &authority, "127.0.0.1", Some(&good)).await;
        assert!(nameless.is_err(), "no server name");
    }
    // Nobody gets to invent a certificate.
    let mut web = listener("web", &http(&json!({"route_config": to("a")})));
    web["name"] = json!("web");
    let text = bootstrap(&[web], &[cluster("a", origin.address)]);
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let forged = request("GET", "a", "/").header("x-forwarded-client-cert", "Hash=1");
    client.send_body(forged.body(empty()).unwrap()).await;
    let seen = origin.requests();
    assert_eq!(seen.last().unwrap().count("x-forwarded-client-cert"), 0);
}

#[tokio::test]
async fn each_trust_domain_has_authorities_of_its_own() {
    let (one, two) = (Authority::new(), Authority::new());
    let server = one.certificate("app.test", Some("spiffe://one/server"));
    let domain = |name: &str, authority: &Authority| json!({"name": name, "trust_bundle": {"inline_string": authority.pem}});
    let validator = json!({
        "name": "envoy.tls.cert_validator.spiffe",
        "typed_config": {
            "@type": format!("{TLS}.SPIFFECertValidatorConfig"),
            "trust_domains": [domain("one", &one), domain("two", &two)],
        },
    });
    let checked = json!({"validation_context": {
        "custom_validator_config": validator,
        "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"suffix": "/good"}}],
    }});
    let origin = Origin::echo().await;
    let mut web = listener("web", &http(&json!({"route_config": to("a")})));
    let more = json!({"require_client_certificate": true});
    web["filter_chains"][0]["transport_socket"] = tls(&[&server], &more, &checked);
    let text = bootstrap(&[web], &[cluster("a", origin.address)]);
    let app = TestApp::bootstrap(&text.to_string()).await;
    for (authority, uri, welcome) in [
        (&one, Some("spiffe://one/good"), true),
        (&two, Some("spiffe://two/ns/good"), true),
        // Vouched for by the authority of another domain.
        (&two, Some("spiffe://one/good"), false),
        (&one, Some("spiffe://three/good"), false),
        (&one, Some("spiffe://one/bad"), false),
        (&one, Some("https://one/good"), false),
        (&one, None, false),
    ] {
        let shown = authority.certificate("client.test", uri);
        let answer = ask(connect(&app, &one, "app.test", Some(&shown)).await).await;
        assert_eq!(answer.is_some(), welcome, "{uri:?}");
    }
}

#[tokio::test]
async fn chains_may_be_limited_and_certificates_may_have_ended() {
    let authority = Authority::new();
    let between = authority.below();
    let server = authority.certificate("app.test", None);
    let direct = authority.certificate("client.test", None);
    let mut longer = between.certificate("client.test", None);
    longer.above = vec![between.der.clone()];
    let ended = authority.certificate_until("client.test", None, Some(2021));
    let mut ended_longer = between.certificate_until("client.test", None, Some(2020));
    ended_longer.above = vec![between.der.clone()];
    let stranger = Authority::new().certificate_until("client.test", None, Some(2021));
    let shown = [&direct, &longer, &ended, &ended_longer, &stranger];
    for (rules, welcome) in [
        (json!({}), [true, true, false, false, false]),
        (
            json!({"max_verify_depth": 1}),
            [true, false, false, false, false],
        ),
        (
            json!({"max_verify_depth": 2}),
            [true, true, false, false, false],
        ),
        (
            json!({"allow_expired_certificate": true}),
            [true, true, true, true, false],
        ),
        (
            json!({"allow_expired_certificate": true, "max_verify_depth": 1}),
            [true, false, true, false, false],
        ),
    ] {
        let mut validation = rules.clone();
        validation["trusted_ca"] = json!({"inline_string": authority.pem});
        let checked = json!({"validation_context": validation});
        let more = json!({"require_client_certificate": true});
        let socket = tls(&[&server], &more, &checked);
        let mut web = listener("web", &http(&json!({})));
        web["filter_chains"] = json!([saying("in", &json!({}), Some(socket))]);
        let app = TestApp::bootstrap(&bootstrap(&[web], &[]).to_string()).await;
        for (own, welcome) in shown.iter().zip(welcome) {
            let answer = ask(connect(&app, &authority, "app.test", Some(own)).await).await;
            assert_eq!(answer.is_some(), welcome, "{rules}");
        }
    }
}

#[tokio::test]
async fn a_proxy_in_front_says_whose_connection_it_is() {
    let origin = Origin::echo().await;
    for optional in [false, true] {
        let manager = json!({"route_config": to("a"), "use_remote_address": true});
        let mut web = listener("web", &http(&manager));
        let more = json!({"allow_requests_without_proxy_protocol": optional});
        web["listener_filters"] = json!([inspector("proxy_protocol", "ProxyProtocol", &more)]);
        let text = bootstrap(&[web], &[cluster("a", origin.address)]);
        let app = TestApp::bootstrap(&text.to_string()).await;
        origin.forget();
        let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut raw = Raw::connect(app.listener("web")).await;
        raw.send("PROXY TCP4 203.0.113.9 10.0.0.1").await;
        raw.send(format!(" 5555 80\r\n{request}")).await;
        assert_eq!(raw.answer().await.status, 200);
        assert_eq!(
            origin.requests()[0].header("x-forwarded-for"),
            "203.0.113.9"
        );

        let mut raw = Raw::connect(app.listener("web")).await;
        raw.send(request).await;
        if optional {
            assert_eq!(raw.answer().await.status, 200);
        } else {
            let (rest, _) = raw.rest().await;
            assert!(rest.is_empty(), "no answer without a header");
        }
        let mut raw = Raw::connect(app.listener("web")).await;
        raw.send(format!("PROXY TCP4 nonsense\r\n{request}")).await;
        assert!(
            raw.rest().await.0.is_empty(),
            "no answer to a broken header"
        );
        assert_eq!(origin.requests().len(), 1 + usize::from(optional));
    }
}

#[tokio::test]
async fn a_silent_client_is_waited_for_no_longer_than_is_allowed() {
    let none = json!({});
    for (kind, message, goes_on) in [
        ("tls_inspector", "TlsInspector", true),
        ("tls_inspector", "TlsInspector", false),
        // Going on in the middle of a header would be going on in anybody's name.
        ("proxy_protocol", "ProxyProtocol", false),
    ] {
        let mut web = listener("web", &http(&json!({"route_config": routes(&json!([]))})));
        web["listener_filters"] = json!([inspector(kind, message, &none)]);
        web["listener_filters_timeout"] = json!("0.05s");
        web["continue_on_listener_filters_timeout"] = json!(goes_on || kind == "proxy_protocol");
        web["filter_chains"] = json!([saying("late", &none, None)]);
        let text = bootstrap(&[web], &[]);
        let app = TestApp::bootstrap(&text.to_string()).await;
        let mut raw = Raw::connect(app.listener("web")).await;
        if goes_on {
            let stats = stats(&app);
            let fired = || stats.downstream_pre_cx_timeout.value() == 1;
            eventually("the timeout", fired).await;
            raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert_eq!(raw.answer().await.text(), "late");
        } else {
            let (rest, end) = raw.rest().await;
            assert_eq!((&rest[..], end), (&b""[..], End::Closed), "{kind}");
        }
    }
}

#[tokio::test]
async fn connections_go_by_weight_and_try_again_and_end_in_time() {
    let echo = tcp_echo().await;
    let (_held, refused) = refusing();
    let mut mixed = cluster("mixed", echo.address);
    let dead = json!({"address": refused.ip(), "port_value": refused.port()});
    let dead = json!({"endpoint": {"address": {"socket_address": dead}}});
    let endpoints = &mut mixed["load_assignment"]["endpoints"][0]["lb_endpoints"];
    endpoints.as_array_mut().unwrap().insert(0, dead);
    let weighted = json!({"clusters": [
        {"name": "none", "weight": 1}, {"name": "mixed", "weight": 4_000_000_000_u32},
    ]});
    let mut proxy = tcp(
        "",
        &json!({
            "weighted_clusters": weighted,
            "max_connect_attempts": 3,
            "max_downstream_connection_duration": "0.2s",
        }),
    );
    proxy["typed_config"]
        .as_object_mut()
        .unwrap()
        .remove("cluster");
    let text = bootstrap(&[listener("web", &proxy)], &[mixed]);
    let app = TestApp::bootstrap(&text.to_string()).await;
    for _ in 0..4 {
        let mut raw = Raw::connect(app.listener("web")).await;
        raw.send("ping").await;
        assert_eq!(raw.bytes(4).await, b"ping");
        let (rest, end) = raw.rest().await;
        assert_eq!((&rest[..], end), (&b""[..], End::Closed), "its time was up");
    }
    echo.has_no_connection().await;
}
