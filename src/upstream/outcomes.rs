//! What requests to an endpoint came to, counted for outlier detection. Data threads write, the
//! control thread reads; nothing is locked.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Counts of one endpoint. Those of its cluster's answers are apart from those of our own failures
/// to reach it.
#[derive(Debug, Default)]
pub struct Outcomes {
    pub consecutive_5xx: AtomicU32,
    pub consecutive_gateway_failure: AtomicU32,
    pub consecutive_local_origin_failure: AtomicU32,
    pub external: Rate,
    pub local_origin: Rate,
}

/// Requests since the last look.
#[derive(Debug, Default)]
pub struct Rate {
    total: AtomicU64,
    success: AtomicU64,
    /// Of the interval that ended last, as [`Percent`] keeps it.
    shown: Percent,
}

/// A share that may not be known.
#[derive(Debug, Default)]
pub struct Percent(AtomicU64);

impl Outcomes {
    /// Failures in a row begin anew.
    pub fn forget_consecutive(&self) {
        self.consecutive_5xx.store(0, Relaxed);
        self.consecutive_gateway_failure.store(0, Relaxed);
        self.consecutive_local_origin_failure.store(0, Relaxed);
    }
}

impl Rate {
    pub fn count(&self, success: bool) {
        self.total.fetch_add(1, Relaxed);
        if success {
            self.success.fetch_add(1, Relaxed);
        }
    }

    /// How many there were since the last time, and how many of a hundred succeeded.
    #[expect(clippy::cast_precision_loss, reason = "numbers of requests")]
    pub fn take(&self) -> (u64, f64) {
        let success = self.success.swap(0, Relaxed);
        // Of one that is just being counted the success may be there before.
        let total = self.total.swap(0, Relaxed).max(success);
        let percent = match total {
            0 => 0.0,
            total => success as f64 * 100.0 / total as f64,
        };
        (total, percent)
    }

    pub fn show(&self, percent: Option<f64>) {
        self.shown.set(percent);
    }

    pub fn shown(&self) -> Option<f64> {
        self.shown.get()
    }
}

impl Percent {
    pub fn set(&self, percent: Option<f64>) {
        // No share has the bits of this sum's zero.
        let bits = percent.map_or(0, |percent| percent.to_bits().wrapping_add(1));
        self.0.store(bits, Relaxed);
    }

    pub fn get(&self) -> Option<f64> {
        let bits = self.0.load(Relaxed).checked_sub(1)?;
        Some(f64::from_bits(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_time_since_the_last_look() {
        let rate = Rate::default();
        assert_eq!(rate.take(), (0, 0.0));
        for success in [true, true, false, true] {
            rate.count(success);
        }
        assert_eq!(rate.take(), (4, 75.0));
        assert_eq!(rate.take(), (0, 0.0));
    }

    #[test]
    fn a_share_that_is_not_known_is_no_share_of_zero() {
        let percent = Percent::default();
        assert_eq!(percent.get(), None);
        for value in [Some(0.0), Some(83.5), Some(-12.5), None] {
            percent.set(value);
            assert_eq!(percent.get(), value);
        }
    }
}
