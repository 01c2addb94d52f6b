//! One simulated server, and time as the simulation has it.

use std::collections::BTreeSet;

use causeway::cluster::health_check::progress::Progress;

/// Time from the beginning, in microseconds.
pub type Micros = u64;

pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;
/// Mean time that a server works on a request; one at a time, the others queue.
pub const SERVICE: Micros = 50 * MS;
/// A server that is new works slower by this factor, less and less over [`COLD`].
const COLD_FACTOR: f64 = 5.0;
const COLD: Micros = 10 * SECOND;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    Up,
    /// Connections are refused.
    Dead,
    /// Nothing comes back: the machine is gone.
    Silent,
    /// Works slower by this factor.
    Slow(f64),
    /// Answers 500, at once.
    Failing,
}

pub struct Server {
    pub state: State,
    /// When what it has taken so far is done.
    pub free_at: Micros,
    pub started: Micros,
    /// Requests that it works on.
    pub running: BTreeSet<usize>,
    pub progress: Progress,
}

impl Server {
    pub fn factor(&self, now: Micros) -> f64 {
        let slow = match self.state {
            State::Slow(factor) => factor,
            _ => 1.0,
        };
        let age = now.saturating_sub(self.started) as f64 / COLD as f64;
        let cold = match self.started {
            0 => 1.0,
            _ => 1.0 + (COLD_FACTOR - 1.0) * (1.0 - age).max(0.0),
        };
        slow * cold
    }
}

/// A time with this mean.
pub fn exponential(random: &mut fastrand::Rng, mean: f64) -> Micros {
    (-(1.0 - random.f64()).ln() * mean) as Micros
}
