//! The steps of one change: store, warm, compile, publish, reconcile.
//!
//! Synchronous, and without I/O of its own: time is passed in, sockets are behind
//! [`Reconcile`]. One call leaves the process in the state it reports.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use causeway_xds::reject::{Invalid, Rejected};
use causeway_xds::resource::WatchedFiles;
use causeway_xds::source::{Batch, OnRejection, Outcome};
use causeway_xds::store::{Accepted, Changes, ResourceStore};
use causeway_xds::text::Passage;
use causeway_xds::{FieldPath, ResourceType};
use tracing::{info, warn};

use super::guard::{Deletions, Guard};
use super::linger::Lingering;
use super::status::{Notes, Readiness, State};
use super::subscriptions::{Change, Subscriptions};
use super::view::{Held, View};
use super::warming::{Key, Warming};
use super::{BindFailure, Reconcile};
use crate::cluster::Home;
use crate::cluster::outlier::Received;
use crate::filter::{Context, Registry};
use crate::net::descriptors::Told;
use crate::snapshot::{Compiled, Compiler, Publisher, Retired, Snapshot};
use crate::telemetry::stats::Stats;

mod admit;
mod outputs;
mod undo;

use undo::Before;

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
    roots: Roots,
    subscriptions: Subscriptions,
    lingering: Lingering,
    /// What management servers said they do not have, as long as it is wanted.
    absent: HashSet<Key>,
    guard: Guard,
    /// Resources whose newest version could not be used, to be tried again when it is sent again.
    failed: BTreeSet<Key>,
    /// Clusters whose health checks or outlier detection have to be looked after.
    checked: Vec<Arc<str>>,
    first_checks: FirstChecks,
}

/// What a pipeline is made from.
pub(super) struct Parts {
    pub stats: Arc<Stats>,
    pub publisher: Publisher,
    pub reconcile: Box<dyn Reconcile + Send>,
    pub registry: Registry,
    pub readiness: Readiness,
    pub deletions: Deletions,
    pub home: Option<Home>,
}

/// How far the sources are that the start waits for: each has spoken, or is given up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Roots {
    /// All but those of listeners. Listeners open once the first clusters are there.
    pub clusters: bool,
    pub all: bool,
}

/// How long closed listeners wait for the first health checks of endpoints.
#[derive(Clone, Copy, Debug, Default)]
enum FirstChecks {
    /// Nobody was seen that is still to be checked.
    #[default]
    None,
    Until(Instant),
    /// Not any longer, whatever else listeners wait for.
    Over,
}

impl Pipeline {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            stats,
            publisher,
            reconcile,
            registry,
            readiness,
            deletions,
            home,
        } = parts;
        Self {
            store: ResourceStore::new(),
            warming: Warming::default(),
            held: Held::default(),
            checks: Registry::new(Context {
                strict: registry.context().strict,
                servers: registry.context().servers.clone(),
                more: registry.context().more,
                ..Context::default()
            }),
            compiler: Compiler::new(Arc::clone(&stats), registry).at_home(home),
            publisher,
            reconcile,
            stats,
            readiness,
            notes: Notes::default(),
            roots: Roots::default(),
            subscriptions: Subscriptions::default(),
            lingering: Lingering::default(),
            absent: HashSet::new(),
            guard: Guard::new(deletions),
            failed: BTreeSet::new(),
            checked: Vec::new(),
            first_checks: FirstChecks::default(),
        }
    }

    /// What was reached stays reached.
    pub(super) fn set_roots(&mut self, roots: Roots) {
        self.roots.clusters |= roots.clusters;
        self.roots.all |= roots.all;
    }

    /// Applies a batch. Its answer stays with the caller.
    pub(super) fn apply(&mut self, batch: &mut Batch, now: Instant) -> Outcome {
        if batch.updates.is_empty() && !batch.touched.is_empty() {
            return self.touch(&batch.touched);
        }
        let refused = self.refuse_pushes(batch);
        let absent = self.withhold(batch);
        let before = self.before(batch);
        let mut applied = self.store.apply(batch, &self.checks, SystemTime::now());
        applied.rejected.splice(0..0, refused);
        for rejected in &applied.rejected {
            self.stats.pipeline.resources_rejected.inc();
            if rejected.kind == ResourceType::FilterConfig {
                self.stats.filter_config_refused(&rejected.name);
            }
            warn!(error = %rejected, "resource rejected");
        }
        let mut changes = applied.changes;
        // Sent again after it could not be used: perhaps what was in its way is gone.
        let refused = |key: &Key| {
            let mut all = applied.rejected.iter();
            all.any(|rejected| rejected.kind == key.0 && rejected.name == key.1)
        };
        let again = before
            .keys()
            .filter(|key| self.failed.contains(*key) && !refused(key));
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
        let hopeless = applied.rejected.iter().map(|r| (r.kind, r.name.clone()));
        let hopeless = hopeless.chain(absent).collect();
        let linger = self.linger(&mut changes, &before, batch, now);
        let admitted = self.admit(changes, hopeless, &before, now);
        let mut outcome = self.bring_into_use(&admitted);
        if linger || touches_routes(&admitted) {
            self.let_go(now);
        }
        if batch.on_rejection == OnRejection::ApplyNothing && !outcome.rejected.is_empty() {
            self.undo(&touched, &before, now);
            outcome.generation = self.publisher.current().generation;
            outcome.changed = false;
        }
        outcome.rejected.splice(0..0, applied.rejected);
        outcome
    }

    /// Uses anew what names files that have new content. What cannot be read now stays as it was.
    fn touch(&mut self, files: &[WatchedFiles]) -> Outcome {
        let owners = files.iter().flat_map(|f| self.subscriptions.owners(f));
        let used = owners.filter(|key| self.warming.waits_for(key).is_empty());
        let changed: BTreeSet<Key> = used.cloned().collect();
        for (kind, name) in &changed {
            info!(%kind, name, "files read again");
        }
        self.bring_into_use(&Changes {
            changed: changed.into_iter().collect(),
            ..Changes::default()
        })
    }

    /// Brings into use what has waited long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut admitted = Changes::default();
        for key in self.warming.expire(now) {
            warn!(kind = %key.0, name = key.1, "not waiting any longer, used as it is");
            self.stats.pipeline.deadlines_fired.inc();
            self.release(key, &mut admitted);
        }
        self.end_first_checks(now);
        self.open_listeners(&mut admitted, now);
        self.bring_into_use(&admitted);
        self.let_go(now);
    }

    /// Where data threads report outliers; there once.
    pub(super) fn take_reports(&mut self) -> Option<Received> {
        self.compiler.take_reports()
    }

    /// The clusters with health checks or outlier detection that changed since the last call.
    pub(super) fn take_checked(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.checked)
    }

    /// Lets balancers see what health checks have found out.
    pub(super) fn refresh(&mut self, clusters: &[Arc<str>], now: Instant) {
        if !clusters.is_empty() {
            let previous = self.publisher.current();
            let view = View {
                store: &self.store,
                held: &self.held,
            };
            let next = self.compiler.refresh(&view, clusters, &previous);
            self.publish(next, &previous, &[]);
        }
        // Listeners may have waited for this.
        self.expire(now);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let lingering = self.lingering.next_deadline();
        let warming = self.warming.next_deadline().into_iter();
        let checks = match self.first_checks {
            FirstChecks::Until(deadline) if !self.warming.is_open() => Some(deadline),
            _ => None,
        };
        warming.chain(lingering).chain(checks).min()
    }

    /// What is to be fetched from elsewhere from now on, and what no longer.
    pub(super) fn take_source_changes(&mut self) -> Vec<Change> {
        let changes = self.subscriptions.take();
        if !changes.is_empty() {
            let subscriptions = &self.subscriptions;
            self.absent.retain(|key| subscriptions.wants(key.0, &key.1));
        }
        changes
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
            snapshot,
            retired,
            rejected,
            checked,
        } = self.compiler.compile(&view, admitted, previous);
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.stats.pipeline.compile_ms.observe(took);

        if !same(&snapshot, previous) {
            let failures = self.publish(snapshot, previous, &retired);
            outcome.generation = previous.generation + 1;
            outcome.changed = true;
            outcome.rejected = failures.iter().map(unbound).collect();
        }
        self.checked.extend(checked);
        outcome.rejected.splice(0..0, rejected);
        locate(&self.store, &mut outcome.rejected);

        for key in admitted.added.iter().chain(&admitted.changed) {
            self.failed.remove(key);
            self.notes.activated(key);
            self.store.mark(key.0, &key.1, outcome.generation);
        }
        for rejected in &outcome.rejected {
            let key = (rejected.kind, rejected.name.clone());
            self.stats.pipeline.resources_rejected.inc();
            warn!(error = %rejected, "resource not usable");
            self.notes.not_usable(rejected);
            self.store.mark(key.0, &key.1, 0);
            self.failed.insert(key);
        }
    }

    fn publish(
        &mut self,
        mut next: Snapshot,
        previous: &Snapshot,
        retired: &[Retired],
    ) -> Vec<BindFailure> {
        next.generation = previous.generation + 1;
        let next = Arc::new(next);
        // The caller holds `previous` until it returns: data threads never drop a snapshot.
        drop(self.publisher.publish(Arc::clone(&next)));
        self.stats.pipeline.generations.inc();
        let generation = i64::try_from(next.generation).unwrap_or(i64::MAX);
        self.stats.pipeline.generation.set(generation);
        self.reconcile.reconcile(previous, &next, retired)
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
            if listeners == 0 && self.roots.all {
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
        let Some(Passage { listing, index }) = accepted.and_then(Accepted::passage) else {
            continue;
        };
        let tree = trees
            .entry(Arc::as_ptr(&listing.document))
            .or_insert_with(|| listing.document.tree());
        let path = rejected.invalid.path.as_str();
        rejected.location = tree.locate_in(listing.list, *index, path);
    }
}

fn touches_routes(changes: &Changes) -> bool {
    let all = changes.added.iter().chain(&changes.changed);
    all.chain(&changes.removed).any(|(kind, _)| {
        !matches!(
            kind,
            ResourceType::Cluster | ResourceType::LoadAssignment | ResourceType::Secret
        )
    })
}

fn unbound(failure: &BindFailure) -> Rejected {
    let reason = format!("cannot bind {}: {}", failure.address, Told(&failure.error));
    let invalid = Invalid::new(FieldPath::root().field("address"), reason);
    Rejected::new(ResourceType::Listener, &*failure.listener, invalid)
}

fn same(a: &Snapshot, b: &Snapshot) -> bool {
    a.listeners.ptr_eq(&b.listeners) && a.routes.ptr_eq(&b.routes) && a.clusters.ptr_eq(&b.clusters)
}
