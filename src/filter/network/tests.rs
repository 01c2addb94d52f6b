use std::cell::RefCell;

use causeway_xds::proto::Message as _;
use causeway_xds::proto::envoy::service::auth::v3::CheckRequest;
use causeway_xds::text;
use serde_json::{Value, json};

use super::super::call::CallError;
use super::super::testing::{one_service, over_grpc};
use super::*;

fn filter(message: &str, mut fields: Value) -> Result<NetworkChain, String> {
    let message = format!("envoy.extensions.filters.network.{message}");
    fields["@type"] = json!(format!("type.googleapis.com/{message}"));
    let any = text::any_from_value(&fields).expect("a message");
    let extension = TypedExtension::from_any("x", any);
    let built = build(&extension, &Context::default()).map_err(|e| e.to_string())?;
    Ok(NetworkChain::new(vec![built]))
}

fn from(peer: &str) -> Connection<'_> {
    with_state(peer, Box::leak(Box::default()))
}

fn with_state<'c>(peer: &'c str, state: &'c StreamState) -> Connection<'c> {
    Connection {
        peer: Some(peer.parse().unwrap()),
        local: Some("127.0.0.1:443".parse().unwrap()),
        session: None,
        server_name: "app.test",
        state,
    }
}

#[test]
fn rules_are_asked_once_the_connection_is_open() {
    let rules = json!({ "policies": { "p": {
        "permissions": [{ "destination_port": 443 }],
        "principals": [{ "direct_remote_ip": { "address_prefix": "10.0.0.0", "prefix_len": 8 } }],
    } } });
    let config = json!({ "stat_prefix": "nr.", "rules": rules, "delay_deny": "2s" });
    let chain = filter("rbac.v3.RBAC", config).unwrap();
    let mut passed = Passed::default();
    assert!(chain.accept(&from("192.0.2.1:9"), &mut passed).is_ok());
    assert!(chain.open(&from("10.1.1.1:9"), &mut passed).is_ok());
    let closing = chain.open(&from("192.0.2.1:9"), &mut passed).unwrap_err();
    assert_eq!(closing.after, Duration::from_secs(2));
    assert_eq!(closing.why, "rbac_access_denied_matched_policy[none]");
}

#[test]
fn a_connection_that_is_open_counts_until_it_is_closed() {
    let config = json!({ "stat_prefix": "c", "max_connections": 2, "delay": "1s" });
    let chain = filter("connection_limit.v3.ConnectionLimit", config).unwrap();
    let peer = from("192.0.2.1:9");
    let (mut first, mut second) = (Passed::default(), Passed::default());
    assert!(chain.accept(&peer, &mut first).is_ok());
    assert!(chain.accept(&peer, &mut second).is_ok());
    let closing = chain.accept(&peer, &mut Passed::default()).unwrap_err();
    assert_eq!(closing.after, Duration::from_secs(1));
    drop(first);
    assert!(chain.accept(&peer, &mut Passed::default()).is_ok());
    // That one is gone already.
    assert!(chain.accept(&peer, &mut second).is_ok());
    assert!(chain.accept(&peer, &mut second).is_err());
}

/// One configuration after another, as a listener goes through them when it changes.
fn changed(chain: &NetworkChain, before: &Value, after: &Value, message: &str) -> NetworkChain {
    let extension = |fields: &Value| {
        let mut fields = fields.clone();
        let message = format!("envoy.extensions.filters.network.{message}");
        fields["@type"] = json!(format!("type.googleapis.com/{message}"));
        TypedExtension::from_any("x", text::any_from_value(&fields).expect("a message"))
    };
    let before = (&extension(before), &chain.filters()[0]);
    let built = rebuild(&extension(after), &Context::default(), before).unwrap();
    NetworkChain::new(vec![built])
}

#[test]
fn those_that_are_open_count_after_a_change_as_well() {
    const LIMIT: &str = "connection_limit.v3.ConnectionLimit";
    let config = |prefix: &str, max: u32| json!({"stat_prefix": prefix, "max_connections": max});
    let chain = filter(LIMIT, config("c", 1)).unwrap();
    let peer = from("192.0.2.1:9");
    let mut first = Passed::default();
    assert!(chain.accept(&peer, &mut first).is_ok());
    let same = changed(&chain, &config("c", 1), &config("c", 1), LIMIT);
    assert!(same.accept(&peer, &mut Passed::default()).is_err());
    let more = changed(&same, &config("c", 1), &config("c", 2), LIMIT);
    let mut second = Passed::default();
    assert!(more.accept(&peer, &mut second).is_ok());
    assert!(more.accept(&peer, &mut second).is_err());
    drop(first);
    assert!(more.accept(&peer, &mut second).is_ok());
    let other = changed(&more, &config("c", 2), &config("d", 1), LIMIT);
    assert!(
        other.accept(&peer, &mut Passed::default()).is_ok(),
        "it counts something else"
    );
}

#[test]
fn a_bucket_stays_as_empty_as_it_was_until_its_size_changes() {
    const LIMIT: &str = "local_ratelimit.v3.LocalRateLimit";
    let config = |max: u32, prefix: &str| {
        let bucket = json!({"max_tokens": max, "fill_interval": "3600s"});
        json!({"stat_prefix": prefix, "token_bucket": bucket})
    };
    let chain = filter(LIMIT, config(1, "l")).unwrap();
    let peer = from("192.0.2.1:9");
    let passes = |chain: &NetworkChain| chain.accept(&peer, &mut Passed::default()).is_ok();
    assert!(passes(&chain) && !passes(&chain));
    assert!(!passes(&changed(
        &chain,
        &config(1, "l"),
        &config(1, "l"),
        LIMIT
    )));
    assert!(!passes(&changed(
        &chain,
        &config(1, "l"),
        &config(1, "m"),
        LIMIT
    )));
    assert!(passes(&changed(
        &chain,
        &config(1, "l"),
        &config(2, "l"),
        LIMIT
    )));
}

#[test]
fn connections_come_no_faster_than_the_bucket_is_filled() {
    let bucket = json!({ "max_tokens": 2, "fill_interval": "3600s" });
    let config = json!({ "stat_prefix": "l", "token_bucket": bucket });
    let chain = filter("local_ratelimit.v3.LocalRateLimit", config).unwrap();
    let peer = from("192.0.2.1:9");
    let accepted = (0..5).filter(|_| chain.accept(&peer, &mut Passed::default()).is_ok());
    assert_eq!(accepted.count(), 2);
}

#[test]
fn the_name_that_is_asked_for_is_the_cluster() {
    let chain = filter("sni_cluster.v3.SniCluster", json!({})).unwrap();
    let mut passed = Passed::default();
    chain.open(&from("192.0.2.1:9"), &mut passed).unwrap();
    assert_eq!(passed.cluster.as_deref(), Some("app.test"));
    let mut passed = Passed::default();
    let nameless = Connection {
        server_name: "",
        ..from("192.0.2.1:9")
    };
    chain.open(&nameless, &mut passed).unwrap();
    assert_eq!(passed.cluster, None);
}

#[test]
fn what_cannot_be_done_is_refused_with_its_place() {
    let told = |message, fields| filter(message, fields).err().unwrap();
    assert_eq!(
        told("rbac.v3.RBAC", json!({})),
        "stat_prefix: must not be empty"
    );
    let header = json!([{ "header": { "name": "x" } }]);
    let policy = json!({ "permissions": header, "principals": [{ "any": true }] });
    assert_eq!(
        told(
            "rbac.v3.RBAC",
            json!({ "stat_prefix": "r", "shadow_rules": { "policies": { "p": policy } } })
        ),
        "shadow_rules.policies[\"p\"].permissions[0].header: a connection has no headers"
    );
    assert_eq!(
        told(
            "connection_limit.v3.ConnectionLimit",
            json!({ "stat_prefix": "c" })
        ),
        "max_connections: must be given"
    );
    let value = json!([{ "object_key": "k", "format_string": {
        "text_format_source": { "inline_string": "v" } } }]);
    assert_eq!(
        told(
            "set_filter_state.v3.Config",
            json!({ "on_new_connection": value })
        ),
        "on_new_connection[0].factory_key: objects of the kind \"k\" are not supported"
    );
    assert_eq!(
        told("sni_dynamic_forward_proxy.v3.FilterConfig", json!({})),
        "extension type \"type.googleapis.com/envoy.extensions.filters.network.\
         sni_dynamic_forward_proxy.v3.FilterConfig\" is not supported"
    );
}

#[test]
fn no_bytes_make_a_filter_panic() {
    let mut state = 7_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    };
    for message in names() {
        for length in 0..200 {
            let value: Vec<u8> = (0..length).map(|_| random()).collect();
            let extension = TypedExtension {
                name: "x".into(),
                type_url: format!("type.googleapis.com/{message}"),
                value: value.into(),
            };
            build(&extension, &Context::default()).ok();
        }
    }
}

#[test]
fn what_is_known_of_a_connection_is_left_for_what_comes_after() {
    let value = |key: &str, format: &str| {
        json!({ "object_key": key, "factory_key": "envoy.string",
                "format_string": { "text_format_source": { "inline_string": format } } })
    };
    let config = json!({
        "on_new_connection": [value("peer", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")],
        "on_downstream_tls_handshake": [value("tls", "%DOWNSTREAM_TLS_VERSION%")],
        "on_downstream_data": [value("both", "%FILTER_STATE(peer:PLAIN)% %REQUESTED_SERVER_NAME%")],
    });
    let chain = filter("set_filter_state.v3.Config", config).unwrap();
    let state = StreamState::default();
    let connection = with_state("192.0.2.1:9", &state);
    let mut passed = Passed::default();
    assert!(chain.accept(&connection, &mut passed).is_ok());
    assert_eq!(state.value("peer").as_deref(), Some("192.0.2.1"));
    assert_eq!(state.value("both"), None);
    assert!(chain.open(&connection, &mut passed).is_ok());
    assert_eq!(state.value("both").as_deref(), Some("192.0.2.1 app.test"));
    assert_eq!(state.value("tls"), None, "there was no handshake");

    // Rules see it, too.
    let matcher = json!({ "key": "peer", "string_match": { "exact": "192.0.2.1" } });
    let rules = json!({ "policies": { "p": {
        "permissions": [{ "any": true }], "principals": [{ "filter_state": matcher }],
    } } });
    let rules = filter(
        "rbac.v3.RBAC",
        json!({ "stat_prefix": "r", "rules": rules }),
    )
    .unwrap();
    assert!(rules.open(&connection, &mut passed).is_ok());
    assert!(rules.open(&from("192.0.2.1:9"), &mut passed).is_err());
}

/// Answers each question with these bytes, over gRPC, or not at all.
#[derive(Default)]
struct Authorizer {
    answer: Option<Vec<u8>>,
    asked: RefCell<Vec<CheckRequest>>,
}

impl Authorizer {
    fn calls(self: &Rc<Self>) -> Rc<dyn Calls> {
        let service = Rc::clone(self);
        one_service("authz", move |_, body| {
            let question = CheckRequest::decode(&body[5..]).expect("a message");
            service.asked.borrow_mut().push(question);
            match &service.answer {
                None => Err(CallError::Unreachable("nobody there".into())),
                Some(message) => Ok(over_grpc(message)),
            }
        })
    }
}

/// `CheckResponse`: a status with a code, and metadata with one key.
fn answer(code: i32) -> Vec<u8> {
    let any = json!({
        "@type": "type.googleapis.com/envoy.service.auth.v3.CheckResponse",
        "status": { "code": code },
        "dynamic_metadata": { "who": "alice" },
    });
    text::any_from_value(&any).expect("a message").value
}

#[tokio::test]
async fn a_service_says_whether_a_connection_may_go_on() {
    let config = |more: Value| {
        let mut config = json!({
            "stat_prefix": "a",
            "grpc_service": { "envoy_grpc": { "cluster_name": "authz" } },
            "transport_api_version": "V3",
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        filter("ext_authz.v3.ExtAuthz", config)
    };
    let (strict, lenient) = (json!({}), json!({ "failure_mode_allow": true }));
    for (answered, more, passes) in [
        (Some(answer(0)), &strict, true),
        (Some(Vec::new()), &strict, true),
        (Some(answer(7)), &lenient, false),
        (None, &strict, false),
        (None, &lenient, true),
    ] {
        let chain = config(more.clone()).unwrap();
        assert!(chain.asks());
        let told = answered.as_ref().is_some_and(|answer| !answer.is_empty());
        let service = Rc::new(Authorizer {
            answer: answered,
            ..Authorizer::default()
        });
        let calls = || service.calls();
        let state = Rc::new(StreamState::default());
        let connection = with_state("192.0.2.1:9", &state);
        let asking = Asking {
            calls: &calls,
            state: &state,
        };
        let mut passed = Passed::default();
        let verdict = chain.ask(&connection, &asking, &mut passed).await;
        assert_eq!(verdict.is_ok(), passes, "{more}");
        let asked = service.asked.borrow();
        let source = asked[0].attributes.clone().unwrap().source.unwrap();
        assert!(format!("{source:?}").contains("192.0.2.1"), "{source:?}");
        let noted = state.metadata("envoy.filters.network.ext_authz");
        assert_eq!(noted.is_some(), told);
    }
    let refused = config(json!({ "send_tls_alert_on_denial": true }));
    assert!(refused.unwrap_err().contains("send_tls_alert_on_denial"));
}
