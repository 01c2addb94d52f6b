//! The control plane inside the process: sources -> store -> warming -> compile -> publish ->
//! reconcile -> answer.
//!
//! | module | holds |
//! |---|---|
//! | [`warming`] | what waits for what, as a pure state machine |
//! | [`cache`] | the last good configuration, on disk |
//! | `guard` | how much a management server may take away at once |
//! | `handle` | how others reach it |
//! | `health` | health checks of the endpoints in use |
//! | `keeper` | when the cache is read and written |
//! | `load` | reports of load to management servers |
//! | `linger` | clusters that stay until no route leads to them |
//! | `pipeline` | the steps of one change, without I/O of its own |
//! | `view` | the store as the compiler is to see it: what waits shows its earlier version |
//! | [`dns`] | the addresses of names, as a source |
//! | `subscriptions` | what accepted resources refer to elsewhere |
//! | `roots` | what the process starts with, and waits for |
//! | [`sources`] | the files, names and management servers that are asked for it |
//! | [`status`] | what an operator may know of each resource, and readiness |
//!
//! All of it runs on one task of the control runtime. Others reach it by [`ControlHandle`].

pub mod cache;
mod destinations;
pub mod dns;
mod guard;
mod handle;
mod health;
mod keeper;
mod linger;
mod load;
mod outlier;
mod pipeline;
mod roots;
pub mod sources;
pub mod status;
mod subscriptions;
mod view;
pub mod warming;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_xds::ResourceType;
use causeway_xds::resource::api_source::ApiSource;
use causeway_xds::resource::dns_resolver::DnsResolver;
use causeway_xds::source::{Batch, Batches, Outcome, Update};
use tokio::sync::mpsc;
use tracing::{info, warn};

pub use guard::Deletions;
use handle::Query;
pub use handle::{ControlHandle, Stopped};
pub use pipeline::Pipeline;
use roots::Awaited;
pub use roots::{Root, RootSource};
pub use status::{Readiness, Rejection, ResourceStatus, State, Version};

use crate::cluster::Home;
use crate::cluster::health_check::Urgency;
use crate::cluster::outlier::{Received, Report};
use crate::filter::Registry;
use crate::net::resolve::Resolvers;
use crate::snapshot::{Publisher, Retired, Snapshot};
use crate::telemetry::stats::Stats;
use cache::Cache;
use destinations::Destinations;
use health::Health;
use keeper::{Keeper, Task};
use outlier::Outliers;
use pipeline::Parts;
use sources::{Servers, Sources};
pub use subscriptions::ServerKey;

/// Batches that may wait for the control task; then sources wait.
const QUEUE: usize = 256;

/// What the data plane does with a new snapshot beyond reading it.
pub trait Reconcile {
    /// Binds what is new, drains what is gone. Runs on the control task, after `next` is
    /// published; must not block for long.
    fn reconcile(
        &mut self,
        previous: &Snapshot,
        next: &Snapshot,
        retired: &[Retired],
    ) -> Vec<BindFailure>;
}

/// A listener whose address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("listener \"{listener}\": cannot bind {address}")]
pub struct BindFailure {
    pub listener: Arc<str>,
    pub address: String,
    #[source]
    pub error: std::io::Error,
}

/// What control starts with.
pub struct Start {
    pub stats: Arc<Stats>,
    pub publisher: Publisher,
    pub reconcile: Box<dyn Reconcile + Send>,
    pub registry: Registry,
    /// Where clusters and listeners come from, at most one root for each of the two.
    pub roots: Vec<Root>,
    pub servers: Box<dyn Servers>,
    /// Whom names are asked of where a cluster does not say.
    pub resolver: Option<DnsResolver>,
    /// The management servers that are told of the load of all clusters.
    pub load_reports: Option<ApiSource>,
    /// Whether listeners stay closed until the clusters of the roots are there. A process whose
    /// listeners come from elsewhere as well does not hold those up.
    pub gated: bool,
    pub deletions: Deletions,
    pub cache: Option<Cache>,
    /// Where the proxy is among those of its kind, if it is to know.
    pub home: Option<Home>,
}

/// The control task.
pub struct Control {
    pipeline: Pipeline,
    sources: Sources,
    load_reports: Option<ApiSource>,
    /// Not asked yet.
    roots: Vec<Root>,
    awaited: Vec<Awaited>,
    gated: bool,
    keeper: Option<Keeper>,
    health: Health,
    outliers: Outliers,
    destinations: Destinations,
    stats: Arc<Stats>,
    batches: mpsc::Receiver<Batch>,
    queries: mpsc::Receiver<Query>,
    /// For the sources that control starts.
    sender: Batches,
}

impl Control {
    pub fn new(start: Start) -> (Self, ControlHandle) {
        let Start {
            stats,
            publisher,
            reconcile,
            registry,
            roots,
            servers,
            resolver,
            load_reports,
            gated,
            deletions,
            cache,
            home,
        } = start;
        let (sender, batches) = mpsc::channel(QUEUE);
        let (ask, queries) = mpsc::channel(QUEUE);
        let readiness = Readiness::new(Arc::clone(&registry.context().draining));
        let awaited = roots.iter().map(|root| Awaited {
            origin: root.origin(),
            kind: root.kind,
            timeout: root.initial_fetch_timeout,
            deadline: None,
        });
        let control = Self {
            sources: Sources::new(
                servers,
                Resolvers::new(resolver),
                Arc::clone(&stats),
                sender.clone(),
                publisher.clone(),
            ),
            load_reports,
            awaited: awaited.collect(),
            stats: Arc::clone(&stats),
            health: Health::default(),
            outliers: Outliers::default(),
            destinations: Destinations::default(),
            pipeline: Pipeline::new(Parts {
                stats,
                publisher,
                reconcile,
                registry,
                readiness: readiness.clone(),
                deletions,
                home,
            }),
            roots,
            gated,
            keeper: cache.map(Keeper::new),
            batches,
            queries,
            sender: sender.clone(),
        };
        let handle = ControlHandle {
            batches: sender,
            readiness,
            queries: ask,
        };
        (control, handle)
    }

    /// Applies what is there before anything runs (a bootstrap's static resources, or nothing), so
    /// that the caller can refuse to start. Listeners open now, unless they have to wait for
    /// something. Called once, before [`Control::run`].
    pub fn begin(&mut self, updates: Vec<Update>) -> Outcome {
        self.note_roots();
        self.pipeline
            .apply(&mut Batch::new(updates), Instant::now())
    }

    /// As [`Control::begin`], and goes on without what is not there, as it would after a while.
    pub fn begin_without_waiting(&mut self, updates: Vec<Update>) -> Outcome {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let outcome = self.begin(updates);
        self.tick(Instant::now() + DAY);
        outcome
    }

    /// Works until `shutdown` is done. Needs a tokio runtime with time.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        if let Some(keeper) = &mut self.keeper {
            keeper.start(Instant::now());
        }
        let changes = self.health.changes();
        let (mut reported, mut reports) = (self.pipeline.take_reports(), Vec::new());
        if let Some(servers) = self.load_reports.take() {
            self.sources.report_all(&servers);
        }
        loop {
            self.ask_roots();
            self.follow_sources();
            self.follow_health();
            let deadline = self.next_deadline();
            tokio::select! {
                () = &mut shutdown => break,
                Some(batch) = self.batches.recv() => self.batch(batch),
                Some(query) = self.queries.recv() => query(&self.pipeline),
                changed = changes.next() => self.health_changed(changed, Instant::now()),
                _ = receive(&mut reported, &mut reports) => self.reported(&mut reports, Instant::now()),
                () = sleep_until(deadline) => self.tick(Instant::now()),
            }
        }
        self.sources.stop_all();
    }

    fn batch(&mut self, mut batch: Batch) {
        if let Some(keeper) = &mut self.keeper {
            keeper.heard(&batch.updates, Instant::now());
        }
        let outcome = self.apply(&mut batch);
        if let Some(answer) = batch.answer {
            // Whoever asked may be gone; the change stands all the same.
            let _ = answer.send(outcome);
        }
    }

    fn apply(&mut self, batch: &mut Batch) -> Outcome {
        self.awaited.retain(|awaited| {
            let heard = |u: &Update| u.origin == awaited.origin && u.kind == awaited.kind;
            !batch.updates.iter().any(heard)
        });
        self.note_roots();
        let outcome = self.pipeline.apply(batch, Instant::now());
        // What the change refers to is asked for before it is answered for, as control planes
        // expect: the endpoints of a cluster before the word that the cluster was taken.
        self.follow_sources();
        outcome
    }

    fn tick(&mut self, now: Instant) {
        self.awaited.retain(|awaited| {
            let late = awaited.deadline.is_some_and(|deadline| deadline <= now);
            if late {
                warn!(origin = %awaited.origin, kind = %awaited.kind, "source has not answered, going on without");
                self.sources.note_timeout(&awaited.origin, awaited.kind);
            }
            !late
        });
        self.note_roots();
        let mut due = self.health.due(now);
        due.extend(self.outliers.due(now));
        let fewer = self.destinations.sweep(now);
        self.outliers.forget_gone(&fewer);
        self.pipeline.refresh(&due, now);
        while let Some(task) = self.keeper.as_mut().and_then(|keeper| keeper.due(now)) {
            self.keep(task);
        }
    }

    fn keep(&mut self, task: Task) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        match task {
            Task::Write => {
                let all = ResourceType::ALL.map(|kind| self.pipeline.resources(kind));
                let cache = keeper.cache.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = cache.write(&cache.encode(&all.concat())) {
                        warn!(%error, directory = %cache.directory.display(), "cannot write the cache");
                    }
                });
            }
            Task::Read => match keeper.cache.read() {
                Err(error) => warn!(%error, "the cache of the last good configuration is not used"),
                Ok(updates) if updates.is_empty() => info!("nothing is cached"),
                Ok(updates) => {
                    let resources: usize = updates.iter().map(|u| u.upserts.len()).sum();
                    warn!(
                        resources,
                        "no management server has answered, serving what is cached"
                    );
                    keeper.serving(&updates);
                    self.apply(&mut Batch::new(updates));
                }
            },
            Task::Forget => {
                let gone = keeper
                    .take_stale()
                    .into_iter()
                    .map(|(origin, (kind, name))| {
                        info!(%kind, name, "cached resource was not sent again, forgotten");
                        Update {
                            removals: vec![name],
                            ..sources::nothing(origin, kind)
                        }
                    });
                let gone: Vec<Update> = gone.collect();
                self.apply(&mut Batch::new(gone));
            }
        }
    }

    /// Starts and stops sources as the resources now in use refer to files and servers.
    fn follow_sources(&mut self) {
        loop {
            let changes = self.pipeline.take_source_changes();
            if changes.is_empty() {
                return;
            }
            // What only a stopped source could change is not kept.
            let updates = self.sources.carry_out(changes);
            if !updates.is_empty() {
                self.pipeline
                    .apply(&mut Batch::new(updates), Instant::now());
            }
        }
    }

    /// Starts and stops health checks and outlier detection as the clusters now in use ask for.
    fn follow_health(&mut self) {
        let names = self.pipeline.take_checked();
        if !names.is_empty() {
            let snapshot = self.pipeline.snapshot();
            self.health.follow(&names, &snapshot, &self.stats);
            let now = Instant::now();
            self.destinations.follow(&names, &snapshot, now);
            let changed = self.outliers.follow(&names, &snapshot, &self.stats, now);
            self.pipeline.refresh(&changed, now);
        }
    }

    fn health_changed(&mut self, changed: BTreeMap<Arc<str>, Urgency>, now: Instant) {
        let due = self.health.changed(changed, now, &self.stats);
        self.pipeline.refresh(&due, now);
    }

    /// Ejections are for the next request to see: they are not collected.
    fn reported(&mut self, reports: &mut Vec<Report>, now: Instant) {
        let changed = self.outliers.reported(reports, now);
        reports.clear();
        let changed: Vec<Arc<str>> = changed.into_iter().collect();
        if !changed.is_empty() {
            self.pipeline.refresh(&changed, now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let sources = self.awaited.iter().filter_map(|a| a.deadline);
        let keeper = self.keeper.as_ref().and_then(Keeper::next_deadline);
        let pipeline = self.pipeline.next_deadline();
        let health = self.health.next_deadline();
        let outliers = self.outliers.next_deadline();
        let own = sources.chain(pipeline).chain(keeper);
        let destinations = self.destinations.next_deadline();
        let watched = health.into_iter().chain(outliers).chain(destinations);
        own.chain(watched).min()
    }
}

/// Waits for reports; for ever if nobody can make any.
async fn receive(reported: &mut Option<Received>, reports: &mut Vec<Report>) {
    const AT_ONCE: usize = 256;
    let count = match reported {
        Some(reported) => reported.recv_many(reports, AT_ONCE).await,
        None => 0,
    };
    if count == 0 {
        std::future::pending().await
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
