use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_xds::resource::Address;
use causeway_xds::resource::cluster::{HashFunction, Hashing, Maglev, RingHash, SlowStart};
use causeway_xds::resource::load_assignment::{
    Endpoint as Model, EndpointHealth, LocalityEndpoints,
};

use super::*;
use crate::cluster::{EndpointSet, Recipe};

const HEALTHY: EndpointHealth = EndpointHealth::Healthy;
const UNHEALTHY: EndpointHealth = EndpointHealth::Unhealthy;

fn group(priority: u32, weight: u32, ports: &[(u16, EndpointHealth)]) -> LocalityEndpoints {
    let endpoint = |(port, health): &(u16, EndpointHealth)| {
        Arc::new(Model {
            health: *health,
            ..Model::at(Address::Socket(([127, 0, 0, 1], *port).into()))
        })
    };
    LocalityEndpoints {
        locality: Default::default(),
        priority,
        weight,
        socket_labels: Default::default(),
        endpoints: ports.iter().map(endpoint).collect(),
    }
}

fn assignment(localities: Vec<LocalityEndpoints>) -> LoadAssignment {
    LoadAssignment {
        localities,
        ..LoadAssignment::empty("c")
    }
}

/// How often each port comes up, and how often in panic.
fn counts(
    assignment: &LoadAssignment,
    balancing: &Balancing,
    rounds: u32,
) -> (BTreeMap<u16, u32>, u32) {
    let set = EndpointSet::build(
        assignment,
        &Recipe::plain(balancing),
        &EndpointSet::default(),
    );
    let selection = Selection::new(set.all(), assignment, balancing, None);
    let mut counts = BTreeMap::new();
    let mut panics = 0;
    for _ in 0..rounds {
        let chosen = selection.choose(set.all(), &balancing.policy, None);
        panics += u32::from(chosen.panic);
        let Some(place) = chosen.place else { continue };
        let Address::Socket(address) = &set.all()[place as usize].attributes.address else {
            panic!("not a socket")
        };
        *counts.entry(address.port()).or_default() += 1;
    }
    (counts, panics)
}

fn policies() -> Vec<Policy> {
    vec![
        Policy::RoundRobin,
        Policy::Random,
        Policy::LeastRequest { choices: Some(2) },
        Policy::LeastRequest { choices: None },
        Policy::RingHash(RingHash {
            minimum_size: 1024,
            maximum_size: 1 << 20,
            function: HashFunction::XxHash,
            hashing: Hashing::default(),
        }),
        Policy::Maglev(Maglev {
            table_size: 251,
            hashing: Hashing::default(),
        }),
    ]
}

#[test]
fn every_policy_leaves_out_who_is_unhealthy() {
    for policy in policies() {
        let balancing = Balancing {
            policy,
            ..Balancing::default()
        };
        let of = assignment(vec![group(
            0,
            0,
            &[(1, HEALTHY), (2, UNHEALTHY), (3, HEALTHY)],
        )]);
        let (counts, panics) = counts(&of, &balancing, 400);
        assert_eq!(
            counts.keys().copied().collect::<Vec<_>>(),
            [1, 3],
            "{policy:?}"
        );
        assert!(counts.values().all(|n| *n > 80), "{policy:?}: {counts:?}");
        assert_eq!(panics, 0);
    }
}

#[test]
fn localities_share_by_weight_and_their_endpoints_evenly() {
    for policy in policies() {
        let balancing = Balancing {
            policy,
            by_locality: true,
            ..Balancing::default()
        };
        let of = assignment(vec![
            group(0, 3, &[(1, HEALTHY)]),
            group(0, 1, &[(2, HEALTHY), (3, HEALTHY)]),
        ]);
        let (counts, _) = counts(&of, &balancing, 8_000);
        let share = |port| f64::from(counts[&port]) / 8_000.0;
        assert!((share(1) - 0.75).abs() < 0.08, "{policy:?}: {counts:?}");
        assert!((share(2) - 0.125).abs() < 0.06, "{policy:?}: {counts:?}");
    }
}

#[test]
fn a_locality_that_loses_endpoints_gives_up_traffic_beyond_overprovisioning() {
    let balancing = Balancing {
        by_locality: true,
        panic_threshold: 0.0,
        ..Balancing::default()
    };
    let of = assignment(vec![
        group(
            0,
            1,
            &[(1, HEALTHY), (2, UNHEALTHY), (3, UNHEALTHY), (4, UNHEALTHY)],
        ),
        group(0, 1, &[(5, HEALTHY)]),
    ]);
    let (counts, _) = counts(&of, &balancing, 1_350);
    // 1.4 * 1/4 = 0.35 of its weight.
    assert_eq!((counts[&1], counts[&5]), (350, 1_000));
}

#[test]
fn localities_without_weights_have_no_say() {
    let balancing = Balancing {
        by_locality: true,
        ..Balancing::default()
    };
    let of = assignment(vec![
        group(0, 0, &[(1, HEALTHY)]),
        group(0, 0, &[(2, HEALTHY), (3, HEALTHY)]),
    ]);
    let (counts, _) = counts(&of, &balancing, 300);
    assert_eq!(counts, BTreeMap::from([(1, 100), (2, 100), (3, 100)]));
}

#[test]
fn in_panic_all_take_part_or_nobody() {
    let of = assignment(vec![group(
        0,
        0,
        &[(1, UNHEALTHY), (2, UNHEALTHY), (3, HEALTHY)],
    )]);
    let (all, panics) = counts(&of, &Balancing::default(), 30);
    assert_eq!(
        (all, panics),
        (BTreeMap::from([(1, 10), (2, 10), (3, 10)]), 30)
    );
    let fail = Balancing {
        fail_on_panic: true,
        ..Balancing::default()
    };
    assert_eq!(counts(&of, &fail, 30), (BTreeMap::new(), 30));
    let never = Balancing {
        panic_threshold: 0.0,
        ..Balancing::default()
    };
    assert_eq!(counts(&of, &never, 30), (BTreeMap::from([(3, 30)]), 0));
}

#[test]
fn the_next_priority_takes_over_by_shares() {
    let of = assignment(vec![
        group(1, 0, &[(3, HEALTHY)]),
        group(0, 0, &[(1, UNHEALTHY), (2, HEALTHY)]),
    ]);
    let (counts, _) = counts(&of, &Balancing::default(), 4_000);
    let share = f64::from(counts[&2]) / 4_000.0;
    assert_eq!(counts.len(), 2);
    assert!((share - 0.7).abs() < 0.05, "{counts:?}");
}

#[test]
fn a_hash_leads_to_the_same_endpoint_every_time() {
    for policy in policies().into_iter().filter(Policy::hashes) {
        let balancing = Balancing {
            policy,
            ..Balancing::default()
        };
        let of = assignment(vec![
            group(0, 0, &[(1, HEALTHY), (2, UNHEALTHY), (3, HEALTHY)]),
            group(1, 0, &[(4, HEALTHY)]),
        ]);
        let set = EndpointSet::build(&of, &Recipe::plain(&balancing), &EndpointSet::default());
        let pick = |hash| {
            let selection = set.selection();
            selection.choose(set.all(), &policy, Some(hash)).place
        };
        for hash in (0..1_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            assert_eq!(pick(hash), pick(hash));
            assert!(pick(hash).is_some());
        }
    }
}

#[test]
fn an_endpoint_with_too_many_requests_gives_up_what_is_beyond_its_part() {
    let endpoints: Vec<_> = (1..=4)
        .map(|port| (port, EndpointHealth::Healthy))
        .collect();
    let assignment = assignment(vec![group(0, 0, &endpoints)]);
    let hashing = Hashing {
        use_hostname: false,
        balance_factor: Some(150),
    };
    let bounded = Balancing {
        policy: Policy::Maglev(Maglev {
            table_size: 101,
            hashing,
        }),
        ..Balancing::default()
    };
    let set = EndpointSet::build(
        &assignment,
        &Recipe::plain(&bounded),
        &EndpointSet::default(),
    );
    let pick = |hash| {
        let chosen = set
            .selection()
            .choose(set.all(), &bounded.policy, Some(hash));
        chosen.place.unwrap()
    };
    let first = pick(7);
    let all = set.all();
    all.iter().for_each(|e| e.stats.rq_active.inc());
    assert_eq!(pick(7), first);
    // Of 7 requests and the one that comes, times 1.5, a quarter is 3.
    all[first as usize].stats.rq_active.set(4);
    let other = pick(7);
    assert_ne!(other, first);
    assert_eq!(pick(7), other, "the same one every time");
    // When all have too many, the least of them is taken.
    all.iter().for_each(|e| e.stats.rq_active.set(100));
    all[other as usize].stats.rq_active.set(99);
    for hash in 0..20 {
        let place = pick(hash) as usize;
        assert!(all[place].stats.rq_active.value() <= 100);
    }
}

#[test]
fn a_new_endpoint_gets_its_share_little_by_little() {
    let slow = Balancing {
        slow_start: Some(SlowStart {
            window: std::time::Duration::from_secs(3600),
            aggression: 1.0,
            least: 0.1,
        }),
        ..Balancing::default()
    };
    let before = assignment(vec![group(0, 0, &[(1, HEALTHY)])]);
    let after = assignment(vec![group(0, 0, &[(1, HEALTHY), (2, HEALTHY)])]);
    let first = EndpointSet::build(&before, &Recipe::plain(&slow), &EndpointSet::default());
    first.all()[0].grow_old();
    let set = EndpointSet::build(&after, &Recipe::plain(&slow), &first);
    let new = (0..2000).filter(|_| {
        let chosen = set.selection().choose(set.all(), &slow.policy, None);
        chosen.place == Some(1)
    });
    // A tenth of the weight of the other: 182 on average, with a deviation of 13.
    let new = new.count();
    assert!((90..=280).contains(&new), "{new}");
}

#[test]
fn requests_under_way_count_against_uneven_weights() {
    let least = |request_bias| Balancing {
        policy: Policy::LeastRequest { choices: Some(2) },
        request_bias,
        ..Balancing::default()
    };
    let mut of = assignment(vec![group(0, 0, &[(1, HEALTHY), (2, HEALTHY)])]);
    let picked = |of: &LoadAssignment, balancing: &Balancing| {
        let none = EndpointSet::default();
        let set = EndpointSet::build(of, &Recipe::plain(balancing), &none);
        set.all()[0].stats.rq_active.set(3);
        let choose = || {
            set.selection()
                .choose(set.all(), &balancing.policy, None)
                .place
        };
        (0..4000).filter(|_| choose() == Some(0)).count()
    };
    // With weights that are equal the less busy one is taken whenever it is drawn.
    let even = picked(&of, &least(Some(0.0)));
    assert!(even < 1_400, "{even}");
    Arc::make_mut(&mut of.localities[0].endpoints[0]).weight = 12;
    // 12 to 1, and 12 / 4 to 1: 3,692 and 3,000 on average.
    let (by_weight, by_both) = (
        picked(&of, &least(Some(0.0))),
        picked(&of, &least(Some(1.0))),
    );
    assert!((3_550..=3_850).contains(&by_weight), "{by_weight}");
    assert!((2_800..=3_200).contains(&by_both), "{by_both}");
}
