//! Batches that apply whole or not at all.

use std::collections::HashMap;
use std::time::Instant;

use causeway_xds::ResourceType;
use causeway_xds::resource::name_in;
use causeway_xds::source::{Batch, Extent, OnRejection, Origin, Update};
use causeway_xds::store::{Accepted, Changes};
use tracing::info;

use super::Pipeline;
use crate::control::warming::Key;

/// What the names of a batch stood for before it was applied.
pub(super) type Before = HashMap<Key, Option<Accepted>>;

impl Pipeline {
    /// What the batch names, as the store has it now: all of it where it may have to be undone.
    pub(super) fn before(&self, batch: &Batch) -> Before {
        let mut before = Before::new();
        let undoable = batch.on_rejection == OnRejection::ApplyNothing;
        let mut note = |kind: ResourceType, name: &str| {
            let accepted = self.store.entry(kind, name);
            let accepted = accepted.and_then(|entry| entry.accepted.clone());
            let key = || (kind, name.to_owned());
            // Of a name that stood for nothing there is nothing to be said, unless that was in vain.
            if accepted.is_some() || !self.failed.is_empty() && self.failed.contains(&key()) {
                before.insert(key(), accepted);
            }
        };
        for update in &batch.updates {
            let lingers =
                update.kind == ResourceType::Cluster && matches!(update.origin, Origin::Xds(_));
            if (undoable || lingers) && update.extent == Extent::StateOfTheWorld {
                for (name, entry) in self.store.entries(update.kind) {
                    let owner = entry.accepted.as_ref().map(|a| &a.origin);
                    if owner == Some(&update.origin) {
                        note(update.kind, name);
                    }
                }
            }
            let upserts = update.upserts.iter().filter_map(name_in);
            for name in upserts.chain(update.removals.iter().map(String::as_str)) {
                note(update.kind, name);
            }
        }
        before
    }

    /// Puts back what a batch changed that must apply whole or not at all. Decoding refuses before
    /// anything changes; this is for what only shows in use, such as a port that is taken.
    pub(super) fn undo(&mut self, touched: &Changes, before: &Before, now: Instant) {
        let mut updates: HashMap<(Origin, ResourceType), Update> = HashMap::new();
        let all = touched.added.iter().chain(&touched.changed);
        for key in all.chain(&touched.removed) {
            let earlier = before.get(key).and_then(Option::as_ref);
            let current = self.store.entry(key.0, &key.1);
            let current = current.and_then(|entry| entry.accepted.as_ref());
            let Some(owner) = current.or(earlier).map(|a| a.origin.clone()) else {
                continue;
            };
            let slot = updates
                .entry((owner.clone(), key.0))
                .or_insert_with(|| Update {
                    origin: owner,
                    kind: key.0,
                    version: earlier.map(|a| a.version.to_string()).unwrap_or_default(),
                    extent: Extent::Incremental,
                    upserts: Vec::new(),
                    listing: None,
                    removals: Vec::new(),
                });
            match earlier {
                Some(earlier) => slot.upserts.push(earlier.raw.any()),
                None => slot.removals.push(key.1.clone()),
            }
        }
        info!(
            resources = touched.added.len() + touched.changed.len(),
            "batch taken back"
        );
        let mut back = Batch::new(updates.into_values().collect());
        self.apply(&mut back, now);
    }
}
