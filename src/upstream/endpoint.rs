//! One upstream address and what is known about it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use causeway_xds::resource::Address;
use causeway_xds::resource::load_assignment::{EndpointHealth, Locality};

use crate::telemetry::stats::{Counter, Gauge};

/// What makes an endpoint the same one in the next snapshot. The id is part of it: agents reuse
/// host ports, and a new kernel at an old address must not inherit its predecessor's connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    pub address: Address,
    pub id: String,
}

#[derive(Debug)]
pub struct Endpoint {
    /// Unique in this process; what pools are keyed by.
    pub uid: u64,
    pub key: EndpointKey,
    /// For `auto_host_rewrite`; may be empty.
    pub hostname: String,
    pub health: EndpointHealth,
    pub weight: u32,
    pub priority: u32,
    pub locality: Locality,
    pub stats: Arc<EndpointStats>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    retired: AtomicBool,
    cut: AtomicBool,
    /// Until when others are preferred, in milliseconds on [`clock_ms`]; 0: not at all.
    shunned_until: AtomicU64,
}

/// How long an endpoint that could not be connected to is left alone while there are others. A
/// machine that is gone does not answer at all: without this every request that is drawn to it
/// would wait for `connect_timeout`.
pub const SHUN: Duration = Duration::from_secs(10);

/// Milliseconds since the program first asked.
fn clock_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, Default)]
pub struct EndpointStats {
    pub cx_total: Counter,
    pub cx_active: Gauge,
    pub cx_connect_fail: Counter,
    pub rq_total: Counter,
    pub rq_active: Gauge,
    pub rq_success: Counter,
    pub rq_error: Counter,
    pub rq_timeout: Counter,
}

/// What a load assignment says about an endpoint apart from its identity.
#[derive(Clone, Debug)]
pub struct Attributes {
    pub hostname: String,
    pub health: EndpointHealth,
    pub weight: u32,
    pub priority: u32,
    pub locality: Locality,
}

impl Endpoint {
    /// `None` for a Unix socket.
    pub fn socket_address(&self) -> Option<std::net::SocketAddr> {
        match &self.key.address {
            Address::Socket(address) => Some(*address),
            _ => None,
        }
    }

    pub fn new(key: EndpointKey, attributes: Attributes) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self::build(
            NEXT.fetch_add(1, Relaxed),
            key,
            attributes,
            Arc::default(),
            Arc::default(),
        )
    }

    fn build(
        uid: u64,
        key: EndpointKey,
        a: Attributes,
        stats: Arc<EndpointStats>,
        state: Arc<State>,
    ) -> Self {
        let Attributes {
            hostname,
            health,
            weight,
            priority,
            locality,
        } = a;
        Self {
            uid,
            key,
            hostname,
            health,
            weight,
            priority,
            locality,
            stats,
            state,
        }
    }

    /// The same endpoint with other attributes: same pools, same counters.
    #[must_use]
    pub fn with(&self, attributes: Attributes) -> Self {
        let (stats, state) = (Arc::clone(&self.stats), Arc::clone(&self.state));
        Self::build(self.uid, self.key.clone(), attributes, stats, state)
    }

    pub fn same_attributes(&self, a: &Attributes) -> bool {
        self.hostname == a.hostname
            && self.health == a.health
            && self.weight == a.weight
            && self.priority == a.priority
            && self.locality == a.locality
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
        let until = self.state.shunned_until.load(Relaxed);
        until != 0 && clock_ms() < until
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

    /// Whether the balancer may choose it.
    pub fn is_available(&self) -> bool {
        matches!(
            self.health,
            EndpointHealth::Unknown | EndpointHealth::Healthy | EndpointHealth::Degraded
        )
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.key.address.fmt(f)
    }
}
