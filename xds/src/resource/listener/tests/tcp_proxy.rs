//! TCP proxies.

use super::*;

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
                "on_demand: not supported: clusters are not asked for by connections, name one that is known",
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
