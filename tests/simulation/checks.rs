//! What it costs to watch the kernels of very many circuits.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use causeway::cluster::health_check::{Changes, Checker, Pace, Rounds};
use causeway::config::Causeway;
use causeway::coordinator::model::Circuit;
use causeway::coordinator::registry::{CircuitRegistry, Owner};
use causeway::coordinator::translate::{self, Frame, KernelWatch};
use causeway::coordinator::wire::WireCircuit;
use causeway::filter::Registry;
use causeway::snapshot::{Compiler, Snapshot};
use causeway::telemetry::stats::Stats;
use causeway::upstream::endpoint::Availability;
use causeway_xds::extension::Unchecked;
use causeway_xds::source::Batch;
use causeway_xds::store::ResourceStore;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;
use uuid::Uuid;

const CIRCUITS: u32 = 10_000;

/// Many circuits with their kernels, each at an address of its own.
pub struct World {
    pub snapshot: Snapshot,
    pub stats: Arc<Stats>,
    accepted: Arc<AtomicU64>,
}

impl World {
    /// As the worker's defaults have it; kernels accept connections and say nothing.
    async fn new(kernels: u32, protocol: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let world = Self::at(port, CIRCUITS, kernels, protocol);
        let count = Arc::clone(&world.accepted);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                drop(connection);
            }
        });
        world
    }

    /// So many circuits, whose kernels are at this port.
    pub fn at(port: u16, circuits: u32, kernels: u32, protocol: &str) -> Self {
        let frame = Frame {
            watch: KernelWatch::from(&Causeway::default()),
            allow_unauthenticated: true,
            ..Frame::default()
        };
        let announced = (0..circuits).map(|n| circuit(n, kernels, port, protocol));
        let mut registry = CircuitRegistry::default();
        let touched = registry.announce(Owner::Shim, announced.collect());
        let updates = translate::change(&frame, &registry, &touched, "1");
        let mut store = ResourceStore::new();
        let applied = store.apply(&mut Batch::new(updates), &Unchecked, SystemTime::now());
        let stats = Arc::<Stats>::default();
        let mut compiler = Compiler::new(Arc::clone(&stats), Registry::default());
        let compiled = compiler.compile(&store, &applied.changes, &Snapshot::default());
        let snapshot = compiled.snapshot;
        assert_eq!(snapshot.clusters.len(), circuits as usize);
        Self {
            snapshot,
            stats,
            accepted: Arc::default(),
        }
    }

    /// As if each had been used before.
    fn used(&self) {
        for cluster in self.snapshot.clusters.values() {
            cluster.transport.stats.upstream_cx_total.inc();
        }
    }

    /// Begins to check everything that is to be checked.
    fn check(&self) -> usize {
        let (changes, pace) = (Arc::<Changes>::default(), Arc::<Pace>::default());
        let rounds = Arc::<Rounds>::default();
        tokio::spawn(Arc::clone(&rounds).run(Arc::clone(&pace)));
        let mut checked = 0;
        for cluster in self.snapshot.clusters.values() {
            let Some(check) = &cluster.model.health_check else {
                continue;
            };
            for endpoint in cluster.endpoints.all() {
                // Nobody is left out for what is not known yet.
                assert_eq!(endpoint.availability(), Availability::Healthy);
                checked += 1;
                let checker = Checker {
                    check: Arc::clone(check),
                    endpoint: Arc::clone(endpoint),
                    transport: Arc::clone(&cluster.transport),
                    stats: self.stats.health_check("kernels"),
                    outlier: cluster.outlier.clone(),
                    changes: Arc::clone(&changes),
                    pace: Arc::clone(&pace),
                    events: Box::default(),
                };
                // Held for as long as the test.
                match checker.goes_rounds() {
                    true => std::mem::forget(rounds.add(checker)),
                    false => drop(tokio::spawn(checker.run())),
                }
            }
        }
        checked
    }

    /// Checks in so many seconds, by the second; the most in any one of them is the second number.
    async fn attempts(&self, seconds: u32) -> (u64, u64) {
        let attempts = &self.stats.health_check("kernels").attempt;
        let (before, mut most) = (attempts.value(), 0);
        let started = Instant::now();
        for second in 1..=seconds {
            let so_far = attempts.value();
            tokio::time::sleep_until(started + Duration::from_secs(second.into())).await;
            most = most.max(attempts.value() - so_far);
        }
        (attempts.value() - before, most)
    }
}

fn circuit(number: u32, kernels: u32, port: u16, protocol: &str) -> Circuit {
    let host = |kernel: u32| {
        let [_, a, b, c] = (number * kernels + kernel + 1).to_be_bytes();
        Ipv4Addr::new(127, a, b, c).to_string()
    };
    let routes: Vec<_> = (0..kernels)
        .map(|kernel| json!({"kernel_host": host(kernel), "kernel_port": port}))
        .collect();
    let wire: WireCircuit = serde_json::from_value(json!({
        "id": Uuid::from_u128(number.into()), "app": "app", "protocol": protocol,
        "app_mode": "interactive", "frontend_mode": "port", "port": 1 + number,
        "open_to_public": true,
        "session_ids": [Uuid::from_u128(u128::from(number) << 32)], "route_info": routes,
    }))
    .unwrap();
    Circuit::try_from(wire).unwrap()
}

/// Fifty connections a second are half a percent of a core (see docs/LOAD-BALANCING.md).
const MOST: u64 = 51;

#[tokio::test(start_paused = true)]
async fn ten_thousand_kernels_that_are_alone_are_hardly_ever_checked() {
    let world = World::new(1, "http").await;
    world.used();
    assert_eq!(world.check(), CIRCUITS as usize);
    let (all, most) = world.attempts(120).await;
    // Each once in 300 seconds: 33 in one, with a deviation of six.
    assert!(
        (3_000..=5_000).contains(&all) && most <= MOST,
        "{all}, {most}"
    );
    let checks = world.stats.health_check("kernels");
    assert_eq!(checks.failure.value(), 0);
    assert!(world.accepted.load(Relaxed) >= all - 100);
}

#[tokio::test(start_paused = true)]
async fn checks_take_turns_however_many_kernels_there_are() {
    let world = World::new(3, "http").await;
    world.used();
    assert_eq!(world.check(), 3 * CIRCUITS as usize);
    // 1,000 in a second, were there no turns.
    let (all, most) = world.attempts(60).await;
    assert!(
        (2_500..=3_060).contains(&all) && most <= MOST,
        "{all}, {most}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_relayed_as_bytes_is_not_checked() {
    let world = World::new(2, "tcp").await;
    assert_eq!(world.check(), 0);
    // Connections that fail are noticed all the same.
    assert!(
        world
            .snapshot
            .clusters
            .values()
            .all(|c| c.outlier.is_some())
    );
}
