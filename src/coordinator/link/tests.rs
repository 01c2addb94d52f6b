use std::time::Duration;

use serde_json::{Value, json};

use self::double::{Coordinator, Rig, WORKER, answer, circuit, config, dated, with_state_file};
use super::super::client::{ClientError, Problem};
use super::super::event::{Event, Notice};
use super::super::registry::Owner;
use super::super::testing as model;
use super::*;

pub mod double;
mod names;

const SECOND: Duration = Duration::from_secs(1);

// ---- registration and liveness

#[tokio::test(start_paused = true)]
async fn the_bus_comes_first_then_the_registration_then_the_listing() {
    let coordinator = Coordinator::default();
    coordinator.lists(&[circuit(1, "a")]);
    let mut rig = Rig::with(coordinator, config(), true);
    tokio::time::sleep(SECOND).await;
    assert!(rig.coordinator.asked().is_empty(), "not subscribed yet");
    rig.tell(Notice::Subscribed).await;
    rig.listings(1).await;
    assert_eq!(
        rig.coordinator.asked(),
        ["register", "heartbeat", "circuits"]
    );
    let report = rig.status.report();
    assert_eq!(report.worker, Some(WORKER));
    assert_eq!(report.bus_connected, Some(true));
    assert_eq!(report.circuits, 1);
    assert_eq!(rig.served().await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_does_not_come_holds_nothing_up_for_ever() {
    let start = Instant::now();
    let mut rig = Rig::with(Coordinator::default(), config(), true);
    rig.listings(1).await;
    assert_eq!(rig.coordinator.times("register"), [start + BUS_WAIT]);
    assert_eq!(rig.status.report().counters.deadlines_fired, 1);
    rig.tell(Notice::Subscribed).await;
    rig.listings(2).await;
    assert_eq!(rig.coordinator.times("register").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn registration_is_tried_until_it_succeeds_whatever_the_reason() {
    let coordinator = Coordinator::default();
    for error in [
        ClientError::Connect("refused".into()),
        answer(500),
        ClientError::Unparsable {
            problem: Problem::default(),
        },
        answer(401),
        ClientError::Timeout {
            what: "answer",
            limit: SECOND,
        },
        ClientError::Body("?".into()),
    ] {
        coordinator.fails("register", error);
    }
    let rig = Rig::up(coordinator).await;
    let times = rig.coordinator.times("register");
    assert_eq!(times.len(), 7);
    for pair in times.windows(2) {
        let wait = pair[1] - pair[0];
        assert!((SECOND..=SECOND * 11).contains(&wait), "{wait:?}");
    }
    assert_eq!(rig.status.report().counters.registration_failures, 6);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_go_on_through_failures() {
    let rig = Rig::up(Coordinator::default()).await;
    for status in [500, 401, 503] {
        rig.coordinator.fails("heartbeat", answer(status));
    }
    rig.until("failure", |r| r.counters.heartbeat_failures == 3)
        .await;
    let beat = rig.status.report().last_heartbeat.unwrap();
    assert!(beat.failure.unwrap().contains("503"));
    rig.until("answered", |r| r.counters.heartbeats == 2).await;
    assert_eq!(rig.status.report().last_heartbeat.unwrap().failure, None);
    let times = rig.coordinator.times("heartbeat");
    for pair in times.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart.abs_diff(SECOND * 10) < SECOND / 10, "{apart:?}");
    }
    assert_eq!(rig.coordinator.times("register").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_forgotten_registers_and_lists_again() {
    let problem = Problem {
        kind: Some("https://api.backend.ai/probs/object-not-found".into()),
        ..Problem::default()
    };
    let status = http::StatusCode::NOT_FOUND;
    let answered = ClientError::Answer {
        status,
        problem: problem.clone(),
    };
    for error in [answered, ClientError::Unparsable { problem }] {
        let coordinator = Coordinator::default();
        coordinator.lists(&[circuit(1, "a")]);
        let rig = Rig::up(coordinator).await;
        let generation = rig.generation();
        rig.coordinator.fails("heartbeat", error);
        rig.coordinator.fails("register", answer(503));
        rig.until("forgotten", |r| r.worker.is_none()).await;
        assert_eq!(rig.served().await, ["a"], "nothing drops meanwhile");
        rig.listings(2).await;
        let asked = rig.coordinator.asked();
        assert_eq!(
            asked[3..],
            ["heartbeat", "register", "register", "heartbeat", "circuits"],
            "{asked:?}"
        );
        assert_eq!(rig.generation(), generation, "and nothing changes");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_and_not_waited_for_too_long() {
    let rig = Rig::up(Coordinator::default()).await;
    let coordinator = rig.coordinator.clone();
    rig.stop().await;
    assert_eq!(coordinator.asked().last(), Some(&"deregister"));

    let rig = Rig::up(Coordinator::default()).await;
    let _never = rig.coordinator.holds("deregister");
    let start = Instant::now();
    rig.stop().await;
    let took = start.elapsed();
    assert!((FAREWELL..FAREWELL * 2).contains(&took), "{took:?}");
}

// ---- listings

#[tokio::test(start_paused = true)]
async fn a_listing_repairs_what_was_missed() {
    let coordinator = Coordinator::default();
    coordinator.lists(&[circuit(1, "a"), circuit(2, "b")]);
    let mut rig = Rig::up(coordinator).await;
    let mut moved = circuit(2, "b");
    moved["route_info"][0]["kernel_port"] = json!(9);
    rig.coordinator.lists(&[moved, circuit(3, "c")]);
    rig.listings(2).await;
    let times = rig.coordinator.times("circuits");
    assert!(
        (times[1] - times[0]).abs_diff(SECOND * 60) < SECOND,
        "in turn"
    );
    assert_eq!(rig.served().await, ["b", "c"]);
    assert_eq!(rig.status.report().counters.listing_repairs, 1);
    // Whoever launched them while nothing was heard here still waits.
    assert_eq!(rig.reply().map(|found| found.len()), Some(2));
    assert_eq!(rig.reply(), Some(vec![circuit(3, "c")]));

    // Equal listings change nothing and are no repairs; a new subscription brings one at once.
    let generation = rig.generation();
    rig.tell(Notice::Lost { reason: "x".into() }).await;
    rig.until("lost", |r| r.bus_connected == Some(false)).await;
    rig.tell(Notice::Subscribed).await;
    rig.listings(3).await;
    let times = rig.coordinator.times("circuits");
    assert!(times[2] - times[1] < SECOND, "at once");
    assert_eq!(rig.generation(), generation);
    assert_eq!(rig.status.report().counters.listing_repairs, 1);
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_fails_is_tried_again_and_takes_nothing_away() {
    let coordinator = Coordinator::default();
    coordinator.lists(&[circuit(1, "a")]);
    let rig = Rig::up(coordinator).await;
    for _ in 0..3 {
        rig.coordinator
            .fails("circuits", ClientError::Body("broke off".into()));
    }
    rig.until("failures", |r| r.counters.listing_failures == 3)
        .await;
    assert_eq!(rig.served().await, ["a"]);
    rig.listings(2).await;
    let times = rig.coordinator.times("circuits");
    assert!(times[4] - times[1] < SECOND * 30, "sooner than in turn");
}

#[tokio::test(start_paused = true)]
async fn without_a_bus_circuits_are_polled() {
    let config = LinkConfig {
        poll_period: Some(SECOND * 3),
        ..config()
    };
    let rig = Rig::with(Coordinator::default(), config, false);
    rig.listings(1).await;
    rig.coordinator.lists(&[circuit(1, "a")]);
    rig.listings(3).await;
    let times = rig.coordinator.times("circuits");
    assert!((times[2] - times[0]).abs_diff(SECOND * 6) < SECOND);
    let report = rig.status.report();
    assert_eq!((report.bus_connected, report.circuits), (None, 1));
    assert_eq!(report.counters.listing_repairs, 0, "the normal way");
}

#[tokio::test(start_paused = true)]
async fn one_bad_circuit_does_not_spoil_thousands() {
    let mut circuits: Vec<Value> = (0..2000)
        .map(|n| {
            let mut value = circuit(0, &format!("c{n}"));
            value["id"] = json!(Uuid::from_u128(n));
            value
        })
        .collect();
    circuits[7]["subdomain"] = json!("not a label");
    let coordinator = Coordinator::default();
    coordinator.lists(&circuits);
    let rig = Rig::with(coordinator, config(), true);
    rig.refuse("wildcard/c8");
    rig.refuse(&format!("circuit/{}", Uuid::from_u128(9)));
    rig.notices
        .as_ref()
        .unwrap()
        .send(Notice::Subscribed)
        .await
        .unwrap();
    rig.listings(1).await;
    let report = rig.status.report();
    assert_eq!(
        (report.circuits, report.counters.circuits_refused),
        (1997, 3)
    );
    assert_eq!(rig.generation(), 1, "one batch");
}

#[tokio::test(start_paused = true)]
async fn circuits_of_the_shim_are_not_the_coordinators_to_leave_out() {
    let coordinator = Coordinator::default();
    coordinator.lists(&[circuit(1, "a")]);
    let mut rig = Rig::up(coordinator).await;
    rig.circuits
        .announce(
            Owner::Shim,
            vec![model::circuit(5, "x"), model::circuit(6, "y")],
        )
        .await
        .unwrap();
    rig.coordinator.lists(&[circuit(7, "y")]);
    rig.listings(2).await;
    assert_eq!(
        rig.served().await,
        ["x", "y"],
        "the Coordinator has the slot"
    );
    let id = model::circuit(6, "y").id;
    assert!(rig.circuits.get(id).await.is_none());
    rig.removed(&[circuit(5, "x")]).await;
    assert_eq!(rig.served().await, ["x", "y"], "not its circuit");
}

// ---- events

#[tokio::test(start_paused = true)]
async fn exactly_what_is_live_is_replied() {
    let mut rig = Rig::up(Coordinator::default()).await;
    let mut private = circuit(2, "b");
    private["open_to_public"] = json!(false);
    let mut extended = circuit(1, "a");
    extended["invented_later"] = json!({"kept": true});
    rig.created(&[extended.clone(), private.clone(), json!(5)])
        .await;
    assert_eq!(rig.reply(), Some(vec![extended.clone()]), "as it came");
    assert_eq!(rig.served().await, ["a"]);

    // Every launch announces again; nothing must change, and somebody waits for the answer.
    let generation = rig.generation();
    rig.created(std::slice::from_ref(&extended)).await;
    assert_eq!(rig.reply(), Some(vec![extended]));
    assert_eq!(rig.generation(), generation);

    rig.created(&[private]).await;
    assert_eq!(rig.reply(), None, "nothing live, nothing said");
    assert_eq!(rig.status.report().counters.circuits_refused, 3);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_becomes_private_is_not_left_open() {
    let mut rig = Rig::up(Coordinator::default()).await;
    rig.created(&[circuit(1, "a"), circuit(2, "b")]).await;
    rig.reply();
    let mut broken = circuit(1, "a");
    broken["route_info"][0]["kernel_port"] = json!(0);
    let mut private = circuit(2, "b");
    private["open_to_public"] = json!(false);
    rig.created(&[broken.clone(), private.clone()]).await;
    assert_eq!(rig.reply(), None);
    assert_eq!(
        rig.served().await,
        ["a"],
        "the broken one keeps its old kernels"
    );

    rig.created(&[circuit(2, "b")]).await;
    rig.coordinator.lists(&[broken, private]);
    rig.listings(2).await;
    rig.listings(3).await;
    assert_eq!(rig.served().await, ["a"], "the same by listing");
}

#[tokio::test(start_paused = true)]
async fn routes_follow_and_unknown_circuits_are_looked_for() {
    let mut rig = Rig::up(Coordinator::default()).await;
    rig.created(&[circuit(1, "a")]).await;
    let id = model::circuit(1, "a").id;
    let update = |circuit: Value, routes: Value| Event::RoutesUpdated {
        circuit,
        routes: routes.as_array().unwrap().clone(),
    };
    let kernels = async |rig: &Rig| {
        let circuit = rig.circuits.get(id).await.unwrap();
        let ports = circuit.routes.iter().map(|r| r.kernel_port);
        ports.collect::<Vec<_>>()
    };
    let two = json!([{"kernel_port": 5}, {"kernel-port": 6}]);
    rig.event(update(circuit(1, "a"), two)).await;
    assert_eq!(kernels(&rig).await, [5, 6]);
    rig.event(update(circuit(1, "a"), json!([{"kernel_port": 0}])))
        .await;
    assert_eq!(kernels(&rig).await, [5, 6], "unusable");
    rig.event(update(circuit(1, "a"), json!([]))).await;
    assert!(kernels(&rig).await.is_empty());
    assert_eq!(rig.coordinator.times("circuits").len(), 1);

    rig.coordinator.lists(&[circuit(1, "a"), circuit(2, "b")]);
    let start = Instant::now();
    rig.event(update(circuit(2, "b"), json!([]))).await;
    rig.listings(2).await;
    assert!(start.elapsed() < SECOND * 12, "looked for out of turn");
    assert_eq!(rig.served().await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn late_words_do_not_count() {
    let mut rig = Rig::up(Coordinator::default()).await;
    rig.created(&[dated(circuit(1, "a"), 5)]).await;
    rig.reply();
    let older = dated(circuit(1, "older"), 4);
    rig.created(std::slice::from_ref(&older)).await;
    assert_eq!(rig.served().await, ["a"]);
    assert_eq!(rig.reply(), Some(vec![older]), "it is live, younger");

    rig.removed(&[dated(circuit(1, "a"), 5)]).await;
    rig.removed(&[dated(circuit(1, "a"), 5)]).await;
    rig.created(&[dated(circuit(1, "a"), 5)]).await;
    assert!(rig.served().await.is_empty(), "its removal came first");
    assert_eq!(rig.reply(), None);
    // Removed before it was announced.
    rig.removed(&[dated(circuit(2, "b"), 1)]).await;
    rig.created(&[dated(circuit(2, "b"), 1)]).await;
    assert!(rig.served().await.is_empty());
    rig.created(&[dated(circuit(2, "b"), 2)]).await;
    assert_eq!(rig.served().await, ["b"], "really again");
    // Without dates the later word counts.
    rig.removed(&[circuit(3, "c")]).await;
    rig.created(&[circuit(3, "c")]).await;
    assert_eq!(rig.served().await, ["b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_listing_does_not_undo_an_event_that_it_could_not_know() {
    let coordinator = Coordinator::default();
    coordinator.lists(&[circuit(1, "a"), circuit(2, "b")]);
    let mut rig = Rig::up(coordinator).await;
    let answer = rig.coordinator.holds("circuits");
    rig.tell(Notice::Subscribed).await;
    while rig.coordinator.times("circuits").len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The listing is worked out and under way; now the world changes.
    rig.removed(&[circuit(1, "a")]).await;
    rig.created(&[circuit(3, "c")]).await;
    assert!(rig.reply().is_some(), "events do not wait for listings");
    rig.coordinator.lists(&[circuit(2, "b"), circuit(3, "c")]);
    rig.coordinator.holds_no_more();
    answer.notify_waiters();
    rig.listings(2).await;
    assert_eq!(rig.served().await, ["b", "c"]);

    // The dispute is settled by another listing soon.
    let start = Instant::now();
    rig.listings(3).await;
    assert!(start.elapsed() < SECOND * 10);
    assert_eq!(rig.served().await, ["b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_listing_does_not_give_a_place_back_to_who_had_it() {
    let coordinator = Coordinator::default();
    coordinator.lists(&[circuit(1, "a")]);
    let mut rig = Rig::up(coordinator).await;
    let answer = rig.coordinator.holds("circuits");
    rig.tell(Notice::Subscribed).await;
    while rig.coordinator.times("circuits").len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Another circuit gets the place; the removal of the first is still under way.
    rig.created(&[circuit(2, "a")]).await;
    rig.coordinator.lists(&[circuit(2, "a")]);
    rig.coordinator.holds_no_more();
    answer.notify_waiters();
    rig.listings(2).await;
    let holder = async |rig: &Rig| rig.circuits.owned(Owner::Coordinator).await[0].id;
    assert_eq!(holder(&rig).await, model::circuit(2, "a").id);
    rig.removed(&[circuit(1, "a")]).await;
    rig.listings(3).await;
    assert_eq!(holder(&rig).await, model::circuit(2, "a").id);
}

// ---- state file

#[tokio::test(start_paused = true)]
async fn a_restart_serves_the_state_file_until_the_coordinator_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("circuits.state");
    let coordinator = Coordinator::default();
    coordinator.lists(&[circuit(1, "a")]);
    let mut rig = Rig::up_with(coordinator, with_state_file(path.clone())).await;
    rig.until("written", |r| r.counters.state_writes == 1).await;
    rig.circuits
        .announce(Owner::Shim, vec![model::circuit(5, "x")])
        .await
        .unwrap();
    // Stopped before the debounce is over: nothing is lost.
    rig.created(&[circuit(2, "b")]).await;
    rig.stop().await;

    let coordinator = Coordinator::default();
    coordinator.lists(&[circuit(2, "b"), circuit(3, "c")]);
    for _ in 0..5 {
        coordinator.fails("register", ClientError::Connect("away".into()));
    }
    let mut rig = Rig::with(coordinator, with_state_file(path), true);
    rig.tell(Notice::Subscribed).await;
    rig.until("tried", |r| r.counters.registration_failures == 2)
        .await;
    assert_eq!(rig.served().await, ["a", "b"], "not the shim's");
    assert_eq!(rig.status.report().circuits, 2);
    rig.listings(1).await;
    assert_eq!(rig.served().await, ["b", "c"], "replaced");
}

#[tokio::test(start_paused = true)]
async fn an_unusable_state_file_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("circuits.state");
    std::fs::write(&path, "garbage\n").unwrap();
    let coordinator = Coordinator::default();
    coordinator.lists(&[circuit(1, "a")]);
    let rig = Rig::up_with(coordinator, with_state_file(path)).await;
    rig.until("written over", |r| r.counters.state_writes == 1)
        .await;
    assert_eq!(rig.served().await, ["a"]);
}
