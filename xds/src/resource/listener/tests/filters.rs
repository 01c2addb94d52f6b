//! Filters of listeners and of connections.

use super::*;

#[test]
fn listener_filters_are_read_in_order() {
    let packed = |any| ListenerFilterMessage {
        name: "x".into(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any)),
        ..Default::default()
    };
    let mut message = listener();
    message.listener_filters = vec![
        packed(pack(&listener_filters::proxy_protocol::v3::ProxyProtocol {
            disallowed_versions: vec![0],
            stat_prefix: "s".into(),
            ..Default::default()
        })),
        packed(pack(&listener_filters::tls_inspector::v3::TlsInspector {
            initial_read_buffer_size: uint(512),
            max_client_hello_size: uint(4096),
            ..Default::default()
        })),
        packed(pack(
            &listener_filters::http_inspector::v3::HttpInspector {},
        )),
        packed(pack(&listener_filters::original_src::v3::OriginalSrc {
            bind_port: true,
            mark: 7,
        })),
    ];
    let predicate = |rule| Some(proto::listener::ListenerFilterChainMatchPredicate { rule });
    let range = proto::envoy::r#type::v3::Int32Range { start: 80, end: 81 };
    message.listener_filters[2].filter_disabled = predicate(Some(Rule::NotMatch(Box::new(
        predicate(Some(Rule::DestinationPortRange(range))).unwrap(),
    ))));
    message.listener_filters_timeout = seconds(0);
    message.continue_on_listener_filters_timeout = true;
    let decoded = decoded(&message);
    let ignored = ["TlsInspector.initial_read_buffer_size"];
    assert_eq!(decoded.ignored, ignored);
    let Resource::Listener(listener) = decoded.resource else {
        panic!()
    };
    assert!(listener.listener_filters_timeout.is_zero());
    assert!(listener.continue_on_listener_filters_timeout);
    let kinds: Vec<_> = listener.listener_filters.iter().map(|f| &f.kind).collect();
    let proxy = ProxyProtocol {
        optional: false,
        version_1: false,
        version_2: true,
        stat_prefix: "s".to_owned(),
        rules: Vec::new(),
        pass: PassTlvs::None,
    };
    let inspector = TlsInspector {
        max_client_hello: 4096,
        close_on_errors: false,
    };
    assert_eq!(*kinds[0], ListenerFilterKind::ProxyProtocol(proxy));
    assert_eq!(*kinds[1], ListenerFilterKind::TlsInspector(inspector));
    assert_eq!(*kinds[2], ListenerFilterKind::HttpInspector);
    let source = OriginalSrc {
        bind_port: true,
        mark: 7,
    };
    assert_eq!(*kinds[3], ListenerFilterKind::OriginalSrc(source));
    let disabled = listener.listener_filters[2].disabled.as_ref().unwrap();
    assert!(!disabled.matches(Some(80)));
    assert!(disabled.matches(Some(81)) && disabled.matches(None));
    let small = typed(&self::listener());
    assert_eq!(small.listener_filters_timeout, Duration::from_secs(15));
}

fn policy(allowed: &[&str]) -> Any {
    pack_as(
        "causeway.v1.ConnectionPolicy",
        &proto::causeway::v1::ConnectionPolicy {
            allowed_client_ips: allowed.iter().map(|ip| (*ip).to_owned()).collect(),
            circuit: "c-1".into(),
            sessions: vec!["s-1".into(), "s-2".into()],
            log: true,
            connect_deadline_ms: 1500,
        },
    )
}

fn pack_as(name: &str, message: &impl proto::Message) -> Any {
    any(name, &message.encode_to_vec())
}

#[test]
fn a_policy_belongs_to_the_tcp_proxy_behind_it() {
    let read = |allowed: &[&str]| {
        let mut message = with_tcp(tcp_proxy());
        let filters = &mut message.filter_chains[0].filters;
        filters.insert(0, filter(policy(allowed)));
        let listener = typed(&message);
        let NetworkFilter::Tcp(proxy) = &listener.filter_chains[0].filter else {
            panic!()
        };
        assert_eq!(proxy.clusters, [cluster("db", 1)]);
        proxy.policy.clone()
    };
    let some = read(&["10.1.2.3/8", "192.0.2.1", "2001:db8::/32"]);
    assert_eq!(some.circuit, "c-1");
    assert_eq!(some.sessions, ["s-1", "s-2"]);
    assert_eq!(some.connect_deadline, Some(Duration::from_millis(1500)));
    for (peer, admitted) in [
        ("10.200.0.1", true),
        ("::ffff:10.200.0.1", true),
        ("192.0.2.1", true),
        ("192.0.2.2", false),
        ("2001:db8::5", true),
        ("::1", false),
    ] {
        assert_eq!(some.admits(Some(peer.parse().unwrap())), admitted, "{peer}");
    }
    assert!(!some.admits(None));
    let all = read(&[]);
    assert!(all.admits(None) && all.admits(Some("::1".parse().unwrap())));
}

#[test]
fn a_policy_has_its_place() {
    let place = "filter_chains[0].filters";
    let order = |filters: Vec<Any>| {
        let mut message = listener();
        message.filter_chains[0].filters = filters.into_iter().map(filter).collect();
        refusal(&message)
    };
    let (http, tcp) = (pack(&manager()), pack(&tcp_proxy()));
    for (filters, refused) in [
        (
            vec![policy(&[]), policy(&[]), tcp.clone()],
            "[1]: is given twice",
        ),
        (vec![policy(&[])], "[0]: must stand before tcp_proxy"),
        (vec![policy(&[]), http], "[0]: must stand before tcp_proxy"),
        (
            vec![tcp.clone(), policy(&[])],
            "[1]: nothing may follow a filter that ends its chain",
        ),
        (
            vec![policy(&["::1", "x"]), tcp],
            "[0].typed_config.allowed_client_ips[1]: \"x\" is no address and no network",
        ),
    ] {
        assert_eq!(order(filters), format!("{place}{refused}"));
    }
}

fn chain_of(filters: Vec<Any>) -> proto::Listener {
    let mut message = listener();
    message.filter_chains[0].filters = filters.into_iter().map(filter).collect();
    message
}

#[test]
fn a_chain_may_end_in_an_echo_or_in_fixed_bytes() {
    let ends_in = |config: Any| {
        let Resource::Listener(listener) = resource(&chain_of(vec![config])) else {
            panic!()
        };
        listener.filter_chains[0].filter.clone()
    };
    let echo = any("envoy.extensions.filters.network.echo.v3.Echo", b"");
    assert_eq!(ends_in(echo.clone()), NetworkFilter::Echo);
    // `response.inline_string`
    let name = "envoy.extensions.filters.network.direct_response.v3.Config";
    let direct = any(name, b"\x0a\x04\x1a\x02hi");
    assert_eq!(ends_in(direct), NetworkFilter::Direct(b"hi".to_vec()));
    let at = "filter_chains[0].filters";
    assert_eq!(
        refusal(&chain_of(vec![echo.clone(), echo])),
        format!("{at}[1]: nothing may follow a filter that ends its chain")
    );
    assert_eq!(
        refusal(&chain_of(vec![any("test.Unknown", b"")])),
        format!(
            "{at}[0].typed_config: extension type \"type.googleapis.com/test.Unknown\" is not supported"
        )
    );
}

#[test]
fn filters_that_only_observe_are_left_out_and_noted() {
    let stats = any("stats.PluginConfig", b"x");
    // A `TypedStruct`, whose first field is a type.
    let inner = b"\x0a\x12stats.PluginConfig";
    let wrapped = any("udpa.type.v1.TypedStruct", inner);
    let message = chain_of(vec![stats, wrapped, pack(&tcp_proxy())]);
    assert_eq!(decoded(&message).ignored, ["Filter.observing_filter"]);
    let Resource::Listener(listener) = resource(&message) else {
        panic!()
    };
    assert!(listener.filter_chains[0].before.is_empty());
}
