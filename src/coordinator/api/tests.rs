use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::token::tests::{SECRET, VECTOR, VECTOR_CIRCUIT, signed, token};
use super::*;
use crate::coordinator::permit::{Digest, PermitHasher};
use crate::coordinator::testing;
use crate::util::Secret;

mod connections;
mod way_in;

/// What the interface is told; tests change it before they ask.
struct World {
    circuits: Vec<Circuit>,
    /// Looks after which the circuits are live.
    live_after: usize,
    looks: AtomicUsize,
    coordinator: Result<Value, AskError>,
    ready: bool,
    redis: Option<&'static str>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            circuits: Vec::new(),
            live_after: 0,
            looks: AtomicUsize::new(0),
            coordinator: Err(AskError::NotFound),
            ready: true,
            redis: None,
        }
    }
}

impl FindCircuit for World {
    fn find(&self, id: Uuid) -> BoxFuture<'_, Option<Found>> {
        let look = self.looks.fetch_add(1, Relaxed);
        let circuit = self.circuits.iter().find(|c| c.id == id).cloned();
        Box::pin(async move {
            Some(Found {
                circuit: Arc::new(circuit?),
                live: look >= self.live_after,
            })
        })
    }
}

impl AskCoordinator for World {
    fn circuit(&self, _: Uuid) -> BoxFuture<'_, Result<Value, AskError>> {
        Box::pin(async { self.coordinator.clone() })
    }
}

impl CountSlots for World {
    fn slots(&self) -> BoxFuture<'_, SlotCount> {
        Box::pin(async {
            SlotCount {
                occupied: 2,
                available: 9,
            }
        })
    }
}

impl Health for World {
    fn ready(&self) -> bool {
        self.ready
    }
    fn kernels(&self) -> Kernels {
        Kernels {
            total: 5,
            healthy: 3,
            failed_checks: 1,
            ejected: 2,
        }
    }
    fn components(&self) -> Vec<Component> {
        let checked_at = Some(UNIX_EPOCH + Duration::from_secs(1_795_509_863));
        vec![Component {
            service_group: "redis",
            component_id: "live",
            healthy: self.redis.is_none(),
            checked_at,
            error: self.redis.map(str::to_owned),
        }]
    }
}

impl CountLegacy for World {
    fn counts(&self) -> BoxFuture<'_, LegacyCounts> {
        Box::pin(async {
            LegacyCounts {
                http: Requests {
                    received: 42,
                    ..Requests::default()
                },
                ..LegacyCounts::default()
            }
        })
    }
}

fn permits() -> PermitHasher {
    PermitHasher::new(&Secret::new("some_permit_hash_secret"), Digest::Sha256)
}

fn addresses(https: bool) -> PublicAddresses {
    PublicAddresses {
        https,
        port_host: Some("apps.test".to_owned()),
        wildcard: Some(WildcardAddress {
            domain: ".apps.test".to_owned(),
            port: 10_205,
        }),
        path: Some(PathAddress {
            https,
            at: HostPort {
                host: "apps.test".to_owned(),
                port: 5050,
            },
        }),
    }
}

fn interface(world: World, addresses: PublicAddresses) -> Router {
    let world = Arc::new(world);
    router(Parts {
        identity: Identity {
            version: "1.2.3".to_owned(),
            authority: "worker-1".to_owned(),
            frontend_mode: "wildcard".to_owned(),
            protocol: "http".to_owned(),
        },
        health: Arc::clone(&world) as _,
        slots: Arc::clone(&world) as _,
        setup: SetupConfig {
            jwt_secret: Secret::new(SECRET),
            permits: permits(),
            addresses,
            circuits: Arc::clone(&world) as _,
            coordinator: Some(Arc::clone(&world) as _),
            live_wait: Duration::from_millis(200),
        },
        metrics: MetricsConfig {
            allowed: vec!["127.0.0.0/8".parse().unwrap()],
            counts: world,
            own: Some(Arc::new(|| {
                "causeway_generations_total 1\n# EOF\n".to_owned()
            })),
        },
    })
}

/// The interface, on a socket.
struct Rig {
    address: SocketAddr,
    _stop: watch::Sender<bool>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
    fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Rig {
    async fn start(world: World) -> Self {
        Self::with(interface(world, addresses(false))).await
    }

    async fn with(router: Router) -> Self {
        let (stop, stopped) = watch::channel(false);
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(server.run(router, stopped));
        Self {
            address,
            _stop: stop,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[("accept", "application/json")])
            .await
    }

    async fn call(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "x");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        let answer = Answer {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8(body).unwrap(),
        };
        assert_eq!(answer.field("server"), "BackendAI", "{method} {path}");
        assert_eq!(
            answer.field("access-control-allow-origin"),
            "*",
            "{method} {path}"
        );
        assert_ne!(answer.field("x-backendai-requestid"), "", "{method} {path}");
        answer
    }
}

#[tokio::test]
async fn health_is_told_in_the_known_form() {
    let rig = Rig::start(World::default()).await;
    for path in [
        "/",
        "/health",
        "/livez",
        "/readyz",
        "/health/livez",
        "/health/readyz",
    ] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(
            answer.field("content-type"),
            "application/json; charset=utf-8"
        );
        let mut health = answer.json();
        let now = health["connectivity"]["timestamp"].take();
        assert!(now.as_str().unwrap().ends_with('Z'));
        let expected = json!({
            "status": "ok", "version": "1.2.3", "component": "appproxy-worker",
            "connectivity": {
                "overall_healthy": true,
                "connectivity_checks": [{
                    "service_group": "redis", "component_id": "live", "is_healthy": true,
                    "last_checked_at": "2026-11-24T08:44:23.000Z", "error_message": null,
                }],
                "timestamp": null,
            },
        });
        assert_eq!(health, expected, "{path}");
    }
    let status = rig.get("/status").await.json();
    assert_eq!(status, json!({"api_version": "v2"}));
    let worker = rig.get("/health/status").await.json();
    let expected = json!({"version": "1.2.3", "authority": "worker-1", "app_mode": "wildcard",
                          "protocol": "http", "occupied_slots": 2, "available_slots": 9,
                          "kernels": {"total": 5, "healthy": 3, "failed_checks": 1, "ejected": 2}});
    assert_eq!(worker, expected);
}

#[tokio::test]
async fn redis_away_makes_the_worker_unready_but_not_dead() {
    let rig = Rig::start(World {
        redis: Some("connection refused"),
        ..World::default()
    })
    .await;
    for (path, code, status) in [
        ("/", 200, "degraded"),
        ("/livez", 200, "degraded"),
        ("/readyz", 503, "error"),
        ("/health/readyz", 503, "error"),
    ] {
        let answer = rig.get(path).await;
        assert_eq!(answer.status, code, "{path}");
        let health = answer.json();
        assert_eq!(health["status"], status, "{path}");
        let check = &health["connectivity"]["connectivity_checks"][0];
        assert_eq!(check["error_message"], "connection refused");
    }
    let rig = Rig::start(World {
        ready: false,
        ..World::default()
    })
    .await;
    assert_eq!(rig.get("/readyz").await.status, 503);
    assert_eq!(rig.get("/livez").await.status, 200);
}

/// A problem as JSON, but for its request id.
fn problem(answer: &Answer) -> Value {
    let mut problem = answer.json();
    assert_eq!(problem["request_id"], answer.field("x-backendai-requestid"));
    problem.as_object_mut().unwrap().remove("request_id");
    problem
}

#[tokio::test]
async fn refusals_have_the_known_form() {
    let rig = Rig::start(World::default()).await;
    let answer = rig.get("/no/such?x=1").await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        problem(&answer),
        json!({"type": "https://api.backend.ai/probs/url-not-found", "title": "Unknown URL path.",
               "error_code": "agent_request_not-found", "data": "/no/such"})
    );
    let accept = [("accept", "application/json")];
    let answer = rig.call("POST", "/status", &accept).await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.field("allow"), "GET, HEAD, OPTIONS");
    assert_eq!(
        problem(&answer),
        json!({"type": "https://api.backend.ai/probs/method-not-allowed",
               "title": "HTTP Method Not Allowed.", "error_code": "agent_request_bad-request"})
    );
    let answer = rig.get("/setup").await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        problem(&answer),
        json!({"type": "https://api.backend.ai/probs/invalid-api-params",
               "title": "Missing or invalid API parameters.",
               "error_code": "agent_request_invalid-parameters", "msg": "Input validation error",
               "data": {"errors": [{"type": "missing", "loc": ["token"], "msg": "Field required"}]}})
    );
}

#[tokio::test]
async fn browsers_get_a_page_that_nothing_can_be_smuggled_into() {
    let rig = Rig::start(World::default()).await;
    for accept in ["text/html", "*/*", "application/problem+json;q=0"] {
        let answer = rig
            .call("GET", "/setup?token=x", &[("accept", accept)])
            .await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.field("content-type"), "text/html; charset=utf-8");
        assert!(answer.body.contains("<h1>Backend.AI</h1>"));
        assert!(
            answer
                .body
                .contains("<h2>Authentication credentials not valid.</h2>")
        );
        assert!(
            answer
                .body
                .contains("<p>E20008: Invalid authorization token (Not a valid token)")
        );
    }
    let id = ("x-backendai-requestid", "<script>");
    let answer = rig.call("GET", "/no/such", &[id]).await;
    assert!(!answer.body.contains("<script>"), "{}", answer.body);
}

#[tokio::test]
async fn a_sane_request_id_is_taken_over() {
    let rig = Rig::start(World::default()).await;
    for (given, kept) in [
        ("5849abcd-e68f-4793-a704-28ba206a62e1", true),
        ("trace_1.2:3", true),
        ("", false),
        ("a b", false),
        ("a\"b", false),
    ] {
        let answer = rig
            .call("GET", "/status", &[("x-backendai-requestid", given)])
            .await;
        let id = answer.field("x-backendai-requestid");
        assert_eq!(id == given, kept, "{given:?}");
        assert!(kept || id.parse::<Uuid>().is_ok(), "{id}");
    }
    let long = "a".repeat(129);
    let answer = rig
        .call("GET", "/status", &[("x-backendai-requestid", &long)])
        .await;
    assert_ne!(answer.field("x-backendai-requestid"), long);
}

#[tokio::test]
async fn methods_can_be_overridden() {
    let rig = Rig::start(World::default()).await;
    for (method, told, status) in [
        ("POST", "GET", 200),
        ("POST", "get", 200),
        ("GET", "DELETE", 405),
        ("HEAD", "", 200),
        ("GET", "no method", 200),
    ] {
        let answer = rig
            .call(method, "/status", &[("x-method-override", told)])
            .await;
        assert_eq!(answer.status, status, "{method} {told}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_call() {
    let rig = Rig::start(World::default()).await;
    for path in ENDPOINTS {
        let asked = [
            ("origin", "https://portal.test"),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "authorization, x-y"),
        ];
        let answer = rig.call("OPTIONS", path, &asked).await;
        assert_eq!(answer.status, 204, "{path}");
        assert_eq!(
            answer.field("access-control-allow-methods"),
            "GET, HEAD, OPTIONS"
        );
        assert_eq!(
            answer.field("access-control-allow-headers"),
            "authorization, x-y"
        );
        assert!(
            !answer
                .headers
                .contains_key("access-control-allow-credentials")
        );
    }
    assert_eq!(rig.call("OPTIONS", "/no", &[]).await.status, 404);
    let answer = rig.get("/").await;
    assert_eq!(answer.field("access-control-expose-headers"), "*");
}

#[tokio::test]
async fn metrics_are_for_allowed_addresses_only() {
    let rig = Rig::start(World::default()).await;
    rig.get("/status").await;
    rig.get("/nowhere").await;
    let forwarded = [("x-forwarded-for", "8.8.8.8")];
    let answer = rig.call("GET", "/metrics", &forwarded).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("content-type"), "text/plain; charset=utf-8");
    for line in [
        "appproxy_requests_received_http_total{remote=\"\"} 42",
        "backendai_api_request_count_total{method=\"GET\",endpoint=\"/status\",domain=\"\",\
         operation=\"\",error_detail=\"\",status_code=\"200\"} 1",
        "backendai_api_request_count_total{method=\"GET\",endpoint=\"other\",domain=\"agent\",\
         operation=\"request\",error_detail=\"not-found\",status_code=\"404\"} 1",
        "# TYPE backendai_cpu_usage_percent gauge",
        "# TYPE backendai_memory_used_rss gauge",
        "causeway_generations_total 1",
    ] {
        assert!(
            answer.body.lines().any(|l| l == line),
            "{line} in\n{}",
            answer.body
        );
    }
    assert!(!answer.body.contains("# EOF"));
}

/// Asks the router itself, as somebody from an address.
async fn metrics_from(peer: Option<&str>) -> Response {
    let mut router = interface(World::default(), addresses(false));
    if let Some(peer) = peer {
        router = router.layer(axum::Extension(Peer(peer.parse().unwrap())));
    }
    let service = hyper_util::service::TowerToHyperService::new(router);
    let request = http::Request::builder()
        .uri("/metrics")
        .header("accept", "application/json")
        .body(axum::body::Body::empty())
        .unwrap();
    hyper::service::Service::call(&service, request)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_address_of_the_connection_decides() {
    for (peer, status) in [
        (Some("127.0.0.1:1"), 200),
        (Some("[::ffff:127.0.0.1]:1"), 200),
        (Some("[::1]:1"), 403),
        (Some("10.0.0.1:1"), 403),
        (Some("[::ffff:10.0.0.1]:1"), 403),
        (None, 403),
    ] {
        let response = metrics_from(peer).await;
        assert_eq!(response.status(), status, "{peer:?}");
        if status == 403 {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let problem: Value = serde_json::from_slice(&body).unwrap();
            let expected = "https://api.backend.ai/probs/generic-forbidden";
            assert_eq!(problem["type"], expected);
        }
    }
}
