//! The endpoints of a cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use causeway_xds::resource::LoadAssignment;
use causeway_xds::resource::cluster::{Balancing, Cluster, SocketMatch};

use super::selection::Selection;
use super::subsets::Subsets;
use super::zones::Peers;
use crate::telemetry::stats::ClusterStats;
use crate::upstream::endpoint::{Attributes, Availability};
use crate::upstream::{Endpoint, EndpointKey};

/// Endpoints, and how one of them is chosen as long as nothing of them changes.
#[derive(Debug, Default)]
pub struct EndpointSet {
    all: Vec<Arc<Endpoint>>,
    selection: Selection,
    /// Then it is they that choose.
    subsets: Option<Box<Subsets>>,
    healthy: usize,
}

/// Whether endpoints are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    None,
    /// New ones are healthy until a check has failed.
    Background,
    /// New ones have to pass one first.
    First,
}

impl From<&Cluster> for Checks {
    fn from(cluster: &Cluster) -> Self {
        match &cluster.health_check {
            None => Self::None,
            Some(check) if check.background => Self::Background,
            Some(_) => Self::First,
        }
    }
}

/// What a set of endpoints is made with.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'r> {
    pub balancing: &'r Balancing,
    /// Those that only some endpoints are connected to by.
    pub sockets: &'r [SocketMatch],
    pub checks: Checks,
    /// Endpoints are connected to in another way than those of the set before.
    pub reconnect: bool,
    /// The proxies of its kind, where they are known.
    pub peers: Option<&'r Peers>,
}

#[cfg(test)]
impl<'r> Recipe<'r> {
    pub fn plain(balancing: &'r Balancing) -> Self {
        Self {
            balancing,
            sockets: &[],
            checks: Checks::None,
            reconnect: false,
            peers: None,
        }
    }
}

impl EndpointSet {
    /// Builds from an assignment; endpoints that were in `previous` stay the same, with what is
    /// known of them.
    pub fn build(assignment: &LoadAssignment, recipe: &Recipe<'_>, previous: &Self) -> Self {
        let Recipe {
            balancing, sockets, ..
        } = *recipe;
        let before: HashMap<EndpointKey<'_>, &Arc<Endpoint>> =
            previous.all.iter().map(|e| (e.key(), e)).collect();
        let count = assignment
            .localities
            .iter()
            .map(|group| group.endpoints.len());
        let mut all = Vec::with_capacity(count.sum());
        for group in &assignment.localities {
            for endpoint in &group.endpoints {
                let attributes = Attributes {
                    said: Arc::clone(endpoint),
                    priority: group.priority,
                    locality: Arc::clone(&group.locality),
                    socket: SocketMatch::find(
                        sockets,
                        &endpoint.socket_labels,
                        &group.socket_labels,
                    ),
                };
                let checked = recipe.checks != Checks::None && !endpoint.check.disabled;
                let endpoint = match before.get(&EndpointKey::from(&**endpoint)) {
                    // Another socket is another kind of connection.
                    Some(same)
                        if recipe.reconnect || same.attributes.socket != attributes.socket =>
                    {
                        Arc::new(same.reconnected(attributes))
                    }
                    Some(same) if same.attributes == attributes => Arc::clone(same),
                    Some(same) => Arc::new(same.with(attributes)),
                    None => Arc::new(Endpoint::new(attributes)),
                };
                endpoint.await_check(checked, recipe.checks == Checks::Background);
                all.push(endpoint);
            }
        }
        let is_healthy = |e: &&Arc<Endpoint>| e.availability() == Availability::Healthy;
        let healthy = all.iter().filter(is_healthy).count();
        // Most clusters have one endpoint, and nothing to choose.
        let subsets = balancing.subsets.as_ref();
        let selection = match (all.len(), healthy) {
            _ if subsets.is_some() => Selection::default(),
            (1, 1) => Selection::default(),
            _ => Selection::new(&all, assignment, balancing, recipe.peers),
        };
        let subsets =
            subsets.map(|model| Subsets::new(model, &all, assignment, balancing, recipe.peers));
        Self {
            subsets: subsets.map(Box::new),
            selection,
            healthy,
            all,
        }
    }

    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// Whether both have the same endpoints.
    pub fn is_of(&self, other: &Self) -> bool {
        let uids = |set: &Self| set.all.iter().map(|e| e.uid).collect::<HashSet<_>>();
        uids(self) == uids(other)
    }

    /// The only endpoint, if nothing speaks against it.
    pub(super) fn only(&self) -> Option<&Arc<Endpoint>> {
        match self.all.as_slice() {
            [only] if self.healthy == 1 && self.subsets.is_none() => Some(only),
            _ => None,
        }
    }

    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }

    pub(super) fn subsets(&self) -> Option<&Subsets> {
        self.subsets.as_deref()
    }

    /// Counts how zones were worked out.
    pub fn count_zones(&self, stats: &ClusterStats) {
        self.selection.zones.count(stats);
    }

    /// Endpoints of `self` that `next` does not have, by pool.
    pub fn gone(&self, next: &Self) -> Vec<Arc<Endpoint>> {
        let kept: HashSet<u64> = next.all.iter().map(|e| e.uid).collect();
        self.all
            .iter()
            .filter(|e| !kept.contains(&e.uid))
            .cloned()
            .collect()
    }
}
