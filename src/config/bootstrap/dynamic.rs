//! `dynamic_resources`: where clusters and listeners come from.

use causeway_xds::proto::core;
use causeway_xds::proto::envoy::config::bootstrap::v3::bootstrap::DynamicResources;
use causeway_xds::proto::envoy::config::cluster::v3::Cluster;
use causeway_xds::proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType,
};
use causeway_xds::reject::{FieldPath, Invalid};
use causeway_xds::resource::api_source::ApiSource;
use causeway_xds::resource::config_source::{ConfigSource, Place};

use super::fields::is_default;
use crate::config::xds::{XdsConfig, check_targets};

/// Reads the message into `xds`, whose node is there already.
pub(super) fn read(
    message: DynamicResources,
    clusters: &[Cluster],
    xds: &mut XdsConfig,
    ignored: &mut Vec<&'static str>,
) -> Result<(), Invalid> {
    let DynamicResources {
        lds_config,
        lds_resources_locator,
        cds_config,
        cds_resources_locator,
        ads_config,
    } = message;
    let root = FieldPath::root();
    for (locator, field) in [
        (&lds_resources_locator, "lds_resources_locator"),
        (&cds_resources_locator, "cds_resources_locator"),
    ] {
        if !is_default(locator) {
            return Err(Invalid::unsupported(root.field(field)));
        }
    }
    let eds_of = |name: &str| eds_of(clusters, name);
    let at = root.field("ads_config");
    xds.ads = ads_config
        .map(|message| {
            let source = ApiSource::read(message, ignored)?;
            check_targets(&source, &eds_of)?;
            Ok(source)
        })
        .transpose()
        .map_err(|e: Invalid| e.within(&at))?;
    let with_ads = xds.ads.is_some();
    let mut one = |config: Option<core::ConfigSource>, field: &str| {
        let at = root.field(field);
        let Some(config) = config else {
            return Ok(None);
        };
        let source = ConfigSource::read(config, ignored).map_err(|e| e.within(&at))?;
        let reason = match &source.place {
            Place::File { .. } => return Ok(Some(source)),
            Place::Api(api) => {
                let inside = at.field("api_config_source");
                check_targets(api, &eds_of).map_err(|e| e.within(&inside))?;
                return Ok(Some(source));
            }
            Place::Ads if with_ads => return Ok(Some(source)),
            Place::Ads => return Err(Invalid::new(at.field("ads"), "there is no `ads_config`")),
            Place::SameOrigin => (at.field("self"), "the bootstrap has no origin to ask"),
            Place::Static | Place::Dns(_) => (at, "must say where from"),
        };
        Err(Invalid::new(reason.0, reason.1))
    };
    xds.cds = one(cds_config, "cds_config")?;
    xds.lds = one(lds_config, "lds_config")?;
    Ok(())
}

/// `cluster_manager.load_stats_config`
pub(super) fn load_reports(
    message: core::ApiConfigSource,
    clusters: &[Cluster],
    ignored: &mut Vec<&'static str>,
) -> Result<ApiSource, Invalid> {
    let source = ApiSource::read(message, ignored)?;
    source.check_streams()?;
    check_targets(&source, &|name| eds_of(clusters, name))?;
    Ok(source)
}

/// Whether the endpoints of a cluster come from a management server; `None` without such a cluster.
fn eds_of(clusters: &[Cluster], name: &str) -> Option<bool> {
    let eds = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32));
    let found = clusters.iter().find(|cluster| cluster.name == name);
    found.map(|cluster| cluster.cluster_discovery_type == eds)
}

/// What a management server needs to know of who asks, as Envoy demands it.
pub(super) fn check_node(xds: &XdsConfig) -> Result<(), Invalid> {
    if !xds.has_server() {
        return Ok(());
    }
    for (value, field, flag) in [
        (&xds.node.id, "node.id", "--service-node"),
        (&xds.node.cluster, "node.cluster", "--service-cluster"),
    ] {
        if value.is_empty() {
            let reason = format!("must be given for a management server, here or with {flag}");
            return Err(Invalid::at(field, reason));
        }
    }
    Ok(())
}
