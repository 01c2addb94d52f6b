//! How long to wait before the next try.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(10);

/// Exponential from 1 s to 10 s, with jitter: workers that lost their Coordinator at the same
/// moment must not come back to it at the same moment.
#[derive(Debug)]
pub struct Backoff {
    rng: fastrand::Rng,
    failures: u32,
}

impl Backoff {
    pub const fn new(rng: fastrand::Rng) -> Self {
        Self { rng, failures: 0 }
    }

    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure: from half of 2, 4, 8 and at last 10 s up to all of it.
    pub fn next(&mut self) -> Duration {
        self.failures = (self.failures + 1).min(8);
        let whole = LAST.min(Duration::from_secs(1 << self.failures));
        whole.mul_f64(0.5 + 0.5 * self.rng.f64()).clamp(FIRST, LAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_their_bounds() {
        let mut backoff = Backoff::new(fastrand::Rng::with_seed(7));
        let waits: Vec<f64> = (0..20).map(|_| backoff.next().as_secs_f64()).collect();
        assert!(waits.iter().all(|w| (1.0..=10.0).contains(w)), "{waits:?}");
        assert!(waits[0] <= 2.0 && waits[1] <= 4.0, "{waits:?}");
        assert!(waits[5..].iter().all(|w| *w >= 5.0), "{waits:?}");
        assert!(waits[5..].iter().any(|w| *w != waits[5]), "jitter");
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(2));
    }
}
