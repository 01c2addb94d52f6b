use std::rc::Rc;

use causeway_xds::proto::envoy::config::rbac::v3 as proto;
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::unpack;
use causeway_xds::text;
use http::Request;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use serde_json::{Value, json};

use super::*;

fn decode(mut rules: Value, form: Form) -> Result<Policies, String> {
    rules["@type"] = json!("type.googleapis.com/envoy.config.rbac.v3.RBAC");
    let any = text::any_from_value(&rules).expect("a message");
    let message: proto::Rbac = unpack(&any).expect("rules");
    Policies::decode(message, form).map_err(|e| e.to_string())
}

fn policy(permissions: Value, principals: Value) -> Value {
    json!({ "permissions": permissions, "principals": principals })
}

/// Rules with one policy of one permission, for everybody.
fn permission(permission: Value) -> Policies {
    let any = json!([{ "any": true }]);
    decode(
        json!({ "policies": { "p": policy(json!([permission]), any) } }),
        Form::Requests,
    )
    .unwrap()
}

fn principal(principal: Value) -> Policies {
    let any = json!([{ "any": true }]);
    decode(
        json!({ "policies": { "p": policy(any, json!([principal])) } }),
        Form::Requests,
    )
    .unwrap()
}

fn request(method: &str, uri: &str, headers: &[(&str, &[u8])]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::from_bytes(value).unwrap(),
        );
    }
    request.into_parts().0
}

fn subject(request: &Parts) -> Subject<'_> {
    Subject {
        request: Some(request),
        local: Some("127.0.0.1:8443".parse().unwrap()),
        peer: Some("10.0.0.9".parse().unwrap()),
        peer_port: Some(40_000),
        client: Some("192.0.2.7".parse().unwrap()),
        tls: None,
        server_name: "app.test",
        metadata: &(),
    }
}

fn allows(rules: &Policies, request: &Parts) -> bool {
    rules.judge(&subject(request)).allowed
}

#[test]
fn an_action_says_what_follows_from_a_policy_in_force() {
    let rules = |action: &str| {
        let only = policy(
            json!([{ "header": { "name": "x", "present_match": true } }]),
            json!([{ "any": true }]),
        );
        let both = policy(
            json!([{ "header": { "name": "x", "string_match": { "exact": "b" } } }]),
            json!([{ "any": true }]),
        );
        let policies = json!({ "later": only, "earlier": both });
        decode(
            json!({ "action": action, "policies": policies }),
            Form::Requests,
        )
        .unwrap()
    };
    let judge = |rules: &Policies, value: &[u8]| {
        let with = request("GET", "/", &[("x", value)]);
        let verdict = rules.judge(&subject(&with));
        (
            verdict.allowed,
            verdict.policy.map(|(_, name)| name.to_owned()),
            verdict.hint,
        )
    };
    let none = request("GET", "/", &[]);
    let (allow, deny, log) = (rules("ALLOW"), rules("DENY"), rules("LOG"));
    assert_eq!(judge(&allow, b"a"), (true, Some("later".into()), None));
    assert_eq!(judge(&allow, b"b"), (true, Some("earlier".into()), None));
    assert!(!allows(&allow, &none) && allows(&deny, &none));
    assert_eq!(judge(&deny, b"a"), (false, Some("later".into()), None));
    assert_eq!(judge(&log, b"a"), (true, Some("later".into()), Some(true)));
    assert_eq!(log.judge(&subject(&none)).hint, Some(false));
    assert!(!allows(&decode(json!({}), Form::Requests).unwrap(), &none));
    assert_eq!(
        allow.judge(&subject(&none)).details(),
        "rbac_access_denied_matched_policy[none]"
    );
}

#[test]
fn what_a_request_asks_for_is_a_permission() {
    let get = request("GET", "/pub/x?q=/priv", &[("x-role", b"admin")]);
    for (asked, expected) in [
        (json!({ "any": true }), true),
        (
            json!({ "header": { "name": ":method", "string_match": { "exact": "GET" } } }),
            true,
        ),
        (
            json!({ "header": { "name": ":path", "string_match": { "suffix": "/priv" } } }),
            true,
        ),
        (
            json!({ "url_path": { "path": { "exact": "/pub/x" } } }),
            true,
        ),
        (
            json!({ "url_path": { "path": { "contains": "priv" } } }),
            false,
        ),
        (
            json!({ "destination_ip": { "address_prefix": "127.0.0.0", "prefix_len": 8 } }),
            true,
        ),
        (
            json!({ "destination_ip": { "address_prefix": "10.0.0.0", "prefix_len": 8 } }),
            false,
        ),
        (json!({ "destination_port": 8443 }), true),
        (json!({ "destination_port": 443 }), false),
        (
            json!({ "destination_port_range": { "start": 8000, "end": 8443 } }),
            false,
        ),
        (
            json!({ "destination_port_range": { "start": 8443, "end": 8444 } }),
            true,
        ),
        (
            json!({ "requested_server_name": { "suffix": ".test" } }),
            true,
        ),
        (json!({ "not_rule": { "any": true } }), false),
        (
            json!({ "and_rules": { "rules": [{ "any": true }, { "destination_port": 1 }] } }),
            false,
        ),
        (
            json!({ "or_rules": { "rules": [{ "any": true }, { "destination_port": 1 }] } }),
            true,
        ),
        (
            json!({ "uri_template": { "name": "t", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                "path_template": "/pub/{one}",
            } } }),
            true,
        ),
    ] {
        assert_eq!(
            allows(&permission(asked.clone()), &get),
            expected,
            "{asked}"
        );
    }
    let connect = request("CONNECT", "host:443", &[]);
    let any_path = json!({ "url_path": { "path": { "safe_regex": { "regex": ".*" } } } });
    assert!(!allows(&permission(any_path), &connect), "it has no path");
}

#[test]
fn who_asks_is_a_principal() {
    let get = request("GET", "/a", &[]);
    let range = |address: &str| json!({ "address_prefix": address, "prefix_len": 32 });
    for (who, expected) in [
        (json!({ "source_ip": range("10.0.0.9") }), true),
        (json!({ "direct_remote_ip": range("10.0.0.9") }), true),
        (json!({ "direct_remote_ip": range("192.0.2.7") }), false),
        (json!({ "remote_ip": range("192.0.2.7") }), true),
        (json!({ "remote_ip": range("10.0.0.9") }), false),
        (json!({ "url_path": { "path": { "exact": "/a" } } }), true),
        (json!({ "authenticated": {} }), false),
        (json!({ "not_id": { "authenticated": {} } }), true),
        (
            json!({ "filter_state": { "key": "k", "string_match": { "exact": "" } } }),
            false,
        ),
    ] {
        assert_eq!(allows(&principal(who.clone()), &get), expected, "{who}");
    }
    let nobody = Subject {
        peer: None,
        client: None,
        local: None,
        ..subject(&get)
    };
    let everywhere = json!({ "address_prefix": "0.0.0.0", "prefix_len": 0 });
    for of in ["source_ip", "remote_ip"] {
        let rules = principal(json!({ of: everywhere }));
        assert!(!rules.judge(&nobody).allowed, "no address is in no network");
    }
}

#[test]
fn several_values_and_odd_bytes_do_not_hide_a_value() {
    let deny = |matcher: Value| {
        let header = json!({ "header": { "name": "x-role", "string_match": matcher } });
        let policies = json!({ "p": policy(json!([header]), json!([{ "any": true }])) });
        decode(
            json!({ "action": "DENY", "policies": policies }),
            Form::Requests,
        )
        .unwrap()
    };
    let admin = [
        deny(json!({ "exact": "admin" })),
        deny(json!({ "prefix": "admin" })),
        deny(json!({ "safe_regex": { "regex": "adm.*" } })),
    ];
    let values: [&[(&str, &[u8])]; 3] = [
        &[("x-role", b"admin"), ("x-role", b"other")],
        &[("x-role", b"other"), ("x-role", b"admin")],
        &[("x-role", b""), ("x-role", b"admin")],
    ];
    for (rules, headers) in admin
        .iter()
        .flat_map(|r| values.iter().map(move |v| (r, v)))
    {
        assert!(!allows(rules, &request("GET", "/", headers)), "{headers:?}");
    }
    for matcher in [
        json!({ "contains": "admin" }),
        json!({ "safe_regex": { "regex": ".*admin.*" } }),
        json!({ "safe_regex": { "regex": "(?i).*ADMIN.*" } }),
        json!({ "safe_regex": { "regex": "[^a]*admin[^a]*" } }),
    ] {
        let odd = request("GET", "/", &[("x-role", b"\xff\xe4admin\xc3")]);
        assert!(!allows(&deny(matcher.clone()), &odd), "{matcher}");
    }
}

struct Left(Rc<MetadataValue>);

impl Metadata for Left {
    fn dynamic(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        (namespace == "jwt").then(|| Rc::clone(&self.0))
    }
    fn of_route(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        (namespace == "route").then(|| Rc::clone(&self.0))
    }
    fn state(&self, key: &str) -> Option<Rc<str>> {
        match key {
            "who" => Some("alice".into()),
            "from" => Some("10.1.2.3".into()),
            _ => None,
        }
    }
}

fn left() -> Left {
    let text = |t: &str| MetadataValue::Text(t.into());
    let groups = MetadataValue::List(vec![text("dev"), text("ops")]);
    let claims = MetadataValue::Object(vec![
        ("groups".into(), groups),
        ("level".into(), MetadataValue::Number(3.0)),
        ("none".into(), MetadataValue::Null),
        ("root".into(), MetadataValue::Bool(true)),
    ]);
    Left(Rc::new(MetadataValue::Object(vec![(
        "claims".into(),
        claims,
    )])))
}

#[test]
fn metadata_and_filter_state_tell_who_asks() {
    let get = request("GET", "/", &[]);
    let left = left();
    let subject = Subject {
        metadata: &left,
        ..subject(&get)
    };
    let claim = |key: &str, value: Value| {
        json!({
            "filter": "jwt", "path": [{ "key": "claims" }, { "key": key }], "value": value,
        })
    };
    let exact = |text: &str| json!({ "string_match": { "exact": text } });
    for (matcher, expected) in [
        (
            claim(
                "groups",
                json!({ "list_match": { "one_of": exact("ops") } }),
            ),
            true,
        ),
        (
            claim("groups", json!({ "list_match": { "one_of": exact("hr") } })),
            false,
        ),
        (claim("groups", exact("ops")), false),
        (
            claim("level", json!({ "double_match": { "exact": 3.0 } })),
            true,
        ),
        (
            claim(
                "level",
                json!({ "double_match": { "range": { "start": 1.0, "end": 3.0 } } }),
            ),
            false,
        ),
        (claim("none", json!({ "null_match": {} })), true),
        (claim("missing", json!({ "null_match": {} })), false),
        (claim("missing", json!({ "present_match": true })), false),
        (claim("level", json!({ "present_match": true })), true),
        (claim("root", json!({ "bool_match": true })), true),
        (
            claim(
                "root",
                json!({ "or_match": { "value_matchers": [exact("a"), { "bool_match": true }] } }),
            ),
            true,
        ),
    ] {
        let rules = principal(json!({ "metadata": matcher }));
        assert_eq!(rules.judge(&subject).allowed, expected, "{matcher}");
        let mut inverted = matcher.clone();
        inverted["invert"] = json!(true);
        let rules = principal(json!({ "metadata": inverted }));
        assert_eq!(rules.judge(&subject).allowed, !expected, "not {matcher}");
    }
    let mut of_route = claim("root", json!({ "bool_match": true }));
    of_route["filter"] = json!("route");
    let sourced = |source: &str| json!({ "sourced_metadata": { "metadata_matcher": of_route, "metadata_source": source } });
    assert!(principal(sourced("ROUTE")).judge(&subject).allowed);
    assert!(!principal(sourced("DYNAMIC")).judge(&subject).allowed);
    let ranges = json!([{ "address_prefix": "10.0.0.0", "prefix_len": 8 }]);
    for (state, expected) in [
        (
            json!({ "key": "who", "string_match": { "exact": "alice" } }),
            true,
        ),
        (
            json!({ "key": "who", "address_match": { "ranges": ranges } }),
            false,
        ),
        (
            json!({ "key": "from", "address_match": { "ranges": ranges } }),
            true,
        ),
        (
            json!({ "key": "from", "address_match": { "ranges": ranges, "invert_match": true } }),
            false,
        ),
    ] {
        let rules = principal(json!({ "filter_state": state }));
        assert_eq!(rules.judge(&subject).allowed, expected, "{state}");
    }
}

#[test]
fn rules_that_cannot_be_followed_are_refused_with_their_place() {
    let one = |permission: Value, principal: Value| json!({ "policies": { "p": policy(json!([permission]), json!([principal])) } });
    let any = || json!({ "any": true });
    let template = json!({ "name": "x", "typed_config": {
        "@type": "type.googleapis.com/google.protobuf.Empty" } });
    let at = r#"policies["p"]"#;
    for (rules, reason) in [
        (
            json!({ "policies": { "p": policy(json!([]), json!([any()])) } }),
            format!("{at}.permissions: must not be empty"),
        ),
        (
            json!({ "policies": { "p": policy(json!([any()]), json!([])) } }),
            format!("{at}.principals: must not be empty"),
        ),
        (
            one(json!({}), any()),
            format!("{at}.permissions[0].rule: must be given"),
        ),
        (
            one(json!({ "any": false }), any()),
            format!("{at}.permissions[0].any: must be true"),
        ),
        (
            one(json!({ "and_rules": {} }), any()),
            format!("{at}.permissions[0].and_rules.rules: must not be empty"),
        ),
        (
            one(json!({ "destination_port": 65536 }), any()),
            format!("{at}.permissions[0].destination_port: 65536 is above 65535"),
        ),
        (
            one(
                json!({ "destination_port_range": { "start": 9, "end": 9 } }),
                any(),
            ),
            format!("{at}.permissions[0].destination_port_range: 9 to 9 is no range of ports"),
        ),
        (
            one(json!({ "matcher": template }), any()),
            format!(
                "{at}.permissions[0].matcher.typed_config: extension type \
                     \"type.googleapis.com/google.protobuf.Empty\" is not supported"
            ),
        ),
        (
            one(any(), json!({ "not_id": { "or_ids": { "ids": [{}] } } })),
            format!("{at}.principals[0].not_id.or_ids.ids[0].identifier: must be given"),
        ),
        (
            one(
                any(),
                json!({ "metadata": { "filter": "f", "value": { "null_match": {} } } }),
            ),
            format!("{at}.principals[0].metadata.path: must not be empty"),
        ),
        (
            json!({ "policies": { "p": {
            "permissions": [any()], "principals": [any()], "condition": { "id": "1" } } } }),
            format!("{at}.condition: expressions (CEL) are not supported"),
        ),
    ] {
        assert_eq!(
            decode(rules.clone(), Form::Requests).unwrap_err(),
            reason,
            "{rules}"
        );
    }
    let header = one(any(), json!({ "not_id": { "header": { "name": "x" } } }));
    assert!(decode(header.clone(), Form::Requests).is_ok());
    assert_eq!(
        decode(header, Form::Connections).unwrap_err(),
        format!("{at}.principals[0].not_id.header: a connection has no headers")
    );
}

fn typed(message: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/{message}"));
    json!({ "name": "x", "typed_config": fields })
}

fn action(name: &str, action: &str) -> Value {
    let fields = json!({ "name": name, "action": action });
    json!({ "action": typed("envoy.config.rbac.v3.Action", fields) })
}

/// A tree of one predicate, with an action behind it and one for the rest.
fn tree(single: Value, then: &Value, otherwise: Option<Value>) -> Value {
    let mut tree = json!({ "matcher_list": { "matchers": [{
        "predicate": { "single_predicate": single }, "on_match": then,
    }] } });
    if let Some(otherwise) = otherwise {
        tree["on_no_match"] = otherwise;
    }
    tree
}

fn engine(mut tree: Value, form: Form) -> Result<Engine, String> {
    use causeway_xds::proto::xds::r#type::matcher::v3::Matcher;
    tree["@type"] = json!("type.googleapis.com/xds.type.matcher.v3.Matcher");
    let any = text::any_from_value(&tree).expect("a message");
    let matcher: Matcher = unpack(&any).expect("a matcher");
    let given = Given {
        rules: None,
        matcher: Some(matcher),
        shadow_rules: None,
        shadow_matcher: None,
    };
    let engines = Engines::decode(given, form).map_err(|e| e.to_string())?;
    Ok(engines.enforced.expect("it is given"))
}

#[test]
fn a_tree_ends_in_an_action_and_who_is_led_nowhere_is_refused() {
    let input = |name: &str| {
        let message = "envoy.extensions.matching.common_inputs.network.v3";
        typed(&format!("{message}.{name}"), json!({}))
    };
    let port = |port: &str| json!({ "input": input("DestinationPortInput"), "value_match": { "exact": port } });
    let get = request("GET", "/", &[]);
    let judge = |tree: Value| {
        let engine = engine(tree, Form::Connections).unwrap();
        let verdict = engine.judge(&subject(&get));
        let name = verdict.policy.map(|(_, name)| name.to_owned());
        (verdict.allowed, name, verdict.hint)
    };
    let name = |name: &str| Some(name.to_owned());
    let deny = action("deny", "DENY");
    let (allow, log) = (action("allow", "ALLOW"), action("log", "LOG"));
    let then = |port_is: &str, then: &Value| tree(port(port_is), then, Some(deny.clone()));
    assert_eq!(judge(then("8443", &allow)), (true, name("allow"), None));
    assert_eq!(judge(then("1", &allow)), (false, name("deny"), None));
    assert_eq!(judge(then("8443", &log)), (true, name("log"), Some(true)));
    assert_eq!(judge(then("1", &log)), (false, name("deny"), Some(false)));
    assert_eq!(judge(tree(port("1"), &allow, None)), (false, None, None));
}

#[test]
fn a_tree_can_look_at_values_that_filters_have_noted() {
    let input = |key: &str| {
        let fields = json!({ "filter": "jwt", "path": [{ "key": "claims" }, { "key": key }] });
        let message = "envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput";
        typed(message, fields)
    };
    let ops =
        json!({ "value": { "list_match": { "one_of": { "string_match": { "exact": "ops" } } } } });
    let matcher = "envoy.extensions.matching.input_matchers.metadata.v3.Metadata";
    let custom = typed(matcher, ops);
    let left = left();
    let get = request("GET", "/", &[]);
    let subject = Subject {
        metadata: &left,
        ..subject(&get)
    };
    for (key, allowed) in [("groups", true), ("level", false), ("missing", false)] {
        let single = json!({ "input": input(key), "custom_match": custom });
        let engine = engine(tree(single, &action("a", "ALLOW"), None), Form::Requests);
        assert_eq!(engine.unwrap().judge(&subject).allowed, allowed, "{key}");
    }
    let wrong = json!({ "input": input("groups"), "value_match": { "exact": "ops" } });
    let told = engine(tree(wrong, &action("a", "ALLOW"), None), Form::Requests).unwrap_err();
    assert!(
        told.ends_with("single_predicate.matcher: does not fit the input"),
        "{told}"
    );
}

#[test]
fn a_connection_has_no_headers_for_a_tree_either() {
    let message = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput";
    let header = typed(message, json!({ "header_name": "x" }));
    let single = json!({ "input": header, "value_match": { "exact": "1" } });
    let matcher = tree(single, &action("a", "ALLOW"), None);
    assert!(engine(matcher.clone(), Form::Requests).is_ok());
    let told = engine(matcher, Form::Connections).unwrap_err();
    assert!(told.contains("single_predicate.input"), "{told}");
}
