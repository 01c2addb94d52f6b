//! The control plane inside the process: sources -> store -> warming -> compile -> publish ->
//! reconcile -> answer.
//!
//! | module | holds |
//! |---|---|
//! | [`warming`] | what waits for what, as a pure state machine |
//! | `pipeline` | the steps of one change, without I/O of its own |
//! | `view` | the store as the compiler is to see it: what waits shows its earlier version |
//! | `sources` | files and names that accepted resources ask for |
//! | [`dns`] | the addresses of names, as a source |
//! | [`status`] | what an operator may know of each resource, and readiness |
//!
//! All of it runs on one task of the control runtime. Others reach it by [`ControlHandle`].

pub mod dns;
mod pipeline;
mod sources;
pub mod status;
mod view;
pub mod warming;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_xds::ResourceType;
use causeway_xds::source::{Batch, Batches, Extent, OnRejection, Origin, Outcome, Source, Update};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

pub use pipeline::Pipeline;
pub use status::{Readiness, Rejection, ResourceStatus, State, Version};

use crate::filter::Registry;
use crate::snapshot::{Publisher, Retired, Snapshot};
use crate::telemetry::stats::Stats;
use sources::FileSources;

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
    pub sources: Vec<StartSource>,
}

/// A source that runs from the start; listeners wait until it has spoken.
pub struct StartSource {
    pub source: Box<dyn Source>,
    /// The type whose first update counts; `None` for the first update of any.
    pub kind: Option<ResourceType>,
    /// How long the start waits for it; zero waits for ever.
    pub initial_fetch_timeout: Duration,
}

struct Awaited {
    origin: Origin,
    kind: Option<ResourceType>,
    deadline: Option<Instant>,
}

type Query = Box<dyn FnOnce(&Pipeline) + Send>;

/// The control task.
pub struct Control {
    pipeline: Pipeline,
    files: FileSources,
    start: Vec<Box<dyn Source>>,
    awaited: Vec<Awaited>,
    batches: mpsc::Receiver<Batch>,
    queries: mpsc::Receiver<Query>,
    /// For the sources that control starts.
    sender: Batches,
}

/// How the rest of the program reaches the control task.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    /// Where sources put their batches.
    pub batches: Batches,
    pub readiness: Readiness,
    queries: mpsc::Sender<Query>,
}

/// The control task has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the control task has ended")]
pub struct Stopped;

impl Control {
    pub fn new(start: Start) -> (Self, ControlHandle) {
        let Start {
            stats,
            publisher,
            reconcile,
            registry,
            sources,
        } = start;
        let (sender, batches) = mpsc::channel(QUEUE);
        let (ask, queries) = mpsc::channel(QUEUE);
        let readiness = Readiness::default();
        let now = Instant::now();
        let awaited = sources
            .iter()
            .map(|s| Awaited {
                origin: s.source.origin(),
                kind: s.kind,
                deadline: (!s.initial_fetch_timeout.is_zero())
                    .then(|| now + s.initial_fetch_timeout),
            })
            .collect();
        let control = Self {
            pipeline: Pipeline::new(stats, publisher, reconcile, registry, readiness.clone()),
            files: FileSources::default(),
            start: sources.into_iter().map(|s| s.source).collect(),
            awaited,
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
        self.pipeline.set_sources_ready(self.awaited.is_empty());
        self.pipeline
            .apply(&mut Batch::new(updates), Instant::now())
    }

    /// Works until `shutdown` is done. Needs a tokio runtime with time.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        for source in std::mem::take(&mut self.start) {
            info!(origin = %source.origin(), "source started");
            tokio::spawn(source.run(self.sender.clone()));
        }
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            self.follow_files();
            let deadline = self.next_deadline();
            tokio::select! {
                () = &mut shutdown => break,
                Some(batch) = self.batches.recv() => self.batch(batch),
                Some(query) = self.queries.recv() => query(&self.pipeline),
                () = sleep_until(deadline) => self.tick(Instant::now()),
            }
        }
        self.files.stop_all();
    }

    fn batch(&mut self, mut batch: Batch) {
        self.awaited.retain(|awaited| {
            let heard = |u: &Update| {
                u.origin == awaited.origin && awaited.kind.is_none_or(|kind| kind == u.kind)
            };
            !batch.updates.iter().any(heard)
        });
        self.pipeline.set_sources_ready(self.awaited.is_empty());
        let outcome = self.pipeline.apply(&mut batch, Instant::now());
        if let Some(answer) = batch.answer {
            // Whoever asked may be gone; the change stands all the same.
            let _ = answer.send(outcome);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.awaited.retain(|awaited| {
            let late = awaited.deadline.is_some_and(|deadline| deadline <= now);
            if late {
                warn!(origin = %awaited.origin, "source has not answered, starting without");
            }
            !late
        });
        self.pipeline.set_sources_ready(self.awaited.is_empty());
        self.pipeline.expire(now);
    }

    /// Starts and stops file sources as the resources now in use refer to files.
    fn follow_files(&mut self) {
        loop {
            let changes = self.pipeline.take_file_changes();
            if changes.is_empty() {
                return;
            }
            let ended = self.files.set(changes, &self.sender);
            // What only a stopped source could change is not kept.
            let updates = ended.into_iter().map(|(origin, kind)| Update {
                origin,
                kind,
                version: String::new(),
                extent: Extent::StateOfTheWorld,
                upserts: Vec::new(),
                listing: None,
                removals: Vec::new(),
            });
            let updates: Vec<_> = updates.collect();
            if !updates.is_empty() {
                self.pipeline
                    .apply(&mut Batch::new(updates), Instant::now());
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let sources = self.awaited.iter().filter_map(|a| a.deadline);
        sources.chain(self.pipeline.next_deadline()).min()
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl ControlHandle {
    /// Applies updates as one batch and waits until they are live or refused.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn apply(
        &self,
        updates: Vec<Update>,
        on_rejection: OnRejection,
    ) -> Result<Outcome, Stopped> {
        let (answer, outcome) = oneshot::channel();
        let batch = Batch {
            updates,
            on_rejection,
            answer: Some(answer),
        };
        self.batches.send(batch).await.map_err(|_| Stopped)?;
        outcome.await.map_err(|_| Stopped)
    }

    /// Runs `look` on the control task. It holds up every change meanwhile: it copies what it
    /// needs and leaves the work for later.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn query<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Pipeline) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        let query: Query = Box::new(move |pipeline| {
            let _ = answer.send(look(pipeline));
        });
        self.queries.send(query).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }
}

#[cfg(test)]
mod tests;
