//! The event bus, over a Redis that comes and goes.

use std::net::SocketAddr;
use std::time::Duration;

use causeway::coordinator::bus::Bus;
use causeway::coordinator::event::{Event, Notice, Reply};
use causeway::coordinator::redis::{Address, RedisConfig};
use causeway::util::Secret;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::support::redis::FakeRedis;
use crate::support::{A_MOMENT, eventually, within};

const CHANNEL: &str = "events_all-appproxy";
const MASTER: &str = "mymaster";

/// A bus that runs, and what it is connected to.
struct Running {
    notices: mpsc::Receiver<Notice>,
    replies: mpsc::Sender<Reply>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(config: RedisConfig) -> Self {
        let (notify, notices) = mpsc::channel(16);
        let (replies, take) = mpsc::channel(16);
        let (stop, stopped) = watch::channel(false);
        let bus = Bus::new(config, "worker-1");
        Self {
            notices,
            replies,
            stop,
            task: tokio::spawn(bus.run(notify, take, stopped)),
        }
    }

    async fn next(&mut self) -> Notice {
        let next = within("a notice", self.notices.recv()).await;
        next.expect("the bus runs")
    }

    async fn subscribed(&mut self) {
        assert_eq!(self.next().await, Notice::Subscribed);
    }

    async fn lost(&mut self) -> String {
        match self.next().await {
            Notice::Lost { reason } => reason,
            other => panic!("not lost: {other:?}"),
        }
    }

    async fn silent(&mut self) {
        let next = tokio::time::timeout(A_MOMENT, self.notices.recv()).await;
        assert!(next.is_err(), "not silent: {next:?}");
    }

    async fn reply(&self, number: i32) {
        self.replies.send(added(number)).await.unwrap();
    }
}

fn config(server: &FakeRedis) -> RedisConfig {
    RedisConfig::stand_alone("127.0.0.1", server.address().port())
}

fn address(address: SocketAddr) -> Address {
    Address::new(address.ip().to_string(), address.port())
}

fn added(number: i32) -> Reply {
    Reply::Added {
        circuits: vec![json!({"id": number})],
    }
}

fn created(authority: &str, number: i32) -> Vec<u8> {
    let payload = json!({"target_worker_authority": authority, "circuits": [{"id": number}]});
    let message = json!({
        "name": "appproxy_circuit_created_event",
        "source": "appproxy-coordinator",
        "payload": payload.to_string(),
    });
    message.to_string().into_bytes()
}

fn event(number: i32) -> Notice {
    Notice::Event(Event::Created {
        circuits: vec![json!({"id": number})],
    })
}

/// The numbers inside the replies that a server was given, which have both bodies.
fn replies(server: &FakeRedis) -> Vec<Value> {
    let number = |message: &Vec<u8>| {
        let message: Value = serde_json::from_slice(message).unwrap();
        assert_eq!(message["name"], "appproxy_worker_circuit_added_event");
        assert!(message["args"].is_string() && message["metadata"].is_string());
        let payload: Value = serde_json::from_str(message["payload"].as_str().unwrap()).unwrap();
        payload["circuits"][0]["id"].clone()
    };
    server.published(CHANNEL).iter().map(number).collect()
}

#[tokio::test]
async fn events_for_this_worker_arrive_and_others_do_not() {
    let server = FakeRedis::start().await.unwrap();
    let mut bus = Running::start(config(&server));
    bus.subscribed().await;
    server.publish(CHANNEL, &created("worker-2", 1));
    server.publish(CHANNEL, b"what is this?");
    server.publish(
        CHANNEL,
        br#"{"name":"appproxy_circuit_created_event","args":"!"}"#,
    );
    server.publish(CHANNEL, &created("worker-1", 2));
    assert_eq!(bus.next().await, event(2));
    bus.silent().await;
    bus.stop.send(true).unwrap();
    within("the end", bus.task).await.unwrap();
    eventually("unsubscribed", || server.subscribers(CHANNEL) == 0).await;
}

#[tokio::test]
async fn replies_carry_both_bodies() {
    let server = FakeRedis::start().await.unwrap();
    let mut bus = Running::start(config(&server));
    bus.subscribed().await;
    bus.reply(1).await;
    bus.reply(2).await;
    eventually("replies", || replies(&server) == [1, 2]).await;
    bus.silent().await;
}

#[tokio::test]
async fn a_restart_is_one_loss_and_one_subscription_and_queued_replies_go_out() {
    let mut server = FakeRedis::start().await.unwrap();
    let mut bus = Running::start(config(&server));
    bus.subscribed().await;
    server.stop().await;
    bus.lost().await;
    bus.reply(1).await;
    bus.reply(2).await;
    bus.silent().await;
    server.restart().await.unwrap();
    bus.subscribed().await;
    eventually("replies", || replies(&server) == [1, 2]).await;
    server.publish(CHANNEL, &created("worker-1", 3));
    assert_eq!(bus.next().await, event(3));
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut server = FakeRedis::start().await.unwrap();
    server.stop().await;
    let mut bus = Running::start(config(&server));
    let reason = bus.lost().await;
    assert!(
        reason.contains("redis connect") && reason.contains("127.0.0.1"),
        "{reason}"
    );
    bus.silent().await;
    server.restart().await.unwrap();
    bus.subscribed().await;
}

#[tokio::test]
async fn connections_that_are_cut_come_back() {
    let server = FakeRedis::start().await.unwrap();
    let mut bus = Running::start(config(&server));
    bus.subscribed().await;
    server.drop_connections();
    bus.lost().await;
    bus.subscribed().await;
    bus.reply(4).await;
    eventually("a reply", || replies(&server) == [4]).await;
}

#[tokio::test]
async fn a_connection_that_went_silent_is_given_up() {
    let server = FakeRedis::start().await.unwrap();
    let mut config = config(&server);
    config.ping_every = Duration::from_millis(50);
    config.response_timeout = Duration::from_millis(500);
    let mut bus = Running::start(config);
    bus.subscribed().await;
    eventually("pings", || {
        server.commands().iter().filter(|c| *c == "PING").count() > 3
    })
    .await;
    bus.silent().await;
    server.set_deaf(true);
    let reason = bus.lost().await;
    assert!(reason.contains("redis ping"), "{reason}");
    server.set_deaf(false);
    bus.subscribed().await;
}

#[tokio::test]
async fn a_password_is_sent() {
    let server = FakeRedis::start().await.unwrap();
    server.set_password("right");
    let mut wrong = Running::start(config(&server));
    let reason = wrong.lost().await;
    assert!(reason.contains("redis login"), "{reason}");
    assert!(!reason.contains("right"), "{reason}");
    let mut config = config(&server);
    config.password = Some(Secret::new("right"));
    Running::start(config).subscribed().await;
}

#[tokio::test]
async fn a_failover_is_followed() {
    let old = FakeRedis::start().await.unwrap();
    let new = FakeRedis::start().await.unwrap();
    new.set_replica(true);
    let mut gone = FakeRedis::start().await.unwrap();
    gone.stop().await;
    let sentinel = FakeRedis::start().await.unwrap();
    sentinel.set_master(MASTER, old.address());
    let sentinels = vec![address(gone.address()), address(sentinel.address())];
    let mut config = RedisConfig::sentinel(sentinels, MASTER);
    config.ping_every = Duration::from_millis(50);
    let mut bus = Running::start(config);
    bus.subscribed().await;
    assert_eq!((old.subscribers(CHANNEL), new.subscribers(CHANNEL)), (1, 0));

    // The old master still answers: nobody closed its connections.
    new.set_replica(false);
    old.set_replica(true);
    sentinel.set_master(MASTER, new.address());
    bus.lost().await;
    bus.subscribed().await;
    assert_eq!(new.subscribers(CHANNEL), 1);
    eventually("left the old one", || old.subscribers(CHANNEL) == 0).await;
    bus.reply(5).await;
    eventually("a reply", || replies(&new) == [5]).await;
    assert!(replies(&old).is_empty());
}

#[tokio::test]
async fn a_sentinel_that_names_a_replica_is_not_believed() {
    let server = FakeRedis::start().await.unwrap();
    server.set_replica(true);
    let sentinel = FakeRedis::start().await.unwrap();
    let sentinels = vec![address(sentinel.address())];
    let mut bus = Running::start(RedisConfig::sentinel(sentinels, MASTER));
    let reason = bus.lost().await;
    assert!(reason.contains("knows no master"), "{reason}");
    sentinel.set_master(MASTER, server.address());
    bus.silent().await;
    assert_eq!(server.subscribers(CHANNEL), 0);
    server.set_replica(false);
    bus.subscribed().await;
}

#[tokio::test]
async fn a_sentinel_may_want_the_password_of_the_data() {
    let server = FakeRedis::start().await.unwrap();
    server.set_password("both");
    let sentinel = FakeRedis::start().await.unwrap();
    sentinel.set_master(MASTER, server.address());
    let sentinels = vec![address(sentinel.address())];
    let mut config = RedisConfig::sentinel(sentinels, MASTER);
    config.password = Some(Secret::new("both"));
    Running::start(config.clone()).subscribed().await;
    sentinel.set_password("both");
    Running::start(config).subscribed().await;
}
