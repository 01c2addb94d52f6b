use serde_json::json;

use super::*;
use crate::proto::{Bootstrap, Cluster, HttpConnectionManager, RouteConfiguration, Secret};

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const HCM: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

fn cluster(text: &str) -> Cluster {
    parse(text, CLUSTER, &Options::default()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn refused(text: &str) -> String {
    parse::<Cluster>(text, CLUSTER, &Options::default())
        .expect_err(text)
        .to_string()
}

#[test]
fn enum_names_in_any_case_and_by_number() {
    for text in ["type: STATIC", "type: Static", "type: static"] {
        assert_eq!(
            cluster(text).cluster_discovery_type,
            cluster("type: 0").cluster_discovery_type
        );
    }
    assert_eq!(cluster("lb_policy: least-request").lb_policy, 1);
    assert_eq!(cluster("lb_policy: least_request").lb_policy, 1);
    assert_eq!(
        refused("lb_policy: LEAST_REQUST"),
        "line 1, column 12: lb_policy: \"LEAST_REQUST\" is not one of LbPolicy; \
         did you mean \"LEAST_REQUEST\"?"
    );
}

#[test]
fn one_value_is_a_list_of_one() {
    let bootstrap: Bootstrap = parse(
        "static_resources: {clusters: {name: a}}",
        BOOTSTRAP,
        &Options::default(),
    )
    .unwrap();
    assert_eq!(bootstrap.static_resources.unwrap().clusters[0].name, "a");
    let routes: RouteConfiguration = parse(
        "virtual_hosts: {name: a, domains: '*'}\ninternal_only_headers: x",
        ROUTES,
        &Options::default(),
    )
    .unwrap();
    assert_eq!(routes.virtual_hosts[0].domains, ["*"]);
    assert_eq!(routes.internal_only_headers, ["x"]);
}

#[test]
fn durations_as_text_and_as_map() {
    let wanted = cluster("connect_timeout: 1.5s").connect_timeout.unwrap();
    assert_eq!((wanted.seconds, wanted.nanos), (1, 500_000_000));
    let same = cluster("connect_timeout: {seconds: 1, nanos: 500000000}");
    assert_eq!(same.connect_timeout, Some(wanted));
    assert!(cluster("connect_timeout: 0s").connect_timeout.is_some());
    assert!(cluster("connect_timeout: {}").connect_timeout.is_some());
    assert_eq!(
        refused("connect_timeout: 500ms"),
        "line 1, column 18: connect_timeout: not a duration: \"500ms\"; write \"0.500s\""
    );
    assert!(refused("connect_timeout: 5").contains("needs a unit; for seconds write \"5s\""));
    assert!(refused("connect_timeout: 0.5").contains("not a duration"));
    assert!(refused("{\"connect_timeout\": 0.5}").contains("expected a duration"));
}

#[test]
fn wrappers_and_integers_in_all_spellings() {
    for value in ["3", "'3'", "3.0", "0x3", "{value: 3}", "\"3\""] {
        let cluster = cluster(&format!("outlier_detection: {{consecutive_5xx: {value}}}"));
        assert_eq!(
            cluster
                .outlier_detection
                .unwrap()
                .consecutive_5xx
                .unwrap()
                .value,
            3
        );
    }
    let zero = cluster("outlier_detection: {consecutive_5xx: 0}")
        .outlier_detection
        .unwrap();
    assert_eq!(zero.consecutive_5xx.unwrap().value, 0);
    for value in ["3.5", "-1", "4294967296", "three", "true", "[3]", "32_768"] {
        refused(&format!("outlier_detection: {{consecutive_5xx: {value}}}"));
    }
}

#[test]
fn booleans_as_text_and_of_yaml_1_1() {
    for value in ["true", "yes", "on", "'true'", "\"true\""] {
        let cluster = cluster(&format!("ignore_health_on_host_removal: {value}"));
        assert!(cluster.ignore_health_on_host_removal, "{value}");
    }
    assert!(!cluster("ignore_health_on_host_removal: no").ignore_health_on_host_removal);
    refused("ignore_health_on_host_removal: 1");
    refused("ignore_health_on_host_removal: maybe");
}

#[test]
fn both_spellings_of_names_null_aliases_and_repeated_keys() {
    assert!(cluster("connectTimeout: 1s").connect_timeout.is_some());
    assert!(cluster("connect_timeout: 1s").connect_timeout.is_some());
    assert!(cluster("connect_timeout: null").connect_timeout.is_none());
    assert!(
        cluster("connect_timeout: ~\nname:")
            .connect_timeout
            .is_none()
    );
    let aliased = cluster("name: &n x\nalt_stat_name: *n");
    assert_eq!(aliased.alt_stat_name, "x");
    assert_eq!(cluster("name: a\nname: b").name, "b");
    assert_eq!(cluster(r#"{"name": "a", "name": "b"}"#).name, "b");
    assert!(refused("<<: {name: a}").contains("unknown field \"<<\""));
}

#[test]
fn strings_are_strings() {
    assert_eq!(
        refused("name: 8080"),
        "line 1, column 7: name: expected a string, found a number; put it in quotes"
    );
    assert!(refused("name: yes").contains("found a boolean"));
    assert!(refused("{\"name\": 1.5}").contains("found a number"));
    // A number with a point keeps its text in YAML, as in Envoy.
    assert_eq!(cluster("name: 1.10").name, "1.10");
}

#[test]
fn faults_have_place_path_and_hint_in_yaml_and_json() {
    let yaml = "static_resources:\n  clusters:\n    - name: a\n      typ: STATIC\n";
    let error = parse::<Bootstrap>(yaml, BOOTSTRAP, &Options::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 4, column 7: static_resources.clusters[0].typ: unknown field \"typ\"; \
         did you mean \"type\"?"
    );
    let json = "{\n \"static_resources\": {\n  \"clusters\": [{\"name\": \"a\", \"typ\": 1}]}}";
    let error = parse::<Bootstrap>(json, BOOTSTRAP, &Options::default()).unwrap_err();
    assert_eq!(error.location, Some((3, 30)), "{error}");
    assert_eq!(error.path, "static_resources.clusters[0].typ");
    let error = parse::<Bootstrap>("{\n \"node\": {", BOOTSTRAP, &Options::default()).unwrap_err();
    assert_eq!(error.location.unwrap().0, 2, "{error}");

    let lenient = Options {
        allow_unknown_fields: true,
    };
    let read: Bootstrap = parse(yaml, BOOTSTRAP, &lenient).unwrap();
    assert_eq!(read.static_resources.unwrap().clusters[0].name, "a");
}

#[test]
fn two_members_of_a_oneof_are_refused() {
    assert_eq!(
        refused("type: STATIC\ncluster_type: {name: x}"),
        "line 2, column 1: \"type\" and \"cluster_type\" exclude each other \
         (oneof cluster_discovery_type)"
    );
    cluster("type: STATIC\ncluster_type: null");
}

#[test]
fn extensions_are_expanded_wherever_they_stand() {
    let text = r#"
"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
stat_prefix: x
http_filters:
  name: envoy.filters.http.router
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
    suppress_envoy_headers: yes
route_config:
  virtual_hosts:
  - name: a
    domains: ["*"]
    typed_per_filter_config:
      some.filter: {"@type": type.googleapis.com/google.protobuf.StringValue, value: hello}
"#;
    let any = parse_any(text, &Options::default()).unwrap();
    let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    assert_eq!(manager.http_filters.len(), 1);
    // What the generated types write is what was read: fields by number, defaults left out.
    assert_eq!(manager.encode_to_vec(), any.value);

    let value = to_value(&any);
    assert_eq!(
        value["http_filters"][0]["typed_config"]["suppress_envoy_headers"],
        true
    );
    assert_eq!(
        value["route_config"]["virtual_hosts"][0]["typed_per_filter_config"]["some.filter"]["value"],
        "hello"
    );
    assert_eq!(any_from_value(&value).unwrap(), any);
}

#[test]
fn extension_faults_tell_their_path() {
    let text =
        "http_filters:\n- name: x\n  typed_config:\n    \"@type\": type.googleapis.com/x.Y\n";
    let error = parse::<HttpConnectionManager>(text, HCM, &Options::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 4, column 14: http_filters[0].typed_config.@type: extension type x.Y is not known"
    );
    let text = "http_filters:\n- typed_config: {name: x}\n";
    let error = parse::<HttpConnectionManager>(text, HCM, &Options::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("typed_config: \"@type\" is missing"),
        "{error}"
    );
    let text = "http_filters: [{typed_config: {\"@type\": type.googleapis.com/\
                envoy.extensions.filters.http.router.v3.Router, suppress: 1}}]";
    let error = parse::<HttpConnectionManager>(text, HCM, &Options::default()).unwrap_err();
    assert_eq!(error.path, "http_filters[0].typed_config.suppress");
}

#[test]
fn structs_and_maps() {
    let cluster = cluster(
        "metadata: {filter_metadata: {k: {a: 1, b: [x, null, true], c: {d: 'e'}}, l: {}}}\n\
         typed_extension_protocol_options: {}",
    );
    let value = message_to_value(&cluster, CLUSTER);
    let wanted = json!({"k": {"a": 1.0, "b": ["x", null, true], "c": {"d": "e"}}, "l": {}});
    assert_eq!(value["metadata"]["filter_metadata"], wanted);
    assert_eq!(value_of::<Cluster>(&value, CLUSTER).unwrap(), cluster);
    assert!(refused("metadata: {filter_metadata: [a]}").contains("expected a map, found a list"));
    assert!(refused("metadata: {filter_metadata: {k: 1}}").contains("filter_metadata[\"k\"]"));
}

#[test]
fn the_order_of_a_text_does_not_show() {
    let bytes = |text: &str| {
        let desc = descriptor::message(CLUSTER).unwrap();
        encode_text(text, &desc, &Options::default()).unwrap()
    };
    assert_eq!(
        bytes("{name: a, metadata: {filter_metadata: {b: {x: 1, y: 2}, a: {}}}}"),
        bytes("{metadata: {filter_metadata: {a: {}, b: {y: 2, x: 3, x: 1}}}, name: a}")
    );
    assert_eq!(bytes("{alt_stat_name: '', name: a}"), bytes("name: a"));
    assert_eq!(to_value(&Any::default()), json!({}));
}

#[test]
fn later_text_merges_over_the_earlier() {
    let over = Some("admin: {profile_path: x}\nstatic_resources: {clusters: [{name: b}]}");
    let read: Bootstrap = parse_merged(
        "node: {id: x}\nstatic_resources: {clusters: [{name: a}]}",
        over,
        BOOTSTRAP,
        &Options::default(),
    )
    .unwrap();
    assert_eq!(read.node.unwrap().id, "x");
    let names: Vec<_> = read
        .static_resources
        .unwrap()
        .clusters
        .into_iter()
        .map(|c| c.name)
        .collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn secrets_do_not_appear_in_dumps() {
    let text = r"
name: s
tls_certificate:
  certificate_chain: {inline_string: CHAIN}
  private_key: {inline_string: TOP-SECRET}
  password: {filename: /etc/password}
";
    let name = "envoy.extensions.transport_sockets.tls.v3.Secret";
    let secret: Secret = parse(text, name, &Options::default()).unwrap();
    let value = to_value(&crate::type_url::pack_as(&secret, name));
    assert_eq!(
        value["tls_certificate"]["certificate_chain"]["inline_string"],
        "CHAIN"
    );
    assert_eq!(
        value["tls_certificate"]["private_key"]["inline_string"],
        "[redacted]"
    );
    assert_eq!(
        value["tls_certificate"]["password"]["filename"],
        "/etc/password"
    );

    for text in [
        "session_ticket_keys: {keys: [{inline_bytes: VE9Q}]}",
        "generic_secret: {secret: {inline_string: TOP}}",
        "generic_secret: {secret: {environment_variable: HOME}, secrets: {a: {inline_string: TOP}}}",
    ] {
        let secret: Secret = parse(text, name, &Options::default()).unwrap();
        let dump = message_to_value(&secret, name).to_string();
        assert!(dump.contains("[redacted]"), "{dump}");
        assert!(!dump.contains("TOP") && !dump.contains("VE9Q"), "{dump}");
    }
}

#[test]
fn what_is_not_known_is_printed_as_base64() {
    let any = Any {
        type_url: "type.googleapis.com/x.Y".into(),
        value: vec![1, 2, 3],
    };
    assert_eq!(
        to_value(&any),
        json!({"@type": "type.googleapis.com/x.Y", "value": "AQID"})
    );
    let any = Any {
        type_url: crate::ResourceType::Cluster.type_url(),
        value: vec![0xff],
    };
    assert_eq!(to_value(&any)["value"], "/w==");
}

#[test]
fn values_come_back_as_they_went() {
    let original = cluster(
        "{name: a, type: STRICT_DNS, connect_timeout: 0.25s, lb_policy: MAGLEV, \
         per_connection_buffer_limit_bytes: 32768, \
         common_lb_config: {healthy_panic_threshold: {value: 12.5}}, \
         load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: \
         {socket_address: {address: 127.0.0.1, port_value: 80}}}}]}]}}",
    );
    let value = message_to_value(&original, CLUSTER);
    assert_eq!(value["connect_timeout"], "0.250s");
    assert_eq!(value["lb_policy"], "MAGLEV");
    assert_eq!(value.get("alt_stat_name"), None);
    assert_eq!(value_of::<Cluster>(&value, CLUSTER).unwrap(), original);
}

/// No text may bring the reader down. The seed is fixed; a failure prints the text.
#[test]
fn damaged_texts_are_answers() {
    const PIECES: [&str; 16] = [
        "{", "}", "[", "]", ": ", "\n", "  ", "- ", "&a ", "*a", "\"", "null", "1e999", "-", "é",
        "'",
    ];
    let original = "static_resources:\n  clusters:\n  - &a\n    name: a\n    connect_timeout: 1.5s\n    \
                    metadata: {filter_metadata: {x: {y: [1, 2.5, true]}}}\n    lb_policy: MAGLEV\n    \
                    typed_extension_protocol_options:\n      x: {\"@type\": \
                    type.googleapis.com/google.protobuf.Timestamp, value: 2026-01-01T00:00:00Z}\n";
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..3000 {
        let mut chars: Vec<char> = original.chars().collect();
        for _ in 0..=random(4) {
            let at = random(chars.len());
            let until = (at + random(6)).min(chars.len());
            chars.splice(at..until, PIECES[random(PIECES.len())].chars());
        }
        let text: String = chars.into_iter().collect();
        let outcome = std::panic::catch_unwind(|| {
            let read = parse::<Bootstrap>(&text, BOOTSTRAP, &Options::default());
            read.map(|b| message_to_value(&b, BOOTSTRAP)).is_ok()
        });
        assert!(outcome.is_ok(), "{text}");
    }
}
