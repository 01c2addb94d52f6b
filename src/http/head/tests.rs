//! Random heads: what was brought into its one form stays in it.

use causeway_xds::resource::Resource;
use causeway_xds::resource::decode;
use causeway_xds::resource::listener::NetworkFilter;
use causeway_xds::text;
use http::Request;
use http::header::HOST;
use serde_json::{Value, json};

use super::*;
use crate::filter::Registry;

const TYPES: &str = "type.googleapis.com/envoy.extensions.filters";

fn manager(more: &Value) -> HttpManager {
    let mut config = json!({
        "@type": format!("{TYPES}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "web",
        "route_config": { "name": "r" },
        "http_filters": [{
            "name": "router",
            "typed_config": { "@type": format!("{TYPES}.http.router.v3.Router") },
        }],
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let listener = json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "l",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 1 } },
        "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": config }] }],
    });
    let any = text::any_from_value(&listener).unwrap();
    let Resource::Listener(listener) = decode(&any, &Registry::default()).unwrap() else {
        panic!("a listener")
    };
    let NetworkFilter::Http(manager) = &listener.filter_chains[0].filter else {
        panic!("HTTP")
    };
    manager.as_ref().clone()
}

const FIELDS: [(&str, &str); 26] = [
    ("host", "a.test"),
    ("host", "A.test.:80"),
    ("host", "u@x"),
    ("host", "t:80:80"),
    ("host", "t.."),
    ("connection", "close, x-a"),
    ("connection", "upgrade"),
    ("connection", "keep-alive, te"),
    ("upgrade", "websocket"),
    ("upgrade", "h2c"),
    ("te", "trailers, deflate"),
    ("keep-alive", "1"),
    ("proxy-connection", "keep-alive"),
    ("content-length", "3"),
    ("content-length", "4"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "gzip, chunked"),
    ("expect", "100-continue"),
    ("cookie", "a=b"),
    ("cookie", "c=d"),
    ("x_a", "1"),
    ("x-a", "1"),
    ("x-a", "2"),
    ("accept", "*/*"),
    ("trailer", "x-t"),
    ("x-forwarded-for", "1.2.3.4"),
];

const PATHS: [&str; 7] = [
    "/",
    "/a/../b?q",
    "/a//b",
    "/%2e%2e/x",
    "/%2Fa",
    "/a\\b",
    "/a;p?x=/../y",
];

#[test]
fn a_host_loses_its_last_dot_and_then_its_port() {
    let rules =
        |any, dot| manager(&json!({ "strip_any_host_port": any, "strip_trailing_host_dot": dot }));
    let cases = [
        // As it comes, with the dot taken, with the port taken, with both.
        ("a.", ["a.", "a", "a.", "a"]),
        ("a.:80", ["a.:80", "a:80", "a.", "a"]),
        ("a:80.", ["a:80.", "a:80", "a:80.", "a"]),
        ("a..:80", ["a..:80", "a..:80", "a..", "a.."]),
        ("[::1].:80", ["[::1].:80", "[::1]:80", "[::1].", "[::1]"]),
        ("a:80:80", ["a:80:80"; 4]),
        ("a.:x", ["a.:x", "a:x", "a.:x", "a:x"]),
    ];
    for (host, expected) in cases {
        for (index, expected) in expected.into_iter().enumerate() {
            let rules = rules(index & 2 != 0, index & 1 != 0);
            let request = Request::get("/").header(HOST, host);
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            assert!(sanitise(&mut parts, &rules, None, None).is_ok());
            assert_eq!(parts.headers[HOST], expected, "{host}, {index}");
        }
    }
}

#[test]
fn a_target_with_an_empty_host_is_refused() {
    for target in ["http://:80/", "http://:4./"] {
        let request = Request::get(target).header(HOST, "a");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let refused = sanitise(&mut parts, &manager(&json!({})), None, None);
        assert_eq!(
            refused.err().map(|f| f.status.as_u16()),
            Some(400),
            "{target}"
        );
    }
}

#[test]
fn a_sanitised_head_is_not_changed_by_being_sanitised_again() {
    let managers = [
        json!({}),
        json!({ "normalize_path": true, "merge_slashes": true }),
        json!({
            "strip_any_host_port": true,
            "strip_trailing_host_dot": true,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        }),
        json!({
            "strip_matching_host_port": true,
            "common_http_protocol_options": { "headers_with_underscores_action": "DROP_HEADER" },
        }),
    ]
    .map(|more| manager(&more));
    let mut random = fastrand::Rng::with_seed(1);
    let mut passed = 0;
    for _ in 0..50_000 {
        let methods = ["GET", "POST", "OPTIONS", "CONNECT"];
        let pieces = ["h", ".", ":", "80", "4", "[::1]"];
        let host: String = match random.bool() {
            true => "h.test".to_owned(),
            false => (0..random.usize(..6))
                .map(|_| *random.choice(&pieces).unwrap())
                .collect(),
        };
        let mut request = Request::builder()
            .method(random.choice(methods).unwrap())
            .uri(random.choice(PATHS).unwrap())
            .header(HOST, host);
        for _ in 0..random.usize(..5) {
            let (name, value) = random.choice(FIELDS).unwrap();
            request = request.header(name, value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let manager = random.choice(&managers).unwrap();
        let Ok(facts) = sanitise(&mut parts, manager, Some(80), None) else {
            continue;
        };
        if facts.redirect.is_some() {
            continue;
        }
        passed += 1;
        let once = parts.clone();
        let again = sanitise(&mut parts, manager, Some(80), None);
        assert!(again.is_ok(), "{once:?}");
        assert_eq!((&parts.uri, &parts.headers), (&once.uri, &once.headers));
    }
    assert!(passed > 5_000, "{passed}");
}
