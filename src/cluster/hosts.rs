//! Choosing among endpoints of one kind: those of a priority, or of one locality in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use causeway_xds::resource::cluster::Policy;

use super::hashing::{Candidate, HashTable};
use super::schedule::schedule;
use crate::upstream::Endpoint;

/// Draws of one choice, whatever the configuration says: it bounds what a request can cost.
pub const MAX_DRAWS: u32 = 128;

/// Endpoints by their place in the list of their cluster, in the form that the policy needs.
#[derive(Debug, Default)]
pub struct Hosts {
    members: Vec<u32>,
    turns: Turns,
    table: Option<HashTable>,
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
    pub fn new(all: &[Arc<Endpoint>], members: Vec<u32>, policy: &Policy) -> Self {
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
        Self {
            members,
            turns,
            table,
        }
    }

    /// For a table over several localities: their endpoints with their shares of all traffic.
    pub fn hashed(all: &[Arc<Endpoint>], shares: &[(u32, f64)], policy: &Policy) -> Self {
        Self {
            members: shares.iter().map(|(place, _)| *place).collect(),
            turns: Turns::default(),
            table: hash_table(all, shares, policy),
        }
    }

    /// The place of an endpoint in `all`. Without a hash, policies that want one choose at random.
    pub fn pick(&self, all: &[Arc<Endpoint>], policy: &Policy, hash: Option<u64>) -> Option<u32> {
        if let [only] = *self.members.as_slice() {
            return Some(only);
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
                self.table.as_ref()?.get(hash)
            }
        }
    }
}

fn hash_table(all: &[Arc<Endpoint>], shares: &[(u32, f64)], policy: &Policy) -> Option<HashTable> {
    let candidates = |use_hostname: bool| -> Vec<Candidate> {
        let candidate = |(place, share): &(u32, f64)| Candidate {
            index: *place,
            key: hash_key(&all[*place as usize], use_hostname),
            share: *share,
        };
        shares.iter().map(candidate).collect()
    };
    match policy {
        Policy::RingHash(config) => Some(HashTable::ring(&candidates(config.use_hostname), config)),
        Policy::Maglev(config) => Some(HashTable::maglev(&candidates(config.use_hostname), config)),
        _ => None,
    }
}

fn hash_key(endpoint: &Endpoint, use_hostname: bool) -> String {
    if !endpoint.attributes.hash_key.is_empty() {
        endpoint.attributes.hash_key.clone()
    } else if use_hostname {
        endpoint.attributes.hostname.clone()
    } else {
        endpoint.key.address.to_string()
    }
}
