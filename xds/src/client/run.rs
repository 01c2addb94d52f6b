//! What a client works with and on: control, which says what it wants and what became of it, and a
//! machine. Where the responses come from is the business of `session` and `rest`.

use std::collections::VecDeque;
use std::future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::backoff::Backoff;
use super::choice::Choice;
use super::machine::{Answered, Machine, Outgoing, Received};
use super::unwrap::shorten;
use super::{BACKOFF_BASE, Config, Scope, Status};
use crate::reject::{FieldPath, Invalid, Rejected};
use crate::source::{Batch, Batches, Interest, OnRejection, Outcome, Update};
use crate::type_url::ResourceType;

/// What a client works with, whatever protocol it speaks.
pub(super) struct Run<M: Machine> {
    pub(super) machine: M,
    pub(super) config: Config,
    pub(super) status: Arc<Status>,
    interests: mpsc::UnboundedReceiver<Interest>,
    /// Whether somebody may still want something else.
    interested: bool,
    batches: Batches,
    pub(super) rng: fastrand::Rng,
    /// What control has not taken yet.
    outbox: VecDeque<Batch>,
    /// The outcome of what it has.
    outcome: Option<(ResourceType, oneshot::Receiver<Outcome>)>,
    /// A request that the connection has not taken yet.
    pub(super) pending: Option<Outgoing<M::Request>>,
    pub(super) choice: Choice,
    pub(super) backoff: Backoff,
    /// Attempts since the last response.
    pub(super) failures: u32,
    /// What was last wrong with a response of each type.
    refusals: [String; ResourceType::ALL.len()],
    /// Whether the server of now has given a response since it was last lost.
    pub(super) answered: bool,
}

/// Control is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// What can happen whether there is a stream or not.
enum Event {
    Interest(Option<Interest>),
    Outcome(ResourceType, Option<Outcome>),
    Expiry,
}

impl<M: Machine> Run<M> {
    pub(super) fn new(
        machine: M,
        config: Config,
        status: Arc<Status>,
        interests: mpsc::UnboundedReceiver<Interest>,
        batches: Batches,
    ) -> Self {
        let choice = Choice::new(config.servers.len());
        let backoff = Backoff::new(BACKOFF_BASE, config.backoff_max);
        Self {
            machine,
            config,
            status,
            interests,
            interested: true,
            batches,
            rng: fastrand::Rng::new(),
            outbox: VecDeque::new(),
            outcome: None,
            pending: None,
            choice,
            backoff,
            failures: 0,
            refusals: Default::default(),
            answered: false,
        }
    }

    /// The server has taken a request and given a response.
    pub(super) fn succeeded(&mut self) {
        self.answered = true;
        self.failures = 0;
        self.backoff.reset();
        self.choice.answered();
        self.status.set_connected(true);
    }

    /// The server could not be reached, or is no more. Returns how long to wait before the next
    /// attempt, `None` when there is another server to be tried at once.
    pub(super) fn failed(&mut self, reason: &str, kinds: &[ResourceType]) -> Option<Duration> {
        self.status.set_connected(false);
        for kind in kinds {
            self.status.of(*kind).update_failure.fetch_add(1, Relaxed);
        }
        self.failures += 1;
        let server = &self.config.servers[self.choice.at()].name;
        // Once is enough: what follows is the same until there is a response again.
        if self.failures == 1 {
            warn!(%server, reason, "the management server is away");
        } else {
            debug!(%server, reason, failures = self.failures, "the management server is away");
        }
        let now = Instant::now().into_std();
        let wait = if std::mem::take(&mut self.answered) {
            self.choice.lost(now);
            true
        } else {
            self.choice.failed(now)
        };
        wait.then(|| self.backoff.next(self.rng.f64()))
    }

    /// Whether a response is being applied.
    pub(super) fn is_busy(&self) -> bool {
        self.outcome.is_some() || !self.outbox.is_empty()
    }

    /// Takes a response; `false` for one that nobody asked for.
    pub(super) fn receive(&mut self, response: M::Response) -> bool {
        let (type_url, nonce) = M::label(&response);
        let kind = ResourceType::from_type_url(type_url);
        debug!(
            r#type = shorten(type_url),
            nonce = shorten(nonce),
            "response"
        );
        if let Some(kind) = kind {
            let bytes = response.encoded_len() as u64;
            self.status.of(kind).bytes.fetch_add(bytes, Relaxed);
        }
        match self.machine.receive(response, Instant::now().into_std()) {
            Received::Deliver(update) => {
                let (answer, outcome) = oneshot::channel();
                self.outcome = Some((update.kind, outcome));
                self.post(update, Some(answer));
            }
            Received::Answered(answered) => self.answered(answered),
            Received::Ignored => return false,
        }
        true
    }

    fn post(&mut self, update: Update, answer: Option<oneshot::Sender<Outcome>>) {
        self.outbox.push_back(Batch {
            updates: vec![update],
            touched: Vec::new(),
            on_rejection: OnRejection::ApplyOthers,
            answer,
        });
    }

    pub(super) fn answered(&mut self, answered: Answered) {
        let Some(kind) = answered.kind else {
            if let Err(reason) = answered.result {
                warn!(reason, "response refused");
            }
            return;
        };
        let status = self.status.of(kind);
        let refusal = &mut self.refusals[kind as usize];
        match answered.result {
            Ok(version) => {
                refusal.clear();
                status.update_success.fetch_add(1, Relaxed);
                status.set_version(&version);
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.map_or(0, |time| {
                    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
                });
                status.updated_at.store(now, Relaxed);
            }
            Err(reason) => {
                status.update_rejected.fetch_add(1, Relaxed);
                // Some servers send what was refused again at once.
                if *refusal == reason {
                    debug!(r#type = %kind, "response refused for the same reason");
                } else {
                    warn!(r#type = %kind, reason, "response refused");
                    *refusal = reason;
                }
            }
        }
    }

    pub(super) fn count(&self, request: Outgoing<M::Request>) -> M::Request {
        if let Some(kind) = request.kind.filter(|_| request.asks) {
            self.status.of(kind).update_attempt.fetch_add(1, Relaxed);
        }
        request.message
    }

    /// Deals with control while something else is awaited.
    pub(super) async fn during<T>(&mut self, other: impl Future<Output = T>) -> Result<T, Gone> {
        tokio::pin!(other);
        loop {
            tokio::select! {
                biased;
                event = self.background() => event?,
                value = &mut other => return Ok(value),
            }
        }
    }

    /// Waits for the next event that has nothing to do with a connection and deals with it.
    /// Nothing is lost when it is dropped before.
    pub(super) async fn background(&mut self) -> Result<(), Gone> {
        let deadline = self.machine.deadline().map(Instant::from_std);
        let expiry = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => future::pending().await,
            }
        };
        // Before the answer comes what was wanted because of the update: the endpoints of new
        // clusters are asked for before the clusters are acknowledged, as Envoy does.
        let event = tokio::select! {
            biased;
            () = self.batches.closed() => return Err(Gone),
            interest = self.interests.recv(), if self.interested => Event::Interest(interest),
            permit = self.batches.reserve(), if !self.outbox.is_empty() => {
                let (permit, batch) = (permit.map_err(|_| Gone)?, self.outbox.pop_front());
                permit.send(batch.expect("checked above"));
                return Ok(());
            }
            (kind, outcome) = outcome(&mut self.outcome), if self.outcome.is_some() => {
                Event::Outcome(kind, outcome)
            }
            () = expiry => Event::Expiry,
        };
        match event {
            Event::Interest(Some(interest)) => self.interest(interest),
            Event::Interest(None) => self.interested = false,
            Event::Outcome(kind, outcome) => {
                self.outcome = None;
                // It was there before the outcome, but perhaps not yet when this looked.
                while let Ok(interest) = self.interests.try_recv() {
                    self.interest(interest);
                }
                let mut outcome = outcome.unwrap_or_else(|| unanswered(kind));
                // What of other types turns out not to work because of it is not the fault of what
                // was sent: a certificate that is all right, for a cluster that is not.
                outcome.rejected.retain(|rejected| rejected.kind == kind);
                if let Some(answered) = self.machine.outcome(&outcome) {
                    self.answered(answered);
                }
            }
            Event::Expiry => {
                for update in self.machine.expire(Instant::now().into_std()) {
                    self.post(update, None);
                }
            }
        }
        Ok(())
    }

    fn interest(&mut self, interest: Interest) {
        let kind = interest.kind();
        match self.config.scope {
            Scope::Only(only) if only != kind => {
                warn!(r#type = %kind, "asked of a server for another type");
            }
            _ => self.machine.interest(interest),
        }
    }
}

async fn outcome(
    of: &mut Option<(ResourceType, oneshot::Receiver<Outcome>)>,
) -> (ResourceType, Option<Outcome>) {
    match of {
        Some((kind, outcome)) => (*kind, outcome.await.ok()),
        None => future::pending().await,
    }
}

/// Of a batch that was dropped without a word.
fn unanswered(kind: ResourceType) -> Outcome {
    let invalid = Invalid::new(FieldPath::root(), "was not applied");
    Outcome {
        rejected: vec![Rejected::new(kind, "", invalid)],
        ..Outcome::default()
    }
}
