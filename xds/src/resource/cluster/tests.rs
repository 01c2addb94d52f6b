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

mod assignment;
mod connection;
mod endpoints;
mod health_check;
mod load_reports;
mod names;
mod original_dst;
mod policy;
mod protocol;

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
