mod filters;
mod tcp_proxy;

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

fn cluster(name: &str, weight: u32) -> TcpCluster {
    TcpCluster {
        name: name.to_owned(),
        weight,
        labels: Labels::default(),
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
