//! Whose turn it is among endpoints that are checked in the background.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use causeway::cluster::Cluster;
use causeway::cluster::health_check::{Changes, Checker, Pace, Rounds, Watched};
use causeway_xds::resource::cluster::{HealthCheck, Intervals, Probe, TcpProbe};
use tokio::net::TcpListener;

use super::checks::World;

/// Two endpoints that take connections and say nothing, and the queue of their checks.
struct Queue {
    world: World,
    rounds: Arc<Rounds>,
    pace: Arc<Pace>,
}

impl Queue {
    async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let world = World::at(listener.local_addr().unwrap().port(), 2, 1, "http");
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                open.push(connection);
            }
        });
        let (rounds, pace) = (Arc::<Rounds>::default(), Arc::<Pace>::default());
        tokio::spawn(Arc::clone(&rounds).run(Arc::clone(&pace)));
        Self {
            world,
            rounds,
            pace,
        }
    }

    /// Has the endpoint of a cluster checked every so many seconds; counted under `name`.
    fn add(&self, index: usize, name: &str, seconds: u64, probe: TcpProbe) -> Arc<Watched> {
        let cluster: &Arc<Cluster> = self.world.snapshot.clusters.values().nth(index).unwrap();
        let interval = Duration::from_secs(seconds);
        let check = HealthCheck {
            timeout: interval / 2,
            probe: Probe::Tcp(probe),
            intervals: Intervals {
                healthy: interval,
                unhealthy: interval,
                healthy_edge: interval,
                unhealthy_edge: interval,
                no_traffic: interval,
                no_traffic_healthy: interval,
                initial_jitter: Duration::ZERO,
                jitter: Duration::ZERO,
                jitter_percent: 0,
            },
            ..(**cluster.model.health_check.as_ref().unwrap()).clone()
        };
        let checker = Checker {
            check: Arc::new(check),
            endpoint: Arc::clone(&cluster.endpoints.all()[0]),
            transport: Arc::clone(&cluster.transport),
            stats: self.world.stats.health_check(name),
            outlier: None,
            changes: Arc::<Changes>::default(),
            pace: Arc::clone(&self.pace),
            events: Box::default(),
        };
        assert!(checker.goes_rounds());
        self.rounds.add(checker)
    }

    /// Checks that were begun, and those of them that failed.
    fn made(&self, name: &str) -> (u64, u64) {
        let stats = self.world.stats.health_check(name);
        (stats.attempt.value(), stats.failure.value())
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_due_earlier_goes_before_those_that_wait_already() {
    let queue = Queue::new().await;
    let _slow = queue.add(0, "slow", 1_000, TcpProbe::default());
    pass(1).await;
    // Nothing is due for a thousand seconds, and that is what the queue waits for.
    let _quick = queue.add(1, "quick", 10, TcpProbe::default());
    pass(95).await;
    assert_eq!(queue.made("quick"), (10, 0));
    assert_eq!(queue.made("slow"), (1, 0));
    pass(1_000).await;
    assert_eq!(queue.made("slow"), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_holds_any_more_is_not_checked_again() {
    let queue = Queue::new().await;
    let gone = queue.add(0, "gone", 10, TcpProbe::default());
    let _stays = queue.add(1, "stays", 10, TcpProbe::default());
    pass(15).await;
    assert_eq!(queue.made("gone"), (2, 0));
    drop(gone);
    pass(100).await;
    assert_eq!(queue.made("gone"), (2, 0));
    assert_eq!(queue.made("stays").0, 12);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_takes_its_time_holds_nobody_up() {
    let queue = Queue::new().await;
    // The endpoint would have to say something, so that each check lasts until its timeout.
    let talk = TcpProbe {
        receive: vec![b"hello".to_vec()],
        ..TcpProbe::default()
    };
    let _hangs = queue.add(0, "hangs", 200, talk);
    let _quick = queue.add(1, "quick", 10, TcpProbe::default());
    pass(95).await;
    assert_eq!(queue.made("hangs"), (1, 0));
    assert_eq!(queue.made("quick"), (10, 0));
    pass(10).await;
    assert_eq!(queue.made("hangs"), (1, 1));
}
