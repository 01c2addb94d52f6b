//! Redirects of origins that the proxy follows in the place of the client.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, routes};
use crate::support::client::{Http1, Http2, full, request};
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{eventually, within};

/// Answers `/go/<status>` by sending to what the field `x-to` says, and everything else by what it
/// was.
async fn origin() -> Origin {
    Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if let Some(status) = head.target.strip_prefix("/go/") {
                let status = status.parse().unwrap();
                let to = [
                    ("location", head.header("x-to")),
                    ("x-token", "t"),
                    ("x-token", "u"),
                ];
                // Before the body is looked at.
                if head.header("x-early") == "yes" {
                    conn.reply(status, &to, "").await;
                    continue;
                }
                conn.content(&head).await;
                conn.reply(status, &to, "").await;
                continue;
            }
            let Some(content) = conn.content(&head).await else {
                return;
            };
            let answer = json!({
                "method": head.method, "target": head.target, "headers": head.headers,
                "body": String::from_utf8_lossy(&content.data),
            });
            conn.reply(200, &[], &answer.to_string()).await;
        }
    })
    .await
}

fn log() -> Value {
    let format =
        "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESP(x-token)%\n";
    json!({
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "log_format": {"text_format_source": {"inline_string": format}},
    })
}

/// `/go` with a policy, `/direct` that needs no origin, `/elsewhere` named so, and all the rest.
async fn app(policy: &Value, origin: &Origin, log_to: Option<&std::path::Path>) -> TestApp {
    let all = json!([
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 201}},
        {"match": {"prefix": "/go"}, "name": "go", "route": {"cluster": "a", "internal_redirect_policy": policy},
         "request_body_buffer_limit": 16},
        {"match": {"prefix": "/elsewhere"}, "name": "elsewhere", "route": {"cluster": "a"}},
        {"match": {"prefix": "/", "headers": [{"name": "x-strict", "present_match": true, "invert_match": true}]},
         "route": {"cluster": "a"}},
    ]);
    let mut more = json!({"route_config": routes(&all), "normalize_path": true});
    if let Some(path) = log_to {
        let mut config = log();
        config["path"] = json!(path);
        more["access_log"] = json!([{"name": "l", "typed_config": config}]);
    }
    let listener = listener("web", &http(&more));
    TestApp::bootstrap(&bootstrap(&[listener], &[cluster("a", origin.address)]).to_string()).await
}

fn counter(app: &TestApp, name: &str) -> u64 {
    use causeway::telemetry::stats::Value;
    let mut found = None;
    app.running.stats.visit(&mut |known, value| {
        if let (true, Value::Counter(counter)) = (known == name, value) {
            found = Some(counter.value());
        }
    });
    found.unwrap_or_else(|| panic!("no counter {name}"))
}

fn followed(app: &TestApp) -> [u64; 2] {
    ["succeeded", "failed"].map(|end| {
        counter(
            app,
            &format!("cluster.a.upstream_internal_redirect_{end}_total"),
        )
    })
}

fn field<'v>(echo: &'v Value, name: &str) -> Vec<&'v str> {
    let fields = echo["headers"].as_array().unwrap().iter();
    fields
        .filter(|field| field[0] == name)
        .map(|field| field[1].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn the_answer_of_where_a_redirect_leads_is_what_the_client_gets() {
    let origin = origin().await;
    let policy = json!({"response_headers_to_copy": ["x-token", "x-gone"]});
    let app = app(&policy, &origin, None).await;
    let at = app.listener("web");
    let asked = |builder: http::request::Builder| {
        builder
            .header("x-to", "http://other:81/a/../b?c=d#e")
            .header("x-gone", "1")
    };
    let mut client = Http1::connect(at).await;
    let get = asked(request("GET", "h", "/go/302"))
        .body(full(""))
        .unwrap();
    let reply = client.send_body(get).await;
    assert_eq!(reply.status, 200);
    let echo = reply.json();
    assert_eq!(
        (&echo["method"], &echo["target"]),
        (&json!("GET"), &json!("/b?c=d"))
    );
    assert_eq!(field(&echo, "host"), ["other:81"]);
    assert_eq!(field(&echo, "x-token"), ["t", "u"]);
    assert_eq!(field(&echo, "x-gone"), [""; 0]);
    assert_eq!(field(&echo, "x-envoy-original-url"), ["http://h/go/302"]);
    assert_eq!(followed(&app), [1, 0]);
    assert_eq!(counter(&app, "http.web.downstream_rq_total"), 2);
    assert_eq!(counter(&app, "http.web.downstream_rq_3xx"), 0);

    let client = Http2::connect(at).await;
    let get = asked(http::Request::get("http://h/go/302"))
        .body(full(""))
        .unwrap();
    let echo = client.send(get).await.json();
    assert_eq!(echo["target"], "/b?c=d");
    assert_eq!(followed(&app), [2, 0]);
}

#[tokio::test]
async fn a_body_goes_along_unless_the_client_should_see_something_else() {
    let origin = origin().await;
    let policy = json!({"redirect_response_codes": [302, 303, 307]});
    let app = app(&policy, &origin, None).await;
    let mut client = Http1::connect(app.listener("web")).await;
    for (status, method, body) in [
        (307, "PUT", "sixteen bytes it"),
        (302, "PUT", "b"),
        (303, "GET", ""),
    ] {
        let sent = if body.is_empty() { "gone" } else { body };
        let put = request("PUT", "h", &format!("/go/{status}"))
            .header("x-to", "http://o/x")
            .body(full(sent))
            .unwrap();
        let echo = client.send_body(put).await.json();
        let told = (echo["method"].as_str(), echo["body"].as_str());
        assert_eq!(told, (Some(method), Some(body)), "{status}");
    }
    // One byte more than is kept.
    let put = request("PUT", "h", "/go/307")
        .header("x-to", "http://o/x")
        .body(full("seventeen bytes !"))
        .unwrap();
    let reply = client.send_body(put).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("location")),
        (307, "http://o/x")
    );
    assert_eq!(followed(&app), [3, 1]);
    assert_eq!(counter(&app, "cluster.a.retry_or_shadow_abandoned"), 1);
}

#[tokio::test]
async fn a_redirect_before_the_request_has_ended_is_for_the_client() {
    let origin = origin().await;
    let app = app(&json!({}), &origin, None).await;
    let mut client = Raw::connect(app.listener("web")).await;
    client
        .send("POST /go/302 HTTP/1.1\r\nhost: h\r\nx-to: http://o/x\r\nx-early: yes\r\ncontent-length: 4\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (302, "http://o/x")
    );
    assert_eq!(followed(&app), [0, 1]);
}

#[tokio::test]
async fn what_may_not_be_followed_is_for_the_client() {
    let origin = origin().await;
    let policy = json!({"max_internal_redirects": 2});
    let app = app(&policy, &origin, None).await;
    let mut client = Http1::connect(app.listener("web")).await;
    for (to, strict, counted) in [
        ("/relative", "", "bad_location"),
        ("https://o/x", "", "unsafe_scheme"),
        ("http://o/go/302", "", "too_many_redirects"),
        ("http://o/x", "yes", "no_route"),
    ] {
        let mut get = request("GET", "h", "/go/302").header("x-to", to);
        if !strict.is_empty() {
            get = get.header("x-strict", strict);
        }
        let reply = client.send_body(get.body(full("")).unwrap()).await;
        assert_eq!((reply.status.as_u16(), reply.header("location")), (302, to));
        let name = format!("http.web.passthrough_internal_redirect_{counted}");
        assert_eq!(counter(&app, &name), 1, "{to}");
    }
    // Two of them on the way to the one that was too many.
    assert_eq!(followed(&app), [2, 4]);
    // Not one of the codes.
    let get = request("GET", "h", "/go/301").header("x-to", "http://o/x");
    let reply = client.send_body(get.body(full("")).unwrap()).await;
    assert_eq!(reply.status, 301);
    assert_eq!(followed(&app), [2, 4]);
}

#[tokio::test]
async fn predicates_have_a_say_in_where_redirects_lead() {
    let kind = |name: &str, kind: &str, more: Value| {
        let mut config = json!({
            "@type": format!("type.googleapis.com/envoy.extensions.internal_redirect.{name}.v3.{kind}")
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        json!({"name": name, "typed_config": config})
    };
    let listed = json!({"allowed_route_names": ["elsewhere", "go"]});
    let policy = json!({
        "max_internal_redirects": 9,
        "allow_cross_scheme_redirect": true,
        "predicates": [
            kind("allow_listed_routes", "AllowListedRoutesConfig", listed),
            kind("previous_routes", "PreviousRoutesConfig", json!({})),
            kind("safe_cross_scheme", "SafeCrossSchemeConfig", json!({})),
        ],
    });
    let origin = origin().await;
    let app = app(&policy, &origin, None).await;
    let mut client = Http1::connect(app.listener("web")).await;
    for (to, status, ends) in [
        ("http://o/elsewhere", 200, [1, 0]),
        ("http://o/x", 302, [1, 1]),
        ("https://o/elsewhere", 302, [1, 2]),
        // The second time is once too often.
        ("http://o/go/302", 302, [2, 3]),
    ] {
        let get = request("GET", "h", "/go/302").header("x-to", to);
        let reply = client.send_body(get.body(full("")).unwrap()).await;
        assert_eq!(
            (reply.status.as_u16(), followed(&app)),
            (status, ends),
            "{to}"
        );
    }
    assert_eq!(
        counter(&app, "http.web.passthrough_internal_redirect_predicate"),
        3
    );
}

#[tokio::test]
async fn both_requests_are_logged_and_routes_without_an_origin_may_answer() {
    let origin = origin().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let app = app(&json!({}), &origin, Some(&path)).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let get = request("GET", "h", "/go/302").header("x-to", "http://o/direct");
    let reply = client.send_body(get.body(full("")).unwrap()).await;
    assert_eq!(reply.status, 201);
    let written = || std::fs::read_to_string(&path).unwrap_or_default();
    within(
        "the log",
        eventually("two lines", || written().lines().count() == 2),
    )
    .await;
    assert_eq!(
        written(),
        "GET /direct 302 internal_redirect t\nGET /direct 201 direct_response -\n"
    );
}
