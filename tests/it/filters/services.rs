//! The filters that ask others, or change bodies, each in front of an app.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, routes};
use crate::support::client::{Http1, Reply, empty, full, request};
use crate::support::origin::{Conn, Origin};
use crate::support::refusing;

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn filter(name: &str, message: &str, more: &Value) -> Value {
    let mut config = json!({"@type": format!("{FILTERS}.{message}")});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": name, "typed_config": config})
}

/// A listener `web` with a filter, in front of a cluster `a`; `others` are what the filter asks.
fn front(filter: &Value, origin: SocketAddr, others: &[(&str, SocketAddr)]) -> String {
    let all = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
    let mut manager = http(&json!({"route_config": routes(&all)}));
    let chain = manager["typed_config"]["http_filters"].as_array_mut();
    chain.unwrap().insert(0, filter.clone());
    let mut clusters = vec![cluster("a", origin)];
    clusters.extend(others.iter().map(|(name, at)| cluster(name, *at)));
    bootstrap(&[listener("web", &manager)], &clusters).to_string()
}

async fn ask(at: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut request = request("GET", "app.test", path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(empty()).unwrap();
    Http1::connect(at).await.send_body(request).await
}

const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";

fn keys() -> String {
    let key = json!({"kty": "oct", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET)});
    json!({ "keys": [key] }).to_string()
}

fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({"alg": "HS256"})), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let tag = hmac::sign(&key, text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

fn jwt() -> Value {
    let remote = json!({"http_uri": {"uri": "http://idp.test/keys", "cluster": "idp",
        "timeout": "5s"}});
    let provider = json!({"issuer": "iss", "remote_jwks": remote,
        "claim_to_headers": [{"header_name": "x-sub", "claim_name": "sub"}]});
    let rule = json!({"match": {"prefix": "/"}, "requires": {"provider_name": "p"}});
    filter(
        "envoy.filters.http.jwt_authn",
        "jwt_authn.v3.JwtAuthentication",
        &json!({"providers": {"p": provider}, "rules": [rule]}),
    )
}

#[tokio::test]
async fn a_token_opens_once_its_keys_are_fetched() {
    let app = Origin::fixed("in").await;
    let idp = Origin::http(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.reply(200, &[], &keys()).await;
        }
    })
    .await;
    let text = front(&jwt(), app.address, &[("idp", idp.address)]);
    let running = TestApp::bootstrap(&text).await;
    let web = running.listener("web");
    let none = ask(web, "/x?y", &[]).await;
    assert_eq!(
        (none.status.as_u16(), none.text().as_str()),
        (401, "Jwt is missing")
    );
    let challenge = "Bearer realm=\"http://app.test/x?y\"";
    assert_eq!(none.header("www-authenticate"), challenge);
    for sub in ["alice", "bob"] {
        let bearer = format!("Bearer {}", token(&json!({"iss": "iss", "sub": sub})));
        let fields = [("authorization", bearer.as_str()), ("x-sub", "root")];
        assert_eq!(ask(web, "/", &fields).await.text(), "in");
        let seen = app.requests().pop().unwrap();
        assert_eq!(seen.header("x-sub"), sub);
        assert_eq!(seen.count("x-sub"), 1);
        assert_eq!(seen.count("authorization"), 0);
    }
    assert_eq!(idp.requests().len(), 1, "keys are kept");
    assert_eq!(idp.requests()[0].target, "/keys");
    assert_eq!(idp.requests()[0].header("host"), "idp.test");
}

#[tokio::test]
async fn nobody_passes_while_there_are_no_keys() {
    let app = Origin::fixed("in").await;
    let (_held, idp) = refusing();
    let running = TestApp::bootstrap(&front(&jwt(), app.address, &[("idp", idp)])).await;
    let bearer = format!("Bearer {}", token(&json!({"iss": "iss"})));
    let refused = ask(running.listener("web"), "/", &[("authorization", &bearer)]).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.text(), "Jwks remote fetch is failed");
    assert!(app.requests().is_empty());
}

fn authz() -> Value {
    let service = json!({
        "server_uri": {"uri": "http://auth.test", "cluster": "auth", "timeout": "5s"},
        "path_prefix": "/check",
        "authorization_response": {
            "allowed_upstream_headers": {"patterns": [{"exact": "x-user"}]},
            "allowed_client_headers": {"patterns": [{"exact": "x-why"}]}},
    });
    filter(
        "envoy.filters.http.ext_authz",
        "ext_authz.v3.ExtAuthz",
        &json!({"http_service": service,
            "with_request_body": {"max_request_bytes": 10, "allow_partial_message": true}}),
    )
}

#[tokio::test]
async fn a_service_says_who_may_pass() {
    let app = Origin::echo().await;
    let auth = Origin::http(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            let _ = conn.content(&head).await;
            match head.target.as_str() {
                "/check/in" => conn.reply(200, &[("x-user", "u1")], "").await,
                _ => {
                    conn.reply(403, &[("x-why", "no"), ("x-own", "s")], "not you")
                        .await
                }
            }
        }
    })
    .await;
    let text = front(&authz(), app.address, &[("auth", auth.address)]);
    let running = TestApp::bootstrap(&text).await;
    let web = running.listener("web");
    let body = "a body of more than ten bytes";
    let post = request("POST", "app.test", "/in").header("x-user", "root");
    let reply = Http1::connect(web)
        .await
        .send_body(post.body(full(body)).unwrap())
        .await;
    assert_eq!(reply.status, 200);
    let seen = app.requests().pop().unwrap();
    assert_eq!((seen.header("x-user"), seen.count("x-user")), ("u1", 1));
    assert_eq!(seen.header("content-length"), body.len().to_string());
    let asked = auth.requests().pop().unwrap();
    assert_eq!(asked.header("content-length"), "10");
    assert_eq!(asked.header("x-envoy-auth-partial-body"), "true");

    let refused = ask(web, "/out", &[]).await;
    assert_eq!(
        (refused.status.as_u16(), refused.text().as_str()),
        (403, "not you")
    );
    assert_eq!(
        (refused.header("x-why"), refused.header("x-own")),
        ("no", "")
    );
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn nobody_passes_while_the_service_is_away() {
    let app = Origin::fixed("in").await;
    let (_held, auth) = refusing();
    let running = TestApp::bootstrap(&front(&authz(), app.address, &[("auth", auth)])).await;
    let refused = ask(running.listener("web"), "/in", &[]).await;
    assert_eq!(refused.status, 403);
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn a_whole_request_goes_on_with_its_length_or_not_at_all() {
    let app = Origin::echo().await;
    let buffer = filter(
        "envoy.filters.http.buffer",
        "buffer.v3.Buffer",
        &json!({"max_request_bytes": 10}),
    );
    let running = TestApp::bootstrap(&front(&buffer, app.address, &[])).await;
    let web = running.listener("web");
    let post = |body: &'static str| {
        let request = request("POST", "app.test", "/").body(full(body)).unwrap();
        async move { Http1::connect(web).await.send_body(request).await }
    };
    assert_eq!(post("ten bytes!").await.status, 200);
    assert_eq!(app.requests()[0].header("content-length"), "10");
    let large = post("eleven byte").await;
    assert_eq!(large.status, 413);
    assert_eq!(large.text(), "Payload Too Large");
    assert_eq!(app.requests().len(), 1);
}

const LONG: &str = "a text that is long enough to be worth the trouble of a coding";

#[tokio::test]
async fn a_client_gets_the_coding_that_it_accepts() {
    let app = Origin::http(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.reply(200, &[("content-type", "text/plain")], LONG)
                .await;
        }
    })
    .await;
    let gzip = "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip";
    let compressor = filter(
        "envoy.filters.http.compressor",
        "compressor.v3.Compressor",
        &json!({"compressor_library": {"name": "text", "typed_config": {"@type": gzip}}}),
    );
    let running = TestApp::bootstrap(&front(&compressor, app.address, &[])).await;
    let web = running.listener("web");
    let plain = ask(web, "/", &[]).await;
    assert_eq!(plain.text(), LONG);
    assert_eq!(plain.header("vary"), "Accept-Encoding");
    let coded = ask(web, "/", &[("accept-encoding", "gzip")]).await;
    assert_eq!(coded.header("content-encoding"), "gzip");
    let mut text = String::new();
    let mut reader = GzDecoder::new(&coded.body[..]);
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, LONG);
}

#[tokio::test]
async fn an_app_gets_its_requests_in_plain() {
    let app = Origin::echo().await;
    let gzip = "type.googleapis.com/envoy.extensions.compression.gzip.decompressor.v3.Gzip";
    let decompressor = filter(
        "envoy.filters.http.decompressor",
        "decompressor.v3.Decompressor",
        &json!({"decompressor_library": {"name": "text", "typed_config": {"@type": gzip}}}),
    );
    let running = TestApp::bootstrap(&front(&decompressor, app.address, &[])).await;
    let mut writer = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(LONG.as_bytes()).unwrap();
    let post = request("POST", "app.test", "/").header("content-encoding", "gzip");
    let post = post.body(full(writer.finish().unwrap())).unwrap();
    let mut client = Http1::connect(running.listener("web")).await;
    let reply = client.send_body(post).await;
    assert!(reply.text().contains(LONG), "{}", reply.text());
    assert_eq!(app.requests()[0].count("content-encoding"), 0);
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint() {
    let (one, two) = (Origin::fixed("one").await, Origin::fixed("two").await);
    let cookie = json!({
        "@type": "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
        "cookie": {"name": "aff", "path": "/", "ttl": "60s"}});
    let session = filter(
        "envoy.filters.http.stateful_session",
        "stateful_session.v3.StatefulSession",
        &json!({"session_state": {"name": "state", "typed_config": cookie}}),
    );
    let mut text: Value = serde_json::from_str(&front(&session, one.address, &[])).unwrap();
    let at = two.address;
    let second = json!({"endpoint": {"address": {"socket_address":
        {"address": at.ip(), "port_value": at.port()}}}});
    let cluster = &mut text["static_resources"]["clusters"][0];
    let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
    endpoints.as_array_mut().unwrap().push(second);
    let running = TestApp::bootstrap(&text.to_string()).await;
    let web = running.listener("web");
    let first = ask(web, "/", &[]).await;
    let given = first.header("set-cookie").to_owned();
    let cookie = given.split(';').next().unwrap();
    for _ in 0..6 {
        let again = ask(web, "/", &[("cookie", cookie)]).await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.header("set-cookie"), "");
    }
    let others = [
        ask(web, "/", &[]).await.text(),
        ask(web, "/", &[]).await.text(),
    ];
    assert_ne!(others[0], others[1], "the rest is balanced");

    // An endpoint that drains keeps the sessions that it has, where the cluster says so.
    let stayed = async |statuses: Value| {
        let mut text = text.clone();
        let cluster = &mut text["static_resources"]["clusters"][0];
        let which = usize::from(first.text() == "two");
        let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
        endpoints[which]["health_status"] = json!("DRAINING");
        cluster["common_lb_config"] = json!({"override_host_status": statuses});
        let running = TestApp::bootstrap(&text.to_string()).await;
        let again = ask(running.listener("web"), "/", &[("cookie", cookie)]).await;
        again.text() == first.text()
    };
    assert!(!stayed(Value::Null).await);
    assert!(!stayed(json!({"statuses": ["UNKNOWN", "HEALTHY"]})).await);
    assert!(stayed(json!({"statuses": ["HEALTHY", "DRAINING"]})).await);
}

#[tokio::test]
async fn rates_are_asked_for_and_a_service_that_is_away_decides_as_configured() {
    let app = Origin::fixed("in").await;
    let (_held, limits) = refusing();
    let limit = |deny: bool| {
        let service = json!({"transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "limits"}}});
        let action = json!({"generic_key": {"descriptor_value": "v"}});
        filter(
            "envoy.filters.http.ratelimit",
            "ratelimit.v3.RateLimit",
            &json!({"domain": "d", "failure_mode_deny": deny, "timeout": "5s",
                "rate_limit_service": service, "rate_limits": [{"actions": [action]}]}),
        )
    };
    for (deny, status) in [(true, 500), (false, 200)] {
        let text = front(&limit(deny), app.address, &[("limits", limits)]);
        let running = TestApp::bootstrap(&text).await;
        assert_eq!(ask(running.listener("web"), "/", &[]).await.status, status);
    }
}
