//! The filters that control planes send, each in front of an app.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, routes};
use crate::support::client::{Http1, Http2, Reply, empty, full, request};
use crate::support::eventually;
use crate::support::origin::Origin;
use crate::support::raw::Raw;

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// A filter before the router; `more` is its configuration.
pub fn filter(name: &str, message: &str, more: &Value) -> Value {
    let mut config = json!({"@type": format!("{FILTERS}.{message}")});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": name, "typed_config": config})
}

fn typed(message: &str, more: &Value) -> Value {
    filter("", message, more)["typed_config"].clone()
}

/// A listener `web` with these filters and routes in front of a cluster `a`.
pub fn front(filters: &[Value], at: &[Value], origin: &Origin) -> String {
    let mut manager = http(&json!({"route_config": routes(&json!(at))}));
    let all = manager["typed_config"]["http_filters"].as_array_mut();
    all.unwrap().splice(0..0, filters.iter().cloned());
    let web = listener("web", &manager);
    bootstrap(&[web], &[cluster("a", origin.address)]).to_string()
}

fn to_app() -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}})
}

async fn ask(at: SocketAddr, method: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut request = request(method, "app.test", path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(empty()).unwrap();
    Http1::connect(at).await.send_body(request).await
}

/// A counter of the connection manager.
pub fn counted(app: &TestApp, name: &str) -> u64 {
    app.running.stats.named("http.web.").counter(name).value()
}

fn deny_admins(matcher: &Value) -> Value {
    let header = json!({"header": {"name": "x-role", "string_match": matcher}});
    let policy = json!({"permissions": [header], "principals": [{"any": true}]});
    json!({"rules": {"action": "DENY", "policies": {"no admins": policy}}})
}

#[tokio::test]
async fn rules_refuse_a_request_however_its_header_is_written() {
    let origin = Origin::fixed("in").await;
    let rbac = "envoy.filters.http.rbac";
    let matcher = json!({"safe_regex": {"regex": ".*admin.*"}});
    let open = json!({"match": {"prefix": "/open"}, "route": {"cluster": "a"},
        "typed_per_filter_config": {rbac: typed("rbac.v3.RBACPerRoute", &json!({}))}});
    let filters = [filter(rbac, "rbac.v3.RBAC", &deny_admins(&matcher))];
    let app = TestApp::bootstrap(&front(&filters, &[open, to_app()], &origin)).await;
    let web = app.listener("web");
    assert_eq!(
        ask(web, "GET", "/", &[("x-role", "guest")]).await.status,
        200
    );
    let refused = ask(web, "GET", "/", &[("x-role", "admin")]).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.text(), "RBAC: access denied");
    for fields in [
        "x-role: guest\r\nx-role: admin",
        "x-role: admin\r\nx-role: guest",
        "X-Role:\tadmin",
        "x-role: \u{ff}admin\u{e9}",
    ] {
        let mut raw = Raw::connect(web).await;
        let bytes: Vec<u8> = format!("GET / HTTP/1.1\r\nhost: app.test\r\n{fields}\r\n\r\n")
            .chars()
            .map(|c| c as u8)
            .collect();
        raw.send(bytes).await;
        assert_eq!(raw.head().await.unwrap().status, 403, "{fields}");
    }
    let open = ask(web, "GET", "/open", &[("x-role", "admin")]).await;
    assert_eq!(open.status, 200);
    let two = request("GET", "app.test", "http://app.test/");
    let two = two.header("x-role", "admin").body(empty()).unwrap();
    assert_eq!(Http2::connect(web).await.send(two).await.status, 403);
    assert_eq!(counted(&app, "rbac.denied"), 6);
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn a_preflight_is_answered_for_the_app() {
    let origin = Origin::fixed("in").await;
    let cors = "envoy.filters.http.cors";
    let policy = json!({
        "allow_origin_string_match": [{"exact": "https://app.test"}],
        "allow_methods": "*", "max_age": "60",
    });
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "a"},
        "typed_per_filter_config": {cors: typed("cors.v3.CorsPolicy", &policy)}});
    let filters = [filter(cors, "cors.v3.Cors", &json!({}))];
    let app = TestApp::bootstrap(&front(&filters, &[route], &origin)).await;
    let web = app.listener("web");
    let asks = |origin: &'static str| {
        let fields = [("origin", origin), ("access-control-request-method", "PUT")];
        async move { ask(web, "OPTIONS", "/", &fields).await }
    };
    let preflight = asks("https://app.test").await;
    assert_eq!(preflight.status, 200);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.test"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-max-age", "60"),
    ] {
        assert_eq!(preflight.header(name), value);
    }
    assert!(origin.requests().is_empty());
    let other = asks("https://evil.test").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    assert_eq!(origin.requests().len(), 1, "the app answers those");
}

#[tokio::test]
async fn credentials_are_asked_for_and_kept_from_the_app() {
    let origin = Origin::fixed("in").await;
    let users = json!({"users": {"inline_string": "user1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=\n"},
        "forward_username_header": "x-user"});
    let keys = json!({
        "credentials": [{"key": "k1", "client": "c1"}, {"key": "k2", "client": "c2"}],
        "key_sources": [{"query": "key"}],
        "forwarding": {"header": "x-client", "hide_credentials": true},
    });
    let api_key = "envoy.filters.http.api_key_auth";
    let only = typed(
        "api_key_auth.v3.ApiKeyAuthPerRoute",
        &json!({"allowed_clients": ["c1"]}),
    );
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "a"},
        "typed_per_filter_config": {api_key: only}});
    let filters = [
        filter(
            "envoy.filters.http.basic_auth",
            "basic_auth.v3.BasicAuth",
            &users,
        ),
        filter(api_key, "api_key_auth.v3.ApiKeyAuth", &keys),
    ];
    let app = TestApp::bootstrap(&front(&filters, &[route], &origin)).await;
    let web = app.listener("web");
    let user = ("authorization", "Basic dXNlcjE6dGVzdDE=");
    let none = ask(web, "GET", "/x?key=k1", &[]).await;
    assert_eq!(none.status, 401);
    assert_eq!(
        none.header("www-authenticate"),
        "Basic realm=\"http://app.test/x?key=k1\""
    );
    assert_eq!(ask(web, "GET", "/x", &[user]).await.status, 401);
    assert_eq!(ask(web, "GET", "/x?key=k2", &[user]).await.status, 403);
    assert!(origin.requests().is_empty());
    let spoofed = ("x-user", "root");
    let known = ask(web, "GET", "/x?a=1&key=k1", &[user, spoofed]).await;
    assert_eq!(known.status, 200);
    let seen = &origin.requests()[0];
    assert_eq!(seen.target, "/x?a=1");
    assert_eq!((seen.header("x-user"), seen.count("x-user")), ("user1", 1));
    assert_eq!(seen.header("x-client"), "c1");
}

#[tokio::test]
async fn another_site_cannot_change_anything() {
    let origin = Origin::fixed("in").await;
    let always = json!({"default_value": {"numerator": 100}});
    let csrf = json!({"filter_enabled": always});
    let filters = [filter(
        "envoy.filters.http.csrf",
        "csrf.v3.CsrfPolicy",
        &csrf,
    )];
    let app = TestApp::bootstrap(&front(&filters, &[to_app()], &origin)).await;
    let web = app.listener("web");
    for (method, site, status) in [
        ("POST", "http://app.test", 200),
        ("POST", "http://evil.test", 403),
        ("GET", "http://evil.test", 200),
    ] {
        let reply = ask(web, method, "/", &[("origin", site)]).await;
        assert_eq!(reply.status, status, "{method} {site}");
    }
    assert_eq!(ask(web, "DELETE", "/", &[]).await.status, 403);
}

#[tokio::test]
async fn faults_are_injected_where_they_are_asked_for() {
    let origin = Origin::fixed("in").await;
    let all = json!({"numerator": 100});
    let fault = json!({
        "delay": {"fixed_delay": "0.02s", "percentage": all},
        "abort": {"header_abort": {}, "percentage": all},
        "response_rate_limit": {"fixed_limit": {"limit_kbps": 1}, "percentage": all},
    });
    let filters = [filter(
        "envoy.filters.http.fault",
        "fault.v3.HTTPFault",
        &fault,
    )];
    let app = TestApp::bootstrap(&front(&filters, &[to_app()], &origin)).await;
    let web = app.listener("web");
    let began = std::time::Instant::now();
    let passed = ask(web, "GET", "/", &[]).await;
    assert!(began.elapsed() >= std::time::Duration::from_millis(20));
    assert_eq!(
        (passed.status.as_u16(), passed.text().as_str()),
        (200, "in")
    );
    let aborted = ask(web, "GET", "/", &[("x-envoy-fault-abort-request", "418")]).await;
    assert_eq!(aborted.status, 418);
    assert_eq!(aborted.text(), "fault filter abort");
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(counted(&app, "fault.delays_injected"), 2);
    assert_eq!(counted(&app, "fault.aborts_injected"), 1);
    let stats = app.running.stats.named("http.web.");
    let active = stats.gauge("fault.active_faults");
    eventually("no fault is left", || active.value() == 0).await;
}

#[tokio::test]
async fn requests_are_limited_and_told_what_is_left() {
    let origin = Origin::fixed("in").await;
    let always = json!({"default_value": {"numerator": 100}});
    let bucket = |max: u32| json!({"max_tokens": max, "fill_interval": "3600s"});
    let limit = json!({
        "stat_prefix": "l", "token_bucket": bucket(100),
        "filter_enabled": always, "filter_enforced": always,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "descriptors": [{"entries": [{"key": "user"}], "token_bucket": bucket(1)}],
        "response_headers_to_add": [{"header": {"key": "x-limited", "value": "%REQ(x-user)%"}}],
    });
    let actions = json!([{"request_headers": {"header_name": "x-user", "descriptor_key": "user"}}]);
    let route = json!({"match": {"prefix": "/"},
        "route": {"cluster": "a", "rate_limits": [{"actions": actions}]}});
    let name = "envoy.filters.http.local_ratelimit";
    let filters = [filter(name, "local_ratelimit.v3.LocalRateLimit", &limit)];
    let app = TestApp::bootstrap(&front(&filters, &[route], &origin)).await;
    let web = app.listener("web");
    for (user, status) in [("a", 200), ("a", 429), ("b", 200), ("a", 429)] {
        let reply = ask(web, "GET", "/", &[("x-user", user)]).await;
        assert_eq!(reply.status, status, "{user}");
        assert_eq!(reply.header("x-ratelimit-limit"), "1");
        assert_eq!(reply.header("x-ratelimit-remaining"), "0");
        if status == 429 {
            assert_eq!(reply.text(), "local_rate_limited");
            assert_eq!(reply.header("x-limited"), user);
        }
    }
    let nobody = ask(web, "GET", "/", &[]).await;
    assert_eq!(nobody.header("x-ratelimit-limit"), "100");
    let stats = app.running.stats.named("l.http_local_rate_limit.");
    assert_eq!(stats.counter("rate_limited").value(), 2);
}

#[tokio::test]
async fn metadata_of_one_filter_is_what_another_judges_by() {
    let origin = Origin::fixed("in").await;
    let to_metadata = json!({"request_rules": [{"header": "x-tier", "remove": true,
        "on_header_present": {"metadata_namespace": "t", "key": "tier"}}]});
    let metadata = json!({"metadata": {"filter": "t", "path": [{"key": "tier"}],
        "value": {"string_match": {"exact": "gold"}}}});
    let state = json!({"filter_state": {"key": "who", "string_match": {"exact": "alice"}}});
    let policy = json!({"permissions": [{"any": true}],
        "principals": [{"and_ids": {"ids": [metadata, state]}}]});
    let set = json!({"on_request_headers": [{"object_key": "who", "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": "%REQ(x-who)%"}}}]});
    let filters = [
        filter("h2m", "header_to_metadata.v3.Config", &to_metadata),
        filter("sfs", "set_filter_state.v3.Config", &set),
        filter(
            "rbac",
            "rbac.v3.RBAC",
            &json!({"rules": {"policies": {"gold": policy}}}),
        ),
    ];
    let app = TestApp::bootstrap(&front(&filters, &[to_app()], &origin)).await;
    let web = app.listener("web");
    let alice = ("x-who", "alice");
    assert_eq!(
        ask(web, "GET", "/", &[("x-tier", "gold"), alice])
            .await
            .status,
        200
    );
    assert_eq!(origin.requests()[0].count("x-tier"), 0);
    assert_eq!(
        ask(web, "GET", "/", &[("x-tier", "tin"), alice])
            .await
            .status,
        403
    );
    assert_eq!(
        ask(web, "GET", "/", &[("x-tier", "gold")]).await.status,
        403
    );
}

#[tokio::test]
async fn a_tree_of_matchers_decides_by_the_request() {
    let origin = Origin::fixed("in").await;
    let xds = |name: &str, mut config: Value, message: &str| {
        config["@type"] = json!(format!("type.googleapis.com/{message}"));
        json!({"name": name, "typed_config": config})
    };
    let action = |name: &str, action: &str| {
        let config = json!({"name": name, "action": action});
        json!({"action": xds("a", config, "envoy.config.rbac.v3.Action")})
    };
    let header = xds(
        "h",
        json!({"header_name": ":path"}),
        "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
    );
    let single = json!({"input": header, "value_match": {"prefix": "/pub"}});
    let tree = json!({
        "matcher_list": {"matchers": [{
            "predicate": {"single_predicate": single}, "on_match": action("public", "ALLOW"),
        }]},
        "on_no_match": action("rest", "DENY"),
    });
    let rules = json!({"matcher": tree, "track_per_rule_stats": true});
    let filters = [filter("rbac", "rbac.v3.RBAC", &rules)];
    let app = TestApp::bootstrap(&front(&filters, &[to_app()], &origin)).await;
    let web = app.listener("web");
    assert_eq!(ask(web, "GET", "/pub/a", &[]).await.status, 200);
    assert_eq!(ask(web, "GET", "/priv", &[]).await.status, 403);
    assert_eq!(counted(&app, "rbac.policy.rest.denied"), 1);
}

#[tokio::test]
async fn bodies_pass_a_limited_bandwidth_whole() {
    let origin = Origin::echo().await;
    let limit =
        json!({"stat_prefix": "b", "enable_mode": "REQUEST_AND_RESPONSE", "limit_kbps": 64});
    let name = "envoy.filters.http.bandwidth_limit";
    let filters = [filter(name, "bandwidth_limit.v3.BandwidthLimit", &limit)];
    let app = TestApp::bootstrap(&front(&filters, &[to_app()], &origin)).await;
    let text = "0123456789".repeat(1000);
    let request = request("POST", "app.test", "/")
        .body(full(text.clone()))
        .unwrap();
    let mut client = Http1::connect(app.listener("web")).await;
    let reply = client.send_body(request).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains(&text));
}

#[tokio::test]
async fn an_upgrade_and_a_query_cannot_hide_from_the_rules() {
    let origin = Origin::fixed("in").await;
    let header = json!({"header": {"name": "upgrade", "string_match": {"exact": "websocket"}}});
    let policy = json!({"permissions": [header], "principals": [{"any": true}]});
    let no_tunnels = json!({"rules": {"action": "DENY", "policies": {"no tunnels": policy}}});
    let action = |action: &str| {
        let config = json!({"@type": "type.googleapis.com/envoy.config.rbac.v3.Action",
            "name": action, "action": action});
        json!({"action": {"name": "action", "typed_config": config}})
    };
    let input = json!({"name": "q", "typed_config": {
        "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestQueryParamMatchInput",
        "query_param": "role"}});
    let no_admins = json!({"matcher": {
        "matcher_list": {"matchers": [{
            "predicate": {"single_predicate": {"input": input, "value_match": {"exact": "admin"}}},
            "on_match": action("DENY"),
        }]},
        "on_no_match": action("ALLOW"),
    }});
    let filters = [
        filter("tunnels", "rbac.v3.RBAC", &no_tunnels),
        filter("admins", "rbac.v3.RBAC", &no_admins),
    ];
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "a",
        "upgrade_configs": [{"upgrade_type": "websocket"}]}});
    let app = TestApp::bootstrap(&front(&filters, &[route], &origin)).await;
    let web = app.listener("web");
    for (path, status) in [
        ("/", 200),
        ("/?role=guest", 200),
        ("/?role=admin", 403),
        ("/?role=%61dmin", 403),
        ("/?x=1&ro%6ce=admin", 403),
    ] {
        assert_eq!(ask(web, "GET", path, &[]).await.status, status, "{path}");
    }
    let asking = [("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(ask(web, "GET", "/", &asking).await.status, 403);
}

#[tokio::test]
async fn a_refusal_of_head_has_no_body_over_http2() {
    let origin = Origin::fixed("in").await;
    let filters = [filter(
        "r",
        "rbac.v3.RBAC",
        &deny_admins(&json!({"exact": "admin"})),
    )];
    let app = TestApp::bootstrap(&front(&filters, &[to_app()], &origin)).await;
    let client = Http2::connect(app.listener("web")).await;
    let head = http::Request::head("http://app.test/").header("x-role", "admin");
    let reply = client.send(head.body(empty()).unwrap()).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (403, String::new()));
}
