//! The steps of one change: store, warm, compile, publish, reconcile.
//!
//! Synchronous, and without I/O of its own: time is passed in, sockets are behind
//! [`Reconcile`]. One call leaves the process in the state it reports.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use causeway_xds::reject::{Invalid, Rejected};
use causeway_xds::resource::resource_name;
use causeway_xds::source::{Batch, Extent, OnRejection, Origin, Outcome, Update};
use causeway_xds::store::{Accepted, Changes, Entry, ResourceStore};
use causeway_xds::text::Passage;
use causeway_xds::{FieldPath, ResourceType};
use tracing::{info, warn};

use super::sources::{FileKey, files_of};
use super::status::{Notes, Readiness, Rejection, ResourceStatus, State, Version};
use super::view::{Held, View};
use super::warming::{Key, Warming};
use super::{BindFailure, Reconcile};
use crate::filter::{Context, Registry};
use crate::snapshot::{Compiled, Compiler, Publisher, Snapshot};
use crate::telemetry::stats::Stats;

/// Everything between an update and a published snapshot.
pub struct Pipeline {
    store: ResourceStore,
    warming: Warming,
    held: Held,
    /// What resources are checked against: without anything that only traffic needs.
    checks: Registry,
    compiler: Compiler,
    publisher: Publisher,
    reconcile: Box<dyn Reconcile + Send>,
    stats: Arc<Stats>,
    readiness: Readiness,
    notes: Notes,
    sources_ready: bool,
    /// Resources whose newest version could not be used, to be tried again when it is sent again.
    failed: BTreeSet<Key>,
    file_changes: Vec<(Key, BTreeSet<FileKey>)>,
}

/// What the names of a batch stood for before it was applied.
type Before = HashMap<Key, Option<Accepted>>;

impl Pipeline {
    pub(super) fn new(
        stats: Arc<Stats>,
        publisher: Publisher,
        reconcile: Box<dyn Reconcile + Send>,
        registry: Registry,
        readiness: Readiness,
    ) -> Self {
        Self {
            store: ResourceStore::new(),
            warming: Warming::default(),
            held: Held::default(),
            checks: Registry::new(Context {
                strict: registry.context().strict,
                ..Context::default()
            }),
            compiler: Compiler::new(Arc::clone(&stats), registry),
            publisher,
            reconcile,
            stats,
            readiness,
            notes: Notes::default(),
            sources_ready: false,
            failed: BTreeSet::new(),
            file_changes: Vec::new(),
        }
    }

    /// Whether every source that the start waits for has spoken, or is given up.
    pub(super) fn set_sources_ready(&mut self, ready: bool) {
        self.sources_ready |= ready;
    }

    /// Applies a batch. Its answer stays with the caller.
    pub(super) fn apply(&mut self, batch: &mut Batch, now: Instant) -> Outcome {
        let before = self.before(batch);
        let applied = self.store.apply(batch, &self.checks, SystemTime::now());
        for rejected in &applied.rejected {
            self.stats.pipeline.resources_rejected.inc();
            warn!(error = %rejected, "resource rejected");
        }
        let mut changes = applied.changes;
        // Sent again after it could not be used: perhaps what was in its way is gone.
        let again = before.keys().filter(|key| self.failed.contains(*key));
        let again: Vec<Key> = again.cloned().collect();
        for key in again {
            let listed = [&changes.added, &changes.changed, &changes.removed];
            if !listed.iter().any(|list| list.contains(&key)) {
                changes.changed.push(key);
            }
        }
        if changes.is_empty() && applied.rejected.is_empty() {
            self.stats.pipeline.equal_updates.inc();
        }
        let touched = changes.clone();
        let refused = applied.rejected.iter().map(|r| (r.kind, r.name.clone()));
        let admitted = self.admit(changes, refused.collect(), &before, now);
        let mut outcome = self.bring_into_use(&admitted);
        if batch.on_rejection == OnRejection::ApplyNothing && !outcome.rejected.is_empty() {
            self.undo(&touched, &before, now);
            outcome.generation = self.publisher.current().generation;
            outcome.changed = false;
        }
        outcome.rejected.splice(0..0, applied.rejected);
        outcome
    }

    /// Brings into use what has waited long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut admitted = Changes::default();
        for key in self.warming.expire(now) {
            warn!(kind = %key.0, name = key.1, "not waiting any longer, used as it is");
            self.stats.pipeline.deadlines_fired.inc();
            self.release(key, &mut admitted);
        }
        self.open_listeners(&mut admitted);
        self.bring_into_use(&admitted);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.warming.next_deadline()
    }

    pub(super) fn take_file_changes(&mut self) -> Vec<(Key, BTreeSet<FileKey>)> {
        std::mem::take(&mut self.file_changes)
    }

    // ---- what there is, for outputs

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
                active_since: self.notes.active_since(&key),
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

    // ---- steps

    /// What the batch names, as the store has it now: all of it where it may have to be undone.
    fn before(&self, batch: &Batch) -> Before {
        let mut before = Before::new();
        let undoable = batch.on_rejection == OnRejection::ApplyNothing;
        let mut note = |key: Key| {
            let accepted = self.store.entry(key.0, &key.1);
            let accepted = accepted.and_then(|entry| entry.accepted.clone());
            before.insert(key, accepted);
        };
        for update in &batch.updates {
            if undoable && update.extent == Extent::StateOfTheWorld {
                for (name, entry) in self.store.entries(update.kind) {
                    let owner = entry.accepted.as_ref().map(|a| &a.origin);
                    if owner == Some(&update.origin) {
                        note((update.kind, name.to_owned()));
                    }
                }
            }
            let upserts = update.upserts.iter().filter_map(resource_name);
            for name in upserts.chain(update.removals.iter().cloned()) {
                note((update.kind, name));
            }
        }
        before
    }

    /// Splits off what has to wait.
    fn admit(
        &mut self,
        changes: Changes,
        refused: Vec<Key>,
        before: &Before,
        now: Instant,
    ) -> Changes {
        let snapshot = self.publisher.current();
        let mut admitted = Changes::default();
        for key in changes.removed {
            self.held.release(&key);
            self.warming.removed(&key);
            self.notes.gone(&key);
            self.failed.remove(&key);
            if snapshot_knows(&snapshot, &key) {
                admitted.removed.push(key.clone());
            }
            self.follow(&key);
        }
        let mut offered = Vec::new();
        for key in changes.added.into_iter().chain(changes.changed) {
            self.notes.gone(&key);
            if matches!(key.0, ResourceType::Cluster | ResourceType::Listener) {
                offered.push(key);
            } else {
                for ready in self.warming.arrived(key.0, &key.1) {
                    self.release(ready, &mut admitted);
                }
                self.follow(&key);
                admitted.changed.push(key);
            }
        }
        // A source that sent something unusable will not send better for having been waited for.
        for key in refused {
            if self.store.get(key.0, &key.1).is_none() {
                for ready in self.warming.arrived(key.0, &key.1) {
                    self.release(ready, &mut admitted);
                }
            }
        }
        for key in offered {
            let Some(resource) = self.store.get(key.0, &key.1) else {
                continue;
            };
            let references = resource.references();
            let store = &self.store;
            let has = |kind, name: &str| store.get(kind, name).is_some();
            if self.warming.offer(&key, &references, has, now) {
                self.release(key, &mut admitted);
            } else {
                let earlier = before.get(&key).cloned().flatten();
                self.held.hold(&key, &snapshot, earlier);
                self.follow(&key);
            }
        }
        self.open_listeners(&mut admitted);
        admitted
    }

    fn open_listeners(&mut self, admitted: &mut Changes) {
        if self.sources_ready {
            for key in self.warming.start_listeners() {
                self.release(key, admitted);
            }
        }
    }

    fn release(&mut self, key: Key, admitted: &mut Changes) {
        self.held.release(&key);
        self.follow(&key);
        admitted.changed.push(key);
    }

    /// Notes which files a resource refers to. While it waits, those of the version in use stay.
    fn follow(&mut self, key: &Key) {
        let wanted = self.store.get(key.0, &key.1).map(files_of);
        let mut wanted = wanted.unwrap_or_default();
        if let Some(earlier) = self.held.earlier(key) {
            wanted.extend(files_of(&earlier.resource));
        }
        self.file_changes.push((key.clone(), wanted));
    }

    /// Compile, publish, reconcile.
    fn bring_into_use(&mut self, admitted: &Changes) -> Outcome {
        let previous = self.publisher.current();
        let mut outcome = Outcome {
            generation: previous.generation,
            ..Outcome::default()
        };
        if !admitted.is_empty() {
            self.compile(admitted, &previous, &mut outcome);
        }
        self.gauge();
        outcome
    }

    fn compile(&mut self, admitted: &Changes, previous: &Snapshot, outcome: &mut Outcome) {
        let started = Instant::now();
        let view = View {
            store: &self.store,
            held: &self.held,
        };
        let Compiled {
            mut snapshot,
            retired,
            rejected,
        } = self.compiler.compile(&view, admitted, previous);
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.stats.pipeline.compile_ms.observe(took);

        if !same(&snapshot, previous) {
            snapshot.generation = previous.generation + 1;
            let next = Arc::new(snapshot);
            // The pipeline holds `previous` until it returns: data threads never drop a snapshot.
            drop(self.publisher.publish(Arc::clone(&next)));
            self.stats.pipeline.generations.inc();
            let generation = i64::try_from(next.generation).unwrap_or(i64::MAX);
            self.stats.pipeline.generation.set(generation);
            outcome.generation = next.generation;
            outcome.changed = true;
            let failures = self.reconcile.reconcile(previous, &next, &retired);
            outcome.rejected = failures.iter().map(unbound).collect();
        }
        outcome.rejected.splice(0..0, rejected);
        locate(&self.store, &mut outcome.rejected);

        for key in admitted.added.iter().chain(&admitted.changed) {
            self.failed.remove(key);
            self.notes.activated(key, outcome.generation);
        }
        for rejected in &outcome.rejected {
            let key = (rejected.kind, rejected.name.clone());
            self.stats.pipeline.resources_rejected.inc();
            warn!(error = %rejected, "resource not usable");
            self.notes.not_usable(rejected);
            self.failed.insert(key);
        }
    }

    /// Puts back what a batch changed that must apply whole or not at all. Decoding refuses before
    /// anything changes; this is for what only shows in use, such as a port that is taken.
    fn undo(&mut self, touched: &Changes, before: &Before, now: Instant) {
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
                    version: earlier.map(|a| a.version.clone()).unwrap_or_default(),
                    extent: Extent::Incremental,
                    upserts: Vec::new(),
                    listing: None,
                    removals: Vec::new(),
                });
            match earlier {
                Some(earlier) => slot.upserts.push((*earlier.any).clone()),
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

    fn gauge(&self) {
        let count = |kind| i64::try_from(self.warming.count(kind)).unwrap_or(i64::MAX);
        let clusters = count(ResourceType::Cluster);
        let listeners = count(ResourceType::Listener);
        self.stats.cluster_manager.warming_clusters.set(clusters);
        let manager = &self.stats.listener_manager;
        manager.total_listeners_warming.set(listeners);
        if self.warming.is_open() {
            self.readiness.reached(State::Initializing);
            if listeners == 0 {
                self.readiness.reached(State::Live);
            }
        }
    }
}

/// Where the rejected are written, as far as they are. Each text is read once, however many they are.
fn locate(store: &ResourceStore, rejected: &mut [Rejected]) {
    let mut trees = HashMap::new();
    for rejected in rejected {
        let entry = store.entry(rejected.kind, &rejected.name);
        let accepted = entry.and_then(|entry| entry.accepted.as_ref());
        let Some(Passage { listing, index }) = accepted.and_then(|a| a.passage.as_ref()) else {
            continue;
        };
        let tree = trees
            .entry(Arc::as_ptr(&listing.document))
            .or_insert_with(|| listing.document.tree());
        let path = rejected.invalid.path.as_str();
        rejected.location = tree.locate_in(listing.list, *index, path);
    }
}

fn unbound(failure: &BindFailure) -> Rejected {
    let reason = format!("cannot bind {}: {}", failure.address, failure.error);
    let invalid = Invalid::new(FieldPath::root().field("address"), reason);
    Rejected::new(ResourceType::Listener, &*failure.listener, invalid)
}

fn same(a: &Snapshot, b: &Snapshot) -> bool {
    a.listeners.ptr_eq(&b.listeners) && a.routes.ptr_eq(&b.routes) && a.clusters.ptr_eq(&b.clusters)
}

/// Whether a removal is more than the end of something that never was in use.
fn snapshot_knows(snapshot: &Snapshot, key: &Key) -> bool {
    match key.0 {
        ResourceType::Cluster => snapshot.clusters.contains_key(&*key.1),
        ResourceType::Listener => snapshot.listeners.contains_key(&*key.1),
        _ => true,
    }
}
