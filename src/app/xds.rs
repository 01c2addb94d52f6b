//! Management servers and files: what the configuration says of them, as the parts that follow them.

use anyhow::Result;
use causeway_xds::client::{self, Scope};
use causeway_xds::file::FileSource;
use causeway_xds::resource::api_source::ApiSource;
use causeway_xds::resource::config_source::{ConfigSource, Place};
use causeway_xds::source::{Origin, Update};
use causeway_xds::{Invalid, ResourceType};

use crate::config::xds::XdsConfig;
use crate::control::cache::Cache;
use crate::control::sources::Servers;
use crate::control::{Deletions, Root, RootSource, ServerKey};
use crate::filter::registry::KnownServers;
use crate::management_server::{Statics, servers};

/// Where clusters and listeners come from.
pub fn roots(xds: &XdsConfig) -> Vec<Root> {
    let both = [
        (&xds.cds, ResourceType::Cluster, &[][..]),
        (&xds.lds, ResourceType::Listener, &xds.listener_names[..]),
    ];
    let root = |(source, kind, names): (&Option<ConfigSource>, ResourceType, &[String])| {
        let ConfigSource {
            place,
            initial_fetch_timeout,
        } = source.as_ref()?;
        let from = match place {
            Place::File {
                path,
                watched_directory,
            } => RootSource::Source(Box::new(FileSource::new(
                path.clone(),
                watched_directory.clone(),
                kind,
            ))),
            Place::Ads => RootSource::Server(ServerKey::Ads, names.to_vec()),
            Place::Api(api) => {
                RootSource::Server(ServerKey::Api(kind, api.clone()), names.to_vec())
            }
            // Refused where the configuration is read.
            Place::SameOrigin | Place::Static | Place::Dns(_) => return None,
        };
        Some(Root {
            kind,
            from,
            initial_fetch_timeout: *initial_fetch_timeout,
        })
    };
    both.into_iter().filter_map(root).collect()
}

pub fn deletions(xds: &XdsConfig) -> Deletions {
    match xds.max_deletion_percent {
        _ if xds.ignore_resource_deletion => Deletions::Ignored,
        Some(percent) => Deletions::AtMost(percent),
        None => Deletions::Allowed,
    }
}

pub fn cache(xds: &XdsConfig) -> Option<Cache> {
    let directory = xds.cache.clone().filter(|_| xds.has_server())?;
    Some(Cache {
        directory,
        secrets: xds.cache_secrets,
    })
}

/// The management servers of a configuration.
pub struct ManagementServers {
    xds: XdsConfig,
    statics: Statics,
}

impl ManagementServers {
    /// # Errors
    /// A server that is named and cannot be connected to, as it is not what the bootstrap says.
    pub fn new(xds: XdsConfig, updates: &[Update]) -> Result<Self> {
        let statics = match Statics::read(updates, xds.resolver.clone()) {
            // What is wrong with them is said, with its place, where they are brought into use.
            Err(_) if xds.api_sources().next().is_none() => Statics::default(),
            read => read?,
        };
        for source in xds.api_sources() {
            servers(source, &statics)?;
        }
        Ok(Self { xds, statics })
    }

    /// What resources may name.
    pub fn known(&self) -> KnownServers {
        KnownServers {
            ads: self.xds.ads.is_some(),
            clusters: self.statics.names(),
        }
    }

    fn client(
        &self,
        source: &ApiSource,
        scope: Scope,
        origin: Origin,
    ) -> Result<client::Config, Invalid> {
        Ok(client::Config {
            origin,
            node: self.xds.node.clone(),
            node_on_first_message_only: source.node_on_first_message_only,
            protocol: source.protocol,
            scope,
            servers: servers(source, &self.statics)?,
            backoff_max: self.xds.backoff_max,
        })
    }
}

impl Servers for ManagementServers {
    fn ads(&self, origin: Origin) -> Result<client::Config, String> {
        let none = || "there is no ads_config".to_owned();
        let source = self.xds.ads.as_ref().ok_or_else(none)?;
        let client = self.client(source, Scope::Aggregated, origin);
        client.map_err(|e| e.to_string())
    }

    fn api(
        &self,
        source: &ApiSource,
        kind: ResourceType,
        origin: Origin,
    ) -> Result<client::Config, String> {
        let client = self.client(source, Scope::Only(kind), origin);
        client.map_err(|e| e.to_string())
    }
}
