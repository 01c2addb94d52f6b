//! What an operator may know: of each resource, and of the whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::SystemTime;

use causeway_xds::ResourceType;
use causeway_xds::reject::{Rejected, before};
use causeway_xds::resource::Raw;
use causeway_xds::source::Origin;
use causeway_xds::store::{Accepted, Refusal};

use super::warming::Key;

/// Where the process is in its life, in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Sources or clusters are waited for; no listener is open.
    PreInitializing,
    /// Listeners wait for what they refer to.
    Initializing,
    Live,
    Draining,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }

    /// As `server.state` counts them (`envoy.admin.v3.ServerInfo.State`).
    pub const fn number(self) -> i64 {
        match self {
            Self::Live => 0,
            Self::Draining => 1,
            Self::PreInitializing => 2,
            Self::Initializing => 3,
        }
    }
}

/// Shared and cheap to read.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    /// 0 pre-initializing, 1 initializing, 2 live.
    progress: AtomicU8,
    draining: Arc<AtomicBool>,
}

impl Readiness {
    /// Shares the mark that the data plane sees.
    pub(super) fn new(draining: Arc<AtomicBool>) -> Self {
        Self(Arc::new(Flags {
            draining,
            ..Flags::default()
        }))
    }

    pub fn state(&self) -> State {
        match (self.0.draining.load(Relaxed), self.0.progress.load(Relaxed)) {
            (true, _) => State::Draining,
            (_, 0) => State::PreInitializing,
            (_, 1) => State::Initializing,
            _ => State::Live,
        }
    }

    /// Never goes back: what waits later on waits beside what is served.
    pub(super) fn reached(&self, state: State) {
        let progress = match state {
            State::PreInitializing | State::Draining => 0,
            State::Initializing => 1,
            State::Live => 2,
        };
        self.0.progress.fetch_max(progress, Relaxed);
    }

    /// Balancers in front are told to go elsewhere.
    pub fn set_draining(&self, draining: bool) {
        self.0.draining.store(draining, Relaxed);
    }
}

/// Why a resource is not used as its source wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Place in the text, field path and reason, as far as there are such.
    pub details: String,
    pub at: SystemTime,
    /// Of the refused version; empty when it is the accepted one that cannot be used.
    pub version: String,
}

impl From<&Refusal> for Rejection {
    fn from(refusal: &Refusal) -> Self {
        Self {
            details: format!("{}{}", before(refusal.location.as_ref()), refusal.reason),
            at: refusal.at,
            version: refusal.version.clone(),
        }
    }
}

/// One resource, as the outputs show it.
#[derive(Clone, Debug)]
pub struct ResourceStatus {
    pub kind: ResourceType,
    pub name: String,
    /// What the store holds; `None` when no version was ever accepted.
    pub accepted: Option<Version>,
    /// Generation since which the accepted version is served; `None` while it waits.
    pub active_since: Option<u64>,
    /// What the accepted version waits for; empty when it does not.
    pub warming_for: Vec<String>,
    /// What is served while the accepted version waits.
    pub earlier: Option<Version>,
    /// The newest version offered, if it was refused or cannot be used.
    pub rejected: Option<Rejection>,
}

/// An accepted version.
#[derive(Clone, Debug)]
pub struct Version {
    pub origin: Origin,
    pub version: Arc<str>,
    pub since: SystemTime,
    pub message: Raw,
}

impl From<&Accepted> for Version {
    fn from(accepted: &Accepted) -> Self {
        Self {
            origin: accepted.origin.clone(),
            version: accepted.version.clone(),
            since: accepted.since,
            message: accepted.raw.clone(),
        }
    }
}

/// What the pipeline remembers beside the store.
#[derive(Debug, Default)]
pub(super) struct Notes {
    unusable: HashMap<Key, Rejection>,
}

impl Notes {
    /// An accepted version that only in use turns out not to work.
    pub fn not_usable(&mut self, rejected: &Rejected) {
        let key = (rejected.kind, rejected.name.clone());
        let rejection = Rejection {
            details: format!("{}{}", before(rejected.location.as_ref()), rejected.invalid),
            at: SystemTime::now(),
            version: String::new(),
        };
        self.unusable.insert(key, rejection);
    }

    /// Nothing that was noted holds for the version that comes now, if one comes.
    pub fn gone(&mut self, key: &Key) {
        self.unusable.remove(key);
    }

    pub fn activated(&mut self, key: &Key) {
        self.unusable.remove(key);
    }

    pub fn unusable(&self, key: &Key) -> Option<&Rejection> {
        self.unusable.get(key)
    }
}
