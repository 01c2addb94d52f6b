//! A Coordinator, a control plane and a bus for the tests of the link, all of them channels and
//! values, so that time can be paused.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_xds::reject::{Invalid, Rejected};
use causeway_xds::resource::resource_name;
use causeway_xds::source::{Batch, Outcome};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::calls::Calls;
use super::super::{Bus, Link, LinkConfig, LinkReport, LinkStatus};
use crate::coordinator::client::{ClientError, Problem, Registered, Registration};
use crate::coordinator::event::{Event, Notice, Reply};
use crate::coordinator::model::{AppMode, FrontendMode, Protocol};
use crate::coordinator::resolve::Resolver;
use crate::coordinator::translate::{Frame, Wildcard};
use crate::coordinator::{Circuits, testing};

pub const WORKER: Uuid = Uuid::from_u128(0xFC20);

pub fn frame() -> Frame {
    Frame {
        slots: None,
        wildcard: Some(Wildcard {
            address: "127.0.0.1:0".parse().unwrap(),
            domain: ".apps.test".into(),
        }),
        path: None,
        ..Frame::default()
    }
}

/// For what does not get as far as the control plane.
pub fn circuits_without_control() -> Arc<Circuits> {
    Circuits::new(frame(), mpsc::channel(1).0, Arc::default())
}

/// A circuit as the Coordinator writes it.
pub fn circuit(number: u8, subdomain: &str) -> Value {
    json!(testing::circuit(number, subdomain))
}

pub fn dated(mut circuit: Value, seconds: u8) -> Value {
    circuit["updated_at"] = json!(format!("2026-11-24T08:43:{seconds:02}.661195Z"));
    circuit
}

pub fn answer(status: u16) -> ClientError {
    ClientError::Answer {
        status: http::StatusCode::from_u16(status).unwrap(),
        problem: Problem::default(),
    }
}

/// The Coordinator: does what it is told, and notes what it is asked and when.
#[derive(Clone, Default)]
pub struct Coordinator(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    circuits: Vec<Value>,
    /// What the next calls of a kind fail with.
    failures: VecDeque<(&'static str, ClientError)>,
    asked: Vec<(&'static str, Instant)>,
    /// Calls of this kind wait here after they were worked out.
    hold: Option<(&'static str, Arc<Notify>)>,
}

impl Coordinator {
    pub fn lists(&self, circuits: &[Value]) {
        self.0.lock().unwrap().circuits = circuits.to_vec();
    }

    pub fn fails(&self, call: &'static str, error: ClientError) {
        self.0.lock().unwrap().failures.push_back((call, error));
    }

    pub fn holds(&self, call: &'static str) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        self.0.lock().unwrap().hold = Some((call, Arc::clone(&notify)));
        notify
    }

    /// Lets later calls through; those that wait go on waiting for the notification.
    pub fn holds_no_more(&self) {
        self.0.lock().unwrap().hold = None;
    }

    pub fn asked(&self) -> Vec<&'static str> {
        let inner = self.0.lock().unwrap();
        inner.asked.iter().map(|(call, _)| *call).collect()
    }

    pub fn times(&self, call: &str) -> Vec<Instant> {
        let inner = self.0.lock().unwrap();
        let asked = inner.asked.iter().filter(|(asked, _)| *asked == call);
        asked.map(|(_, at)| *at).collect()
    }

    async fn ask<T>(
        &self,
        call: &'static str,
        answer: impl FnOnce(&Inner) -> T,
    ) -> Result<T, ClientError> {
        let (result, hold) = {
            let mut inner = self.0.lock().unwrap();
            inner.asked.push((call, Instant::now()));
            let failure = inner
                .failures
                .iter()
                .position(|(failing, _)| *failing == call);
            let result = match failure.and_then(|at| inner.failures.remove(at)) {
                Some((_, error)) => Err(error),
                None => Ok(answer(&inner)),
            };
            let hold = inner.hold.clone().filter(|(held, _)| *held == call);
            (result, hold)
        };
        if let Some((_, hold)) = hold {
            hold.notified().await;
        }
        result
    }
}

fn registered() -> Registered {
    Registered {
        id: WORKER,
        nodes: Some(1),
        available_slots: None,
        occupied_slots: None,
    }
}

impl Calls for Coordinator {
    async fn register(&self, _: &Registration) -> Result<Registered, ClientError> {
        self.ask("register", |_| registered()).await
    }

    async fn heartbeat(&self, worker: Uuid) -> Result<Registered, ClientError> {
        assert_eq!(worker, WORKER);
        self.ask("heartbeat", |_| registered()).await
    }

    async fn deregister(&self, _: Uuid) -> Result<(), ClientError> {
        self.ask("deregister", |_| ()).await
    }

    async fn circuits(&self, worker: Uuid) -> Result<Vec<Value>, ClientError> {
        assert_eq!(worker, WORKER);
        self.ask("circuits", |inner| inner.circuits.clone()).await
    }
}

pub fn config() -> LinkConfig {
    let registration = Registration {
        authority: "w".into(),
        frontend_mode: FrontendMode::Wildcard,
        protocol: Protocol::Http,
        hostname: "w.test".into(),
        tls_listen: false,
        tls_advertised: false,
        api_port: 10201,
        accepted_traffics: vec![AppMode::Interactive],
        filtered_apps_only: false,
        app_filters: vec![],
        traefik_last_used_marker_path: None,
        port_range: None,
        wildcard_domain: Some(".apps.test".into()),
        wildcard_traffic_port: Some(10205),
    };
    LinkConfig {
        registration,
        heartbeat_period: Duration::from_secs(10),
        relist_period: Duration::from_secs(60),
        poll_period: None,
        authority: "w".into(),
        state_file: None,
    }
}

/// A link with everything around it.
pub struct Rig {
    pub coordinator: Coordinator,
    pub circuits: Arc<Circuits>,
    pub status: LinkStatus,
    pub notices: Option<mpsc::Sender<Notice>>,
    pub replies: mpsc::Receiver<Reply>,
    pub link: JoinHandle<()>,
    generation: Arc<AtomicU64>,
    refused: Arc<Mutex<Vec<String>>>,
    stop: watch::Sender<bool>,
}

impl Rig {
    pub fn with(coordinator: Coordinator, config: LinkConfig, with_bus: bool) -> Self {
        Self::resolving(coordinator, config, with_bus, Resolver::default())
    }

    pub fn resolving(
        coordinator: Coordinator,
        config: LinkConfig,
        with_bus: bool,
        resolver: Resolver,
    ) -> Self {
        let (batches, inbox) = mpsc::channel(4);
        let circuits = Circuits::resolving(frame(), batches, Arc::default(), resolver);
        let generation = Arc::new(AtomicU64::new(0));
        let refused = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(control(
            inbox,
            Arc::clone(&generation),
            Arc::clone(&refused),
        ));
        let (notices, inbox) = mpsc::channel(16);
        let (outbox, replies) = mpsc::channel(16);
        let bus = with_bus.then_some(Bus {
            notices: inbox,
            replies: outbox,
        });
        let (stop, stopped) = watch::channel(false);
        let link = Link::new(config, coordinator.clone(), Arc::clone(&circuits), bus);
        let status = link.status.clone();
        Self {
            coordinator,
            circuits,
            status,
            notices: with_bus.then_some(notices),
            replies,
            link: tokio::spawn(link.run(stopped)),
            generation,
            refused,
            stop,
        }
    }

    /// Subscribed, registered, and listed.
    pub async fn up(coordinator: Coordinator) -> Self {
        Self::up_with(coordinator, config()).await
    }

    pub async fn up_with(coordinator: Coordinator, config: LinkConfig) -> Self {
        let mut rig = Self::with(coordinator, config, true);
        rig.tell(Notice::Subscribed).await;
        rig.until("listed", |report| report.counters.listings == 1)
            .await;
        rig
    }

    pub async fn tell(&mut self, notice: Notice) {
        self.notices.as_ref().unwrap().send(notice).await.unwrap();
    }

    /// Tells of an event and waits until it has been dealt with.
    pub async fn event(&mut self, event: Event) {
        let seen = |report: &LinkReport| {
            let c = report.counters;
            c.events_created + c.events_routes_updated + c.events_removed
        };
        let before = seen(&self.status.report());
        self.tell(Notice::Event(event)).await;
        self.until("event", |report| seen(report) > before).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    pub async fn created(&mut self, circuits: &[Value]) {
        let circuits = circuits.to_vec();
        self.event(Event::Created { circuits }).await;
    }

    pub async fn removed(&mut self, circuits: &[Value]) {
        let circuits = circuits.to_vec();
        self.event(Event::Removed { circuits }).await;
    }

    /// The reply that has come, if one has.
    pub fn reply(&mut self) -> Option<Vec<Value>> {
        let Reply::Added { circuits } = self.replies.try_recv().ok()?;
        Some(circuits)
    }

    pub async fn until(&self, what: &str, condition: impl Fn(&LinkReport) -> bool) {
        let start = Instant::now();
        while !condition(&self.status.report()) {
            let waited = start.elapsed();
            assert!(waited < Duration::from_secs(900), "never happened: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub async fn listings(&self, count: u64) {
        self.until("listings", |report| report.counters.listings >= count)
            .await;
    }

    /// The subdomains in force, in alphabetical order.
    pub async fn served(&self) -> Vec<String> {
        let (_, circuits) = self.circuits.list().await;
        let mut names: Vec<String> = circuits.iter().map(|c| c.slot.to_string()).collect();
        names.sort();
        names
            .iter()
            .map(|name| name.replace("subdomain ", ""))
            .collect()
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The control plane does not take resources of this name.
    pub fn refuse(&self, name: &str) {
        self.refused.lock().unwrap().push(name.to_owned());
    }

    pub async fn stop(self) {
        self.stop.send(true).unwrap();
        self.link.await.unwrap();
    }
}

pub fn with_state_file(path: PathBuf) -> LinkConfig {
    LinkConfig {
        state_file: Some(path),
        ..config()
    }
}

async fn control(
    mut inbox: mpsc::Receiver<Batch>,
    generation: Arc<AtomicU64>,
    refused: Arc<Mutex<Vec<String>>>,
) {
    while let Some(batch) = inbox.recv().await {
        let mut outcome = Outcome::default();
        for update in &batch.updates {
            let names = update.upserts.iter().filter_map(resource_name);
            let refused = refused.lock().unwrap();
            let refused = names.filter(|name| refused.contains(name));
            outcome.rejected.extend(
                refused.map(|name| Rejected::new(update.kind, name, Invalid::at("f", "because"))),
            );
        }
        if outcome.rejected.is_empty() {
            generation.fetch_add(1, Ordering::SeqCst);
            outcome.changed = true;
        }
        outcome.generation = generation.load(Ordering::SeqCst);
        batch.answer.unwrap().send(outcome).ok();
    }
}
