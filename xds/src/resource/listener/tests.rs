use std::time::Duration;

use super::*;
use crate::proto::envoy::extensions::filters::listener as listener_filters;
use crate::proto::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};
use crate::proto::listener::listener_filter_chain_match_predicate::Rule;
use crate::proto::listener::{
    FilterChainMatch, ListenerFilter as ListenerFilterMessage, listener_filter,
};
use crate::proto::tcp_proxy::tcp_proxy as tcp;
use crate::proto::{self, Any, core};
use crate::resource::testing::*;
use crate::resource::tlv::PassTlvs;
use crate::resource::{Resource, effective_name};
use crate::type_url::{ResourceType, pack};

fn tcp_proxy() -> proto::TcpProxy {
    proto::TcpProxy {
        stat_prefix: "tcp".into(),
        cluster_specifier: Some(tcp::ClusterSpecifier::Cluster("db".into())),
        ..Default::default()
    }
}

fn with_tcp(proxy: proto::TcpProxy) -> proto::Listener {
    proto::Listener {
        filter_chains: vec![chain(pack(&proxy))],
        ..listener()
    }
}

fn typed(message: &proto::Listener) -> std::sync::Arc<Listener> {
    match resource(message) {
        Resource::Listener(listener) => listener,
        other => panic!("{other:?}"),
    }
}

fn inspector(name: &str) -> ListenerFilterMessage {
    ListenerFilterMessage {
        name: "x".into(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(name, b""))),
        ..Default::default()
    }
}

#[test]
fn a_small_listener_gets_the_defaults() {
    let listener = typed(&listener());
    assert_eq!(listener.address.to_string(), "127.0.0.1:8080");
    assert_eq!(listener.default_filter_chain, None);
    assert_eq!(listener.filter_chains.len(), 1);
    assert_eq!(listener.filter_chains[0].tls, None);
}

#[test]
fn a_tcp_chain_and_a_pipe_are_read() {
    let mut message = with_tcp(proto::TcpProxy {
        idle_timeout: seconds(0),
        ..tcp_proxy()
    });
    message.address = Some(core::Address {
        address: Some(core::address::Address::Pipe(core::Pipe {
            path: "/run/x.sock".into(),
            mode: 0,
        })),
    });
    let listener = typed(&message);
    assert_eq!(listener.address, Address::Pipe("/run/x.sock".into()));
    let NetworkFilter::Tcp(proxy) = &listener.filter_chains[0].filter else {
        panic!()
    };
    assert_eq!(proxy.clusters, [cluster("db", 1)]);
    assert_eq!(proxy.idle_timeout, Duration::ZERO);
    assert_eq!((proxy.max_connect_attempts, proxy.max_duration), (1, None));

    let listener = typed(&with_tcp(tcp_proxy()));
    let NetworkFilter::Tcp(proxy) = &listener.filter_chains[0].filter else {
        panic!()
    };
    assert_eq!(proxy.idle_timeout, Duration::from_secs(3600));
}

fn cluster(name: &str, weight: u32) -> TcpCluster {
    TcpCluster {
        name: name.to_owned(),
        weight,
        labels: Labels::default(),
    }
}

#[test]
fn what_tunes_a_tcp_proxy_is_read() {
    let lb = |key: &str, value: &str| {
        let fields = [(
            key.to_owned(),
            proto::google::protobuf::Value {
                kind: Some(proto::google::protobuf::value::Kind::StringValue(
                    value.into(),
                )),
            },
        )];
        let fields = proto::google::protobuf::Struct {
            fields: fields.into(),
        };
        Some(core::Metadata {
            filter_metadata: [("envoy.lb".to_owned(), fields)].into(),
            ..Default::default()
        })
    };
    let cluster = tcp::weighted_cluster::ClusterWeight {
        name: "a".to_owned(),
        weight: 1,
        metadata_match: lb("stage", "canary"),
    };
    let read = |message| {
        let listener = typed(&with_tcp(message));
        match &listener.filter_chains[0].filter {
            NetworkFilter::Tcp(proxy) => proxy.clone(),
            other => panic!("{other:?}"),
        }
    };
    let message = proto::TcpProxy {
        cluster_specifier: Some(tcp::ClusterSpecifier::WeightedClusters(
            tcp::WeightedCluster {
                clusters: vec![cluster],
            },
        )),
        metadata_match: lb("zone", "b"),
        hash_policy: vec![proto::envoy::r#type::v3::HashPolicy {
            policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})),
        }],
        backoff_options: Some(core::BackoffStrategy {
            base_interval: seconds(1),
            max_interval: None,
        }),
        max_downstream_connection_duration_jitter_percentage: Some(
            proto::envoy::r#type::v3::Percent { value: 50.0 },
        ),
        access_log_options: Some(tcp::TcpAccessLogOptions {
            access_log_flush_interval: seconds(5),
            flush_access_log_on_connected: true,
            flush_access_log_on_start: false,
        }),
        ..tcp_proxy()
    };
    let proxy = read(message);
    let keys: Vec<_> = proxy.clusters[0]
        .labels
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, ["stage", "zone"]);
    assert_eq!(proxy.hash, Some(TcpHash::SourceIp));
    let wait = Duration::from_secs;
    assert_eq!(proxy.backoff, Some((wait(1), wait(10))));
    assert!((proxy.max_duration_jitter - 50.0).abs() < f64::EPSILON);
    let times = LogTimes {
        start: false,
        connected: true,
        every: wait(5),
    };
    assert_eq!(proxy.log_times, times);
    let plain = read(tcp_proxy());
    assert!(plain.hash.is_none() && plain.backoff.is_none());
    assert_eq!(plain.log_times, LogTimes::default());
}

#[test]
fn connections_of_a_tcp_chain_are_spread_and_limited() {
    let weighted = |name: &str, weight| tcp::weighted_cluster::ClusterWeight {
        name: name.to_owned(),
        weight,
        metadata_match: None,
    };
    let listener = typed(&with_tcp(proto::TcpProxy {
        cluster_specifier: Some(tcp::ClusterSpecifier::WeightedClusters(
            tcp::WeightedCluster {
                clusters: vec![weighted("a", 1), weighted("b", 9)],
            },
        )),
        max_connect_attempts: uint(3),
        max_downstream_connection_duration: seconds(60),
        ..tcp_proxy()
    }));
    let NetworkFilter::Tcp(proxy) = &listener.filter_chains[0].filter else {
        panic!()
    };
    assert_eq!(proxy.clusters, [cluster("a", 1), cluster("b", 9)]);
    assert_eq!(proxy.max_connect_attempts, 3);
    assert_eq!(proxy.max_duration, Some(Duration::from_secs(60)));
}

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

#[test]
fn fields_that_only_tune_are_accepted_and_noted() {
    let mut message = listener();
    message.traffic_direction = 1;
    message.enable_reuse_port = boolean(false);
    message.per_connection_buffer_limit_bytes = uint(32_768);
    message.filter_chains[0].name = "main".into();
    message.listener_filters = vec![inspector(
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    )];
    // The match of a default chain is not looked at.
    let mut default = message.filter_chains[0].clone();
    default.filter_chain_match = Some(FilterChainMatch {
        server_names: vec!["a".into()],
        ..Default::default()
    });
    message.default_filter_chain = Some(default);
    // An empty match is none.
    message.filter_chains[0].filter_chain_match = Some(FilterChainMatch::default());

    let decoded = decoded(&message);
    assert_eq!(
        decoded.ignored,
        [
            "Listener.default_filter_chain.filter_chain_match",
            "Listener.enable_reuse_port",
            "Listener.per_connection_buffer_limit_bytes",
            "Listener.traffic_direction",
        ]
    );
}

#[test]
fn a_listener_without_a_socket_is_for_others() {
    let message = proto::Listener {
        name: "api".into(),
        api_listener: Some(Default::default()),
        ..Default::default()
    };
    let decoded = decoded(&message);
    assert_eq!(decoded.ignored, ["Listener.api_listener"]);
    let listener = typed(&message);
    assert!(!listener.bind_to_port && listener.filter_chains.is_empty());
}

#[test]
fn a_listener_is_refused_by_path() {
    assert_refused(
        listener,
        |l| l,
        "",
        &[
            ("address: must be given", |l| l.address = None),
            ("address: must be given", |l| {
                l.address = Some(core::Address::default())
            }),
            (
                "address.socket_address.address: \"localhost\" is not an IP address",
                |l| {
                    l.address = address("localhost", 1);
                },
            ),
            ("address.socket_address.address: must not be empty", |l| {
                l.address = address("", 1)
            }),
            (
                "address.socket_address.port_value: 65536 is above 65535",
                |l| {
                    l.address = address("::1", 65_536);
                },
            ),
            ("address.socket_address.protocol: not supported yet", |l| {
                let Some(core::address::Address::SocketAddress(socket)) =
                    &mut l.address.as_mut().unwrap().address
                else {
                    panic!()
                };
                socket.protocol = 1;
            }),
            ("address.pipe.mode: not supported yet", |l| {
                l.address = Some(core::Address {
                    address: Some(core::address::Address::Pipe(core::Pipe {
                        path: "/x".into(),
                        mode: 0o600,
                    })),
                });
            }),
            (
                "address.pipe: TLS over a Unix socket is not supported",
                |l| {
                    let tls = proto::DownstreamTlsContext {
                        common_tls_context: Some(proto::tls::CommonTlsContext {
                            tls_certificates: vec![certificate()],
                            ..Default::default()
                        }),
                        ..Default::default()
                    };
                    l.filter_chains[0].transport_socket = transport_socket(pack(&tls));
                    l.address = Some(core::Address {
                        address: Some(core::address::Address::Pipe(core::Pipe {
                            path: "/x".into(),
                            mode: 0,
                        })),
                    });
                },
            ),
            ("additional_addresses[0].address: must be given", |l| {
                l.additional_addresses = vec![Default::default()];
            }),
            ("udp_listener_config: not supported yet", |l| {
                l.udp_listener_config = Some(Default::default());
            }),
            ("listener_filters_timeout: must not be negative", |l| {
                l.listener_filters_timeout = seconds(-1);
            }),
            (
                "listener_filters[0].typed_config: extension type \
             \"type.googleapis.com/test.Other\" is not supported",
                |l| l.listener_filters = vec![inspector("test.Other")],
            ),
            ("filter_chains: must not be empty", |l| {
                l.filter_chains.clear()
            }),
            (
                "filter_chains[1].filter_chain_match: is the same as that of filter_chains[0]",
                |l| {
                    l.filter_chains.push(l.filter_chains[0].clone());
                },
            ),
            (
                "filter_chains[0].filter_chain_match.server_names[0]: \
             must not have a wildcard in the middle",
                |l| {
                    l.filter_chains[0].filter_chain_match = Some(FilterChainMatch {
                        server_names: vec!["a*".into()],
                        ..Default::default()
                    });
                },
            ),
            ("listener_filters[0].name: must not be empty", |l| {
                l.listener_filters = vec![Default::default()];
            }),
            (
                "listener_filters[0].filter_disabled.or_match.rules: must have two or more",
                |l| {
                    l.listener_filters = vec![inspector(
                        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
                    )];
                    l.listener_filters[0].filter_disabled =
                        Some(proto::listener::ListenerFilterChainMatchPredicate {
                            rule: Some(Rule::OrMatch(Default::default())),
                        });
                },
            ),
            ("filter_chains[0].filters: must not be empty", |l| {
                l.filter_chains[0].filters.clear()
            }),
            (
                "filter_chains[0].filters[1]: nothing may follow a filter that ends its chain",
                |l| {
                    let again = l.filter_chains[0].filters[0].clone();
                    l.filter_chains[0].filters.push(again);
                },
            ),
            (
                "filter_chains[0].filters[0].typed_config: extension type \
             \"type.googleapis.com/test.Echo\" is not supported",
                |l| l.filter_chains[0].filters[0] = filter(any("test.Echo", b"")),
            ),
            ("default_filter_chain.filters: must not be empty", |l| {
                l.default_filter_chain = Some(Default::default());
            }),
            (
                "filter_chains[0].transport_socket.typed_config: extension type \
             \"type.googleapis.com/test.Quic\" is not supported",
                |l| l.filter_chains[0].transport_socket = transport_socket(any("test.Quic", b"")),
            ),
        ],
    );
}

#[test]
fn a_tcp_proxy_is_refused_by_path() {
    assert_refused(
        tcp_proxy,
        with_tcp,
        "filter_chains[0].filters[0].typed_config",
        &[
            ("stat_prefix: must not be empty", |p| p.stat_prefix.clear()),
            ("cluster: must be given", |p| p.cluster_specifier = None),
            ("cluster: must not be empty", |p| {
                p.cluster_specifier = Some(tcp::ClusterSpecifier::Cluster(String::new()));
            }),
            ("weighted_clusters.clusters: must not be empty", |p| {
                p.cluster_specifier =
                    Some(tcp::ClusterSpecifier::WeightedClusters(Default::default()));
            }),
            ("tunneling_config.hostname: must not be empty", |p| {
                p.tunneling_config = Some(Default::default())
            }),
            (
                "max_downstream_connection_duration: must be 1 ms or more",
                |p| p.max_downstream_connection_duration = seconds(0),
            ),
            (
                "weighted_clusters.clusters[0].weight: must be 1 or more",
                |p| {
                    let nothing = tcp::weighted_cluster::ClusterWeight {
                        name: "a".into(),
                        ..Default::default()
                    };
                    p.cluster_specifier = Some(tcp::ClusterSpecifier::WeightedClusters(
                        tcp::WeightedCluster {
                            clusters: vec![nothing],
                        },
                    ));
                },
            ),
            (
                "max_connect_attempts: 0 is not within 1 and 4294967295",
                |p| {
                    p.max_connect_attempts = uint(0);
                },
            ),
            ("idle_timeout: must not be negative", |p| {
                p.idle_timeout = seconds(-5)
            }),
            (
                "on_demand: clusters are not asked for by connections: name one that is known",
                |p| p.on_demand = Some(Default::default()),
            ),
            (
                "max_early_data_bytes: must be given with this upstream_connect_mode",
                |p| p.upstream_connect_mode = 1,
            ),
            (
                "max_early_data_bytes: 1048577 is not within 0 and 1048576",
                |p| p.max_early_data_bytes = uint((1 << 20) + 1),
            ),
            ("tunneling_config.post_path: is no path", |p| {
                p.tunneling_config = Some(tcp::TunnelingConfig {
                    hostname: "a:1".into(),
                    use_post: true,
                    post_path: "in".into(),
                    ..Default::default()
                });
            }),
            (
                "tunneling_config.post_path: is for POST, which is not used",
                |p| {
                    p.tunneling_config = Some(tcp::TunnelingConfig {
                        hostname: "a:1".into(),
                        post_path: "/in".into(),
                        ..Default::default()
                    });
                },
            ),
            ("hash_policy[0].filter_state.key: must not be empty", |p| {
                p.hash_policy = vec![proto::envoy::r#type::v3::HashPolicy {
                    policy_specifier: Some(PolicySpecifier::FilterState(Default::default())),
                }];
            }),
            ("access_log[0].typed_config: must be given", |p| {
                p.access_log = vec![Default::default()];
            }),
        ],
    );
}

#[test]
fn broken_bytes_are_refused_where_they_are() {
    let mut message = listener();
    let broken = any(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
    );
    message.filter_chains[0].filters[0] = filter(broken);
    let text = refusal(&message);
    let expected = "filter_chains[0].filters[0].typed_config: bytes do not parse: ";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn a_listener_without_a_name_is_called_by_its_address() {
    let mut message = listener();
    message.name.clear();
    let Resource::Listener(decoded) = resource(&message) else {
        panic!()
    };
    assert_eq!(decoded.name, "127.0.0.1:8080");
    let any = pack(&message);
    let name = effective_name(ResourceType::Listener, &any);
    assert_eq!(name.as_deref(), Some("127.0.0.1:8080"));
    message.address = None;
    assert_eq!(refusal(&message), "address: must be given");
}

#[test]
fn a_listener_may_take_what_was_bound_for_others_and_others_only_what_they_are_given() {
    let mut message = with_tcp(tcp_proxy());
    message.use_original_dst = boolean(true);
    message.bind_to_port = boolean(false);
    let listener = typed(&message);
    assert!(listener.use_original_dst && !listener.bind_to_port);
    // Whoever looks for it does so by a filter, which is there once.
    let kinds = |listener: &Listener| {
        let filters = listener.listener_filters.iter();
        filters.map(|f| f.kind.clone()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&listener), [ListenerFilterKind::OriginalDst]);
}

#[test]
fn a_listener_may_have_several_addresses() {
    let more = |address: &str, port: u32| proto::listener::AdditionalAddress {
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                address: address.into(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
                ..Default::default()
            })),
        }),
        ..Default::default()
    };
    let mut message = with_tcp(tcp_proxy());
    message.additional_addresses = vec![more("127.0.0.2", 80), more("::1", 81)];
    message.transparent = boolean(true);
    let listener = typed(&message);
    let expected = ["127.0.0.2:80", "[::1]:81"].map(|a| a.parse().unwrap());
    assert_eq!(listener.more_addresses, expected);
    assert!(listener.transparent && !listener.freebind);
    for (again, reason) in [
        (
            more("::1", 81),
            "additional_addresses: an address is given twice",
        ),
        (
            more("127.0.0.1", 8080),
            "additional_addresses: an address is given twice",
        ),
        (
            more("a.test", 80),
            "additional_addresses[2].address.socket_address.address: \"a.test\" is not an IP address",
        ),
    ] {
        let mut twice = message.clone();
        twice.additional_addresses.push(again);
        assert_eq!(refusal(&twice), reason);
    }
}
