//! Which of two words about a circuit counts.
//!
//! Events come by one way and listings by another, and several Coordinators may speak at once. The
//! rules, which docs/COORDINATOR.md explains:
//!
//! 1. An event about a circuit holds against every listing that was requested before it, or less
//!    than [`SETTLE`] after it.
//! 2. An announcement that is older than what was heard of the circuit (by `updated_at`) is stale;
//!    for a circuit that was removed, one that is not newer is.
//! 3. Without dates on both sides, what arrives later counts.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::util::time::parse_timestamp;

/// How long the Coordinator may take until a listing shows what it told in an event: its database
/// can be behind its words.
pub const SETTLE: Duration = Duration::from_secs(5);

/// Longer than any message is under way.
const KEEP: Duration = Duration::from_secs(600);

/// So many circuits are not heard of within [`KEEP`]; what is beyond is forgotten, oldest first.
const MAX: usize = 16_384;

/// What events said lately.
#[derive(Debug, Default)]
pub struct Ledger {
    heard: HashMap<Uuid, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    dated: Option<SystemTime>,
    gone: bool,
    at: Instant,
}

/// Whose `updated_at` this is, if it can be read.
pub fn dated(circuit: &Value) -> Option<SystemTime> {
    parse_timestamp(circuit.get("updated_at")?.as_str()?)
}

impl Ledger {
    /// Whether something dated `dated` about a circuit is too late to count.
    pub fn is_stale(&self, id: Uuid, dated: Option<SystemTime>) -> bool {
        let Some(heard) = self.heard.get(&id) else {
            return false;
        };
        match (dated, heard.dated) {
            (Some(said), Some(known)) if heard.gone => said <= known,
            (Some(said), Some(known)) => said < known,
            _ => false,
        }
    }

    /// Notes an event that counted.
    pub fn hear(&mut self, id: Uuid, dated: Option<SystemTime>, gone: bool, now: Instant) {
        if self.heard.len() >= MAX {
            self.forget(now);
        }
        let known = self.heard.get(&id).and_then(|heard| heard.dated);
        let dated = dated.max(known);
        self.heard.insert(
            id,
            Heard {
                dated,
                gone,
                at: now,
            },
        );
    }

    /// The circuits of which a listing that was requested at `requested` may know too little.
    pub fn holds(&self, requested: Instant) -> HashSet<Uuid> {
        let held = |heard: &Heard| heard.at + SETTLE > requested;
        let entries = self.heard.iter();
        entries
            .filter(|(_, heard)| held(heard))
            .map(|(id, _)| *id)
            .collect()
    }

    pub fn forget(&mut self, now: Instant) {
        self.heard
            .retain(|_, heard| now.saturating_duration_since(heard.at) < KEEP);
        if self.heard.len() >= MAX {
            let mut times: Vec<Instant> = self.heard.values().map(|heard| heard.at).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            self.heard.retain(|_, heard| heard.at > middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn older_words_are_stale() {
        let (id, now) = (Uuid::from_u128(1), Instant::now());
        let mut ledger = Ledger::default();
        assert!(!ledger.is_stale(id, at(1)), "nothing heard yet");
        ledger.hear(id, at(5), false, now);
        assert!(ledger.is_stale(id, at(4)));
        assert!(!ledger.is_stale(id, at(5)), "the same again");
        assert!(!ledger.is_stale(id, None), "no date");
        ledger.hear(id, None, false, now);
        assert!(ledger.is_stale(id, at(4)), "a date is not forgotten");
        ledger.hear(id, at(5), true, now);
        assert!(ledger.is_stale(id, at(5)), "it is gone");
        assert!(!ledger.is_stale(id, at(6)));
        assert!(!ledger.is_stale(id, None));
    }

    #[test]
    fn events_hold_against_listings_for_a_while() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.hear(a, None, false, start);
        ledger.hear(b, None, true, start + SETTLE);
        assert_eq!(ledger.holds(start), [a, b].into(), "requested before");
        assert_eq!(ledger.holds(start + SETTLE), [b].into());
        assert!(ledger.holds(start + SETTLE * 2).is_empty());
        ledger.forget(start + KEEP);
        assert_eq!(ledger.heard.len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        for n in 0..MAX as u64 * 2 {
            let now = start + Duration::from_millis(n / 1000);
            ledger.hear(Uuid::from_u128(n.into()), None, true, now);
        }
        assert!(ledger.heard.len() <= MAX);
        assert!(
            ledger
                .heard
                .contains_key(&Uuid::from_u128(MAX as u128 * 2 - 1))
        );
    }

    #[test]
    fn dates_are_read_where_there_are_any() {
        let circuit = serde_json::json!({"updated_at": "1970-01-01T00:00:05Z"});
        assert_eq!(dated(&circuit), at(5));
        for none in [serde_json::json!({}), serde_json::json!({"updated_at": 5})] {
            assert_eq!(dated(&none), None);
        }
    }
}
