mod endpoints;
mod management;

use std::sync::Mutex;

use causeway_xds::proto::Any;
use causeway_xds::source::{Extent, OnRejection, Origin, Source};
use causeway_xds::text;
use tokio::sync::oneshot;

use super::*;

/// Remembers what it was told; refuses addresses on request.
#[derive(Clone, Default)]
struct Sockets(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    generations: Vec<u64>,
    listeners: Vec<String>,
    refuse: Option<String>,
}

impl Reconcile for Sockets {
    fn reconcile(&mut self, _: &Snapshot, next: &Snapshot, _: &[Retired]) -> Vec<BindFailure> {
        let mut told = self.0.lock().unwrap();
        told.generations.push(next.generation);
        told.listeners = next.listeners.keys().map(ToString::to_string).collect();
        let refused = next
            .listeners
            .values()
            .filter(|l| Some(&*l.name) == told.refuse.as_deref());
        refused
            .map(|l| BindFailure {
                listener: Arc::clone(&l.name),
                address: l.bind.to_string(),
                error: std::io::ErrorKind::AddrInUse.into(),
            })
            .collect()
    }
}

struct Rig {
    control: Control,
    handle: ControlHandle,
    sockets: Sockets,
    stats: Arc<Stats>,
    publisher: Publisher,
}

fn rig(roots: Vec<Root>) -> Rig {
    rig_with(roots, Deletions::default())
}

fn rig_with(roots: Vec<Root>, deletions: Deletions) -> Rig {
    let (sockets, stats) = (Sockets::default(), Arc::<Stats>::default());
    let publisher = Publisher::default();
    let (control, handle) = Control::new(Start {
        registry: Default::default(),
        stats: Arc::clone(&stats),
        publisher: publisher.clone(),
        reconcile: Box::new(sockets.clone()),
        roots,
        servers: Box::new(sources::NoServers),
        resolver: None,
        load_reports: None,
        home: None,
        gated: true,
        deletions,
        cache: None,
    });
    Rig {
        control,
        handle,
        sockets,
        stats,
        publisher,
    }
}

fn any(kind: ResourceType, yaml: &str) -> Any {
    let text = format!("{{\"@type\": {}, {yaml}}}", kind.type_url());
    text::parse_any(&text, &text::Options::default()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn update(kind: ResourceType, yaml: &[&str]) -> Update {
    Update {
        origin: Origin::Static,
        kind,
        version: "1".to_owned(),
        extent: Extent::Incremental,
        upserts: yaml.iter().map(|text| any(kind, text)).collect(),
        listing: None,
        removals: Vec::new(),
    }
}

fn removal(kind: ResourceType, name: &str) -> Update {
    Update {
        removals: vec![name.to_owned()],
        ..update(kind, &[])
    }
}

const EDS: &str =
    "name: c, type: EDS, eds_cluster_config: {service_name: s, eds_config: {self: {}}}";
const STATIC: &str = "name: c, type: STATIC";

fn endpoints(port: u16) -> Update {
    let text = format!(
        "cluster_name: s, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]"
    );
    update(ResourceType::LoadAssignment, &[&text])
}

fn tcp_listener(name: &str, port: u16) -> Update {
    let text = format!(
        "name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, \
         filter_chains: [{{filters: [{{name: t, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
         stat_prefix: t, cluster: c}}}}]}}]"
    );
    update(ResourceType::Listener, &[&text])
}

impl Rig {
    fn apply(&mut self, updates: Vec<Update>) -> Outcome {
        self.control
            .pipeline
            .apply(&mut Batch::new(updates), Instant::now())
    }

    fn apply_or_nothing(&mut self, updates: Vec<Update>) -> Outcome {
        let mut batch = Batch::new(updates);
        batch.on_rejection = OnRejection::ApplyNothing;
        self.control.pipeline.apply(&mut batch, Instant::now())
    }

    fn ports(&self) -> Vec<String> {
        let snapshot = self.publisher.current();
        let Some(cluster) = snapshot.clusters.get("c") else {
            return Vec::new();
        };
        let all = cluster.endpoints.all().iter();
        all.map(|e| e.to_string()).collect()
    }
}

#[test]
fn equal_content_publishes_nothing() {
    let mut rig = rig(vec![]);
    let first = rig
        .control
        .begin(vec![update(ResourceType::Cluster, &[STATIC])]);
    assert_eq!((first.generation, first.changed), (1, true));
    let second = rig.apply(vec![update(ResourceType::Cluster, &[STATIC])]);
    assert_eq!((second.generation, second.changed), (1, false));
    assert_eq!(rig.stats.pipeline.equal_updates.value(), 1);
    assert_eq!(rig.sockets.0.lock().unwrap().generations, [1]);
}

#[test]
fn a_changed_cluster_serves_its_earlier_version_until_its_endpoints_are_there() {
    let mut rig = rig(vec![]);
    rig.control
        .begin(vec![update(ResourceType::Cluster, &[EDS]), endpoints(1)]);
    assert_eq!(rig.ports(), ["127.0.0.1:1"]);
    let moved = EDS.replace("service_name: s", "service_name: t");
    let outcome = rig.apply(vec![update(ResourceType::Cluster, &[&moved])]);
    assert!(!outcome.changed);
    // An update of the version in use still reaches it.
    rig.apply(vec![endpoints(2)]);
    assert_eq!(rig.ports(), ["127.0.0.1:2"]);
    let status = &rig.control.pipeline.resources(ResourceType::Cluster)[0];
    assert_eq!(status.warming_for, ["endpoints \"t\""]);
    assert_eq!(status.active_since, None);
    assert!(status.earlier.is_some());
    rig.control
        .pipeline
        .expire(Instant::now() + Duration::from_secs(16));
    assert!(rig.ports().is_empty());
    let status = &rig.control.pipeline.resources(ResourceType::Cluster)[0];
    assert_eq!(
        (status.active_since, status.earlier.is_none()),
        (Some(3), true)
    );
}

#[test]
fn listeners_open_after_the_first_clusters() {
    let mut rig = rig(vec![]);
    let updates = vec![tcp_listener("l", 10), update(ResourceType::Cluster, &[EDS])];
    assert!(!rig.control.begin(updates).changed);
    assert_eq!(rig.handle.readiness.state(), State::PreInitializing);
    let outcome = rig.apply(vec![endpoints(1)]);
    assert_eq!((outcome.generation, outcome.changed), (1, true));
    assert_eq!(rig.sockets.0.lock().unwrap().listeners, ["l"]);
    assert_eq!(rig.handle.readiness.state(), State::Live);
    // A removal needs no warming.
    assert!(
        rig.apply(vec![removal(ResourceType::Listener, "l")])
            .changed
    );
    assert!(rig.sockets.0.lock().unwrap().listeners.is_empty());
}

#[test]
fn a_bad_resource_does_not_spoil_its_neighbours() {
    let mut rig = rig(vec![]);
    rig.control.begin(vec![]);
    let bad = "name: d, type: STATIC, connect_timeout: -1s";
    let outcome = rig.apply(vec![update(ResourceType::Cluster, &[STATIC, bad])]);
    assert!(outcome.changed);
    assert_eq!(outcome.rejected.len(), 1);
    let all = rig.control.pipeline.resources(ResourceType::Cluster);
    assert_eq!((&*all[0].name, all[0].active_since), ("c", Some(1)));
    let rejection = all[1].rejected.as_ref().unwrap();
    assert!(
        rejection.details.contains("connect_timeout"),
        "{rejection:?}"
    );
    let none = rig.apply_or_nothing(vec![
        removal(ResourceType::Cluster, "c"),
        update(ResourceType::Cluster, &[bad]),
    ]);
    assert!(!none.changed);
    assert_eq!(rig.publisher.current().clusters.len(), 1);
}

#[test]
fn what_only_fails_in_use_is_found_in_its_text_too() {
    let mut rig = rig(vec![]);
    rig.sockets.0.lock().unwrap().refuse = Some("l".to_owned());
    let text = "resources:\n- name: l\n  address: {}\n";
    let document = text::Document::new(Some("lds.yaml"), text);
    let listener = Update {
        listing: Some(text::Listing::new(document, "resources")),
        ..tcp_listener("l", 10)
    };
    let outcome = rig.control.begin(vec![listener]);
    let place = "lds.yaml: line 3, column 3: ";
    let said = outcome.rejected[0].to_string();
    assert!(
        said.starts_with(&format!("{place}listener \"l\": address: ")),
        "{said}"
    );
    let status = &rig.control.pipeline.resources(ResourceType::Listener)[0];
    let details = &status.rejected.as_ref().unwrap().details;
    assert!(
        details.starts_with(&format!("{place}address: ")),
        "{details}"
    );
}

#[test]
fn a_push_whose_port_is_taken_is_taken_back() {
    let mut rig = rig(vec![]);
    rig.control
        .begin(vec![update(ResourceType::Cluster, &[STATIC])]);
    rig.sockets.0.lock().unwrap().refuse = Some("l".to_owned());
    let push = || {
        vec![
            tcp_listener("l", 10),
            update(ResourceType::Cluster, &[EDS]),
            endpoints(1),
        ]
    };
    let outcome = rig.apply_or_nothing(push());
    assert!(!outcome.changed);
    assert_eq!(outcome.rejected[0].invalid.path.as_str(), "address");
    let snapshot = rig.publisher.current();
    assert!(snapshot.listeners.is_empty());
    assert!(rig.ports().is_empty());
    assert_eq!(snapshot.clusters.len(), 1);
    assert_eq!(outcome.generation, snapshot.generation);
    // Once the port is free the same push goes through.
    rig.sockets.0.lock().unwrap().refuse = None;
    let outcome = rig.apply_or_nothing(push());
    assert!(outcome.changed && outcome.rejected.is_empty());
    assert_eq!(rig.ports(), ["127.0.0.1:1"]);
}

#[test]
fn a_listener_that_cannot_be_bound_is_tried_again_when_it_is_sent_again() {
    let mut rig = rig(vec![]);
    rig.sockets.0.lock().unwrap().refuse = Some("l".to_owned());
    let outcome = rig.control.begin(vec![tcp_listener("l", 10)]);
    assert_eq!(outcome.rejected.len(), 1);
    let status = &rig.control.pipeline.resources(ResourceType::Listener)[0];
    assert!(status.rejected.is_some() && status.active_since.is_none());
    rig.sockets.0.lock().unwrap().refuse = None;
    assert!(rig.apply(vec![tcp_listener("l", 10)]).rejected.is_empty());
    let status = &rig.control.pipeline.resources(ResourceType::Listener)[0];
    assert!(status.rejected.is_none() && status.active_since.is_some());
}

#[tokio::test]
async fn files_are_followed_while_something_refers_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("eds.yaml");
    let write = |port: u16| {
        let new = dir.path().join("new");
        let text = format!(
            "resources: [{{\"@type\": type.googleapis.com/envoy.config.endpoint.v3.\
             ClusterLoadAssignment, cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: \
             {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}]"
        );
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    write(1);
    let Rig {
        mut control,
        handle,
        publisher,
        ..
    } = rig(vec![]);
    let cluster = format!(
        "name: c, type: EDS, eds_cluster_config: {{eds_config: {{path_config_source: \
         {{path: {}}}}}}}",
        path.display()
    );
    control.begin(vec![update(ResourceType::Cluster, &[&cluster])]);
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(control.run(async move { drop(stopped.await) }));
    let shows = async |port: u16| {
        let want = format!("127.0.0.1:{port}");
        for _ in 0..1000 {
            let snapshot = publisher.current();
            let cluster = snapshot.clusters.get("c");
            if cluster.is_some_and(|c| c.endpoints.all().iter().any(|e| e.to_string() == want)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("port {port} never came");
    };
    shows(1).await;
    write(2);
    shows(2).await;
    let apply = |updates| handle.apply(updates, OnRejection::ApplyOthers);
    assert!(
        apply(vec![removal(ResourceType::Cluster, "c")])
            .await
            .unwrap()
            .changed
    );
    let left = handle.query(|p| p.resources(ResourceType::LoadAssignment).len());
    assert_eq!(left.await.unwrap(), 0);
    stop.send(()).unwrap();
    task.await.unwrap();
    assert!(apply(vec![]).await.is_err());
}

/// Says nothing.
struct Silent;

impl Source for Silent {
    fn origin(&self) -> Origin {
        Origin::Coordinator
    }

    fn run(
        self: Box<Self>,
        batches: Batches,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { batches.closed().await })
    }
}

#[tokio::test]
async fn a_silent_source_holds_listeners_back_only_for_its_timeout() {
    let Rig {
        mut control,
        handle,
        publisher,
        ..
    } = rig(vec![Root {
        from: RootSource::Source(Box::new(Silent)),
        kind: ResourceType::Cluster,
        initial_fetch_timeout: Duration::from_millis(50),
    }]);
    assert!(!control.begin(vec![tcp_listener("l", 10)]).changed);
    assert_eq!(handle.readiness.state(), State::PreInitializing);
    tokio::spawn(control.run(std::future::pending()));
    for _ in 0..1000 {
        if handle.readiness.state() == State::Live {
            assert_eq!(publisher.current().listeners.len(), 1);
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never live");
}

#[test]
fn a_deadline_for_first_checks_that_has_passed_is_not_waited_for_again() {
    const CHECKED: &str = "name: k, type: STATIC, connect_timeout: 1s, load_assignment: \
        {cluster_name: k, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: \
        {address: 127.0.0.1, port_value: 1}}}}]}]}, health_checks: [{timeout: 1s, interval: 1s, \
        unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]";
    let mut rig = rig(vec![]);
    // Listeners wait for the checks of one cluster, and longer for the endpoints of the other.
    rig.control
        .begin(vec![update(ResourceType::Cluster, &[CHECKED, EDS])]);
    let pipeline = &mut rig.control.pipeline;
    let mut steps = 0;
    let mut now = Instant::now();
    pipeline.expire(now);
    while let Some(deadline) = pipeline.next_deadline() {
        assert!(deadline > now, "step {steps}: {:?}", now - deadline);
        now = deadline;
        pipeline.expire(now);
        steps += 1;
        assert!(steps < 10);
    }
    assert!(steps >= 2);
}
