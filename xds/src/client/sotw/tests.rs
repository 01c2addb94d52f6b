use std::time::Instant;

use super::super::testing::*;
use super::*;
use crate::type_url::ResourceType::{Cluster, Listener, LoadAssignment, RouteConfiguration};
use crate::type_url::pack;

mod random;

fn start() -> Sotw {
    let mut machine = Sotw::new(origin(), node(), true);
    machine.connected(false);
    machine
}

fn response(kind: ResourceType, version: &str, nonce: &str, of: &[&str]) -> DiscoveryResponse {
    let resources = of.iter().map(|name| resource(kind, name)).collect();
    with(kind, version, nonce, resources)
}

fn with(kind: ResourceType, version: &str, nonce: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_owned(),
        resources,
        type_url: kind.type_url(),
        nonce: nonce.to_owned(),
        ..DiscoveryResponse::default()
    }
}

/// The one request that is due.
fn one(machine: &mut Sotw) -> DiscoveryRequest {
    let mut requests = drain(machine);
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests.remove(0)
}

/// Takes a response in full, and lets go of the acknowledgement.
fn take(machine: &mut Sotw, response: DiscoveryResponse) -> DiscoveryRequest {
    delivered(machine.receive(response, Instant::now()));
    machine.outcome(&accepted());
    one(machine)
}

/// Requests in the order of interest, the node in the first one alone.
#[test]
fn what_is_wanted_is_asked_for() {
    let mut machine = start();
    assert!(machine.next().is_none());
    machine.interest(Interest::All(Cluster));
    machine.interest(subscribe(LoadAssignment, &["b", "a"]));
    machine.interest(subscribe(LoadAssignment, &["c", "a"]));
    let requests = drain(&mut machine);
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].type_url, Cluster.type_url());
    assert!(requests[0].resource_names.is_empty());
    assert_eq!(requests[0].node, Some(node()));
    assert_eq!(requests[1].resource_names, ["a", "b", "c"]);
    assert_eq!(requests[1].node, None);
    machine.interest(subscribe(LoadAssignment, &["a"]));
    assert!(machine.next().is_none(), "nothing is new");
    let mut machine = Sotw::new(origin(), node(), false);
    machine.interest(Interest::All(Cluster));
    machine.interest(Interest::All(Listener));
    assert!(drain(&mut machine).iter().all(|r| r.node.is_some()));
}

/// An acknowledgement follows the outcome and carries nonce and version.
#[test]
fn a_taken_response_is_acknowledged() {
    let mut machine = start();
    machine.interest(Interest::All(Cluster));
    one(&mut machine);
    let received = machine.receive(response(Cluster, "v1", "n1", &["a", "b"]), Instant::now());
    let update = delivered(received);
    assert_eq!(update.extent, Extent::StateOfTheWorld);
    assert_eq!((update.upserts.len(), &*update.version), (2, "v1"));
    assert!(machine.next().is_none(), "not before it is applied");
    let answered = machine.outcome(&accepted()).unwrap();
    assert_eq!(answered.result, Ok("v1".to_owned()));
    let outgoing = machine.next().unwrap();
    assert!(!outgoing.asks);
    let ack = outgoing.message;
    assert_eq!((&*ack.version_info, &*ack.response_nonce), ("v1", "n1"));
    assert!(ack.error_detail.is_none());
    assert!(machine.next().is_none(), "once");
    // An empty world is one, too.
    let update = delivered(machine.receive(response(Cluster, "v2", "n2", &[]), Instant::now()));
    assert_eq!(update.extent, Extent::StateOfTheWorld);
    assert!(update.upserts.is_empty());
}

/// The old version stays in a refusal, and in what follows it; so does the nonce.
#[test]
fn a_refused_response_keeps_the_version() {
    let mut machine = start();
    machine.interest(subscribe(RouteConfiguration, &["a", "b"]));
    one(&mut machine);
    take(
        &mut machine,
        response(RouteConfiguration, "v1", "n1", &["a"]),
    );
    let bad = response(RouteConfiguration, "v2", "n2", &["a", "b"]);
    delivered(machine.receive(bad, Instant::now()));
    let answered = machine
        .outcome(&refused(RouteConfiguration, &["b"]))
        .unwrap();
    assert!(
        answered
            .result
            .unwrap_err()
            .starts_with("1 of 2 routes rejected.")
    );
    let nack = one(&mut machine);
    assert_eq!((&*nack.version_info, &*nack.response_nonce), ("v1", "n2"));
    assert_eq!(nack.error_detail.unwrap().code, 13);
    machine.interest(subscribe(RouteConfiguration, &["c"]));
    let request = one(&mut machine);
    assert_eq!(
        (&*request.version_info, &*request.response_nonce),
        ("v1", "n2")
    );
    assert!(request.error_detail.is_none(), "told once");
    // In whole: nothing is delivered.
    let twice = response(RouteConfiguration, "v3", "n3", &["a", "a"]);
    assert!(answered_err(machine.receive(twice, Instant::now())).contains("twice"));
    let nack = one(&mut machine);
    assert_eq!((&*nack.version_info, &*nack.response_nonce), ("v1", "n3"));
    let ack = take(
        &mut machine,
        response(RouteConfiguration, "v4", "n4", &["a"]),
    );
    assert_eq!((&*ack.version_info, &*ack.response_nonce), ("v4", "n4"));
}

fn answered_err(received: Received) -> String {
    answered(received).result.unwrap_err()
}

/// While a response is being applied, nothing can be said about its type; other types go on.
#[test]
fn a_change_of_interest_waits_for_the_outcome() {
    let mut machine = start();
    machine.interest(subscribe(LoadAssignment, &["a"]));
    one(&mut machine);
    delivered(machine.receive(response(LoadAssignment, "v1", "n1", &["a"]), Instant::now()));
    machine.interest(subscribe(LoadAssignment, &["b"]));
    machine.interest(subscribe(RouteConfiguration, &["r"]));
    assert_eq!(one(&mut machine).resource_names, ["r"]);
    machine.outcome(&accepted());
    let request = one(&mut machine);
    assert_eq!(
        (&*request.version_info, &*request.response_nonce),
        ("v1", "n1")
    );
    assert_eq!(request.resource_names, ["a", "b"]);
}

#[test]
fn an_empty_list_means_everything_only_when_that_is_wanted() {
    let mut machine = start();
    // Never asked for, so there is nothing to give up.
    machine.interest(subscribe(Cluster, &["a"]));
    machine.interest(unsubscribe(Cluster, &["a"]));
    assert!(machine.next().is_none());
    machine.interest(subscribe(Cluster, &["a"]));
    assert_eq!(one(&mut machine).resource_names, ["a"]);
    machine.interest(unsubscribe(Cluster, &["a"]));
    assert!(
        one(&mut machine).resource_names.is_empty(),
        "after a name: nothing"
    );
    machine.connected(false);
    assert!(
        machine.next().is_none(),
        "at the beginning it would be everything"
    );
    // After a name, everything has to be said.
    machine.interest(subscribe(Cluster, &["a"]));
    one(&mut machine);
    machine.interest(Interest::All(Cluster));
    assert_eq!(one(&mut machine).resource_names, ["*", "a"]);
    machine.interest(unsubscribe(Cluster, &["a"]));
    assert_eq!(one(&mut machine).resource_names, ["*"]);
    machine.connected(false);
    assert!(one(&mut machine).resource_names.is_empty());
    machine.interest(subscribe(Cluster, &["b"]));
    assert_eq!(one(&mut machine).resource_names, ["*", "b"]);
}

/// The last name of a type is given up with an empty list, as Envoy does.
#[test]
fn the_last_name_is_given_up() {
    let mut machine = start();
    machine.interest(subscribe(LoadAssignment, &["a"]));
    one(&mut machine);
    take(&mut machine, response(LoadAssignment, "v1", "n1", &["a"]));
    machine.interest(unsubscribe(LoadAssignment, &["a"]));
    let request = one(&mut machine);
    assert!(request.resource_names.is_empty());
    assert_eq!(
        (&*request.version_info, &*request.response_nonce),
        ("v1", "n1")
    );
    // An answer that was on its way is no fault; there is nothing in it for anybody.
    let late = machine.receive(response(LoadAssignment, "v2", "n2", &["a"]), Instant::now());
    assert_eq!(answered(late).result, Ok("v2".to_owned()));
    assert_eq!(one(&mut machine).response_nonce, "n2");
}

/// Whoever gives a name up and takes it again wants to hear of it again.
#[test]
fn a_name_that_is_taken_again_is_seen_to_be_gone_in_between() {
    let mut machine = start();
    machine.interest(subscribe(LoadAssignment, &["a", "b"]));
    one(&mut machine);
    machine.interest(unsubscribe(LoadAssignment, &["a"]));
    machine.interest(subscribe(LoadAssignment, &["a"]));
    let requests = drain(&mut machine);
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].resource_names, ["b"]);
    assert_eq!(requests[1].resource_names, ["a", "b"]);
}

/// The same names and nonce once more.
#[test]
fn a_refresh_repeats_the_request() {
    let mut machine = start();
    let refresh = || Interest::Refresh(LoadAssignment, "a".to_owned());
    machine.interest(refresh());
    assert!(machine.next().is_none(), "nobody has asked");
    machine.interest(subscribe(LoadAssignment, &["a"]));
    machine.interest(refresh());
    one(&mut machine);
    take(&mut machine, response(LoadAssignment, "v1", "n1", &["a"]));
    machine.interest(refresh());
    machine.interest(refresh());
    let request = one(&mut machine);
    assert_eq!(
        (&*request.version_info, &*request.response_nonce),
        ("v1", "n1")
    );
    assert_eq!(request.resource_names, ["a"]);
}

/// A new stream starts with the accepted versions, all names and no nonce.
#[test]
fn a_new_stream_goes_on_where_the_last_one_ended() {
    let mut machine = start();
    machine.interest(Interest::All(Cluster));
    machine.interest(subscribe(LoadAssignment, &["a"]));
    drain(&mut machine);
    take(&mut machine, response(Cluster, "v1", "n1", &["a"]));
    delivered(machine.receive(response(LoadAssignment, "e1", "n2", &["a"]), Instant::now()));
    machine.interest(subscribe(LoadAssignment, &["b"]));
    machine.connected(false);
    assert_eq!(
        machine.outcome(&accepted()),
        None,
        "of a stream that is gone"
    );
    let requests = drain(&mut machine);
    assert_eq!(
        (&*requests[0].version_info, &*requests[0].response_nonce),
        ("v1", "")
    );
    assert!(requests[0].node.is_some() && requests[0].resource_names.is_empty());
    assert_eq!(
        (&*requests[1].version_info, &*requests[1].response_nonce),
        ("", "")
    );
    assert_eq!(requests[1].resource_names, ["a", "b"]);
    assert_eq!(requests.len(), 2);
    // To another server its versions mean nothing.
    machine.connected(true);
    assert!(
        drain(&mut machine)
            .iter()
            .all(|r| r.version_info.is_empty())
    );
}

/// Responses that nobody asked for are not answered; those of version 2 are.
#[test]
fn strange_types_do_no_harm() {
    let mut machine = start();
    let now = Instant::now();
    machine.interest(Interest::All(Cluster));
    one(&mut machine);
    let received = machine.receive(response(RouteConfiguration, "v", "n", &["r"]), now);
    assert!(matches!(received, Received::Ignored));
    let mut unknown = response(Cluster, "v", "n", &[]);
    unknown.type_url = "type.googleapis.com/no.such.Type".to_owned();
    assert!(matches!(machine.receive(unknown, now), Received::Ignored));
    assert!(machine.next().is_none());
    for _ in 0..100 {
        let mut old = response(Cluster, "v", "n9", &[]);
        old.type_url = "type.googleapis.com/envoy.api.v2.Cluster".to_owned();
        assert!(answered_err(machine.receive(old, now)).contains("version 3"));
    }
    let requests = drain(&mut machine);
    assert!((1..=8).contains(&requests.len()), "bounded");
    assert!(requests[0].type_url.ends_with("v2.Cluster"));
    assert_eq!(requests[0].response_nonce, "n9");
    assert!(requests[0].version_info.is_empty());
}

#[test]
fn resources_run_out() {
    let mut machine = start();
    let begin = Instant::now();
    machine.interest(Interest::All(Cluster));
    machine.interest(subscribe(RouteConfiguration, &["r"]));
    drain(&mut machine);
    let limited = |kind, name: &str, body: bool| {
        pack(&wrapper(name, body.then(|| resource(kind, name)), Some(2)))
    };
    let world = vec![limited(Cluster, "a", true), resource(Cluster, "b")];
    delivered(machine.receive(with(Cluster, "v1", "1", world), begin));
    assert_eq!(machine.deadline(), None, "not before it is in use");
    machine.outcome(&accepted());
    assert_eq!(machine.deadline(), Some(after(begin, 2)));
    // A heartbeat: no body. It renews, and delivers nothing.
    let beat = with(Cluster, "v1", "2", vec![limited(Cluster, "a", false)]);
    let beaten = machine.receive(beat, after(begin, 1));
    assert_eq!(answered(beaten).result, Ok("v1".to_owned()));
    assert_eq!(machine.deadline(), Some(after(begin, 3)));
    // With others beside it, it is part of the world.
    let mixed = vec![limited(Cluster, "a", false), resource(Cluster, "c")];
    let update = delivered(machine.receive(with(Cluster, "v2", "3", mixed), after(begin, 2)));
    assert_eq!(update.extent, Extent::Incremental);
    assert_eq!(update.removals, ["b"]);
    assert_eq!(update.upserts, [resource(Cluster, "c")]);
    machine.outcome(&accepted());
    assert!(machine.expire(after(begin, 3)).is_empty());
    let updates = machine.expire(after(begin, 4));
    assert_eq!(updates.len(), 1);
    assert_eq!(
        (updates[0].kind, &*updates[0].removals),
        (Cluster, &names(&["a"])[..])
    );
    assert_eq!(updates[0].extent, Extent::Incremental);
    // Of what is gone there is nothing to renew.
    let beat = with(
        Cluster,
        "v2",
        "4",
        vec![limited(Cluster, "a", false), resource(Cluster, "c")],
    );
    delivered(machine.receive(beat, after(begin, 5)));
    machine.outcome(&accepted());
    assert_eq!(machine.deadline(), None);
    // Sent again, it is delivered again.
    let again = with(Cluster, "v2", "5", vec![limited(Cluster, "a", true)]);
    assert_eq!(
        delivered(machine.receive(again, after(begin, 6)))
            .upserts
            .len(),
        1
    );
    // What was refused has no life, and what nobody wants either.
    machine.outcome(&refused(Cluster, &["a"]));
    assert_eq!(machine.deadline(), None);
    let route = with(
        RouteConfiguration,
        "r1",
        "6",
        vec![limited(RouteConfiguration, "r", true)],
    );
    delivered(machine.receive(route, after(begin, 7)));
    machine.outcome(&accepted());
    assert_eq!(machine.deadline(), Some(after(begin, 9)));
    machine.interest(unsubscribe(RouteConfiguration, &["r"]));
    assert_eq!(machine.deadline(), None);
}
