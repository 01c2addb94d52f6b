use std::collections::HashMap;

use super::*;
use crate::proto::core::{self, Metadata};
use crate::proto::endpoint::{self, lb_endpoint::HostIdentifier};
use crate::proto::envoy::config::cluster::v3 as cluster_proto;
use crate::proto::envoy::config::cluster::v3::cluster::{
    self as inner, ClusterDiscoveryType, EdsClusterConfig, LbConfig,
};
use crate::proto::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use crate::proto::envoy::r#type::v3::Percent;
use crate::proto::google::protobuf::{Struct, Value, value};
use crate::proto::upstream_http::http_protocol_options as upstream;
use crate::proto::{self, HttpProtocolOptions};
use crate::resource::testing::*;
use crate::resource::{Address, Resource};
use crate::type_url::{ResourceType, pack};

mod connection;
mod endpoints;
mod health_check;
mod load_reports;
mod names;
mod original_dst;
mod policy;

const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn typed(message: &proto::Cluster) -> Cluster {
    let Resource::Cluster(cluster) = resource(message) else {
        panic!()
    };
    (*cluster).clone()
}

fn eds() -> proto::Cluster {
    proto::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(3)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: same_origin(),
            ..Default::default()
        }),
        ..cluster()
    }
}

fn explicit(config: upstream::explicit_http_config::ProtocolConfig) -> HttpProtocolOptions {
    HttpProtocolOptions {
        upstream_protocol_options: Some(upstream::UpstreamProtocolOptions::ExplicitHttpConfig(
            upstream::ExplicitHttpConfig {
                protocol_config: Some(config),
            },
        )),
        ..Default::default()
    }
}

fn http2_options() -> HttpProtocolOptions {
    explicit(
        upstream::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(Default::default()),
    )
}

fn with_http(options: HttpProtocolOptions) -> proto::Cluster {
    proto::Cluster {
        typed_extension_protocol_options: HashMap::from([(HTTP.to_owned(), pack(&options))]),
        ..cluster()
    }
}

fn policies(names: &[&str]) -> Option<cluster_proto::LoadBalancingPolicy> {
    let policies = names
        .iter()
        .map(|name| cluster_proto::load_balancing_policy::Policy {
            typed_extension_config: Some(extension(name)),
        })
        .collect();
    Some(cluster_proto::LoadBalancingPolicy { policies })
}

fn endpoint_at(address: Option<core::Address>) -> endpoint::LbEndpoint {
    endpoint::LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint::Endpoint {
            address,
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn assignment() -> proto::ClusterLoadAssignment {
    proto::ClusterLoadAssignment {
        cluster_name: "app".into(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint_at(address("10.0.0.1", 80))],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn a_small_cluster_gets_envoys_defaults() {
    let cluster = typed(&cluster());
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.balancing, Balancing::default());
    assert_eq!(cluster.limits, Limits::default());
    assert_eq!(cluster.http, UpstreamHttp::default());
    let Discovery::Static(assignment) = cluster.discovery else {
        panic!()
    };
    assert_eq!(
        (
            assignment.cluster_name.as_str(),
            assignment.localities.len()
        ),
        ("app", 0)
    );
}

#[test]
fn an_eds_cluster_refers_to_its_endpoints() {
    let references = resource(&eds()).references();
    assert_eq!(
        (references[0].kind, references[0].name.as_str()),
        (ResourceType::LoadAssignment, "app")
    );
    let mut message = eds();
    message.eds_cluster_config.as_mut().unwrap().service_name = "service".into();
    assert_eq!(resource(&message).references()[0].name, "service");
}

#[test]
fn limits_and_keepalive_are_read() {
    use cluster_proto::circuit_breakers::Thresholds;
    let mut message = cluster();
    message.circuit_breakers = Some(cluster_proto::CircuitBreakers {
        thresholds: vec![
            Thresholds {
                priority: 1,
                max_requests: uint(1),
                ..Default::default()
            },
            Thresholds {
                max_requests: uint(2),
                max_retries: uint(0),
                ..Default::default()
            },
            Thresholds {
                max_requests: uint(3),
                ..Default::default()
            },
        ],
        ..Default::default()
    });
    message.upstream_connection_options = Some(cluster_proto::UpstreamConnectionOptions {
        tcp_keepalive: Some(core::TcpKeepalive {
            keepalive_time: uint(30),
            ..Default::default()
        }),
        ..Default::default()
    });
    assert!(decoded(&message).ignored.is_empty());
    let cluster = typed(&message);
    assert_eq!(
        cluster.limits,
        Limits {
            max_requests: 2,
            max_retries: 0,
            ..Limits::default()
        }
    );
    assert_eq!(cluster.high_limits.max_requests, 1);
    let keepalive = cluster.tcp_keepalive.unwrap();
    assert_eq!(
        (keepalive.time, keepalive.probes),
        (Some(Duration::from_secs(30)), None)
    );
}

#[test]
fn the_protocol_is_read_from_either_place() {
    use crate::proto::route::route_action::hash_policy::{self, PolicySpecifier};
    use crate::resource::route::HashBy;
    let mut options = http2_options();
    options.common_http_protocol_options = Some(core::HttpProtocolOptions {
        idle_timeout: seconds(0),
        max_requests_per_connection: uint(8),
        max_connection_duration: seconds(5),
        max_stream_duration: seconds(6),
        ..Default::default()
    });
    let by_address = crate::proto::route::route_action::HashPolicy {
        policy_specifier: Some(PolicySpecifier::ConnectionProperties(
            hash_policy::ConnectionProperties { source_ip: true },
        )),
        terminal: false,
    };
    options.hash_policy = vec![by_address];
    let http = typed(&with_http(options)).http.clone();
    assert_eq!(http.hash_policy[0].by, HashBy::SourceIp);
    assert_eq!(
        http.protocol,
        UpstreamProtocol::Http2(Http2Options::default())
    );
    assert_eq!(
        (http.idle_timeout, http.max_requests_per_connection),
        (Duration::ZERO, 8)
    );
    assert_eq!(http.max_connection_duration, Duration::from_secs(5));
    assert_eq!(http.max_stream_duration, Duration::from_secs(6));

    let mut message = with_http(http2_options());
    #[allow(deprecated, reason = "the older place is the subject")]
    {
        message.max_requests_per_connection = uint(3);
    }
    assert_eq!(typed(&message).http.max_requests_per_connection, 3);

    let mut message = cluster();
    #[allow(deprecated, reason = "the older place is the subject")]
    {
        message.http2_protocol_options = Some(Default::default());
    }
    assert_eq!(
        typed(&message).http.protocol,
        UpstreamProtocol::Http2(Http2Options::default())
    );
}

#[test]
fn a_cluster_is_refused_by_path() {
    fn least_request(cluster: &mut proto::Cluster, change: fn(&mut LeastRequest)) {
        let mut config = LeastRequest::default();
        change(&mut config);
        cluster.load_balancing_policy = policies(&["x"]);
        let policy = &mut cluster.load_balancing_policy.as_mut().unwrap().policies[0];
        policy.typed_extension_config.as_mut().unwrap().typed_config = Some(pack(&config));
    }
    assert_refused(
        cluster,
        |c| c,
        "",
        &[
            ("name: must not be empty", |c| c.name.clear()),
            ("connect_timeout: must be greater than zero", |c| {
                c.connect_timeout = seconds(0)
            }),
            ("connect_timeout: must not be negative", |c| {
                c.connect_timeout = seconds(-1)
            }),
            ("type: 9 is not a known value", |c| {
                c.cluster_discovery_type = Some(ClusterDiscoveryType::Type(9));
            }),
            ("cluster_type.name: must not be empty", |c| {
                c.cluster_discovery_type =
                    Some(ClusterDiscoveryType::ClusterType(Default::default()));
            }),
            ("eds_cluster_config: the cluster is not of type EDS", |c| {
                c.eds_cluster_config = Some(Default::default());
            }),
            ("eds_cluster_config: must be given", |c| {
                c.cluster_discovery_type = Some(ClusterDiscoveryType::Type(3));
            }),
            ("eds_cluster_config.eds_config: must be given", |c| {
                *c = eds();
                c.eds_cluster_config = Some(Default::default());
            }),
            ("load_assignment: the cluster is of type EDS", |c| {
                *c = eds();
                c.load_assignment = Some(assignment());
            }),
            ("load_assignment.cluster_name: must not be empty", |c| {
                c.load_assignment = Some(Default::default());
            }),
            ("health_checks: only one is supported", |c| {
                c.health_checks = vec![Default::default(), Default::default()]
            }),
            ("health_checks[0].interval: must be given", |c| {
                c.health_checks = vec![Default::default()]
            }),
            ("outlier_detection.monitors: not supported yet", |c| {
                c.outlier_detection = Some(cluster_proto::OutlierDetection {
                    monitors: vec![Default::default()],
                    ..Default::default()
                });
            }),
            (
                "upstream_bind_config.socket_options: not supported yet",
                |c| {
                    c.upstream_bind_config = Some(core::BindConfig {
                        socket_options: vec![Default::default()],
                        ..Default::default()
                    });
                },
            ),
            (
                "transport_socket_matches[0].transport_socket: must be given",
                |c| c.transport_socket_matches = vec![Default::default()],
            ),
            (
                "lb_policy: CLUSTER_PROVIDED does not fit the type of the cluster",
                |c| c.lb_policy = 6,
            ),
            (
                "round_robin_lb_config.slow_start_config.slow_start_window: must not be negative",
                |c| {
                    c.lb_config = Some(LbConfig::RoundRobinLbConfig(inner::RoundRobinLbConfig {
                        slow_start_config: Some(inner::SlowStartConfig {
                            slow_start_window: seconds(-1),
                            ..Default::default()
                        }),
                    }));
                },
            ),
            (
                "load_balancing_policy.policies: extension type \
             \"type.googleapis.com/test.Maglev\" is not supported",
                |c| c.load_balancing_policy = policies(&["test.Maglev"]),
            ),
            ("load_balancing_policy.policies: must not be empty", |c| {
                c.load_balancing_policy = policies(&[]);
            }),
            (
                "load_balancing_policy.policies[0].typed_extension_config.typed_config.\
             selection_method: 7 is not a known value",
                |c| least_request(c, |l| l.selection_method = 7),
            ),
            (
                "load_balancing_policy.policies[0].typed_extension_config.typed_config.\
             choice_count: 1 is not within 2 and 4294967295",
                |c| least_request(c, |l| l.choice_count = uint(1)),
            ),
            (
                "common_lb_config.override_host_status.statuses[0]: 9 is not a known value",
                |c| {
                    c.common_lb_config = Some(inner::CommonLbConfig {
                        override_host_status: Some(core::HealthStatusSet { statuses: vec![9] }),
                        ..Default::default()
                    });
                },
            ),
            (
                "circuit_breakers.thresholds[0].retry_budget.budget_percent: \
                 101 is not within 0 and 100",
                |c| {
                    c.circuit_breakers = Some(cluster_proto::CircuitBreakers {
                        thresholds: vec![cluster_proto::circuit_breakers::Thresholds {
                            retry_budget: Some(
                                cluster_proto::circuit_breakers::thresholds::RetryBudget {
                                    budget_percent: Some(Percent { value: 101.0 }),
                                    ..Default::default()
                                },
                            ),
                            ..Default::default()
                        }],
                        ..Default::default()
                    });
                },
            ),
            (
                "circuit_breakers.per_host_thresholds: not supported yet",
                |c| {
                    c.circuit_breakers = Some(cluster_proto::CircuitBreakers {
                        per_host_thresholds: vec![Default::default()],
                        ..Default::default()
                    });
                },
            ),
            (
                "typed_extension_protocol_options[\"redis\"]: extension type \
             \"type.googleapis.com/test.Redis\" is not supported",
                |c| {
                    c.typed_extension_protocol_options
                        .insert("redis".into(), any("test.Redis", b""));
                },
            ),
            (
                "upstream_connection_options.tcp_keepalive.keepalive_probes: 0 is not within 1 and 127",
                |c| {
                    c.upstream_connection_options =
                        Some(cluster_proto::UpstreamConnectionOptions {
                            tcp_keepalive: Some(core::TcpKeepalive {
                                keepalive_probes: uint(0),
                                ..Default::default()
                            }),
                            ..Default::default()
                        });
                },
            ),
        ],
    );
}

#[test]
fn names_protocols_and_clients_can_go_with_the_request() {
    use crate::proto::envoy::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;
    let mut options = http2_options();
    options.upstream_http_protocol_options = Some(core::UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: true,
        override_auto_sni_header: "X-Name".into(),
    });
    options.upstream_protocol_options = Some(upstream::UpstreamProtocolOptions::AutoConfig(
        Default::default(),
    ));
    let mut message = with_http(options);
    let without_tls = "transport_socket: must be TLS with auto_config";
    assert_eq!(refusal(&message), without_tls);

    let tls = transport_socket(pack(&crate::proto::UpstreamTlsContext::default()));
    let outer = |version, inner| {
        let config = core::ProxyProtocolConfig {
            version,
            pass_through_tlvs: Some(Default::default()),
            added_tlvs: vec![core::TlvEntry {
                r#type: 2,
                value: b"own".to_vec(),
                format_string: None,
            }],
        };
        transport_socket(pack(&proxy_protocol::ProxyProtocolUpstreamTransport {
            config: Some(config),
            transport_socket: inner,
            ..Default::default()
        }))
    };
    message.transport_socket = outer(1, tls.clone());
    let Resource::Cluster(cluster) = resource(&message) else {
        panic!()
    };
    assert!(cluster.tls.is_some());
    let spoken = cluster.proxy_protocol.as_ref().unwrap();
    assert_eq!(spoken.version, ProxyProtocolVersion::V2);
    let tlv = |kind| Tlv {
        kind,
        value: b"client's".to_vec(),
    };
    assert!(spoken.passes(&tlv(1)) && !spoken.passes(&tlv(2)));
    assert!(matches!(cluster.http.protocol, UpstreamProtocol::Auto(_)));
    assert!(cluster.http.auto_san_validation);
    let header = cluster.http.auto_sni.as_ref().map(|sni| &*sni.header);
    assert_eq!(header, Some("x-name"));

    let at = "transport_socket.typed_config";
    message.transport_socket = outer(9, tls);
    assert_eq!(
        refusal(&message),
        format!("{at}.config.version: 9 is not a known value")
    );
    message.transport_socket = outer(0, None);
    assert_eq!(
        refusal(&message),
        format!("{at}.transport_socket: must be given")
    );
}

#[test]
fn http_options_are_refused_by_path() {
    let at = format!("typed_extension_protocol_options[\"{HTTP}\"]");
    assert_refused(
        http2_options,
        with_http,
        &at,
        &[
            ("upstream_protocol_options: must be given", |o| {
                o.upstream_protocol_options = None
            }),
            (
                "auto_config.http3_protocol_options: not supported yet",
                |o| {
                    o.upstream_protocol_options = Some(
                        upstream::UpstreamProtocolOptions::AutoConfig(upstream::AutoHttpConfig {
                            http3_protocol_options: Some(Default::default()),
                            ..Default::default()
                        }),
                    );
                },
            ),
            ("use_downstream_protocol_config: not supported yet", |o| {
                o.upstream_protocol_options = Some(
                    upstream::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
                        Default::default(),
                    ),
                );
            }),
            ("explicit_http_config.protocol_config: must be given", |o| {
                o.upstream_protocol_options = Some(
                    upstream::UpstreamProtocolOptions::ExplicitHttpConfig(Default::default()),
                );
            }),
            (
                "explicit_http_config.http3_protocol_options: not supported yet",
                |o| {
                    *o = explicit(
                        upstream::explicit_http_config::ProtocolConfig::Http3ProtocolOptions(
                            Default::default(),
                        ),
                    );
                },
            ),
            (
                "explicit_http_config.http_protocol_options.allow_chunked_length: not supported yet",
                |o| {
                    *o = explicit(
                        upstream::explicit_http_config::ProtocolConfig::HttpProtocolOptions(
                            core::Http1ProtocolOptions {
                                allow_chunked_length: true,
                                ..Default::default()
                            },
                        ),
                    );
                },
            ),
            (
                "upstream_http_protocol_options.override_auto_sni_header: is no name of a header",
                |o| {
                    o.upstream_http_protocol_options = Some(core::UpstreamHttpProtocolOptions {
                        override_auto_sni_header: "a b".into(),
                        ..Default::default()
                    });
                },
            ),
            (
                "common_http_protocol_options.max_stream_duration: must not be negative",
                |o| {
                    o.common_http_protocol_options = Some(core::HttpProtocolOptions {
                        max_stream_duration: seconds(-1),
                        ..Default::default()
                    });
                },
            ),
        ],
    );
}

#[test]
fn an_assignment_is_refused_by_path() {
    fn first(a: &mut proto::ClusterLoadAssignment) -> &mut endpoint::LbEndpoint {
        &mut a.endpoints[0].lb_endpoints[0]
    }
    assert_refused(
        assignment,
        |a| a,
        "",
        &[
            ("cluster_name: must not be empty", |a| {
                a.cluster_name.clear()
            }),
            ("named_endpoints: not supported yet", |a| {
                a.named_endpoints.insert("x".into(), Default::default());
            }),
            ("policy.drop_overloads: not supported yet", |a| {
                a.policy = Some(endpoint::cluster_load_assignment::Policy {
                    drop_overloads: vec![Default::default()],
                    ..Default::default()
                });
            }),
            ("endpoints[0].priority: 129 is above 128", |a| {
                a.endpoints[0].priority = 129
            }),
            (
                "endpoints[0].load_balancing_weight: 0 is not within 1 and 4294967295",
                |a| {
                    a.endpoints[0].load_balancing_weight = uint(0);
                },
            ),
            (
                "endpoints[0].leds_cluster_locality_config: not supported yet",
                |a| {
                    a.endpoints[0].lb_config = Some(
                        endpoint::locality_lb_endpoints::LbConfig::LedsClusterLocalityConfig(
                            Default::default(),
                        ),
                    );
                },
            ),
            (
                "endpoints[0].lb_endpoints: the weights add up to more than 2^32 - 1",
                |a| {
                    first(a).load_balancing_weight = uint(u32::MAX);
                    let again = first(a).clone();
                    a.endpoints[0].lb_endpoints.push(again);
                },
            ),
            (
                "endpoints[0].lb_endpoints[0].load_balancing_weight: \
             0 is not within 1 and 4294967295",
                |a| first(a).load_balancing_weight = uint(0),
            ),
            (
                "endpoints[0].lb_endpoints[0].health_status: 6 is not a known value",
                |a| {
                    first(a).health_status = 6;
                },
            ),
            (
                "endpoints[0].lb_endpoints[0].endpoint: must be given",
                |a| {
                    first(a).host_identifier = None;
                },
            ),
            (
                "endpoints[0].lb_endpoints[0].endpoint_name: not supported yet",
                |a| {
                    first(a).host_identifier = Some(HostIdentifier::EndpointName("x".into()));
                },
            ),
            (
                "endpoints[0].lb_endpoints[0].endpoint.address: must be given",
                |a| {
                    *first(a) = endpoint_at(None);
                },
            ),
            (
                "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \
             \"db.test\" is not an IP address",
                |a| *first(a) = endpoint_at(address("db.test", 1)),
            ),
            (
                "endpoints[0].lb_endpoints[0].metadata.filter_metadata[\"causeway\"].id: \
             is not a string",
                |a| {
                    let id = Value {
                        kind: Some(value::Kind::BoolValue(true)),
                    };
                    let ours = Struct {
                        fields: HashMap::from([("id".to_owned(), id)]),
                    };
                    first(a).metadata = Some(Metadata {
                        filter_metadata: HashMap::from([("causeway".to_owned(), ours)]),
                        ..Default::default()
                    });
                },
            ),
        ],
    );
}

#[test]
fn what_nobody_reads_of_endpoints_is_accepted_and_noted() {
    let mut message = assignment();
    message.endpoints[0].metadata = Some(Metadata {
        filter_metadata: HashMap::from([("app".to_owned(), Struct::default())]),
        ..Default::default()
    });
    message.endpoints[0].lb_endpoints[0].metadata = Some(Metadata {
        typed_filter_metadata: HashMap::from([("app".to_owned(), proto::Any::default())]),
        ..Default::default()
    });
    assert_eq!(
        decoded(&message).ignored,
        ["LbEndpoint.metadata", "LocalityLbEndpoints.metadata"]
    );
}

#[test]
fn streams_to_an_endpoint_are_bounded_by_the_endpoint() {
    use upstream::explicit_http_config::ProtocolConfig;
    let options = core::Http2ProtocolOptions {
        max_concurrent_streams: uint(7),
        ..Default::default()
    };
    let message = with_http(explicit(ProtocolConfig::Http2ProtocolOptions(options)));
    assert_eq!(
        decoded(&message).ignored,
        ["Cluster.Http2ProtocolOptions.max_concurrent_streams"]
    );
    let options = Http2Options::default();
    assert_eq!(
        typed(&message).http.protocol,
        UpstreamProtocol::Http2(options)
    );
}

#[test]
fn pings_of_a_connection_are_read() {
    use upstream::explicit_http_config::ProtocolConfig;
    let with = |interval, timeout| {
        let options = core::Http2ProtocolOptions {
            connection_keepalive: Some(core::KeepaliveSettings {
                interval,
                timeout,
                interval_jitter: Some(Default::default()),
                ..Default::default()
            }),
            ..Default::default()
        };
        with_http(explicit(ProtocolConfig::Http2ProtocolOptions(options)))
    };
    let keepalive = |message| match &typed(message).http.protocol {
        UpstreamProtocol::Http2(options) | UpstreamProtocol::Auto(options) => options.keepalive,
        UpstreamProtocol::Http1 => panic!(),
    };
    let expected = Http2Keepalive {
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
    };
    let message = with(seconds(30), seconds(5));
    assert_eq!(keepalive(&message), Some(expected));
    assert_eq!(
        decoded(&message).ignored,
        ["KeepaliveSettings.interval_jitter"]
    );
    assert_eq!(keepalive(&with(None, seconds(5))), None);
    let at = "explicit_http_config.http2_protocol_options.connection_keepalive";
    for (message, want) in [
        (with(seconds(30), None), "timeout: must be given"),
        (with(seconds(0), seconds(1)), "interval: is less than 1 ms"),
    ] {
        let error = refusal(&message);
        assert!(error.ends_with(&format!("{at}.{want}")), "{error}");
    }
}

#[test]
fn a_config_source_is_refused_by_path() {
    use core::config_source::ConfigSourceSpecifier as Specifier;
    fn source(cluster: &mut proto::Cluster) -> &mut core::ConfigSource {
        cluster
            .eds_cluster_config
            .as_mut()
            .unwrap()
            .eds_config
            .as_mut()
            .unwrap()
    }
    assert_refused(
        eds,
        |c| c,
        "eds_cluster_config.eds_config",
        &[
            ("config_source_specifier: must be given", |c| {
                source(c).config_source_specifier = None
            }),
            ("api_config_source.api_type: must be given", |c| {
                source(c).config_source_specifier =
                    Some(Specifier::ApiConfigSource(Default::default()));
            }),
            ("path_config_source.path: must not be empty", |c| {
                source(c).config_source_specifier =
                    Some(Specifier::PathConfigSource(Default::default()));
            }),
            (
                "resource_api_version: V2 of the API is no longer supported",
                |c| {
                    source(c).resource_api_version = 1;
                },
            ),
            ("authorities: not supported yet", |c| {
                source(c).authorities = vec![Default::default()];
            }),
            ("initial_fetch_timeout: is not a valid duration", |c| {
                source(c).initial_fetch_timeout = seconds(i64::MAX);
            }),
        ],
    );
}
