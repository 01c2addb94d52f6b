use causeway_xds::resource::config_source::ConfigSource;

use super::*;

const FETCH: Duration = Duration::from_secs(15);

fn reference(kind: ResourceType, name: &str, timeout: Duration) -> Reference {
    Reference {
        kind,
        name: name.to_owned(),
        source: ConfigSource {
            place: Place::File {
                path: "/x".into(),
                watched_directory: None,
            },
            initial_fetch_timeout: timeout,
        },
        optional: false,
    }
}

fn key(kind: ResourceType, name: &str) -> Key {
    (kind, name.to_owned())
}

fn cluster(name: &str) -> Key {
    key(ResourceType::Cluster, name)
}

fn listener(name: &str) -> Key {
    key(ResourceType::Listener, name)
}

fn eds(name: &str) -> Vec<Reference> {
    vec![reference(ResourceType::LoadAssignment, name, FETCH)]
}

fn none(_: ResourceType, _: &str) -> bool {
    false
}

fn opened() -> Warming {
    let mut warming = Warming::default();
    assert!(warming.start_listeners().is_empty());
    warming
}

#[test]
fn a_cluster_waits_for_its_assignment() {
    let now = Instant::now();
    let mut warming = opened();
    assert!(!warming.offer(&cluster("c"), &eds("s"), none, now));
    assert_eq!(warming.waits_for(&cluster("c")), ["endpoints \"s\""]);
    assert!(
        warming
            .arrived(ResourceType::LoadAssignment, "other")
            .is_empty()
    );
    assert_eq!(
        warming.arrived(ResourceType::LoadAssignment, "s"),
        [cluster("c")]
    );
    assert_eq!(warming.count(ResourceType::Cluster), 0);
    assert!(warming.waiters.is_empty());
}

#[test]
fn what_the_store_has_is_not_waited_for() {
    let mut warming = opened();
    assert!(warming.offer(&cluster("c"), &eds("s"), |_, n| n == "s", Instant::now()));
    assert!(warming.offer(&cluster("d"), &[], none, Instant::now()));
}

#[test]
fn a_wait_ends_with_its_timeout_and_zero_waits_for_ever() {
    let now = Instant::now();
    let mut warming = opened();
    warming.offer(&cluster("c"), &eds("s"), none, now);
    let for_ever = [reference(ResourceType::LoadAssignment, "t", Duration::ZERO)];
    warming.offer(&cluster("d"), &for_ever, none, now);
    assert_eq!(warming.next_deadline(), Some(now + FETCH));
    assert!(warming.expire(now + FETCH / 2).is_empty());
    // Offering it again does not give it more time.
    warming.offer(&cluster("c"), &eds("s"), none, now + FETCH / 2);
    assert_eq!(warming.expire(now + FETCH), [cluster("c")]);
    assert!(warming.expire(now + FETCH * 1000).is_empty());
    assert!(warming.is_waiting(&cluster("d")));
    assert_eq!(warming.next_deadline(), None);
}

#[test]
fn listeners_wait_for_the_first_clusters() {
    let now = Instant::now();
    let mut warming = Warming::default();
    assert!(!warming.offer(&listener("l"), &[], none, now));
    assert!(!warming.offer(&cluster("c"), &eds("s"), none, now));
    assert!(warming.start_listeners().is_empty(), "a cluster waits");
    assert_eq!(warming.waits_for(&listener("l")), ["the first clusters"]);
    warming.arrived(ResourceType::LoadAssignment, "s");
    assert_eq!(warming.start_listeners(), [listener("l")]);
    // Later clusters do not hold listeners back.
    warming.offer(&cluster("d"), &eds("t"), none, now);
    assert!(warming.offer(&listener("m"), &[], none, now));
}

#[test]
fn a_listener_waits_for_all_it_refers_to() {
    let now = Instant::now();
    let mut warming = opened();
    let needs = [
        reference(ResourceType::RouteConfiguration, "r", FETCH),
        reference(ResourceType::Secret, "k", FETCH),
        reference(ResourceType::VirtualHost, "r/", FETCH),
    ];
    assert!(!warming.offer(&listener("l"), &needs, none, now));
    assert!(
        warming
            .arrived(ResourceType::RouteConfiguration, "r")
            .is_empty()
    );
    warming.removed(&key(ResourceType::RouteConfiguration, "r"));
    assert!(warming.arrived(ResourceType::Secret, "k").is_empty());
    assert_eq!(
        warming.arrived(ResourceType::RouteConfiguration, "r"),
        [listener("l")]
    );
}

#[test]
fn a_static_secret_is_not_waited_for() {
    let mut warming = opened();
    let mut secret = reference(ResourceType::Secret, "k", FETCH);
    secret.source.place = Place::Static;
    assert!(warming.offer(&listener("l"), &[secret], none, Instant::now()));
}

#[test]
fn what_is_removed_no_longer_waits() {
    let mut warming = opened();
    warming.offer(&cluster("c"), &eds("s"), none, Instant::now());
    warming.removed(&cluster("c"));
    assert!(
        warming
            .arrived(ResourceType::LoadAssignment, "s")
            .is_empty()
    );
    assert!(warming.waiters.is_empty() && warming.waiting.is_empty());
}

/// In whatever order resources arrive, the same are in use in the end, and none before what it
/// refers to.
#[test]
fn any_order_of_arrival_ends_the_same() {
    let eds_of = |c: usize| format!("s{}", c % 3);
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let now = Instant::now();
        let mut events: Vec<Key> = (0..6)
            .map(|i| cluster(&i.to_string()))
            .chain((0..4).map(|i| listener(&i.to_string())))
            // One assignment never comes.
            .chain((0..2).map(|i| key(ResourceType::LoadAssignment, &format!("s{i}"))))
            .chain((0..4).map(|i| key(ResourceType::RouteConfiguration, &format!("r{i}"))))
            .collect();
        rng.shuffle(&mut events);
        let mut warming = Warming::default();
        let mut held: BTreeSet<Key> = BTreeSet::new();
        let mut active: BTreeSet<Key> = BTreeSet::new();
        for event in &events {
            let index = event.1.parse::<usize>().unwrap_or_default();
            let needs = match event.0 {
                ResourceType::Cluster => eds(&eds_of(index)),
                ResourceType::Listener => {
                    vec![reference(
                        ResourceType::RouteConfiguration,
                        &format!("r{index}"),
                        FETCH,
                    )]
                }
                _ => vec![],
            };
            let ready = if needs.is_empty() {
                held.insert(event.clone());
                warming.arrived(event.0, &event.1)
            } else {
                let has = |kind, name: &str| held.contains(&key(kind, name));
                let ready = warming.offer(event, &needs, has, now);
                ready.then(|| event.clone()).into_iter().collect()
            };
            for ready in &ready {
                let wanted = match ready.0 {
                    ResourceType::Cluster => key(
                        ResourceType::LoadAssignment,
                        &eds_of(ready.1.parse().unwrap()),
                    ),
                    _ => key(ResourceType::RouteConfiguration, &format!("r{}", ready.1)),
                };
                assert!(held.contains(&wanted), "seed {seed}: {ready:?} too early");
                assert_ne!(ready.0, ResourceType::Listener, "seed {seed}: not started");
            }
            active.extend(ready);
        }
        assert_eq!(active.len(), 4, "seed {seed}: {active:?}");
        assert!(warming.start_listeners().is_empty(), "seed {seed}");
        active.extend(warming.expire(now + FETCH));
        active.extend(warming.start_listeners());
        assert_eq!(active.len(), 10, "seed {seed}: {active:?}");
        assert!(
            warming.waiting.is_empty() && warming.waiters.is_empty(),
            "seed {seed}"
        );
    }
}
