//! Why an endpoint is as healthy as it is, and what comes next, for whoever asks (`/clusters`).
//! Whether it may be chosen does not depend on any of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::endpoint::clock_ms;

/// What checks and detectors leave behind. Small, as there may be very many that are well.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// On [`clock_ms`]; 0: it is not checked.
    next_check: AtomicU64,
    /// Only there while something is wrong.
    wrong: Mutex<Option<Box<Wrong>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wrong {
    /// What the last check said, if it failed.
    check: Option<String>,
    ejection: Option<Ejection>,
}

/// An endpoint is left out for its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Which detector it was.
    pub by: &'static str,
    /// On [`clock_ms`]: when it is over at the earliest.
    until: u64,
}

impl Diagnosis {
    /// A check has been made, and the next one comes after `wait`.
    pub fn checked(&self, failure: Option<String>, wait: Duration) {
        self.next_check.store(after(wait), Relaxed);
        self.change(|wrong| wrong.check = failure);
    }

    /// It is no longer checked.
    pub fn forget_checks(&self) {
        self.next_check.store(0, Relaxed);
        self.change(|wrong| wrong.check = None);
    }

    pub fn ejected(&self, by: &'static str, time: Duration) {
        let until = after(time);
        self.change(|wrong| wrong.ejection = Some(Ejection { by, until }));
    }

    pub fn returned(&self) {
        self.change(|wrong| wrong.ejection = None);
    }

    /// Until the next check; none if it is not checked, zero if one is being made.
    pub fn next_check(&self) -> Option<Duration> {
        match self.next_check.load(Relaxed) {
            0 => None,
            at => Some(until(at)),
        }
    }

    /// Why the last check failed, if it did.
    pub fn check_failure(&self) -> Option<String> {
        self.wrong().as_ref()?.check.clone()
    }

    pub fn ejection(&self) -> Option<Ejection> {
        self.wrong().as_ref()?.ejection
    }

    fn change(&self, change: impl FnOnce(&mut Wrong)) {
        let mut wrong = self.wrong();
        let mut now = wrong.take().unwrap_or_default();
        change(&mut now);
        *wrong = Some(now).filter(|now| **now != Wrong::default());
    }

    fn wrong(&self) -> MutexGuard<'_, Option<Box<Wrong>>> {
        // It is written as a whole.
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ejection {
    /// Zero once the next look at the endpoint ends it.
    pub fn left(&self) -> Duration {
        until(self.until)
    }
}

fn after(wait: Duration) -> u64 {
    clock_ms().saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

fn until(at: u64) -> Duration {
    Duration::from_millis(at.saturating_sub(clock_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_is_known_until_it_is_over() {
        let diagnosis = Diagnosis::default();
        let seconds = Duration::from_secs;
        assert_eq!(diagnosis.next_check(), None);
        diagnosis.checked(Some("status 503".to_owned()), seconds(5));
        diagnosis.ejected("CONSECUTIVE_5XX", seconds(30));
        tokio::time::advance(seconds(2)).await;
        assert_eq!(diagnosis.next_check(), Some(seconds(3)));
        assert_eq!(diagnosis.check_failure().as_deref(), Some("status 503"));
        let ejection = diagnosis.ejection().unwrap();
        assert_eq!(
            (ejection.by, ejection.left()),
            ("CONSECUTIVE_5XX", seconds(28))
        );
        diagnosis.checked(None, seconds(5));
        assert_eq!(diagnosis.check_failure(), None);
        assert!(diagnosis.ejection().is_some());
        tokio::time::advance(seconds(60)).await;
        assert_eq!(diagnosis.next_check(), Some(Duration::ZERO));
        assert_eq!(diagnosis.ejection().unwrap().left(), Duration::ZERO);
        diagnosis.returned();
        assert!(diagnosis.wrong().is_none());
        diagnosis.forget_checks();
        assert_eq!(diagnosis.next_check(), None);
    }
}
