//! Who will be asked next (`predictive_preconnect_ratio`): endpoints are chosen before there is a
//! request for them, so that connections can be there when it comes. Each data thread has a queue of
//! its own for each cluster that wants one.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use causeway_xds::resource::cluster::Policy;

use super::{Cluster, EndpointSet, Wish};
use crate::upstream::Endpoint;
use crate::upstream::endpoint::Availability;
use crate::upstream::pool;

/// Endpoints that are chosen at one time at most.
const MOST: usize = 3;
/// After which clusters that are gone are forgotten.
const MANY: usize = 64;

thread_local! {
    static CHOSEN: RefCell<HashMap<usize, Chosen>> = RefCell::default();
}

struct Chosen {
    /// From which they were chosen.
    of: Weak<EndpointSet>,
    next: VecDeque<Arc<Endpoint>>,
}

impl Cluster {
    /// Whether endpoints are chosen ahead for such wishes. A hash says of itself who is next, and
    /// least request looks at what is under way by then.
    pub(super) fn anticipates(&self, wish: &Wish<'_>) -> bool {
        let policy = &self.model.balancing.policy;
        self.transport
            .preconnect
            .is_some_and(|p| p.predictive > 1.0)
            && matches!(policy, Policy::RoundRobin | Policy::Random)
            && self.endpoints.subsets().is_none()
            && wish.destination.is_none()
            && !self.transport.varies
    }

    /// The endpoint that was chosen for this request before it came.
    pub(super) fn anticipated(&self) -> Option<Arc<Endpoint>> {
        self.with_chosen(|chosen| {
            // One that has fallen ill meanwhile is left out.
            let is_well = |e: &Arc<Endpoint>| e.availability() == Availability::Healthy;
            std::iter::from_fn(|| chosen.pop_front()).find(is_well)
        })
    }

    /// A request comes: chooses for those that will follow it, and has them connected to.
    pub fn anticipate(&self) {
        let wish = Wish::default();
        if !self.anticipates(&wish) || self.endpoints.only().is_some() {
            return;
        }
        let ratio = self.transport.preconnect.map_or(1.0, |p| p.predictive);
        // With the one that comes.
        let requests = pool::requests(&self.transport) + 1;
        let wanted = ahead_of(requests, ratio).min(self.endpoints.all().len());
        let held = self.with_chosen(|chosen| chosen.len());
        for _ in held..wanted.min(held + MOST) {
            let Ok(next) = self.choose(wish) else { return };
            let next = Arc::clone(&next);
            if !pool::ahead(&next, &self.transport) {
                return;
            }
            self.with_chosen(|chosen| chosen.push_back(next));
        }
    }

    fn with_chosen<R>(&self, f: impl FnOnce(&mut VecDeque<Arc<Endpoint>>) -> R) -> R {
        CHOSEN.with_borrow_mut(|all| {
            if all.len() > MANY {
                all.retain(|_, chosen| chosen.of.strong_count() > 0);
            }
            let set = &self.endpoints;
            let fresh = || Chosen {
                of: Arc::downgrade(set),
                next: VecDeque::new(),
            };
            let key = Arc::as_ptr(&self.transport).addr();
            let chosen = all.entry(key).or_insert_with(fresh);
            if !std::ptr::eq(chosen.of.as_ptr(), Arc::as_ptr(set)) {
                *chosen = fresh();
            }
            f(&mut chosen.next)
        })
    }
}

/// How many more requests than there are connections are held ready for, rounded up.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of requests, times two at most"
)]
fn ahead_of(requests: usize, ratio: f64) -> usize {
    (requests as f64 * (ratio - 1.0)).ceil() as usize
}
