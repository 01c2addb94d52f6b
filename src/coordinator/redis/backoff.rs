//! Waiting longer after each failure, and not in step with everybody else.

use std::time::Duration;

/// How long to wait before the next attempt: doubles from the shortest to the longest, and each
/// time a random part of up to half is left off, so that workers that lost the same server do not
/// come back as one.
#[derive(Clone, Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        let mut new = Self {
            shortest,
            longest,
            next: shortest,
        };
        new.reset();
        new
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        self.next_with(fastrand::f64())
    }

    /// Starts over: the last attempt was good.
    pub fn reset(&mut self) {
        self.next = (self.shortest * 2).min(self.longest);
    }

    fn next_with(&mut self, random: f64) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(1.0 - random / 2.0)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(300), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_their_bounds() {
        let waits = |random: f64| {
            let mut backoff = Backoff::default();
            let waits = (0..6).map(|_| backoff.next_with(random).as_millis());
            waits.collect::<Vec<_>>()
        };
        assert_eq!(waits(0.0), [600, 1200, 2400, 4800, 5000, 5000]);
        assert_eq!(waits(1.0), [300, 600, 1200, 2400, 2500, 2500]);
        let mut backoff = Backoff::default();
        backoff.wait();
        backoff.reset();
        assert_eq!(backoff.next_with(1.0).as_millis(), 300);
    }
}
