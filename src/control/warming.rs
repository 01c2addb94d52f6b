//! Holds a cluster or listener back until what it refers to has arrived.
//!
//! A pure state machine: told what was offered, what arrived, what is gone and what time it is, it
//! says what may be used now. An earlier version of what waits goes on serving meanwhile. Other
//! kinds never wait: an assignment, a route configuration or a secret is complete in itself, and a
//! cluster that a route names and that is not there is answered when a request asks for it.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use causeway_xds::ResourceType;
use causeway_xds::resource::Reference;
use causeway_xds::resource::config_source::Place;

/// A resource by kind and name.
pub type Key = (ResourceType, String);

/// What waits, and for what.
#[derive(Debug, Default)]
pub struct Warming {
    waiting: HashMap<Key, Waiting>,
    /// Who waits by what is waited for.
    waiters: HashMap<Key, BTreeSet<Key>>,
    /// Whether the first clusters are there: until then listeners stay closed.
    open: bool,
}

#[derive(Debug)]
struct Waiting {
    /// Everything it refers to, so that what goes away again is waited for again.
    needs: Vec<Need>,
}

#[derive(Debug)]
struct Need {
    key: Key,
    here: bool,
    /// `None` waits for ever.
    deadline: Option<Instant>,
}

impl Need {
    fn is_missing(&self) -> bool {
        !self.here
    }
}

impl Warming {
    /// A new or changed cluster or listener. `held` tells what the store has. Returns whether it
    /// may be used at once.
    pub fn offer(
        &mut self,
        key: &Key,
        references: &[Reference],
        held: impl Fn(ResourceType, &str) -> bool,
        now: Instant,
    ) -> bool {
        let mut earlier = self.forget(key);
        let mut needs: Vec<Need> = Vec::new();
        for reference in references.iter().filter(|r| is_waited_for(r)) {
            let wanted = (reference.kind, reference.name.clone());
            if needs.iter().any(|need| need.key == wanted) {
                continue;
            }
            // What was waited for before goes on with its old deadline, so that a source which
            // repeats itself cannot hold a change back for ever.
            let before = earlier.as_mut().and_then(|w| {
                w.needs
                    .iter()
                    .position(|n| n.key == wanted)
                    .map(|i| w.needs.remove(i))
            });
            needs.push(Need {
                here: held(wanted.0, &wanted.1),
                deadline: before.map_or_else(
                    || deadline(now, reference.source.initial_fetch_timeout),
                    |need| need.deadline,
                ),
                key: wanted,
            });
        }
        let gated = key.0 == ResourceType::Listener && !self.open;
        if !gated && !needs.iter().any(Need::is_missing) {
            return true;
        }
        for need in &needs {
            let waiters = self.waiters.entry(need.key.clone()).or_default();
            waiters.insert(key.clone());
        }
        self.waiting.insert(key.clone(), Waiting { needs });
        false
    }

    /// A resource is there now, or will not come (its source gave up on it). Returns who may be
    /// used because of that.
    pub fn arrived(&mut self, kind: ResourceType, name: &str) -> Vec<Key> {
        self.mark(&(kind, name.to_owned()), true)
    }

    /// A resource is gone. If it waited, it no longer does; who waits and refers to it waits for
    /// it again.
    pub fn removed(&mut self, key: &Key) {
        self.forget(key);
        self.mark(key, false);
    }

    /// What may be used because waiting took too long.
    pub fn expire(&mut self, now: Instant) -> Vec<Key> {
        for waiting in self.waiting.values_mut() {
            for need in waiting.needs.iter_mut().filter(|n| n.is_missing()) {
                need.here = need.deadline.is_some_and(|deadline| deadline <= now);
            }
        }
        let all: Vec<Key> = self.waiting.keys().cloned().collect();
        self.take_ready(all)
    }

    /// When [`Warming::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let needs = self.waiting.values().flat_map(|w| &w.needs);
        needs
            .filter(|n| n.is_missing())
            .filter_map(|n| n.deadline)
            .min()
    }

    /// The first sources have spoken (or are given up): once no cluster waits, listeners may open.
    /// Returns those that may be used because of that.
    pub fn start_listeners(&mut self) -> Vec<Key> {
        if self.open || self.count(ResourceType::Cluster) > 0 {
            return Vec::new();
        }
        self.open = true;
        let listeners = self
            .waiting
            .keys()
            .filter(|key| key.0 == ResourceType::Listener);
        let listeners = listeners.cloned().collect();
        self.take_ready(listeners)
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn is_waiting(&self, key: &Key) -> bool {
        self.waiting.contains_key(key)
    }

    /// What `key` waits for, as an operator reads it; empty when it does not wait.
    pub fn waits_for(&self, key: &Key) -> Vec<String> {
        let Some(waiting) = self.waiting.get(key) else {
            return Vec::new();
        };
        let missing = waiting.needs.iter().filter(|n| n.is_missing());
        let mut list: Vec<_> = missing
            .map(|n| format!("{} \"{}\"", n.key.0, n.key.1))
            .collect();
        if list.is_empty() {
            list.push("the first clusters".to_owned());
        }
        list
    }

    pub fn count(&self, kind: ResourceType) -> usize {
        self.waiting.keys().filter(|(k, _)| *k == kind).count()
    }

    fn mark(&mut self, key: &Key, here: bool) -> Vec<Key> {
        let Some(waiters) = self.waiters.get(key).cloned() else {
            return Vec::new();
        };
        for waiter in &waiters {
            let needs = self.waiting.get_mut(waiter).map(|w| &mut w.needs);
            let wanted = needs.into_iter().flatten().filter(|n| n.key == *key);
            wanted.for_each(|need| need.here = here);
        }
        self.take_ready(waiters.into_iter().collect())
    }

    fn take_ready(&mut self, mut candidates: Vec<Key>) -> Vec<Key> {
        candidates.retain(|key| {
            let gated = key.0 == ResourceType::Listener && !self.open;
            let waiting = self.waiting.get(key);
            !gated && waiting.is_some_and(|w| !w.needs.iter().any(Need::is_missing))
        });
        candidates.sort_unstable();
        for key in &candidates {
            self.forget(key);
        }
        candidates
    }

    fn forget(&mut self, key: &Key) -> Option<Waiting> {
        let waiting = self.waiting.remove(key)?;
        for need in &waiting.needs {
            if let Some(waiters) = self.waiters.get_mut(&need.key) {
                waiters.remove(key);
                if waiters.is_empty() {
                    self.waiters.remove(&need.key);
                }
            }
        }
        Some(waiting)
    }
}

/// A static secret is there from the start or never, and a missing one is better reported at once.
/// Virtual hosts come one by one and are answered by 404 until then.
fn is_waited_for(reference: &Reference) -> bool {
    match reference.kind {
        ResourceType::LoadAssignment
        | ResourceType::RouteConfiguration
        | ResourceType::FilterConfig => !reference.optional,
        ResourceType::Secret => reference.source.place != Place::Static,
        ResourceType::VirtualHost | ResourceType::Cluster | ResourceType::Listener => false,
    }
}

fn deadline(now: Instant, timeout: Duration) -> Option<Instant> {
    if timeout.is_zero() {
        None
    } else {
        now.checked_add(timeout)
    }
}

#[cfg(test)]
mod tests;
