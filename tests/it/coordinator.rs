//! The link to a Coordinator, over real connections and with traffic through what it announced. What
//! takes long is tested beside the link, with paused time.

use std::sync::Arc;
use std::time::Duration;

use causeway::coordinator::client::{ClientConfig, CoordinatorClient, Registration};
use causeway::coordinator::event::{Event, Notice, Reply};
use causeway::coordinator::link::{self, Bus, LinkConfig, LinkReport, LinkStatus};
use causeway::coordinator::model::{AppMode, FrontendMode, Protocol};
use causeway::util::Secret;
use http::StatusCode;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::support::app::{DOMAIN, SECRET, TestApp};
use crate::support::circuit::{Circuit, circuit};
use crate::support::coordinator::{Call, FakeCoordinator, Style};
use crate::support::origin::Origin;
use crate::support::{eventually, within, ws};

const AUTHORITY: &str = "worker-1";

/// A worker with its link to a Coordinator; the bus is a pair of channels.
struct Linked {
    app: TestApp,
    status: LinkStatus,
    notices: mpsc::Sender<Notice>,
    replies: mpsc::Receiver<Reply>,
    stop: watch::Sender<bool>,
    link: JoinHandle<()>,
}

fn config() -> LinkConfig {
    let registration = Registration {
        authority: AUTHORITY.into(),
        frontend_mode: FrontendMode::Wildcard,
        protocol: Protocol::Http,
        hostname: "127.0.0.1".into(),
        tls_listen: false,
        tls_advertised: false,
        api_port: 10201,
        accepted_traffics: vec![AppMode::Interactive, AppMode::Inference],
        filtered_apps_only: false,
        app_filters: vec![],
        traefik_last_used_marker_path: None,
        port_range: None,
        wildcard_domain: Some(format!(".{DOMAIN}")),
        wildcard_traffic_port: Some(80),
    };
    LinkConfig {
        registration,
        heartbeat_period: Duration::from_millis(20),
        // In these tests something has to ask for a listing.
        relist_period: Duration::from_secs(3600),
        poll_period: None,
        authority: AUTHORITY.into(),
        state_file: None,
    }
}

impl Linked {
    async fn start(coordinator: &FakeCoordinator, config: LinkConfig) -> Self {
        let app = TestApp::worker().await;
        let endpoint = coordinator.endpoint().parse().unwrap();
        let client = ClientConfig::new(endpoint, Secret::new(SECRET));
        let client = CoordinatorClient::new(client).unwrap();
        let circuits = Arc::clone(app.running.circuits.as_ref().unwrap());
        let (notices, inbox) = mpsc::channel(16);
        let (outbox, replies) = mpsc::channel(16);
        let bus = Bus {
            notices: inbox,
            replies: outbox,
        };
        let (stop, stopped) = watch::channel(false);
        let (status, link) = link::start(config, client, circuits, Some(bus), stopped);
        let linked = Self {
            app,
            status,
            notices,
            replies,
            stop,
            link,
        };
        linked.tell(Notice::Subscribed).await;
        linked
    }

    /// Started, and its circuits listed.
    async fn up(coordinator: &FakeCoordinator) -> Self {
        let linked = Self::start(coordinator, config()).await;
        linked.until("listed", |r| r.counters.listings > 0).await;
        linked
    }

    async fn tell(&self, notice: Notice) {
        self.notices.send(notice).await.unwrap();
    }

    async fn created(&self, circuits: &[&Circuit]) {
        let circuits = values(circuits);
        self.tell(Notice::Event(Event::Created { circuits })).await;
    }

    async fn removed(&self, circuits: &[&Circuit]) {
        let circuits = values(circuits);
        self.tell(Notice::Event(Event::Removed { circuits })).await;
    }

    async fn reply(&mut self) -> Vec<Value> {
        let reply = within("a reply", self.replies.recv()).await;
        let Reply::Added { circuits } = reply.expect("the link lives");
        circuits
    }

    async fn until(&self, what: &str, condition: impl Fn(&LinkReport) -> bool) {
        eventually(what, || condition(&self.status.report())).await;
    }

    async fn status_of(&self, circuit: &Circuit) -> u16 {
        self.app.get(circuit, "/").await.status.as_u16()
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        within("the end of the link", self.link).await.unwrap();
        self.app.shutdown().await;
    }
}

fn values(circuits: &[&Circuit]) -> Vec<Value> {
    circuits.iter().map(|c| c.value.clone()).collect()
}

#[tokio::test]
async fn a_worker_registers_serves_what_is_listed_and_says_goodbye() {
    for style in [Style::Real, Style::MinusOne] {
        let origin = Origin::echo().await;
        let listed = circuit(1).kernel(origin.address);
        let coordinator = FakeCoordinator::start(SECRET, style).await;
        coordinator.set_circuits(&values(&[&listed]));
        let linked = Linked::up(&coordinator).await;
        assert_eq!(linked.status_of(&listed).await, 200);
        let said = coordinator.registration(AUTHORITY).unwrap();
        assert_eq!(said["wildcard_domain"], format!(".{DOMAIN}"));
        assert_eq!(coordinator.nodes(AUTHORITY), 1);
        linked
            .until("heartbeats", |r| r.counters.heartbeats > 2)
            .await;
        linked.stop().await;
        assert_eq!(coordinator.nodes(AUTHORITY), 0, "{style:?}");
    }
}

#[tokio::test]
async fn an_announced_circuit_is_live_when_it_is_said_to_be() {
    let origin = Origin::echo().await;
    let coordinator = FakeCoordinator::start(SECRET, Style::Real).await;
    let mut linked = Linked::up(&coordinator).await;
    let sockets = ws::echo_origin().await;
    let (http, socket) = (
        circuit(1).kernel(origin.address),
        circuit(2).kernel(sockets.address),
    );
    let both = [&http, &socket];
    linked.created(&both).await;
    assert_eq!(linked.reply().await, values(&both));
    assert_eq!(linked.status_of(&http).await, 200);

    // Announced again at every launch, with somebody at work behind it.
    let mut open = ws::open(linked.app.wildcard(), &socket.host(), "/").await;
    ws::echoed(&mut open, "before").await.unwrap();
    let generation = linked.app.generation();
    linked.created(&both).await;
    assert_eq!(linked.reply().await, values(&both));
    assert_eq!(linked.app.generation(), generation);
    ws::echoed(&mut open, "after").await.unwrap();

    linked.removed(&[&http]).await;
    linked.until("removed", |r| r.circuits == 1).await;
    assert_ne!(linked.status_of(&http).await, 200);
    ws::echoed(&mut open, "not concerned").await.unwrap();
    drop(open);
    linked.stop().await;
}

#[tokio::test]
async fn a_worker_that_was_forgotten_registers_again() {
    for style in [Style::Real, Style::MinusOne] {
        let origin = Origin::echo().await;
        let listed = circuit(1).kernel(origin.address);
        let coordinator = FakeCoordinator::start(SECRET, style).await;
        coordinator.set_circuits(&values(&[&listed]));
        let linked = Linked::up(&coordinator).await;
        let first = linked.status.report().worker;
        coordinator.forget_workers();
        linked
            .until("registered again", |r| r.counters.registrations == 2)
            .await;
        linked
            .until("listed again", |r| r.counters.listings == 2)
            .await;
        assert_ne!(linked.status.report().worker, first, "{style:?}");
        assert_eq!(coordinator.nodes(AUTHORITY), 1);
        assert_eq!(linked.status_of(&listed).await, 200);
        linked.stop().await;
    }
}

#[tokio::test]
async fn a_wrong_secret_and_errors_are_survived() {
    for style in [Style::Real, Style::MinusOne] {
        let coordinator = FakeCoordinator::start("another secret", style).await;
        let linked = Linked::start(&coordinator, config()).await;
        linked
            .until("refused", |r| r.counters.registration_failures == 1)
            .await;
        coordinator.set_secret(SECRET);
        coordinator.fail_next(1, StatusCode::INTERNAL_SERVER_ERROR);
        linked.until("listed", |r| r.counters.listings == 1).await;
        assert_eq!(linked.status.report().counters.registration_failures, 2);
        assert_eq!(coordinator.calls(Call::Register), 3, "{style:?}");

        // The secret changes under way: heartbeats fail, nothing drops, nobody registers again.
        coordinator.set_secret("another secret");
        linked
            .until("refused", |r| r.counters.heartbeat_failures > 1)
            .await;
        coordinator.set_secret(SECRET);
        let beats = linked.status.report().counters.heartbeats;
        linked
            .until("well again", |r| r.counters.heartbeats > beats)
            .await;
        assert_eq!(coordinator.nodes(AUTHORITY), 1);
        linked.stop().await;
    }
}

#[tokio::test]
async fn circuits_outlive_an_absence_of_the_coordinator() {
    let origin = Origin::echo().await;
    let sockets = ws::echo_origin().await;
    let (kept, missed, socket) = (
        circuit(1).kernel(origin.address),
        circuit(2).kernel(origin.address),
        circuit(3).kernel(sockets.address),
    );
    let mut coordinator = FakeCoordinator::start(SECRET, Style::Real).await;
    coordinator.set_circuits(&values(&[&kept, &socket]));
    let linked = Linked::up(&coordinator).await;
    let mut open = ws::open(linked.app.wildcard(), &socket.host(), "/").await;
    coordinator.stop().await;
    linked
        .tell(Notice::Lost {
            reason: "gone".into(),
        })
        .await;
    linked
        .until("failing", |r| r.counters.heartbeat_failures > 1)
        .await;
    assert_eq!(linked.status.report().bus_connected, Some(false));
    assert_eq!(linked.status_of(&kept).await, 200);

    coordinator.set_circuits(&values(&[&kept, &missed, &socket]));
    coordinator.restart().await;
    linked.tell(Notice::Subscribed).await;
    linked
        .until("repaired", |r| r.counters.listing_repairs == 1)
        .await;
    assert_eq!(linked.status_of(&missed).await, 200);
    ws::echoed(&mut open, "all the time").await.unwrap();
    drop(open);
    assert_eq!(coordinator.nodes(AUTHORITY), 1, "it was not forgotten");
    linked.stop().await;
}

#[tokio::test]
async fn a_listing_under_way_does_not_undo_an_event() {
    let origin = Origin::echo().await;
    let (old, new) = (
        circuit(1).kernel(origin.address),
        circuit(2).kernel(origin.address),
    );
    let coordinator = FakeCoordinator::start(SECRET, Style::Real).await;
    coordinator.set_circuits(&values(&[&old]));
    let mut linked = Linked::up(&coordinator).await;
    let _hold = coordinator.hold_listings();
    linked.tell(Notice::Subscribed).await;
    eventually("asked", || coordinator.calls(Call::Circuits) == 2).await;
    linked.removed(&[&old]).await;
    linked.created(&[&new]).await;
    linked.reply().await;
    coordinator.release_listings();
    linked.until("listed", |r| r.counters.listings == 2).await;
    assert_eq!(linked.status_of(&new).await, 200);
    assert_ne!(linked.status_of(&old).await, 200);
    linked.stop().await;
}

#[tokio::test]
async fn pushes_and_the_coordinator_stay_out_of_each_others_way() {
    let origin = Origin::echo().await;
    let (pushed, listed) = (
        circuit(1).kernel(origin.address),
        circuit(2).kernel(origin.address),
    );
    let coordinator = FakeCoordinator::start(SECRET, Style::Real).await;
    coordinator.set_circuits(&values(&[&listed]));
    let linked = Linked::up(&coordinator).await;
    let mut shim = linked.app.shim().await;
    let body = serde_json::to_value(values(&[&pushed])).unwrap();
    shim.accepted("PUT", "/v1/circuits", &body).await;
    assert_eq!(linked.status_of(&pushed).await, 200);
    assert_eq!(linked.status_of(&listed).await, 200, "not of that set");
    let rival = circuit(3).with("subdomain", listed.value["subdomain"].clone());
    let refused = shim.call("POST", "/v1/circuits", &rival.value).await;
    assert_eq!(refused.status, 409, "{}", refused.text());

    linked.tell(Notice::Subscribed).await;
    linked.until("listed", |r| r.counters.listings == 2).await;
    assert_eq!(linked.status_of(&pushed).await, 200, "not of that listing");
    linked.stop().await;
}

#[tokio::test]
async fn a_worker_that_starts_alone_serves_what_it_served() {
    let origin = Origin::echo().await;
    let listed = circuit(1).kernel(origin.address);
    let folder = tempfile::tempdir().unwrap();
    let config = || LinkConfig {
        state_file: Some(folder.path().join("circuits.state")),
        ..config()
    };
    let mut coordinator = FakeCoordinator::start(SECRET, Style::Real).await;
    coordinator.set_circuits(&values(&[&listed]));
    let linked = Linked::start(&coordinator, config()).await;
    linked.until("listed", |r| r.counters.listings == 1).await;
    linked.stop().await;

    coordinator.stop().await;
    let linked = Linked::start(&coordinator, config()).await;
    linked.until("restored", |r| r.circuits == 1).await;
    assert_eq!(linked.status_of(&listed).await, 200);
    coordinator.set_circuits(&[]);
    coordinator.restart().await;
    linked.until("replaced", |r| r.counters.listings == 1).await;
    assert_ne!(linked.status_of(&listed).await, 200);
    linked.stop().await;
}
