//! Clusters: named sets of endpoints, and choosing one of them.

mod endpoints;
mod hashing;
pub mod health_check;
mod hosts;
mod priority;
mod schedule;
mod selection;

use std::sync::{Arc, Weak};

use causeway_xds::resource::cluster as model;
use http::StatusCode;

pub use endpoints::EndpointSet;

use crate::error::{Failure, ResponseFlag};
use crate::upstream::endpoint::{Availability, EndpointStats};
use crate::upstream::{Endpoint, Transport};

/// A cluster as one snapshot shows it. Everything that must outlive the snapshot is behind `Arc`s
/// that the next one shares while the identity lasts.
#[derive(Debug)]
pub struct Cluster {
    pub name: Arc<str>,
    pub transport: Arc<Transport>,
    pub endpoints: Arc<EndpointSet>,
    /// Endpoints that it had, for as long as something still runs to them.
    pub former: Vec<Former>,
    pub model: Arc<model::Cluster>,
}

/// An endpoint that is gone. What runs to it goes on until its cluster is gone as well.
#[derive(Clone, Debug)]
pub struct Former {
    pub uid: u64,
    /// Whatever runs to an endpoint counts in its statistics, and so holds them.
    users: Weak<EndpointStats>,
}

impl From<&Endpoint> for Former {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            uid: endpoint.uid,
            users: Arc::downgrade(&endpoint.stats),
        }
    }
}

impl Former {
    pub fn is_used(&self) -> bool {
        self.users.strong_count() > 0
    }
}

/// Why no endpoint was chosen. Each variant is one row in docs/OPERATIONS, "503 by cause".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    #[error("the cluster has no endpoints")]
    Empty,
    #[error("none of the {0} endpoints may be chosen")]
    NoneEligible(usize),
    #[error("{0} endpoints were tried, there is no other")]
    AllTried(usize),
}

impl From<PickError> for Failure {
    fn from(error: PickError) -> Self {
        Self::local(
            StatusCode::SERVICE_UNAVAILABLE,
            ResponseFlag::NoHealthyUpstream,
            "no_healthy_upstream",
        )
        .saying("no healthy upstream")
        .because(error)
    }
}

impl Cluster {
    /// The same with other knowledge of its endpoints.
    #[must_use]
    pub fn with_endpoints(&self, endpoints: EndpointSet) -> Self {
        Self {
            name: Arc::clone(&self.name),
            transport: Arc::clone(&self.transport),
            endpoints: Arc::new(endpoints),
            former: self.former.clone(),
            model: Arc::clone(&self.model),
        }
    }

    /// Shows in the statistics how many endpoints there are and how they are.
    pub fn gauge_members(&self) {
        let all = self.endpoints.all().iter();
        let count = |wanted| all.clone().filter(|e| e.availability() == wanted).count();
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let stats = &self.transport.stats;
        stats.membership_total.set(gauge(all.len()));
        let healthy = count(Availability::Healthy);
        stats.membership_healthy.set(gauge(healthy));
        let degraded = count(Availability::Degraded);
        stats.membership_degraded.set(gauge(degraded));
    }

    /// Chooses an endpoint; by `hash`, if the policy is one that hashes.
    ///
    /// # Errors
    /// [`PickError`]: there is none to choose.
    pub fn pick(&self, hash: Option<u64>) -> Result<&Arc<Endpoint>, PickError> {
        if let Some(only) = self.endpoints.only() {
            return Ok(only);
        }
        let all = self.endpoints.all();
        if all.is_empty() {
            return Err(PickError::Empty);
        }
        let policy = &self.model.balancing.policy;
        let chosen = self.endpoints.selection().choose(all, policy, hash);
        if chosen.panic {
            self.transport.stats.lb_healthy_panic.inc();
        }
        let endpoint = chosen.place.and_then(|place| all.get(place as usize));
        endpoint.ok_or(PickError::NoneEligible(all.len()))
    }

    /// The endpoint at this address, if it may be chosen.
    pub fn at(&self, address: std::net::SocketAddr) -> Option<&Arc<Endpoint>> {
        let mut all = self.endpoints.all().iter();
        all.find(|e| e.socket_address() == Some(address))
            .filter(|e| e.availability() != Availability::Unhealthy)
    }

    /// Chooses an endpoint that was not tried, and draws up to `draws` times more for one that
    /// could be connected to of late.
    ///
    /// # Errors
    /// [`PickError`]: there is none to choose, or no other.
    pub fn pick_other(
        &self,
        tried: &[u64],
        draws: u32,
        hash: Option<u64>,
    ) -> Result<&Arc<Endpoint>, PickError> {
        for draw in 0..=u64::from(draws.min(hosts::MAX_DRAWS)) {
            // Another hash each time, far from the first: the same would lead to the same endpoint.
            let attempt = tried.len() as u64 + draw;
            let endpoint = self.pick(hash.map(|hash| hash ^ attempt.wrapping_neg()))?;
            if !endpoint.is_shunned() && !tried.contains(&endpoint.uid) {
                return Ok(endpoint);
            }
        }
        let mut untried = self
            .endpoints
            .all()
            .iter()
            .filter(|e| e.is_available() && !tried.contains(&e.uid));
        untried.next().ok_or(PickError::AllTried(tried.len()))
    }
}
