//! Active health checks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::support::DEADLINE;
use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, forwarding, http2_cluster};
use crate::support::client::Http1;
use crate::support::origin::Origin;

/// Answers checks with the status it is told, and everything else with its name.
struct Replica {
    origin: Origin,
    status: Arc<AtomicU16>,
}

impl Replica {
    async fn named(name: &'static str) -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let told = Arc::clone(&status);
        let origin = Origin::http(move |mut conn| {
            let told = Arc::clone(&told);
            async move {
                while let Some(head) = conn.request().await {
                    match head.target.as_str() {
                        "/hc" => conn.reply(told.load(SeqCst), &[], "").await,
                        _ => conn.reply(200, &[], name).await,
                    }
                }
            }
        })
        .await;
        Self { origin, status }
    }

    fn checks(&self) -> usize {
        let requests = self.origin.requests();
        requests.iter().filter(|r| r.target == "/hc").count()
    }
}

/// A cluster of these, with a health check.
fn checked(replicas: &[&Replica], check: &Value) -> Value {
    let endpoint = |replica: &&Replica| {
        let at = replica.origin.address;
        let address = json!({"address": at.ip(), "port_value": at.port()});
        json!({"endpoint": {"address": {"socket_address": address}}})
    };
    let endpoints: Vec<Value> = replicas.iter().map(endpoint).collect();
    let mut health = json!({
        "timeout": "5s", "interval": "0.01s", "no_traffic_interval": "0.01s",
        "unhealthy_threshold": 1, "healthy_threshold": 1,
    });
    for (key, value) in check.as_object().unwrap() {
        health[key] = value.clone();
    }
    json!({
        "name": "c", "type": "STATIC", "health_checks": [health],
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": endpoints}]},
    })
}

fn http_check() -> Value {
    json!({"http_health_check": {"path": "/hc", "host": "check.test"}})
}

async fn serving(cluster: Value) -> TestApp {
    let mut bootstrap = bootstrap(&[forwarding("l", "c")], &[cluster]);
    let address = json!({"address": "127.0.0.1", "port_value": 0});
    bootstrap["admin"] = json!({"address": {"socket_address": address}});
    let app = TestApp::bootstrap(&bootstrap.to_string()).await;
    until("ready", async || app.admin("/ready").await.status == 200).await;
    app
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Who answers, over several requests.
async fn answers(app: &TestApp) -> BTreeSet<String> {
    let mut client = Http1::connect(app.listener("l")).await;
    let mut seen = BTreeSet::new();
    for _ in 0..6 {
        seen.insert(client.get("any.test", "/").await.text());
    }
    seen
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn traffic_follows_the_checks() {
    let (a, b) = (Replica::named("a").await, Replica::named("b").await);
    b.status.store(503, SeqCst);
    let app = serving(checked(&[&a, &b], &http_check())).await;
    // Listeners open only when everybody was looked at.
    assert_eq!(answers(&app).await, names(&["a"]));
    b.status.store(200, SeqCst);
    until("both", async || answers(&app).await == names(&["a", "b"])).await;
    a.status.store(500, SeqCst);
    until("the other one", async || {
        answers(&app).await == names(&["b"])
    })
    .await;
    b.status.store(404, SeqCst);
    let nobody = names(&["no healthy upstream"]);
    until("nobody", async || answers(&app).await == nobody).await;

    let requests = a.origin.requests();
    let check = requests.iter().find(|r| r.target == "/hc").unwrap();
    assert_eq!(
        (check.method.as_str(), check.header("host")),
        ("GET", "check.test")
    );
    assert_eq!(check.header("user-agent"), "Envoy/HC");
    let clusters = app.admin("/clusters").await.text();
    assert!(
        clusters.contains("health_flags::/failed_active_hc"),
        "{clusters}"
    );
    let why = format!("c::{}::health_check_failure::HTTP: ", b.origin.address);
    let line = clusters.lines().find(|line| line.starts_with(&why));
    assert!(line.is_some_and(|line| line.contains("404")), "{clusters}");
    let next = format!("c::{}::next_health_check::", b.origin.address);
    assert!(clusters.contains(&next), "{clusters}");
    let clusters = app.admin("/clusters?format=json").await.json();
    let host = &clusters["cluster_statuses"][0]["host_statuses"][1];
    let details = &host["health_details"];
    let failure = details["health_check_failure"].as_str().unwrap();
    assert!(failure.contains("404"), "{details}");
    assert!(details["next_health_check"].is_string(), "{details}");
}

#[tokio::test]
async fn a_check_uses_its_connection_again_unless_told_otherwise() {
    let a = Replica::named("a").await;
    let app = serving(checked(&[&a], &http_check())).await;
    until("checks", async || a.checks() > 5).await;
    assert_eq!(a.origin.connections(), 1);
    app.shutdown().await;
    let mut check = http_check();
    check["reuse_connection"] = json!(false);
    let _app = serving(checked(&[&a], &check)).await;
    until("connections", async || a.origin.connections() > 5).await;
}

#[tokio::test]
async fn a_check_may_have_a_body() {
    let origin = Origin::http(move |mut conn| async move {
        while let Some(head) = conn.request().await {
            let content = conn.content(&head).await.unwrap();
            match (&*head.target, &*content.data) {
                ("/hc", b"hi") => conn.reply(200, &[], "all is well").await,
                ("/hc", _) => conn.reply(400, &[], "").await,
                _ => conn.reply(200, &[], "here").await,
            }
        }
    })
    .await;
    let replica = Replica {
        origin,
        status: Arc::default(),
    };
    let check = |text: &str| json!({"http_health_check": {"path": "/hc", "method": "POST", "send": {"text": text}}});
    // "all" and "well", and then in the other order.
    for (receive, name) in [
        (["616c6c", "77656c6c"], "here"),
        (["77656c6c", "616c6c"], "no healthy upstream"),
    ] {
        let mut check = check("6869");
        check["http_health_check"]["receive"] = receive
            .map(|text| json!({ "text": text }))
            .into_iter()
            .collect();
        let app = serving(checked(&[&replica], &check)).await;
        assert_eq!(answers(&app).await, names(&[name]));
        app.shutdown().await;
    }
    let app = serving(checked(&[&replica], &check("6869"))).await;
    assert_eq!(answers(&app).await, names(&["here"]));
    app.shutdown().await;
    let app = serving(checked(&[&replica], &check("6868"))).await;
    assert_eq!(answers(&app).await, names(&["no healthy upstream"]));
}

/// A server that answers HTTP may have lost its WebSockets: their handshake is a request like others.
#[tokio::test]
async fn a_check_may_be_a_handshake_of_websocket() {
    let upgrades = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&upgrades);
    let origin = Origin::http(move |mut conn| {
        let told = Arc::clone(&told);
        async move {
            while let Some(head) = conn.request().await {
                let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
                match head.header("upgrade") {
                    "websocket" if told.load(SeqCst) => conn.reply(101, &upgrade, "").await,
                    "websocket" => conn.reply(200, &[], "plain").await,
                    _ => conn.reply(200, &[], "here").await,
                }
            }
        }
    })
    .await;
    let replica = Replica {
        origin,
        status: Arc::default(),
    };
    let header = |key: &str, value: &str| json!({"header": {"key": key, "value": value}});
    let check = json!({
        "reuse_connection": false,
        "http_health_check": {
            "path": "/ws",
            "expected_statuses": [{"start": 101, "end": 102}],
            "request_headers_to_add": [
                header("connection", "upgrade"),
                header("upgrade", "websocket"),
                header("sec-websocket-version", "13"),
                header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
        },
    });
    let app = serving(checked(&[&replica], &check)).await;
    assert_eq!(answers(&app).await, names(&["here"]));
    upgrades.store(false, SeqCst);
    let nobody = names(&["no healthy upstream"]);
    until("nobody", async || answers(&app).await == nobody).await;
}

#[tokio::test]
async fn connecting_is_enough_for_tcp() {
    let a = Replica::named("a").await;
    let app = serving(checked(&[&a], &json!({"tcp_health_check": {}}))).await;
    assert_eq!(answers(&app).await, names(&["a"]));
    drop(a);
    let nobody = names(&["no healthy upstream"]);
    until("nobody", async || answers(&app).await == nobody).await;
}

#[tokio::test]
async fn a_tcp_check_waits_for_its_answer() {
    let pong = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&pong);
    let origin = Origin::http(move |mut conn| {
        let says = Arc::clone(&says);
        async move {
            // "ping" and the end of a line is all that a check sends.
            if conn.request().await.is_none() {
                return;
            }
            let text: &[u8] = if says.load(SeqCst) {
                b"+PO..NG"
            } else {
                b"-ERR"
            };
            conn.send(text).await;
        }
    })
    .await;
    let replica = Replica {
        origin,
        status: Arc::default(),
    };
    let tcp = json!({"tcp_health_check": {
        "send": {"text": "70696e6720782079 0d0a0d0a".replace(' ', "")},
        "receive": [{"text": "504f"}, {"text": "4e47"}],
    }});
    let app = serving(checked(&[&replica], &tcp)).await;
    let healthy = async || {
        app.admin("/clusters")
            .await
            .text()
            .contains("health_flags::healthy")
    };
    assert!(healthy().await);
    pong.store(false, SeqCst);
    until("unhealthy", async || !healthy().await).await;
}

#[tokio::test]
async fn a_cluster_that_goes_is_not_checked_any_more() {
    let a = Replica::named("a").await;
    let app = serving(checked(&[&a], &http_check())).await;
    until("checks", async || a.checks() > 2).await;
    app.shutdown().await;
    a.origin.has_no_connection().await;
}

#[tokio::test]
async fn an_endpoint_may_have_its_own_port_or_no_check_at_all() {
    let (a, b) = (Replica::named("a").await, Replica::named("b").await);
    // "a" is not well, but it is "b" that is asked about it; nobody asks about the other one.
    a.status.store(500, SeqCst);
    let mut cluster = checked(&[&a, &a], &http_check());
    let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
    let own = json!({"port_value": b.origin.address.port(), "hostname": "own.test"});
    endpoints[0]["endpoint"]["health_check_config"] = own;
    endpoints[1]["endpoint"]["health_check_config"] = json!({"disable_active_health_check": true});
    endpoints[1]["metadata"] = json!({"filter_metadata": {"causeway": {"id": "2"}}});
    let app = serving(cluster).await;
    assert_eq!(answers(&app).await, names(&["a"]));
    assert_eq!(a.checks(), 0);
    assert_eq!(b.origin.requests()[0].header("host"), "own.test");
}

#[tokio::test]
async fn changes_of_health_are_logged() {
    let replica = Replica::named("a").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events");
    let mut check = http_check();
    check["event_logger"] = json!([{
        "name": "file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink",
            "event_log_path": path,
        },
    }]);
    let _app = serving(checked(&[&replica], &check)).await;
    replica.status.store(503, SeqCst);
    let mut lines = Vec::new();
    until("two changes", async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
        lines = whole
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .collect();
        lines.len() >= 2
    })
    .await;
    let at = replica.origin.address;
    let host =
        json!({"socket_address": {"protocol": "TCP", "address": at.ip(), "port_value": at.port()}});
    for (line, event, told) in [
        (&lines[0], "add_healthy_event", json!({"first_check": true})),
        (
            &lines[1],
            "eject_unhealthy_event",
            json!({"failure_type": "ACTIVE"}),
        ),
    ] {
        assert_eq!(line[event], told, "{line}");
        assert_eq!(line["host"], host);
        assert_eq!(line["cluster_name"], "c");
        assert_eq!(line["health_checker_type"], "HTTP");
    }
}

/// A server of gRPC that says of service `app` what it is told, and answers everything else.
async fn grpc_origin(serving: &Arc<AtomicU16>) -> Origin {
    let serving = Arc::clone(serving);
    Origin::tcp(move |stream| {
        let serving = Arc::clone(&serving);
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let serving = Arc::clone(&serving);
                async move {
                    let check = request.uri().path() == "/grpc.health.v1.Health/Check";
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    let answer = match check {
                        // A message of one number (field 1), for a message of one text (field 1).
                        true => {
                            assert_eq!(&asked[..], b"\0\0\0\0\x05\x0a\x03app");
                            let status = serving.load(SeqCst).to_be_bytes()[1];
                            Bytes::from(vec![0, 0, 0, 0, 2, 8, status])
                        }
                        false => Bytes::from("a"),
                    };
                    let trailers = HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        HeaderValue::from_static("0"),
                    )]);
                    let body = Full::new(answer).with_trailers(async { Some(Ok(trailers)) });
                    Ok::<_, std::convert::Infallible>(Response::new(body))
                }
            });
            let server = http2::Builder::new(TokioExecutor::new());
            // Ends with its peer, in whatever way.
            let io = TokioIo::new(stream);
            server.serve_connection(io, service).await.ok();
        }
    })
    .await
}

#[tokio::test]
async fn a_server_of_grpc_says_itself_whether_it_serves() {
    const SERVING: u16 = 1;
    const NOT_SERVING: u16 = 2;
    let told = Arc::new(AtomicU16::new(SERVING));
    let origin = grpc_origin(&told).await;
    let check = checked(&[], &json!({"grpc_health_check": {"service_name": "app"}}));
    let mut cluster = http2_cluster("c", origin.address);
    for field in ["health_checks", "common_lb_config"] {
        cluster[field] = check[field].clone();
    }
    let app = serving(cluster).await;
    assert_eq!(answers(&app).await, names(&["a"]));
    told.store(NOT_SERVING, SeqCst);
    let nobody = names(&["no healthy upstream"]);
    until("it serves nobody", async || answers(&app).await == nobody).await;
    told.store(SERVING, SeqCst);
    until("it is back", async || answers(&app).await == names(&["a"])).await;
}
