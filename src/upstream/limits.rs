//! How much one cluster may be asked for at once (Envoy calls these circuit breakers).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use causeway_xds::resource::cluster as model;

/// Bounds of one cluster and how much of each is in use. The bounds can change while permits are
/// out; the counts stay true.
#[derive(Debug, Default)]
pub struct Limits {
    pub connections: Limit,
    pub pending: Limit,
    pub requests: Limit,
}

#[derive(Debug, Default)]
pub struct Limit {
    max: AtomicU32,
    used: Arc<AtomicU32>,
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
    }
}

impl Limit {
    /// `None` when the bound is reached. Counts before it looks, so that two threads can never
    /// both take the last unit.
    pub fn acquire(&self) -> Option<Permit> {
        let before = self.used.fetch_add(1, Relaxed);
        let permit = Permit(Arc::clone(&self.used));
        (before < self.max.load(Relaxed)).then_some(permit)
    }

    /// One unit whatever the bound says.
    pub fn exceed(&self) -> Permit {
        self.used.fetch_add(1, Relaxed);
        Permit(Arc::clone(&self.used))
    }

    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
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
}
