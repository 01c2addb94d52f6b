//! What is refused of the endpoints of a cluster, and of where they come from.

use super::*;
use crate::proto::core;

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
