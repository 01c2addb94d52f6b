use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::extension::{TypedExtension, Unchecked};
use crate::proto::{self, Any};
use crate::reject::Invalid;
use crate::source::{Extent, Update};
use crate::type_url::pack;

fn server(name: &str) -> Origin {
    Origin::Xds(name.into())
}

/// A cluster whose content is told apart by its statistics name.
fn cluster(name: &str, content: &str) -> Any {
    pack(&proto::Cluster {
        name: name.into(),
        alt_stat_name: content.into(),
        ..Default::default()
    })
}

/// As [`cluster`], but refused.
fn bad(name: &str) -> Any {
    pack(&proto::Cluster {
        name: name.into(),
        lb_policy: 6,
        ..Default::default()
    })
}

fn update(origin: &Origin, extent: Extent, upserts: Vec<Any>) -> Update {
    Update {
        origin: origin.clone(),
        kind: ResourceType::Cluster,
        version: "1".into(),
        extent,
        upserts,
        listing: None,
        removals: Vec::new(),
    }
}

fn removal(origin: &Origin, name: &str) -> Update {
    Update {
        removals: vec![name.into()],
        ..update(origin, Extent::Incremental, vec![])
    }
}

fn apply(store: &mut ResourceStore, updates: Vec<Update>, on_rejection: OnRejection) -> Applied {
    let mut batch = Batch {
        touched: Vec::new(),
        on_rejection,
        ..Batch::new(updates)
    };
    store.apply(&mut batch, &Unchecked, SystemTime::UNIX_EPOCH)
}

fn put(store: &mut ResourceStore, origin: &Origin, upserts: Vec<Any>) -> Applied {
    let update = update(origin, Extent::Incremental, upserts);
    apply(store, vec![update], OnRejection::ApplyOthers)
}

fn state(store: &mut ResourceStore, origin: &Origin, upserts: Vec<Any>) -> Applied {
    let update = update(origin, Extent::StateOfTheWorld, upserts);
    apply(store, vec![update], OnRejection::ApplyOthers)
}

fn names(list: &[(ResourceType, String)]) -> Vec<&str> {
    list.iter().map(|(_, name)| name.as_str()).collect()
}

/// `+added ~changed -removed`, sorted.
fn summary(applied: &Applied) -> String {
    let Changes {
        added,
        changed,
        removed,
    } = &applied.changes;
    let parts = [("+", added), ("~", changed), ("-", removed)];
    let parts = parts.iter().flat_map(|(sign, list)| {
        names(list)
            .into_iter()
            .map(move |name| format!("{sign}{name}"))
    });
    parts.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_kinds_index_the_store() {
    for (index, kind) in ResourceType::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index);
    }
}

#[test]
fn equal_content_is_no_change() {
    let (mut store, origin) = (ResourceStore::new(), server("a"));
    assert_eq!(
        summary(&put(&mut store, &origin, vec![cluster("x", "1")])),
        "+x"
    );
    assert_eq!(
        summary(&put(&mut store, &origin, vec![cluster("x", "1")])),
        ""
    );
    assert_eq!(
        summary(&put(&mut store, &origin, vec![cluster("x", "2")])),
        "~x"
    );

    // Other bytes, same meaning: what is ignored makes no difference, but is kept for the dump.
    let mut message = proto::Cluster {
        name: "x".into(),
        alt_stat_name: "2".into(),
        ..Default::default()
    };
    message.track_cluster_stats = Some(Default::default());
    let before = store.get(ResourceType::Cluster, "x").unwrap().clone();
    assert_eq!(summary(&put(&mut store, &origin, vec![pack(&message)])), "");
    let entry = store.entry(ResourceType::Cluster, "x").unwrap();
    let accepted = entry.accepted.as_ref().unwrap();
    assert!(accepted.resource.shares_with(&before));
    assert_eq!(accepted.ignored(), ["Cluster.track_cluster_stats"]);
    assert_eq!(accepted.raw.any(), pack(&message));
}

#[test]
fn strictness_refuses_what_has_no_effect_unless_it_is_our_own() {
    struct Strict;
    impl Extensions for Strict {
        fn is_strict(&self) -> bool {
            true
        }
        fn check_http_filter(&self, _: &TypedExtension) -> Result<(), Invalid> {
            Ok(())
        }
        fn check_per_route(&self, _: &str, _: &TypedExtension) -> Result<(), Invalid> {
            Ok(())
        }
    }
    let message = proto::Cluster {
        name: "x".into(),
        track_cluster_stats: Some(Default::default()),
        ..Default::default()
    };
    let mut store = ResourceStore::new();
    let mut play = |origin: Origin, upserts: Vec<Any>| {
        let update = update(&origin, Extent::Incremental, upserts);
        store.apply(
            &mut Batch::new(vec![update]),
            &Strict,
            SystemTime::UNIX_EPOCH,
        )
    };
    let applied = play(server("a"), vec![pack(&message), cluster("y", "1")]);
    assert_eq!(summary(&applied), "+y");
    assert_eq!(
        applied.rejected[0].to_string(),
        "cluster \"x\": Cluster.track_cluster_stats would have no effect"
    );
    assert_eq!(
        summary(&play(Origin::Coordinator, vec![pack(&message)])),
        "+x"
    );
}

#[test]
fn a_refused_version_leaves_the_accepted_one_in_force() {
    let (mut store, origin) = (ResourceStore::new(), server("a"));
    put(&mut store, &origin, vec![cluster("x", "1")]);
    let applied = put(
        &mut store,
        &origin,
        vec![bad("x"), cluster("y", "1"), bad("z")],
    );
    assert_eq!(summary(&applied), "+y");
    let refused: Vec<_> = applied.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        refused,
        [
            "cluster \"x\": lb_policy: CLUSTER_PROVIDED does not fit the type of the cluster",
            "cluster \"z\": lb_policy: CLUSTER_PROVIDED does not fit the type of the cluster",
        ]
    );
    let entry = store.entry(ResourceType::Cluster, "x").unwrap();
    assert!(entry.accepted.is_some() && entry.rejected().is_some());
    assert!(store.get(ResourceType::Cluster, "z").is_none());
    assert!(
        store
            .entry(ResourceType::Cluster, "z")
            .unwrap()
            .rejected()
            .is_some()
    );
    assert_eq!(store.count(ResourceType::Cluster), 2);

    // The accepted version again: forgiven without a change.
    assert_eq!(
        summary(&put(&mut store, &origin, vec![cluster("x", "1")])),
        ""
    );
    assert_eq!(
        store.entry(ResourceType::Cluster, "x").unwrap().rejected(),
        None
    );
}

#[test]
fn state_of_the_world_removes_what_it_does_not_name() {
    let (mut store, a, b) = (ResourceStore::new(), server("a"), server("b"));
    put(&mut store, &b, vec![cluster("other", "1")]);
    state(
        &mut store,
        &a,
        vec![cluster("x", "1"), cluster("y", "1"), bad("never")],
    );
    // `y` is there but refused, so it stays; `x` and the refusal of `never` go.
    let applied = state(&mut store, &a, vec![bad("y")]);
    assert_eq!(summary(&applied), "-x");
    assert!(store.get(ResourceType::Cluster, "y").is_some());
    assert!(store.entry(ResourceType::Cluster, "never").is_none());
    assert!(store.get(ResourceType::Cluster, "other").is_some());
    assert_eq!(summary(&state(&mut store, &a, vec![])), "-y");
}

#[test]
fn nothing_is_removed_when_a_name_cannot_be_read() {
    let (mut store, origin) = (ResourceStore::new(), server("a"));
    state(
        &mut store,
        &origin,
        vec![cluster("x", "1"), cluster("y", "1")],
    );
    let broken = Any {
        value: vec![0x0a, 0xff],
        ..cluster("x", "1")
    };
    let wrong = pack(&proto::Listener {
        name: "x".into(),
        ..Default::default()
    });
    let applied = state(&mut store, &origin, vec![broken, wrong, cluster("y", "2")]);
    assert_eq!(summary(&applied), "~y");
    assert_eq!(
        applied.rejected[0].to_string(),
        "cluster \"\": bytes do not parse"
    );
    assert_eq!(
        applied.rejected[1].to_string(),
        "cluster \"\": is of type \"type.googleapis.com/envoy.config.listener.v3.Listener\" \
         among resources of type cluster"
    );
    let unnamed = put(&mut store, &origin, vec![cluster("", "1")]);
    assert_eq!(
        unnamed.rejected[0].to_string(),
        "cluster \"\": name: must not be empty"
    );
}

#[test]
fn a_name_belongs_to_who_had_it_first() {
    let (mut store, a, b) = (ResourceStore::new(), server("a"), server("b"));
    // A refusal gives no claim.
    put(&mut store, &a, vec![bad("x")]);
    assert_eq!(summary(&put(&mut store, &b, vec![cluster("x", "b")])), "+x");
    let applied = put(&mut store, &a, vec![cluster("x", "a")]);
    assert_eq!(summary(&applied), "");
    assert_eq!(
        applied.rejected[0].to_string(),
        "cluster \"x\": the name is owned by xds:b"
    );
    // The clash does not blemish the owner.
    assert_eq!(
        store.entry(ResourceType::Cluster, "x").unwrap().rejected(),
        None
    );
    // Nor can the newcomer remove it.
    assert_eq!(
        summary(&apply(
            &mut store,
            vec![removal(&a, "x")],
            OnRejection::ApplyOthers
        )),
        ""
    );
    // Handed over in one batch with the same content: nothing changes for anybody else.
    let hand_over = vec![
        removal(&b, "x"),
        update(&a, Extent::Incremental, vec![cluster("x", "b")]),
    ];
    assert_eq!(
        summary(&apply(&mut store, hand_over, OnRejection::ApplyOthers)),
        ""
    );
    let entry = store.entry(ResourceType::Cluster, "x").unwrap();
    assert_eq!(entry.accepted.as_ref().unwrap().origin, a);
}

#[test]
fn reserved_names_are_the_coordinators() {
    let mut store = ResourceStore::new();
    for name in [
        "slot/10205",
        "circuit/1",
        "wildcard",
        "path",
        "wildcard/app-1",
        "path/x",
    ] {
        assert!(is_reserved(name), "{name}");
        let applied = put(&mut store, &server("a"), vec![cluster(name, "1")]);
        let reason = applied.rejected[0].invalid.to_string();
        assert_eq!(reason, "is a name that is reserved for the Coordinator");
        let applied = put(&mut store, &Origin::Coordinator, vec![cluster(name, "1")]);
        assert_eq!(names(&applied.changes.added), [name]);
    }
    for name in ["slot", "circuit", "wildcards", "pathological/x", "slots/1"] {
        assert!(!is_reserved(name), "{name}");
    }
}

#[test]
fn a_name_given_twice_is_refused_once_and_keeps_its_version() {
    let (mut store, origin) = (ResourceStore::new(), server("a"));
    put(&mut store, &origin, vec![cluster("x", "1")]);
    let twice = vec![cluster("x", "2"), cluster("y", "1"), cluster("x", "3")];
    let applied = state(&mut store, &origin, twice);
    assert_eq!(summary(&applied), "+y");
    assert_eq!(applied.rejected.len(), 1);
    assert_eq!(
        applied.rejected[0].to_string(),
        "cluster \"x\": is named twice in one update"
    );
    let Some(Resource::Cluster(kept)) = store.get(ResourceType::Cluster, "x") else {
        panic!()
    };
    assert_eq!(kept.alt_stat_name, "1");
}

#[test]
fn apply_nothing_leaves_no_trace() {
    let (mut store, origin) = (ResourceStore::new(), server("a"));
    put(&mut store, &origin, vec![cluster("x", "1"), bad("y")]);
    let before = dump(&store);
    let updates = vec![
        update(
            &origin,
            Extent::StateOfTheWorld,
            vec![cluster("x", "2"), cluster("n", "1")],
        ),
        update(
            &origin,
            Extent::Incremental,
            vec![cluster("y", "1"), bad("z")],
        ),
    ];
    let applied = apply(&mut store, updates, OnRejection::ApplyNothing);
    assert_eq!(
        (summary(&applied).as_str(), applied.rejected.len()),
        ("", 1)
    );
    assert_eq!(dump(&store), before);
    check_index(&store);
}

/// Everything in the store, comparable.
fn dump(store: &ResourceStore) -> BTreeMap<String, Entry> {
    let entries = store.entries(ResourceType::Cluster);
    entries
        .map(|(name, entry)| (name.to_owned(), entry.clone()))
        .collect()
}

/// The index by origin and the count say what the entries say.
fn check_index(store: &ResourceStore) {
    let kind = store.of(ResourceType::Cluster);
    let mut expected: Map<Origin, HashSet<Arc<str>, ahash::RandomState>> = Map::default();
    for (name, entry) in &kind.entries {
        assert!(!entry.is_empty(), "{name}");
        for origin in entry.origins() {
            expected
                .entry(origin.clone())
                .or_default()
                .insert(name.clone());
        }
    }
    assert_eq!(kind.by_origin, expected);
    assert_eq!(kind.accepted, store.iter(ResourceType::Cluster).count());
}

/// SplitMix64: enough for a test, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A plain model of the store: owner and content by name.
type Model = BTreeMap<String, (Origin, String)>;

/// What a random update should do to the model.
fn play(model: &mut Model, update: &Update, contents: &[(String, Option<String>)]) -> bool {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    contents
        .iter()
        .for_each(|(name, _)| *count.entry(name).or_default() += 1);
    let mut refused = false;
    for (name, content) in contents {
        let owned_by_other = model
            .get(name)
            .is_some_and(|(owner, _)| *owner != update.origin);
        let reserved = is_reserved(name) && update.origin != Origin::Coordinator;
        match content {
            Some(content) if count[name.as_str()] == 1 && !owned_by_other && !reserved => {
                model.insert(name.clone(), (update.origin.clone(), content.clone()));
            }
            _ => refused = true,
        }
    }
    for name in &update.removals {
        if model
            .get(name)
            .is_some_and(|(owner, _)| *owner == update.origin)
        {
            model.remove(name);
        }
    }
    if update.extent == Extent::StateOfTheWorld {
        model.retain(|name, (owner, _)| {
            *owner != update.origin || count.contains_key(name.as_str())
        });
    }
    refused
}

fn random_update(random: &mut Random) -> (Update, Vec<(String, Option<String>)>) {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "slot/1", "wildcard"];
    let origins = [server("one"), server("two"), Origin::Coordinator];
    let pick = |random: &mut Random| NAMES[random.below(NAMES.len() as u64) as usize].to_owned();
    let origin = origins[random.below(3) as usize].clone();
    let extent = match random.below(3) {
        0 => Extent::StateOfTheWorld,
        _ => Extent::Incremental,
    };
    let contents: Vec<_> = (0..random.below(4))
        .map(|_| {
            let name = pick(random);
            let content = (random.below(5) > 0).then(|| random.below(3).to_string());
            (name, content)
        })
        .collect();
    let upserts = contents
        .iter()
        .map(|(name, content)| {
            content
                .as_ref()
                .map_or_else(|| bad(name), |c| cluster(name, c))
        })
        .collect();
    let mut update = update(&origin, extent, upserts);
    update.removals = (0..random.below(2)).map(|_| pick(random)).collect();
    update.version = random.below(1000).to_string();
    (update, contents)
}

#[test]
fn random_sequences_agree_with_a_plain_model() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let (mut store, mut model) = (ResourceStore::new(), Model::new());
        for step in 0..60 {
            let before = model.clone();
            let earlier = dump(&store);
            let (mut updates, mut refused) = (Vec::new(), false);
            for _ in 0..=random.below(2) {
                let (update, contents) = random_update(&mut random);
                refused |= play(&mut model, &update, &contents);
                updates.push(update);
            }
            let on_rejection = match random.below(3) {
                0 => OnRejection::ApplyNothing,
                _ => OnRejection::ApplyOthers,
            };
            let applied = apply(&mut store, updates.clone(), on_rejection);
            let case = format!("seed {seed}, step {step}: {updates:?}");

            assert_eq!(refused, !applied.rejected.is_empty(), "{case}");
            if refused && on_rejection == OnRejection::ApplyNothing {
                model = before.clone();
                assert_eq!(dump(&store), earlier, "{case}");
            }
            check_index(&store);
            assert_eq!(contents_of(&store), model, "{case}");
            assert_eq!(applied.changes, expected_changes(&before, &model), "{case}");

            // The same again changes nothing but what the batch itself takes back and forth.
            if updates.len() == 1 && updates[0].removals.is_empty() {
                let again = apply(&mut store, updates, on_rejection);
                assert!(again.changes.is_empty(), "{case}");
                check_index(&store);
            }
        }
    }
}

fn contents_of(store: &ResourceStore) -> Model {
    let entries = store.entries(ResourceType::Cluster);
    let accepted = entries.filter_map(|(name, entry)| Some((name, entry.accepted.as_ref()?)));
    accepted
        .map(|(name, accepted)| {
            let Resource::Cluster(cluster) = &accepted.resource else {
                panic!()
            };
            (
                name.to_owned(),
                (accepted.origin.clone(), cluster.alt_stat_name.clone()),
            )
        })
        .collect()
}

fn expected_changes(before: &Model, after: &Model) -> Changes {
    let mut changes = Changes::default();
    let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in all {
        let list = match (before.get(name), after.get(name)) {
            (None, Some(_)) => &mut changes.added,
            (Some(_), None) => &mut changes.removed,
            // A new owner with the same content is no change.
            (Some((_, a)), Some((_, b))) if a != b => &mut changes.changed,
            _ => continue,
        };
        list.push((ResourceType::Cluster, name.clone()));
    }
    changes
}

#[test]
fn time_is_that_of_the_content() {
    let (mut store, origin) = (ResourceStore::new(), server("a"));
    let mut at = |seconds, content: &str, version: &str| {
        let mut update = update(&origin, Extent::Incremental, vec![cluster("x", content)]);
        update.version = version.into();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        store.apply(&mut Batch::new(vec![update]), &Unchecked, now);
        let accepted = store
            .entry(ResourceType::Cluster, "x")
            .unwrap()
            .accepted
            .clone()
            .unwrap();
        let since = accepted
            .since
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        (since.as_secs(), accepted.version.clone())
    };
    assert_eq!(at(1, "a", "v1"), (1, "v1".into()));
    assert_eq!(at(2, "a", "v2"), (1, "v2".into()));
    assert_eq!(at(3, "b", "v3"), (3, "v3".into()));
}
