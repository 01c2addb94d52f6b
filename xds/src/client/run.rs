//! The loop between control, which says what it wants and what became of it, and a machine with a
//! stream to a server.

use std::collections::VecDeque;
use std::future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::choice::Choice;
use super::machine::{Answered, Machine, Outgoing, Received};
use super::server::Server;
use super::stream::{self, Failure};
use super::unwrap::shorten;
use super::{BACKOFF_BASE, Config, Scope, Status};
use crate::reject::{FieldPath, Invalid, Rejected};
use crate::source::{Batch, Batches, Interest, OnRejection, Outcome, Update};
use crate::type_url::ResourceType;

/// How long a server may say nothing to a first request when there is another one to ask.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks whether a server further up is back: at first, and after many.
const PROBE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How many answers may wait to be sent before the next response is read.
const BACKLOG: usize = 16;

/// What a client works with, whatever protocol it speaks.
pub(super) struct Run<M: Machine> {
    pub(super) machine: M,
    pub(super) config: Config,
    pub(super) status: Arc<Status>,
    interests: mpsc::UnboundedReceiver<Interest>,
    /// Whether somebody may still want something else.
    interested: bool,
    batches: Batches,
    rng: fastrand::Rng,
    /// What control has not taken yet.
    outbox: VecDeque<Batch>,
    /// The outcome of what it has.
    outcome: Option<(ResourceType, oneshot::Receiver<Outcome>)>,
    /// A request that the connection has not taken yet.
    pending: Option<Outgoing<M::Request>>,
    choice: Choice,
    /// Whether there was a response on the stream of now.
    answered: bool,
}

/// Control is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// Why a stream is over.
#[derive(Debug)]
enum End {
    Failed(String),
    /// This server, further up in the list, is reachable again.
    Better(usize),
}

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
            answered: false,
        }
    }

    /// Keeps a stream to one of the servers until control is gone.
    pub(super) async fn stream(mut self, path: PathAndQuery) -> Result<(), Gone> {
        let mut backoff = Backoff::new(BACKOFF_BASE, self.config.backoff_max);
        let mut probe = Backoff::new(PROBE.0, PROBE.1);
        let mut failures = 0u32;
        loop {
            while self.machine.wanted().is_empty() {
                self.background().await?;
            }
            self.answered = false;
            let server = self.config.servers[self.choice.at()].clone();
            self.status.set_server(&server.name);
            let end = match self.during(stream::connect(&server)).await? {
                Err(Failure(reason)) => End::Failed(reason),
                Ok(channel) => {
                    debug!(server = %server.name, "connected");
                    self.status.set_connected(true);
                    self.machine.connected(self.choice.is_other());
                    // Never at once: a server that can be reached may still be of no use.
                    let look = (PROBE.0 + probe.next(self.rng.f64())) / 2;
                    let end = self.session(channel, &server, path.clone(), look).await;
                    self.status.set_connected(false);
                    self.pending = None;
                    end?
                }
            };
            if self.answered {
                failures = 0;
                backoff.reset();
                if self.choice.at() == 0 {
                    probe.reset();
                }
            }
            let reason = match end {
                End::Better(to) => {
                    info!(server = %self.config.servers[to].name, "back to the server");
                    self.choice.back(to);
                    continue;
                }
                End::Failed(reason) => reason,
            };
            for kind in self.machine.wanted() {
                self.status.of(kind).update_failure.fetch_add(1, Relaxed);
            }
            failures += 1;
            // Once is enough: what follows is the same until a stream is open again.
            if failures == 1 {
                warn!(server = %server.name, reason, "no stream to the management server");
            } else {
                debug!(server = %server.name, reason, failures, "no stream to the management server");
            }
            let now = Instant::now().into_std();
            let wait = if self.answered {
                self.choice.lost(now);
                true
            } else {
                self.choice.failed(now)
            };
            if wait {
                let wait = backoff.next(self.rng.f64());
                self.during(sleep(wait)).await?;
            }
        }
    }

    async fn session(
        &mut self,
        channel: tonic::transport::Channel,
        server: &Server,
        path: PathAndQuery,
        probe_after: Duration,
    ) -> Result<End, Gone> {
        // One: whatever is not on the wire yet may still change.
        let (requests, outgoing) = mpsc::channel(1);
        let mut inbound = stream::open::<M::Request, M::Response>(channel, server, path, outgoing);
        let mut writable = true;
        let mut strange = 0u32;
        let silence = sleep(ANSWER_WITHIN);
        tokio::pin!(silence);
        let better = better(
            self.config.servers[..self.choice.at()].to_vec(),
            probe_after,
        );
        tokio::pin!(better);
        loop {
            if self.pending.is_none() {
                self.pending = self.machine.next();
            }
            let sending = writable && self.pending.is_some();
            let idle = self.outcome.is_none() && self.outbox.is_empty();
            let reading = idle && self.machine.backlog() < BACKLOG;
            let item = tokio::select! {
                biased;
                event = self.background() => {
                    event?;
                    continue;
                }
                permit = requests.reserve(), if sending => {
                    match (permit, self.pending.take()) {
                        (Ok(permit), Some(request)) => permit.send(self.count(request)),
                        // The reason comes from the other side of the stream.
                        _ => writable = false,
                    }
                    continue;
                }
                item = inbound.next(), if reading => item,
                () = &mut silence, if !self.answered && self.config.servers.len() > 1 => {
                    return Ok(End::Failed("no response".to_owned()));
                }
                to = &mut better, if idle && self.answered => return Ok(End::Better(to)),
            };
            let response = match item {
                Some(Ok(response)) => response,
                Some(Err(Failure(reason))) => return Ok(End::Failed(reason)),
                None => return Ok(End::Failed("the server ended the stream".to_owned())),
            };
            self.answered = true;
            self.choice.answered();
            if !self.receive(response) {
                strange += 1;
                if strange == 1 {
                    warn!(server = %server.name, "a response of a type that was not asked for");
                }
            }
        }
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
            on_rejection: OnRejection::ApplyOthers,
            answer,
        });
    }

    fn answered(&self, answered: Answered) {
        let Some(kind) = answered.kind else {
            if let Err(reason) = answered.result {
                warn!(reason, "response refused");
            }
            return;
        };
        let status = self.status.of(kind);
        match answered.result {
            Ok(version) => {
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
                warn!(r#type = %kind, reason, "response refused");
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
        // clusters are asked for before the clusters are acknowledged, as Envoy does (T3).
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
                let outcome = outcome.unwrap_or_else(|| unanswered(kind));
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
        let kind = match &interest {
            Interest::All(kind)
            | Interest::Subscribe(kind, _)
            | Interest::Unsubscribe(kind, _)
            | Interest::Refresh(kind, _) => *kind,
        };
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

/// The first of these servers that can be reached, looked for again and again.
async fn better(servers: Vec<Server>, first: Duration) -> usize {
    if servers.is_empty() {
        return future::pending().await;
    }
    let mut wait = first;
    loop {
        sleep(wait).await;
        for (at, server) in servers.iter().enumerate() {
            if stream::connect(server).await.is_ok() {
                return at;
            }
        }
        wait = (wait * 2).min(PROBE.1);
    }
}
