//! Any sequence of events leaves server and client of one mind.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const KINDS: [ResourceType; 3] = [Cluster, LoadAssignment, RouteConfiguration];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What the server and control know of a type.
#[derive(Debug, Default)]
struct View {
    // Control:
    all: bool,
    names: BTreeSet<String>,
    accepted: String,
    /// Names that the server has still to see coming.
    owed: BTreeSet<String>,
    // The server, on this stream:
    asked: Option<Vec<String>>,
    named: bool,
    nonce: String,
    /// The refusal that the next request has to carry.
    refused: bool,
    /// Whether the newest response is answered.
    open: bool,
}

impl View {
    fn list(&self) -> Vec<String> {
        let star = (self.all && self.named).then(|| "*".to_owned());
        star.into_iter().chain(self.names.iter().cloned()).collect()
    }
}

struct World {
    machine: Sotw,
    views: BTreeMap<ResourceType, View>,
    node_due: bool,
    /// Type and version of the response that is being applied.
    applied: Option<(ResourceType, String)>,
    counter: u32,
    now: Instant,
}

impl World {
    fn of(&mut self, kind: ResourceType) -> &mut View {
        self.views.get_mut(&kind).unwrap()
    }

    fn step(&mut self, rng: &mut fastrand::Rng) {
        let kind = KINDS[rng.usize(..KINDS.len())];
        let name = NAMES[rng.usize(..NAMES.len())];
        match rng.u32(..100) {
            0..=1 => {
                self.machine.interest(Interest::All(kind));
                self.of(kind).all = true;
            }
            2..=24 => {
                self.machine.interest(subscribe(kind, &[name]));
                let view = self.of(kind);
                if view.names.insert(name.to_owned()) {
                    view.owed.insert(name.to_owned());
                }
            }
            25..=44 => {
                self.machine.interest(unsubscribe(kind, &[name]));
                let view = self.of(kind);
                view.names.remove(name);
                view.owed.remove(name);
            }
            45..=49 => self
                .machine
                .interest(Interest::Refresh(kind, name.to_owned())),
            50..=69 => {
                self.request();
            }
            70..=84 => self.respond(kind, rng),
            85..=94 => self.settle(rng),
            95..=96 => {
                self.now += std::time::Duration::from_secs(rng.u64(..5));
                let now = self.now;
                for update in self.machine.expire(now) {
                    assert!(!update.removals.is_empty() && update.upserts.is_empty());
                }
            }
            _ => {
                let other = rng.bool();
                self.machine.connected(other);
                self.node_due = true;
                self.applied = None;
                for view in self.views.values_mut() {
                    view.asked = None;
                    view.named = false;
                    view.nonce.clear();
                    view.open = false;
                    view.refused = false;
                    view.owed.clone_from(&view.names);
                    if other {
                        view.accepted.clear();
                    }
                }
            }
        }
    }

    fn request(&mut self) -> bool {
        let Some(Outgoing { kind, message, .. }) = self.machine.next() else {
            return false;
        };
        let kind = kind.unwrap();
        let node_due = std::mem::take(&mut self.node_due);
        assert_eq!(message.node.is_some(), node_due, "the node");
        let busy = self.applied.as_ref().map(|(kind, _)| *kind);
        assert_ne!(Some(kind), busy, "not while a response is applied");
        let view = self.of(kind);
        assert_eq!(message.type_url, kind.type_url());
        assert_eq!(message.response_nonce, view.nonce, "the newest nonce");
        assert_eq!(message.version_info, view.accepted, "the version in force");
        let refused = std::mem::take(&mut view.refused);
        assert_eq!(message.error_detail.is_some(), refused, "refused or not");
        view.open = false;
        let list = message.resource_names;
        if list.is_empty() && !view.named {
            assert!(view.all, "everything, and nobody wants it");
        }
        let before = view.asked.replace(list.clone()).unwrap_or_default();
        view.named |= !list.is_empty();
        view.owed
            .retain(|name| !list.contains(name) || before.contains(name));
        true
    }

    fn respond(&mut self, kind: ResourceType, rng: &mut fastrand::Rng) {
        // One at a time, as the loop does it.
        if self.applied.is_some() || self.of(kind).asked.is_none() {
            return;
        }
        self.counter += 1;
        let (version, nonce) = (format!("v{}", self.counter), format!("n{}", self.counter));
        let mut resources: Vec<Any> = NAMES
            .iter()
            .filter_map(|name| match rng.u32(..8) {
                0 => {
                    let ttl = Some(rng.i64(..4));
                    Some(pack(&wrapper(name, Some(resource(kind, name)), ttl)))
                }
                1 => Some(pack(&wrapper(name, None, Some(rng.i64(..4))))),
                2..=3 => Some(resource(kind, name)),
                _ => None,
            })
            .collect();
        let broken = rng.u32(..5) == 0;
        if broken {
            resources.push(resource(Listener, "l"));
            resources.last_mut().unwrap().value = vec![0x0a, 0xff];
        }
        let now = self.now;
        let received = self
            .machine
            .receive(with(kind, &version, &nonce, resources), now);
        let view = self.of(kind);
        view.nonce = nonce;
        view.open = true;
        view.refused = false;
        match received {
            Received::Deliver(update) => {
                assert!(!broken);
                let world = kind == Cluster;
                assert!(world || !update.upserts.is_empty());
                assert!(world || update.removals.is_empty());
                self.applied = Some((kind, version));
            }
            Received::Answered(answered) => {
                assert_eq!(answered.result.is_err(), broken);
                view.refused = broken;
                if !broken {
                    view.accepted = version;
                }
            }
            Received::Ignored => panic!("it was asked for"),
        }
    }

    fn settle(&mut self, rng: &mut fastrand::Rng) {
        let Some((kind, version)) = self.applied.take() else {
            assert_eq!(self.machine.outcome(&accepted()), None);
            return;
        };
        let bad = rng.bool();
        let outcome = if bad {
            refused(kind, &["a"])
        } else {
            accepted()
        };
        let answered = self.machine.outcome(&outcome).unwrap();
        assert_eq!(answered.result.is_err(), bad);
        let view = self.of(kind);
        view.refused = bad;
        if !bad {
            view.accepted = version;
        }
    }

    /// With nothing left to do, the server knows what is wanted and how its responses were taken.
    fn agree(&mut self, rng: &mut fastrand::Rng) {
        self.settle(rng);
        let mut requests = 0;
        while self.request() {
            requests += 1;
            assert!(requests < 20, "requests without end");
        }
        assert_eq!(self.machine.backlog(), 0);
        for (kind, view) in &self.views {
            assert!(!view.open && !view.refused, "{kind}: unanswered");
            assert!(
                view.owed.is_empty(),
                "{kind}: {:?} not asked for",
                view.owed
            );
            match &view.asked {
                Some(asked) => assert_eq!(*asked, view.list(), "{kind}"),
                None => assert!(!view.all && view.names.is_empty(), "{kind}"),
            }
        }
    }
}

#[test]
fn any_sequence_of_events_ends_in_agreement() {
    let base = fastrand::u64(..);
    for seed in (0..300).map(|n| base.wrapping_add(n)) {
        let told = Told(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World {
            machine: start(),
            views: KINDS.iter().map(|kind| (*kind, View::default())).collect(),
            node_due: true,
            applied: None,
            counter: 0,
            now: Instant::now(),
        };
        for _ in 0..rng.u32(..200) {
            world.step(&mut rng);
            if rng.u32(..20) == 0 {
                world.agree(&mut rng);
            }
        }
        world.agree(&mut rng);
        std::mem::forget(told);
    }
}
