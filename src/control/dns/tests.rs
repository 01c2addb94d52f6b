//! Names and their addresses, with a resolver of our own and a clock that stands still.

use std::sync::{Mutex, PoisonError};

use causeway_xds::extension::Unchecked;
use causeway_xds::resource::cluster::Discovery;
use causeway_xds::resource::{Reference, Resource, decode};
use causeway_xds::text;
use tokio::sync::mpsc;

use super::*;

/// A cluster of that text, as the source sees it.
fn dns(fields: &str) -> Arc<Dns> {
    let text = format!(
        "{{'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster, name: c, {fields}}}"
    );
    let any = text::parse_any(&text, &text::Options::default()).unwrap();
    let resource = decode(&any, &Unchecked).unwrap();
    let Reference { name, .. } = resource.references().remove(0);
    let Resource::Cluster(cluster) = resource else {
        panic!()
    };
    let Discovery::Dns(dns) = &cluster.discovery else {
        panic!()
    };
    assert_eq!(dns.resource, name);
    Arc::clone(dns)
}

fn names(hosts: &[&str]) -> String {
    let endpoint = |host: &&str| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: 80}}}}}}}}"
        )
    };
    let endpoints: Vec<_> = hosts.iter().map(endpoint).collect();
    format!(
        "load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{}]}}]}}",
        endpoints.join(", ")
    )
}

type Table = Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>;

/// Answers from a table; a name that is not in it cannot be looked up. With a time for which
/// answers hold, in seconds.
fn holding(table: &Table, ttl: u64) -> Lookup {
    let table = Arc::clone(table);
    Arc::new(move |host, _| {
        let table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let found = table.get(&host).cloned();
        Box::pin(async move {
            let found = found.ok_or(LookupError::NoServer)?;
            Ok(Answer {
                addresses: found.iter().map(|ip| ip.parse().unwrap()).collect(),
                ttl: Some(Duration::from_secs(ttl)),
            })
        })
    })
}

fn lookup(table: &Table) -> Lookup {
    holding(table, 1)
}

fn set(table: &Table, host: &str, found: &[&'static str]) {
    table
        .lock()
        .unwrap()
        .insert(host.to_owned(), found.to_vec());
}

/// The addresses of the next update.
async fn next(batches: &mut mpsc::Receiver<Batch>) -> Vec<String> {
    let batch = batches.recv().await.unwrap();
    let resource = decode(&batch.updates[0].upserts[0], &Unchecked).unwrap();
    let Resource::LoadAssignment(assignment) = resource else {
        panic!()
    };
    let endpoints = assignment.localities.iter().flat_map(|l| &l.endpoints);
    endpoints.map(|e| e.address.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn names_are_looked_up_again_and_keep_what_they_had() {
    let table = Table::default();
    set(&table, "a.test", &["10.0.0.2", "10.0.0.1", "10.0.0.2"]);
    let dns = dns(&format!(
        "type: STRICT_DNS, dns_refresh_rate: 7s, dns_failure_refresh_rate: {{base_interval: 2s}}, {}",
        names(&["a.test", "b.test", "192.0.2.1"])
    ));
    let (sender, mut batches) = mpsc::channel(1);
    let start = tokio::time::Instant::now();
    tokio::spawn(Box::new(DnsSource::new(dns, lookup(&table))).run(sender));
    // The first answer comes though one name is not to be found.
    let known = ["10.0.0.1:80", "10.0.0.2:80", "192.0.2.1:80"];
    assert_eq!(next(&mut batches).await, known);

    set(&table, "b.test", &["10.0.0.9"]);
    let all = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80", "192.0.2.1:80"];
    assert_eq!(next(&mut batches).await, all);
    assert_eq!(start.elapsed(), Duration::from_secs(2));

    // What fails keeps its addresses: nothing to tell until another name changes.
    table.lock().unwrap().remove("a.test");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(batches.try_recv().is_err());
    set(&table, "b.test", &["10.0.0.8"]);
    let moved = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.8:80", "192.0.2.1:80"];
    assert_eq!(next(&mut batches).await, moved);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_nowhere_holds_nobody_up() {
    let dns = dns(&format!("type: STRICT_DNS, {}", names(&["a.test"])));
    let (sender, mut batches) = mpsc::channel(1);
    tokio::spawn(Box::new(DnsSource::new(dns, lookup(&Table::default()))).run(sender));
    assert!(next(&mut batches).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_addresses_counts() {
    for (kind, want) in [("STRICT_DNS", &[][..]), ("LOGICAL_DNS", &["10.0.0.1:80"])] {
        let table = Table::default();
        set(&table, "a.test", &["10.0.0.1"]);
        let dns = dns(&format!("type: {kind}, {}", names(&["a.test"])));
        let (sender, mut batches) = mpsc::channel(1);
        tokio::spawn(Box::new(DnsSource::new(dns, lookup(&table))).run(sender));
        assert_eq!(next(&mut batches).await, ["10.0.0.1:80"]);
        set(&table, "a.test", &[]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        // What is delivered after that comes after whatever was delivered of it.
        if want.is_empty() {
            assert!(next(&mut batches).await.is_empty());
        } else {
            assert!(batches.try_recv().is_err());
        }
        set(&table, "a.test", &["10.0.0.2"]);
        assert_eq!(next(&mut batches).await, ["10.0.0.2:80"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_followed_when_it_no_longer_holds() {
    let table = Table::default();
    set(&table, "a.test", &["10.0.0.1"]);
    let fields = "type: STRICT_DNS, respect_dns_ttl: true, dns_refresh_rate: 3600s";
    let dns = dns(&format!("{fields}, {}", names(&["a.test"])));
    let (sender, mut batches) = mpsc::channel(1);
    let start = tokio::time::Instant::now();
    tokio::spawn(Box::new(DnsSource::new(dns, holding(&table, 4))).run(sender));
    assert_eq!(next(&mut batches).await, ["10.0.0.1:80"]);
    set(&table, "a.test", &["10.0.0.2"]);
    assert_eq!(next(&mut batches).await, ["10.0.0.2:80"]);
    assert_eq!(start.elapsed(), Duration::from_secs(4));
}

#[test]
fn families_are_chosen_as_configured() {
    let found = || ips(&["::2", "10.0.0.1", "::1"]);
    for (family, want) in [
        (DnsFamily::Auto, &["::1", "::2"][..]),
        (DnsFamily::V6Only, &["::1", "::2"]),
        (DnsFamily::V4Only, &["10.0.0.1"]),
        (DnsFamily::V4Preferred, &["10.0.0.1"]),
        (DnsFamily::All, &["10.0.0.1", "::1", "::2"]),
    ] {
        assert_eq!(choose(family, found()), ips(want), "{family:?}");
    }
    let v4 = || ips(&["10.0.0.1"]);
    assert_eq!(choose(DnsFamily::Auto, v4()), v4());
    assert!(choose(DnsFamily::V6Only, v4()).is_empty());
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn a_logical_name_keeps_its_first_address_while_it_can() {
    let mut known = Vec::new();
    for (found, want) in [
        (&["10.0.0.2", "10.0.0.3"][..], &["10.0.0.2", "10.0.0.3"][..]),
        (
            &["10.0.0.1", "10.0.0.2", "::1"],
            &["10.0.0.2", "10.0.0.1", "::1"],
        ),
        (&["10.0.0.1"], &["10.0.0.1"]),
    ] {
        take(&mut known, ips(found), true);
        assert_eq!(known, ips(want));
    }
    take(&mut known, ips(&["10.0.0.0", "10.0.0.1"]), false);
    assert_eq!(known, ips(&["10.0.0.0", "10.0.0.1"]));
}

#[test]
fn a_logical_name_is_one_endpoint_and_a_strict_one_several() {
    let additional = "additional_addresses: [{address: {socket_address: {address: '::9', \
                      port_value: 9}}}]";
    let endpoint = format!(
        "{{endpoint: {{address: {{socket_address: {{address: a, port_value: 80}}}}, {additional}}}}}"
    );
    let list = format!(
        "load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{endpoint}]}}]}}"
    );
    for (kind, want) in [
        ("LOGICAL_DNS", &["10.0.0.1:80 [::1]:80 [::9]:9"][..]),
        ("STRICT_DNS", &["10.0.0.1:80 [::9]:9", "[::1]:80 [::9]:9"]),
    ] {
        let dns = dns(&format!("type: {kind}, dns_lookup_family: ALL, {list}"));
        let host = Host {
            addresses: ips(&["10.0.0.1", "::1"]),
            ..Host::default()
        };
        let answers = Hosts::from([(("a".to_owned(), 80), host)]);
        let any = pack_as(
            &assignment(&dns, &answers),
            ResourceType::LoadAssignment.message_name(),
        );
        let Resource::LoadAssignment(read) = decode(&any, &Unchecked).unwrap() else {
            panic!()
        };
        let shown = |e: &Arc<Endpoint>| {
            let others = e.additional_addresses.iter().map(ToString::to_string);
            let all: Vec<_> = std::iter::once(e.address.to_string())
                .chain(others)
                .collect();
            all.join(" ")
        };
        let found: Vec<_> = read.localities[0].endpoints.iter().map(shown).collect();
        assert_eq!(found, want, "{kind}");
    }
}

#[test]
fn failures_are_met_with_longer_and_longer_waits() {
    let rates = "dns_failure_refresh_rate: {base_interval: 1s, max_interval: 5s}";
    let dns = dns(&format!("type: STRICT_DNS, {rates}, {}", names(&["a"])));
    let waits = [0, 1, 2, 3, 4, 100].map(|n| pause(&dns, n, None, 1.0).as_secs());
    assert_eq!(waits, [5, 1, 2, 4, 5, 5]);
}

#[test]
fn the_time_to_the_next_lookup_is_that_of_the_answer_if_it_is_to_be() {
    let of = |fields: &str| dns(&format!("{fields}, {}", names(&["a"])));
    let secs = |n| Some(Duration::from_secs(n));
    let plain = of("type: STRICT_DNS, dns_jitter: 4s");
    assert_eq!(pause(&plain, 0, secs(60), 0.0).as_secs(), 5);
    assert_eq!(pause(&plain, 0, None, 0.5).as_secs(), 7);
    assert_eq!(pause(&plain, 1, None, 0.5).as_secs(), 5);
    let held = of("type: STRICT_DNS, respect_dns_ttl: true");
    for (ttl, want) in [(secs(60), 60), (secs(1), 1), (secs(0), 5), (None, 5)] {
        assert_eq!(pause(&held, 0, ttl, 1.0).as_secs(), want);
    }
    let least = of(
        "cluster_type: {name: envoy.clusters.dns, typed_config: {'@type': \
         type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, respect_dns_ttl: true, \
         dns_min_refresh_rate: 3s}}",
    );
    for (ttl, want) in [(secs(60), 60), (secs(1), 3)] {
        assert_eq!(pause(&least, 0, ttl, 1.0).as_secs(), want);
    }
}

#[test]
fn what_the_cluster_says_of_an_endpoint_stays() {
    let dns = dns(
        "type: STRICT_DNS, load_assignment: {cluster_name: c, policy: {overprovisioning_factor: \
         200, weighted_priority_health: true}, endpoints: [{priority: 1, load_balancing_weight: 3, \
         locality: {zone: z}, lb_endpoints: [{load_balancing_weight: 4294967295, \
         health_status: DRAINING, metadata: {filter_metadata: {causeway: {id: k}, envoy.lb: \
         {hash_key: h}}}, endpoint: \
         {health_check_config: {port_value: 7}, address: {socket_address: {address: a, \
         port_value: 1}}}}]}]}",
    );
    let host = Host {
        addresses: ips(&["10.0.0.1", "10.0.0.2"]),
        ..Host::default()
    };
    let answers = Hosts::from([(("a".to_owned(), 1), host)]);
    let any = pack_as(
        &assignment(&dns, &answers),
        ResourceType::LoadAssignment.message_name(),
    );
    // Weights that add up to more than 32 bits would be refused.
    let Resource::LoadAssignment(read) = decode(&any, &Unchecked).unwrap() else {
        panic!()
    };
    assert_eq!((read.overprovisioning, read.weighted_health), (200, true));
    let locality = &read.localities[0];
    assert_eq!(locality.weight, 3);
    assert_eq!((locality.priority, &*locality.locality.zone), (1, "z"));
    let endpoint = &locality.endpoints[1];
    assert_eq!((&*endpoint.hostname, &*endpoint.id), ("a", "k"));
    assert_eq!(endpoint.hash_key, "h");
    assert_eq!(endpoint.check.port, Some(7));
    assert_eq!(endpoint.health, EndpointHealth::Draining);
    assert_eq!(endpoint.weight, u32::MAX / 2);
}
