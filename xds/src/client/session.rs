//! The loop that joins a machine with a stream to a server.

use std::future;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::PROBE_MAX;
use super::backoff::Backoff;
use super::machine::Machine;
use super::run::{Gone, Run};
use super::server::Server;
use super::stream::{self, Failure};

/// How long a server may say nothing to a first request when there is another one to ask.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks whether a server further up is back: at first, and after many.
const PROBE: (Duration, Duration) = (Duration::from_secs(5), PROBE_MAX);
/// How many answers may wait to be sent before the next response is read.
const BACKLOG: usize = 16;

/// Why a stream is over.
#[derive(Debug)]
enum End {
    Failed(String),
    /// This server, further up in the list, is reachable again.
    Better(usize),
}

impl<M: Machine> Run<M> {
    /// Keeps a stream to one of the servers until control is gone.
    pub(super) async fn stream(mut self, path: PathAndQuery) -> Result<(), Gone> {
        let mut probe = Backoff::new(PROBE.0, PROBE.1);
        loop {
            while self.machine.wanted().is_empty() {
                self.background().await?;
            }
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
                    self.pending = None;
                    end?
                }
            };
            if self.answered && self.choice.at() == 0 {
                probe.reset();
            }
            match end {
                End::Better(to) => {
                    info!(server = %self.config.servers[to].name, "back to the server");
                    self.answered = false;
                    self.choice.back(to);
                }
                End::Failed(reason) => {
                    if let Some(wait) = self.failed(&reason, &self.machine.wanted()) {
                        self.during(sleep(wait)).await?;
                    }
                }
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
            let idle = !self.is_busy();
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
            self.succeeded();
            if !self.receive(response) {
                strange += 1;
                if strange == 1 {
                    warn!(server = %server.name, "a response of a type that was not asked for");
                }
            }
        }
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
