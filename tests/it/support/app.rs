//! The application under test, started through the same door as the program.

use std::net::SocketAddr;
use std::time::Duration;

use causeway::app::{self, Config, Options, Running};
use causeway::config::bootstrap::{BootstrapConfig, Overrides};
use causeway::config::{
    Access, Causeway, DigestMod, PermitHash, PortProxy, WildcardDomain, WorkerConfig,
};
use causeway::coordinator::permit::{Digest, PermitHasher};
use causeway::filter::Factory;
use causeway::util::Secret;
use serde_json::Value;

use super::circuit::Circuit;
use super::client::{Http1, Reply, get, request};

pub const SECRET: &str = "a secret of the tests";
pub const DOMAIN: &str = "apps.test";

/// A worker or a bootstrap, running in this process. Ends when dropped.
pub struct TestApp {
    pub running: Running,
}

/// The configuration of a worker: loopback only, ports that the system chooses, three port slots.
pub fn worker() -> WorkerConfig {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    WorkerConfig {
        causeway: Causeway {
            management: any_port,
            path_frontend: Some(any_port),
            // Whoever counts connections counts those of users.
            kernel_check_period: Duration::ZERO,
            ..Causeway::default()
        },
        port_proxy: Some(PortProxy {
            bind_host: any_port.ip(),
            bind_ports: vec![0; 3],
            advertised_from: None,
        }),
        wildcard_domain: Some(WildcardDomain {
            bind_addr: any_port,
            domain: format!(".{DOMAIN}"),
            advertised_port: None,
        }),
        ..WorkerConfig::push_only(Secret::new(SECRET))
    }
}

/// As [`worker`], with circuits that ask for permits; and who gives those.
pub fn worker_with_permits() -> (WorkerConfig, PermitHasher) {
    let mut config = worker();
    let secret = Secret::new("permits");
    let permits = PermitHasher::new(&secret, Digest::Sha256);
    config.access = Some(Access {
        jwt_secret: Secret::new("key"),
        permit_hash: PermitHash {
            secret,
            digest_mod: DigestMod::Sha256,
        },
    });
    (config, permits)
}

/// Data threads: two, so that tests see what differs between one and several.
pub const THREADS: usize = 2;

fn options() -> Options {
    Options {
        concurrency: THREADS,
        drain_time: super::DEADLINE,
        ..Options::default()
    }
}

impl TestApp {
    pub async fn worker() -> Self {
        Self::with(worker()).await
    }

    pub async fn with(config: WorkerConfig) -> Self {
        let config = Config::Worker(Box::new(config));
        let running = app::start(config, options())
            .await
            .expect("the worker starts");
        Self { running }
    }

    /// What a bootstrap says, in YAML or JSON.
    pub async fn bootstrap(text: &str) -> Self {
        Self::try_bootstrap(text)
            .await
            .expect("the bootstrap is served")
    }

    pub async fn try_bootstrap(text: &str) -> anyhow::Result<Self> {
        let parsed = BootstrapConfig::parse("test.yaml", text, &Overrides::default())?;
        let running = app::start(Config::Bootstrap(Box::new(parsed)), options()).await?;
        Ok(Self { running })
    }

    /// With filters that are not in the program.
    pub async fn with_filters(text: &str, filters: &'static [Factory]) -> Self {
        let parsed = BootstrapConfig::parse("test.yaml", text, &Overrides::default());
        let parsed = parsed.expect("a bootstrap");
        let options = Options {
            filters,
            ..options()
        };
        let running = app::start(Config::Bootstrap(Box::new(parsed)), options).await;
        Self {
            running: running.expect("the bootstrap is served"),
        }
    }

    /// A worker that serves these circuits.
    pub async fn serving(circuits: &[&Circuit]) -> Self {
        let app = Self::worker().await;
        app.announce(circuits).await;
        app
    }

    pub fn management(&self) -> SocketAddr {
        self.running
            .management
            .expect("a management port is configured")
    }

    pub fn listener(&self, name: &str) -> SocketAddr {
        match self.running.addresses.of(name) {
            Some(address) => address,
            None => panic!("no listener {name}: {:?}", self.running.addresses.all()),
        }
    }

    pub fn slot(&self, number: u16) -> SocketAddr {
        self.listener(&format!("slot/{number}"))
    }

    pub fn wildcard(&self) -> SocketAddr {
        self.listener("wildcard")
    }

    pub fn path(&self) -> SocketAddr {
        self.listener("path")
    }

    pub fn generation(&self) -> u64 {
        self.running.publisher.current().generation
    }

    /// Connections to origins that are open, idle ones included.
    pub fn upstream_connections(&self) -> i64 {
        let clusters = self.running.stats.clusters();
        clusters
            .iter()
            .map(|(_, stats)| stats.upstream_cx_active.value())
            .sum()
    }

    /// Where the users of a circuit connect to.
    pub fn frontend(&self, circuit: &Circuit) -> SocketAddr {
        match circuit.slot() {
            Some(slot) => self.slot(slot),
            None => self.wildcard(),
        }
    }

    pub async fn get(&self, circuit: &Circuit, path: &str) -> Reply {
        get(self.frontend(circuit), &circuit.host(), path).await
    }

    pub async fn admin(&self, path: &str) -> Reply {
        get(self.management(), "localhost", path).await
    }

    /// A connection for many pushes.
    pub async fn shim(&self) -> Shim {
        Shim {
            http: Http1::connect(self.management()).await,
        }
    }

    pub async fn announce(&self, circuits: &[&Circuit]) -> Value {
        let circuits: Vec<&Value> = circuits.iter().map(|c| &c.value).collect();
        let body = serde_json::to_value(circuits).unwrap();
        self.shim()
            .await
            .accepted("POST", "/v1/circuits", &body)
            .await
    }

    pub async fn set_routes(&self, circuit: &Circuit, origins: &[SocketAddr]) -> Value {
        let routes = circuit.clone().kernels(origins).value["route_info"].clone();
        let path = format!("/v1/circuits/{}/routes", circuit.id);
        self.shim().await.accepted("PUT", &path, &routes).await
    }

    pub async fn remove(&self, circuit: &Circuit) -> Value {
        let path = format!("/v1/circuits/{}", circuit.id);
        self.shim()
            .await
            .accepted("DELETE", &path, &Value::Null)
            .await
    }

    pub async fn shutdown(self) {
        super::within("shutdown", self.running.shutdown()).await;
    }
}

/// Pushes as a Coordinator makes them.
pub struct Shim {
    http: Http1,
}

impl Shim {
    pub async fn call(&mut self, method: &str, path: &str, body: &Value) -> Reply {
        self.call_as(Some(SECRET), method, path, &text_of(body))
            .await
    }

    pub async fn call_as(
        &mut self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Reply {
        let mut builder = request(method, "localhost", path);
        if let Some(token) = token {
            builder = builder.header("x-backendai-token", token);
        }
        self.http
            .send(builder.body(body.to_owned().into()).unwrap())
            .await
    }

    /// A push that has to be taken; its answer.
    pub async fn accepted(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let reply = self.call(method, path, body).await;
        assert!(
            reply.status.is_success(),
            "{method} {path}: {} {}",
            reply.status,
            reply.text()
        );
        reply.json()
    }
}

fn text_of(body: &Value) -> String {
    match body {
        Value::Null => String::new(),
        body => body.to_string(),
    }
}
