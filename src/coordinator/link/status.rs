//! What others may know of the link: health, status and metrics read it at any time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use uuid::Uuid;

/// The state of the link, shared. Reading takes a copy under a lock that is never held for longer
/// than that.
#[derive(Clone, Debug, Default)]
pub struct LinkStatus {
    report: Arc<Mutex<LinkReport>>,
}

/// The link at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkReport {
    /// The id that the Coordinator knows this worker by; `None` while it does not.
    pub worker: Option<Uuid>,
    pub last_heartbeat: Option<Heartbeat>,
    /// Whether the event bus is subscribed; `None` where there is no bus.
    pub bus_connected: Option<bool>,
    /// When circuits were last listed and installed.
    pub last_listing: Option<SystemTime>,
    /// The Coordinator's circuits in force after the last listing or event.
    pub circuits: usize,
    pub counters: Counters,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub at: SystemTime,
    /// Why it failed; `None` when it did not.
    pub failure: Option<String>,
}

/// All since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub registrations: u64,
    pub registration_failures: u64,
    pub heartbeats: u64,
    pub heartbeat_failures: u64,
    pub listings: u64,
    pub listing_failures: u64,
    /// Listings after the first that found something different: events were missed.
    pub listing_repairs: u64,
    pub events_created: u64,
    pub events_routes_updated: u64,
    pub events_removed: u64,
    /// Events about circuits that are not known, or older than what is.
    pub events_ignored: u64,
    pub replies: u64,
    /// Circuits that could not be installed, each time.
    pub circuits_refused: u64,
    pub bus_losses: u64,
    pub state_writes: u64,
    pub state_write_failures: u64,
    pub deadlines_fired: u64,
}

impl LinkStatus {
    pub fn report(&self) -> LinkReport {
        self.change(|report| report.clone())
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut LinkReport) -> T) -> T {
        // A panic while it was held left single numbers, each of which is right.
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counters) -> &mut u64) {
        self.change(|report| *count(&mut report.counters) += 1);
    }
}
