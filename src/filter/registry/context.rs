//! What filters are made with.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::core::Node;

use super::Factory;
use crate::filter::kept::Kept;
use crate::filter::secrets::Secrets;
use crate::runtime::layers::Layers;
use crate::telemetry::activity::Activities;
use crate::telemetry::stats::{Counter, Gauge, Stats};
use crate::tls::Automatic;

/// What filters may hold on to beyond their configuration.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// `None` where configuration is only checked.
    pub activities: Option<Arc<Activities>>,
    /// Certificates that the program gets by itself; `None` where it gets none.
    pub certificates: Option<Arc<Automatic>>,
    /// What overrides configuration.
    pub layers: Arc<Layers>,
    /// Resources that set a field without effect are refused (`--strict-xds`).
    pub strict: bool,
    /// Files that resources name need not be there: where it is only asked what can be configured.
    pub any_file: bool,
    /// Balancers in front are told to go elsewhere, and clients to come back on a new connection.
    pub draining: Arc<AtomicBool>,
    /// What may be named as a management server; `None` where that is not known.
    pub servers: Option<Arc<KnownServers>>,
    /// `None` where configuration is only checked.
    pub stats: Option<Arc<Stats>>,
    /// What the bootstrap calls the cluster that this program is in (`node.cluster`).
    pub local_cluster: Arc<str>,
    /// What this program calls itself where it asks others.
    pub node: Option<Arc<Node>>,
    /// Under which the filters of a chain count: `http.<stat_prefix>.`
    pub stat_scope: String,
    /// Those that filters name.
    pub secrets: Arc<Secrets>,
    /// What filters have counted.
    pub kept: Arc<Kept>,
    /// Where the filter stands that is made, or the route that speaks to it; empty where nothing is
    /// kept.
    pub place: String,
    /// Filters of whoever embeds the program, beside those of [`FACTORIES`].
    pub more: &'static [Factory],
}

impl Context {
    /// What was counted under this configuration in this place before, or is made now.
    pub fn keep<T: Any + Send + Sync>(
        &self,
        config: &TypedExtension,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        match self.place.as_str() {
            "" => Arc::new(make()),
            place => self.kept.get(place, config, make),
        }
    }

    /// The same in another place.
    pub fn at(&self, place: String) -> Self {
        Self {
            place,
            ..self.clone()
        }
    }

    /// A counter of a filter, below the scope of its chain: `rbac.allowed`.
    pub fn counter(&self, name: &str) -> Arc<Counter> {
        self.counter_in(&self.stat_scope, name)
    }

    /// A counter of a filter that has a scope of its own, which ends with a dot.
    pub fn counter_in(&self, scope: &str, name: &str) -> Arc<Counter> {
        let stats = self.stats.as_ref();
        stats.map_or_else(Arc::default, |stats| stats.named(scope).counter(name))
    }

    pub fn gauge(&self, name: &str) -> Arc<Gauge> {
        self.gauge_in(&self.stat_scope, name)
    }

    /// As [`Self::counter_in`].
    pub fn gauge_in(&self, scope: &str, name: &str) -> Arc<Gauge> {
        let stats = self.stats.as_ref();
        stats.map_or_else(Arc::default, |stats| stats.named(scope).gauge(name))
    }
}

/// The management servers of the bootstrap.
#[derive(Debug, Default)]
pub struct KnownServers {
    /// Whether there is an aggregated stream.
    pub ads: bool,
    /// Clusters that are there from the start.
    pub clusters: BTreeSet<String>,
}
