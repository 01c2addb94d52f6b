//! The life of this worker's relation to the Coordinator: it registers, says that it is alive, keeps
//! its circuits equal to the Coordinator's, and says goodbye. One task; it never gives up.
//!
//! | module | holds |
//! |---|---|
//! | `calls` | registration, heartbeats and their failures |
//! | `listing` | full listings, and what differs |
//! | `events` | what the bus tells |
//! | `install` | from circuits as they came to circuits in force |
//! | `order` | which of two words about a circuit counts |
//! | `state_file` | the circuits on disk |
//! | [`status`] | what others may know |
//! | `backoff` | how long to wait before the next try |
//!
//! docs/COORDINATOR.md says the same in the words of an operator.

mod backoff;
mod calls;
mod events;
mod install;
mod listing;
mod order;
mod state_file;
pub mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::Circuits;
use super::client::{CoordinatorClient, Registration};
use super::event::{Notice, Reply};
use backoff::Backoff;
use calls::{Calls, Done};
use order::Ledger;
pub use status::{Counters, Heartbeat, LinkReport, LinkStatus};

/// How long the start waits for the event bus. Without it new circuits are not heard of, so it
/// goes first; but a worker without a bus is better than a worker without its circuits.
pub const BUS_WAIT: Duration = Duration::from_secs(10);
/// How long the end waits for the Coordinator's answer: a supervisor gives 5 s for everything.
pub const FAREWELL: Duration = Duration::from_millis(1500);
/// How long a change may wait until it is on disk, so that many become one write.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// What the link has to know. The periods are not zero.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    pub registration: Registration,
    pub heartbeat_period: Duration,
    /// How often circuits are listed although nothing says that something was missed.
    pub relist_period: Duration,
    /// The same in traefik mode, where nobody tells of changes.
    pub poll_period: Option<Duration>,
    /// As in `registration`; whose state file it is.
    pub authority: String,
    /// Where circuits are kept over a restart; `None`: nowhere.
    pub state_file: Option<PathBuf>,
}

/// Both directions of the event bus. Only events for this worker come in.
#[derive(Debug)]
pub struct Bus {
    pub notices: mpsc::Receiver<Notice>,
    pub replies: mpsc::Sender<Reply>,
}

/// Starts the link. It ends when `stop` becomes true, or its sender goes away; the handle is to be
/// awaited then, and takes hardly longer than [`FAREWELL`].
pub fn start(
    config: LinkConfig,
    client: CoordinatorClient,
    circuits: Arc<Circuits>,
    bus: Option<Bus>,
    stop: watch::Receiver<bool>,
) -> (LinkStatus, JoinHandle<()>) {
    let link = Link::new(config, client, circuits, bus);
    let status = link.status.clone();
    (status, tokio::spawn(link.run(stop)))
}

struct Link<C> {
    config: LinkConfig,
    client: C,
    circuits: Arc<Circuits>,
    /// `None` in traefik mode, and once the other side has gone.
    bus: Option<Bus>,
    status: LinkStatus,
    ledger: Ledger,
    worker: Option<Uuid>,
    /// What is under way; at most one of each kind.
    calls: JoinSet<Done>,
    busy: Busy,
    due: Due,
    registering: Backoff,
    listing: Backoff,
    /// What the last of each said, so that only what is new is logged.
    said: Said,
    listed_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Busy {
    registering: bool,
    beating: bool,
    listing: bool,
    saving: bool,
}

/// When what is to be done; `None`: not, for now.
#[derive(Debug, Default)]
struct Due {
    /// The bus was not subscribed in time.
    bus: Option<Instant>,
    register: Option<Instant>,
    beat: Option<Instant>,
    list: Option<Instant>,
    save: Option<Instant>,
}

#[derive(Debug, Default)]
struct Said {
    registration: Option<String>,
    heartbeat: Option<String>,
    listing: Option<String>,
    save: Option<String>,
}

impl<C: Calls> Link<C> {
    fn new(config: LinkConfig, client: C, circuits: Arc<Circuits>, bus: Option<Bus>) -> Self {
        let status = LinkStatus::default();
        status.change(|report| report.bus_connected = bus.as_ref().map(|_| false));
        Self {
            config,
            client,
            circuits,
            bus,
            status,
            ledger: Ledger::default(),
            worker: None,
            calls: JoinSet::new(),
            busy: Busy::default(),
            due: Due::default(),
            registering: Backoff::new(fastrand::Rng::new()),
            listing: Backoff::new(fastrand::Rng::new()),
            said: Said::default(),
            listed_at: None,
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let work = async {
            self.restore().await;
            let now = Instant::now();
            // Subscribed before registered, registered before listed: so nothing that happens after
            // the listing goes unheard.
            if self.bus.is_some() {
                self.due.bus = Some(now + BUS_WAIT);
            } else {
                self.due.register = Some(now);
            }
            loop {
                self.step().await;
            }
        };
        // What is under way is dropped with `work`; a change that was sent to the control plane is
        // seen through by its own task.
        tokio::select! {
            // First: what else ends at the same time is no news.
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            never = work => never,
        }
        self.farewell().await;
    }

    async fn step(&mut self) {
        let wake = self.due.first();
        tokio::select! {
            notice = next(&mut self.bus) => self.notice(notice).await,
            Some(done) = self.calls.join_next() => match done {
                Ok(done) => self.done(done).await,
                Err(error) => self.broken(&error),
            },
            () = tokio::time::sleep_until(wake) => self.wake(Instant::now()),
        }
    }

    /// Starts what is due.
    fn wake(&mut self, now: Instant) {
        if take(&mut self.due.bus, now) {
            self.status.count(|c| &mut c.deadlines_fired);
            warn!(
                limit = ?BUS_WAIT,
                "deadline \"event bus at start\" fired; registering without, new circuits will be \
                 late until the bus is there"
            );
            self.due.register = Some(now);
        }
        if take(&mut self.due.register, now) && !self.busy.registering {
            self.register();
        }
        if take(&mut self.due.beat, now) {
            self.due.beat = Some(now + self.config.heartbeat_period);
            self.beat();
        }
        if take(&mut self.due.list, now) {
            self.list(now);
        }
        if take(&mut self.due.save, now) {
            self.save();
        }
    }

    async fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Registered(result) => self.registered(result, now),
            Done::Beaten(result) => self.beaten(result, now),
            Done::Listed(requested, result) => self.listed(requested, result).await,
            Done::Saved(result) => self.saved(result),
        }
    }

    async fn farewell(mut self) {
        if let Some(worker) = self.worker {
            match tokio::time::timeout(FAREWELL, self.client.deregister(worker)).await {
                Ok(Ok(())) => info!(%worker, "deregistered"),
                Ok(Err(error)) => warn!(%worker, %error, "not deregistered"),
                Err(_) => warn!(
                    %worker,
                    limit = ?FAREWELL,
                    "deadline \"deregistration\" fired; the Coordinator goes on counting this node"
                ),
            }
        }
        if (self.due.save.is_some() || self.busy.saving)
            && tokio::time::timeout(FAREWELL, self.save_now())
                .await
                .is_err()
        {
            warn!(limit = ?FAREWELL, "deadline \"state file at the end\" fired");
        }
    }
}

impl Due {
    fn first(&self) -> Instant {
        let all = [self.bus, self.register, self.beat, self.list, self.save];
        // Nothing due: look again later rather than never.
        let later = Instant::now() + Duration::from_secs(3600);
        all.into_iter().flatten().min().unwrap_or(later)
    }
}

/// Whether it is time; if so it is not due any more.
fn take(due: &mut Option<Instant>, now: Instant) -> bool {
    due.take_if(|at| *at <= now).is_some()
}

/// The earlier of two times, the first of which may not be set.
fn sooner(due: &mut Option<Instant>, at: Instant) {
    *due = Some(due.map_or(at, |set| set.min(at)));
}

async fn next(bus: &mut Option<Bus>) -> Option<Notice> {
    match bus {
        Some(bus) => bus.notices.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
