//! Where a resource that is only named here comes from (`envoy.config.core.v3.ConfigSource`).

use std::path::PathBuf;
use std::time::Duration;

/// The place a named resource is to be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    pub place: Place,
    /// How long the referring object waits before it goes on without; zero waits for ever.
    /// Default 15 s (`initial_fetch_timeout`).
    pub initial_fetch_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `path_config_source` (or the older `path`).
    File {
        path: PathBuf,
        watched_directory: Option<PathBuf>,
    },
    /// `ads`: the aggregated stream of the bootstrap.
    Ads,
    /// `self`: whoever delivered the resource that refers to this one. The in-process translator
    /// uses it: the resource arrives through the same store.
    SameOrigin,
}
