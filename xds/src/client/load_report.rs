//! Reports of load to a management server, over its Load Reporting Service: what the endpoints of
//! clusters were asked, and what became of it.
//!
//! | module | holds |
//! |---|---|
//! | `machine` | the protocol, without a connection |
//! | `session` | its stream |
//!
//! The counters belong to the program. They only ever grow, so that any number of reporters can look
//! at the same ones: each remembers what it has told.

mod machine;
mod session;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::Config;
use crate::resource::Address;
use crate::resource::load_assignment::Locality;

/// What servers are told of a client that can report all clusters without their names.
const FEATURE: &str = "envoy.lrs.supports_send_all_clusters";

/// Between two reports at least, whatever the server says.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Requests to an endpoint since it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub issued: u64,
    pub succeeded: u64,
    pub failed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointLoad {
    /// What tells it from all others, also from an earlier one at its address.
    pub id: u64,
    pub address: Address,
    pub counts: Counts,
    /// Requests that are not finished.
    pub in_progress: u64,
}

/// The endpoints of one place and priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityLoad {
    pub locality: Locality,
    pub priority: u32,
    pub endpoints: Vec<EndpointLoad>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterLoad {
    pub name: String,
    /// `service_name` of a cluster that has its endpoints by EDS; else empty.
    pub service_name: String,
    /// Requests that no endpoint got because of a limit, since the cluster is there.
    pub dropped: u64,
    pub localities: Vec<LocalityLoad>,
}

/// Which clusters a server wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All that are to be reported to it.
    All,
    /// Of those the ones with these names.
    Named(BTreeSet<String>),
}

impl Selection {
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// Where the counts are.
pub trait Loads: Send + Sync + fmt::Debug {
    /// The clusters that are there and selected, each once.
    fn loads(&self, of: &Selection) -> Vec<ClusterLoad>;
}

/// What reporters count, under Envoy's names: there a request is what a server wants to be told, and
/// a response is a report.
#[derive(Debug, Default)]
pub struct LoadStatus {
    pub requests: AtomicU64,
    pub responses: AtomicU64,
    /// Streams that could not be opened, or broke off.
    pub errors: AtomicU64,
    pub retries: AtomicU64,
}

/// Reports to one of several servers, for as long as it runs.
#[derive(Debug)]
pub struct Reporter {
    config: Config,
    loads: Arc<dyn Loads>,
    status: Arc<LoadStatus>,
}

impl Reporter {
    /// Of the configuration it takes the node, the servers and the longest wait. Reporters may share
    /// what they count.
    pub fn new(mut config: Config, loads: Arc<dyn Loads>, status: Arc<LoadStatus>) -> Self {
        config.node.client_features.push(FEATURE.to_owned());
        Self {
            config,
            loads,
            status,
        }
    }
}
