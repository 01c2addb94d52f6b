use serde_json::{Value, json};

use super::*;
use crate::resource::matcher::StringPattern;
use crate::text;

const INPUTS: &str = "type.googleapis.com/envoy.extensions.matching.common_inputs";

/// A tree whose actions are told by their types; `ServerName` is no input here.
fn decode(mut matcher: Value) -> Result<Tree<String>, String> {
    matcher["@type"] = json!("type.googleapis.com/xds.type.matcher.v3.Matcher");
    let any = text::any_from_value(&matcher).expect("a message");
    let message: proto::Matcher = unpack(&any).expect("a matcher");
    let allowed = |input: &Input| *input != Input::ServerName;
    Tree::decode(message, allowed, |any| {
        Ok(message_name(&any.type_url).to_owned())
    })
    .map_err(|e| e.to_string())
}

fn extension(type_url: &str, fields: Value) -> Value {
    let mut config = fields;
    config["@type"] = json!(type_url);
    json!({ "name": "x", "typed_config": config })
}

fn input(name: &str) -> Value {
    extension(&format!("{INPUTS}.{name}"), json!({}))
}

fn header(name: &str) -> Value {
    let url = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput";
    extension(url, json!({ "header_name": name }))
}

fn action() -> Value {
    json!({ "action": extension("type.googleapis.com/google.protobuf.Empty", json!({})) })
}

fn list(predicate: &Value) -> Value {
    json!({ "matcher_list": { "matchers": [{ "predicate": predicate, "on_match": action() }] } })
}

fn single(input: &Value, text: &str) -> Value {
    json!({ "single_predicate": { "input": input, "value_match": { "exact": text } } })
}

#[test]
fn every_input_of_a_connection_and_of_a_request_is_read() {
    let query = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestQueryParamMatchInput";
    let cases = [
        (header("X-A"), Input::RequestHeader("x-a".into())),
        (
            extension(query, json!({ "query_param": "q" })),
            Input::QueryParameter("q".into()),
        ),
        (input("network.v3.SourceIPInput"), Input::SourceIp),
        (input("network.v3.SourcePortInput"), Input::SourcePort),
        (
            input("network.v3.DirectSourceIPInput"),
            Input::DirectSourceIp,
        ),
        (input("network.v3.DestinationIPInput"), Input::DestinationIp),
        (
            input("network.v3.DestinationPortInput"),
            Input::DestinationPort,
        ),
        (
            input("network.v3.TransportProtocolInput"),
            Input::TransportProtocol,
        ),
        (
            input("network.v3.ApplicationProtocolInput"),
            Input::ApplicationProtocol,
        ),
        (input("ssl.v3.UriSanInput"), Input::UriSan),
        (input("ssl.v3.DnsSanInput"), Input::DnsSan),
        (input("ssl.v3.SubjectInput"), Input::Subject),
    ];
    for (message, expected) in cases {
        let tree = decode(list(&single(&message, "v"))).unwrap();
        let Kind::List(list) = tree.kind else {
            panic!("a list")
        };
        let Predicate::Single(input, Test::String(test)) = &list[0].0 else {
            panic!("a single predicate")
        };
        assert_eq!(*input, expected);
        assert_eq!(test.pattern, StringPattern::Exact("v".into()));
    }
}

#[test]
fn trees_lead_to_trees_and_their_actions_are_told_in_order() {
    let inner = list(&json!({ "not_matcher": single(&header("a"), "1") }));
    let tree = decode(json!({
        "matcher_tree": {
            "input": header(":path"),
            "prefix_match_map": { "map": {
                "/a": { "matcher": inner, "keep_matching": true },
                "/": action(),
            } },
        },
        "on_no_match": action(),
    }))
    .unwrap();
    assert_eq!(tree.actions().len(), 3);
    let Kind::Prefix(_, map) = &tree.kind else {
        panic!("a map")
    };
    assert!(map["/a"].keep_matching && !map["/"].keep_matching);
    assert!(matches!(&map["/a"].then, Then::Tree(_)));
    assert_eq!(decode(json!({})).unwrap().kind, Kind::Nothing);
}

#[test]
fn networks_are_a_matcher_of_their_own() {
    let ip = "type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip";
    let ranges = json!([{ "address_prefix": "10.0.0.0", "prefix_len": 8 }]);
    let fields = json!({ "stat_prefix": "s", "cidr_ranges": ranges });
    let tree = decode(list(&json!({ "single_predicate": {
        "input": input("network.v3.SourceIPInput"),
        "custom_match": extension(ip, fields),
    } })));
    let Kind::List(list) = tree.unwrap().kind else {
        panic!("a list")
    };
    let networks = vec!["10.0.0.0/8".parse().unwrap()];
    assert_eq!(
        list[0].0,
        Predicate::Single(Input::SourceIp, Test::Networks(networks))
    );
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let at = "matcher_list.matchers[0].predicate";
    let cases = [
        (
            json!({ "matcher_list": {} }),
            "matcher_list.matchers: must not be empty".to_owned(),
        ),
        (
            list(&single(&input("network.v3.ServerNameInput"), "v")),
            format!("{at}.single_predicate.input: is not known in this place"),
        ),
        (
            list(&single(
                &extension("type.googleapis.com/google.protobuf.Empty", json!({})),
                "v",
            )),
            format!(
                "{at}.single_predicate.input.typed_config: extension type \
                 \"type.googleapis.com/google.protobuf.Empty\" is not supported"
            ),
        ),
        (
            list(&json!({ "or_matcher": { "predicate": [single(&header("a"), "b")] } })),
            format!("{at}.or_matcher.predicate: must have two or more"),
        ),
        (
            list(&json!({ "single_predicate": { "input": header("a") } })),
            format!("{at}.single_predicate.matcher: must be given"),
        ),
        (
            json!({ "matcher_tree": { "input": header("a"), "exact_match_map": {} } }),
            "matcher_tree.exact_match_map.map: must not be empty".to_owned(),
        ),
        (
            json!({ "on_no_match": {} }),
            "on_no_match.on_match: must be given".to_owned(),
        ),
    ];
    for (matcher, reason) in cases {
        assert_eq!(decode(matcher).unwrap_err(), reason);
    }
}
