//! Any sequence of events leaves server and client of one mind.

use std::collections::BTreeMap;

use super::*;

const KINDS: [ResourceType; 3] = [Cluster, LoadAssignment, RouteConfiguration];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What the server and control know of a type.
#[derive(Debug, Default)]
struct View {
    // Control:
    all: bool,
    names: BTreeSet<String>,
    /// Names that the server has still to see coming.
    owed: BTreeSet<String>,
    /// What is in use, with its version.
    held: BTreeMap<String, String>,
    // The server, on this stream:
    asked: bool,
    everything: bool,
    subscribed: BTreeSet<String>,
    /// Responses without an answer: the nonce, and whether it is refused.
    open: BTreeMap<String, bool>,
}

impl View {
    fn wants(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

struct Applied {
    kind: ResourceType,
    nonce: String,
    version: String,
    names: Vec<String>,
    removed: Vec<String>,
}

struct World {
    machine: Delta,
    views: BTreeMap<ResourceType, View>,
    node_due: bool,
    applied: Option<Applied>,
    counter: u32,
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
                if view.names.remove(name) && !view.all {
                    view.held.remove(name);
                }
                view.owed.remove(name);
            }
            45..=49 => self
                .machine
                .interest(Interest::Refresh(kind, name.to_owned())),
            50..=69 => {
                self.request();
            }
            70..=84 => self.respond(kind, rng),
            85..=96 => self.settle(rng),
            _ => {
                let other = rng.bool();
                self.machine.connected(other);
                self.node_due = true;
                self.applied = None;
                for view in self.views.values_mut() {
                    view.asked = false;
                    view.everything = false;
                    view.subscribed.clear();
                    view.open.clear();
                    view.owed.clone_from(&view.names);
                    if other {
                        view.held.values_mut().for_each(String::clear);
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
        let view = self.of(kind);
        assert_eq!(message.type_url, kind.type_url());
        let (subscribe, unsubscribe) = (
            message.resource_names_subscribe,
            message.resource_names_unsubscribe,
        );
        if message.response_nonce.is_empty() {
            assert!(message.error_detail.is_none());
        } else {
            assert!(subscribe.is_empty() && unsubscribe.is_empty());
            let refused = view.open.remove(&message.response_nonce);
            assert_eq!(
                refused,
                Some(message.error_detail.is_some()),
                "refused or not"
            );
            return true;
        }
        let versions: BTreeMap<_, _> = message.initial_resource_versions.into_iter().collect();
        if view.asked {
            assert!(versions.is_empty());
            assert!(
                !subscribe.is_empty() || !unsubscribe.is_empty(),
                "says nothing"
            );
        } else {
            assert_eq!(versions, view.held, "the versions that are held");
            assert!(unsubscribe.is_empty());
            view.everything = subscribe.is_empty();
            view.asked = true;
        }
        for name in unsubscribe {
            assert!(!subscribe.contains(&name), "which of them first?");
            assert!(view.subscribed.remove(&name), "was not subscribed");
        }
        for name in subscribe {
            if name == "*" {
                view.everything = true;
            } else {
                assert!(view.subscribed.insert(name.clone()), "is subscribed");
                view.owed.remove(&name);
            }
        }
        assert!(view.all || !view.everything, "everything");
        true
    }

    fn respond(&mut self, kind: ResourceType, rng: &mut fastrand::Rng) {
        // One at a time, as the loop does it.
        if self.applied.is_some() || !self.of(kind).asked || self.machine.backlog() > 16 {
            return;
        }
        self.counter += 1;
        let (version, nonce) = (format!("v{}", self.counter), format!("n{}", self.counter));
        let (mut given, mut gone) = (Vec::new(), Vec::new());
        for name in NAMES {
            match rng.u32(..4) {
                0 => given.push(name),
                1 => gone.push(name),
                _ => {}
            }
        }
        let broken = rng.u32(..5) == 0;
        if broken {
            gone.extend(["a", "a"]);
            given = vec!["a"];
        }
        let response = response(kind, &nonce, &version, &given, &gone);
        let received = self.machine.receive(response, Instant::now());
        let view = self.of(kind);
        view.open.insert(nonce.clone(), broken);
        match received {
            Received::Deliver(update) => {
                assert!(!broken);
                assert_eq!(update.extent, Extent::Incremental);
                let wanted = |of: &[&str]| -> Vec<String> {
                    let wanted = of.iter().filter(|name| view.wants(name));
                    wanted.map(|&name| name.to_owned()).collect()
                };
                let (names, removed) = (wanted(&given), wanted(&gone));
                assert_eq!(update.upserts.len(), names.len());
                assert_eq!(update.removals, removed);
                self.applied = Some(Applied {
                    kind,
                    nonce,
                    version,
                    names,
                    removed,
                });
            }
            Received::Answered(answered) => assert_eq!(answered.result.is_err(), broken),
            Received::Ignored => panic!("it was asked for"),
        }
    }

    fn settle(&mut self, rng: &mut fastrand::Rng) {
        let Some(applied) = self.applied.take() else {
            assert_eq!(self.machine.outcome(&accepted()), None);
            return;
        };
        let bad = rng.bool();
        let kind = applied.kind;
        let outcome = if bad {
            refused(kind, &["a"])
        } else {
            accepted()
        };
        let answered = self.machine.outcome(&outcome).unwrap();
        assert_eq!(answered.result.is_err(), bad);
        let view = self.of(kind);
        view.open.insert(applied.nonce, bad);
        for name in applied.removed {
            view.held.remove(&name);
        }
        for name in applied.names {
            if view.wants(&name) && !(bad && name == "a") {
                view.held.insert(name, applied.version.clone());
            }
        }
    }

    /// With nothing left to do, the server knows what is wanted and how its responses were taken.
    fn agree(&mut self, rng: &mut fastrand::Rng) {
        self.settle(rng);
        let mut requests = 0;
        while self.request() {
            requests += 1;
            assert!(requests < 100, "requests without end");
        }
        assert_eq!(self.machine.backlog(), 0);
        for (kind, view) in &self.views {
            assert!(view.open.is_empty(), "{kind}: {:?} unanswered", view.open);
            assert!(
                view.owed.is_empty(),
                "{kind}: {:?} not asked for",
                view.owed
            );
            assert_eq!(view.subscribed, view.names, "{kind}");
            assert_eq!(view.everything, view.all, "{kind}");
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
