//! When to renew, and when to try again. Pure: time and chance are arguments.

use std::time::{Duration, SystemTime};

/// After the first failure, when the authority could not be asked.
const UNANSWERED: Duration = Duration::from_secs(5);
/// The same, when it said no: authorities count failed proofs by the hour.
const REFUSED: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);
/// Without word of the authority a certificate is renewed when this share of its life is left.
const LEFT: u32 = 3;

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

impl Validity {
    fn length(self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    pub(super) fn is_over(self, now: SystemTime) -> bool {
        self.until <= now
    }

    /// With a third of the life left, less a chance of a twentieth, so that certificates which
    /// were issued together are not renewed together. `chance` is below 1.
    pub(super) fn renewal(self, chance: f64) -> SystemTime {
        let length = self.length();
        self.until - length / LEFT - length.mul_f64(chance / 20.0)
    }

    /// At a time by chance within the window that the authority suggests (RFC 9773 section 4.2),
    /// and never so late that nothing could go wrong any more.
    pub(super) fn suggested(
        self,
        (start, end): (SystemTime, SystemTime),
        chance: f64,
    ) -> SystemTime {
        let wide = end.duration_since(start).unwrap_or_default();
        let latest = self.until - self.length() / 10;
        (start + wide.mul_f64(chance)).min(latest)
    }
}

/// Before the next attempt, after this many failures in a row (at least one). `chance` is below 1.
pub(super) fn backoff(failures: u32, refused: bool, chance: f64) -> Duration {
    let first = if refused { REFUSED } else { UNANSWERED };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LONGEST).mul_f64(1.0 - chance / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn renewal_has_time_left_and_is_spread() {
        let from = SystemTime::UNIX_EPOCH;
        let validity = Validity {
            from,
            until: from + 90 * DAY,
        };
        assert_eq!(validity.renewal(0.0), from + 60 * DAY);
        assert_eq!(validity.renewal(1.0), from + 60 * DAY - 90 * DAY / 20);
        let window = (from + 10 * DAY, from + 12 * DAY);
        assert_eq!(validity.suggested(window, 0.5), from + 11 * DAY);
        let late = (from + 95 * DAY, from + 99 * DAY);
        assert_eq!(validity.suggested(late, 0.5), from + 81 * DAY);
        assert!(validity.is_over(from + 90 * DAY) && !validity.is_over(from + 89 * DAY));
    }

    #[test]
    fn attempts_become_rarer_up_to_once_an_hour() {
        assert_eq!(backoff(1, false, 0.0), UNANSWERED);
        assert_eq!(backoff(1, true, 0.0), REFUSED);
        assert_eq!(backoff(2, true, 0.0), 2 * REFUSED);
        assert_eq!(backoff(2, true, 0.5), Duration::from_secs(105));
        assert_eq!(backoff(u32::MAX, false, 0.0), LONGEST);
    }
}
