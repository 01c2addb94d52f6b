//! What model servers say of themselves, for the Manager's autoscaler of 25.x.
//!
//! Each replica of a known kind of server is asked for `/metrics`; sums and single values go to
//! Redis and last two minutes. Later versions read the replicas by other means, so whether this
//! runs at all is for whoever starts it to say.

mod measure;
mod text;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use redis::Pipeline;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::Circuits;
use super::model::{AppMode, Circuit, KernelRoute};
use super::redis::{Link, Outage, RedisConfig, db, refused};
use text::Families;

/// How often the replicas are asked, unless the configuration says otherwise.
pub const PERIOD: Duration = Duration::from_secs(5);
/// How long a replica may take from the first packet to the last.
const REPLICA_ANSWERS: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// How many replicas are asked at once.
const AT_ONCE: usize = 16;
/// How long a value lasts, in seconds.
const LASTS: u64 = 120;
/// Commands in one batch.
const BATCH: usize = 500;

/// What was said, by model service and route.
type Said = BTreeMap<Uuid, BTreeMap<Uuid, Families>>;

/// Somebody to ask.
#[derive(Clone, Copy, Debug)]
struct Replica {
    service: Uuid,
    route: Uuid,
    address: SocketAddr,
    prefix: &'static str,
}

/// Asks and writes; [`InferenceMetrics::run`] is its whole life.
#[derive(Debug)]
pub struct InferenceMetrics {
    circuits: Arc<Circuits>,
    period: Duration,
    link: Link,
    down: bool,
}

impl InferenceMetrics {
    pub fn new(config: RedisConfig, circuits: Arc<Circuits>, period: Duration) -> Self {
        Self {
            circuits,
            period,
            link: Link::new(config, db::STAT),
            down: false,
        }
    }

    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let collecting = async {
            let mut ticks = tokio::time::interval(self.period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.collect().await;
            }
        };
        tokio::select! {
            () = collecting => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn collect(&mut self) {
        let (_, circuits) = self.circuits.list().await;
        let replicas: Vec<Replica> = circuits.iter().flat_map(|c| replicas(c)).collect();
        let mut asking = stream::iter(replicas).map(ask).buffer_unordered(AT_ONCE);
        let mut said = Said::new();
        while let Some((replica, families)) = asking.next().await {
            match families {
                Ok(families) if families.is_empty() => {}
                Ok(families) => {
                    let service = said.entry(replica.service).or_default();
                    service.insert(replica.route, families);
                }
                Err(reason) => debug!(
                    route = %replica.route,
                    address = %replica.address,
                    %reason,
                    "replica does not tell its metrics"
                ),
            }
        }
        match (self.write(&said).await, self.down) {
            (Ok(()), true) => {
                info!("redis takes inference metrics again");
                self.down = false;
            }
            (Err(outage), false) => {
                warn!(%outage, "redis does not take inference metrics");
                self.down = true;
            }
            _ => {}
        }
    }

    async fn write(&mut self, said: &Said) -> Result<(), Outage> {
        let mut batch = redis::pipe();
        for (service, replicas) in said {
            for (route, families) in replicas {
                let key = format!("inference.{service}.replica.{route}");
                set(&mut batch, &key, families);
            }
            let total = measure::sum(replicas.values());
            set(&mut batch, &format!("inference.{service}.app"), &total);
            if batch.len() >= BATCH {
                self.send(&mut batch).await?;
            }
        }
        if !batch.is_empty() {
            self.send(&mut batch).await?;
        }
        Ok(())
    }

    async fn send(&mut self, batch: &mut Pipeline) -> Result<(), Outage> {
        let answers = self.link.run(batch).await?;
        if let Some(reason) = refused(&answers) {
            warn!(%reason, "redis refused an inference metric");
        }
        batch.clear();
        Ok(())
    }
}

fn set(batch: &mut Pipeline, key: &str, families: &Families) {
    let set = batch.cmd("SET").arg(key).arg(measure::encode(families));
    set.arg("EX").arg(LASTS);
}

/// The replicas of a circuit whose metrics are read.
fn replicas(circuit: &Circuit) -> Vec<Replica> {
    let variant = circuit.runtime_variant.as_deref().unwrap_or_default();
    let (AppMode::Inference, Some(service), Some(prefix)) = (
        circuit.app_mode,
        circuit.endpoint_id,
        measure::prefix(variant),
    ) else {
        return Vec::new();
    };
    let replica = |route: &KernelRoute| {
        Some(Replica {
            service,
            route: route.route_id?,
            address: route.address?,
            prefix,
        })
    };
    circuit.routes.iter().filter_map(replica).collect()
}

async fn ask(replica: Replica) -> (Replica, Result<Families, String>) {
    let asked = tokio::time::timeout(REPLICA_ANSWERS, fetch(replica.address)).await;
    let said = match asked {
        Ok(said) => said.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "deadline `replica metrics` of {REPLICA_ANSWERS:?} fired"
        )),
    };
    let families = said.map(|said| measure::select(text::parse(&said), replica.prefix));
    (replica, families)
}

async fn fetch(address: SocketAddr) -> Result<String, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/metrics")
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("status {}", response.status()).into());
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    // Driven here and not by a task of its own, so that nothing is left behind by a deadline.
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            said = &mut exchange => return said,
            ended = &mut connection, if open => {
                ended?;
                open = false;
            }
        }
    }
}
