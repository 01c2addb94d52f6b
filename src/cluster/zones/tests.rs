use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_xds::resource::load_assignment::{Endpoint as Model, EndpointHealth};
use causeway_xds::resource::{Address, LoadAssignment, load_assignment};

use super::*;
use crate::cluster::Recipe;
use crate::config::bootstrap::{Runtime, RuntimeLayer};

const GOOD: EndpointHealth = EndpointHealth::Healthy;
const BAD: EndpointHealth = EndpointHealth::Unhealthy;

fn zone(name: &str) -> Locality {
    Locality {
        zone: name.to_owned(),
        ..Locality::default()
    }
}

/// An assignment with so many endpoints in each zone, and of this health.
fn assignment(zones: &[(&str, u16, EndpointHealth)]) -> LoadAssignment {
    let mut port = 0;
    let localities = zones.iter().map(|(name, count, health)| {
        let endpoints = (0..*count).map(|_| {
            port += 1;
            Arc::new(Model {
                health: *health,
                ..Model::at(Address::Socket(([127, 0, 0, 1], port).into()))
            })
        });
        load_assignment::LocalityEndpoints {
            locality: Arc::new(zone(name)),
            priority: 0,
            weight: 0,
            socket_labels: Default::default(),
            endpoints: endpoints.collect(),
        }
    });
    LoadAssignment {
        localities: localities.collect(),
        ..LoadAssignment::empty("c")
    }
}

fn layers() -> Layers {
    Layers::new(Runtime {
        layers: vec![RuntimeLayer {
            name: "admin".into(),
            admin: true,
            values: Default::default(),
        }],
    })
}

fn small() -> Balancing {
    let mut balancing = Balancing::default();
    balancing.zones.least = 1;
    balancing
}

fn peers(home: &Home, zones: &[(&str, u16, EndpointHealth)]) -> Peers {
    let plain = Balancing::default();
    let set = EndpointSet::build(
        &assignment(zones),
        &Recipe::plain(&plain),
        &EndpointSet::default(),
    );
    home.peers(&set)
}

/// Of 10,000 choices how many went to each zone, and what they came to.
fn counts(
    peers: &Peers,
    zones: &[(&str, u16, EndpointHealth)],
    balancing: &Balancing,
) -> (BTreeMap<String, u64>, Vec<(Step, u64)>, Outcome) {
    let assignment = assignment(zones);
    let recipe = Recipe {
        peers: Some(peers),
        ..Recipe::plain(balancing)
    };
    let set = EndpointSet::build(&assignment, &recipe, &EndpointSet::default());
    let (mut by_zone, mut steps) = (BTreeMap::new(), Vec::<(Step, u64)>::new());
    for _ in 0..WHOLE {
        let chosen = set.selection().choose(set.all(), &balancing.policy, None);
        match steps.iter_mut().find(|(step, _)| *step == chosen.zone) {
            Some((_, count)) => *count += 1,
            None => steps.push((chosen.zone, 1)),
        }
        let Some(place) = chosen.place else { continue };
        let zone = &set.all()[place as usize].attributes.locality.zone;
        *by_zone.entry(zone.clone()).or_default() += 1;
    }
    (by_zone, steps, set.selection().zones)
}

fn at(name: &str) -> Home {
    Home::new("proxies".into(), Some(zone(name)), &layers())
}

#[test]
fn a_zone_with_its_share_of_endpoints_keeps_all_requests() {
    let peers = peers(&at("a"), &[("a", 2, GOOD), ("b", 2, GOOD)]);
    let there = [("b", 2, GOOD), ("a", 2, GOOD), ("c", 0, GOOD)];
    let (by_zone, steps, outcome) = counts(&peers, &there, &small());
    assert_eq!(by_zone, BTreeMap::from([("a".to_owned(), WHOLE)]));
    assert_eq!(steps, [(Step::AllAtHome, WHOLE)]);
    assert_eq!(outcome, Outcome::ByZone);
}

/// As in Envoy's manual: a zone with 40 % of the proxies and 25 % of the endpoints sends 62.5 % of its
/// requests to itself, and the rest where there is room: 10 % and 5 %.
#[test]
fn what_a_zone_cannot_take_goes_where_there_is_room() {
    let peers = peers(&at("a"), &[("a", 4, GOOD), ("b", 4, GOOD), ("c", 2, GOOD)]);
    let there = [("a", 5, GOOD), ("b", 10, GOOD), ("c", 5, GOOD)];
    let (by_zone, steps, _) = counts(&peers, &there, &small());
    let near = |zone: &str, expected: u64| {
        // Six deviations at most.
        assert!(by_zone[zone].abs_diff(expected) < 300, "{by_zone:?}");
    };
    near("a", 6_250);
    near("b", 2_500);
    near("c", 1_250);
    let of = |wanted| steps.iter().find(|(step, _)| *step == wanted).unwrap().1;
    assert_eq!(of(Step::SomeAtHome), by_zone["a"]);
    assert_eq!(of(Step::Elsewhere), by_zone["b"] + by_zone["c"]);
    // Somebody without endpoints in its own zone has no room there.
    let (by_zone, _, _) = counts(&peers, &[("b", 6, GOOD), ("c", 4, GOOD)], &small());
    near_to(&by_zone, "b", 5_000);
    near_to(&by_zone, "c", 5_000);
}

fn near_to(by_zone: &BTreeMap<String, u64>, zone: &str, expected: u64) {
    assert!(by_zone[zone].abs_diff(expected) < 300, "{by_zone:?}");
}

#[test]
fn only_healthy_endpoints_and_proxies_count() {
    let home = at("a");
    let peers = peers(
        &home,
        &[
            ("a", 1, GOOD),
            ("a", 1, BAD),
            ("b", 3, GOOD),
            ("b", 1, GOOD),
        ],
    );
    // A fifth of the proxies, and a quarter of the endpoints.
    let there = [("a", 1, GOOD), ("a", 3, BAD), ("b", 3, GOOD)];
    let mut balancing = small();
    balancing.panic_threshold = 0.0;
    let (by_zone, _, _) = counts(&peers, &there, &balancing);
    assert_eq!(by_zone, BTreeMap::from([("a".to_owned(), WHOLE)]));
}

#[test]
fn zones_have_no_say_without_something_to_compare() {
    let (two, there) = (
        [("a", 2, GOOD), ("b", 2, GOOD)],
        [("a", 2, GOOD), ("b", 2, GOOD)],
    );
    let outcome = |home: &Home, proxies: &[_], there: &[_], balancing: &Balancing| {
        let (_, steps, outcome) = counts(&peers(home, proxies), there, balancing);
        assert_eq!(steps, [(Step::None, WHOLE)]);
        outcome
    };
    let home = at("a");
    // Six endpoints are the least.
    let plain = Balancing::default();
    assert_eq!(outcome(&home, &two, &there, &plain), Outcome::TooSmall);
    let one = [("a", 9, GOOD)];
    assert_eq!(outcome(&home, &two, &one, &small()), Outcome::OneZone);
    assert_eq!(outcome(&home, &one, &there, &small()), Outcome::OneZone);
    assert_eq!(
        outcome(&at("z"), &two, &there, &small()),
        Outcome::NotAtHome
    );
    let nowhere = Home::new("proxies".into(), None, &layers());
    assert_eq!(
        outcome(&nowhere, &two, &there, &small()),
        Outcome::NotAtHome
    );
    let mut off = small();
    off.zones.percent = 0;
    assert_eq!(outcome(&home, &two, &there, &off), Outcome::ByZone);
    let weighted = Balancing {
        by_locality: true,
        ..small()
    };
    assert_eq!(outcome(&home, &two, &there, &weighted), Outcome::Unaware);
}

#[test]
fn the_runtime_overrides_share_and_least_size() {
    let layers = layers();
    let home = Home::new("proxies".into(), Some(zone("a")), &layers);
    let peers = peers(&home, &[("a", 2, GOOD), ("b", 2, GOOD)]);
    let there = [("a", 2, GOOD), ("b", 2, GOOD)];
    let set = |name: &str, value: &str| {
        let name = format!("upstream.zone_routing.{name}");
        layers.modify([(name, value.to_owned())]).unwrap();
    };
    set("min_cluster_size", "4");
    let (by_zone, _, _) = counts(&peers, &there, &Balancing::default());
    assert_eq!(by_zone.len(), 1);
    set("enabled", "40");
    let (_, steps, _) = counts(&peers, &there, &Balancing::default());
    let by_zone = steps.iter().find(|(s, _)| *s == Step::AllAtHome).unwrap().1;
    assert!(by_zone.abs_diff(4_000) < 300, "{steps:?}");
}

#[test]
fn proxies_in_panic_are_nothing_to_go_by() {
    let peers = peers(&at("a"), &[("a", 1, GOOD), ("b", 2, BAD)]);
    let there = [("a", 2, GOOD), ("b", 2, GOOD)];
    let (by_zone, steps, _) = counts(&peers, &there, &small());
    assert_eq!(steps, [(Step::PeersInPanic, WHOLE)]);
    assert_eq!(by_zone.len(), 2);
    let mut failing = small();
    failing.fail_on_panic = true;
    let (by_zone, steps, _) = counts(&peers, &there, &failing);
    assert_eq!(steps, [(Step::PeersInPanic, WHOLE)]);
    assert!(by_zone.is_empty());
}

#[test]
fn the_own_zone_may_be_forced_as_long_as_it_has_enough() {
    let peers = peers(&at("a"), &[("a", 9, GOOD)]);
    let there = [("a", 2, GOOD), ("b", 8, GOOD)];
    let mut balancing = small();
    balancing.zones.all_at_home = Some(2);
    let (by_zone, _, _) = counts(&peers, &there, &balancing);
    assert_eq!(by_zone, BTreeMap::from([("a".to_owned(), WHOLE)]));
    balancing.zones.all_at_home = Some(3);
    let (by_zone, _, _) = counts(&peers, &there, &balancing);
    near_to(&by_zone, "a", 2_000);
}

#[test]
fn steps_and_outcomes_are_counted_under_their_names() {
    let stats = ClusterStats::default();
    Step::NoRoom.count(&stats);
    Step::PeersInPanic.count(&stats);
    Outcome::TooSmall.count(&stats);
    Outcome::NotAtHome.count(&stats);
    Outcome::Unaware.count(&stats);
    assert_eq!(stats.lb_zone_no_capacity_left.value(), 1);
    assert_eq!(stats.lb_zone_routing_cross_zone.value(), 1);
    assert_eq!(stats.lb_zone_cluster_too_small.value(), 1);
    assert_eq!(stats.lb_local_cluster_not_ok.value(), 2);
    assert_eq!(stats.lb_recalculate_zone_structures.value(), 2);
}
