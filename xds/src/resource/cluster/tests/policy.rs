//! How endpoints are chosen.

use super::*;
use crate::resource::decode;
use crate::text;

/// A static cluster with these fields.
fn read(fields: &str) -> Result<Balancing, String> {
    let text = format!("{{name: c, connect_timeout: 1s, {fields}}}");
    let message: proto::Cluster = text::parse(
        &text,
        ResourceType::Cluster.message_name(),
        &text::Options::default(),
    )
    .map_err(|e| e.to_string())?;
    match decode(&pack(&message), &crate::extension::Unchecked) {
        Ok(Resource::Cluster(cluster)) => Ok(cluster.balancing.clone()),
        Ok(_) => panic!("not a cluster"),
        Err(rejected) => Err(rejected.to_string()),
    }
}

fn policy(fields: &str) -> Policy {
    read(fields).unwrap().policy
}

/// As the only entry of the list of policies.
fn listed(config: &str) -> Result<Balancing, String> {
    read(&list(&[config]))
}

fn list(configs: &[&str]) -> String {
    let entry = |config: &&str| {
        format!("{{typed_extension_config: {{name: x, typed_config: {{{config}}}}}}}")
    };
    let entries: Vec<String> = configs.iter().map(entry).collect();
    format!(
        "load_balancing_policy: {{policies: [{}]}}",
        entries.join(", ")
    )
}

fn of_type(name: &str) -> String {
    format!("'@type': type.googleapis.com/envoy.extensions.load_balancing_policies.{name}")
}

#[test]
fn classic_policies_have_their_own_settings() {
    assert_eq!(policy("lb_policy: ROUND_ROBIN"), Policy::RoundRobin);
    assert_eq!(policy("lb_policy: RANDOM"), Policy::Random);
    let two = Policy::LeastRequest { choices: Some(2) };
    assert_eq!(policy("lb_policy: LEAST_REQUEST"), two);
    let ten = "lb_policy: LEAST_REQUEST, least_request_lb_config: {choice_count: 10}";
    assert_eq!(policy(ten), Policy::LeastRequest { choices: Some(10) });
    let ring = RingHash {
        minimum_size: 1024,
        maximum_size: 8 << 20,
        function: HashFunction::XxHash,
        hashing: Hashing::default(),
    };
    assert_eq!(policy("lb_policy: RING_HASH"), Policy::RingHash(ring));
    let sized = "lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 10, \
                 maximum_ring_size: 20}, \
                 common_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}";
    let sized_ring = RingHash {
        minimum_size: 10,
        maximum_size: 20,
        function: HashFunction::XxHash,
        hashing: Hashing {
            use_hostname: true,
            balance_factor: None,
        },
    };
    assert_eq!(policy(sized), Policy::RingHash(sized_ring));
    let table = |table_size| {
        Policy::Maglev(Maglev {
            table_size,
            hashing: Hashing::default(),
        })
    };
    assert_eq!(policy("lb_policy: MAGLEV"), table(65_537));
    let small = "lb_policy: MAGLEV, maglev_lb_config: {table_size: 251}";
    assert_eq!(policy(small), table(251));
    // Settings of another policy have no effect.
    let other = "lb_policy: RANDOM, maglev_lb_config: {table_size: 251}";
    assert_eq!(policy(other), Policy::Random);
}

#[test]
fn the_first_known_policy_of_the_list_is_taken_before_the_classic_field() {
    let unknown = "'@type': type.googleapis.com/google.protobuf.Empty";
    let (random, round) = (
        of_type("random.v3.Random"),
        of_type("round_robin.v3.RoundRobin"),
    );
    let listed = list(&[unknown, &random, &round]);
    assert_eq!(
        policy(&format!("lb_policy: MAGLEV, {listed}")),
        Policy::Random
    );
}

#[test]
fn listed_policies_have_their_own_settings() {
    let least = of_type("least_request.v3.LeastRequest");
    let full = listed(&format!("{least}, selection_method: FULL_SCAN")).unwrap();
    assert_eq!(full.policy, Policy::LeastRequest { choices: None });
    let older = listed(&format!("{least}, enable_full_scan: true")).unwrap();
    assert_eq!(older, full);

    let ring = of_type("ring_hash.v3.RingHash");
    let hostname = listed(&format!(
        "{ring}, consistent_hashing_lb_config: {{use_hostname_for_hashing: true}}, \
         locality_weighted_lb_config: {{}}, minimum_ring_size: 7"
    ))
    .unwrap();
    let Policy::RingHash(of) = hostname.policy else {
        panic!("{hostname:?}")
    };
    assert!(of.hashing.use_hostname && hostname.by_locality && of.minimum_size == 7);

    let murmur = "lb_policy: RING_HASH, ring_hash_lb_config: {hash_function: MURMUR_HASH_2}, \
                  common_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 120}}";
    let listed_murmur = format!("{ring}, hash_function: MURMUR_HASH_2, hash_balance_factor: 120");
    for murmur in [policy(murmur), listed(&listed_murmur).unwrap().policy] {
        let Policy::RingHash(of) = murmur else {
            panic!("{murmur:?}")
        };
        assert_eq!(of.function, HashFunction::MurmurHash2);
        assert_eq!(of.hashing.balance_factor, Some(120));
    }

    let maglev = of_type("maglev.v3.Maglev");
    let maglev = listed(&format!("{maglev}, table_size: 11")).unwrap();
    assert!(matches!(
        maglev.policy,
        Policy::Maglev(Maglev { table_size: 11, .. })
    ));

    let inner = list(&[&of_type("round_robin.v3.RoundRobin")])
        .replace("load_balancing_policy", "endpoint_picking_policy");
    let by_locality = listed(&format!(
        "{}, {inner}",
        of_type("wrr_locality.v3.WrrLocality")
    ));
    let by_locality = by_locality.unwrap();
    assert!(by_locality.by_locality && by_locality.policy == Policy::RoundRobin);
}

#[test]
fn requests_may_name_endpoints() {
    let fallback = of_type("random.v3.Random");
    let of = |fields: &str| {
        let kind = of_type("override_host.v3.OverrideHost");
        let fallback = list(&[fallback.as_str()]);
        let fallback = fallback.replacen("load_balancing_policy", "fallback_policy", 1);
        listed(&format!("{kind}, {fields}, {fallback}"))
    };
    let key = "{key: envoy.lb, path: [{key: host}]}";
    let read = of(&format!(
        "override_host_sources: [{{header: X-Host}}, {{metadata: {key}}}], selected_host_key: {key}"
    ));
    let read = read.unwrap();
    let key = MetadataKey {
        namespace: "envoy.lb".into(),
        path: vec!["host".into()],
    };
    let expected = OverrideHost {
        sources: vec![
            HostSource::Header("x-host".into()),
            HostSource::Metadata(key.clone()),
        ],
        told: Some(key),
    };
    assert_eq!(
        (read.policy, read.override_host),
        (Policy::Random, Some(expected))
    );
    for (fields, wanted) in [
        (
            "override_host_sources: []",
            "override_host_sources: must not be empty",
        ),
        (
            "override_host_sources: [{}]",
            "override_host_sources[0]: must have a header or metadata",
        ),
        (
            "override_host_sources: [{header: h, metadata: {key: k, path: [{key: p}]}}]",
            "override_host_sources[0]: must not have both a header and metadata",
        ),
        (
            "override_host_sources: [{header: h}], selected_host_key: {key: k, path: [{key: p}, \
             {key: q}]}",
            "selected_host_key.path: must be one key",
        ),
    ] {
        let fault = of(fields).unwrap_err();
        assert!(fault.contains(wanted), "{fault}");
    }
}

#[test]
fn panic_and_localities_are_common_to_all_policies() {
    let common = |fields: &str| read(&format!("common_lb_config: {{{fields}}}")).unwrap();
    assert_eq!(common(""), Balancing::default());
    let never = common("healthy_panic_threshold: {value: 0}");
    assert_eq!(never.panic_threshold.to_bits(), 0.0_f64.to_bits());
    assert!(common("locality_weighted_lb_config: {}").by_locality);
    assert!(common("zone_aware_lb_config: {fail_traffic_on_panic: true}").fail_on_panic);
    let zones = "zone_aware_lb_config: {routing_enabled: {value: 37.6}, min_cluster_size: 9";
    let expected = ZoneAware {
        percent: 38,
        least: 9,
        all_at_home: None,
        by_weight: false,
    };
    assert_eq!(common(&format!("{zones}}}")).zones, expected);
    assert_eq!(common("").zones, ZoneAware::default());
    let round = of_type("round_robin.v3.RoundRobin");
    let weighted = format!("{round}, locality_lb_config: {{locality_weighted_lb_config: {{}}}}");
    assert!(listed(&weighted).unwrap().by_locality);
    let forced = format!(
        "{round}, locality_lb_config: {{{zones}, force_local_zone: {{min_size: 4}}, \
         locality_basis: HEALTHY_HOSTS_WEIGHT}}}}"
    );
    let listed_zones = |text: &str| listed(text).unwrap().zones;
    let expected = ZoneAware {
        all_at_home: Some(4),
        by_weight: true,
        ..expected
    };
    assert_eq!(listed_zones(&forced), expected);
    let older = forced.replace(
        "force_local_zone: {min_size: 4}",
        "force_locality_direct_routing: true",
    );
    assert_eq!(listed_zones(&older).all_at_home, Some(1));
    let wrong = common_fault("zone_aware_lb_config: {routing_enabled: {value: 101}}");
    let expected = "common_lb_config.zone_aware_lb_config.routing_enabled: 101 is not within";
    assert!(wrong.contains(expected), "{wrong}");
}

fn common_fault(fields: &str) -> String {
    read(&format!("common_lb_config: {{{fields}}}")).unwrap_err()
}

#[test]
fn what_no_balancer_can_do_is_refused_by_path() {
    let of = |fields: &str| read(fields).unwrap_err();
    for (fields, wanted) in [
        (
            "lb_policy: MAGLEV, maglev_lb_config: {table_size: 250}",
            "maglev_lb_config.table_size: must be a prime",
        ),
        (
            "maglev_lb_config: {table_size: 5000012}",
            "maglev_lb_config.table_size: 5000012 is above 5000011",
        ),
        (
            "ring_hash_lb_config: {minimum_ring_size: 3, maximum_ring_size: 2}",
            "ring_hash_lb_config.minimum_ring_size: is above maximum_ring_size",
        ),
        (
            "ring_hash_lb_config: {maximum_ring_size: 8388609}",
            "ring_hash_lb_config.maximum_ring_size: 8388609 is above 8388608",
        ),
        (
            "ring_hash_lb_config: {hash_function: 7}",
            "ring_hash_lb_config.hash_function: 7 is not a known value",
        ),
        (
            "common_lb_config: {healthy_panic_threshold: {value: 101}}",
            "common_lb_config.healthy_panic_threshold: 101 is not within 0 and 100",
        ),
        (
            "common_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 99}}",
            "common_lb_config.consistent_hashing_lb_config.hash_balance_factor: 99 is not within \
             100 and 4294967295",
        ),
    ] {
        let refusal = of(fields);
        assert!(refusal.ends_with(wanted), "{refusal}");
    }
}

#[test]
fn policies_are_not_nested_without_end() {
    let mut policy = list(&[&of_type("round_robin.v3.RoundRobin")]);
    for _ in 0..6 {
        let inner = policy.replace("load_balancing_policy", "endpoint_picking_policy");
        policy = list(&[&format!(
            "{}, {inner}",
            of_type("wrr_locality.v3.WrrLocality")
        )]);
    }
    let refusal = read(&policy).unwrap_err();
    assert!(
        refusal.ends_with("policies are nested too deeply"),
        "{refusal}"
    );
}

#[test]
fn subsets_are_the_same_in_both_forms() {
    let fields = "fallback_policy: DEFAULT_SUBSET, default_subset: {v: '1'}, list_as_any: true, \
                  panic_mode_any: true, locality_weight_aware: true, scale_locality_weight: true, \
                  subset_selectors: [{keys: [b, a], fallback_policy: KEYS_SUBSET, \
                  fallback_keys_subset: [a]}, {keys: [a], single_host_per_subset: true}]";
    let classic = read(&format!(
        "lb_policy: RANDOM, lb_subset_config: {{{fields}}}"
    ))
    .unwrap();
    let inner =
        list(&[&of_type("random.v3.Random")]).replace("load_balancing_policy", "subset_lb_policy");
    let subset = of_type("subset.v3.Subset");
    let extension = listed(&format!("{subset}, {fields}, {inner}")).unwrap();
    assert_eq!(classic, extension);
    assert_eq!(classic.policy, Policy::Random);
    let subsets = classic.subsets.unwrap();
    assert_eq!(subsets.fallback, Fallback::Default);
    let keys = |of: &[&str]| of.iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(subsets.selectors[0].keys, keys(&["a", "b"]));
    assert_eq!(
        subsets.selectors[0].fallback,
        Some(SelectorFallback::Keys(keys(&["a"])))
    );
    assert!(subsets.selectors[1].single_host && subsets.selectors[1].fallback.is_none());
    // Without a selector the classic field is not in effect.
    assert_eq!(read("lb_subset_config: {}").unwrap().subsets, None);
    let empty = listed(&format!("{subset}, {inner}")).unwrap();
    assert!(empty.subsets.is_some());
}

#[test]
fn what_no_subset_can_be_is_refused_by_path() {
    let selector = |fields: &str| format!("lb_subset_config: {{subset_selectors: [{{{fields}}}]}}");
    let keys = "keys: [a, b], fallback_policy: KEYS_SUBSET";
    let random = list(&[&of_type("random.v3.Random")]);
    for (fields, wanted) in [
        (
            selector("keys: [a, b], fallback_keys_subset: [a]"),
            "subset_selectors[0].fallback_keys_subset: can be set only for KEYS_SUBSET",
        ),
        (
            selector(keys),
            "subset_selectors[0].fallback_keys_subset: must not be empty",
        ),
        (
            selector(&format!("{keys}, fallback_keys_subset: [c]")),
            "subset_selectors[0].fallback_keys_subset: must be some of the keys",
        ),
        (
            selector(&format!("{keys}, fallback_keys_subset: [b, a]")),
            "subset_selectors[0].fallback_keys_subset: must not be all of the keys",
        ),
        (
            "lb_subset_config: {metadata_fallback_policy: FALLBACK_LIST}".to_owned(),
            "lb_subset_config.metadata_fallback_policy: not supported yet",
        ),
        (
            format!("{}, {random}", selector("keys: [a]")),
            "lb_subset_config: cannot be combined with load_balancing_policy",
        ),
    ] {
        let refusal = read(&fields).unwrap_err();
        assert!(refusal.ends_with(wanted), "{refusal}");
    }
}

#[test]
fn the_bias_of_least_request_is_at_least_0() {
    let fields =
        |bias: &str| format!("active_request_bias: {{default_value: {bias}, runtime_key: a}}");
    let least = of_type("least_request.v3.LeastRequest");
    let new = |bias: &str| listed(&format!("{least}, {}", fields(bias)));
    assert_eq!(new("0.5").unwrap().request_bias, Some(0.5));
    assert_eq!(listed(&least).unwrap().request_bias, None);
    // A key of the runtime may be left out.
    let keyless = listed(&format!(
        "{least}, active_request_bias: {{default_value: 2}}"
    ));
    assert_eq!(keyless.unwrap().request_bias, Some(2.0));
    let classic = |policy: &str, bias: &str| {
        let config = fields(bias);
        read(&format!(
            "lb_policy: {policy}, least_request_lb_config: {{{config}}}"
        ))
    };
    assert_eq!(
        classic("LEAST_REQUEST", "2").unwrap().request_bias,
        Some(2.0)
    );
    assert_eq!(classic("ROUND_ROBIN", "2").unwrap().request_bias, None);
    for refused in [
        new("-1").unwrap_err(),
        classic("LEAST_REQUEST", "-1").unwrap_err(),
    ] {
        let reason = "active_request_bias.default_value: must be at least 0";
        assert!(refused.ends_with(reason), "{refused}");
    }
}

#[test]
fn slow_start_belongs_to_the_policy_that_it_is_written_for() {
    let fields = "slow_start_config: {slow_start_window: 30s, min_weight_percent: {value: 20}, \
                  aggression: {default_value: 2, runtime_key: a}}";
    let wanted = Some(SlowStart {
        window: Duration::from_secs(30),
        aggression: 2.0,
        least: 0.2,
    });
    let round = listed(&format!(
        "{}, {fields}",
        of_type("round_robin.v3.RoundRobin")
    ));
    assert_eq!(round.unwrap().slow_start, wanted);
    let least = listed(&format!(
        "{}, {fields}",
        of_type("least_request.v3.LeastRequest")
    ));
    assert_eq!(least.unwrap().slow_start, wanted);
    let classic = |policy: &str| {
        let config = format!("lb_policy: {policy}, least_request_lb_config: {{{fields}}}");
        read(&config).unwrap().slow_start
    };
    assert_eq!(classic("LEAST_REQUEST"), wanted);
    assert_eq!(classic("RANDOM"), None);
    let none = "round_robin_lb_config: {slow_start_config: {}}";
    assert_eq!(read(none).unwrap().slow_start, None);
    let refusal = read(
        "round_robin_lb_config: {slow_start_config: {slow_start_window: 1s, \
         aggression: {default_value: 0, runtime_key: a}}}",
    );
    let refusal = refusal.unwrap_err();
    assert!(
        refusal.ends_with("aggression.default_value: must be above 0"),
        "{refusal}"
    );
}
