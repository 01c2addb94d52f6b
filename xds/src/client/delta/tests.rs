use std::time::Instant;

use super::super::testing::*;
use super::*;
use crate::proto::envoy::service::discovery::v3::{Resource, ResourceName};
use crate::type_url::ResourceType::{Cluster, LoadAssignment, RouteConfiguration};

mod random;

fn start() -> Delta {
    let mut machine = Delta::new(origin(), node(), true);
    machine.connected(false);
    machine
}

fn response(
    kind: ResourceType,
    nonce: &str,
    version: &str,
    of: &[&str],
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    let one = |name: &&str| Resource {
        version: version.to_owned(),
        ..wrapper(name, Some(resource(kind, name)), None)
    };
    with(kind, nonce, of.iter().map(one).collect(), removed)
}

fn with(
    kind: ResourceType,
    nonce: &str,
    resources: Vec<Resource>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: format!("of {nonce}"),
        resources,
        type_url: kind.type_url(),
        removed_resources: names(removed),
        nonce: nonce.to_owned(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn one(machine: &mut Delta) -> DeltaDiscoveryRequest {
    let mut requests = drain(machine);
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests.remove(0)
}

/// Takes a response in full, and lets go of the acknowledgement.
fn take(machine: &mut Delta, response: DeltaDiscoveryResponse) -> Update {
    let nonce = response.nonce.clone();
    let update = delivered(machine.receive(response, Instant::now()));
    machine.outcome(&accepted());
    let ack = one(machine);
    assert_eq!(ack.response_nonce, nonce);
    assert!(ack.error_detail.is_none());
    update
}

/// Changes and nothing else; no nonce.
#[test]
fn what_changes_is_told() {
    let mut machine = start();
    assert!(machine.next().is_none());
    machine.interest(Interest::All(Cluster));
    machine.interest(subscribe(LoadAssignment, &["a", "b"]));
    let requests = drain(&mut machine);
    assert_eq!(requests.len(), 2);
    assert!(
        requests[0].resource_names_subscribe.is_empty(),
        "everything"
    );
    assert_eq!(requests[0].node, Some(node()));
    assert_eq!(requests[1].resource_names_subscribe, ["a", "b"]);
    assert_eq!(requests[1].node, None);
    machine.interest(subscribe(LoadAssignment, &["b", "c", "d"]));
    machine.interest(unsubscribe(LoadAssignment, &["a", "d", "x"]));
    let outgoing = machine.next().unwrap();
    assert!(outgoing.asks);
    let request = outgoing.message;
    assert_eq!(request.resource_names_subscribe, ["c"]);
    assert_eq!(request.resource_names_unsubscribe, ["a"]);
    assert!(request.response_nonce.is_empty());
    assert!(request.initial_resource_versions.is_empty());
    // There is nothing to say.
    machine.interest(Interest::Refresh(LoadAssignment, "b".to_owned()));
    assert!(machine.next().is_none());
}

#[test]
fn everything_beside_names_is_said() {
    let mut machine = start();
    machine.interest(subscribe(Cluster, &["a"]));
    assert_eq!(one(&mut machine).resource_names_subscribe, ["a"]);
    machine.interest(Interest::All(Cluster));
    machine.interest(Interest::All(Cluster));
    assert_eq!(one(&mut machine).resource_names_subscribe, ["*"]);
    machine.connected(false);
    assert_eq!(one(&mut machine).resource_names_subscribe, ["*", "a"]);
    // Never an empty first request when there is nothing wanted.
    let mut machine = start();
    machine.interest(subscribe(Cluster, &["a"]));
    machine.interest(unsubscribe(Cluster, &["a"]));
    assert!(machine.next().is_none());
}

/// Whoever gives a name up and takes it again wants to hear of it again.
#[test]
fn a_name_that_is_taken_again_is_seen_to_be_gone_in_between() {
    let mut machine = start();
    machine.interest(subscribe(LoadAssignment, &["a", "b"]));
    one(&mut machine);
    machine.interest(unsubscribe(LoadAssignment, &["a"]));
    machine.interest(subscribe(LoadAssignment, &["a", "c"]));
    let requests = drain(&mut machine);
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].resource_names_unsubscribe, ["a"]);
    assert!(requests[0].resource_names_subscribe.is_empty());
    assert_eq!(requests[1].resource_names_subscribe, ["a", "c"]);
}

/// The good ones of a refused response are in use.
#[test]
fn responses_are_answered_with_their_nonce() {
    let mut machine = start();
    machine.interest(Interest::All(Cluster));
    one(&mut machine);
    let update = take(&mut machine, response(Cluster, "1", "v1", &["a", "b"], &[]));
    assert_eq!(update.extent, Extent::Incremental);
    assert_eq!((update.upserts.len(), &*update.version), (2, "of 1"));
    let bad = response(Cluster, "2", "v2", &["a", "b", "c"], &[]);
    delivered(machine.receive(bad, Instant::now()));
    machine.interest(subscribe(LoadAssignment, &["a"]));
    assert_eq!(
        one(&mut machine).resource_names_subscribe,
        ["a"],
        "no need to wait"
    );
    let answered = machine.outcome(&refused(Cluster, &["a", "c"])).unwrap();
    assert!(
        answered
            .result
            .unwrap_err()
            .starts_with("2 of 3 clusters rejected.")
    );
    let nack = one(&mut machine);
    assert_eq!(
        (&*nack.response_nonce, nack.error_detail.unwrap().code),
        ("2", 13)
    );
    // The versions that are in use.
    machine.connected(false);
    let versions = drain(&mut machine).remove(0).initial_resource_versions;
    assert_eq!(versions.len(), 2);
    assert_eq!((&*versions["a"], &*versions["b"]), ("v1", "v2"));
}

#[test]
fn a_response_that_makes_no_sense_is_refused_in_whole() {
    let mut machine = start();
    machine.interest(Interest::All(Cluster));
    one(&mut machine);
    let bad = response(Cluster, "1", "v1", &["a"], &["a"]);
    let refusal = answered(machine.receive(bad, Instant::now()))
        .result
        .unwrap_err();
    assert_eq!(
        refusal,
        "response of clusters rejected. cluster \"a\" is named twice"
    );
    assert_eq!(one(&mut machine).response_nonce, "1");
    let mut old = response(Cluster, "2", "v1", &[], &[]);
    old.type_url = "type.googleapis.com/envoy.api.v2.Cluster".to_owned();
    answered(machine.receive(old, Instant::now()))
        .result
        .unwrap_err();
    let nack = one(&mut machine);
    assert!(nack.type_url.ends_with("v2.Cluster") && nack.response_nonce == "2");
    let unasked = response(RouteConfiguration, "3", "v1", &["r"], &[]);
    assert!(matches!(
        machine.receive(unasked, Instant::now()),
        Received::Ignored
    ));
}

/// Removals, in both fields, of what somebody wants.
#[test]
fn removals_are_passed_on() {
    let mut machine = start();
    machine.interest(Interest::All(Cluster));
    machine.interest(subscribe(LoadAssignment, &["a"]));
    drain(&mut machine);
    take(&mut machine, response(Cluster, "1", "v1", &["a", "b"], &[]));
    let mut gone = response(Cluster, "2", "", &[], &["a"]);
    gone.removed_resource_names = vec![ResourceName {
        name: "z".to_owned(),
        ..ResourceName::default()
    }];
    assert_eq!(take(&mut machine, gone).removals, ["a", "z"]);
    let mixed = response(LoadAssignment, "3", "v1", &["x"], &["a", "y"]);
    let update = take(&mut machine, mixed);
    assert_eq!(update.removals, ["a"]);
    assert!(update.upserts.is_empty());
    // Nothing for anybody: answered at once.
    let none = response(LoadAssignment, "4", "v1", &["x"], &["y"]);
    assert!(
        answered(machine.receive(none, Instant::now()))
            .result
            .is_ok()
    );
    assert_eq!(one(&mut machine).response_nonce, "4");
    machine.connected(false);
    let requests = drain(&mut machine);
    assert_eq!(requests[0].initial_resource_versions.len(), 1);
    assert!(requests[0].initial_resource_versions.contains_key("b"));
    assert!(requests[1].initial_resource_versions.is_empty());
    assert_eq!(requests[1].resource_names_subscribe, ["a"]);
}

#[test]
fn another_server_is_told_names_but_no_versions() {
    let mut machine = start();
    machine.interest(Interest::All(Cluster));
    one(&mut machine);
    take(&mut machine, response(Cluster, "1", "v1", &["a"], &[]));
    machine.connected(true);
    let versions = one(&mut machine).initial_resource_versions;
    assert_eq!(versions["a"], "");
}

/// What is given up is forgotten, also while it is being applied.
#[test]
fn what_nobody_wants_is_not_held() {
    let mut machine = start();
    machine.interest(subscribe(LoadAssignment, &["a", "b"]));
    one(&mut machine);
    take(
        &mut machine,
        response(LoadAssignment, "1", "v1", &["a"], &[]),
    );
    delivered(machine.receive(
        response(LoadAssignment, "2", "v1", &["b"], &[]),
        Instant::now(),
    ));
    machine.interest(unsubscribe(LoadAssignment, &["a", "b"]));
    machine.outcome(&accepted());
    machine.interest(subscribe(LoadAssignment, &["c"]));
    machine.connected(false);
    let request = one(&mut machine);
    assert!(request.initial_resource_versions.is_empty());
    assert_eq!(request.resource_names_subscribe, ["c"]);
}

#[test]
fn resources_run_out() {
    let mut machine = start();
    let begin = Instant::now();
    machine.interest(Interest::All(Cluster));
    one(&mut machine);
    let limited = |nonce: &str, version: &str, body: bool| {
        let resource = Resource {
            version: version.to_owned(),
            ..wrapper("a", body.then(|| resource(Cluster, "a")), Some(2))
        };
        with(Cluster, nonce, vec![resource], &[])
    };
    delivered(machine.receive(limited("1", "v1", true), begin));
    machine.outcome(&accepted());
    assert_eq!(machine.deadline(), Some(after(begin, 2)));
    answered(machine.receive(limited("2", "v1", false), after(begin, 1)));
    assert_eq!(machine.deadline(), Some(after(begin, 3)));
    answered(machine.receive(limited("3", "v0", false), after(begin, 2)));
    assert_eq!(
        machine.deadline(),
        Some(after(begin, 3)),
        "of another version"
    );
    drain(&mut machine);
    let updates = machine.expire(after(begin, 3));
    assert_eq!(updates[0].removals, ["a"]);
    assert!(machine.next().is_none(), "the server knows");
    machine.connected(false);
    assert!(one(&mut machine).initial_resource_versions.is_empty());
    delivered(machine.receive(limited("4", "v1", true), after(begin, 4)));
    machine.outcome(&accepted());
    // Without a limit it lives on.
    let now = after(begin, 5);
    delivered(machine.receive(response(Cluster, "5", "v2", &["a"], &[]), now));
    machine.outcome(&accepted());
    assert_eq!(machine.deadline(), None);
}
