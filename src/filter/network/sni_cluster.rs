//! `envoy.filters.network.sni_cluster`: the name that a client asks for is the cluster it gets.
//!
//! Configuration: `envoy.extensions.filters.network.sni_cluster.v3.SniCluster`. For a TCP proxy; a
//! client without a name gets the proxy's own cluster.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::network::sni_cluster::v3 as proto;
use causeway_xds::reject::Invalid;

use super::super::registry::{Context, decode};
use super::{Build, Connection, NetworkFilter, Verdict};

pub const FACTORY: (&str, Build) = (
    "envoy.extensions.filters.network.sni_cluster.v3.SniCluster",
    build,
);

#[derive(Debug)]
struct SniCluster;

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn NetworkFilter>, Invalid> {
    let proto::SniCluster {} = decode(config)?;
    Ok(Arc::new(SniCluster))
}

impl NetworkFilter for SniCluster {
    fn open(&self, connection: &Connection<'_>) -> Verdict {
        match connection.server_name {
            "" => Verdict::Pass,
            name => Verdict::Cluster(name.into()),
        }
    }
}
