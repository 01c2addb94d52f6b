//! Routes that a matcher tree leads to.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, http, listener};
use crate::support::client::{Http1, empty, request};

const EMPTY: &str = "type.googleapis.com/google.protobuf.Empty";

fn header(name: &str) -> Value {
    let url = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput";
    json!({ "name": "input", "typed_config": { "@type": url, "header_name": name } })
}

fn route(prefix: &str, answer: &str) -> Value {
    json!({
        "match": { "prefix": prefix },
        "direct_response": { "status": 200, "body": { "inline_string": answer } },
    })
}

fn action(mut message: Value, kind: &str) -> Value {
    let url = format!("type.googleapis.com/envoy.config.route.v3.{kind}");
    message["@type"] = json!(url);
    json!({ "action": { "name": "route", "typed_config": message } })
}

fn is(name: &str, value: &str) -> Value {
    json!({ "single_predicate": { "input": header(name), "value_match": { "exact": value } } })
}

fn manager(host: &Value) -> Value {
    http(&json!({ "route_config": { "name": "r", "virtual_hosts": [host] } }))
}

#[tokio::test]
async fn a_tree_of_headers_leads_to_routes_which_have_to_match_themselves() {
    let both = json!({ "and_matcher": { "predicate": [is("x-a", "1"), is("x-b", "2,3")] } });
    let inner = json!({ "matcher_list": { "matchers": [
        { "predicate": both, "on_match": action(route("/", "both"), "Route") },
        {
            "predicate": { "not_matcher": is("x-a", "1") },
            "on_match": action(
                json!({ "routes": [route("/app/one", "first"), route("/app", "second")] }),
                "RouteList",
            ),
        },
    ] } });
    let tree = json!({
        "matcher_tree": {
            "input": header(":path"),
            "prefix_match_map": { "map": {
                "/app": { "matcher": inner },
                "/": action(route("/a", "outer"), "Route"),
            } },
        },
    });
    let host = json!({ "name": "v", "domains": ["*"], "matcher": tree });
    let text = bootstrap(&[listener("web", &manager(&host))], &[]).to_string();
    let app = TestApp::bootstrap(&text).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let mut ask = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = request("GET", "h", path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = client.send_body(request.body(empty()).unwrap()).await;
        match reply.status.as_u16() {
            200 => reply.text(),
            status => status.to_string(),
        }
    };
    let three = [("x-a", "1"), ("x-b", "2"), ("x-b", "3")];
    assert_eq!(ask("/app/one", &three).await, "both");
    assert_eq!(ask("/app/one", &[]).await, "first");
    assert_eq!(ask("/app/two", &[]).await, "second");
    // The inner tree leads nowhere, so the shorter prefix counts.
    assert_eq!(ask("/app/two", &[("x-a", "1")]).await, "outer");
    assert_eq!(ask("/about", &[]).await, "outer");
    // The tree leads to a route that does not match.
    assert_eq!(ask("/other", &[]).await, "404");
}

#[tokio::test]
async fn a_tree_that_cannot_be_followed_is_refused() {
    let query = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestQueryParamMatchInput";
    let query = json!({ "name": "q", "typed_config": { "@type": query, "query_param": "q" } });
    let none = json!({ "action": { "name": "route", "typed_config": { "@type": EMPTY } } });
    let map = |input: &Value, then: &Value| json!({ "matcher_tree": { "input": input, "exact_match_map": { "map": { "k": then } } } });
    let ok = action(route("/", "x"), "Route");
    let cases = [
        (
            map(&query, &ok),
            json!([]),
            "input: is not known in this place",
        ),
        (
            map(&header("x"), &none),
            json!([]),
            "action.typed_config: extension type",
        ),
        (
            map(&header("x"), &ok),
            json!([route("/", "y")]),
            "matcher: is given together with routes",
        ),
    ];
    for (tree, routes, reason) in cases {
        let host = json!({ "name": "v", "domains": ["*"], "matcher": tree, "routes": routes });
        let text = bootstrap(&[listener("web", &manager(&host))], &[]).to_string();
        let error = TestApp::try_bootstrap(&text).await.err().expect("refused");
        let error = format!("{error:#}");
        assert!(error.contains(reason), "{error}");
    }
}
