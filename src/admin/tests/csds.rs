//! The status service, asked as a gRPC client asks it.

use causeway_xds::proto::Message as _;
use causeway_xds::proto::envoy::admin::v3::ClientResourceStatus as Status;
use causeway_xds::proto::envoy::service::status::v3 as proto;
use causeway_xds::proto::{Listener, Secret};
use causeway_xds::source::{Extent, Origin, Update};
use causeway_xds::text::{self, Options};
use proto::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient as Client;

use super::*;

#[tokio::test]
async fn each_resource_is_told_with_its_state() {
    let port = port().await;
    let eds = "{'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster, name: e, type: EDS, \
               eds_cluster_config: {eds_config: {ads: {}}}}";
    let bad = "{'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster, name: x, \
               connect_timeout: -1s}";
    let any = |text| text::parse_any(text, &Options::default()).unwrap();
    let update = Update {
        origin: Origin::Xds("ads".into()),
        kind: causeway_xds::ResourceType::Cluster,
        version: "5".to_owned(),
        extent: Extent::Incremental,
        upserts: vec![any(eds), any(bad)],
        listing: None,
        removals: Vec::new(),
    };
    port.control
        .apply(vec![update], causeway_xds::source::OnRejection::ApplyOthers)
        .await
        .unwrap();

    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", port.address));
    let channel = channel.unwrap().connect().await.unwrap();
    let mut client = Client::new(channel);
    let answer = client.fetch_client_status(proto::ClientStatusRequest::default());
    let answer = answer.await.unwrap().into_inner();
    let [config] = &answer.config[..] else {
        panic!("{answer:?}")
    };
    assert_eq!(config.node.as_ref().unwrap().id, "n1");
    let all = &config.generic_xds_configs;
    let of = |name: &str, kind: &str| {
        let found = all
            .iter()
            .find(|c| c.name == name && c.type_url.ends_with(kind));
        found.unwrap_or_else(|| panic!("{name}: {all:?}"))
    };
    let state = |name, kind| of(name, kind).client_status;
    assert_eq!(state("a", ".Cluster"), Status::Acked as i32);
    assert!(of("a", ".Cluster").is_static_resource);
    assert_eq!(of("e", ".Cluster").version_info, "5");
    assert_eq!(
        state("e", ".ClusterLoadAssignment"),
        Status::Requested as i32
    );
    assert_eq!(state("x", ".Cluster"), Status::Nacked as i32);
    let error = of("x", ".Cluster").error_state.as_ref().unwrap();
    assert!(error.details.contains("connect_timeout"), "{error:?}");
    let listener = of("main", ".Listener").xds_config.as_ref().unwrap();
    assert_eq!(Listener::decode(&*listener.value).unwrap().name, "main");
    let secret = of("s", ".Secret").xds_config.as_ref().unwrap();
    let secret = format!("{:?}", Secret::decode(&*secret.value).unwrap());
    assert!(!secret.contains("PRIVATE KEY"), "{secret}");
}
