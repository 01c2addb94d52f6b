//! The store as the compiler is to see it.

use std::collections::HashMap;

use causeway_xds::ResourceType;
use causeway_xds::resource::Resource;
use causeway_xds::store::{Accepted, ResourceStore};

use super::warming::Key;
use crate::snapshot::{Resources, Snapshot};

/// What is in use under the names of what waits for something.
#[derive(Debug, Default)]
pub struct Held(HashMap<Key, Earlier>);

/// The version in use; nothing when nothing of that name is.
#[derive(Debug, Default)]
struct Earlier {
    resource: Option<Resource>,
    accepted: Option<Accepted>,
}

impl Held {
    /// The compiler goes on seeing what `snapshot` serves. `accepted` is what the store had before
    /// the version that waits.
    pub fn hold(&mut self, key: &Key, snapshot: &Snapshot, accepted: Option<Accepted>) {
        if self.0.contains_key(key) {
            return;
        }
        let (kind, name) = key;
        let resource = match kind {
            ResourceType::Cluster => snapshot
                .clusters
                .get(&**name)
                .map(|c| Resource::Cluster(c.model.clone())),
            ResourceType::Listener => snapshot
                .listeners
                .get(&**name)
                .map(|l| Resource::Listener(l.model.clone())),
            // The other kinds never wait.
            _ => None,
        };
        let accepted = accepted.filter(|_| resource.is_some());
        self.0.insert(key.clone(), Earlier { resource, accepted });
    }

    /// The compiler goes on seeing what the store no longer has.
    pub fn keep(&mut self, key: &Key, accepted: Accepted) {
        let resource = Some(accepted.resource.clone());
        let earlier = Earlier {
            resource,
            accepted: Some(accepted),
        };
        self.0.entry(key.clone()).or_insert(earlier);
    }

    pub fn release(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// The earlier version that is in use while `key` waits.
    pub fn earlier(&self, key: &Key) -> Option<&Accepted> {
        self.0.get(key)?.accepted.as_ref()
    }
}

/// The store as the compiler is to see it.
pub struct View<'a> {
    pub store: &'a ResourceStore,
    pub held: &'a Held,
}

impl<'a> View<'a> {
    /// What of a kind is in use, if it came that far.
    pub fn iter(&self, kind: ResourceType) -> impl Iterator<Item = &'a Resource> {
        let held = &self.held.0;
        let earlier = held.iter().filter(move |(key, _)| key.0 == kind);
        let earlier = earlier.filter_map(|(_, earlier)| earlier.resource.as_ref());
        let current = self.store.iter(kind).filter_map(move |(name, resource)| {
            let waits = !held.is_empty() && held.contains_key(&(kind, name.to_owned()));
            (!waits).then_some(resource)
        });
        earlier.chain(current)
    }
}

impl Resources for View<'_> {
    fn resource(&self, kind: ResourceType, name: &str) -> Option<&Resource> {
        if !self.held.0.is_empty()
            && let Some(earlier) = self.held.0.get(&(kind, name.to_owned()))
        {
            return earlier.resource.as_ref();
        }
        self.store.get(kind, name)
    }

    fn all(&self, kind: ResourceType) -> Box<dyn Iterator<Item = &Resource> + '_> {
        Box::new(self.iter(kind))
    }
}
