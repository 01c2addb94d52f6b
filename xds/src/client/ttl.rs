//! Resources that live only as long as the server says so (`Resource.ttl`).

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// When the resources of one type run out.
#[derive(Debug, Default)]
pub(super) struct Ttl {
    of: HashMap<String, Instant>,
    order: BTreeSet<(Instant, String)>,
}

impl Ttl {
    /// What a resource says of its life: no time at all ends an earlier limit.
    pub(super) fn set(&mut self, name: &str, ttl: Option<Duration>, now: Instant) {
        self.remove(name);
        // A time beyond what the clock can tell is no limit.
        if let Some(end) = ttl.and_then(|ttl| now.checked_add(ttl)) {
            self.of.insert(name.to_owned(), end);
            self.order.insert((end, name.to_owned()));
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some((name, end)) = self.of.remove_entry(name) {
            self.order.remove(&(end, name));
        }
    }

    /// When the next one runs out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.order.first().map(|(end, _)| *end)
    }

    /// Those that have run out, which are forgotten with this.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<String> {
        let mut names = Vec::new();
        while self.deadline().is_some_and(|end| end <= now) {
            let (_, name) = self.order.pop_first().expect("there is a deadline");
            self.of.remove(&name);
            names.push(name);
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_runs_out_once_unless_its_time_is_renewed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ttl = Ttl::default();
        ttl.set("a", Some(Duration::from_secs(2)), start);
        ttl.set("b", Some(Duration::from_secs(3)), start);
        ttl.set("c", None, start);
        assert_eq!(ttl.deadline(), Some(at(2)));
        ttl.set("a", Some(Duration::from_secs(5)), at(1));
        assert_eq!(ttl.deadline(), Some(at(3)));
        assert_eq!(ttl.expired(at(3)), ["b"]);
        assert!(ttl.expired(at(3)).is_empty());
        assert_eq!(ttl.expired(at(100)), ["a"]);
        assert_eq!(ttl.deadline(), None);
        ttl.set("a", Some(Duration::from_secs(5)), start);
        ttl.set("a", None, start);
        assert_eq!(ttl.deadline(), None, "sent again without a limit");
        ttl.set("a", Some(Duration::MAX), start);
        assert_eq!(ttl.deadline(), None, "for ever");
    }
}
