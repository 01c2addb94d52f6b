//! What a route does with a request.

use super::*;

fn weighted(clusters: &[(&str, Option<u32>)]) -> route_action::ClusterSpecifier {
    let cluster = |(name, weight): &(&str, Option<u32>)| route::weighted_cluster::ClusterWeight {
        name: (*name).into(),
        weight: weight.map(|value| proto::UInt32Value { value }),
        ..Default::default()
    };
    route_action::ClusterSpecifier::WeightedClusters(route::WeightedCluster {
        clusters: clusters.iter().map(cluster).collect(),
        ..Default::default()
    })
}

#[test]
fn the_names_of_all_clusters_are_known() {
    let names = |specifier| {
        let forward = forwarded(route::RouteAction {
            cluster_specifier: Some(specifier),
            ..forward()
        });
        let names: Vec<String> = forward.destination.names().map(str::to_owned).collect();
        names
    };
    assert_eq!(
        names(weighted(&[("a", Some(0)), ("b", Some(2))])),
        ["a", "b"]
    );
    let by_header = route_action::ClusterSpecifier::ClusterHeader("X-C".into());
    assert!(names(by_header).is_empty());
}

#[test]
fn a_route_action_is_refused_by_path() {
    use route_action::ClusterSpecifier as Cluster;
    fn in_route(action: route::RouteAction) -> proto::RouteConfiguration {
        in_table(to(action))
    }
    assert_refused(
        forward,
        in_route,
        &format!("{ROUTE}.route"),
        &[
            ("cluster_specifier: must be given", |a| {
                a.cluster_specifier = None
            }),
            ("cluster: must not be empty", |a| {
                a.cluster_specifier = Some(Cluster::Cluster(String::new()));
            }),
            ("weighted_clusters.clusters: must not be empty", |a| {
                a.cluster_specifier = Some(Cluster::WeightedClusters(Default::default()));
            }),
            (
                "weighted_clusters.clusters[0].name: or cluster_header must be given",
                |a| a.cluster_specifier = Some(weighted(&[("", Some(1))])),
            ),
            ("weighted_clusters.clusters[0].weight: must be given", |a| {
                a.cluster_specifier = Some(weighted(&[("a", None)]));
            }),
            (
                "weighted_clusters.clusters: weights sum up to 0, not to 1 up to 4294967295",
                |a| a.cluster_specifier = Some(weighted(&[("a", Some(0))])),
            ),
            (
                "weighted_clusters.clusters: weights sum up to 4294967296, not to 1 up to 4294967295",
                |a| {
                    a.cluster_specifier = Some(weighted(&[("a", Some(u32::MAX)), ("b", Some(1))]));
                },
            ),
            (
                "retry_policy.retry_on: \"whatever\" is not supported",
                |a| {
                    a.retry_policy = Some(route::RetryPolicy {
                        retry_on: "connect-failure,whatever".into(),
                        ..Default::default()
                    })
                },
            ),
            (
                "retry_policy.retry_back_off.base_interval: must be given",
                |a| {
                    a.retry_policy = Some(route::RetryPolicy {
                        retry_back_off: Some(Default::default()),
                        ..Default::default()
                    });
                },
            ),
            (
                "retry_policy.retry_back_off.max_interval: is below base_interval",
                |a| {
                    a.retry_policy = Some(route::RetryPolicy {
                        retry_back_off: Some(route::retry_policy::RetryBackOff {
                            base_interval: seconds(2),
                            max_interval: seconds(1),
                        }),
                        ..Default::default()
                    });
                },
            ),
            (
                "retry_policy.rate_limited_retry_back_off.reset_headers: must not be empty",
                |a| {
                    a.retry_policy = Some(route::RetryPolicy {
                        rate_limited_retry_back_off: Some(Default::default()),
                        ..Default::default()
                    });
                },
            ),
            ("retry_policy.retry_priority: not supported yet", |a| {
                a.retry_policy = Some(route::RetryPolicy {
                    retry_priority: Some(Default::default()),
                    ..Default::default()
                });
            }),
            ("hedge_policy: not supported yet", |a| {
                a.hedge_policy = Some(Default::default());
            }),
            ("hash_policy[0].policy_specifier: must be given", |a| {
                a.hash_policy = vec![Default::default()]
            }),
            ("hash_policy[0].cookie.path: contains a semicolon", |a| {
                a.hash_policy = vec![route_action::HashPolicy {
                    policy_specifier: Some(route_action::hash_policy::PolicySpecifier::Cookie(
                        route_action::hash_policy::Cookie {
                            name: "c".into(),
                            path: "/; Secure".into(),
                            ..Default::default()
                        },
                    )),
                    ..Default::default()
                }];
            }),
            ("timeout: must not be negative", |a| a.timeout = seconds(-1)),
            (
                "prefix_rewrite: only one of it, regex_rewrite and path_rewrite_policy may be given",
                |a| {
                    a.prefix_rewrite = "/".into();
                    a.regex_rewrite = Some(substitute("a", "b"));
                },
            ),
            (
                "regex_rewrite.pattern.regex: does not compile: unclosed group",
                |a| {
                    a.regex_rewrite = Some(substitute("(", "b"));
                },
            ),
            (
                "regex_rewrite.substitution: group 2 is not in the pattern",
                |a| {
                    a.regex_rewrite = Some(substitute("(a)", r"\2"));
                },
            ),
            (
                "regex_rewrite.substitution: a backslash stands before a digit or a backslash only",
                |a| a.regex_rewrite = Some(substitute("(a)", r"\")),
            ),
            (
                "cluster_not_found_response_code: 9 is not a known value",
                |a| {
                    a.cluster_not_found_response_code = 9;
                },
            ),
            (
                "upgrade_configs[0].connect_config: is for the upgrade type CONNECT",
                |a| {
                    a.upgrade_configs = vec![route_action::UpgradeConfig {
                        upgrade_type: "x".into(),
                        connect_config: Some(Default::default()),
                        ..Default::default()
                    }];
                },
            ),
        ],
    );
}

#[test]
fn a_retry_policy_takes_requests_elsewhere() {
    use crate::proto::UInt32Value;
    use crate::proto::route::retry_policy::{RetryHostPredicate, retry_host_predicate};
    let policy = |retry_on: &str, retries: Option<u32>, predicate: bool| {
        let any = crate::proto::Any {
            type_url: "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.\
                       PreviousHostsPredicate"
                .into(),
            value: vec![],
        };
        let predicate = predicate.then(|| RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any)),
        });
        let policy = route::RetryPolicy {
            retry_on: retry_on.into(),
            num_retries: retries.map(|value| UInt32Value { value }),
            retry_host_predicate: predicate.into_iter().collect(),
            host_selection_retry_max_attempts: 3,
            ..Default::default()
        };
        let retry = forwarded(route::RouteAction {
            retry_policy: Some(policy),
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster("c".into())),
            ..Default::default()
        })
        .retry
        .unwrap();
        (retry.on, retry.retries, retry.other_hosts)
    };
    let connect = RetryOn::CONNECT_FAILURE;
    assert_eq!(policy("", Some(5), false), (RetryOn::default(), 5, 0));
    assert_eq!(policy("connect-failure", None, false), (connect, 1, 0));
    let both = connect.or(RetryOn::GRPC_INTERNAL);
    assert_eq!(
        policy(" connect-failure ,internal", Some(2), true),
        (both, 2, 3)
    );
}

fn redirecting(policy: route::InternalRedirectPolicy) -> route::RouteAction {
    route::RouteAction {
        internal_redirect_policy: Some(policy),
        ..forward()
    }
}

fn predicate<M: prost::Message + prost::Name>(message: &M) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig {
        name: "p".into(),
        typed_config: Some(pack(message)),
    }
}

#[test]
fn which_redirects_are_followed_here_is_read() {
    use proto::envoy::extensions::internal_redirect as kinds;
    let policy = |message| forwarded(redirecting(message)).internal_redirect.unwrap();
    let plain = policy(Default::default());
    assert_eq!(
        (plain.max, &plain.codes[..], plain.cross_scheme),
        (1, &[302][..], false)
    );
    let listed = kinds::allow_listed_routes::v3::AllowListedRoutesConfig {
        allowed_route_names: vec!["there".into()],
    };
    let full = policy(route::InternalRedirectPolicy {
        max_internal_redirects: Some(proto::UInt32Value { value: 7 }),
        redirect_response_codes: vec![200, 308, 301],
        predicates: vec![
            predicate(&kinds::previous_routes::v3::PreviousRoutesConfig {}),
            predicate(&listed),
            predicate(&kinds::safe_cross_scheme::v3::SafeCrossSchemeConfig {}),
        ],
        allow_cross_scheme_redirect: true,
        response_headers_to_copy: vec!["X-Token".into()],
    });
    let expected = InternalRedirect {
        max: 7,
        codes: vec![301, 308],
        predicates: vec![
            RedirectPredicate::PreviousRoutes,
            RedirectPredicate::AllowListedRoutes(vec!["there".into()]),
            RedirectPredicate::SafeCrossScheme,
        ],
        cross_scheme: true,
        copied: vec!["x-token".into()],
    };
    assert_eq!(*full, expected);
    assert_eq!(forwarded(forward()).internal_redirect, None);
}

#[test]
fn an_internal_redirect_is_refused_by_path() {
    assert_refused(
        route::InternalRedirectPolicy::default,
        |policy| in_table(to(redirecting(policy))),
        &format!("{ROUTE}.route.internal_redirect_policy"),
        &[
            ("redirect_response_codes: has more than 5", |p| {
                p.redirect_response_codes = vec![302; 6];
            }),
            (
                "response_headers_to_copy[0]: \":path\" may not be changed as a header",
                |p| p.response_headers_to_copy = vec![":path".into()],
            ),
            (
                "response_headers_to_copy[1]: \"Host\" may not be changed as a header",
                |p| p.response_headers_to_copy = vec!["a".into(), "Host".into()],
            ),
            (
                "response_headers_to_copy[0]: \"content-length\" is about the framing of a message",
                |p| p.response_headers_to_copy = vec!["content-length".into()],
            ),
            ("response_headers_to_copy: \"a\" is given twice", |p| {
                p.response_headers_to_copy = vec!["a".into(), "A".into()];
            }),
            (
                "predicates[0].typed_config: extension type \"type.googleapis.com/test.Other\" is not supported",
                |p| p.predicates = vec![extension("test.Other")],
            ),
            ("predicates[0].typed_config: must be given", |p| {
                p.predicates = vec![core::TypedExtensionConfig::default()];
            }),
        ],
    );
}
