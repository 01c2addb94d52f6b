//! One upstream address and what is known about it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use causeway_xds::resource::Address;
use causeway_xds::resource::load_assignment::{self as model, EndpointHealth, Locality};
use tokio::time::Instant;

use super::diagnosis::Diagnosis;
use super::outcomes::Outcomes;
use crate::telemetry::stats::{Counter, Gauge};

/// What makes an endpoint the same one in the next snapshot. The id is part of it: ports of
/// hosts are used again, and a new kernel at an old address must not inherit its predecessor's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey<'e> {
    address: &'e Address,
    /// Where else it is, for connections; what is said of it, and checked, is `address`. One that is
    /// dropped may be somebody else's soon, so they are part of the identity.
    additional: &'e [SocketAddr],
    id: &'e str,
}

impl<'e> From<&'e model::Endpoint> for EndpointKey<'e> {
    fn from(model: &'e model::Endpoint) -> Self {
        Self {
            address: &model.address,
            additional: &model.additional_addresses,
            id: &model.id,
        }
    }
}

/// What every request asks comes first, and on one line of memory: of many endpoints each is out of
/// the caches when its turn comes.
#[derive(Debug)]
#[repr(C)]
pub struct Endpoint {
    /// Unique in this process; what pools are keyed by.
    pub uid: u64,
    pub stats: Arc<EndpointStats>,
    state: Arc<State>,
    knowledge: Arc<Knowledge>,
    pub attributes: Attributes,
}

/// How far an endpoint may be used, by all that is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    Healthy,
    /// Only as far as the healthy ones are too few.
    Degraded,
    /// Only in panic.
    Unhealthy,
}

/// What goes with the connections to an endpoint.
#[derive(Debug, Default)]
struct State {
    retired: AtomicBool,
    cut: AtomicBool,
    /// Until when others are preferred, in milliseconds on [`clock_ms`]; 0: not at all.
    shunned_until: AtomicU64,
}

/// What is known of an endpoint, whichever way it is connected to.
#[derive(Debug, Default)]
struct Knowledge {
    /// Unique in this process.
    identity: u64,
    /// What was found out about its health: [`Finding`]s.
    findings: AtomicU8,
    checked: AtomicBool,
    /// On [`clock_ms`]: it became known, or passed its health checks after it had failed them.
    fresh_since: AtomicU64,
    /// From the first one on that is counted.
    outcomes: OnceLock<Box<Outcomes>>,
    diagnosis: Diagnosis,
}

/// What is known of an endpoint's health beside what its source says. Several may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Finding {
    /// Health checks fail, or have not succeeded yet.
    FailedActive = 1,
    /// It was not checked yet.
    PendingActive = 2,
    /// Health checks say that it is degraded.
    DegradedActive = 4,
    /// It answered badly, and is left out for a while.
    FailedOutlier = 8,
}

impl Finding {
    /// What health checks find out.
    const ACTIVE: u8 =
        Self::FailedActive as u8 | Self::PendingActive as u8 | Self::DegradedActive as u8;
}

/// How long an endpoint that could not be connected to is left alone while there are others. A
/// machine that is gone does not answer at all: without this every request that is drawn to it
/// would wait for `connect_timeout`.
pub const SHUN: Duration = Duration::from_secs(10);

/// Milliseconds on a clock of this process, which tests may turn. Zero is long ago.
pub fn clock_ms() -> u64 {
    const BEGIN: u64 = 1 << 40;
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    BEGIN.saturating_add(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX))
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// What every request counts comes first, as in [`Endpoint`].
#[derive(Debug, Default)]
#[repr(C)]
pub struct EndpointStats {
    pub rq_total: Counter,
    pub rq_active: Gauge,
    pub rq_success: Counter,
    pub rq_error: Counter,
    pub rq_timeout: Counter,
    pub cx_total: Counter,
    pub cx_active: Gauge,
    pub cx_connect_fail: Counter,
}

/// What a load assignment says about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub said: Arc<model::Endpoint>,
    pub priority: u32,
    pub locality: Arc<Locality>,
    /// Which of the cluster's sockets it is connected to by; `None`: the one of all others.
    pub socket: Option<usize>,
}

impl Attributes {
    /// Those of one of which nothing is said but this.
    pub fn plain(said: model::Endpoint) -> Self {
        Self {
            said: Arc::new(said),
            priority: 0,
            locality: Arc::default(),
            socket: None,
        }
    }
}

impl std::ops::Deref for Attributes {
    type Target = model::Endpoint;

    fn deref(&self) -> &model::Endpoint {
        &self.said
    }
}

impl Endpoint {
    /// `None` for a Unix socket.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match &self.attributes.address {
            Address::Socket(address) => Some(*address),
            _ => None,
        }
    }

    /// What makes it the same one as in another set.
    pub fn key(&self) -> EndpointKey<'_> {
        EndpointKey::from(&*self.attributes.said)
    }

    pub fn new(attributes: Attributes) -> Self {
        let uid = next_number();
        let knowledge = Knowledge {
            identity: uid,
            fresh_since: clock_ms().into(),
            ..Knowledge::default()
        };
        Self {
            uid,
            attributes,
            stats: Arc::default(),
            state: Arc::default(),
            knowledge: Arc::new(knowledge),
        }
    }

    /// The same endpoint with other attributes: same pools, same counters.
    #[must_use]
    pub fn with(&self, attributes: Attributes) -> Self {
        Self {
            uid: self.uid,
            attributes,
            stats: Arc::clone(&self.stats),
            state: Arc::clone(&self.state),
            knowledge: Arc::clone(&self.knowledge),
        }
    }

    /// The same endpoint, connected to in another way: pools and counters of its own, while what is
    /// known of its health stays.
    #[must_use]
    pub fn reconnected(&self, attributes: Attributes) -> Self {
        Self {
            uid: next_number(),
            attributes,
            stats: Arc::default(),
            state: Arc::default(),
            knowledge: Arc::clone(&self.knowledge),
        }
    }

    /// Unique in this process, and the same whichever way the endpoint is connected to: what
    /// ejections are kept by.
    pub fn identity(&self) -> u64 {
        self.knowledge.identity
    }

    /// It could not be connected to.
    pub fn shun(&self) {
        let until = clock_ms() + u64::try_from(SHUN.as_millis()).unwrap_or(u64::MAX);
        self.state.shunned_until.store(until, Relaxed);
    }

    /// It could.
    pub fn welcome(&self) {
        if self.state.shunned_until.load(Relaxed) != 0 {
            self.state.shunned_until.store(0, Relaxed);
        }
    }

    pub fn is_shunned(&self) -> bool {
        self.shunned_for().is_some()
    }

    /// For how long others are preferred, if they are.
    pub fn shunned_for(&self) -> Option<Duration> {
        let until = self.state.shunned_until.load(Relaxed);
        let left = (until != 0).then(|| until.saturating_sub(clock_ms()));
        left.filter(|left| *left > 0).map(Duration::from_millis)
    }

    /// From now on no connection of this endpoint is pooled. With `cut`, none begins either: one
    /// that is being opened would outlive those that are ended.
    pub fn retire(&self, cut: bool) {
        self.state.retired.store(true, Relaxed);
        self.state.cut.store(cut, Relaxed);
    }

    pub fn is_cut(&self) -> bool {
        self.state.cut.load(Relaxed)
    }

    pub fn is_retired(&self) -> bool {
        self.state.retired.load(Relaxed)
    }

    /// Whether it is one that is checked. Until the first check has passed nobody knows, and that
    /// counts as unhealthy unless it is `presumed` to be healthy; what is not checked is healthy.
    pub fn await_check(&self, checked: bool, presumed: bool) {
        let was = self.knowledge.checked.swap(checked, Relaxed);
        if checked && !was && !presumed {
            self.find(Finding::FailedActive, true);
            self.find(Finding::PendingActive, true);
        } else if was && !checked {
            let findings = &self.knowledge.findings;
            findings.fetch_and(!Finding::ACTIVE, Relaxed);
            self.knowledge.diagnosis.forget_checks();
        }
    }

    /// Notes what was found; returns whether that is new.
    pub fn find(&self, finding: Finding, holds: bool) -> bool {
        let bit = finding as u8;
        if finding == Finding::FailedActive && !holds && self.is_found(finding) {
            self.knowledge.fresh_since.store(clock_ms(), Relaxed);
        }
        let before = match holds {
            true => self.knowledge.findings.fetch_or(bit, Relaxed),
            false => self.knowledge.findings.fetch_and(!bit, Relaxed),
        };
        (before & bit != 0) != holds
    }

    /// As if it had been known for long.
    #[cfg(test)]
    pub fn grow_old(&self) {
        self.knowledge.fresh_since.store(0, Relaxed);
    }

    /// Since when it may be chosen, on [`clock_ms`], as far as health checks go.
    pub fn fresh_since(&self) -> u64 {
        self.knowledge.fresh_since.load(Relaxed)
    }

    pub fn is_found(&self, finding: Finding) -> bool {
        self.knowledge.findings.load(Relaxed) & finding as u8 != 0
    }

    /// What requests to it came to, for outlier detection.
    pub fn outcomes(&self) -> &Outcomes {
        self.knowledge.outcomes.get_or_init(Box::default)
    }

    /// The same for whoever only looks.
    pub fn seen_outcomes(&self) -> Option<&Outcomes> {
        self.knowledge.outcomes.get().map(|outcomes| &**outcomes)
    }

    /// Why its health is what it is.
    pub fn diagnosis(&self) -> &Diagnosis {
        &self.knowledge.diagnosis
    }

    pub fn availability(&self) -> Availability {
        match self.status() {
            EndpointHealth::Unknown | EndpointHealth::Healthy => Availability::Healthy,
            EndpointHealth::Degraded => Availability::Degraded,
            EndpointHealth::Unhealthy | EndpointHealth::Draining | EndpointHealth::Timeout => {
                Availability::Unhealthy
            }
        }
    }

    /// As the API tells it, checks and outlier detection before what was configured.
    pub fn status(&self) -> EndpointHealth {
        if self.is_found(Finding::FailedActive) || self.is_found(Finding::FailedOutlier) {
            return EndpointHealth::Unhealthy;
        }
        match self.attributes.health {
            EndpointHealth::Unknown | EndpointHealth::Healthy
                if self.is_found(Finding::DegradedActive) =>
            {
                EndpointHealth::Degraded
            }
            configured => configured,
        }
    }

    /// Whether it may be chosen without need.
    pub fn is_available(&self) -> bool {
        matches!(
            self.availability(),
            Availability::Healthy | Availability::Degraded
        )
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.attributes.address.fmt(f)
    }
}
