//! What is written to Redis about use, discovery and health.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway::coordinator::discovery::Discovery;
use causeway::coordinator::redis::{Address, RedisConfig, RedisHealth, db};
use causeway::coordinator::usage::UsageWriter;
use causeway::telemetry::activity::{Activities, ActivityGuard};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::redis::FakeRedis;
use crate::support::{A_MOMENT, eventually, within};

const CIRCUIT: Uuid = Uuid::from_u128(0xC1);
const SESSION: Uuid = Uuid::from_u128(0x5E);

struct Writing {
    activities: Arc<Activities>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Writing {
    fn start(server: &FakeRedis) -> Self {
        Self::start_with(config(server))
    }

    fn start_with(config: RedisConfig) -> Self {
        let activities = Arc::new(Activities::default());
        let (stop, stopped) = watch::channel(false);
        let period = Duration::from_millis(20);
        let writer = UsageWriter::new(config, Arc::clone(&activities), period);
        Self {
            activities,
            stop,
            task: tokio::spawn(writer.run(stopped)),
        }
    }

    fn begin(&self) -> ActivityGuard {
        self.activities.announce(CIRCUIT, &[SESSION]).begin()
    }
}

fn config(server: &FakeRedis) -> RedisConfig {
    RedisConfig::stand_alone("127.0.0.1", server.address().port())
}

fn key(what: &str) -> String {
    format!("circuit.{CIRCUIT}.{what}")
}

/// What was counted for the circuit.
fn requests(server: &FakeRedis) -> Option<String> {
    server.get(db::LIVE, &key("requests"))
}

fn mark(server: &FakeRedis, key: &str) -> f64 {
    let text = server.get(db::LIVE, key).unwrap_or_default();
    text.parse().unwrap_or(0.0)
}

#[tokio::test]
async fn use_is_marked_and_counted() {
    let server = FakeRedis::start().await.unwrap();
    let writing = Writing::start(&server);
    for _ in 0..3 {
        drop(writing.begin());
    }
    let (circuit, session) = (key("last_access"), format!("session.{SESSION}.last_access"));
    eventually("counted", || requests(&server).as_deref() == Some("3")).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for key in [&circuit, &session] {
        let age = now.as_secs_f64() - mark(&server, key);
        assert!((-1.0..30.0).contains(&age), "{key}: {age}");
        let left = server.ttl(db::LIVE, key).unwrap().as_secs();
        assert!((172_700..=172_800).contains(&left), "{key}: {left}");
    }
    eventually("a count that ends", || {
        let left = server.ttl(db::LIVE, &key("requests"));
        left.is_some_and(|left| (3500..=3600).contains(&left.as_secs()))
    })
    .await;
    assert_eq!(server.keys(db::LIVE), [circuit, key("requests"), session]);

    drop(writing.begin());
    eventually("counted on", || requests(&server).as_deref() == Some("4")).await;
    let commands = server.commands().len();
    tokio::time::sleep(A_MOMENT).await;
    assert_eq!(
        server.commands().len(),
        commands,
        "nothing is written without use"
    );
}

#[tokio::test]
async fn what_stays_open_is_marked_again() {
    let server = FakeRedis::start().await.unwrap();
    let writing = Writing::start(&server);
    let open = writing.begin();
    eventually("marked", || mark(&server, &key("last_access")) > 0.0).await;
    let first = mark(&server, &key("last_access"));
    eventually("marked again", || {
        mark(&server, &key("last_access")) > first + 1.0
    })
    .await;
    assert_eq!(requests(&server).as_deref(), Some("1"));
    drop(open);
}

#[tokio::test]
async fn nothing_is_lost_while_redis_is_away() {
    let mut server = FakeRedis::start().await.unwrap();
    let writing = Writing::start(&server);
    drop(writing.begin());
    eventually("counted", || requests(&server).as_deref() == Some("1")).await;
    server.stop().await;
    for _ in 0..5 {
        drop(writing.begin());
    }
    writing.activities.remove(CIRCUIT);
    tokio::time::sleep(A_MOMENT).await;
    assert_eq!(writing.activities.list().len(), 1, "not written yet");
    server.restart().await.unwrap();
    eventually("caught up", || requests(&server).as_deref() == Some("6")).await;
    eventually("forgotten", || writing.activities.list().is_empty()).await;

    server.set_replica(true);
    drop(writing.begin());
    tokio::time::sleep(A_MOMENT).await;
    assert_eq!(requests(&server).as_deref(), Some("6"));
    server.set_replica(false);
    eventually("caught up again", || {
        requests(&server).as_deref() == Some("7")
    })
    .await;
}

#[tokio::test]
async fn a_replaced_master_is_left_even_if_it_takes_everything() {
    let old = FakeRedis::start().await.unwrap();
    let new = FakeRedis::start().await.unwrap();
    let sentinel = FakeRedis::start().await.unwrap();
    sentinel.set_master("main", old.address());
    let asked = Address::new("127.0.0.1", sentinel.address().port());
    let mut config = RedisConfig::sentinel(vec![asked], "main");
    config.ping_every = Duration::from_millis(50);
    let writing = Writing::start_with(config);
    drop(writing.begin());
    eventually("counted", || requests(&old).as_deref() == Some("1")).await;
    sentinel.set_master("main", new.address());
    eventually("counted by the new one", || {
        drop(writing.begin());
        requests(&new).is_some()
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_something_else_holds_nothing_up() {
    let server = FakeRedis::start().await.unwrap();
    server.set(db::LIVE, &key("requests"), "not a number");
    let writing = Writing::start(&server);
    drop(writing.begin());
    drop(writing.activities.announce(Uuid::from_u128(2), &[]).begin());
    let other = format!("circuit.{}.requests", Uuid::from_u128(2));
    eventually("the other", || server.get(db::LIVE, &other).is_some()).await;
    assert_eq!(requests(&server).as_deref(), Some("not a number"));
}

#[tokio::test]
async fn many_circuits_take_several_batches_and_all_arrive() {
    let server = FakeRedis::start().await.unwrap();
    let writing = Writing::start(&server);
    for number in 0..700 {
        drop(
            writing
                .activities
                .announce(Uuid::from_u128(number), &[SESSION])
                .begin(),
        );
    }
    // Two keys for each circuit and the one session that they share.
    eventually("all", || server.keys(db::LIVE).len() == 1401).await;
}

#[tokio::test]
async fn the_last_uses_are_written_at_the_end() {
    let server = FakeRedis::start().await.unwrap();
    let activities = Arc::new(Activities::default());
    let (stop, stopped) = watch::channel(false);
    let never = Duration::from_secs(3600);
    let writer = UsageWriter::new(config(&server), Arc::clone(&activities), never);
    let task = tokio::spawn(writer.run(stopped));
    tokio::time::sleep(A_MOMENT).await;
    drop(activities.announce(CIRCUIT, &[]).begin());
    stop.send(true).unwrap();
    within("the end", task).await.unwrap();
    assert_eq!(requests(&server).as_deref(), Some("1"));
}

#[tokio::test]
async fn a_dead_redis_does_not_hold_up_the_end() {
    let server = FakeRedis::start().await.unwrap();
    server.set_deaf(true);
    let writing = Writing::start(&server);
    drop(writing.begin());
    eventually("an attempt", || server.accepted() > 0).await;
    writing.stop.send(true).unwrap();
    within("the end", writing.task).await.unwrap();
}

#[tokio::test]
async fn the_worker_is_found_by_discovery() {
    let mut server = FakeRedis::start().await.unwrap();
    server.stop().await;
    let mut entry = Discovery::new("worker-1", Address::new("10.0.0.9", 10201));
    entry.labels.insert("zone".to_owned(), "a".to_owned());
    let key = entry.key();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(entry.clone().run(config(&server), stopped));
    tokio::time::sleep(A_MOMENT).await;
    server.restart().await.unwrap();
    eventually("an entry that ends", || {
        server.ttl(db::STAT, &key).is_some()
    })
    .await;
    let fields = server.hash(db::STAT, &key);
    let field = |name: &str| -> Value { serde_json::from_str(&fields[name]).unwrap() };
    assert_eq!(field("id"), entry.id.to_string());
    assert_eq!(field("display_name"), "appproxy-worker-worker-1");
    assert_eq!(field("service_group"), "appproxy-worker");
    assert_eq!(field("endpoint")["prometheus_address"], "10.0.0.9:10201");
    assert_eq!(field("labels"), json!({"zone": "a"}));
    assert!(field("health_status")["last_heartbeat"].as_f64().unwrap() > 1.6e9);
    assert!(field("version").is_string());
    assert_eq!(fields.len(), 7);
    let left = server.ttl(db::STAT, &key).unwrap().as_secs();
    assert!((170..=180).contains(&left), "{left}");
    stop.send(true).unwrap();
    within("the end", task).await.unwrap();
    assert!(server.ttl(db::STAT, &key).is_some(), "left to expire");
}

#[tokio::test]
async fn health_says_whether_redis_answers() {
    let mut server = FakeRedis::start().await.unwrap();
    server.stop().await;
    let health = RedisHealth::new();
    assert!(!health.is_healthy(), "not before it was checked");
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(Arc::clone(&health).run(config(&server), stopped));
    eventually("checked", || {
        health.checks().iter().all(|c| c.checked_at.is_some())
    })
    .await;
    for (check, component) in health.checks().iter().zip(["live", "stat"]) {
        assert_eq!((check.component, check.healthy), (component, false));
        let error = check.error.as_deref().unwrap();
        assert!(error.contains("redis connect"), "{error}");
    }
    server.restart().await.unwrap();
    eventually("healthy", || health.is_healthy()).await;
    assert!(health.checks().iter().all(|check| check.error.is_none()));
    stop.send(true).unwrap();
    within("the end", task).await.unwrap();
}
