//! What is known of endpoints outlives the way they are connected to.

use super::*;
use crate::cluster::Cluster;
use crate::cluster::outlier::Outcome;
use crate::upstream::endpoint::{Availability, Finding};
use crate::upstream::{Endpoint, Transport};

const WATCHED: &str = "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, \
     tcp_health_check: {}}], outlier_detection: {consecutive_5xx: 3, max_ejection_percent: 100}";
const ENDPOINTS: &str = "load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [\
     {endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}}, \
     {endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 80}}}}]}]}";

/// Control with one cluster, and what data threads tell it.
struct World {
    rig: Rig,
    received: Received,
}

impl World {
    fn new() -> Self {
        let mut rig = rig(vec![]);
        rig.control.begin(vec![]);
        let received = rig.control.pipeline.take_reports().unwrap();
        Self { rig, received }
    }

    fn cluster(&mut self, more: &str) -> Arc<Cluster> {
        let text = format!("name: c, {more}");
        self.rig
            .apply(vec![update(ResourceType::Cluster, &[&text])]);
        self.follow();
        self.now()
    }

    fn now(&self) -> Arc<Cluster> {
        let snapshot = self.rig.publisher.current();
        Arc::clone(&snapshot.clusters["c"])
    }

    /// What control does once a change is in force, but for the checks themselves.
    fn follow(&mut self) {
        let names = self.rig.control.pipeline.take_checked();
        let (snapshot, now) = (self.rig.control.pipeline.snapshot(), Instant::now());
        self.rig.control.destinations.follow(&names, &snapshot, now);
        let outliers = &mut self.rig.control.outliers;
        let changed = outliers.follow(&names, &snapshot, &self.rig.stats, now);
        self.rig.control.pipeline.refresh(&changed, now);
    }

    /// Answers enough of the bad kind, of which control hears.
    fn eject(&mut self, cluster: &Cluster, endpoint: &Endpoint) {
        (0..3).for_each(|_| cluster.note(endpoint, Outcome::Answered(500)));
        self.hear();
    }

    fn hear(&mut self) {
        let mut reports = Vec::new();
        while let Ok(report) = self.received.try_recv() {
            reports.push(report);
        }
        self.rig.control.reported(&mut reports, Instant::now());
    }

    fn ejected(&self) -> i64 {
        let counts = self.rig.stats.outlier_detection("c");
        counts.ejections_active.value()
    }
}

#[test]
fn a_change_of_transport_keeps_what_checks_and_requests_have_found_out() {
    let mut world = World::new();
    let first = world.cluster(&format!("type: STATIC, {WATCHED}, {ENDPOINTS}"));
    let [good, bad] = first.endpoints.all() else {
        panic!("{:?}", first.endpoints)
    };
    assert_eq!(good.availability(), Availability::Unhealthy);
    for endpoint in [good, bad] {
        endpoint.find(Finding::PendingActive, false);
        endpoint.find(Finding::FailedActive, false);
    }
    world.eject(&first, bad);
    bad.shun();
    good.grow_old();
    assert_eq!(world.ejected(), 1);

    let second = world.cluster(&format!(
        "type: STATIC, connect_timeout: 3s, {WATCHED}, {ENDPOINTS}"
    ));
    let [new_good, new_bad] = second.endpoints.all() else {
        panic!("{:?}", second.endpoints)
    };
    assert!(good.is_retired() && bad.is_retired());
    assert!(!new_good.is_retired() && new_good.uid != good.uid);
    assert_eq!(new_good.availability(), Availability::Healthy);
    assert_eq!(new_good.fresh_since(), 0);
    assert!(new_bad.is_found(Finding::FailedOutlier));
    // That it could not be connected to was true of the other way.
    assert!(!new_bad.is_shunned());
    assert_eq!(world.ejected(), 1);
    // The ejection is still one that ends.
    world
        .rig
        .control
        .outliers
        .due(Instant::now() + Duration::from_secs(3600));
    assert_eq!(new_bad.availability(), Availability::Healthy);
    assert_eq!(world.ejected(), 0);
}

#[test]
fn failures_on_old_connections_count_for_the_endpoint_that_took_over() {
    let mut world = World::new();
    let first = world.cluster(&format!("type: STATIC, {WATCHED}, {ENDPOINTS}"));
    let old = Arc::clone(&first.endpoints.all()[0]);
    first.note(&old, Outcome::Answered(500));
    let second = world.cluster(&format!(
        "type: STATIC, connect_timeout: 3s, {WATCHED}, {ENDPOINTS}"
    ));
    let new = &second.endpoints.all()[0];
    second.note(new, Outcome::Answered(500));
    first.note(&old, Outcome::Answered(500));
    world.hear();
    assert!(new.is_found(Finding::FailedOutlier));
}

#[test]
fn a_destination_that_is_forgotten_is_no_longer_counted_as_ejected() {
    let mut world = World::new();
    let original = "type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, cleanup_interval: 1s, \
         outlier_detection: {consecutive_5xx: 3, max_ejection_percent: 100}";
    let cluster = world.cluster(original);
    let known = cluster.original_dst.as_ref().unwrap();
    let address = "10.0.0.1:80".parse().unwrap();
    let endpoint = known.endpoint(address, &cluster.transport.stats).unwrap();
    world.eject(&cluster, &endpoint);
    assert_eq!(world.ejected(), 1);

    // Another way to connect is no pardon.
    let cluster = world.cluster(&format!("connect_timeout: 3s, {original}"));
    let known = cluster.original_dst.as_ref().unwrap();
    let new = known.endpoint(address, &cluster.transport.stats).unwrap();
    assert!(endpoint.is_retired() && new.uid != endpoint.uid);
    assert!(new.is_found(Finding::FailedOutlier));
    assert_eq!(world.ejected(), 1);

    let mut now = Instant::now();
    for _ in 0..2 {
        now += Duration::from_secs(2);
        let fewer = world.rig.control.destinations.sweep(now);
        world.rig.control.outliers.forget_gone(&fewer);
    }
    assert!(known.all().is_empty() && world.ejected() == 0);
}

#[test]
fn without_outlier_detection_destinations_are_not_ejected_any_more() {
    let mut world = World::new();
    let original = "type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED";
    let cluster = world.cluster(&format!(
        "outlier_detection: {{consecutive_5xx: 3, max_ejection_percent: 100}}, {original}"
    ));
    let known = cluster.original_dst.as_ref().unwrap();
    let address = "10.0.0.1:80".parse().unwrap();
    let endpoint = known.endpoint(address, &cluster.transport.stats).unwrap();
    world.eject(&cluster, &endpoint);
    assert!(endpoint.is_found(Finding::FailedOutlier));
    world.cluster(original);
    assert!(!endpoint.is_found(Finding::FailedOutlier));
}

#[test]
fn clusters_share_what_their_connections_need_while_their_options_are_the_same() {
    let mut rig = rig(vec![]);
    rig.control.begin(vec![]);
    let clusters = |timeout_of_b: u32| {
        let text = |name: &str, seconds: u32| format!("name: {name}, connect_timeout: {seconds}s");
        [text("a", 3), text("b", timeout_of_b), text("c", 3)]
    };
    let mut apply = |timeout_of_b: u32| {
        let all = clusters(timeout_of_b);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        rig.apply(vec![update(ResourceType::Cluster, &all)]);
        let snapshot = rig.publisher.current();
        ["a", "b", "c"].map(|name| Arc::clone(&snapshot.clusters[name].transport))
    };
    let same = |a: &Transport, b: &Transport| Arc::ptr_eq(&a.settings, &b.settings);
    let [a, b, c] = apply(3);
    assert!(same(&a, &b) && same(&b, &c));
    let [after_a, other, after_c] = apply(4);
    assert!(Arc::ptr_eq(&a, &after_a) && Arc::ptr_eq(&c, &after_c));
    assert!(!same(&a, &other));
    assert_eq!(
        (a.connect_timeout, other.connect_timeout),
        (Duration::from_secs(3), Duration::from_secs(4))
    );
    let [_, back, _] = apply(3);
    assert!(same(&a, &back) && !Arc::ptr_eq(&b, &back));
}
