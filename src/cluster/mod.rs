//! Clusters: named sets of endpoints, and choosing one of them.

mod anticipate;
mod endpoints;
mod hashing;
pub mod health_check;
mod hosts;
mod original_dst;
pub mod outlier;
mod priority;
mod schedule;
mod selection;
mod slow_start;
mod subsets;
mod zones;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use causeway_xds::resource::cluster as model;
use causeway_xds::resource::metadata::Labels;
use http::StatusCode;
use http::header::HeaderMap;

pub use endpoints::{Checks, EndpointSet, Recipe};
pub use original_dst::OriginalDst;
use outlier::{Detection, Outcome};
pub use zones::{Home, Peers};

use crate::error::{Failure, ResponseFlag};
use crate::route::hash::Hashing;
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
    /// Whether the policy of the model hashes. Every request asks this and the next, and the model
    /// is far away.
    pub hashes: bool,
    /// Whether requests may name their endpoint: see [`Self::override_host`].
    pub overrides: bool,
    /// What is told of each attempt, if somebody wants to know.
    pub outlier: Option<Arc<Detection>>,
    /// Of a cluster without endpoints of its own: they are where clients want to go.
    pub original_dst: Option<Arc<OriginalDst>>,
    /// By what its endpoints are chosen, whatever routes say; `None`: they say it.
    pub hashing: Option<Arc<Hashing>>,
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

/// What speaks for one endpoint or another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'w> {
    /// Of the request, where the policy is one that hashes.
    pub hash: Option<u64>,
    /// What the endpoint should have, where there are subsets.
    pub labels: Option<&'w Labels>,
    /// Where to go, where the cluster has no endpoints of its own.
    pub destination: Option<SocketAddr>,
}

/// An endpoint that was chosen.
#[derive(Clone, Debug)]
pub enum Picked<'c> {
    Of(&'c Arc<Endpoint>),
    /// Nobody else may have it any more.
    Own(Arc<Endpoint>),
}

impl std::ops::Deref for Picked<'_> {
    type Target = Arc<Endpoint>;

    fn deref(&self) -> &Arc<Endpoint> {
        match self {
            Self::Of(endpoint) => endpoint,
            Self::Own(endpoint) => endpoint,
        }
    }
}

/// Why no endpoint was chosen. Each variant is one row in docs/OPERATIONS, "503 by cause".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    #[error("the cluster has no endpoints")]
    Empty,
    #[error("none of the {0} endpoints may be chosen")]
    NoneEligible(usize),
    #[error("more destinations are in use than may be")]
    TooMany,
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

/// What the cluster of this name is called in statistics: that, unless its model says otherwise.
pub fn stat_name(name: &Arc<str>, model: &model::Cluster) -> Arc<str> {
    match model.alt_stat_name.as_str() {
        "" => Arc::clone(name),
        given => given.into(),
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
            hashes: self.hashes,
            overrides: self.overrides,
            outlier: self.outlier.clone(),
            original_dst: self.original_dst.clone(),
            hashing: self.hashing.clone(),
        }
    }

    /// How requests name their endpoint, where they may.
    pub fn override_host(&self) -> Option<&model::OverrideHost> {
        let model = self.overrides.then_some(&self.model)?;
        model.balancing.override_host.as_ref()
    }

    /// What it is called in statistics.
    pub fn stat_name(&self) -> Arc<str> {
        stat_name(&self.name, &self.model)
    }

    /// Where a request or a connection is to go, where the cluster leaves that to it.
    pub fn destination(
        &self,
        headers: Option<&HeaderMap>,
        restored: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let invalid = &self.transport.stats.original_dst_host_invalid;
        let original_dst = self.original_dst.as_ref()?;
        original_dst.destination(headers, restored, invalid)
    }

    /// The endpoints as they are now.
    pub fn known_endpoints(&self) -> Cow<'_, [Arc<Endpoint>]> {
        match &self.original_dst {
            None => Cow::Borrowed(self.endpoints.all()),
            Some(original_dst) => Cow::Owned(original_dst.all()),
        }
    }

    /// Tells outlier detection, if there is any, what an attempt came to.
    pub fn note(&self, endpoint: &Endpoint, outcome: impl Into<Option<Outcome>>) {
        if let Some(detection) = &self.outlier
            && let Some(outcome) = outcome.into()
        {
            detection.note(endpoint, outcome);
        }
    }

    /// Shows in the statistics how many endpoints there are and how they are.
    pub fn gauge_members(&self) {
        let known = self.known_endpoints();
        let all = known.iter();
        let count = |wanted| all.clone().filter(|e| e.availability() == wanted).count();
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let stats = &self.transport.stats;
        stats.membership_total.set(gauge(all.len()));
        let healthy = count(Availability::Healthy);
        stats.membership_healthy.set(gauge(healthy));
        let degraded = count(Availability::Degraded);
        stats.membership_degraded.set(gauge(degraded));
        if let Some(subsets) = self.endpoints.subsets() {
            stats.lb_subsets_active.set(gauge(subsets.count()));
            let duplicates = &stats.lb_subsets_single_host_per_subset_duplicate;
            duplicates.set(gauge(subsets.duplicates));
        }
    }

    /// Chooses an endpoint.
    ///
    /// # Errors
    /// [`PickError`]: there is none to choose.
    pub fn pick(&self, wish: Wish<'_>) -> Result<Picked<'_>, PickError> {
        if let Some(only) = self.endpoints.only() {
            return Ok(Picked::Of(only));
        }
        if self.anticipates(&wish)
            && let Some(endpoint) = self.anticipated()
        {
            return Ok(Picked::Own(endpoint));
        }
        self.choose(wish)
    }

    fn choose(&self, wish: Wish<'_>) -> Result<Picked<'_>, PickError> {
        let all = self.endpoints.all();
        if all.is_empty() {
            if let Some(original_dst) = &self.original_dst
                && let Some(destination) = wish.destination
            {
                let endpoint = original_dst.endpoint(destination, &self.transport.stats);
                return endpoint.map(Picked::Own).ok_or(PickError::TooMany);
            }
            return Err(PickError::Empty);
        }
        let policy = &self.model.balancing.policy;
        let chosen = match self.endpoints.subsets() {
            None => self.endpoints.selection().choose(all, policy, wish.hash),
            Some(subsets) => {
                let stats = &self.transport.stats;
                subsets.choose(all, policy, wish.hash, wish.labels, stats)
            }
        };
        if chosen.panic {
            self.transport.stats.lb_healthy_panic.inc();
        }
        chosen.zone.count(&self.transport.stats);
        let endpoint = chosen.place.and_then(|place| all.get(place as usize));
        endpoint
            .map(Picked::Of)
            .ok_or(PickError::NoneEligible(all.len()))
    }

    /// The endpoint at this address, if it may be chosen by name.
    pub fn at(&self, address: std::net::SocketAddr) -> Option<&Arc<Endpoint>> {
        let mut all = self.endpoints.all().iter();
        all.find(|e| e.socket_address() == Some(address))
            .filter(|e| match &self.model.balancing.named_status {
                None => e.availability() != Availability::Unhealthy,
                Some(named) => named.contains(&e.status()),
            })
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
        wish: Wish<'_>,
    ) -> Result<Picked<'_>, PickError> {
        for draw in 0..=u64::from(draws.min(hosts::MAX_DRAWS)) {
            // Another hash each time, far from the first: the same would lead to the same endpoint.
            let attempt = tried.len() as u64 + draw;
            let hash = wish.hash.map(|hash| hash ^ attempt.wrapping_neg());
            let endpoint = self.pick(Wish { hash, ..wish })?;
            if !endpoint.is_shunned() && !tried.contains(&endpoint.uid) {
                return Ok(endpoint);
            }
        }
        if self.endpoints.subsets().is_some() {
            // Not everybody would do.
            return Err(PickError::AllTried(tried.len()));
        }
        let mut untried = self
            .endpoints
            .all()
            .iter()
            .filter(|e| e.is_available() && !tried.contains(&e.uid));
        let next = untried.next().map(Picked::Of);
        next.ok_or(PickError::AllTried(tried.len()))
    }
}
