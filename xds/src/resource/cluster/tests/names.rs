//! Clusters whose endpoints are names.

use super::*;
use crate::proto::envoy::config::cluster::v3::cluster::DiscoveryType;
use crate::resource::dns_resolver::{DnsResolver, DnsServers};

const CARES: &str = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";

fn named() -> proto::Cluster {
    let endpoint = proto::endpoint::LbEndpoint {
        host_identifier: Some(proto::endpoint::lb_endpoint::HostIdentifier::Endpoint(
            proto::endpoint::Endpoint {
                address: address("app.test", 80),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    proto::Cluster {
        load_assignment: Some(proto::ClusterLoadAssignment {
            cluster_name: "c".into(),
            endpoints: vec![proto::endpoint::LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..Default::default()
            }],
            ..Default::default()
        }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32)),
        ..cluster()
    }
}

fn dns(message: &proto::Cluster) -> std::sync::Arc<Dns> {
    match typed(message).discovery {
        Discovery::Dns(dns) => dns,
        other => panic!("{other:?}"),
    }
}

#[test]
#[allow(deprecated, reason = "the spelling that control planes send")]
fn endpoints_may_be_names() {
    use crate::proto::envoy::config::cluster::v3::cluster::RefreshRate;
    let plain = dns(&named());
    assert!(!plain.logical);
    assert_eq!(plain.refresh, Duration::from_secs(5));
    assert_eq!(plain.failure_refresh, (plain.refresh, plain.refresh));
    assert_eq!(plain.family, DnsFamily::Auto);
    let address = &plain.assignment.localities[0].endpoints[0].address;
    assert_eq!(address.to_string(), "app.test:80");
    let reference = resource(&named()).references().remove(0);
    assert_eq!(reference.kind, crate::ResourceType::LoadAssignment);
    assert_eq!(reference.name, plain.resource);
    assert!(plain.resource.starts_with("dns/"), "{}", plain.resource);

    let mut message = named();
    message.dns_refresh_rate = seconds(9);
    message.dns_failure_refresh_rate = Some(RefreshRate {
        base_interval: seconds(1),
        max_interval: None,
    });
    message.dns_lookup_family = 1;
    message.respect_dns_ttl = true;
    message.dns_jitter = seconds(2);
    message.use_tcp_for_dns_lookups = true;
    message.cluster_discovery_type =
        Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32));
    assert!(decoded(&message).ignored.is_empty());
    let other = dns(&message);
    assert_eq!(other.respect_ttl, Some(Duration::ZERO));
    assert_eq!(other.jitter, Duration::from_secs(2));
    let Some(DnsResolver::Servers(servers)) = &other.resolver else {
        panic!("{:?}", other.resolver)
    };
    assert!(servers.tcp_only);
    assert_eq!((plain.respect_ttl, &plain.resolver), (None, &None));
    assert!(other.logical);
    let [one, nine, ten] = [1, 9, 10].map(Duration::from_secs);
    assert_eq!((other.refresh, other.failure_refresh), (nine, (one, ten)));
    assert_eq!(other.family, DnsFamily::V4Only);
    assert_ne!(other.resource, plain.resource);
    // Envoy takes one without names.
    let mut message = named();
    message.load_assignment = None;
    assert_eq!(dns(&message).assignment.localities, []);
}

#[test]
fn the_extension_of_names_is_read() {
    use crate::proto::envoy::config::cluster::v3::cluster::CustomClusterType;
    use crate::proto::envoy::extensions::clusters::dns::v3::DnsCluster;
    const TYPE: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";
    let with = |config: DnsCluster| proto::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.clusters.dns".into(),
            typed_config: Some(any(TYPE, &proto::Message::encode_to_vec(&config))),
        })),
        ..named()
    };
    let read = dns(&with(DnsCluster {
        dns_refresh_rate: seconds(3),
        dns_lookup_family: 4,
        all_addresses_in_single_endpoint: true,
        ..Default::default()
    }));
    assert!(read.logical);
    assert_eq!(read.refresh, Duration::from_secs(3));
    let read = dns(&with(DnsCluster {
        typed_dns_resolver_config: Some(proto::core::TypedExtensionConfig {
            name: "x".into(),
            typed_config: Some(any(CARES, b"")),
        }),
        respect_dns_ttl: true,
        dns_min_refresh_rate: seconds(2),
        dns_jitter: seconds(3),
        ..Default::default()
    }));
    assert_eq!(
        read.resolver,
        Some(DnsResolver::Servers(DnsServers::default()))
    );
    let [two, three] = [2, 3].map(Duration::from_secs);
    assert_eq!((read.respect_ttl, read.jitter), (Some(two), three));
    let at = "cluster_type.typed_config";
    let error = refusal(&with(DnsCluster {
        typed_dns_resolver_config: Some(Default::default()),
        ..Default::default()
    }));
    let resolver = "typed_dns_resolver_config.typed_config: must be given";
    assert_eq!(error, format!("{at}.{resolver}"));
    let error = refusal(&with(DnsCluster {
        dns_min_refresh_rate: seconds(0),
        ..Default::default()
    }));
    assert_eq!(
        error,
        format!("{at}.dns_min_refresh_rate: must be at least 1 s")
    );
    let mut message = with(DnsCluster::default());
    let Some(ClusterDiscoveryType::ClusterType(custom)) = &mut message.cluster_discovery_type
    else {
        panic!()
    };
    custom.typed_config = Some(any("a.B", b""));
    let error = refusal(&message);
    assert!(error.starts_with("cluster_type.typed_config: "), "{error}");
}

#[test]
#[allow(deprecated, reason = "the spelling that control planes send")]
fn names_are_refused_by_path() {
    assert_refused(
        named,
        |c| c,
        "",
        &[
            ("dns_refresh_rate: must be more than 1 ms", |c| {
                c.dns_refresh_rate = seconds(0);
            }),
            (
                "dns_failure_refresh_rate.base_interval: must be given",
                |c| c.dns_failure_refresh_rate = Some(Default::default()),
            ),
            ("dns_lookup_family: 9 is not a known value", |c| {
                c.dns_lookup_family = 9;
            }),
            (
                "typed_dns_resolver_config.typed_config: must be given",
                |c| c.typed_dns_resolver_config = Some(Default::default()),
            ),
            ("load_assignment: must have one endpoint", |c| {
                c.load_assignment = None;
                c.cluster_discovery_type =
                    Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32));
            }),
            (
                "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \
                 \"app.test\" is not an IP address",
                |c| c.cluster_discovery_type = None,
            ),
        ],
    );
}
