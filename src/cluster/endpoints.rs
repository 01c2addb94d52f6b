//! The endpoints of a cluster, and the order in which weights make them come up.

use std::collections::HashMap;
use std::sync::Arc;

use causeway_xds::resource::LoadAssignment;

use crate::upstream::endpoint::Attributes;
use crate::upstream::{Endpoint, EndpointKey};

/// Turns of the longest schedule; larger weights are scaled down to fit.
const MAX_SCHEDULE: u64 = 8192;

/// Endpoints with the schedule of their weighted round robin.
#[derive(Debug, Default)]
pub struct EndpointSet {
    all: Vec<Arc<Endpoint>>,
    /// Indexes into `all`, one turn after the other: every available endpoint as often as its
    /// weight says, spread evenly.
    schedule: Vec<u32>,
    available: usize,
}

impl EndpointSet {
    /// Builds from an assignment; endpoints that were in `previous` stay the same objects.
    pub fn build(assignment: &LoadAssignment, previous: &Self) -> Self {
        let before: HashMap<&EndpointKey, &Arc<Endpoint>> =
            previous.all.iter().map(|e| (&e.key, e)).collect();
        let mut all = Vec::new();
        for group in &assignment.localities {
            for endpoint in &group.endpoints {
                let key = EndpointKey {
                    address: endpoint.address.clone(),
                    id: endpoint.id.clone(),
                };
                let attributes = Attributes {
                    hostname: endpoint.hostname.clone(),
                    health: endpoint.health,
                    weight: endpoint.weight,
                    priority: group.priority,
                    locality: group.locality.clone(),
                };
                all.push(match before.get(&key) {
                    Some(same) if same.same_attributes(&attributes) => Arc::clone(same),
                    Some(same) => Arc::new(same.with(attributes)),
                    None => Arc::new(Endpoint::new(key, attributes)),
                });
            }
        }
        Self::new(all)
    }

    fn new(all: Vec<Arc<Endpoint>>) -> Self {
        // The lowest priority number that has an available endpoint takes everything.
        let top = all
            .iter()
            .filter(|e| e.is_available())
            .map(|e| e.priority)
            .min();
        let usable = |e: &Endpoint| e.is_available() && Some(e.priority) == top;
        let weights: Vec<u32> = all
            .iter()
            .map(|e| if usable(e) { e.weight.max(1) } else { 0 })
            .collect();
        let available = all.iter().filter(|e| e.is_available()).count();
        Self {
            schedule: schedule(&weights),
            all,
            available,
        }
    }

    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    pub fn available(&self) -> usize {
        self.available
    }

    pub(super) fn schedule(&self) -> &[u32] {
        &self.schedule
    }

    /// Endpoints of `self` that `next` does not have, by pool.
    pub fn gone(&self, next: &Self) -> Vec<Arc<Endpoint>> {
        let kept: std::collections::HashSet<u64> = next.all.iter().map(|e| e.uid).collect();
        self.all
            .iter()
            .filter(|e| !kept.contains(&e.uid))
            .cloned()
            .collect()
    }
}

/// Earliest deadline first: turn `n` of an endpoint with weight `w` is due at `n / w`. Equal
/// deadlines go in the order of the list.
fn schedule(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let total: u64 = weights.iter().map(|w| u64::from(w / divisor)).sum();
    let scale = total.div_ceil(MAX_SCHEDULE).max(1);
    let reduced: Vec<u64> = weights
        .iter()
        .map(|w| {
            if *w == 0 {
                0
            } else {
                (u64::from(w / divisor) / scale).max(1)
            }
        })
        .collect();
    if reduced.iter().all(|w| *w <= 1) {
        let chosen = |(i, w): (usize, &u64)| (*w == 1).then(|| u32::try_from(i).ok()).flatten();
        return reduced.iter().enumerate().filter_map(chosen).collect();
    }
    let mut turns: Vec<(u64, u64, u32)> = Vec::new();
    for (i, weight) in reduced.iter().enumerate() {
        let Ok(index) = u32::try_from(i) else { break };
        turns.extend((1..=*weight).map(|n| (n, *weight, index)));
    }
    // n1/w1 < n2/w2 without division.
    turns.sort_by(|(n1, w1, i1), (n2, w2, i2)| (n1 * w2).cmp(&(n2 * w1)).then(i1.cmp(i2)));
    turns.into_iter().map(|(_, _, index)| index).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_follow_weights_and_spread_evenly() {
        assert_eq!(schedule(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(schedule(&[500, 500]), [0, 1]);
        let weighted = schedule(&[3, 1]);
        assert_eq!(weighted.len(), 4);
        assert_eq!(weighted.iter().filter(|i| **i == 0).count(), 3);
        assert_eq!(schedule(&[0, 2]), [1]);
        assert_eq!(schedule(&[0, 2, 4]).len(), 3);
        assert!(schedule(&[]).is_empty());
        assert!(schedule(&[u32::MAX, 1]).len() <= 8194);
    }
}
