//! What the results of checks add up to.

use std::time::Duration;

use causeway_xds::resource::cluster::{HealthCheck, Intervals};

/// What one check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Success {
        degraded: bool,
    },
    Failure {
        /// It takes several in a row; otherwise the endpoint itself said so.
        counts: bool,
    },
}

/// What a verdict did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// More of the kind will change the state.
    Pending,
    Changed,
}

#[derive(Clone, Copy, Debug)]
pub struct Progress {
    healthy: bool,
    first: bool,
    successes: u32,
    failures: u32,
}

impl Progress {
    pub fn new(healthy: bool) -> Self {
        Self {
            healthy,
            first: true,
            successes: 0,
            failures: 0,
        }
    }

    /// The first success is enough, whatever the threshold: a start should not take longer for it.
    pub fn take(&mut self, verdict: Verdict, check: &HealthCheck) -> Step {
        let first = std::mem::replace(&mut self.first, false);
        match verdict {
            Verdict::Success { .. } => {
                self.failures = 0;
                if self.healthy {
                    return Step::Nothing;
                }
                self.successes += 1;
                if !first && self.successes < check.healthy_threshold {
                    return Step::Pending;
                }
                self.healthy = true;
            }
            Verdict::Failure { counts } => {
                self.successes = 0;
                if !self.healthy {
                    return Step::Nothing;
                }
                self.failures += 1;
                if counts && self.failures < check.unhealthy_threshold {
                    return Step::Pending;
                }
                self.healthy = false;
            }
        }
        Step::Changed
    }
}

/// Until the next check, without jitter. Whether there is `traffic` decides how much it matters.
pub fn wait(verdict: Verdict, step: Step, intervals: &Intervals, traffic: bool) -> Duration {
    let success = matches!(verdict, Verdict::Success { .. });
    match (traffic, success, step) {
        (false, true, _) => intervals.no_traffic_healthy,
        (false, false, _) => intervals.no_traffic,
        (true, true, Step::Pending) => intervals.healthy_edge,
        (true, true, _) => intervals.healthy,
        (true, false, Step::Pending) => intervals.unhealthy_edge,
        (true, false, _) => intervals.unhealthy,
    }
}
