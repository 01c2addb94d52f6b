//! The worker's own interface beside traffic: what `/setup` hands out opens what the frontends
//! guard, and `/metrics` counts what they carry. And the checks before the start, against doubles.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway::config::{Access, DigestMod, PermitHash};
use causeway::coordinator::api::{
    self, Component, FromStats, Health, HostPort, Identity, Kernels, MetricsConfig, PathAddress,
    PublicAddresses, Server, SetupConfig, WildcardAddress,
};
use causeway::coordinator::check::{self, Outcome, Subject};
use causeway::coordinator::client::{ClientConfig, CoordinatorClient};
use causeway::coordinator::redis::RedisConfig;
use causeway::coordinator::translate;
use causeway::util::Secret;
use http::StatusCode;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::app::{DOMAIN, SECRET, TestApp, worker};
use crate::support::circuit::{Circuit, circuit};
use crate::support::client::{Http1, Reply, empty, get, request};
use crate::support::coordinator::{FakeCoordinator, Style};
use crate::support::origin::Origin;
use crate::support::redis::FakeRedis;

const USER: Uuid = Uuid::from_u128(0xf38d_ea23_50fa_42a0_b5ae_338f_5f46_93f4);
const JWT_SECRET: &str = "some_jwt_secret";

struct Well;

impl Health for Well {
    fn kernels(&self) -> Kernels {
        Kernels::default()
    }

    fn ready(&self) -> bool {
        true
    }
    fn components(&self) -> Vec<Component> {
        Vec::new()
    }
}

/// A worker that asks who calls, its interface, and the Coordinator behind it.
struct Rig {
    app: TestApp,
    api: SocketAddr,
    coordinator: FakeCoordinator,
    _stop: watch::Sender<bool>,
}

fn client(coordinator: &FakeCoordinator, secret: &str) -> CoordinatorClient {
    let endpoint = coordinator.endpoint().parse().unwrap();
    CoordinatorClient::new(ClientConfig::new(endpoint, Secret::new(secret))).unwrap()
}

impl Rig {
    async fn start() -> Self {
        let access = Access {
            jwt_secret: Secret::new(JWT_SECRET),
            permit_hash: PermitHash {
                secret: Secret::new("some_permit_hash_secret"),
                digest_mod: DigestMod::Sha256,
            },
        };
        let permits = translate::Access::from(&access).permits;
        let mut config = worker();
        config.access = Some(access);
        let app = TestApp::with(config).await;
        let coordinator = FakeCoordinator::start(SECRET, Style::MinusOne).await;
        let circuits = Arc::clone(app.running.circuits.as_ref().unwrap());
        let addresses = PublicAddresses {
            https: false,
            port_host: Some("127.0.0.1".into()),
            wildcard: Some(WildcardAddress {
                domain: format!(".{DOMAIN}"),
                port: app.wildcard().port(),
            }),
            path: Some(PathAddress {
                https: false,
                at: HostPort {
                    host: "127.0.0.1".into(),
                    port: app.path().port(),
                },
            }),
        };
        let router = api::router(api::Parts {
            identity: Identity {
                version: "1".into(),
                authority: "worker-1".into(),
                frontend_mode: "wildcard".into(),
                protocol: "http".into(),
            },
            health: Arc::new(Well),
            slots: Arc::clone(&circuits) as _,
            setup: SetupConfig {
                jwt_secret: Secret::new(JWT_SECRET),
                permits,
                addresses,
                circuits: Arc::clone(&circuits) as _,
                coordinator: Some(Arc::new(client(&coordinator, SECRET))),
                live_wait: Duration::from_millis(50),
            },
            metrics: MetricsConfig {
                allowed: vec!["127.0.0.1/32".parse().unwrap()],
                counts: Arc::new(FromStats::new(
                    Arc::clone(&app.running.stats),
                    circuits,
                    None,
                )),
                own: None,
            },
        });
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let api = server.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(server.run(router, stopped));
        Self {
            app,
            api,
            coordinator,
            _stop: stop,
        }
    }

    async fn setup(&self, circuit: &Circuit, more: &str) -> Reply {
        let claims = json!({"id": USER, "version": "v2", "redirect": "", "circuit": circuit.id});
        let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        get(self.api, "x", &format!("/setup?token={token}{more}")).await
    }
}

/// The `Cookie` that a browser makes of an answer.
fn cookie(reply: &Reply) -> String {
    let set = reply.header("set-cookie");
    set.split(';').next().unwrap().to_owned()
}

async fn get_with(at: SocketAddr, host: &str, path: &str, cookie: &str) -> StatusCode {
    let request = request("GET", host, path).header("cookie", cookie);
    let request = request.body(empty()).unwrap();
    Http1::connect(at).await.send_body(request).await.status
}

#[tokio::test]
async fn the_permit_of_setup_opens_the_app_and_nothing_else() {
    let rig = Rig::start().await;
    let origin = Origin::fixed("hello").await;
    let private = |number| {
        circuit(number)
            .kernel(origin.address)
            .with("open_to_public", json!(false))
            .with("user_id", json!(USER))
    };
    let (app, other) = (private(1), private(2));
    rig.app.announce(&[&app, &other]).await;
    assert_eq!(rig.app.get(&app, "/").await.status, 401);

    let reply = rig.setup(&app, "").await;
    assert_eq!(reply.status, 302);
    let (wildcard, path) = (rig.app.wildcard(), rig.app.path());
    let expected = format!("http://{}:{}", app.host(), wildcard.port());
    assert_eq!(reply.header("location"), expected);
    let permit = cookie(&reply);
    assert_eq!(get_with(wildcard, &app.host(), "/", &permit).await, 200);
    assert_eq!(get_with(wildcard, &other.host(), "/", &permit).await, 200);
    let below = |circuit: &Circuit| format!("/{}/app/", circuit.session);
    assert_eq!(get_with(path, "x", &below(&app), &permit).await, 401);

    let reply = rig.setup(&app, "&via=path").await;
    assert_eq!(reply.status, 302);
    let expected = format!("http://{path}{}", below(&app));
    assert_eq!(reply.header("location"), expected);
    let own = cookie(&reply);
    assert_eq!(get_with(path, "x", &below(&app), &own).await, 200);
    assert_eq!(get_with(path, "x", &below(&other), &own).await, 401);
    assert_eq!(get_with(wildcard, &app.host(), "/", &own).await, 401);
}

#[tokio::test]
async fn the_coordinator_is_asked_for_what_is_not_here() {
    let mut rig = Rig::start().await;
    let elsewhere = circuit(1).with("user_id", json!(USER));
    let reply = rig.setup(&elsewhere, "").await;
    assert_eq!(reply.status, 404);
    assert!(reply.text().contains("E00002: No such worker:circuit."));
    rig.coordinator
        .set_circuits(std::slice::from_ref(&elsewhere.value));
    assert_eq!(rig.setup(&elsewhere, "").await.status, 302);
    rig.coordinator.stop().await;
    let reply = rig.setup(&elsewhere, "").await;
    assert_eq!(reply.status, 502);
    assert!(
        reply
            .text()
            .contains("E20014: Failed to communicate with coordinator.")
    );
}

#[tokio::test]
async fn metrics_count_what_the_frontends_carry() {
    let rig = Rig::start().await;
    let origin = Origin::fixed("hello").await;
    let app = circuit(1).kernel(origin.address);
    rig.app.announce(&[&app]).await;
    for _ in 0..3 {
        assert_eq!(rig.app.get(&app, "/").await.status, 200);
    }
    let remote = origin.address;
    let wanted = [
        format!("appproxy_upstream_request_sent_http_total{{remote=\"{remote}\"}} 3"),
        format!("appproxy_upstream_response_received_http_total{{remote=\"{remote}\"}} 3"),
        "appproxy_requests_received_http_total{remote=\"\"} 3".to_owned(),
        "appproxy_responses_sent_http_total{remote=\"\"} 3".to_owned(),
        "appproxy_pending_requests_http{remote=\"\"} 0".to_owned(),
        "appproxy_circuits_created_total{protocol=\"HTTP\"} 1".to_owned(),
        "appproxy_alive_circuits{protocol=\"HTTP\"} 1".to_owned(),
    ];
    // A request is counted as answered a moment after its client has read the answer.
    let start = std::time::Instant::now();
    loop {
        let text = get(rig.api, "x", "/metrics").await.text();
        let missing = wanted.iter().find(|line| !text.lines().any(|l| l == *line));
        let Some(line) = missing else { break };
        assert!(
            start.elapsed() < crate::support::DEADLINE,
            "{line} in\n{text}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let worker = get(rig.api, "x", "/health/status").await.json();
    assert_eq!(
        (&worker["occupied_slots"], &worker["available_slots"]),
        (&json!(1), &json!(3))
    );
}

#[tokio::test]
async fn the_checks_ask_over_real_connections() {
    for style in [Style::Real, Style::MinusOne] {
        let coordinator = FakeCoordinator::start(SECRET, style).await;
        let redis = FakeRedis::start().await.unwrap();
        let probe = RedisConfig::stand_alone("127.0.0.1", redis.address().port());
        let config = worker();
        let good = client(&coordinator, SECRET);
        let checks = check::run(Subject::of(&config, Some(&good), Some(&probe))).await;
        let failed = |checks: &[check::Check]| -> Vec<String> {
            let failed = checks
                .iter()
                .filter(|c| matches!(c.outcome, Outcome::Failed(_)));
            failed.map(|c| c.name.clone()).collect()
        };
        let secrets = ["secret secrets.jwt_secret", "secret permit_hash.secret"];
        assert_eq!(failed(&checks), secrets, "{}", check::print(&checks));
        let bad = client(&coordinator, "wrong");
        redis.set_password("hush");
        let checks = check::run(Subject::of(&config, Some(&bad), Some(&probe))).await;
        let all = [&["token accepted", "redis answers"][..], &secrets[..]].concat();
        assert_eq!(failed(&checks), all, "{}", check::print(&checks));
        assert!(!check::print(&checks).contains("wrong"));
        assert_eq!(check::exit_code(&checks), 1);
    }
}
