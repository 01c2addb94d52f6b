//! A cluster of simulated servers behind the balancer, the outlier detection, the slow start and the
//! thresholds of health checks that the program itself runs.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causeway::cluster::health_check::progress::{Progress, Step, Verdict};
use causeway::cluster::outlier::{Detector, Outcome, Received};
use causeway::cluster::{Cluster, Wish};
use causeway::filter::Registry;
use causeway::snapshot::{Compiler, Snapshot};
use causeway::telemetry::stats::Stats;
use causeway::upstream::Endpoint;
use causeway::upstream::endpoint::Finding;
use causeway_xds::ResourceType;
use causeway_xds::extension::Unchecked;
use causeway_xds::source::{Batch, Extent, Origin, Update};
use causeway_xds::store::ResourceStore;
use causeway_xds::text;
use serde_json::{Value, json};

use crate::report::Report;
use crate::scenario::{Policy, Scenario, Watch};
use crate::server::{MS, Micros, SECOND, SERVICE, Server, State, exponential};

/// What a client waits at most.
const PATIENCE: Micros = 2 * SECOND;
const CONNECT_TIMEOUT: Micros = SECOND;
const CHECK_INTERVAL: Micros = 2 * SECOND;
/// How long changes of health are collected, as by default.
const MERGE_WINDOW: Micros = SECOND;
/// Of one request, as with `num_retries: 2` and `retry_on: connect-failure,reset`.
const ATTEMPTS: usize = 3;
const CLUSTER: &str = "c";

struct Request {
    arrived: Micros,
    hash: u64,
    tried: Vec<u64>,
    /// Where it is now.
    at: Option<(usize, Arc<Endpoint>)>,
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    /// The answer of this attempt of a request.
    Answer(usize, usize),
    /// There was no connection in time.
    ConnectTimeout(usize, usize),
    /// The client gives up.
    GiveUp(usize),
    Check(usize),
    Tick,
    /// Balancers see what checks have found out.
    Merge,
    /// The next thing of the scenario.
    Act(usize),
}

pub struct Fleet {
    scenario: Scenario,
    watch: Watch,
    now: Micros,
    began: Instant,
    clock: tokio::time::Instant,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    sequence: u64,
    random: fastrand::Rng,
    servers: Vec<Server>,
    requests: Vec<Request>,
    report: Report,
    store: ResourceStore,
    compiler: Compiler,
    stats: Arc<Stats>,
    snapshot: Snapshot,
    received: Received,
    detector: Option<Detector>,
    merging: bool,
    /// Which servers the cluster has now.
    members: Vec<usize>,
    /// Where each endpoint is in the cluster.
    places: HashMap<u64, usize>,
}

impl Fleet {
    pub fn new(policy: Policy, watch: Watch, scenario: Scenario, seed: u64) -> Self {
        fastrand::seed(seed);
        let random = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let stats = Arc::<Stats>::default();
        let mut compiler = Compiler::new(Arc::clone(&stats), Registry::default());
        let received = compiler.take_reports().unwrap();
        let members: Vec<usize> = (0..scenario.servers).collect();
        let mut fleet = Self {
            watch,
            now: 0,
            began: Instant::now(),
            clock: tokio::time::Instant::now(),
            events: BinaryHeap::new(),
            sequence: 0,
            random,
            servers: Vec::new(),
            requests: Vec::new(),
            report: Report::default(),
            store: ResourceStore::new(),
            compiler,
            stats,
            snapshot: Snapshot::default(),
            received,
            detector: None,
            merging: false,
            members,
            places: HashMap::new(),
            scenario,
        };
        for _ in 0..fleet.scenario.servers {
            fleet.start_server(false);
        }
        let slow_start = fleet.scenario.slow_start;
        let cluster = policy.cluster(CLUSTER, watch, slow_start);
        fleet.apply(ResourceType::Cluster, &cluster);
        fleet.assign();
        let cluster = fleet.cluster();
        for endpoint in cluster.endpoints.all() {
            // They are no news, and have passed their first check.
            endpoint.find(Finding::PendingActive, false);
            endpoint.find(Finding::FailedActive, false);
        }
        fleet.refresh();
        if let Some(detection) = &cluster.outlier {
            let counts = fleet.stats.outlier_detection(CLUSTER);
            let detector = Detector::new(Arc::clone(detection), counts);
            let interval = detector.interval();
            fleet.detector = Some(detector);
            fleet.at(micros(interval), Event::Tick);
        }
        fleet
    }

    fn apply(&mut self, kind: ResourceType, message: &Value) {
        let mut message = message.clone();
        message["@type"] = json!(kind.type_url());
        let any = text::parse_any(&message.to_string(), &text::Options::default()).unwrap();
        let update = Update {
            origin: Origin::Static,
            kind,
            version: String::new(),
            extent: Extent::Incremental,
            upserts: vec![any],
            listing: None,
            removals: Vec::new(),
        };
        let mut batch = Batch::new(vec![update]);
        let applied = self.store.apply(&mut batch, &Unchecked, SystemTime::now());
        assert!(applied.rejected.is_empty(), "{:?}", applied.rejected);
        let compiled = self
            .compiler
            .compile(&self.store, &applied.changes, &self.snapshot);
        self.snapshot = compiled.snapshot;
    }

    /// Tells the cluster of its members.
    fn assign(&mut self) {
        let endpoint = |server: &usize| {
            let port = 1 + server % 60_000;
            let address = json!({"address": "127.0.0.1", "port_value": port});
            json!({"endpoint": {"address": {"socket_address": address}}})
        };
        let endpoints: Vec<Value> = self.members.iter().map(endpoint).collect();
        let assignment =
            json!({"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": endpoints}]});
        self.apply(ResourceType::LoadAssignment, &assignment);
        let cluster = self.cluster();
        let all = cluster.endpoints.all();
        self.places = (0..).zip(all).map(|(place, e)| (e.uid, place)).collect();
        if let Some(detector) = &mut self.detector {
            detector.follow(all);
        }
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.snapshot.clusters[CLUSTER])
    }

    fn start_server(&mut self, cold: bool) -> usize {
        let server = self.servers.len();
        self.servers.push(Server {
            state: State::Up,
            free_at: 0,
            started: if cold { self.now + 1 } else { 0 },
            running: BTreeSet::new(),
            progress: Progress::new(true),
        });
        if self.watch.checks() {
            let first = self.now + self.random.u64(..CHECK_INTERVAL);
            self.at(first, Event::Check(server));
        }
        server
    }

    /// Replaces these servers by new ones; what they work on is finished.
    pub fn replace(&mut self, places: std::ops::Range<usize>) {
        for place in places {
            let server = self.start_server(true);
            self.members[place] = server;
        }
        self.assign();
        for endpoint in self.cluster().endpoints.all() {
            // The rollout has waited until the new ones were ready.
            if endpoint.find(Finding::PendingActive, false) {
                endpoint.find(Finding::FailedActive, false);
            }
        }
        self.refresh();
    }

    /// All at one moment.
    pub fn set(&mut self, places: std::ops::Range<usize>, state: State) {
        let mut lost = Vec::new();
        for place in places {
            let server = &mut self.servers[self.members[place]];
            server.state = state;
            if state == State::Dead {
                // It takes down what it was working on.
                lost.extend(std::mem::take(&mut server.running));
                server.free_at = self.now;
            }
        }
        for request in lost {
            self.lost(request, Outcome::Reset);
        }
    }

    pub fn size(&self) -> usize {
        self.members.len()
    }

    fn at(&mut self, when: Micros, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((when, self.sequence, event)));
    }

    fn refresh(&mut self) {
        let names = [Arc::from(CLUSTER)];
        self.snapshot = self.compiler.refresh(&self.store, &names, &self.snapshot);
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_micros(self.now)
    }

    /// Runs to the end.
    pub async fn run(mut self) -> Report {
        let acts = self.scenario.acts();
        for act in 0..acts {
            let when = self.scenario.when(act);
            self.at(when, Event::Act(act));
        }
        self.at(0, Event::Arrive);
        let end = self.scenario.length + PATIENCE;
        while let Some(Reverse((when, _, event))) = self.events.pop() {
            if when > end {
                break;
            }
            self.now = when;
            // Whole milliseconds are what the clock of the program has.
            let wanted = Duration::from_millis(when / MS);
            let passed = self.clock.elapsed();
            if wanted > passed {
                tokio::time::advance(wanted - passed).await;
            }
            self.handle(event);
        }
        assert!(self.requests.iter().all(|request| request.ended));
        let mut report = self.report;
        report.latencies.sort_unstable();
        report
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Answer(request, attempt) if self.is_at(request, attempt) => self.answer(request),
            Event::ConnectTimeout(request, attempt) if self.is_at(request, attempt) => {
                self.unreachable(request, Outcome::TimedOut(504, false));
            }
            Event::Answer(..) | Event::ConnectTimeout(..) => {}
            Event::GiveUp(request) => self.give_up(request),
            Event::Check(server) => self.check(server),
            Event::Tick => self.tick(),
            Event::Merge => {
                self.merging = false;
                self.refresh();
            }
            Event::Act(act) => {
                let scenario = self.scenario.clone();
                scenario.act(act, self);
            }
        }
        self.hear();
    }

    fn is_at(&self, request: usize, attempt: usize) -> bool {
        let request = &self.requests[request];
        !request.ended && request.tried.len() == attempt
    }

    fn arrive(&mut self) {
        if self.now >= self.scenario.length {
            return;
        }
        let mean = self.scenario.gap(self.now);
        let gap = exponential(&mut self.random, mean);
        self.at(self.now + gap.max(1), Event::Arrive);
        // Users are many, and some ask more often than others.
        let user = (self.random.f64().powi(2) * 5_000.0) as u64;
        let request = self.requests.len();
        self.requests.push(Request {
            arrived: self.now,
            hash: user.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            tried: Vec::new(),
            at: None,
            ended: false,
        });
        self.report.requests += 1;
        self.at(self.now + PATIENCE, Event::GiveUp(request));
        self.attempt(request);
    }

    fn attempt(&mut self, number: usize) {
        let cluster = self.cluster();
        let request = &self.requests[number];
        let wish = Wish {
            hash: Some(request.hash),
            ..Wish::default()
        };
        let picked = match request.tried.as_slice() {
            [] => cluster.pick(wish),
            tried => cluster.pick_other(tried, 4, wish),
        };
        let Ok(picked) = picked else {
            return self.end(number, false);
        };
        let endpoint: Arc<Endpoint> = Arc::clone(&*picked);
        let server = self.members[self.places[&endpoint.uid]];
        self.report.attempts += 1;
        let request = &mut self.requests[number];
        request.tried.push(endpoint.uid);
        request.at = Some((server, Arc::clone(&endpoint)));
        let attempt = request.tried.len();
        endpoint.stats.rq_active.inc();
        self.report.taken.resize(self.servers.len(), 0);
        self.report.taken[server] += 1;
        let now = self.now;
        let state = self.servers[server].state;
        match state {
            State::Dead => self.unreachable(number, Outcome::Unreachable),
            State::Silent => self.at(
                now + CONNECT_TIMEOUT,
                Event::ConnectTimeout(number, attempt),
            ),
            State::Failing => self.at(now + MS, Event::Answer(number, attempt)),
            State::Up | State::Slow(_) => {
                endpoint.welcome();
                let work = exponential(&mut self.random, SERVICE as f64);
                let server = &mut self.servers[server];
                let work = work as f64 * server.factor(now);
                server.free_at = server.free_at.max(now) + work as Micros;
                server.running.insert(number);
                let done = server.free_at;
                self.at(done, Event::Answer(number, attempt));
            }
        }
    }

    /// Takes a request from where it is.
    fn leave(&mut self, request: usize) -> Option<(usize, Arc<Endpoint>)> {
        let (server, endpoint) = self.requests[request].at.take()?;
        endpoint.stats.rq_active.dec();
        self.servers[server].running.remove(&request);
        Some((server, endpoint))
    }

    fn answer(&mut self, request: usize) {
        let Some((server, endpoint)) = self.leave(request) else {
            return;
        };
        let failed = self.servers[server].state == State::Failing;
        let status = if failed { 500 } else { 200 };
        self.cluster().note(&endpoint, Outcome::Answered(status));
        self.end(request, !failed);
    }

    fn unreachable(&mut self, request: usize, outcome: Outcome) {
        if let Some((_, endpoint)) = &self.requests[request].at {
            endpoint.shun();
        }
        self.lost(request, outcome);
    }

    /// An attempt came to nothing, and another may follow: requests may be repeated.
    fn lost(&mut self, request: usize, outcome: Outcome) {
        let Some((_, endpoint)) = self.leave(request) else {
            return;
        };
        self.cluster().note(&endpoint, outcome);
        match self.requests[request].tried.len() < ATTEMPTS {
            true => self.attempt(request),
            false => self.end(request, false),
        }
    }

    fn give_up(&mut self, request: usize) {
        if self.requests[request].ended {
            return;
        }
        if let Some((_, endpoint)) = self.leave(request) {
            self.cluster().note(&endpoint, Outcome::TimedOut(504, true));
        }
        self.end(request, false);
    }

    fn end(&mut self, request: usize, success: bool) {
        let request = &mut self.requests[request];
        assert!(!request.ended, "a request ends once");
        request.ended = true;
        match success {
            true => self.report.latencies.push(self.now - request.arrived),
            false => self.report.errors += 1,
        }
    }

    /// A health check of the server, by the thresholds of the cluster.
    fn check(&mut self, server: usize) {
        let Some(place) = self.members.iter().position(|member| *member == server) else {
            return;
        };
        let cluster = self.cluster();
        let check = cluster.model.health_check.as_ref().unwrap();
        let good = matches!(self.servers[server].state, State::Up | State::Slow(_));
        let verdict = match good {
            true => Verdict::Success { degraded: false },
            false => Verdict::Failure { counts: true },
        };
        let endpoint = &cluster.endpoints.all()[place];
        if self.servers[server].progress.take(verdict, check) == Step::Changed {
            endpoint.find(Finding::FailedActive, !good);
            if !std::mem::replace(&mut self.merging, true) {
                self.at(self.now + MERGE_WINDOW, Event::Merge);
            }
        }
        if good && let Some(outlier) = &cluster.outlier {
            outlier.check_passed(endpoint);
        }
        let jitter = self.random.u64(..CHECK_INTERVAL / 10);
        self.at(self.now + CHECK_INTERVAL + jitter, Event::Check(server));
    }

    fn tick(&mut self) {
        let (now, cluster) = (self.instant(), self.cluster());
        let Some(detector) = &mut self.detector else {
            return;
        };
        let changed = detector.tick(cluster.endpoints.all(), now, &mut self.random);
        let interval = detector.interval();
        self.at(self.now + micros(interval), Event::Tick);
        if changed {
            self.refresh();
        }
    }

    /// What outlier detection was told of, at once.
    fn hear(&mut self) {
        let (now, mut changed) = (self.instant(), false);
        while let Ok(report) = self.received.try_recv() {
            let cluster = self.cluster();
            let Some(detector) = &mut self.detector else {
                continue;
            };
            let all = cluster.endpoints.all();
            changed |= detector.report(report.endpoint, report.what, all, now, &mut self.random);
        }
        if changed {
            self.refresh();
            let cluster = self.cluster();
            let ejected = |e: &&Arc<Endpoint>| e.is_found(Finding::FailedOutlier);
            let ejected = cluster.endpoints.all().iter().filter(ejected).count();
            self.report.most_ejected = self.report.most_ejected.max(ejected);
        }
    }
}

fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap()
}
