//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Exponential with full jitter: proxies that lost a server at the same moment must not come back
/// to it at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) const fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max,
            failures: 0,
        }
    }

    /// After the server has shown that it is there.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure: `random` (from 0 to 1) of the base, then of twice, four
    /// times that, and at last of the maximum.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let whole = self.base.saturating_mul(1 << self.failures).min(self.max);
        self.failures = (self.failures + 1).min(16);
        whole.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_maximum_and_start_again() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second / 2, 5 * second);
        let waits: Vec<f64> = (0..6).map(|_| backoff.next(1.0).as_secs_f64()).collect();
        assert_eq!(waits, [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]);
        assert_eq!(backoff.next(0.0), Duration::ZERO, "the jitter is full");
        assert_eq!(backoff.next(0.5), 5 * second / 2);
        for _ in 0..1000 {
            assert!(backoff.next(1.0) <= 5 * second);
        }
        backoff.reset();
        assert_eq!(backoff.next(1.0), second / 2);
    }
}
