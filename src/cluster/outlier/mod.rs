//! Outlier detection (passive health): endpoints that answer badly are ejected for a while.
//!
//! | module | holds |
//! |---|---|
//! | (here) | what data threads tell: one call for each attempt, atomics only |
//! | `detector` | who is ejected and for how long; on the control thread, without I/O or clock |
//! | `keys` | the numbers, as configuration or the runtime says |

mod detector;
mod keys;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use causeway_xds::resource::cluster::OutlierDetection;
use tokio::sync::mpsc;

pub use detector::Detector;
pub use keys::Keys;

use crate::upstream::endpoint::Finding;
use crate::upstream::outcomes::Percent;
use crate::upstream::{ConnectError, ConnectErrorKind, Endpoint};

/// Reports that may wait for the control thread. One that finds no room is made again by the
/// failures that follow.
const QUEUE: usize = 1024;

/// What one attempt to use an endpoint came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was connected to, and nothing more is expected of it (TCP).
    Connected,
    /// It answered with this status.
    Answered(u16),
    /// There was no connection.
    Unreachable,
    /// It was connected to, and did not answer in time; the status is what the client is told.
    /// `false`: it was not even connected to.
    TimedOut(u16, bool),
    /// It was connected to, and broke off before it answered.
    Reset,
}

impl Outcome {
    /// Of a connection that nothing more is expected of. One that a limit forbids, or that this host
    /// is too short of something for, says nothing of the endpoint, and counts as none.
    pub fn of<T>(opened: &Result<T, ConnectError>) -> Option<Self> {
        match opened {
            Ok(_) => Some(Self::Connected),
            Err(error) if !error.is_of_endpoint() => None,
            Err(error) if matches!(error.kind.decisive(), ConnectErrorKind::Timeout(..)) => {
                Some(Self::TimedOut(504, false))
            }
            Err(_) => Some(Self::Unreachable),
        }
    }
}

/// Something that control has to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub cluster: Arc<str>,
    /// [`Endpoint::identity`].
    pub endpoint: u64,
    pub what: Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    /// A health check of an ejected endpoint succeeded.
    CheckPassed,
}

/// Where reports go.
#[derive(Clone, Debug)]
pub struct Reports(mpsc::Sender<Report>);

/// Where they come from.
pub type Received = mpsc::Receiver<Report>;

pub fn reports() -> (Reports, Received) {
    let (sender, received) = mpsc::channel(QUEUE);
    (Reports(sender), received)
}

/// What a cluster asks for, and what was worked out last. Shared by the snapshots that show the same
/// configuration.
#[derive(Debug)]
pub struct Detection {
    cluster: Arc<str>,
    pub model: OutlierDetection,
    keys: Arc<Keys>,
    reports: Reports,
    pub external: Average,
    pub local_origin: Average,
}

/// Of the success rates of all endpoints with requests enough.
#[derive(Debug, Default)]
pub struct Average {
    pub mean: Percent,
    /// Those below are outliers.
    pub threshold: Percent,
}

impl Detection {
    pub fn new(
        cluster: Arc<str>,
        model: OutlierDetection,
        keys: Arc<Keys>,
        reports: Reports,
    ) -> Self {
        Self {
            cluster,
            model,
            keys,
            reports,
            external: Average::default(),
            local_origin: Average::default(),
        }
    }

    /// Counts an outcome.
    pub fn note(&self, endpoint: &Endpoint, outcome: Outcome) {
        if self.model.split_local_origin {
            match outcome {
                Outcome::Connected => self.local_origin(endpoint, true),
                Outcome::Answered(status) => {
                    self.local_origin(endpoint, true);
                    self.answered(endpoint, status);
                }
                Outcome::Unreachable | Outcome::TimedOut(_, false) => {
                    self.local_origin(endpoint, false);
                }
                Outcome::TimedOut(_, true) | Outcome::Reset => {
                    self.local_origin(endpoint, true);
                    self.local_origin(endpoint, false);
                }
            }
        } else {
            let status = match outcome {
                Outcome::Connected => 200,
                Outcome::Answered(status) | Outcome::TimedOut(status, _) => status,
                Outcome::Unreachable | Outcome::Reset => 503,
            };
            self.answered(endpoint, status);
        }
    }

    fn answered(&self, endpoint: &Endpoint, status: u16) {
        let outcomes = endpoint.outcomes();
        let failed = status >= 500;
        outcomes.external.count(!failed);
        let gateway = matches!(status, 502..=504);
        let counted = [
            (
                &outcomes.consecutive_gateway_failure,
                gateway,
                self.keys.consecutive_gateway_failure(&self.model),
                Event::ConsecutiveGatewayFailure,
            ),
            (
                &outcomes.consecutive_5xx,
                failed,
                self.keys.consecutive_5xx(&self.model),
                Event::Consecutive5xx,
            ),
        ];
        for (count, failed, limit, event) in counted {
            self.consecutive(endpoint, count, failed, limit, event);
        }
    }

    fn local_origin(&self, endpoint: &Endpoint, success: bool) {
        let outcomes = endpoint.outcomes();
        outcomes.local_origin.count(success);
        let limit = self.keys.consecutive_local_origin_failure(&self.model);
        let count = &outcomes.consecutive_local_origin_failure;
        let event = Event::ConsecutiveLocalOriginFailure;
        self.consecutive(endpoint, count, !success, limit, event);
    }

    fn consecutive(
        &self,
        endpoint: &Endpoint,
        count: &AtomicU32,
        failed: bool,
        limit: u32,
        event: Event,
    ) {
        if !failed {
            // Mostly it is zero, and many threads read it.
            if count.load(Relaxed) != 0 {
                count.store(0, Relaxed);
            }
        } else if count.fetch_add(1, Relaxed).wrapping_add(1) == limit
            && !self.report(endpoint, event)
        {
            count.store(0, Relaxed);
        }
    }

    /// A health check of the endpoint succeeded, and by those it is healthy.
    pub fn check_passed(&self, endpoint: &Endpoint) {
        if self.model.uneject_after_check && endpoint.is_found(Finding::FailedOutlier) {
            // The next check comes if there is no room.
            self.report(endpoint, Event::CheckPassed);
        }
    }

    fn report(&self, endpoint: &Endpoint, what: Event) -> bool {
        let report = Report {
            cluster: Arc::clone(&self.cluster),
            endpoint: endpoint.identity(),
            what,
        };
        self.reports.0.try_send(report).is_ok()
    }
}

#[cfg(test)]
mod tests;
