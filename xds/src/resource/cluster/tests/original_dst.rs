//! Clusters of type ORIGINAL_DST, and source addresses.

use super::*;
use crate::resource::decode;
use crate::text;

fn read(fields: &str) -> Result<Cluster, String> {
    let text = format!("{{name: c, connect_timeout: 1s, {fields}}}");
    let message: proto::Cluster = text::parse(
        &text,
        ResourceType::Cluster.message_name(),
        &text::Options::default(),
    )
    .map_err(|e| e.to_string())?;
    match decode(&pack(&message), &crate::extension::Unchecked) {
        Ok(Resource::Cluster(cluster)) => Ok((*cluster).clone()),
        Ok(_) => panic!("not a cluster"),
        Err(rejected) => Err(rejected.to_string()),
    }
}

fn original(fields: &str) -> Result<OriginalDst, String> {
    let all = format!("type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, {fields}");
    match read(&all)?.discovery {
        Discovery::OriginalDst(original) => Ok(original),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_destination_comes_from_the_connection_or_a_field() {
    let plain = OriginalDst {
        header: None,
        port: None,
        cleanup: Duration::from_secs(5),
    };
    assert_eq!(original("").unwrap(), plain);
    let header = original("original_dst_lb_config: {use_http_header: true}").unwrap();
    assert_eq!(header.header.as_deref(), Some("x-envoy-original-dst-host"));
    let named = "original_dst_lb_config: {use_http_header: true, http_header_name: X-To, \
                 upstream_port_override: 80}, cleanup_interval: 9s";
    let wanted = OriginalDst {
        header: Some("x-to".into()),
        port: Some(80),
        cleanup: Duration::from_secs(9),
    };
    assert_eq!(original(named).unwrap(), wanted);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    for (fields, wanted) in [
        (
            "type: ORIGINAL_DST",
            "lb_policy: must be CLUSTER_PROVIDED for a cluster of type ORIGINAL_DST",
        ),
        (
            "type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, load_balancing_policy: {policies: \
             [{typed_extension_config: {name: r, typed_config: {'@type': type.googleapis.com/\
             envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin}}}]}",
            "load_balancing_policy: must be ClusterProvided for a cluster of type ORIGINAL_DST",
        ),
        (
            "type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, load_assignment: {cluster_name: c}",
            "load_assignment: the cluster is of type ORIGINAL_DST",
        ),
        (
            "type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, \
             original_dst_lb_config: {http_header_name: a}",
            "original_dst_lb_config.http_header_name: has no effect without use_http_header",
        ),
        (
            "type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, \
             lb_subset_config: {subset_selectors: [{keys: [a]}]}",
            "lb_subset_config: cannot be combined with CLUSTER_PROVIDED",
        ),
        (
            "upstream_bind_config: {source_address: {address: name, port_value: 0}}",
            "upstream_bind_config.source_address.address: \"name\" is not an IP address",
        ),
    ] {
        let refusal = read(fields).unwrap_err();
        assert!(refusal.contains(wanted), "{refusal}");
    }
}

#[test]
fn connections_come_from_one_address_of_each_family() {
    let of = |fields: &str| read(&format!("upstream_bind_config: {{{fields}}}"));
    let both = "source_address: {address: 127.0.0.6, port_value: 0}, \
                extra_source_addresses: [{address: {address: '::6', port_value: 0}}]";
    assert_eq!(
        of(both).unwrap().source_addresses.addresses,
        ["127.0.0.6:0".parse().unwrap(), "[::6]:0".parse().unwrap()]
    );
    assert_eq!(of("").unwrap().source_addresses, Default::default());
    let free = format!("{both}, freebind: true");
    assert!(of(&free).unwrap().source_addresses.freebind);
    let twice = both.replace("::6", "127.0.0.7");
    let refusal = of(&twice).unwrap_err();
    assert!(refusal.contains("of the other family"), "{refusal}");
}
