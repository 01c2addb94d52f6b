//! The filters of our own, configured as anybody would: in the YAML of a bootstrap.

mod services;

mod chains;
mod choices;
mod grpc;
mod logins;
mod policies;
mod processor;
#[cfg(feature = "lua")]
mod scripts;

use std::net::SocketAddr;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{self, bootstrap, cluster, listener, routes};
use crate::support::client::{Http1, Http2, Reply, empty, get, request};
use crate::support::origin::Origin;
use crate::support::raw::{End, Raw};
use crate::support::{refusing, tcp_echo};

const YAML: &str = r#"
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          upgrade_configs: [{upgrade_type: websocket}]
          http_filters:
          - name: causeway.error_pages
            typed_config:
              "@type": type.googleapis.com/causeway.v1.ErrorPages
              product: Test
              pages:
              - failures: [no_app]
                status: 404
                type: generic-bad-request
                title: Bad request.
                error_code: agent_request_bad-request
                appearance: NOT_FOUND
              - failures: [UF, UH]
                title: Cannot connect to the app.
                type: appproxy/container-connection-refused
                error_code: kernel_access_unreachable
                appearance: STARTING
                retry_after: 4
              - failures: [permit_missing]
                title: Authentication credentials not valid.
                type: invalid-credentials
                error_code: agent_auth_unauthorized
                appearance: LOGIN_EXPIRED
          - name: causeway.access
            typed_config:
              "@type": type.googleapis.com/causeway.v1.Access
              cookie_name: permit
          - name: causeway.forwarded
            typed_config:
              "@type": type.googleapis.com/causeway.v1.Forwarded
              proto: https
          - name: causeway.path_prefix
            typed_config: {"@type": type.googleapis.com/causeway.v1.PathPrefix}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            name: local
            virtual_hosts:
            - name: app
              domains: [app.test, "app.test:8443"]
              routes:
              - match: {prefix: /down}
                route: {cluster: down}
              - match: {prefix: /closed}
                route: {cluster: app}
                typed_per_filter_config:
                  causeway.access:
                    "@type": type.googleapis.com/causeway.v1.AccessPerRoute
                    permit: {value: secret}
              - match: {prefix: /s/app/}
                route: {cluster: app, prefix_rewrite: /}
                typed_per_filter_config:
                  causeway.path_prefix:
                    "@type": type.googleapis.com/causeway.v1.PathPrefixPerRoute
                    prefix: /s/app
                  causeway.forwarded:
                    "@type": type.googleapis.com/causeway.v1.ForwardedPerRoute
                    rstudio: true
              - match: {prefix: /}
                route: {cluster: app}
            - name: rest
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200}
                typed_per_filter_config:
                  causeway.error_pages:
                    "@type": type.googleapis.com/causeway.v1.ErrorPagesPerRoute
                    failure: no_app
                    message: "E20009: Subdomain %LABEL% not registered"
  clusters:
  - name: app
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: APP}}}
  - name: down
    load_assignment:
      cluster_name: down
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: DOWN}}}
"#;

/// An app that redirects, sets cookies, and may be upgraded; none of it below a prefix.
async fn app() -> Origin {
    Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.content(&head).await;
            if head.header("upgrade") == "websocket" {
                conn.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nset-cookie: w=1; Path=/\r\n\r\n").await;
                return conn.left().await;
            }
            let fields = [
                ("location", "/login?a"),
                ("set-cookie", "a=1; Path=/; HttpOnly"),
                ("set-cookie", "b=2"),
                ("set-cookie", "c=3; Path=/x"),
            ];
            conn.reply(302, &fields, "moved").await;
        }
    })
    .await
}

/// What has to last as long as a test.
type Kept = (TestApp, socket2::Socket);

async fn serving(origin: &Origin) -> (Kept, SocketAddr) {
    let (socket, down) = refusing();
    let text = YAML.replace("APP", &origin.address.port().to_string());
    let text = text.replace("DOWN", &down.port().to_string());
    let app = TestApp::bootstrap(&text).await;
    let web = app.listener("web");
    ((app, socket), web)
}

async fn ask(at: SocketAddr, method: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut request = request(method, "app.test", path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(empty()).unwrap();
    Http1::connect(at).await.send_body(request).await
}

fn all<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_failure_is_told_in_the_form_that_is_asked_for() {
    let origin = app().await;
    let (_kept, web) = serving(&origin).await;

    let page = ask(web, "GET", "/down", &[("accept-language", "ko")]).await;
    assert_eq!(page.status, 503);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("content-language"), "ko");
    assert_eq!(page.header("retry-after"), "4");
    assert_eq!(page.header("x-error-code"), "kernel_access_unreachable");
    let id = page.header("x-request-id");
    assert!(!id.is_empty() && page.text().contains(id));
    assert!(page.text().contains("<h1>Test</h1>"));

    let json = [("accept", "application/json")];
    let problem = ask(web, "GET", "/down", &json).await;
    assert_eq!(problem.status, 503);
    assert_eq!(
        problem.header("content-type"),
        "application/json; charset=utf-8"
    );
    let body = problem.json();
    let base = "https://api.backend.ai/probs/";
    assert_eq!(
        body["type"],
        format!("{base}appproxy/container-connection-refused")
    );
    assert_eq!(body["request_id"], problem.header("x-request-id"));

    let head = ask(web, "HEAD", "/down", &json).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (503, 0));
    let length: usize = head.header("content-length").parse().unwrap();
    assert_eq!(length, problem.body.len());

    let refused = ask(web, "GET", "/closed", &json).await;
    assert_eq!(refused.status, 401);
    let body = refused.json();
    assert_eq!(body["msg"], "E20004: Authorization cookie not provided");
    assert_eq!(body["error_code"], "agent_auth_unauthorized");
}

#[tokio::test]
async fn grpc_failures_stay_grpc() {
    let origin = app().await;
    let (_kept, web) = serving(&origin).await;
    let request = http::Request::post("http://app.test/down")
        .header("content-type", "application/grpc")
        .header("accept", "application/json")
        .body(empty())
        .unwrap();
    let reply = Http2::connect(web).await.send(request).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "application/grpc");
    assert_eq!(reply.header("grpc-status"), "14");
}

#[tokio::test]
async fn a_route_answers_with_a_failure_over_both_protocols() {
    let origin = app().await;
    let (_kept, web) = serving(&origin).await;
    let one = get(web, "Gone-1.apps.test:80", "/x").await;
    let two = Http2::connect(web).await;
    let two = two.get("Gone-1.apps.test", "/x").await;
    for reply in [one, two] {
        assert_eq!(reply.status, 404);
        let text = reply.text();
        assert!(
            text.contains("E20009: Subdomain gone-1 not registered"),
            "{text}"
        );
        assert!(text.contains("There is no app at this address"), "{text}");
    }
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_app_below_a_prefix_is_told_and_led_back() {
    let origin = app().await;
    let (_kept, web) = serving(&origin).await;
    let reply = ask(web, "GET", "/s/app/a/b?c", &[("forwarded", "host=evil")]).await;
    assert_eq!(reply.header("location"), "/s/app/login?a");
    assert_eq!(
        all(&reply.headers, "set-cookie"),
        ["a=1; Path=/s/app; HttpOnly", "b=2", "c=3; Path=/s/app/x"]
    );
    let seen = &origin.requests()[0];
    assert_eq!(seen.target, "/a/b?c");
    for (name, value) in [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "app.test"),
        ("x-forwarded-port", "443"),
        ("forwarded", "host=app.test;proto=https"),
        ("x-rstudio-proto", "https"),
        ("x-rstudio-request", "https://app.test/s/app/a/b"),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
        assert_eq!(seen.count(name), 1, "{name}");
    }

    let plain = ask(web, "GET", "/a", &[]).await;
    assert_eq!(plain.header("location"), "/login?a");
    assert_eq!(origin.requests()[1].count("x-rstudio-proto"), 0);
}

#[tokio::test]
async fn a_handshake_passes_the_same_filters() {
    let origin = app().await;
    let (_kept, web) = serving(&origin).await;
    let mut raw = Raw::connect(web).await;
    raw.send(
        "GET /s/app/ws HTTP/1.1\r\nhost: app.test:8443\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\n\r\n",
    )
    .await;
    let head = raw.head().await.unwrap();
    assert_eq!(head.status, 101);
    assert_eq!(head.header("set-cookie"), "w=1; Path=/s/app");
    let seen = &origin.requests()[0];
    assert_eq!(
        seen.header("forwarded"),
        "host=\"app.test:8443\";proto=https"
    );
    assert_eq!(seen.header("x-forwarded-port"), "8443");
}

const OWN: &str = "type.googleapis.com/causeway.v1";

/// Lets a network in that is known from `x-forwarded-for` only.
fn behind_a_balancer(trusted: &str) -> Value {
    let xff = json!({"name": "xff", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.http.original_ip_detection.xff.v3.XffConfig",
        "xff_trusted_cidrs": {"cidrs": [{"address_prefix": trusted, "prefix_len": 8}]},
        "skip_xff_append": false,
    }});
    let access = json!({"@type": format!("{OWN}.AccessPerRoute"),
        "allowed_client_ips": ["203.0.113.0/24"]});
    let mut manager = bootstrap::http(&json!({
        "original_ip_detection_extensions": [xff],
        "route_config": routes(&json!([{
            "match": {"prefix": "/"}, "route": {"cluster": "a"},
            "typed_per_filter_config": {"causeway.access": access},
        }])),
    }));
    let filter = json!({"name": "causeway.access",
        "typed_config": {"@type": format!("{OWN}.Access")}});
    let filters = &mut manager["typed_config"]["http_filters"];
    filters.as_array_mut().unwrap().insert(0, filter);
    listener("web", &manager)
}

#[tokio::test]
async fn a_trusted_balancer_says_who_calls() {
    let origin = Origin::fixed("in").await;
    for (trusted, sent, status) in [
        ("127.0.0.0", "203.0.113.7", 200),
        ("127.0.0.0", "6.6.6.6, 203.0.113.7", 200),
        ("127.0.0.0", "203.0.113.7, 6.6.6.6", 403),
        ("10.0.0.0", "203.0.113.7", 403),
    ] {
        let clusters = [cluster("a", origin.address)];
        let text = bootstrap(&[behind_a_balancer(trusted)], &clusters);
        let app = TestApp::bootstrap(&text.to_string()).await;
        let fields = [("x-forwarded-for", sent), ("x-forwarded-proto", "https")];
        origin.forget();
        let reply = ask(app.listener("web"), "GET", "/", &fields).await;
        assert_eq!(reply.status, status, "{trusted} {sent}");
        if let [seen] = &origin.requests()[..] {
            let told = format!("{sent},127.0.0.1");
            assert_eq!(seen.header("x-forwarded-for"), told);
            assert_eq!(seen.header("x-forwarded-proto"), "https");
        }
    }
}

#[tokio::test]
async fn a_connection_that_may_not_be_is_closed_at_once() {
    let origin = tcp_echo().await;
    for (allowed, admitted) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let mut tcp = listener("tcp", &bootstrap::tcp("a", &json!({})));
        let policy = json!({"name": "causeway.connection", "typed_config": {
            "@type": format!("{OWN}.ConnectionPolicy"),
            "allowed_client_ips": [allowed], "circuit": uuid::Uuid::from_u128(1), "sessions": [uuid::Uuid::from_u128(2)],
        }});
        let filters = &mut tcp["filter_chains"][0]["filters"];
        filters.as_array_mut().unwrap().insert(0, policy);
        let text = bootstrap(&[tcp], &[cluster("a", origin.address)]);
        let app = TestApp::bootstrap(&text.to_string()).await;
        let stats = app.running.stats.tcp("t");
        let mut raw = Raw::connect(app.listener("tcp")).await;
        if admitted {
            raw.send("a").await;
            assert_eq!(raw.bytes(1).await, b"a");
        } else {
            assert_eq!(raw.ended().await, End::Closed);
        }
        assert_eq!(stats.downstream_cx_total.value(), 1);
        assert_eq!(stats.downstream_cx_denied.value(), u64::from(!admitted));
    }
    assert_eq!(origin.connections(), 1);
}
