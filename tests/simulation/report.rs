//! What a simulation came to.

use crate::server::{MS, Micros};

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub requests: usize,
    pub errors: usize,
    pub attempts: usize,
    /// Of successful requests, sorted.
    pub latencies: Vec<Micros>,
    pub most_ejected: usize,
    /// Requests that each server took.
    pub taken: Vec<u32>,
}

impl Report {
    /// In milliseconds.
    pub fn percentile(&self, share: f64) -> u64 {
        let last = self.latencies.len().saturating_sub(1);
        let place = (last as f64 * share).round() as usize;
        self.latencies.get(place).map_or(0, |latency| latency / MS)
    }

    pub fn error_rate(&self) -> f64 {
        100.0 * self.errors as f64 / self.requests.max(1) as f64
    }
}
