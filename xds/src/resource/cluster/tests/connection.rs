//! How connections are opened.

use super::*;

#[test]
fn connections_are_opened_as_the_cluster_says() {
    let mut message = cluster();
    assert_eq!(typed(&message).happy_eyeballs, HappyEyeballs::default());
    assert_eq!(typed(&message).preconnect, None);
    message.upstream_connection_options = Some(eyeballs(2, uint(3)));
    message.preconnect_policy = Some(preconnect(1.0, 1.0));
    let cluster = typed(&message);
    let first = Some(IpFamily::V6);
    assert_eq!(cluster.happy_eyeballs, HappyEyeballs { first, count: 3 });
    assert_eq!(cluster.preconnect, None, "nothing beyond what is needed");
    message.preconnect_policy = Some(preconnect(1.0, 2.5));
    let policy = typed(&message).preconnect.unwrap();
    assert_eq!((policy.per_upstream, policy.predictive), (1.0, 2.5));
}

#[test]
fn what_cannot_be_is_refused_by_path() {
    const EYEBALLS: &str = "upstream_connection_options.happy_eyeballs_config";
    let options = |given| proto::Cluster {
        upstream_connection_options: Some(given),
        ..cluster()
    };
    assert_eq!(
        refusal(&options(eyeballs(3, None))),
        format!("{EYEBALLS}.first_address_family_version: PIPE is no family of IP")
    );
    assert_eq!(
        refusal(&options(eyeballs(0, uint(0)))),
        format!("{EYEBALLS}.first_address_family_count: 0 is not within 1 and 4294967295")
    );
    let ratios = |per_upstream, predictive| proto::Cluster {
        preconnect_policy: Some(preconnect(per_upstream, predictive)),
        ..cluster()
    };
    assert_eq!(
        refusal(&ratios(3.5, 1.0)),
        "preconnect_policy.per_upstream_preconnect_ratio: 3.5 is not within 1 and 3"
    );
    assert_eq!(
        refusal(&ratios(1.0, f64::NAN)),
        "preconnect_policy.predictive_preconnect_ratio: NaN is not within 1 and 3"
    );
}

fn eyeballs(
    first: i32,
    first_address_family_count: Option<crate::proto::UInt32Value>,
) -> cluster_proto::UpstreamConnectionOptions {
    use cluster_proto::upstream_connection_options::HappyEyeballsConfig;
    cluster_proto::UpstreamConnectionOptions {
        happy_eyeballs_config: Some(HappyEyeballsConfig {
            first_address_family_version: first,
            first_address_family_count,
        }),
        ..Default::default()
    }
}

fn preconnect(per_upstream: f64, predictive: f64) -> cluster_proto::cluster::PreconnectPolicy {
    use crate::proto::google::protobuf::DoubleValue;
    let ratio = |value| Some(DoubleValue { value });
    cluster_proto::cluster::PreconnectPolicy {
        per_upstream_preconnect_ratio: ratio(per_upstream),
        predictive_preconnect_ratio: ratio(predictive),
        preconnect_enabled_metadata: None,
    }
}
