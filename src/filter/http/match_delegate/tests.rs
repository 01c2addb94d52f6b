use std::net::Ipv4Addr;

use causeway_xds::text;
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::filter::Chain;
use crate::filter::registry::{Link, LinkConfig, Registry};
use crate::filter::testing::{Nowhere, TestBody, answer, pass, request};
use crate::route::{Filters as _, PerRoute};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn extension(config: &Value) -> TypedExtension {
    let any = text::any_from_value(config).expect("a message");
    TypedExtension::from_any("f", any)
}

fn header(name: &str) -> Value {
    json!({"name": "i", "typed_config": {
        "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
        "header_name": name}})
}

fn skip() -> Value {
    json!({"name": "skip", "typed_config": {"@type": format!("type.googleapis.com/{SKIP}")}})
}

/// A filter that leaves a mark in both directions.
fn marks(mark: &str) -> Value {
    let set = json!([{"append": {"header": {"key": "x-mark", "value": mark}}}]);
    json!({"name": "m", "typed_config": {
        "@type": format!("{FILTERS}.header_mutation.v3.HeaderMutation"),
        "mutations": {"request_mutations": set, "response_mutations": set}}})
}

fn execute(filter: &Value, more: &Value) -> Value {
    let mut config = json!({"@type": format!("type.googleapis.com/{EXECUTE}"),
        "typed_config": filter});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": "e", "typed_config": config})
}

/// What a header is exactly, and what follows.
fn tree(name: &str, cases: &[(&str, Value)]) -> Value {
    let list = cases.iter().map(|(value, action)| {
        json!({"predicate": {"single_predicate": {"input": header(name),
            "value_match": {"exact": value}}}, "on_match": {"action": action}})
    });
    json!({"matcher_list": {"matchers": list.collect::<Vec<_>>()}})
}

fn around(filter: &Value, tree: &Value) -> Value {
    json!({"@type": format!("type.googleapis.com/{}", FACTORY.message),
        "extension_config": filter, "xds_matcher": tree})
}

fn of_composite() -> Value {
    json!({"name": "c", "typed_config": {
        "@type": format!("type.googleapis.com/{}", composite::FACTORY.message)}})
}

fn chain(config: &Value) -> Result<Chain, String> {
    let config = extension(config);
    let link = Link {
        name: "f",
        disabled: false,
        config: LinkConfig::Configured(&config),
    };
    let chain = Registry::default().chain("test", [link].into_iter());
    chain.map_err(|e| e.to_string())
}

fn of_route(config: &Value) -> PerRoute {
    Registry::default().per_route(
        &mut [("f".to_owned(), extension(config))]
            .iter()
            .map(crate::route::Word::from),
    )
}

/// The marks that are left on a request and on its answer.
async fn marked(chain: &Chain, route: &PerRoute, headers: &[(&str, &str)]) -> (String, String) {
    let around = Nowhere::default();
    let (mut parts, mut body) = (request("/", headers), TestBody::default());
    let client = Ipv4Addr::LOCALHOST.into();
    let flow = pass(chain, &mut parts, &mut body, route, client, &around).await;
    assert!(matches!(flow, Flow::Continue), "{flow:?}");
    // The response is led by what the request has been, and not by what it has become.
    parts.headers.remove("x-which");
    let mut response = HeaderMap::new();
    answer(chain, StatusCode::OK, &mut response, route, &around);
    let mark = |headers: &HeaderMap| {
        let mark = headers.get("x-mark").map(HeaderValue::as_bytes);
        String::from_utf8(mark.unwrap_or_default().to_vec()).unwrap()
    };
    (mark(&parts.headers), mark(&response))
}

fn both(mark: &str) -> (String, String) {
    (mark.to_owned(), mark.to_owned())
}

#[tokio::test]
async fn a_filter_is_left_out_in_both_directions() {
    let chain = chain(&around(&marks("1"), &tree("x-which", &[("none", skip())]))).unwrap();
    let none = PerRoute::default();
    assert_eq!(marked(&chain, &none, &[]).await, both("1"));
    let skipped = [("x-which", "none")];
    assert_eq!(marked(&chain, &none, &skipped).await, both(""));
    // All values count, so that none hides behind another.
    let twice = [("x-which", "none"), ("x-which", "other")];
    assert_eq!(marked(&chain, &none, &twice).await, both("1"));
    let route = of_route(&json!({
        "@type": format!("type.googleapis.com/{}", FACTORY.per_route[0].0),
        "xds_matcher": tree("x-which", &[("other", skip())])}));
    assert_eq!(marked(&chain, &route, &skipped).await, both("1"));
    let other = [("x-which", "other")];
    assert_eq!(marked(&chain, &route, &other).await, both(""));
}

#[tokio::test]
async fn a_name_that_nobody_has_shown_passes_no_test() {
    let input = json!({"name": "i", "typed_config": {"@type":
        "type.googleapis.com/envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"}});
    let ours = json!({"single_predicate": {"input": input,
        "value_match": {"prefix": "spiffe://ours"}}});
    let led = |predicate: Value| {
        let list = json!([{"predicate": predicate, "on_match": {"action": skip()}}]);
        let tree = json!({"matcher_list": {"matchers": list}});
        chain(&around(&marks("1"), &tree)).unwrap()
    };
    let none = PerRoute::default();
    assert_eq!(marked(&led(ours.clone()), &none, &[]).await, both("1"));
    let not = json!({"not_matcher": ours});
    assert_eq!(marked(&led(not), &none, &[]).await, both(""));
}

#[tokio::test]
async fn a_composite_is_what_its_tree_says() {
    let no_request = json!({"sample_percent": {"default_value": {"numerator": 0}}});
    let cases = [
        ("a", execute(&marks("a"), &json!({}))),
        ("b", execute(&marks("b"), &json!({}))),
        ("never", execute(&marks("c"), &no_request)),
        ("skip", skip()),
    ];
    let mut alone = of_composite()["typed_config"].clone();
    alone["matcher"] = tree("x-which", &cases);
    let none = PerRoute::default();
    for config in [around(&of_composite(), &tree("x-which", &cases)), alone] {
        let chain = chain(&config).unwrap();
        for (which, mark) in [
            ("a", "a"),
            ("b", "b"),
            ("never", ""),
            ("skip", ""),
            ("x", ""),
        ] {
            let headers = [("x-which", which)];
            assert_eq!(marked(&chain, &none, &headers).await, both(mark), "{which}");
        }
    }
    let chain = chain(&of_composite()["typed_config"]).unwrap();
    let route = of_route(&json!({
        "@type": format!("type.googleapis.com/{}", composite::FACTORY.per_route[0].0),
        "matcher": tree("x-which", &[("a", execute(&marks("r"), &json!({})))])}));
    let headers = [("x-which", "a")];
    assert_eq!(marked(&chain, &none, &headers).await, both(""));
    assert_eq!(marked(&chain, &route, &headers).await, both("r"));
}

#[tokio::test]
async fn an_answer_that_comes_before_the_choice_passes_the_filter() {
    let chain = chain(&around(&marks("1"), &tree("x-which", &[("none", skip())]))).unwrap();
    let mut headers = HeaderMap::new();
    let (route, around) = (PerRoute::default(), Nowhere::default());
    answer(&chain, StatusCode::FORBIDDEN, &mut headers, &route, &around);
    assert_eq!(headers["x-mark"], "1");
}

#[test]
fn what_cannot_be_chosen_is_refused_by_its_path() {
    let refused = |config: &Value| chain(config).unwrap_err();
    let fine = tree("x-which", &[("a", skip())]);
    let wasm = json!({"name": "w", "typed_config": {
        "@type": format!("{FILTERS}.wasm.v3.Wasm")}});
    assert_eq!(
        refused(&around(&wasm, &fine)),
        "extension_config.typed_config: \
         HTTP filter \"envoy.extensions.filters.http.wasm.v3.Wasm\" is not supported"
    );
    let nested = json!({"name": "n", "typed_config": around(&marks("1"), &fine)});
    let error = refused(&around(&nested, &fine));
    assert!(
        error.starts_with("extension_config.typed_config: extension type"),
        "{error}"
    );
    let action = execute(&nested, &json!({}));
    let error = refused(&around(&of_composite(), &tree("x-which", &[("a", action)])));
    let at = "xds_matcher.matcher_list.matchers[0].on_match.action.typed_config";
    assert!(
        error.starts_with(&format!("{at}.typed_config.typed_config")),
        "{error}"
    );
    let chains = execute(&marks("1"), &json!({"filter_chain_name": "x"}));
    let error = refused(&around(&of_composite(), &tree("x-which", &[("a", chains)])));
    assert_eq!(error, format!("{at}.filter_chain_name: not supported yet"));
    let response = json!({"name": "i", "typed_config": {"@type":
        "type.googleapis.com/envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput"}});
    let mut late = fine.clone();
    late["matcher_list"]["matchers"][0]["predicate"]["single_predicate"]["input"] = response;
    let error = refused(&around(&marks("1"), &late));
    assert!(
        error.ends_with("input: is not known in this place"),
        "{error}"
    );
    let inner = json!({"name": "x", "typed_config": {
        "@type": format!("{FILTERS}.set_metadata.v3.Config"), "metadata": [{}]}});
    let error = refused(&around(&inner, &fine));
    assert!(
        error.starts_with("extension_config.typed_config.metadata[0]"),
        "{error}"
    );
}

#[test]
fn the_secrets_of_what_may_be_chosen_are_fetched() {
    let injector = |secret: &str| {
        json!({"name": "x", "typed_config": {
            "@type": format!("{FILTERS}.credential_injector.v3.CredentialInjector"),
            "credential": {"name": "g", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
                "credential": {"name": secret}}}}})
    };
    let named = |config: &Value| -> Vec<String> {
        let secrets = crate::filter::secrets::named_by(&extension(config));
        secrets.into_iter().map(|secret| secret.name).collect()
    };
    let cases = [("a", execute(&injector("two"), &json!({})))];
    let config = around(&injector("one"), &tree("x-which", &cases));
    assert_eq!(named(&config), ["one", "two"]);
    let mut alone = of_composite()["typed_config"].clone();
    alone["matcher"] = tree("x-which", &cases);
    assert_eq!(named(&alone), ["two"]);
}
