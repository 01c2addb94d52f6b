//! Management servers and files: what the configuration says of them, as the parts that follow them.

use causeway_xds::ResourceType;
use causeway_xds::file::FileSource;
use causeway_xds::resource::config_source::{ConfigSource, Place};

use crate::config::xds::XdsConfig;
use crate::control::cache::Cache;
use crate::control::{Deletions, Root, RootSource, ServerKey};

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
        secrets: false,
    })
}
