//! What a Coordinator does for one worker: takes its registration, announces an app to it, sends
//! the user's browser there, and takes the app away again. Coordinator and Redis are doubles in
//! this process, so nothing else is needed to see a worker at work.
//!
//! ```sh
//! cargo run --example fake_coordinator -- 127.0.0.1:8888 > worker.toml   # where an app listens
//! cargo run -- start-server -f worker.toml                               # in another terminal
//! ```
//!
//! The worker's file goes to standard output, and what happens to standard error:
//!
//! ```text
//! waiting for a worker of authority worker-1
//! registered, subscribed
//! created (in args): the worker has added it
//! created (in payload): the worker has added it
//! open http://worker.apps.localhost:10201/setup?token=eyJ0eXAi...   (Ctrl-C ends it)
//! removed
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use uuid::Uuid;

mod coordinator;
mod redis;

use coordinator::{FakeCoordinator, Style};
use redis::FakeRedis;

/// Everything that is said between a Coordinator and its workers goes over this channel.
const CHANNEL: &str = "events_all-appproxy";
const ADDED: &str = "appproxy_worker_circuit_added_event";
const API_SECRET: &str = "some_api_secret";
const JWT_SECRET: &str = "some_jwt_secret";
/// As long as a Coordinator lets its user wait.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

#[derive(Parser)]
pub struct Args {
    /// Where the app listens: the kernel of the circuit.
    pub app: SocketAddr,
    #[arg(long, default_value = "worker-1")]
    pub authority: String,
    #[arg(long, default_value_t = 10200)]
    pub coordinator_port: u16,
    #[arg(long, default_value_t = 16379)]
    pub redis_port: u16,
    /// Where the worker's API is to listen.
    #[arg(long, default_value_t = 10201)]
    pub api_port: u16,
    /// Where apps are to be reached, as `http://<subdomain>.apps.localhost:<port>/`.
    #[arg(long, default_value_t = 10205)]
    pub traffic_port: u16,
}

pub struct Fake {
    args: Args,
    coordinator: FakeCoordinator,
    redis: FakeRedis,
    circuit: Value,
}

#[tokio::main]
async fn main() -> Result<()> {
    let fake = Fake::start(Args::parse()).await?;
    print!("{}", fake.worker_file());
    eprintln!("waiting for a worker of authority {}", fake.args.authority);
    fake.registered().await;
    eprintln!("registered, subscribed");
    for (field, body) in fake.bodies() {
        fake.create(field, body).await?;
        eprintln!("created (in {field}): the worker has added it");
    }
    eprintln!("open {}   (Ctrl-C ends it)", fake.setup_link()?);
    tokio::signal::ctrl_c().await?;
    fake.remove();
    // The message has to leave before the connection does.
    tokio::time::sleep(Duration::from_millis(200)).await;
    eprintln!("removed");
    Ok(())
}

impl Fake {
    pub async fn start(args: Args) -> Result<Self> {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let redis = FakeRedis::start_at(at(args.redis_port)).await?;
        let coordinator =
            FakeCoordinator::start_at(at(args.coordinator_port), API_SECRET, Style::Real).await;
        let session = Uuid::new_v4();
        // An app of somebody's session. Only its owner may use it: the setup link proves who that is.
        let circuit = json!({
            "id": Uuid::new_v4(), "app": "demo", "protocol": "http", "app_mode": "interactive",
            "frontend_mode": "wildcard", "subdomain": "app-demo", "open_to_public": false,
            "allowed_client_ips": null, "user_id": Uuid::new_v4(), "session_ids": [session],
            "route_info": [{
                "session_id": session, "kernel_host": args.app.ip(), "kernel_port": args.app.port(),
                "protocol": "http", "traffic_ratio": 1.0,
            }],
            "created_at": "2026-01-01T00:00:00.000000Z", "updated_at": "2026-01-01T00:00:00.000000Z",
        });
        Ok(Self {
            args,
            coordinator,
            redis,
            circuit,
        })
    }

    /// The file of a worker that belongs to this Coordinator.
    pub fn worker_file(&self) -> String {
        let ports = [
            ("COORDINATOR", self.coordinator.address.port()),
            ("REDIS", self.redis.address().port()),
            ("API", self.args.api_port),
            ("TRAFFIC", self.args.traffic_port),
        ];
        let file = include_str!("worker.toml").replace("AUTHORITY", &self.args.authority);
        ports.iter().fold(file, |file, (name, port)| {
            file.replace(&format!("{name}_PORT"), &port.to_string())
        })
    }

    /// A worker subscribes, then registers. A message that nobody is subscribed for is lost.
    pub async fn registered(&self) {
        let nodes = || self.coordinator.nodes(&self.args.authority);
        while nodes() < 1 || self.redis.subscribers(CHANNEL) == 0 {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Authority and circuits, as a Coordinator up to 26.8 writes them, and as one from 26.9 on does.
    pub fn bodies(&self) -> [(&'static str, String); 2] {
        let circuits = json!([self.circuit]);
        let packed = rmp_serde::to_vec(&(&self.args.authority, circuits.to_string()));
        let args = STANDARD.encode(packed.expect("two texts can be written"));
        let payload = json!({"target_worker_authority": self.args.authority, "circuits": circuits});
        [("args", args), ("payload", payload.to_string())]
    }

    fn publish(&self, name: &str, field: &str, body: String) {
        let event = json!({"name": name, "source": "appproxy-coordinator", (field): body});
        self.redis.publish(CHANNEL, event.to_string().as_bytes());
    }

    /// Announces the circuit, and waits until the worker says that traffic can reach it.
    pub async fn create(&self, field: &str, body: String) -> Result<()> {
        // Who registers or lists later has to be told the same.
        self.coordinator
            .set_circuits(std::slice::from_ref(&self.circuit));
        let before = self.replies();
        self.publish("appproxy_circuit_created_event", field, body);
        let replied = async {
            while self.replies() == before {
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(PATIENCE, replied).await.is_err() {
            bail!("the worker has not added the circuit; its log says why");
        }
        Ok(())
    }

    /// How often a worker has said that it serves the circuit. Each time is due: somebody waits.
    fn replies(&self) -> usize {
        let id = self.circuit["id"].as_str().unwrap_or_default();
        let said = self.redis.published(CHANNEL).into_iter();
        said.map(|message| String::from_utf8_lossy(&message).into_owned())
            .filter(|m| m.contains(ADDED) && m.contains(id))
            .count()
    }

    /// Where a Coordinator sends the user's browser. The worker answers with a cookie for the app.
    pub fn setup_link(&self) -> Result<String> {
        let said = (self.coordinator.registration(&self.args.authority)).context("no worker")?;
        let claims = json!({
            "id": Uuid::new_v4(), "version": "v2", "redirect": "", "circuit": self.circuit["id"],
        });
        let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key)?;
        let (host, port) = (said["hostname"].as_str(), &said["api_port"]);
        let host = host.context("it has a name")?;
        Ok(format!("http://{host}:{port}/setup?token={token}"))
    }

    pub fn remove(&self) {
        self.coordinator.set_circuits(&[]);
        let [_, (field, body)] = self.bodies();
        self.publish("appproxy_circuit_removed_event", field, body);
    }
}
