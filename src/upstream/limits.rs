//! How much one cluster may be asked for at once (Envoy calls these circuit breakers).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use causeway_xds::resource::cluster as model;

/// Bounds of one cluster and how much of each is in use. The bounds can change while permits are
/// out; the counts stay true.
#[derive(Debug, Default)]
pub struct Limits {
    pub connections: Limit,
    pub pending: Limit,
    pub requests: Limit,
    retries: Limit,
    /// Retries for each million requests, instead of the bound of `retries`; 0 is no budget.
    budget: AtomicU32,
    /// Retries that a budget leaves in any case.
    budget_min: AtomicU32,
    track_remaining: AtomicBool,
}

#[derive(Debug, Default)]
pub struct Limit {
    max: AtomicU32,
    /// From the first use on: most clusters of many are idle.
    used: OnceLock<Arc<AtomicU32>>,
}

/// One unit of a [`Limit`], given back on drop.
#[derive(Debug)]
pub struct Permit(Arc<AtomicU32>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Limits {
    pub fn set(&self, model: &model::Limits) {
        self.connections.max.store(model.max_connections, Relaxed);
        self.pending.max.store(model.max_pending_requests, Relaxed);
        self.requests.max.store(model.max_requests, Relaxed);
        self.retries.max.store(model.max_retries, Relaxed);
        let (budget, min) = model.retry_budget.map_or((0, 0), |b| (b.millionths, b.min));
        self.budget.store(budget, Relaxed);
        self.budget_min.store(min, Relaxed);
        self.track_remaining.store(model.track_remaining, Relaxed);
    }

    /// Every gauge of Envoy's `circuit_breakers`: what is used up, and what is left where that is
    /// asked for (`track_remaining`).
    pub fn gauges(&self, f: &mut dyn FnMut(&str, i64)) {
        let track = self.track_remaining.load(Relaxed);
        let retries = (self.retries(), self.max_retries());
        for (open, remaining, (used, max)) in [
            ("cx_open", "remaining_cx", self.connections.state()),
            ("rq_pending_open", "remaining_pending", self.pending.state()),
            ("rq_open", "remaining_rq", self.requests.state()),
            ("rq_retry_open", "remaining_retries", retries),
        ] {
            // Envoy looks at a limit when something is counted, so one of zero never counts as full.
            f(open, i64::from(used > 0 && used >= max));
            let left = if track { max.saturating_sub(used) } else { 0 };
            f(remaining, left.into());
        }
    }

    /// One retry more, if there may be one.
    pub fn retry(&self) -> Option<Permit> {
        self.retries.acquire_of(self.max_retries())
    }

    pub fn max_retries(&self) -> u32 {
        let budget = self.budget.load(Relaxed);
        if budget == 0 && self.budget_min.load(Relaxed) == 0 {
            return self.retries.max();
        }
        // Those that wait for a connection are among them.
        let requests = u64::from(self.requests.used());
        let share = requests * u64::from(budget) / 1_000_000;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        share.max(self.budget_min.load(Relaxed))
    }

    /// Retries that wait or run.
    pub fn retries(&self) -> u32 {
        self.retries.used()
    }
}

impl Limit {
    /// `None` when the bound is reached. Counts before it looks, so that two threads can never
    /// both take the last unit.
    pub fn acquire(&self) -> Option<Permit> {
        self.acquire_of(self.max())
    }

    /// The same with a bound that is known elsewhere.
    pub fn acquire_of(&self, max: u32) -> Option<Permit> {
        let used = self.used.get_or_init(Arc::default);
        let before = used.fetch_add(1, Relaxed);
        let permit = Permit(Arc::clone(used));
        (before < max).then_some(permit)
    }

    /// One unit whatever the bound says.
    pub fn exceed(&self) -> Permit {
        let used = self.used.get_or_init(Arc::default);
        used.fetch_add(1, Relaxed);
        Permit(Arc::clone(used))
    }

    fn state(&self) -> (u32, u32) {
        (self.used(), self.max())
    }

    pub fn used(&self) -> u32 {
        self.used.get().map_or(0, |used| used.load(Relaxed))
    }

    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::atomic::fence;

    use super::*;

    #[test]
    fn a_limit_is_never_exceeded_and_permits_come_back() {
        let limits = Limits::default();
        limits.set(&model::Limits {
            max_requests: 2,
            ..model::Limits::default()
        });
        let first = limits.requests.acquire().unwrap();
        let _second = limits.requests.acquire().unwrap();
        assert!(limits.requests.acquire().is_none());
        assert_eq!(limits.requests.used(), 2);
        drop(first);
        assert!(limits.requests.acquire().is_some());
    }

    #[test]
    fn threads_that_race_never_hold_more_than_the_limit() {
        const MAX: u32 = 3;
        for seed in 0..50 {
            let limits = Limits::default();
            limits.set(&model::Limits {
                max_requests: MAX,
                ..model::Limits::default()
            });
            let held = std::sync::atomic::AtomicU32::new(0);
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (limits, held, start) = (&limits, &held, &start);
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(seed * 4 + thread);
                        let mut own = Vec::new();
                        start.wait();
                        for _ in 0..500 {
                            if random.bool()
                                && let Some(permit) = limits.requests.acquire()
                            {
                                fence(SeqCst);
                                assert!(held.fetch_add(1, Relaxed) < MAX, "seed {seed}");
                                own.push(permit);
                            } else if let Some(permit) = own.pop() {
                                // Not held any more before its place is free.
                                held.fetch_sub(1, Relaxed);
                                fence(SeqCst);
                                drop(permit);
                            }
                        }
                        held.fetch_sub(u32::try_from(own.len()).unwrap(), Relaxed);
                    });
                }
            });
            assert_eq!(limits.requests.used(), 0, "seed {seed}");
        }
    }

    #[test]
    fn retries_have_a_bound_or_a_budget() {
        let limits = Limits::default();
        limits.set(&model::Limits::default());
        assert_eq!(limits.max_retries(), 3);
        limits.set(&model::Limits {
            retry_budget: Some(model::RetryBudget {
                millionths: 200_000,
                min: 1,
            }),
            ..model::Limits::default()
        });
        let only = limits.retry().unwrap();
        assert!(limits.retry().is_none());
        let requests: Vec<_> = (0..20).map(|_| limits.requests.acquire()).collect();
        assert_eq!(limits.max_retries(), 4, "a fifth of the requests");
        assert!(limits.retry().is_some());
        drop((only, requests));
        assert_eq!((limits.retries(), limits.max_retries()), (0, 1));
    }
}
