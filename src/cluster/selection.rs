//! From which endpoints the next one is chosen: priority and health first, then locality.

use std::sync::Arc;

use causeway_xds::resource::LoadAssignment;
use causeway_xds::resource::cluster::{Balancing, Policy};

use super::hosts::{Hosts, Turns};
use super::priority::{Counts, loads};
use super::zones::{Outcome, Peers, Step, Zones};
use crate::upstream::Endpoint;
use crate::upstream::endpoint::Availability;

/// Shares of all traffic, and who takes each. Immutable but for the position of balancers: what is
/// known of the endpoints is built in.
#[derive(Debug, Default)]
pub struct Selection {
    shares: Vec<Share>,
    /// Whether healthy endpoints are chosen by their zone.
    pub(super) zones: Outcome,
}

#[derive(Debug)]
struct Share {
    /// The share ends here, on a scale from 1 to 100.
    until: u64,
    candidates: Candidates,
    /// Health is not looked at.
    panic: bool,
}

#[derive(Debug)]
enum Candidates {
    Together(Hosts),
    /// The locality first, by its turn.
    ByLocality(Turns, Vec<Hosts>),
    ByZone(Box<Zones>),
}

/// What was chosen.
pub struct Chosen {
    /// Place of the endpoint in the list; `None` if nobody may be chosen.
    pub place: Option<u32>,
    pub panic: bool,
    pub zone: Step,
}

impl Chosen {
    pub const NOBODY: Self = Self {
        place: None,
        panic: false,
        zone: Step::None,
    };

    pub fn of(place: u32) -> Self {
        Self {
            place: Some(place),
            ..Self::NOBODY
        }
    }
}

impl Selection {
    pub fn new(
        all: &[Arc<Endpoint>],
        assignment: &LoadAssignment,
        balancing: &Balancing,
        peers: Option<&Peers>,
    ) -> Self {
        Self::of(all, assignment, balancing, peers, &|_| true, false)
    }

    /// Of some of all endpoints. With `scaled`, the weight of a locality is in proportion to how
    /// many of its endpoints take part.
    pub fn of(
        all: &[Arc<Endpoint>],
        assignment: &LoadAssignment,
        balancing: &Balancing,
        peers: Option<&Peers>,
        takes_part: &dyn Fn(u32) -> bool,
        scaled: bool,
    ) -> Self {
        // They decide otherwise.
        let peers = peers.filter(|_| !balancing.by_locality && !balancing.policy.hashes());
        let mut outcome = Outcome::default();
        let levels = levels(all, assignment, takes_part, scaled);
        let numbers: Vec<Counts> = levels.iter().map(|l| l.counts(all, |_| 1)).collect();
        let weights: Vec<Counts> = match assignment.weighted_health {
            true => {
                let weight = |e: &Endpoint| u64::from(e.attributes.weight.max(1));
                levels.iter().map(|l| l.counts(all, weight)).collect()
            }
            false => numbers.clone(),
        };
        let loads = loads(
            &weights,
            &numbers,
            assignment.overprovisioning,
            balancing.panic_threshold,
        );
        let factor = assignment.overprovisioning;
        let mut by_zone = |priority: usize, level: &Level, wanted| {
            // Of lower priorities zones are not compared.
            let peers = peers.filter(|_| priority == 0)?;
            let (zones, worked_out) = Zones::of(all, level.members(), wanted, balancing, peers);
            outcome = worked_out;
            zones.map(|zones| Candidates::ByZone(Box::new(zones)))
        };
        let of = levels.iter().zip(&loads).enumerate();
        let mut shares = Vec::new();
        let mut until = 0;
        // As in Envoy, first the healthy ones of all priorities, then the degraded ones.
        for (priority, (level, load)) in of.clone().filter(|(_, (_, l))| l.healthy > 0) {
            until += load.healthy;
            let wanted = (!load.panic).then_some(Availability::Healthy);
            let candidates = match wanted {
                None if balancing.fail_on_panic => Candidates::Together(Hosts::default()),
                None => level.candidates(all, wanted, balancing, factor),
                Some(healthy) => by_zone(priority, level, healthy)
                    .unwrap_or_else(|| level.candidates(all, wanted, balancing, factor)),
            };
            shares.push(Share {
                until,
                candidates,
                panic: load.panic,
            });
        }
        for (priority, (level, load)) in of.filter(|(_, (_, l))| l.degraded > 0) {
            until += load.degraded;
            let wanted = Availability::Degraded;
            let candidates = by_zone(priority, level, wanted)
                .unwrap_or_else(|| level.candidates(all, Some(wanted), balancing, factor));
            shares.push(Share {
                until,
                candidates,
                panic: false,
            });
        }
        Self {
            shares,
            zones: outcome,
        }
    }

    pub fn choose(&self, all: &[Arc<Endpoint>], policy: &Policy, hash: Option<u64>) -> Chosen {
        let share = match self.shares.as_slice() {
            [] => None,
            [only] => Some(only),
            shares => {
                // A hash leads to the same priority every time.
                let point = hash.unwrap_or_else(|| fastrand::u64(..)) % 100 + 1;
                shares.iter().find(|share| point <= share.until)
            }
        };
        let Some(share) = share else {
            return Chosen::NOBODY;
        };
        let mut zone = Step::None;
        let place = match &share.candidates {
            Candidates::Together(hosts) => hosts.pick(all, policy, hash),
            Candidates::ByZone(zones) => {
                let place;
                (place, zone) = zones.pick(all, policy);
                place
            }
            Candidates::ByLocality(turns, localities) => turns
                .next()
                .and_then(|turn| localities.get(turn as usize))
                .and_then(|hosts| hosts.pick(all, policy, hash)),
        };
        Chosen {
            place,
            panic: share.panic,
            zone,
        }
    }
}

/// Endpoints of one priority.
struct Level {
    localities: Vec<Group>,
}

/// Endpoints of one locality in a priority.
struct Group {
    weight: u32,
    /// Their places.
    members: Vec<u32>,
}

/// By priority. One that nobody has is empty.
fn levels(
    all: &[Arc<Endpoint>],
    assignment: &LoadAssignment,
    takes_part: &dyn Fn(u32) -> bool,
    scaled: bool,
) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    let mut place = 0_u32;
    for group in &assignment.localities {
        let level = group.priority as usize;
        while levels.len() <= level {
            levels.push(Level {
                localities: Vec::new(),
            });
        }
        let count = u32::try_from(group.endpoints.len()).unwrap_or(u32::MAX);
        let members = (place..place.saturating_add(count)).filter(|place| takes_part(*place));
        let members: Vec<u32> = members.collect();
        place = place.saturating_add(count);
        let weight = match scaled {
            true => scaled_to(group.weight, members.len(), group.endpoints.len()),
            false => group.weight,
        };
        levels[level].localities.push(Group { weight, members });
    }
    debug_assert_eq!(place as usize, all.len());
    levels
}

impl Level {
    fn members(&self) -> impl Iterator<Item = u32> + '_ {
        let localities = self.localities.iter();
        localities.flat_map(|group| group.members.iter().copied())
    }

    fn counts(&self, all: &[Arc<Endpoint>], weight: impl Fn(&Endpoint) -> u64) -> Counts {
        let mut counts = Counts::default();
        for place in self.members() {
            let endpoint = &all[place as usize];
            let weight = weight(endpoint);
            match endpoint.availability() {
                Availability::Healthy => counts.healthy += weight,
                Availability::Degraded => counts.degraded += weight,
                Availability::Unhealthy => {}
            }
            counts.total += weight;
        }
        counts
    }

    /// Those of the wanted kind, or all of them.
    fn candidates(
        &self,
        all: &[Arc<Endpoint>],
        wanted: Option<Availability>,
        balancing: &Balancing,
        factor: u32,
    ) -> Candidates {
        let eligible = |members: &[u32]| -> Vec<u32> {
            let is = |place: &&u32| {
                wanted.is_none_or(|wanted| all[**place as usize].availability() == wanted)
            };
            members.iter().filter(is).copied().collect()
        };
        // In panic localities do not count either.
        if balancing.by_locality && wanted.is_some() {
            let most = self.localities.iter().map(|group| group.weight);
            let most = most.max().unwrap_or_default();
            let localities: Vec<(u32, Vec<u32>)> = self
                .localities
                .iter()
                .map(|group| {
                    let eligible = eligible(&group.members);
                    let part = kept(&eligible, &group.members, factor);
                    let weight = part_of(group.weight, part, most);
                    (weight, eligible)
                })
                .collect();
            // Without any weight localities have no say.
            if localities.iter().any(|(weight, _)| *weight > 0) {
                return by_locality(all, localities, balancing);
            }
        }
        let members: Vec<u32> = self.members().collect();
        Candidates::Together(Hosts::new(all, eligible(&members), balancing))
    }
}

fn by_locality(
    all: &[Arc<Endpoint>],
    localities: Vec<(u32, Vec<u32>)>,
    balancing: &Balancing,
) -> Candidates {
    let policy = &balancing.policy;
    if !policy.hashes() {
        let weights: Vec<u32> = localities.iter().map(|(weight, _)| *weight).collect();
        let hosts = localities.into_iter();
        let hosts = hosts.map(|(_, members)| Hosts::new(all, members, balancing));
        return Candidates::ByLocality(Turns::new(&weights), hosts.collect());
    }
    // One table for all: a locality's weight is spread over its endpoints.
    let total: f64 = localities
        .iter()
        .map(|(weight, _)| f64::from(*weight))
        .sum();
    let mut shares = Vec::new();
    for (weight, members) in &localities {
        let weight_of = |place: &u32| f64::from(all[*place as usize].attributes.weight.max(1));
        let inside: f64 = members.iter().map(weight_of).sum();
        let share = |place: &u32| {
            (
                *place,
                f64::from(*weight) / total * weight_of(place) / inside,
            )
        };
        if *weight > 0 {
            shares.extend(members.iter().map(share));
        }
    }
    Candidates::Together(Hosts::hashed(all, &shares, policy))
}

/// The part of its weight that a locality keeps: less when more of its endpoints are missing than
/// overprovisioning makes up for.
#[expect(clippy::cast_precision_loss, reason = "numbers of endpoints")]
fn kept(eligible: &[u32], members: &[u32], factor: u32) -> f64 {
    match members.len() {
        0 => 0.0,
        count => (f64::from(factor) / 100.0 * eligible.len() as f64 / count as f64).min(1.0),
    }
}

/// A weight for some of several, rounded.
fn scaled_to(weight: u32, some: usize, several: usize) -> u32 {
    let (some, several) = (some as u64, several.max(1) as u64);
    let scaled = (u64::from(weight) * some + several / 2) / several;
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

/// Schedules are made of whole numbers, so that weights are blown up before a part of them is taken;
/// those that are large have room enough.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 2^32, and not negative"
)]
fn part_of(weight: u32, part: f64, most: u32) -> u32 {
    let steps = if most < 1 << 24 { 100.0 } else { 1.0 };
    (f64::from(weight) * part * steps).ceil() as u32
}

#[cfg(test)]
mod tests;
