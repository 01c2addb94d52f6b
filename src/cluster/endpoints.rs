//! The endpoints of a cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use causeway_xds::resource::LoadAssignment;
use causeway_xds::resource::cluster::{Balancing, SocketMatch};

use super::selection::Selection;
use super::subsets::Subsets;
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

impl EndpointSet {
    /// Builds from an assignment; endpoints that were in `previous` stay the same objects.
    /// `sockets`: those that only some endpoints are connected to by. With `checked`, new ones have to pass a check first.
    pub fn build(
        assignment: &LoadAssignment,
        balancing: &Balancing,
        sockets: &[SocketMatch],
        checked: bool,
        previous: &Self,
    ) -> Self {
        let before: HashMap<&EndpointKey, &Arc<Endpoint>> =
            previous.all.iter().map(|e| (&e.key, e)).collect();
        let mut all = Vec::new();
        for group in &assignment.localities {
            for endpoint in &group.endpoints {
                let key = EndpointKey {
                    address: endpoint.address.clone(),
                    id: endpoint.id.clone(),
                };
                let attributes = Attributes {
                    hostname: endpoint.hostname.clone(),
                    hash_key: endpoint.hash_key.clone(),
                    health: endpoint.health,
                    weight: endpoint.weight,
                    priority: group.priority,
                    locality: group.locality.clone(),
                    check: endpoint.check.clone(),
                    socket: SocketMatch::find(
                        sockets,
                        &endpoint.socket_labels,
                        &group.socket_labels,
                    ),
                    metadata: endpoint.metadata.clone(),
                };
                let checked = checked && !endpoint.check.disabled;
                let endpoint = match before.get(&key) {
                    Some(same) if same.attributes == attributes => Arc::clone(same),
                    // Another socket is another kind of connection.
                    Some(same) if same.attributes.socket == attributes.socket => {
                        Arc::new(same.with(attributes))
                    }
                    _ => Arc::new(Endpoint::new(key, attributes)),
                };
                endpoint.await_check(checked);
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
            _ => Selection::new(&all, assignment, balancing),
        };
        let subsets = subsets.map(|model| Subsets::new(model, &all, assignment, balancing));
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
