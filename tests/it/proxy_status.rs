//! What clients are told of failures, and endpoints of the scheme.

use std::net::SocketAddr;

use http::Response;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, http2_cluster, listener, routes};
use crate::support::client::{Http1, Reply, empty, get, request};
use crate::support::origin::{Conn, Origin};
use crate::support::refusing;

const FIELD: &str = "proxy-status";

/// `/a` goes to `a`, `/gone` to nobody, `/none` has no cluster; nothing else has a route.
async fn app(status: &Value, origin: &Origin, gone: SocketAddr) -> TestApp {
    let all = json!([
        {"match": {"path": "/a"}, "route": {"cluster": "a"}},
        {"match": {"path": "/gone"}, "route": {"cluster": "gone"}},
        {"match": {"path": "/none"}, "route": {"cluster": "none"}},
    ]);
    let manager = http(&json!({"route_config": routes(&all), "proxy_status_config": status}));
    let clusters = [cluster("a", origin.address), cluster("gone", gone)];
    let text = bootstrap(&[listener("web", &manager)], &clusters).to_string();
    TestApp::bootstrap(&text).await
}

#[tokio::test]
async fn failures_are_told_with_their_kind() {
    let origin = Origin::http(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            let told = "next; error=dns_error";
            conn.reply(503, &[(FIELD, told)], "").await;
        }
    })
    .await;
    let (_held, gone) = refusing();
    let plain = app(&json!({}), &origin, gone).await;
    let web = plain.listener("web");
    let missing = get(web, "x", "/").await;
    let told = "envoy; error=destination_not_found; details=\"route_not_found; NR\"";
    assert_eq!(
        (missing.status.as_u16(), missing.header(FIELD)),
        (404, told)
    );
    let none = get(web, "x", "/none").await;
    let told = "envoy; error=destination_unavailable; details=\"cluster_not_found; NC\"";
    assert_eq!((none.status.as_u16(), none.header(FIELD)), (503, told));
    let refused = get(web, "x", "/gone").await;
    let told = refused.header(FIELD);
    assert!(
        told.starts_with("envoy; error=connection_refused; details=\""),
        "{told}"
    );
    assert!(told.ends_with("; UF\""), "{told}");
    // What others have failed at is theirs to tell.
    let other = get(web, "x", "/a").await;
    assert_eq!(other.headers.get_all(FIELD).iter().count(), 1);
    assert_eq!(
        (other.status.as_u16(), other.header(FIELD)),
        (503, "next; error=dns_error")
    );

    let config = json!({"remove_details": true, "set_recommended_response_code": true,
        "literal_proxy_name": "edge of \"x\""});
    let named = app(&config, &origin, gone).await;
    let web = named.listener("web");
    for (path, status, kind) in [
        ("/", 500, "destination_not_found"),
        ("/gone", 502, "connection_refused"),
    ] {
        let reply = get(web, "x", path).await;
        let told = format!("\"edge of \\\"x\\\"\"; error={kind}");
        assert_eq!(
            (reply.status.as_u16(), reply.header(FIELD)),
            (status, &*told)
        );
    }
}

/// Tells what each request is said to be for.
async fn telling(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let scheme = request.uri().scheme_str().unwrap_or("-").to_owned();
        let mut answer = Response::builder().header("x-scheme", scheme);
        for proto in request.headers().get_all("x-forwarded-proto") {
            answer = answer.header("x-proto", proto);
        }
        let answer = answer.body(()).unwrap();
        if respond.send_response(answer, true).is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn the_scheme_is_the_clients_or_what_is_configured() {
    let origin = Origin::tcp(telling).await;
    let asked = async |rule: Value| -> Reply {
        let to = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
        let mut manager = json!({"route_config": routes(&to)});
        if !rule.is_null() {
            manager["scheme_header_transformation"] = rule;
        }
        let clusters = [http2_cluster("a", origin.address)];
        let text = bootstrap(&[listener("web", &http(&manager))], &clusters);
        let app = TestApp::bootstrap(&text.to_string()).await;
        let request = request("GET", "x", "/").header("x-forwarded-proto", "https");
        let request = request.body(empty()).unwrap();
        let mut client = Http1::connect(app.listener("web")).await;
        client.send_body(request).await
    };
    for (rule, scheme, proto) in [
        (Value::Null, "https", "https"),
        (json!({"scheme_to_overwrite": "http"}), "http", "http"),
        (json!({"match_upstream": true}), "http", "https"),
    ] {
        let reply = asked(rule.clone()).await;
        let seen = (reply.header("x-scheme"), reply.header("x-proto"));
        assert_eq!(seen, (scheme, proto), "{rule}");
    }
}
