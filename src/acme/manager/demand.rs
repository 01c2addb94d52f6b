//! Hosts that clients bring in by asking for them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Manager;
use crate::tls::automatic::Signal;

/// Names that clients may bring in, beside those of the file.
pub(super) const MAX_ON_DEMAND: usize = 10_000;
/// Handshakes that wait for one name.
const MAX_WAITERS: usize = 256;
/// Hosts that are asked for the first time and looked up at one time.
pub(super) const MAX_LOOKUPS: usize = 64;
const HOUR: Duration = Duration::from_secs(3600);

impl Manager {
    /// A client asks for a host that has no certificate. Its answer is dropped when it is not to
    /// have one, or not now.
    pub(super) fn wanted(&mut self, wanted: Signal) {
        if self.names.contains_key(&wanted.host) {
            return self.wait(wanted);
        }
        if self.lookups.len() >= MAX_LOOKUPS {
            tracing::debug!(host = wanted.host, "ACME: too many hosts are looked up");
            return;
        }
        // First of all: what anybody makes up must not use up what those that exist are allowed.
        let known = Arc::clone(&self.known);
        self.lookups
            .spawn(async move { (known(wanted.host.clone()).await, wanted) });
    }

    fn wait(&mut self, Signal { host, answer }: Signal) {
        let Some(entry) = self.names.get_mut(&host) else {
            return;
        };
        let pending = entry.held.is_none() && (entry.running || entry.failures == 0);
        if pending && entry.waiters.len() < MAX_WAITERS {
            entry.waiters.push(answer);
        }
    }

    pub(super) fn looked_up(&mut self, known: bool, wanted: Signal) {
        if !known {
            return;
        }
        if !self.names.contains_key(&wanted.host) {
            let now = Instant::now();
            while self
                .brought
                .front()
                .is_some_and(|at| now.duration_since(*at) >= HOUR)
            {
                self.brought.pop_front();
            }
            let on_demand = self.names.values().filter(|name| name.on_demand).count();
            let limit = self.authority.config.orders_per_hour as usize;
            if on_demand >= MAX_ON_DEMAND || self.brought.len() >= limit {
                tracing::warn!(host = wanted.host, limit, "ACME: too many new hosts");
                return;
            }
            self.brought.push_back(now);
            self.add(&wanted.host, true, SystemTime::now());
        }
        self.wait(wanted);
    }
}
