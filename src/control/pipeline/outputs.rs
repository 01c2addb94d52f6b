//! What there is, for those that show it.

use std::collections::HashSet;
use std::sync::Arc;

use causeway_xds::ResourceType;
use causeway_xds::source::Origin;
use causeway_xds::store::Entry;

use super::Pipeline;
use crate::control::status::{Rejection, ResourceStatus, Version};
use crate::snapshot::Snapshot;

impl Pipeline {
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.publisher.current()
    }

    /// Everything known of a kind, sorted by name. Messages are shared, not copied.
    pub fn resources(&self, kind: ResourceType) -> Vec<ResourceStatus> {
        let status = |(name, entry): (&str, &Entry)| {
            let key = (kind, name.to_owned());
            let refused = entry.rejected().map(Rejection::from);
            ResourceStatus {
                accepted: entry.accepted.as_ref().map(Version::from),
                earlier: self.held.earlier(&key).map(Version::from),
                active_since: Some(entry.mark).filter(|generation| *generation != 0),
                warming_for: self.warming.waits_for(&key),
                rejected: refused.or_else(|| self.notes.unusable(&key).cloned()),
                kind,
                name: key.1,
            }
        };
        let mut all: Vec<_> = self.store.entries(kind).map(status).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The names of a kind that management servers were asked for and that are not here, sorted; with
    /// each, whether they said that there is no such thing.
    pub fn requested(&self, kind: ResourceType) -> Vec<(String, bool)> {
        let names = self.subscriptions.names(kind);
        let missing = names.filter(|name| self.store.entry(kind, name).is_none());
        let mut all: Vec<(String, bool)> = missing
            .map(|name| {
                let absent = self.absent.contains(&(kind, name.to_owned()));
                (name.to_owned(), absent)
            })
            .collect();
        all.sort_unstable();
        all
    }

    /// The clusters that do not come from the bootstrap.
    pub fn dynamic_clusters(&self) -> HashSet<String> {
        let entries = self.store.entries(ResourceType::Cluster);
        let dynamic = entries.filter(|(_, entry)| {
            let accepted = entry.accepted.as_ref();
            accepted.is_some_and(|a| a.origin != Origin::Static)
        });
        dynamic.map(|(name, _)| name.to_owned()).collect()
    }

    /// How many resources of a kind wait.
    pub fn waiting(&self, kind: ResourceType) -> usize {
        self.warming.count(kind)
    }
}
