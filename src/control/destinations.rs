//! Clusters whose endpoints are where clients want to go: those that nobody uses are forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::cluster::Cluster;
use crate::snapshot::Snapshot;

#[derive(Default)]
pub(super) struct Destinations(HashMap<Arc<str>, (Arc<Cluster>, Instant)>);

impl Destinations {
    /// Takes up and gives up the clusters of these names.
    pub fn follow(&mut self, names: &[Arc<str>], snapshot: &Snapshot, now: Instant) {
        for name in names {
            let cluster = snapshot.clusters.get(name);
            match cluster.filter(|cluster| cluster.original_dst.is_some()) {
                Some(cluster) => {
                    let before = self.0.get(name);
                    let due = before.map_or_else(|| next(cluster, now), |(_, due)| *due);
                    let watched = (Arc::clone(cluster), due);
                    self.0.insert(Arc::clone(name), watched);
                }
                None => drop(self.0.remove(name)),
            }
        }
    }

    /// Returns the clusters that have fewer endpoints now.
    pub fn sweep(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut fewer = Vec::new();
        for (cluster, due) in self.0.values_mut().filter(|(_, due)| *due <= now) {
            let original_dst = cluster.original_dst.as_ref();
            if original_dst.is_some_and(|known| known.sweep()) {
                fewer.push(Arc::clone(&cluster.name));
            }
            cluster.gauge_members();
            *due = next(cluster, now);
        }
        fewer
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.values().map(|(_, due)| *due).min()
    }
}

fn next(cluster: &Cluster, now: Instant) -> Instant {
    let original_dst = cluster.original_dst.as_ref();
    now + original_dst.map_or_else(Default::default, |o| o.model.cleanup)
}
