//! Certificates from an authority: Pebble, on this machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway::config::{
    Acme, AcmeChallenge, Certificates, DnsSolver, Eab, Rfc2136, Tls, TsigAlgorithm, WorkerConfig,
};
use causeway::util::Secret;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::app::{DOMAIN, TestApp, worker};
use crate::support::circuit::circuit;
use crate::support::client::Http1;
use crate::support::origin::Origin;
use crate::support::pebble::{self, EAB_KEY, EAB_KEY_ID, Names, Settings, Site, client};
use crate::support::within;
use crate::support::zone::{KEY, KEY_NAME, Zone};

/// Longer than any test.
const LONG: u64 = 3600;

fn with(acme: Acme) -> WorkerConfig {
    let mut config = worker();
    config.tls = Tls {
        listen: Some(Certificates::Automatic),
        advertised: false,
    };
    config.causeway.path_tls = Some(Certificates::Automatic);
    config.causeway.acme = Some(acme);
    config
}

async fn connect(
    at: SocketAddr,
    host: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    within("a TLS handshake", connector.connect(name, stream)).await
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain[0].clone().into_owned()
}

/// Connects until the certificate is one that `roots` vouch for, and `good` likes.
async fn eventually_certified(
    at: SocketAddr,
    host: &str,
    roots: &RootCertStore,
    good: impl Fn(&CertificateDer<'_>) -> bool,
) -> TlsStream<TcpStream> {
    let config = client(roots.clone());
    within("a certificate", async {
        loop {
            if let Ok(stream) = connect(at, host, &config).await
                && good(&leaf(&stream))
            {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// What the management port says of a name.
async fn seen(app: &TestApp, name: &str) -> Option<Value> {
    let names = app.admin("/acme").await.json()["names"].take();
    let all = names.as_array().unwrap();
    all.iter().find(|seen| seen["name"] == name).cloned()
}

async fn until_seen(app: &TestApp, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
    within("a state of a name", async {
        loop {
            if let Some(seen) = seen(app, name).await.filter(|seen| condition(seen)) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

fn settings(app: &TestApp, dns: SocketAddr, validity: u64) -> Settings {
    Settings {
        tls_port: app.wildcard().port(),
        dns,
        validity,
        needs_eab: false,
    }
}

#[tokio::test]
async fn a_host_of_a_circuit_is_certified_when_it_is_asked_for_and_kept_over_a_restart() {
    if !pebble::is_installed() {
        return;
    }
    let (site, names) = (Site::new(), Names::start().await);
    let mut acme = site.acme();
    acme.circuits = Some(format!(".{DOMAIN}"));
    let origin = Origin::fixed("certified").await;
    let circuit = circuit(1).kernel(origin.address);
    let host = circuit.host();

    let app = TestApp::with(with(acme.clone())).await;
    let authority = site.start(&settings(&app, names.dns, LONG)).await;
    app.announce(&[&circuit]).await;
    let roots = site.roots().await;
    // The very first handshake waits for the certificate; so do others at the same time.
    let config = client(roots.clone());
    let (first, second) = tokio::join!(
        connect(app.wildcard(), &host, &config),
        connect(app.wildcard(), &host, &config),
    );
    let first = first.unwrap();
    let certificate = leaf(&first);
    assert_eq!(leaf(&second.unwrap()), certificate);
    assert_eq!(
        Http1::over(first).await.get(&host, "/").await.text(),
        "certified"
    );

    // Nobody serves anything there, so nothing is ordered; neither for what is below or above.
    for other in [
        format!("c2.{DOMAIN}"),
        format!("x.{host}"),
        "c1.other.test".to_owned(),
    ] {
        assert!(
            connect(app.wildcard(), &other, &config).await.is_err(),
            "{other}"
        );
        assert_eq!(seen(&app, &other).await, None);
    }
    let state = seen(&app, &host).await.unwrap();
    assert_eq!(
        (
            &state["state"],
            &state["on_demand"],
            &state["orders"],
            &state["challenge"]
        ),
        (
            &"serving".into(),
            &true.into(),
            &1.into(),
            &"tls-alpn-01".into()
        )
    );
    let metrics = app.admin("/metrics").await.text();
    let expiry = format!("causeway_acme_certificate_expiry_timestamp_seconds{{name=\"{host}\"}} 1");
    assert!(metrics.contains(&expiry), "{metrics}");
    assert!(metrics.contains(&format!(
        "causeway_acme_orders_total{{name=\"{host}\"}} 1\n"
    )));
    assert!(
        app.admin("/stats")
            .await
            .text()
            .contains(&format!("acme.{host}.order_failures: 0"))
    );
    app.shutdown().await;

    // No authority is needed for a start, and none is asked for an order.
    drop(authority);
    let app = TestApp::with(with(acme)).await;
    let again = connect(app.wildcard(), &host, &config).await.unwrap();
    assert_eq!(leaf(&again), certificate);
    assert_eq!(seen(&app, &host).await.unwrap()["orders"], 0);
}

#[tokio::test]
async fn a_certificate_is_renewed_under_open_connections_and_outlives_its_authority() {
    if !pebble::is_installed() {
        return;
    }
    let (site, names) = (Site::new(), Names::start().await);
    let mut acme = site.acme();
    let host = format!("c1.{DOMAIN}");
    acme.domains = vec![host.clone()];
    let origin = Origin::fixed("here").await;
    let app = TestApp::with(with(acme)).await;
    app.announce(&[&circuit(1).kernel(origin.address)]).await;
    // The authority is not there yet. What is shown meanwhile nobody vouches for.
    let waiting = until_seen(&app, &host, |seen| seen["failures"] != 0).await;
    assert_eq!(
        (&waiting["state"], &waiting["expires"]),
        (&"waiting".into(), &Value::Null)
    );
    let error = waiting["last_error"].as_str().unwrap();
    assert!(error.starts_with("no answer of the authority: "), "{error}");
    let nobody = connect(app.wildcard(), &host, &client(RootCertStore::empty())).await;
    assert!(nobody.unwrap_err().to_string().contains("UnknownIssuer"));

    let authority = site.start(&settings(&app, names.dns, 9)).await;
    let roots = site.roots().await;
    let first = eventually_certified(app.wildcard(), &host, &roots, |_| true).await;
    let certificate = leaf(&first);
    let mut open = Http1::over(first).await;
    assert_eq!(open.get(&host, "/").await.text(), "here");
    let renewed =
        eventually_certified(app.wildcard(), &host, &roots, |leaf| *leaf != certificate).await;
    let last = leaf(&renewed);
    // What was open before is open still.
    assert_eq!(open.get(&host, "/").await.text(), "here");

    drop(authority);
    let before = seen(&app, &host).await.unwrap()["failures"].as_u64();
    until_seen(&app, &host, |seen| seen["failures"].as_u64() > before).await;
    let config = client(roots);
    match connect(app.wildcard(), &host, &config).await {
        Ok(stream) => assert_eq!(leaf(&stream), last),
        // The last one is shown, even if it is not good any more by now.
        Err(error) => assert!(error.to_string().contains("Expired"), "{error}"),
    }
    assert_eq!(open.get(&host, "/").await.text(), "here");
}

#[tokio::test]
async fn a_name_with_a_star_is_proven_by_a_program_and_a_bound_account() {
    if !pebble::is_installed() {
        return;
    }
    let (site, names) = (Site::new(), Names::start().await);
    let script = format!(
        "case $1 in present) page=set-txt;; *) page=clear-txt;; esac\n\
         exec curl -sf -d \"{{\\\"host\\\":\\\"$2.\\\",\\\"value\\\":\\\"$3\\\"}}\" http://{}/$page",
        names.management
    );
    let mut acme = site.acme();
    acme.challenge = AcmeChallenge::Dns01;
    acme.domains = vec![format!("*.{DOMAIN}")];
    acme.dns = Some(DnsSolver::Hook(
        ["/bin/sh", "-c", &script, "hook"].map(str::to_owned).into(),
    ));
    acme.eab = Some(Eab {
        key_id: EAB_KEY_ID.to_owned(),
        hmac_key: Secret::new(EAB_KEY),
    });
    let app = TestApp::with(with(acme)).await;
    let mut settings = settings(&app, names.dns, LONG);
    settings.needs_eab = true;
    let _authority = site.start(&settings).await;
    let roots = site.roots().await;
    // Any host below it, on every listener.
    for at in [app.wildcard(), app.path(), app.slot(1)] {
        eventually_certified(at, &format!("any.{DOMAIN}"), &roots, |_| true).await;
    }
    let state = seen(&app, &format!("*.{DOMAIN}")).await.unwrap();
    assert_eq!(
        (&state["state"], &state["challenge"]),
        (&"serving".into(), &"dns-01".into())
    );
}

#[tokio::test]
async fn a_name_with_a_star_is_proven_by_signed_updates() {
    if !pebble::is_installed() {
        return;
    }
    let (site, zone) = (Site::new(), Zone::start().await);
    let name = format!("*.{DOMAIN}");
    let mut acme = site.acme();
    acme.domains = vec![name.clone()];
    let dns = Rfc2136 {
        server: zone.updates.to_string(),
        zone: None,
        key_name: KEY_NAME.to_owned(),
        key: Secret::new("d3Jvbmc="),
        algorithm: TsigAlgorithm::HmacSha256,
    };
    acme.dns = Some(DnsSolver::Rfc2136(dns.clone()));
    let app = TestApp::with(with(acme.clone())).await;
    let authority = site.start(&settings(&app, zone.dns, LONG)).await;
    // By the wrong key nothing is written, and the server's word for it is told.
    let refused = |seen: &Value| {
        seen["last_error"]
            .as_str()
            .is_some_and(|e| e.contains("DNS: "))
    };
    let state = until_seen(&app, &name, refused).await;
    let error = state["last_error"].as_str().unwrap();
    assert!(error.contains("refuses the update of apps.test"), "{error}");
    assert_eq!(zone.updated().len(), 0);
    app.shutdown().await;

    drop(authority);
    acme.dns = Some(DnsSolver::Rfc2136(Rfc2136 {
        key: Secret::new(KEY),
        ..dns
    }));
    let app = TestApp::with(with(acme)).await;
    // It has forgotten the account, as an authority may that was set up again.
    let _authority = site.start(&settings(&app, zone.dns, LONG)).await;
    let roots = site.roots().await;
    eventually_certified(app.wildcard(), &format!("any.{DOMAIN}"), &roots, |_| true).await;
    let updates = zone.updated();
    assert_eq!(updates.len(), 2, "{updates:?}");
    let record = updates[0].authorities[0].name.to_string();
    assert_eq!(record, format!("_acme-challenge.{DOMAIN}."));
    assert_eq!(zone.records(), 0, "taken away again");
}
