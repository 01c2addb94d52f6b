//! The last accepted version of every resource.
//!
//! The store decodes what sources deliver, keeps what is valid, and says what changed. It knows
//! nothing about what refers to what: whether a change can take effect yet is decided after it.
//!
//! Rules:
//!
//! - A name of a kind belongs to the origin that had it accepted first, until that origin removes
//!   it. The Coordinator's names are reserved for it ([`is_reserved`]).
//! - Equal content is no change, however often it is sent.
//! - A refused resource leaves the accepted one of its name in force, and the refusal is kept beside
//!   it, to be shown.
//! - The work is in proportion to the update. Only a state-of-the-world update also looks at the
//!   names that its own origin has of that kind.

mod apply;
mod entry;
mod shared;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::extension::Extensions;
use crate::reject::Rejected;
use crate::resource::Resource;
use crate::source::{Batch, OnRejection, Origin};
use crate::type_url::ResourceType;

pub use entry::{Accepted, Delivered, Entry, Refusal};

use apply::Transaction;
use shared::Shared;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct ResourceStore {
    kinds: [Kind; ResourceType::ALL.len()],
    shared: Shared,
}

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// The resources of one kind.
#[derive(Debug, Default)]
struct Kind {
    /// Boxed, so that the room that a table has for more is small.
    entries: Map<Arc<str>, Box<Entry>>,
    /// The names whose entry mentions an origin: as the owner or as one that was refused.
    by_origin: Map<Origin, HashSet<Arc<str>, ahash::RandomState>>,
    /// How many entries hold an accepted resource.
    accepted: usize,
}

/// What an update changed, net: a resource that was removed and added again with the same content
/// is not here. Sorted by kind, in the order of [`ResourceType`], then by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Vec<(ResourceType, String)>,
    pub changed: Vec<(ResourceType, String)>,
    pub removed: Vec<(ResourceType, String)>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub changes: Changes,
    pub rejected: Vec<Rejected>,
}

impl ResourceStore {
    /// A store without resources.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the updates of a batch in order, and takes them out of it: its answer stays with the
    /// caller.
    ///
    /// With [`OnRejection::ApplyNothing`], one refusal leaves the store exactly as it was.
    pub fn apply(
        &mut self,
        batch: &mut Batch,
        extensions: &dyn Extensions,
        now: SystemTime,
    ) -> Applied {
        let mut transaction = Transaction::new(self, extensions, now);
        for update in std::mem::take(&mut batch.updates) {
            transaction.apply(update);
        }
        let all_or_nothing = batch.on_rejection == OnRejection::ApplyNothing;
        transaction.finish(all_or_nothing)
    }

    /// The accepted resource of a name.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Resource> {
        self.entry(kind, name)?
            .accepted
            .as_ref()
            .map(|accepted| &accepted.resource)
    }

    /// Everything known about a name.
    pub fn entry(&self, kind: ResourceType, name: &str) -> Option<&Entry> {
        self.of(kind).entries.get(name).map(|entry| &**entry)
    }

    /// Notes something of the version in force: see [`Entry::mark`].
    pub fn mark(&mut self, kind: ResourceType, name: &str, mark: u64) {
        if let Some(entry) = self.of_mut(kind).entries.get_mut(name) {
            entry.mark = mark;
        }
    }

    /// The accepted resources of a kind, in no particular order.
    pub fn iter(&self, kind: ResourceType) -> impl Iterator<Item = (&str, &Resource)> {
        self.entries(kind).filter_map(|(name, entry)| {
            entry
                .accepted
                .as_ref()
                .map(|accepted| (name, &accepted.resource))
        })
    }

    /// Everything known of a kind, in no particular order, names that were only ever refused
    /// included.
    pub fn entries(&self, kind: ResourceType) -> impl Iterator<Item = (&str, &Entry)> {
        self.of(kind)
            .entries
            .iter()
            .map(|(name, entry)| (&**name, &**entry))
    }

    /// How many accepted resources of a kind there are.
    pub fn count(&self, kind: ResourceType) -> usize {
        self.of(kind).accepted
    }

    fn of(&self, kind: ResourceType) -> &Kind {
        &self.kinds[kind as usize]
    }

    fn of_mut(&mut self, kind: ResourceType) -> &mut Kind {
        &mut self.kinds[kind as usize]
    }
}

impl Kind {
    /// Takes out what is known about a name, and keeps the index in step.
    fn take(&mut self, name: &str) -> Option<Box<Entry>> {
        let before = self.entries.remove(name)?;
        self.accepted -= usize::from(before.accepted.is_some());
        for origin in before.origins() {
            if let Some(names) = self.by_origin.get_mut(origin) {
                names.remove(name);
                if names.is_empty() {
                    self.by_origin.remove(origin);
                }
            }
        }
        Some(before)
    }

    /// Adds what is known about a name of which nothing was. An entry that says nothing is dropped.
    fn put(&mut self, name: &Arc<str>, entry: Box<Entry>) {
        if entry.is_empty() {
            return;
        }
        self.accepted += usize::from(entry.accepted.is_some());
        for origin in entry.origins() {
            if let Some(names) = self.by_origin.get_mut(origin) {
                names.insert(Arc::clone(name));
            } else {
                let names = [Arc::clone(name)].into_iter().collect();
                self.by_origin.insert(origin.clone(), names);
            }
        }
        self.entries.insert(Arc::clone(name), entry);
    }
}

/// Whether a name is one that only the Coordinator may use.
pub fn is_reserved(name: &str) -> bool {
    match name.split_once('/') {
        Some((first, _)) => matches!(first, "slot" | "circuit" | "wildcard" | "path"),
        None => matches!(name, "wildcard" | "path"),
    }
}

#[cfg(test)]
mod tests;
