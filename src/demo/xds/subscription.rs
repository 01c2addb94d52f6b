//! What one client has asked for of one type, and what it is sent next: the two forms of the
//! protocol without a connection.
//!
//! A server of this size needs no more. It sends what is subscribed to whenever the client does not
//! have it, and takes every answer for granted.

use std::collections::{BTreeMap, BTreeSet};

use causeway_xds::proto::Any;
use causeway_xds::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

/// Everything of one type, by name.
pub type Resources = BTreeMap<String, Versioned>;

/// A resource and the version that it has been since.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned {
    pub version: u64,
    pub any: Any,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Subscription {
    /// Whether anything was asked for yet.
    asked: bool,
    /// Empty stands for everything, as it does for clusters and listeners.
    names: BTreeSet<String>,
    /// What the client has, or was sent.
    has: BTreeMap<String, u64>,
    /// Names that the client was told do not exist.
    absent: BTreeSet<String>,
    answered: bool,
}

impl Subscription {
    /// A request of the state of the world: all names, each time.
    pub fn ask(&mut self, request: &DiscoveryRequest) {
        self.asked = true;
        self.names = named(&request.resource_names);
    }

    /// A request of the incremental form: only what is different from now on.
    pub fn ask_changes(&mut self, request: &DeltaDiscoveryRequest) {
        if !self.asked {
            // A client that comes back says what it kept. Versions that are no numbers are not
            // ours; what they stand for is sent again.
            let kept = request.initial_resource_versions.iter();
            self.has = kept
                .map(|(name, version)| (name.clone(), version.parse().unwrap_or(0)))
                .collect();
        }
        self.asked = true;
        self.names.extend(named(&request.resource_names_subscribe));
        for name in &request.resource_names_unsubscribe {
            self.names.remove(name);
            self.has.remove(name);
            self.absent.remove(name);
        }
    }

    /// What is there of what was asked for.
    fn wanted<'r>(&self, all: &'r Resources) -> Vec<(&'r String, &'r Versioned)> {
        let every = self.names.is_empty();
        all.iter()
            .filter(|(name, _)| every || self.names.contains(*name))
            .collect()
    }

    /// The next response of the state of the world, if there is something to say. A name that does
    /// not exist is never answered for: the client learns it by waiting.
    pub fn next(&mut self, all: &Resources, version: u64) -> Option<DiscoveryResponse> {
        let wanted = self.wanted(all);
        let has = versions(&wanted);
        let nothing_yet = wanted.is_empty() && !self.names.is_empty();
        if !self.asked || nothing_yet || (self.answered && has == self.has) {
            return None;
        }
        self.answered = true;
        self.has = has;
        Some(DiscoveryResponse {
            version_info: version.to_string(),
            resources: wanted.into_iter().map(|(_, r)| r.any.clone()).collect(),
            ..Default::default()
        })
    }

    /// The next incremental response, if there is something to say: what is new or different, what
    /// is gone, and what was asked for and does not exist.
    pub fn next_changes(
        &mut self,
        all: &Resources,
        version: u64,
    ) -> Option<DeltaDiscoveryResponse> {
        let wanted = self.wanted(all);
        let now = versions(&wanted);
        let resources: Vec<_> = wanted
            .into_iter()
            .filter(|(name, r)| self.has.get(*name) != Some(&r.version))
            .map(|(name, r)| Resource {
                name: name.clone(),
                version: r.version.to_string(),
                resource: Some(r.any.clone()),
                ..Default::default()
            })
            .collect();
        let absent: BTreeSet<_> = (self.names.iter())
            .filter(|name| !now.contains_key(*name))
            .cloned()
            .collect();
        let mut removed: BTreeSet<_> = absent.difference(&self.absent).cloned().collect();
        removed.extend(self.has.keys().filter(|n| !now.contains_key(*n)).cloned());
        let silent = self.answered && resources.is_empty() && removed.is_empty();
        if !self.asked || silent {
            return None;
        }
        self.answered = true;
        self.has = now;
        self.absent = absent;
        Some(DeltaDiscoveryResponse {
            system_version_info: version.to_string(),
            resources,
            removed_resources: removed.into_iter().collect(),
            ..Default::default()
        })
    }
}

/// `*` is the explicit form of everything.
fn named(names: &[String]) -> BTreeSet<String> {
    names.iter().filter(|n| *n != "*").cloned().collect()
}

fn versions(wanted: &[(&String, &Versioned)]) -> BTreeMap<String, u64> {
    let pairs = wanted.iter();
    pairs.map(|(n, r)| ((*n).clone(), r.version)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(entries: &[(&str, u64)]) -> Resources {
        let resource = |version| Versioned {
            version,
            any: Any::default(),
        };
        let entries = entries.iter();
        entries.map(|(n, v)| ((*n).into(), resource(*v))).collect()
    }

    fn ask(names: &[&str]) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|n| (*n).into()).collect(),
            ..Default::default()
        }
    }

    fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(|n| (*n).into()).collect(),
            ..Default::default()
        }
    }

    fn delta(response: Option<DeltaDiscoveryResponse>) -> Option<(Vec<String>, Vec<String>)> {
        response.map(|r| {
            let sent = r.resources.into_iter().map(|r| r.name).collect();
            (sent, r.removed_resources)
        })
    }

    #[test]
    fn the_state_of_the_world_is_sent_when_it_is_another() {
        let mut one = Subscription::default();
        assert!(one.next(&world(&[("a", 1)]), 1).is_none(), "not asked for");
        one.ask(&ask(&[]));
        assert_eq!(one.next(&world(&[("a", 1)]), 1).unwrap().resources.len(), 1);
        one.ask(&ask(&[]));
        assert!(one.next(&world(&[("a", 1)]), 2).is_none(), "the same");
        let both = world(&[("a", 1), ("b", 3)]);
        let sent = one.next(&both, 3).unwrap();
        assert_eq!((sent.resources.len(), &*sent.version_info), (2, "3"));
        // Nothing at all is a state, too.
        assert!(one.next(&world(&[]), 4).unwrap().resources.is_empty());
    }

    #[test]
    fn a_name_without_a_resource_is_not_answered_for() {
        let mut one = Subscription::default();
        one.ask(&ask(&["a"]));
        assert!(one.next(&world(&[("b", 1)]), 1).is_none());
        assert!(one.next(&world(&[("a", 2), ("b", 1)]), 2).is_some());
    }

    #[test]
    fn changes_are_what_the_client_does_not_have() {
        let mut one = Subscription::default();
        one.ask_changes(&subscribe(&["a", "x"]));
        let sent = delta(one.next_changes(&world(&[("a", 1), ("b", 1)]), 1));
        assert_eq!(sent, Some((vec!["a".into()], vec!["x".into()])));
        assert_eq!(delta(one.next_changes(&world(&[("a", 1)]), 1)), None);
        let sent = delta(one.next_changes(&world(&[("a", 2), ("x", 2)]), 2));
        assert_eq!(sent, Some((vec!["a".into(), "x".into()], vec![])));
        let sent = delta(one.next_changes(&world(&[("a", 2)]), 3));
        assert_eq!(sent, Some((vec![], vec!["x".into()])));
    }

    #[test]
    fn who_comes_back_is_sent_only_what_it_missed() {
        let mut one = Subscription::default();
        let mut request = subscribe(&[]);
        let kept = [("a", "1"), ("b", "1"), ("gone", "1"), ("c", "theirs")];
        request.initial_resource_versions = kept
            .into_iter()
            .map(|(n, v)| (n.into(), v.into()))
            .collect();
        one.ask_changes(&request);
        let now = world(&[("a", 1), ("b", 2), ("c", 1)]);
        let sent = delta(one.next_changes(&now, 2));
        let expected = (vec!["b".into(), "c".into()], vec!["gone".into()]);
        assert_eq!(sent, Some(expected));
    }
}
