//! Choosing among endpoints of one kind: those of a priority, or of one locality in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use causeway_xds::resource::cluster::{Balancing, Hashing, Policy};

use super::hashing::{Candidate, HashTable};
use super::schedule::schedule;
use super::slow_start::{SlowStart, drawn};
use crate::upstream::Endpoint;

/// Draws of one choice, whatever the configuration says: it bounds what a request can cost.
pub const MAX_DRAWS: u32 = 128;

/// Endpoints by their place in the list of their cluster, in the form that the policy needs.
#[derive(Debug, Default)]
pub struct Hosts {
    members: Vec<u32>,
    turns: Turns,
    table: Option<Table>,
    slow_start: Option<Box<SlowStart>>,
    /// The weights differ, and so much do requests under way count against them.
    request_bias: Option<f64>,
}

/// For policies that hash.
#[derive(Debug)]
struct Table {
    places: HashTable,
    /// Each endpoint with its share of all traffic, where that bounds what it gets.
    shares: Vec<(u32, f64)>,
    balance_factor: u32,
}

/// A schedule, and how far it is.
#[derive(Debug, Default)]
pub struct Turns {
    order: Vec<u32>,
    turn: AtomicUsize,
}

impl Turns {
    /// It starts anywhere: those of many proxies, and of one whose endpoints change all the time,
    /// must not prefer the first of the list.
    pub fn new(weights: &[u32]) -> Self {
        let order = schedule(weights);
        let start = fastrand::usize(..order.len().max(1));
        Self {
            order,
            turn: AtomicUsize::new(start),
        }
    }

    pub fn next(&self) -> Option<u32> {
        let turn = self.turn.fetch_add(1, Relaxed);
        self.at(turn.checked_rem(self.order.len())?)
    }

    fn any(&self) -> Option<u32> {
        match self.order.len() {
            0 => None,
            turns => self.at(fastrand::usize(..turns)),
        }
    }

    fn at(&self, turn: usize) -> Option<u32> {
        self.order.get(turn).copied()
    }
}

impl Hosts {
    /// `members` are places in `all`.
    pub fn new(all: &[Arc<Endpoint>], members: Vec<u32>, balancing: &Balancing) -> Self {
        let policy = &balancing.policy;
        let weight = |place: &u32| all[*place as usize].attributes.weight.max(1);
        let weights: Vec<u32> = members.iter().map(weight).collect();
        let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let shares = members.iter().zip(&weights);
        let shares = shares.map(|(place, weight)| (*place, f64::from(*weight) / total));
        let shares: Vec<(u32, f64)> = shares.collect();
        let table = hash_table(all, &shares, policy);
        let turns = match policy {
            Policy::RoundRobin | Policy::LeastRequest { choices: Some(_) } => Turns::new(&weights),
            _ => Turns::default(),
        };
        let even = weights.iter().all(|weight| *weight == weights[0]);
        let slow_start = balancing.slow_start.as_ref();
        let slow_start = slow_start.and_then(|model| SlowStart::of(model, all, &members));
        Self {
            members,
            turns,
            table,
            slow_start: slow_start.map(Box::new),
            request_bias: balancing.request_bias.filter(|_| !even),
        }
    }

    /// For a table over several localities: their endpoints with their shares of all traffic.
    pub fn hashed(all: &[Arc<Endpoint>], shares: &[(u32, f64)], policy: &Policy) -> Self {
        Self {
            members: shares.iter().map(|(place, _)| *place).collect(),
            turns: Turns::default(),
            table: hash_table(all, shares, policy),
            slow_start: None,
            request_bias: None,
        }
    }

    /// The place of an endpoint in `all`. Without a hash, policies that want one choose at random.
    pub fn pick(&self, all: &[Arc<Endpoint>], policy: &Policy, hash: Option<u64>) -> Option<u32> {
        if let [only] = *self.members.as_slice() {
            return Some(only);
        }
        if let Some(slow_start) = &self.slow_start
            && let Some(place) = slow_start.pick(all, &self.members, policy)
        {
            return Some(place);
        }
        if let Some(bias) = self.request_bias {
            let weight = |place: &u32| {
                let endpoint = &all[*place as usize];
                biased(endpoint.attributes.weight, active(all, *place), bias)
            };
            return drawn(&self.members, weight, fastrand::f64());
        }
        let member = |turn: u32| self.members.get(turn as usize).copied();
        let busy = |place: u32| all[place as usize].stats.rq_active.value();
        match policy {
            Policy::RoundRobin => member(self.turns.next()?),
            Policy::Random => fastrand::choice(&self.members).copied(),
            Policy::LeastRequest {
                choices: Some(choices),
            } => {
                let drawn =
                    (0..(*choices).min(MAX_DRAWS)).filter_map(|_| member(self.turns.any()?));
                drawn.min_by_key(|place| busy(*place))
            }
            Policy::LeastRequest { choices: None } => {
                // Of those that are equally busy not always the first.
                let count = self.members.len();
                let start = fastrand::usize(..count.max(1));
                let places = (0..count).map(|i| self.members[(start + i) % count]);
                places.min_by_key(|place| busy(*place))
            }
            Policy::RingHash(_) | Policy::Maglev(_) => {
                let hash = hash.unwrap_or_else(|| fastrand::u64(..));
                self.table.as_ref()?.get(all, hash)
            }
        }
    }
}

fn hash_table(all: &[Arc<Endpoint>], shares: &[(u32, f64)], policy: &Policy) -> Option<Table> {
    let candidates = |hashing: &Hashing| -> Vec<Candidate> {
        let candidate = |(place, share): &(u32, f64)| Candidate {
            index: *place,
            key: hash_key(&all[*place as usize], hashing.use_hostname),
            share: *share,
        };
        shares.iter().map(candidate).collect()
    };
    let (places, hashing) = match policy {
        Policy::RingHash(config) => (
            HashTable::ring(&candidates(&config.hashing), config),
            config.hashing,
        ),
        Policy::Maglev(config) => (
            HashTable::maglev(&candidates(&config.hashing), config),
            config.hashing,
        ),
        _ => return None,
    };
    let balance_factor = hashing.balance_factor;
    Some(Table {
        places,
        shares: balance_factor.map_or_else(Vec::new, |_| shares.to_vec()),
        balance_factor: balance_factor.unwrap_or_default(),
    })
}

impl Table {
    fn get(&self, all: &[Arc<Endpoint>], hash: u64) -> Option<u32> {
        let place = self.places.get(hash)?;
        if self.shares.is_empty() || active(all, place) == 0 {
            return Some(place);
        }
        Some(self.bounded(all, place, hash))
    }

    /// Another place instead of one that has more than its part of the requests under way. The
    /// others come in an order that the hash makes, each time the same for it, and the same as in
    /// Envoy; if all have too many, the least loaded one is taken.
    fn bounded(&self, all: &[Arc<Endpoint>], first: u32, hash: u64) -> u32 {
        let total: u64 = self
            .shares
            .iter()
            .map(|(place, _)| active(all, *place))
            .sum();
        let slots = ((total + 1) * u64::from(self.balance_factor)).div_ceil(100);
        let load = |(place, share): &(u32, f64)| load(active(all, *place), slots, *share);
        let own = self.shares.iter().find(|(place, _)| *place == first);
        let Some(own) = own.map(load).filter(|load| *load > 1.0) else {
            return first;
        };
        let mut least = (first, own);
        for other in shuffled(&self.shares, hash).filter(|(place, _)| *place != first) {
            let load = load(&other);
            if load <= 1.0 {
                return other.0;
            }
            if load < least.1 {
                least = (other.0, load);
            }
        }
        least.0
    }
}

/// All in an order that belongs to the hash, worked out as far as it is asked for: a shuffle by the
/// numbers of the 32-bit Mersenne Twister with the lower half of the hash as its seed.
fn shuffled<T: Copy>(all: &[T], hash: u64) -> impl Iterator<Item = T> {
    #[expect(clippy::cast_possible_truncation, reason = "the seed has 32 bits")]
    let mut random = rand_mt::Mt::new(hash as u32);
    let mut left = all.to_vec();
    let mut place = 0;
    std::iter::from_fn(move || {
        let count = u32::try_from(left.len() - place).ok().filter(|c| *c > 0)?;
        // Every remainder as often as the others: what is above the last whole part is drawn again.
        let part = (1_u64 << 32) / u64::from(count);
        let drawn = loop {
            let drawn = u64::from(random.next_u32()) / part;
            if drawn < u64::from(count) {
                break usize::try_from(drawn).ok()?;
            }
        };
        left.swap(place, place + drawn);
        place += 1;
        Some(left[place - 1])
    })
}

/// The weight of an endpoint that has so many requests under way.
#[expect(clippy::cast_precision_loss, reason = "numbers of requests")]
fn biased(weight: u32, active: u64, bias: f64) -> f64 {
    f64::from(weight.max(1)) / (active as f64 + 1.0).powf(bias)
}

/// Requests under way.
fn active(all: &[Arc<Endpoint>], place: u32) -> u64 {
    let active = all[place as usize].stats.rq_active.value();
    u64::try_from(active).unwrap_or_default()
}

/// How much of its part of all slots is taken; at least one slot is everyone's.
#[expect(clippy::cast_precision_loss, reason = "numbers of requests")]
fn load(active: u64, slots: u64, share: f64) -> f64 {
    active as f64 / (slots as f64 * share).ceil().max(1.0)
}

fn hash_key(endpoint: &Endpoint, use_hostname: bool) -> String {
    if !endpoint.attributes.hash_key.is_empty() {
        endpoint.attributes.hash_key.clone()
    } else if use_hostname {
        endpoint.attributes.hostname.clone()
    } else {
        endpoint.attributes.address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_under_way_count_against_a_weight_as_the_bias_says() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        for (bias, expected) in [(0.0, 6.0), (1.0, 2.0), (2.0, 6.0 / 9.0)] {
            assert!(close(biased(6, 2, bias), expected), "{bias}");
        }
        assert!(close(biased(0, 0, 1.0), 1.0));
    }

    /// Numbers of the reference generator, seed 5489: 3499211612, 581869302, 3890346734, 3586334585.
    #[test]
    fn the_order_of_a_hash_is_that_of_the_reference_generator() {
        let all = [10, 11, 12, 13];
        let order: Vec<u32> = shuffled(&all, 5489).collect();
        // 3499211612 / 2^30 = 3, 581869302 / 1431655765 = 0, 3890346734 / 2^31 = 1, and the last.
        assert_eq!(order, [13, 11, 10, 12]);
        assert_eq!(shuffled(&all, (7 << 32) | 5489).collect::<Vec<_>>(), order);
        assert_eq!(shuffled(&all, 0).count(), 4);
        assert_eq!(shuffled::<u32>(&[], 1).count(), 0);
    }
}
