//! Which of several management servers to use (gRFC A71, without its authorities).

use std::time::{Duration, Instant};

/// How long the server that gave the configuration is tried again before the next one is. What it
/// gave stays in force meanwhile, so that a restart of it is no reason to change.
pub(super) const FALL_BACK_AFTER: Duration = Duration::from_secs(30);

/// The server in use or to be tried, by its place in the list.
#[derive(Debug)]
pub(super) struct Choice {
    servers: usize,
    at: usize,
    /// When the one that gave the configuration was lost; `None` before there was any.
    lost: Option<Instant>,
    /// Who gave the newest configuration.
    giver: Option<usize>,
}

impl Choice {
    pub(super) const fn new(servers: usize) -> Self {
        Self {
            servers,
            at: 0,
            lost: None,
            giver: None,
        }
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Whether another server than this one gave what is in force.
    pub(super) fn is_other(&self) -> bool {
        self.giver.is_some_and(|giver| giver != self.at)
    }

    /// It has sent a response.
    pub(super) const fn answered(&mut self) {
        self.giver = Some(self.at);
    }

    /// The connection ended after a response: the same server is tried again.
    pub(super) const fn lost(&mut self, now: Instant) {
        self.lost = Some(now);
    }

    /// It could not be reached, or said nothing. Returns whether to wait before the next attempt.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let patient = self
            .lost
            .is_some_and(|lost| now.saturating_duration_since(lost) < FALL_BACK_AFTER);
        if patient {
            return true;
        }
        self.at = (self.at + 1) % self.servers;
        self.at == 0
    }

    /// A server further up has become reachable. If it turns out to be of no use, the next one is
    /// tried at once.
    pub(super) const fn back(&mut self, to: usize) {
        self.at = to;
        self.lost = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_server_is_tried_at_once_before_any_configuration_came() {
        let now = Instant::now();
        let mut choice = Choice::new(3);
        assert!(!choice.failed(now) && choice.at() == 1);
        assert!(!choice.failed(now) && choice.at() == 2);
        assert!(choice.failed(now), "all of them were tried");
        assert_eq!(choice.at(), 0);
        let mut alone = Choice::new(1);
        assert!(alone.failed(now) && alone.at() == 0);
    }

    #[test]
    fn a_server_that_gave_configuration_is_kept_for_a_while() {
        let now = Instant::now();
        let mut choice = Choice::new(2);
        choice.answered();
        choice.lost(now);
        assert!(choice.failed(now + FALL_BACK_AFTER / 2) && choice.at() == 0);
        assert!(!choice.is_other());
        assert!(!choice.failed(now + FALL_BACK_AFTER) && choice.at() == 1);
        assert!(choice.is_other());
        choice.answered();
        assert!(!choice.is_other());
        choice.back(0);
        assert!(choice.at() == 0 && choice.is_other());
        assert!(!choice.failed(now + FALL_BACK_AFTER), "of no use after all");
        assert_eq!(choice.at(), 1);
    }
}
