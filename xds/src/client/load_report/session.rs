//! The stream of load reports: to one server after the other, opened again whenever it ends.

use std::future;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::StreamExt as _;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::transport::Channel;
use tracing::{debug, warn};

use super::Reporter;
use super::machine::Reports;
use crate::client::BACKOFF_BASE;
use crate::client::backoff::Backoff;
use crate::client::choice::Choice;
use crate::client::server::Server;
use crate::client::stream::{self, Failure};
use crate::proto::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};

const PATH: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

impl Reporter {
    /// Reports until it is dropped.
    pub async fn run(self) {
        let mut reports = Reports::new(self.config.node.clone());
        let mut choice = Choice::new(self.config.servers.len());
        let mut backoff = Backoff::new(BACKOFF_BASE, self.config.backoff_max);
        let mut rng = fastrand::Rng::new();
        let mut failures = 0u32;
        loop {
            let server = &self.config.servers[choice.at()];
            let mut answered = false;
            let ended = match stream::connect(server).await {
                Err(failure) => Err(failure),
                Ok(channel) => {
                    let stream = self.stream(channel, server, &mut reports, &mut answered);
                    stream.await
                }
            };
            let reason = match ended {
                // As with Envoy, a server that says goodbye is no error.
                Ok(()) => "the server ended the stream".to_owned(),
                Err(Failure(reason)) => {
                    self.status.errors.fetch_add(1, Relaxed);
                    reason
                }
            };
            let now = Instant::now().into_std();
            let wait = if answered {
                failures = 0;
                backoff.reset();
                choice.answered();
                choice.lost(now);
                true
            } else {
                choice.failed(now)
            };
            failures += 1;
            // Once is enough: what follows is the same until there is a response again.
            if failures == 1 {
                warn!(server = %server.name, reason, "load cannot be reported");
            } else {
                debug!(server = %server.name, reason, failures, "load cannot be reported");
            }
            if wait {
                sleep(backoff.next(rng.f64())).await;
            }
            self.status.retries.fetch_add(1, Relaxed);
        }
    }

    /// Keeps one stream until it ends. Sets `answered` when the server says something.
    async fn stream(
        &self,
        channel: Channel,
        server: &Server,
        reports: &mut Reports,
        answered: &mut bool,
    ) -> Result<(), Failure> {
        let (requests, outgoing) = mpsc::channel(1);
        let path = PathAndQuery::from_static(PATH);
        let mut inbound =
            stream::open::<LoadStatsRequest, LoadStatsResponse>(channel, server, path, outgoing);
        let mut pending = Some(reports.connected());
        let mut writable = true;
        loop {
            let due = async {
                match reports.due() {
                    Some(due) => sleep_until(Instant::from_std(due)).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                biased;
                item = inbound.next() => {
                    let response = match item {
                        Some(response) => response?,
                        None => return Ok(()),
                    };
                    if !std::mem::replace(answered, true) {
                        debug!(server = %server.name, "load is reported");
                    }
                    self.status.requests.fetch_add(1, Relaxed);
                    let now = Instant::now().into_std();
                    reports.receive(response, |of| self.loads.loads(of), now);
                }
                permit = requests.reserve(), if writable && pending.is_some() => {
                    match (permit, pending.take()) {
                        (Ok(permit), Some(request)) => {
                            permit.send(request);
                            self.status.responses.fetch_add(1, Relaxed);
                        }
                        // The reason comes from the other side of the stream.
                        _ => writable = false,
                    }
                }
                // A server that takes no reports is not sent more of them, but one that is longer.
                () = due, if writable && pending.is_none() => {
                    if let Some(of) = reports.selection() {
                        let loads = self.loads.loads(of);
                        pending = Some(reports.report(&loads, Instant::now().into_std()));
                    }
                }
            }
        }
    }
}
