//! Filters that are chosen by matchers, answers that are replaced, and what one filter notes for the
//! next.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::policies::{counted, filter, front};
use crate::support::app::TestApp;
use crate::support::client::{Http1, Http2, Reply, empty, full, request};
use crate::support::origin::{Conn, Origin};

const TYPES: &str = "type.googleapis.com/envoy";

async fn ask(at: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut request = request("GET", "app.test", path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(empty()).unwrap();
    Http1::connect(at).await.send_body(request).await
}

fn to_app() -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}})
}

/// What is done where a header is exactly this.
fn where_it_is(value: &str, action: &Value) -> Value {
    let input = json!({"name": "i", "typed_config": {
        "@type": format!("{TYPES}.type.matcher.v3.HttpRequestHeaderMatchInput"),
        "header_name": "x-which"}});
    let single = json!({"single_predicate": {"input": input, "value_match": {"exact": value}}});
    let then = json!({"predicate": single, "on_match": {"action": action}});
    json!({"matcher_list": {"matchers": [then]}})
}

fn chosen(inner: &Value, tree: &Value) -> Value {
    json!({"name": "chosen", "typed_config": {
        "@type": format!("{TYPES}.extensions.common.matching.v3.ExtensionWithMatcher"),
        "extension_config": inner, "xds_matcher": tree}})
}

fn aborting(status: u16) -> Value {
    let percentage = json!({"numerator": 100});
    let abort = json!({"abort": {"http_status": status, "percentage": percentage}});
    filter("fault", "fault.v3.HTTPFault", &abort)
}

#[tokio::test]
async fn a_filter_acts_only_on_those_that_matchers_leave_it() {
    let origin = Origin::fixed("in").await;
    let skip = json!({"name": "skip", "typed_config": {
        "@type": format!("{TYPES}.extensions.filters.common.matcher.action.v3.SkipFilter")}});
    let execute = json!({"name": "execute", "typed_config": {
        "@type": format!("{TYPES}.extensions.filters.http.composite.v3.ExecuteFilterAction"),
        "typed_config": aborting(418)}});
    let composite = filter("composite", "composite.v3.Composite", &json!({}));
    let filters = [
        chosen(&aborting(500), &where_it_is("fine", &skip)),
        chosen(&composite, &where_it_is("fine", &execute)),
    ];
    let app = TestApp::bootstrap(&front(&filters, &[to_app()], &origin)).await;
    let web = app.listener("web");
    assert_eq!(ask(web, "/", &[]).await.status, 500);
    assert_eq!(ask(web, "/", &[("x-which", "other")]).await.status, 500);
    assert_eq!(ask(web, "/", &[("x-which", "fine")]).await.status, 418);
    // A second value is no way around.
    let both = [("x-which", "fine"), ("x-which", "other")];
    assert_eq!(ask(web, "/", &both).await.status, 500);
    assert!(origin.requests().is_empty());
    let only = [chosen(&aborting(500), &where_it_is("fine", &skip))];
    let app = TestApp::bootstrap(&front(&only, &[to_app()], &origin)).await;
    let fine = ask(app.listener("web"), "/", &[("x-which", "fine")]).await;
    assert_eq!(fine.text(), "in");
}

#[tokio::test]
async fn what_must_not_be_seen_is_replaced() {
    let origin = Origin::http(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            match &*head.target {
                "/bad" => {
                    conn.reply(503, &[("x-trace", "secret")], "a stack trace")
                        .await
                }
                _ => conn.reply(200, &[], "in").await,
            }
        }
    })
    .await;
    let input = json!({"name": "i", "typed_config": {
        "@type": format!("{TYPES}.type.matcher.v3.HttpResponseStatusCodeClassMatchInput")}});
    let single = json!({"single_predicate": {"input": input, "value_match": {"exact": "5xx"}}});
    let policy = json!({"name": "p", "typed_config": {
        "@type": format!("{TYPES}.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy"),
        "body": {"inline_string": "later"}, "status_code": 499}});
    let tree = json!({"matcher_list": {"matchers": [
        {"predicate": single, "on_match": {"action": policy}}]}});
    let custom = filter(
        "custom",
        "custom_response.v3.CustomResponse",
        &json!({"custom_response_matcher": tree}),
    );
    let app = TestApp::bootstrap(&front(&[custom], &[to_app()], &origin)).await;
    let web = app.listener("web");
    assert_eq!(ask(web, "/", &[]).await.text(), "in");
    let bad = ask(web, "/bad", &[]).await;
    assert_eq!((bad.status.as_u16(), bad.text().as_str()), (499, "later"));
    assert_eq!(bad.header("content-length"), "5");
    assert!(!bad.headers.contains_key("x-trace"));
}

/// Puts another answer in the place of those with this status.
fn elsewhere(status: &str, fields: &Value) -> Value {
    let input = json!({"name": "i", "typed_config": {
        "@type": format!("{TYPES}.type.matcher.v3.HttpResponseStatusCodeMatchInput")}});
    let single = json!({"single_predicate": {"input": input, "value_match": {"exact": status}}});
    let mut policy = fields.clone();
    policy["@type"] = json!(format!(
        "{TYPES}.extensions.http.custom_response.redirect_policy.v3.RedirectPolicy"
    ));
    let policy = json!({"name": "p", "typed_config": policy});
    let tree = json!({"matcher_list": {"matchers": [
        {"predicate": single, "on_match": {"action": policy}}]}});
    filter(
        "custom",
        "custom_response.v3.CustomResponse",
        &json!({"custom_response_matcher": tree}),
    )
}

fn extra(key: &str, value: &str) -> Value {
    json!([{"header": {"key": key, "value": value}}])
}

#[tokio::test]
async fn the_body_of_another_place_is_asked_for() {
    let origin = Origin::http(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            conn.content(&head).await;
            match &*head.target {
                "/sorry?why=1" => conn.reply(200, &[("x-of", "pages")], "sorry").await,
                _ => conn.reply(503, &[("x-of", "app")], "a trace").await,
            }
        }
    })
    .await;
    let policy = json!({
        "uri": "http://pages.test/sorry?why=1",
        "request_headers_to_add": extra("x-for", "%RESPONSE_CODE%"),
        "response_headers_to_add": extra("x-custom", "1"),
    });
    let custom = elsewhere("503", &policy);
    let app = TestApp::bootstrap(&front(&[custom], &[to_app()], &origin)).await;
    let web = app.listener("web");
    let body = request("POST", "app.test", "/orders").body(full("x=1"));
    let told = Http1::connect(web).await.send_body(body.unwrap()).await;
    assert_eq!((told.status.as_u16(), told.text().as_str()), (503, "sorry"));
    assert_eq!(
        (told.header("x-of"), told.header("x-custom")),
        ("pages", "1")
    );
    let seen = origin.requests();
    let [first, second] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!((&*first.method, first.header("host")), ("POST", "app.test"));
    assert_eq!(
        (&*second.method, second.header("host")),
        ("GET", "pages.test")
    );
    assert_eq!(
        (second.target.as_str(), second.header("x-for")),
        ("/sorry?why=1", "503")
    );
    assert_eq!(second.count("content-length"), 0);
    // The connection is as good as before, and HTTP/2 does the same.
    let two = request("GET", "app.test", "http://app.test/").body(empty());
    let told = Http2::connect(web).await.send(two.unwrap()).await;
    assert_eq!((told.status.as_u16(), told.text().as_str()), (503, "sorry"));
}

#[tokio::test]
async fn another_place_is_asked_once_and_only_over_a_route() {
    let origin = Origin::http(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.reply(503, &[], "a trace").await;
        }
    })
    .await;
    // What is answered there is an error as well, so that it stays one.
    let policy = json!({"redirect_action": {"path_redirect": "/sorry"}, "status_code": 299,
        "response_headers_to_add": extra("x-custom", "1")});
    let filters = [elsewhere("503", &policy)];
    let app = TestApp::bootstrap(&front(&filters, &[to_app()], &origin)).await;
    let told = ask(app.listener("web"), "/", &[]).await;
    assert_eq!(
        (told.status.as_u16(), told.text().as_str()),
        (503, "a trace")
    );
    assert!(!told.headers.contains_key("x-custom"));
    let targets: Vec<_> = origin
        .requests()
        .into_iter()
        .map(|head| head.target)
        .collect();
    assert_eq!(targets, ["/", "/sorry"]);
    // Without a route the answer stays as it was.
    origin.forget();
    let only = json!({"match": {"path": "/"}, "route": {"cluster": "a"}});
    let app = TestApp::bootstrap(&front(&filters, &[only], &origin)).await;
    let told = ask(app.listener("web"), "/", &[]).await;
    assert_eq!(
        (told.status.as_u16(), told.text().as_str()),
        (503, "a trace")
    );
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(counted(&app, "custom_response_redirect_no_route"), 1);
    // An answer of our own, which another place may take over: a direct response here.
    let page = json!({"match": {"path": "/sorry"},
        "direct_response": {"status": 200, "body": {"inline_string": "page"}}});
    let policy = json!({"redirect_action": {"path_redirect": "/sorry"}, "status_code": 503});
    let filters = [elsewhere("404", &policy)];
    let app = TestApp::bootstrap(&front(&filters, &[page], &origin)).await;
    let told = ask(app.listener("web"), "/none", &[]).await;
    assert_eq!((told.status.as_u16(), told.text().as_str()), (503, "page"));
}

#[tokio::test]
async fn what_is_always_noted_can_be_judged_by() {
    let origin = Origin::fixed("in").await;
    let rbac = |tier: &str| {
        let metadata = json!({"metadata": {"filter": "t", "path": [{"key": "tier"}],
            "value": {"string_match": {"exact": tier}}}});
        let policy = json!({"permissions": [{"any": true}], "principals": [metadata]});
        filter(
            "rbac",
            "rbac.v3.RBAC",
            &json!({"rules": {"policies": {"p": policy}}}),
        )
    };
    let note = json!({"metadata": [{"metadata_namespace": "t", "value": {"tier": "gold"}}]});
    let set = filter("set", "set_metadata.v3.Config", &note);
    for (tier, status) in [("gold", 200), ("tin", 403)] {
        let text = front(&[set.clone(), rbac(tier)], &[to_app()], &origin);
        let app = TestApp::bootstrap(&text).await;
        assert_eq!(
            ask(app.listener("web"), "/", &[]).await.status,
            status,
            "{tier}"
        );
    }
}

#[tokio::test]
async fn headers_go_before_anything_looks_at_them() {
    let origin = Origin::echo().await;
    let mut manager: Value =
        serde_json::from_str(&front(&[], &[to_app()], &origin)).expect("a bootstrap");
    let early = json!([{"name": "early", "typed_config": {
    "@type": format!("{TYPES}.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"),
    "mutations": [
        {"remove_on_match": {"key_matcher": {"prefix": "x-internal-"}}},
        {"append": {"header": {"key": "x-internal-own", "value": "1"}}},
    ]}}]);
    let at = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    manager.pointer_mut(at).expect("a manager")["early_header_mutation_extensions"] = early;
    let app = TestApp::bootstrap(&manager.to_string()).await;
    let sent = [
        ("x-internal-role", "admin"),
        ("X-Internal-Own", "2"),
        ("x-own", "3"),
    ];
    ask(app.listener("web"), "/", &sent).await;
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.count("x-internal-role"), 0);
    assert_eq!(
        (seen.count("x-internal-own"), seen.header("x-internal-own")),
        (1, "1")
    );
    assert_eq!(seen.header("x-own"), "3");
}

#[tokio::test]
async fn a_client_has_to_say_who_it_is_where_that_is_wanted() {
    let origin = Origin::echo().await;
    let mut manager: Value =
        serde_json::from_str(&front(&[], &[to_app()], &origin)).expect("a bootstrap");
    let detection = json!([{"name": "header", "typed_config": {
        "@type": format!("{TYPES}.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig"),
        "header_name": "x-client", "reject_with_status": {"code": "Unauthorized"}}}]);
    let at = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let config = manager.pointer_mut(at).expect("a manager");
    config["original_ip_detection_extensions"] = detection;
    let app = TestApp::bootstrap(&manager.to_string()).await;
    let web = app.listener("web");
    assert_eq!(
        ask(web, "/", &[("x-client", "192.0.2.7")]).await.status,
        200
    );
    assert_eq!(ask(web, "/", &[("x-client", "me")]).await.status, 401);
    assert_eq!(ask(web, "/", &[]).await.status, 401);
    assert_eq!(origin.requests().len(), 1);
}
