//! What management servers send: what waits, what stays, what is asked for.

use super::*;
use crate::control::subscriptions::{ADS, Change, Named, Signal};

const CLUSTER: &str =
    "name: c, type: EDS, eds_cluster_config: {service_name: s, eds_config: {ads: {}}}";

fn from_ads(update: Update) -> Update {
    Update {
        origin: Origin::Xds(ADS.into()),
        ..update
    }
}

fn clusters(yaml: &[&str]) -> Update {
    Update {
        extent: Extent::StateOfTheWorld,
        ..from_ads(update(ResourceType::Cluster, yaml))
    }
}

fn gone(kind: ResourceType, name: &str) -> Update {
    from_ads(removal(kind, name))
}

fn listener(name: &str, port: u16, routes: &str) -> Update {
    let text = format!(
        "name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, \
         filter_chains: [{{filters: [{{name: h, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: h, rds: {{route_config_name: {routes}, config_source: {{ads: {{}}}}}}, \
         http_filters: [{{name: r, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]"
    );
    from_ads(update(ResourceType::Listener, &[&text]))
}

fn routes(name: &str, cluster: &str) -> Update {
    let text = format!(
        "name: {name}, virtual_hosts: [{{name: v, domains: [\"*\"], routes: [{{match: {{prefix: /}}, \
         route: {{cluster: {cluster}}}}}]}}]"
    );
    from_ads(update(ResourceType::RouteConfiguration, &[&text]))
}

fn named(kind: ResourceType, name: &str) -> Named {
    Named {
        server: ServerKey::Ads,
        kind,
        name: name.to_owned(),
    }
}

impl Rig {
    fn changes(&mut self) -> Vec<Change> {
        self.control.pipeline.take_source_changes()
    }

    fn waiting(&self, kind: ResourceType) -> usize {
        self.control.pipeline.waiting(kind)
    }
}

fn push(rig: &mut Rig, update: Update) -> Outcome {
    let (answer, _outcome) = oneshot::channel();
    let mut batch = Batch::new(vec![update]);
    batch.answer = Some(answer);
    rig.control.pipeline.apply(&mut batch, Instant::now())
}

fn live() -> Rig {
    let mut rig = rig(vec![]);
    rig.control.begin(vec![]);
    rig
}

/// The endpoints of a new cluster are asked for when it comes, and again when it changes.
#[test]
fn endpoints_are_asked_for_with_their_cluster() {
    let mut rig = live();
    let wanted = named(ResourceType::LoadAssignment, "s");
    rig.apply(vec![clusters(&[CLUSTER])]);
    assert_eq!(
        rig.changes(),
        [Change::Start(Signal::Named(wanted.clone()))]
    );
    assert_eq!(rig.waiting(ResourceType::Cluster), 1);
    rig.apply(vec![from_ads(endpoints(1))]);
    assert_eq!(rig.ports(), ["127.0.0.1:1"]);

    // What is held is used at once, in case it is not sent again.
    rig.apply(vec![clusters(&[&format!(
        "{CLUSTER}, connect_timeout: 2s"
    )])]);
    assert_eq!(rig.changes(), [Change::Refresh(wanted.clone())]);
    assert_eq!(rig.waiting(ResourceType::Cluster), 0);

    rig.apply(vec![clusters(&[])]);
    assert_eq!(rig.changes(), [Change::Stop(Signal::Named(wanted))]);
}

/// What is still referred to stays; what nobody refers to goes.
#[test]
fn a_removal_of_what_is_in_use_takes_nothing_away() {
    let mut rig = live();
    rig.apply(vec![clusters(&[CLUSTER]), from_ads(endpoints(1))]);
    rig.apply(vec![gone(ResourceType::LoadAssignment, "s")]);
    assert_eq!(rig.ports(), ["127.0.0.1:1"]);
    rig.apply(vec![from_ads(endpoints(2))]);
    assert_eq!(rig.ports(), ["127.0.0.1:2"]);

    rig.apply(vec![clusters(&[])]);
    rig.apply(vec![gone(ResourceType::LoadAssignment, "s")]);
    let held = |p: &Pipeline| p.resources(ResourceType::LoadAssignment).len();
    assert_eq!(held(&rig.control.pipeline), 0);
}

/// A cluster learns that there are no endpoints, a listener goes on waiting for its routes.
#[test]
fn what_does_not_exist_is_waited_for_only_by_listeners() {
    let mut rig = live();
    rig.apply(vec![clusters(&[CLUSTER]), listener("l", 1, "r")]);
    rig.apply(vec![gone(ResourceType::LoadAssignment, "s")]);
    assert_eq!(rig.waiting(ResourceType::Cluster), 0);
    assert!(rig.publisher.current().clusters.contains_key("c"));
    rig.apply(vec![gone(ResourceType::RouteConfiguration, "r")]);
    assert_eq!(rig.waiting(ResourceType::Listener), 1);
    rig.apply(vec![routes("r", "c")]);
    assert_eq!(rig.sockets.0.lock().unwrap().listeners, ["l"]);
}

/// A state-of-the-world response without a name takes it away; other types are not touched.
#[test]
fn a_missing_cluster_is_removed() {
    let mut rig = live();
    let second = CLUSTER.replace("name: c", "name: d");
    rig.apply(vec![clusters(&[CLUSTER, &second]), from_ads(endpoints(1))]);
    rig.apply(vec![clusters(&[&second])]);
    assert!(!rig.publisher.current().clusters.contains_key("c"));
    assert!(rig.publisher.current().clusters.contains_key("d"));
    assert!(rig.changes().iter().all(|c| !matches!(c, Change::Stop(_))));
}

/// A cluster stays until the route to it is gone; when its time runs out, it goes at once.
#[test]
fn a_cluster_outlives_the_routes_to_it() {
    let mut rig = live();
    let start = vec![
        clusters(&[CLUSTER]),
        from_ads(endpoints(1)),
        listener("l", 1, "r"),
        routes("r", "c"),
    ];
    rig.apply(start.clone());
    rig.changes();
    push(&mut rig, clusters(&[]));
    assert_eq!(rig.ports(), ["127.0.0.1:1"]);
    assert_eq!(rig.changes(), []);
    push(&mut rig, routes("r", "d"));
    assert!(rig.ports().is_empty());
    let unwanted = Signal::Named(named(ResourceType::LoadAssignment, "s"));
    assert_eq!(rig.changes(), [Change::Stop(unwanted)]);

    // Sent again in between, it is simply there.
    rig.apply(start.clone());
    push(&mut rig, clusters(&[]));
    push(
        &mut rig,
        clusters(&[&format!("{CLUSTER}, connect_timeout: 2s")]),
    );
    push(&mut rig, routes("r", "d"));
    assert_eq!(rig.ports(), ["127.0.0.1:1"]);

    // A route that does not go is not waited for without end.
    rig.apply(vec![routes("r", "c")]);
    push(&mut rig, clusters(&[]));
    rig.control
        .pipeline
        .expire(Instant::now() + super::super::linger::LINGER);
    assert!(rig.ports().is_empty());

    rig.apply(start);
    rig.apply(vec![gone(ResourceType::Cluster, "c")]);
    assert!(rig.ports().is_empty());
}

/// A push that takes away too much is refused once.
#[test]
fn a_push_that_takes_away_too_much_has_to_be_repeated() {
    let guarded = |deletions| {
        let mut rig = rig_with(vec![], deletions);
        rig.control.begin(vec![]);
        let names = ["a", "b", "c", "d"].map(|name| format!("name: {name}, type: STATIC"));
        push(&mut rig, clusters(&names.each_ref().map(String::as_str)));
        rig
    };
    let left = |rig: &Rig| rig.publisher.current().clusters.len();
    let few = clusters(&["name: a, type: STATIC"]);

    let mut rig = guarded(Deletions::AtMost(50));
    let outcome = push(&mut rig, few.clone());
    assert_eq!(
        outcome.rejected[0].to_string(),
        "cluster \"\": takes away 3 of 4, which is more than 50 %; refused once, taken if it is \
         repeated"
    );
    assert_eq!(left(&rig), 4);
    assert!(push(&mut rig, few.clone()).rejected.is_empty());
    rig.control.pipeline.expire(Instant::now());
    assert_eq!(left(&rig), 1);

    let mut rig = guarded(Deletions::Ignored);
    assert!(push(&mut rig, few.clone()).rejected.is_empty());
    assert_eq!(left(&rig), 4);

    let mut rig = guarded(Deletions::AtMost(75));
    assert!(push(&mut rig, few).rejected.is_empty());
    assert_eq!(left(&rig), 1);
}

/// The good ones of a push are applied, the bad one is named.
#[test]
fn one_bad_resource_does_not_spoil_its_neighbours() {
    let mut rig = live();
    let bad = "name: bad, type: STATIC, connect_timeout: -1s";
    let outcome = rig.apply(vec![clusters(&[CLUSTER, bad]), from_ads(endpoints(1))]);
    let [rejected] = &outcome.rejected[..] else {
        panic!("{outcome:?}")
    };
    assert_eq!(rejected.name, "bad");
    assert_eq!(rig.ports(), ["127.0.0.1:1"]);
}

/// A name that is reserved for circuits is refused from anybody else.
#[test]
fn reserved_names_are_refused() {
    let mut rig = live();
    let outcome = rig.apply(vec![clusters(&["name: circuit/x, type: STATIC"])]);
    assert!(outcome.rejected[0].to_string().contains("reserved"));
}

/// Whatever the order in which the parts of a set arrive, what is served in the end is the
/// same.
#[test]
fn any_order_of_arrival_leads_to_the_same_snapshot() {
    for seed in 0..60_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(1..6);
        let mut parts = Vec::new();
        for i in 0..count {
            let cluster = format!(
                "name: c{i}, type: EDS, connect_timeout: {}s, \
                 eds_cluster_config: {{service_name: s{}, eds_config: {{ads: {{}}}}}}",
                random.u32(1..4),
                random.usize(0..count),
            );
            parts.push(from_ads(update(ResourceType::Cluster, &[&cluster])));
            let mut assignment = endpoints(random.u16(1..9));
            let text = format!(
                "cluster_name: s{i}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
                 {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]",
                random.u16(1..9)
            );
            assignment.upserts = vec![any(ResourceType::LoadAssignment, &text)];
            parts.push(from_ads(assignment));
            parts.push(listener(&format!("l{i}"), 100, &format!("r{i}")));
            let target = format!("c{}", random.usize(0..count + 1));
            parts.push(routes(&format!("r{i}"), &target));
        }
        let mut outcomes = Vec::new();
        for _ in 0..4 {
            random.shuffle(&mut parts);
            let mut rig = live();
            for part in &parts {
                rig.apply(vec![part.clone()]);
            }
            outcomes.push(shown(&rig));
        }
        let first = outcomes[0].clone();
        assert!(
            outcomes.iter().all(|o| *o == first),
            "seed {seed}: {outcomes:#?}"
        );
    }
}

/// What traffic would see.
fn shown(rig: &Rig) -> (Vec<String>, Vec<String>, Vec<String>) {
    let snapshot = rig.publisher.current();
    let clusters = snapshot.clusters.values().map(|c| {
        let ports: Vec<String> = c.endpoints.all().iter().map(|e| e.to_string()).collect();
        format!("{:?} {ports:?}", c.model)
    });
    let mut clusters: Vec<String> = clusters.collect();
    let listeners = snapshot
        .listeners
        .values()
        .map(|l| format!("{:?}", l.model));
    let mut listeners: Vec<String> = listeners.collect();
    let mut routes: Vec<String> = snapshot.routes.keys().map(ToString::to_string).collect();
    clusters.sort();
    listeners.sort();
    routes.sort();
    (clusters, listeners, routes)
}

/// With one filter that is configured elsewhere, under the listener's own name.
fn filtered(name: &str, more: &str) -> Update {
    let text = format!(
        "name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}, \
         filter_chains: [{{filters: [{{name: h, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: h, route_config: {{name: r}}, http_filters: [{{name: {name}, config_discovery: \
         {{config_source: {{ads: {{}}}}, type_urls: [x/causeway.v1.Forwarded] {more}}}}}, \
         {{name: r, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]"
    );
    from_ads(update(ResourceType::Listener, &[&text]))
}

fn filter_config(name: &str, message: &str) -> Update {
    let config = format!("{{\"@type\": type.googleapis.com/causeway.v1.{message}}}");
    let text = format!("name: {name}, typed_config: {config}");
    from_ads(update(ResourceType::FilterConfig, &[&text]))
}

#[test]
fn a_listener_waits_for_the_configuration_of_its_filters() {
    let mut rig = live();
    let waiting = |rig: &Rig| rig.waiting(ResourceType::Listener);
    rig.apply(vec![filtered("a", "")]);
    let wanted = Signal::Named(named(ResourceType::FilterConfig, "a"));
    assert_eq!(rig.changes(), [Change::Start(wanted.clone())]);
    assert_eq!(waiting(&rig), 1);
    assert!(
        push(&mut rig, filter_config("a", "Forwarded"))
            .rejected
            .is_empty()
    );
    assert_eq!(waiting(&rig), 0);

    // The server has none, or none of the right type: there is nothing to wait for.
    rig.apply(vec![filtered("b", "")]);
    push(&mut rig, gone(ResourceType::FilterConfig, "b"));
    assert_eq!(waiting(&rig), 0);
    rig.apply(vec![filtered("c", "")]);
    let refused = push(&mut rig, filter_config("c", "PathPrefix")).rejected;
    assert_eq!(
        refused[0].to_string(),
        "filter_config \"c\": typed_config: is a causeway.v1.PathPrefix, expected causeway.v1.Forwarded"
    );
    assert_eq!(waiting(&rig), 0);

    // Or it says nothing.
    rig.apply(vec![filtered("d", "")]);
    assert_eq!(waiting(&rig), 1);
    let late = Instant::now() + Duration::from_secs(16);
    rig.control.pipeline.expire(late);
    assert_eq!(waiting(&rig), 0);
    let more = ", apply_default_config_without_warming: true, default_config: \
        {\"@type\": type.googleapis.com/causeway.v1.Forwarded}";
    rig.apply(vec![filtered("e", more)]);
    assert_eq!(waiting(&rig), 0);

    rig.changes();
    rig.apply(vec![gone(ResourceType::Listener, "a")]);
    assert_eq!(rig.changes(), [Change::Stop(wanted)]);
}
