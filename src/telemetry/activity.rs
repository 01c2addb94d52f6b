//! Which circuits are in use, as it is seen on the request path.
//!
//! A compute session that nobody uses is ended, and so is a circuit; what keeps them alive is read
//! from here about once a second and written elsewhere. On the request path a use costs a few
//! relaxed atomics and a reading of the clock: no lock, no look-up by name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use uuid::Uuid;

/// The activity of every circuit, by its id. Lasts as long as the program, so that a circuit that
/// is announced again goes on counting.
#[derive(Debug, Default)]
pub struct Activities(Mutex<HashMap<Uuid, Arc<Activity>>>);

/// The use of one circuit.
#[derive(Debug)]
pub struct Activity {
    circuit: Uuid,
    sessions: ArcSwap<Vec<Uuid>>,
    requests: AtomicU64,
    open: AtomicI64,
    /// Unix time in milliseconds; zero if never.
    last: AtomicU64,
    removed: AtomicBool,
}

/// One use, from its begin until it is dropped.
#[derive(Debug)]
#[must_use = "the use ends when this is dropped"]
pub struct ActivityGuard(Arc<Activity>);

impl Activities {
    /// The activity of a circuit, for the data plane to keep. Asked for when something is made ready
    /// for the circuit's requests, which may be late: what is known of the circuit stands.
    pub fn find(&self, circuit: Uuid, sessions: &[Uuid]) -> Arc<Activity> {
        let mut all = self.lock();
        let made = || Arc::new(Activity::new(circuit, sessions));
        Arc::clone(all.entry(circuit).or_insert_with(made))
    }

    /// A circuit is announced, or has other sessions now.
    pub fn announce(&self, circuit: Uuid, sessions: &[Uuid]) -> Arc<Activity> {
        let activity = self.find(circuit, sessions);
        if **activity.sessions.load() != sessions {
            activity.sessions.store(Arc::new(sessions.to_vec()));
        }
        activity.removed.store(false, Relaxed);
        activity
    }

    /// The circuit is gone. What it still has open goes on keeping its session alive, and what is
    /// not written yet will be; then [`Self::forget`] drops it.
    pub fn remove(&self, circuit: Uuid) {
        if let Some(activity) = self.lock().get(&circuit) {
            activity.removed.store(true, Relaxed);
        }
    }

    /// Every activity there is, in no order.
    pub fn list(&self) -> Vec<Arc<Activity>> {
        self.lock().values().map(Arc::clone).collect()
    }

    /// Drops a removed circuit that has nothing open, unless it was used after `requests`, the
    /// count that was written. Tells whether it did.
    pub fn forget(&self, circuit: Uuid, requests: u64) -> bool {
        let mut all = self.lock();
        let done = all.get(&circuit).is_some_and(|activity| {
            activity.is_removed() && activity.open() <= 0 && activity.requests() == requests
        });
        done && all.remove(&circuit).is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Arc<Activity>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    fn new(circuit: Uuid, sessions: &[Uuid]) -> Self {
        Self {
            circuit,
            sessions: ArcSwap::from_pointee(sessions.to_vec()),
            requests: AtomicU64::new(0),
            open: AtomicI64::new(0),
            last: AtomicU64::new(0),
            removed: AtomicBool::new(false),
        }
    }

    /// A request, WebSocket or TCP connection begins. A WebSocket counts as one use, the request
    /// that opened it.
    pub fn begin(self: &Arc<Self>) -> ActivityGuard {
        self.requests.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
        self.stamp();
        ActivityGuard(Arc::clone(self))
    }

    pub fn circuit(&self) -> Uuid {
        self.circuit
    }

    /// The sessions that a use of the circuit keeps alive.
    pub fn sessions(&self) -> Arc<Vec<Uuid>> {
        self.sessions.load_full()
    }

    /// How many uses have begun.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// How many have not ended.
    pub fn open(&self) -> i64 {
        self.open.load(Relaxed)
    }

    /// When a use last began or ended: unix time in milliseconds, zero if never.
    pub fn last(&self) -> u64 {
        self.last.load(Relaxed)
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }

    fn stamp(&self) {
        self.last.store(unix_millis(), Relaxed);
    }
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        // First the stamp: whoever sees nothing open any more sees when that came about.
        self.0.stamp();
        self.0.open.fetch_sub(1, Relaxed);
    }
}

pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIRCUIT: Uuid = Uuid::from_u128(1);

    #[test]
    fn a_use_is_counted_once_and_is_open_until_dropped() {
        let activities = Activities::default();
        let activity = activities.announce(CIRCUIT, &[]);
        assert_eq!(
            (activity.requests(), activity.open(), activity.last()),
            (0, 0, 0)
        );
        let first = activity.begin();
        let second = activity.begin();
        assert_eq!((activity.requests(), activity.open()), (2, 2));
        assert!(activity.last() > 1_600_000_000_000);
        activity.last.store(1, Relaxed);
        drop(first);
        assert!(activity.last() > 1, "the end is a use too");
        drop(second);
        assert_eq!((activity.requests(), activity.open()), (2, 0));
    }

    #[test]
    fn a_circuit_announced_again_goes_on_counting() {
        let activities = Activities::default();
        let before = activities.announce(CIRCUIT, &[Uuid::from_u128(7)]);
        drop(before.begin());
        activities.remove(CIRCUIT);
        let after = activities.announce(CIRCUIT, &[Uuid::from_u128(8)]);
        assert!(Arc::ptr_eq(&before, &after) && !after.is_removed());
        assert_eq!(*before.sessions(), [Uuid::from_u128(8)]);
        assert_eq!(activities.list().len(), 1);
    }

    #[test]
    fn only_what_is_removed_closed_and_written_is_forgotten() {
        let activities = Activities::default();
        let activity = activities.announce(CIRCUIT, &[]);
        assert!(!activities.forget(CIRCUIT, 0), "not removed");
        activities.remove(CIRCUIT);
        let open = activity.begin();
        assert!(!activities.forget(CIRCUIT, 1), "open");
        drop(open);
        assert!(!activities.forget(CIRCUIT, 0), "not written");
        assert!(activities.forget(CIRCUIT, 1));
        assert!(activities.list().is_empty());
        assert!(!activities.forget(CIRCUIT, 1), "not there");
    }
}
