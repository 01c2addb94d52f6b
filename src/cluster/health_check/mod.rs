//! Active health checks: one task for each endpoint that is checked, on the control thread's runtime.
//!
//! | module | holds |
//! |---|---|
//! | `progress` | what the results add up to, and how long to wait; without I/O |
//! | `probe` | one check: HTTP, TCP, gRPC |
//! | `events` | what is logged of them |
//! | `pace` | how often those in the background may be made |
//! | `rounds` | those in the background that wait, in one queue |

mod events;
mod pace;
mod probe;
pub mod progress;
mod rounds;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_xds::resource::cluster::{HealthCheck, Probe};
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, info, warn};

pub use events::kind;
pub use pace::Pace;
pub use rounds::{Rounds, Watched};

use super::outlier::Detection;
use crate::telemetry::access_log::LogFile;
use crate::telemetry::stats::HealthCheckStats;
use crate::upstream::endpoint::Finding;
use crate::upstream::{Endpoint, Transport};
use events::{Cause, Outcome};
use probe::{Failed, Prober};
use progress::{Progress, Step, Verdict};

/// Clusters whose endpoints changed their health, until somebody asks. Bounded by their number.
#[derive(Debug, Default)]
pub struct Changes {
    clusters: Mutex<BTreeMap<Arc<str>, Urgency>>,
    notify: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Changes may be collected.
    Mergeable,
    /// Something is known for the first time.
    AtOnce,
}

impl Changes {
    pub fn note(&self, cluster: &Arc<str>, urgency: Urgency) {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = clusters.entry(Arc::clone(cluster)).or_insert(urgency);
        *noted = urgency.max(*noted);
        self.notify.notify_one();
    }

    /// Waits until there are any.
    pub async fn next(&self) -> BTreeMap<Arc<str>, Urgency> {
        loop {
            let noted =
                std::mem::take(&mut *self.clusters.lock().unwrap_or_else(PoisonError::into_inner));
            if !noted.is_empty() {
                return noted;
            }
            self.notify.notified().await;
        }
    }
}

/// One endpoint under check.
#[derive(Debug)]
pub struct Checker {
    pub check: Arc<HealthCheck>,
    pub endpoint: Arc<Endpoint>,
    pub transport: Arc<Transport>,
    pub stats: Arc<HealthCheckStats>,
    /// What is told that a check succeeded.
    pub outlier: Option<Arc<Detection>>,
    pub changes: Arc<Changes>,
    /// For checks in the background.
    pub pace: Arc<Pace>,
    /// Where changes are logged.
    pub events: Box<[Arc<LogFile>]>,
}

/// What one check leaves to the next.
#[derive(Clone, Copy, Debug)]
pub struct State {
    progress: Progress,
    first: bool,
}

impl Checker {
    /// Checks until it is dropped.
    pub async fn run(self) {
        let (mut state, wait) = self.begin();
        let mut prober = self.prober();
        tokio::time::sleep(wait).await;
        loop {
            if self.check.background {
                self.pace.turn().await;
            }
            let wait = self.check(&mut prober, &mut state).await;
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether nothing has to be kept from check to check but [`State`], and checks take turns.
    pub fn goes_rounds(&self) -> bool {
        self.check.background && matches!(self.check.probe, Probe::Tcp(_))
    }

    /// Before the first check, and for how long.
    fn begin(&self) -> (State, Duration) {
        let state = State {
            progress: Progress::new(!self.endpoint.is_found(Finding::FailedActive)),
            first: true,
        };
        (state, part_of(self.check.intervals.initial_jitter))
    }

    fn prober(&self) -> Prober {
        Prober::new(&self.check, &self.transport.cluster, &self.endpoint)
    }

    /// One check. Returns how long to wait for the next.
    async fn check(&self, prober: &mut Prober, state: &mut State) -> Duration {
        let intervals = &self.check.intervals;
        self.stats.attempt.inc();
        let limit = self.check.timeout;
        // On the heap while it lasts: most of the time a check is one that waits.
        let probe = Box::pin(prober.probe(&self.transport));
        let (result, cause) = match timeout(limit, probe).await {
            Ok(Err(failed)) if failed.network => (Err(failed), Cause::Network),
            Ok(result) => (result, Cause::Active),
            Err(_) => {
                prober.disconnect();
                let failed = Failed::network(format!("timeout ({limit:?}) fired"));
                (Err(failed), Cause::NetworkTimeout)
            }
        };
        let (verdict, reason) = self.judge(result);
        let step = state.progress.take(verdict, &self.check);
        let degraded_changed = self.publish(verdict, step, &reason);
        let traffic = &self.transport.stats.traffic;
        let is_used = traffic.seen().upstream_cx_total.value() > 0;
        let wait = progress::wait(verdict, step, intervals, is_used);
        let wait = jittered(wait, intervals.jitter, intervals.jitter_percent);
        let failure = matches!(verdict, Verdict::Failure { .. }).then_some(reason);
        self.endpoint.diagnosis().checked(failure, wait);
        if !self.events.is_empty() {
            let outcome = Outcome {
                verdict,
                step,
                first: state.first,
                degraded_changed,
                cause,
            };
            let cluster = &self.transport.cluster;
            events::log(&self.events, &self.check, cluster, &self.endpoint, outcome);
        }
        state.first = false;
        wait
    }

    /// What a check says, and why if it failed.
    fn judge(&self, result: Result<probe::Passed, Failed>) -> (Verdict, String) {
        match result {
            Ok(passed) => {
                self.stats.success.inc();
                let degraded = passed.degraded;
                (Verdict::Success { degraded }, String::new())
            }
            Err(failed) => {
                self.stats.failure.inc();
                if failed.network {
                    self.stats.network_failure.inc();
                }
                debug!(cluster = %self.transport.cluster, endpoint = %self.endpoint, reason = failed.reason, "health check failed");
                let counts = failed.counts;
                (Verdict::Failure { counts }, failed.reason)
            }
        }
    }

    /// Whether the endpoint has begun or ceased to be degraded.
    fn publish(&self, verdict: Verdict, step: Step, reason: &str) -> bool {
        let endpoint = &self.endpoint;
        let first = endpoint.find(Finding::PendingActive, false);
        let degraded = matches!(verdict, Verdict::Success { degraded: true });
        let degraded_changed = endpoint.find(Finding::DegradedActive, degraded);
        let mut changed = degraded_changed;
        if step == Step::Changed {
            let healthy = matches!(verdict, Verdict::Success { .. });
            changed |= endpoint.find(Finding::FailedActive, !healthy);
            match healthy {
                true => info!(cluster = %self.transport.cluster, %endpoint, "endpoint is healthy"),
                false => {
                    warn!(cluster = %self.transport.cluster, %endpoint, reason, "endpoint is unhealthy");
                }
            }
        }
        if matches!(verdict, Verdict::Success { .. })
            && !endpoint.is_found(Finding::FailedActive)
            && let Some(outlier) = &self.outlier
        {
            outlier.check_passed(endpoint);
        }
        if first {
            self.changes.note(&self.transport.cluster, Urgency::AtOnce);
        } else if changed {
            self.changes
                .note(&self.transport.cluster, Urgency::Mergeable);
        }
        degraded_changed
    }
}

fn part_of(most: Duration) -> Duration {
    most.mul_f64(fastrand::f64())
}

fn jittered(interval: Duration, jitter: Duration, percent: u32) -> Duration {
    let percent = interval.saturating_mul(percent) / 100;
    interval
        .saturating_add(part_of(percent))
        .saturating_add(part_of(jitter))
}

#[cfg(test)]
mod tests;
