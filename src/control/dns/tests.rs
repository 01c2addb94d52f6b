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

/// Answers from a table; a name that is not in it does not exist.
fn lookup(table: &Table) -> Lookup {
    let table = Arc::clone(table);
    Arc::new(move |(host, port)| {
        let table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let found = table.get(&host).cloned();
        Box::pin(async move {
            let found = found.ok_or_else(|| io::Error::other("no such name"))?;
            let parse = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
            Ok(found.into_iter().map(parse).collect())
        })
    })
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
    tokio::spawn(Box::new(DnsSource::with(dns, lookup(&table))).run(sender));
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
    tokio::spawn(Box::new(DnsSource::with(dns, lookup(&Table::default()))).run(sender));
    assert!(next(&mut batches).await.is_empty());
}

#[test]
fn families_are_chosen_as_configured() {
    let found = || {
        ["[::2]:1", "10.0.0.1:1", "[::1]:1"]
            .map(|a| a.parse().unwrap())
            .to_vec()
    };
    let v4 = || vec!["10.0.0.1:1".parse().unwrap()];
    for (family, want) in [
        (DnsFamily::Auto, &["[::1]:1", "[::2]:1"][..]),
        (DnsFamily::V6Only, &["[::1]:1", "[::2]:1"]),
        (DnsFamily::V4Only, &["10.0.0.1:1"]),
        (DnsFamily::V4Preferred, &["10.0.0.1:1"]),
        (DnsFamily::All, &["10.0.0.1:1", "[::1]:1", "[::2]:1"]),
    ] {
        let chosen: Vec<_> = choose(family, found())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(chosen, want, "{family:?}");
    }
    assert_eq!(choose(DnsFamily::Auto, v4()), v4());
    assert!(choose(DnsFamily::V6Only, v4()).is_empty());
}

#[test]
fn a_logical_name_keeps_its_address_while_it_can() {
    let addresses = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>();
    let mut known = Vec::new();
    take(&mut known, addresses(&["10.0.0.2:1", "10.0.0.3:1"]), true);
    assert_eq!(known, addresses(&["10.0.0.2:1"]));
    take(&mut known, addresses(&["10.0.0.1:1", "10.0.0.2:1"]), true);
    assert_eq!(known, addresses(&["10.0.0.2:1"]));
    take(&mut known, addresses(&["10.0.0.1:1"]), true);
    assert_eq!(known, addresses(&["10.0.0.1:1"]));
}

#[test]
fn failures_are_met_with_longer_and_longer_waits() {
    let rates = "dns_failure_refresh_rate: {base_interval: 1s, max_interval: 5s}";
    let dns = dns(&format!("type: STRICT_DNS, {rates}, {}", names(&["a"])));
    let waits = [0, 1, 2, 3, 4, 100].map(|n| pause(&dns, n).as_secs());
    assert_eq!(waits, [5, 1, 2, 4, 5, 5]);
}

#[test]
fn what_the_cluster_says_of_an_endpoint_stays() {
    let dns = dns(
        "type: STRICT_DNS, load_assignment: {cluster_name: c, policy: {overprovisioning_factor: \
         200, weighted_priority_health: true}, endpoints: [{priority: 1, load_balancing_weight: 3, \
         locality: {zone: z}, lb_endpoints: [{load_balancing_weight: 4294967295, \
         health_status: DRAINING, metadata: {filter_metadata: {causeway: {id: k}, envoy.lb: {hash_key: h}}}, endpoint: \
         {address: {socket_address: {address: a, port_value: 1}}}}]}]}",
    );
    let found = ["10.0.0.1:1", "10.0.0.2:1"].map(|a| a.parse().unwrap());
    let answers = Answers::from([(("a".to_owned(), 1), found.to_vec())]);
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
    assert_eq!(endpoint.health, EndpointHealth::Draining);
    assert_eq!(endpoint.weight, u32::MAX / 2);
}
