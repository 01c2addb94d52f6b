use causeway_xds::resource::cluster::{HashFunction, Hashing};

use super::*;

fn candidates(of: &[(&str, f64)]) -> Vec<Candidate> {
    let total: f64 = of.iter().map(|(_, weight)| weight).sum();
    let mut index = 0;
    of.iter()
        .map(|(key, weight)| {
            index += 1;
            Candidate {
                index: index - 1,
                key: (*key).to_owned(),
                share: weight / total,
            }
        })
        .collect()
}

fn mapped(table: &HashTable, keys: u32) -> Vec<u32> {
    (0..keys)
        .map(|n| table.get(xxh64(format!("k{n}").as_bytes(), 0)).unwrap())
        .collect()
}

const RING: RingHash = RingHash {
    minimum_size: 1024,
    maximum_size: 8 << 20,
    function: HashFunction::XxHash,
    hashing: Hashing {
        use_hostname: false,
        balance_factor: None,
    },
};
const MAGLEV: Maglev = Maglev {
    table_size: 65_537,
    hashing: RING.hashing,
};

/// How many of `after` stand elsewhere, the endpoint that is gone apart.
fn moved(before: &[u32], after: &[u32], gone: u32) -> usize {
    let pairs = before.iter().zip(after);
    pairs.filter(|(b, a)| **b != gone && b != a).count()
}

#[test]
fn a_ring_maps_as_envoy_does() {
    // Observed of Envoy 1.40 with these keys.
    let table = HashTable::ring(
        &candidates(&[("node-a", 1.0), ("node-b", 1.0), ("node-c", 1.0)]),
        &RING,
    );
    assert_eq!(mapped(&table, 12), [0, 1, 1, 2, 1, 1, 1, 2, 0, 0, 1, 1]);
}

#[test]
fn a_weighted_ring_has_points_in_proportion() {
    let table = HashTable::ring(&candidates(&[("a", 1.0), ("b", 3.0)]), &RING);
    let HashTable::Ring(points) = &table else {
        panic!("not a ring")
    };
    assert_eq!(points.len(), 1024);
    assert_eq!(points.iter().filter(|(_, index)| *index == 0).count(), 256);
    assert!(points.is_sorted_by_key(|(hash, _)| *hash));
}

#[test]
fn a_ring_stays_below_its_bound() {
    let small = RingHash {
        maximum_size: 10,
        minimum_size: 10,
        ..RING
    };
    let HashTable::Ring(points) = HashTable::ring(&candidates(&[("a", 1.0), ("b", 99.0)]), &small)
    else {
        panic!("not a ring")
    };
    assert_eq!(points.len(), 10);
}

#[test]
fn maglev_maps_as_envoy_does_whatever_the_order_of_the_list() {
    let config = Maglev {
        table_size: 251,
        ..MAGLEV
    };
    let of = |names: [&str; 3]| candidates(&names.map(|name| (name, 1.0)));
    let table = HashTable::maglev(&of(["one", "two", "three"]), &config);
    assert_eq!(mapped(&table, 12), [0, 2, 1, 1, 0, 0, 2, 1, 2, 1, 0, 1]);
    let other = HashTable::maglev(&of(["three", "one", "two"]), &config);
    let names = |picked: Vec<u32>, names: [&'static str; 3]| -> Vec<&str> {
        picked.into_iter().map(|i| names[i as usize]).collect()
    };
    assert_eq!(
        names(mapped(&table, 100), ["one", "two", "three"]),
        names(mapped(&other, 100), ["three", "one", "two"])
    );
}

#[test]
fn tables_follow_weights() {
    let weighted = candidates(&[("a", 1.0), ("b", 3.0)]);
    for table in [
        HashTable::ring(&weighted, &RING),
        HashTable::maglev(&weighted, &MAGLEV),
    ] {
        let first = mapped(&table, 10_000).iter().filter(|i| **i == 0).count();
        assert!((2_000..3_000).contains(&first), "{first}");
    }
}

#[test]
fn who_stays_keeps_nearly_all_of_its_users() {
    let names: Vec<String> = (0..10).map(|n| format!("10.0.0.{n}:80")).collect();
    let all: Vec<(&str, f64)> = names.iter().map(|n| (n.as_str(), 1.0)).collect();
    let ring = |of: &[(&str, f64)]| mapped(&HashTable::ring(&candidates(of), &RING), 10_000);
    let maglev = |of: &[(&str, f64)]| mapped(&HashTable::maglev(&candidates(of), &MAGLEV), 10_000);
    // Of the 1,030 points nine tenths stay where they were, and each endpoint gets eleven more.
    let elsewhere = moved(&ring(&all), &ring(&all[..9]), 9);
    assert!(elsewhere < 1_000, "{elsewhere}");
    let elsewhere = moved(&maglev(&all), &maglev(&all[..9]), 9);
    assert!(elsewhere < 500, "{elsewhere}");
}

#[test]
fn nobody_is_chosen_of_nobody() {
    assert_eq!(HashTable::ring(&[], &RING).get(7), None);
    assert_eq!(HashTable::maglev(&[], &MAGLEV).get(7), None);
}

#[test]
fn points_by_murmur_stand_elsewhere() {
    let candidates = candidates(&[("a", 1.0), ("b", 1.0)]);
    let murmur = RingHash {
        function: HashFunction::MurmurHash2,
        ..RING
    };
    let HashTable::Ring(points) = HashTable::ring(&candidates, &murmur) else {
        panic!("not a ring")
    };
    assert_eq!(points.len(), 1024);
    assert!(points.iter().any(|(hash, _)| *hash == murmur_hash(b"a_17")));
}
