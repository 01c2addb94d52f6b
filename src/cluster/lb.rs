//! Balancing policies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use causeway_xds::resource::cluster::Policy;

use super::{EndpointSet, PickError};
use crate::upstream::Endpoint;

/// The position of a cluster's balancer; outlives the snapshots of its cluster.
#[derive(Debug, Default)]
pub struct Balancer {
    turn: AtomicUsize,
}

impl Balancer {
    pub(super) fn pick<'e>(
        &self,
        endpoints: &'e EndpointSet,
        policy: Policy,
    ) -> Result<&'e Arc<Endpoint>, PickError> {
        let (all, schedule) = (endpoints.all(), endpoints.schedule());
        let at = |turn: usize| &all[schedule[turn % schedule.len()] as usize];
        match (all.len(), schedule.len()) {
            (0, _) => Err(PickError::Empty),
            (count, 0) => Err(PickError::AllUnhealthy(count)),
            (_, 1) => Ok(at(0)),
            (_, turns) => Ok(match policy {
                Policy::RoundRobin => at(self.turn.fetch_add(1, Relaxed)),
                Policy::Random => at(fastrand::usize(..turns)),
                Policy::LeastRequest => {
                    // Two choices, the less busy one (Envoy's default `choice_count`).
                    let (a, b) = (at(fastrand::usize(..turns)), at(fastrand::usize(..turns)));
                    if b.stats.rq_active.value() < a.stats.rq_active.value() {
                        b
                    } else {
                        a
                    }
                }
            }),
        }
    }
}
