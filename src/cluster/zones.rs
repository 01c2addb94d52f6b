//! Zone-aware routing: requests stay in the zone of this proxy as far as that is fair to all.
//!
//! Proxies of one kind are endpoints of a cluster themselves. Where a zone has at least as large a
//! share of the endpoints as it has of the proxies, its proxies send everything there. Elsewhere
//! they send there what it can take, and the rest to zones that have more than their proxies need.
//! The arithmetic is Envoy's, in hundredths of a percent.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_xds::resource::cluster::{Balancing, Policy, ZoneAware};
use causeway_xds::resource::load_assignment::Locality;

use super::EndpointSet;
use super::hosts::Hosts;
use crate::runtime::layers::{Key, Layers};
use crate::telemetry::stats::ClusterStats;
use crate::upstream::Endpoint;
use crate::upstream::endpoint::Availability;

/// Hundredths of a percent in a whole.
const WHOLE: u64 = 10_000;

/// Where this proxy is, and which cluster has those of its kind.
#[derive(Clone, Debug)]
pub struct Home {
    /// `cluster_manager.local_cluster_name`.
    pub cluster: Arc<str>,
    /// `node.locality`.
    pub locality: Option<Locality>,
    /// `upstream.zone_routing.enabled` and `.min_cluster_size` of the runtime.
    enabled: Key,
    least: Key,
}

/// The proxies of its kind, as they are known to be at one time.
#[derive(Clone, Debug)]
pub struct Peers {
    home: Home,
    /// Healthy ones: how many there are in a zone, and their weight.
    healthy: BTreeMap<Locality, Amount>,
    /// Zones that have any, healthy or not.
    zones: usize,
    /// Whether there are any where this one is.
    at_home: bool,
    /// Percent that may be chosen.
    available: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    number: u64,
    weight: u64,
}

/// What a choice came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Zones had no say.
    #[default]
    None,
    /// Too few of the proxies are healthy to go by them.
    PeersInPanic,
    AllAtHome,
    SomeAtHome,
    Elsewhere,
    /// Elsewhere, though by rounding nobody has room.
    NoRoom,
}

/// What working it out came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is known of proxies, or the cluster does not go by zones.
    #[default]
    Unaware,
    /// There are not two zones to choose from.
    OneZone,
    /// No proxy is known where this one is.
    NotAtHome,
    TooSmall,
    ByZone,
}

/// Endpoints of the first priority, by zone.
#[derive(Debug)]
pub struct Zones {
    share: Share,
    zones: Vec<Hosts>,
    /// For requests for which zones have no say.
    together: Hosts,
    percent: u64,
    enabled: Key,
    peers_in_panic: bool,
    fail_on_panic: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Share {
    /// All to the first zone, the one of this proxy.
    AllAtHome,
    /// So much of it to the first; the rest by what room there is, added up from zone to zone.
    Some { at_home: u64, room: Vec<u64> },
}

impl Home {
    pub fn new(cluster: Arc<str>, locality: Option<Locality>, layers: &Layers) -> Self {
        Self {
            cluster,
            locality,
            enabled: layers.key("upstream.zone_routing.enabled"),
            least: layers.key("upstream.zone_routing.min_cluster_size"),
        }
    }

    /// What its cluster tells; only its first priority counts.
    #[expect(clippy::cast_precision_loss, reason = "numbers of endpoints")]
    pub fn peers(&self, set: &EndpointSet) -> Peers {
        let first = set.all().iter().filter(|e| e.attributes.priority == 0);
        let (mut all, mut available) = (0_usize, 0_usize);
        let mut healthy = BTreeMap::<Locality, Amount>::new();
        let mut zones = std::collections::BTreeSet::new();
        for endpoint in first {
            let locality: &Locality = &endpoint.attributes.locality;
            zones.insert(locality);
            all += 1;
            available += usize::from(endpoint.is_available());
            if endpoint.availability() == Availability::Healthy {
                healthy.entry(locality.clone()).or_default().add(endpoint);
            }
        }
        let own = self.locality.as_ref();
        Peers {
            home: self.clone(),
            healthy,
            zones: zones.len(),
            at_home: own.is_some_and(|own| zones.contains(own)),
            available: match all {
                0 => 0.0,
                all => 100.0 * available as f64 / all as f64,
            },
        }
    }
}

impl Amount {
    fn add(&mut self, endpoint: &Endpoint) {
        self.number += 1;
        self.weight += u64::from(endpoint.attributes.weight.max(1));
    }

    fn by(self, weight: bool) -> u64 {
        if weight { self.weight } else { self.number }
    }
}

impl Zones {
    /// Of the endpoints of the first priority, of which `wanted` says which may be chosen now.
    /// `None`: zones have no say.
    pub fn of(
        all: &[Arc<Endpoint>],
        members: impl Iterator<Item = u32>,
        wanted: Availability,
        balancing: &Balancing,
        peers: &Peers,
    ) -> (Option<Self>, Outcome) {
        let model = &balancing.zones;
        let members: Vec<u32> = members.collect();
        let mut zones: BTreeMap<&Locality, (Amount, Vec<u32>)> = BTreeMap::new();
        for place in &members {
            let endpoint = &all[*place as usize];
            let (healthy, eligible) = zones.entry(&endpoint.attributes.locality).or_default();
            let availability = endpoint.availability();
            if availability == Availability::Healthy {
                healthy.add(endpoint);
            }
            if availability == wanted {
                eligible.push(*place);
            }
        }
        let outcome = peers.outcome(zones.len(), zones.values().map(|z| z.0.number).sum(), model);
        if outcome != Outcome::ByZone {
            return (None, outcome);
        }
        // The own zone comes first, and the others in their order.
        let home = peers.home.locality.as_ref();
        let own = home.and_then(|home| zones.remove_entry(home));
        let is_home = own.is_some();
        let zones: Vec<(&Locality, (Amount, Vec<u32>))> = own.into_iter().chain(zones).collect();
        let healthy: Vec<(&Locality, Amount)> = zones.iter().map(|(l, z)| (*l, z.0)).collect();
        let share = peers.share(&healthy, is_home, model);
        let eligible = zones.into_iter().map(|(_, (_, eligible))| eligible);
        let zones: Vec<Hosts> = eligible
            .map(|eligible| Hosts::new(all, eligible, balancing))
            .collect();
        let together = members.into_iter();
        let together = together.filter(|place| all[*place as usize].availability() == wanted);
        let zones = Self {
            share,
            zones,
            together: Hosts::new(all, together.collect(), balancing),
            percent: u64::from(model.percent),
            enabled: peers.home.enabled.clone(),
            peers_in_panic: peers.available < balancing.panic_threshold,
            fail_on_panic: balancing.fail_on_panic,
        };
        (Some(zones), outcome)
    }

    /// The place of an endpoint; nobody, where traffic is to fail rather than to go by proxies in
    /// panic.
    pub fn pick(&self, all: &[Arc<Endpoint>], policy: &Policy) -> (Option<u32>, Step) {
        let anywhere = || self.together.pick(all, policy, None);
        let enabled = self.enabled.number().map_or(self.percent, u64::from);
        if fastrand::u64(..100) >= enabled {
            return (anywhere(), Step::None);
        }
        if self.peers_in_panic {
            let place = if self.fail_on_panic { None } else { anywhere() };
            return (place, Step::PeersInPanic);
        }
        let (zone, step) = self.share.draw(self.zones.len());
        let zone = self.zones.get(zone);
        let place = zone.and_then(|hosts| hosts.pick(all, policy, None));
        // A zone by its healthy ones may have nobody of the kind that is wanted, degraded ones.
        (place.or_else(anywhere), step)
    }
}

impl Peers {
    fn outcome(&self, zones: usize, healthy: u64, model: &ZoneAware) -> Outcome {
        let least = self.home.least.number().map_or(model.least, u64::from);
        if zones < 2 || (model.all_at_home.is_none() && self.zones < 2) {
            Outcome::OneZone
        } else if !self.at_home {
            Outcome::NotAtHome
        } else if healthy < least {
            Outcome::TooSmall
        } else {
            Outcome::ByZone
        }
    }

    /// `zones` with their healthy endpoints; with `is_home` the first is the one of this proxy.
    fn share(&self, zones: &[(&Locality, Amount)], is_home: bool, model: &ZoneAware) -> Share {
        let by = |amount: Amount| amount.by(model.by_weight);
        let part = |some: u64, all: u64| (WHOLE * some).checked_div(all).unwrap_or_default();
        let all_peers = self.healthy.values().map(|amount| by(*amount)).sum();
        let all_there = zones.iter().map(|(_, amount)| by(*amount)).sum();
        let parts = zones.iter().map(|(locality, amount)| {
            // Of a zone without anybody it does not matter.
            let peers = self.healthy.get(*locality).filter(|_| amount.number > 0);
            let peers = peers.copied().unwrap_or_default();
            (part(by(peers), all_peers), part(by(*amount), all_there))
        });
        let parts: Vec<(u64, u64)> = parts.collect();
        let mut at_home = 0;
        if let (true, Some((peers, there)), Some((_, amount))) =
            (is_home, parts.first(), zones.first())
        {
            let enough = model
                .all_at_home
                .is_some_and(|n| amount.number >= u64::from(n));
            if enough || (*there > 0 && there >= peers) {
                return Share::AllAtHome;
            }
            at_home = part(*there, *peers);
        }
        let mut room = Vec::with_capacity(parts.len());
        let mut so_far = 0;
        for (index, (peers, there)) in parts.into_iter().enumerate() {
            if index > 0 || !is_home {
                so_far += there.saturating_sub(peers);
            }
            room.push(so_far);
        }
        Share::Some { at_home, room }
    }
}

impl Share {
    fn draw(&self, zones: usize) -> (usize, Step) {
        let (at_home, room) = match self {
            Self::AllAtHome => return (0, Step::AllAtHome),
            Self::Some { at_home, room } => (*at_home, room),
        };
        if fastrand::u64(..WHOLE) < at_home {
            return (0, Step::SomeAtHome);
        }
        let all = room.last().copied().unwrap_or_default();
        if all == 0 {
            return (fastrand::usize(..zones.max(1)), Step::NoRoom);
        }
        let point = fastrand::u64(..all);
        (
            room.partition_point(|until| *until <= point),
            Step::Elsewhere,
        )
    }
}

impl Step {
    pub fn count(self, stats: &ClusterStats) {
        match self {
            Self::None => {}
            Self::PeersInPanic => stats.lb_local_cluster_not_ok.inc(),
            Self::AllAtHome => stats.lb_zone_routing_all_directly.inc(),
            Self::SomeAtHome => stats.lb_zone_routing_sampled.inc(),
            Self::Elsewhere => stats.lb_zone_routing_cross_zone.inc(),
            Self::NoRoom => {
                stats.lb_zone_routing_cross_zone.inc();
                stats.lb_zone_no_capacity_left.inc();
            }
        }
    }
}

impl Outcome {
    pub fn count(self, stats: &ClusterStats) {
        if self != Self::Unaware {
            stats.lb_recalculate_zone_structures.inc();
        }
        match self {
            Self::NotAtHome => stats.lb_local_cluster_not_ok.inc(),
            Self::TooSmall => stats.lb_zone_cluster_too_small.inc(),
            Self::Unaware | Self::OneZone | Self::ByZone => {}
        }
    }
}

#[cfg(test)]
mod tests;
