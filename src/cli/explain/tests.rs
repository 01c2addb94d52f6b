use std::sync::Arc;

use causeway_xds::source::Update;

use super::*;
use crate::config::bootstrap::{BootstrapConfig, Overrides};

/// One listener with what a request can meet.
const BOOTSTRAP: &str = r#"
static_resources:
  listeners:
  - name: web
    address: { socket_address: { address: 127.0.0.1, port_value: 18080 } }
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          normalize_path: true
          http_filters:
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          route_config:
            name: table
            request_headers_to_add:
            - header: { key: x-from, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" }
            virtual_hosts:
            - name: shop
              domains: ["shop.test", "*.shop.test"]
              routes:
              - name: beta
                match:
                  prefix: /api
                  headers: [{ name: x-beta, string_match: { exact: "yes" } }]
                direct_response: { status: 204 }
              - match: { path: /other, query_parameters: [{ name: a }] }
                direct_response: { status: 204 }
              - match: { prefix: /api }
                route:
                  cluster: api
                  prefix_rewrite: /v1
                  timeout: 3s
                  retry_policy: { retry_on: "5xx,reset", num_retries: 2 }
                request_headers_to_add: [{ header: { key: authorization, value: "Bearer secret" } }]
              - match: { prefix: /away }
                redirect: { host_redirect: new.test }
              - match: { prefix: /gone }
                route: { cluster: missing }
            - name: secure
              domains: ["secure.test"]
              require_tls: ALL
              routes: [{ match: { prefix: / }, route: { cluster: api } }]
  clusters:
  - name: api
    load_assignment:
      cluster_name: api
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9 } } }
"#;

fn snapshot() -> Arc<Snapshot> {
    let overrides = Overrides::default();
    let config = BootstrapConfig::parse("b", BOOTSTRAP, &overrides).expect("a bootstrap");
    let updates: Vec<Update> = config.static_updates.clone();
    let (snapshot, rejected) = crate::app::compile(updates);
    assert!(rejected.is_empty(), "{rejected:?}");
    snapshot
}

fn told(url: &str, headers: &[&str]) -> String {
    let headers: Vec<String> = headers.iter().map(|h| (*h).to_owned()).collect();
    let question = Question::parse(url, "GET", &headers).unwrap();
    let question = question.from_client("192.0.2.7").unwrap();
    explain(&snapshot(), &question).unwrap().to_text()
}

fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} is not in the rest of:\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn a_forwarded_request_is_told_from_listener_to_cluster() {
    let text = told("http://a.shop.test/x/../api/1?q", &[]);
    assert_in_order(
        &text,
        &[
            "listener      \"web\"",
            "number 0, HTTP (\"web\")",
            "/x/../api/1?q is taken as /api/1?q",
            "\"shop\" of \"table\": its domain \"*.shop.test\" is the longest wildcard",
            "route 0 \"beta\" does not match (near miss)",
            "not met: header \"x-beta\" is \"yes\"",
            "route 1 does not match\n",
            "not met: path is \"/other\"",
            "not met: query parameter \"a\" is there",
            "route 2 is taken",
            "path begins with \"/api\"",
            "/api/1?q becomes /v1/1?q",
            "+ x-envoy-expected-rq-timeout-ms: 3000",
            "+ authorization: [redacted]",
            "+ x-from: 192.0.2.7",
            "route 3s, per try none, idle 300s, whole stream none",
            "up to 2 times on 5xx,reset",
            "forwarded to cluster \"api\" (1 endpoints)",
        ],
    );
    assert!(!text.contains("secret"));
}

#[test]
fn what_ends_a_request_here_is_told() {
    let cases = [
        (
            "http://shop.test/api",
            "X-Beta: yes",
            "204 with 0 bytes (direct response)",
        ),
        (
            "http://shop.test/away",
            "a: b",
            "301 to http://new.test/away (redirect)",
        ),
        (
            "http://shop.test/gone",
            "a: b",
            "503: there is no cluster \"missing\"",
        ),
        ("http://shop.test/none", "a: b", "404: there is no route"),
        ("http://nobody.test/", "a: b", "404: there is no route"),
        ("http://shop.test:18080/", "a: b", "404: there is no route"),
        (
            "http://secure.test/",
            "a: b",
            "301 to the same URL over TLS",
        ),
        ("http://shop.test/", "host: u@x", "the head is refused: 400"),
    ];
    for (url, header, outcome) in cases {
        let text = told(url, &[header]);
        let last = text.lines().rfind(|line| !line.starts_with(' ')).unwrap();
        assert!(last.starts_with("outcome"), "{text}");
        assert!(last.contains(outcome), "{text}");
    }
}

#[test]
fn a_cluster_that_has_to_look_its_endpoints_up_is_known() {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = BOOTSTRAP.replace("  - name: api\n", "  - name: api\n    type: STRICT_DNS\n");
    std::fs::write(file.path(), text).unwrap();
    let (snapshot, clusters) = read(file.path()).unwrap();
    let mut question = Question::parse("http://shop.test/api", "GET", &[]).unwrap();
    question.clusters = clusters;
    let text = explain(&snapshot, &question).unwrap().to_text();
    assert!(
        text.contains("to cluster \"api\" (its endpoints are not known here)"),
        "{text}"
    );
}

#[test]
fn a_question_that_makes_no_sense_is_refused() {
    for url in ["/path", "ftp://h/", "http://"] {
        assert!(Question::parse(url, "GET", &[]).is_err(), "{url}");
    }
    assert!(Question::parse("http://h/", "G T", &[]).is_err());
    assert!(Question::parse("http://h/", "GET", &["no colon".to_owned()]).is_err());
    let with_port = told("http://shop.test:18080/api", &[]);
    assert!(
        with_port.contains("without its port it would be \"shop\""),
        "{with_port}"
    );
    let question = Question::parse("http://h/", "GET", &[]).unwrap();
    assert!(question.clone().from_client("nobody").is_err());
    let listener = Some("other".to_owned());
    let other = Question {
        listener,
        ..question
    };
    let error = explain(&snapshot(), &other).unwrap_err();
    assert_eq!(error.to_string(), "there is no listener \"other\"");
}
