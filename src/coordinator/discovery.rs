//! The entry in service discovery, by which Prometheus finds the metrics of this worker.
//!
//! It lasts three minutes and is written anew each minute. At the end it is left to expire, so that
//! a restart does not take the worker out of the graphs.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};
use uuid::Uuid;

use super::redis::{Address, Backoff, Link, Outage, RedisConfig, db, refused};

/// How often the entry is written.
pub const PERIOD: Duration = Duration::from_secs(60);
/// How long it lasts, in seconds.
const LASTS: u64 = 180;
const GROUP: &str = "appproxy-worker";

/// What is said about this worker; [`Discovery::run`] keeps saying it.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// Equal after each start of the same worker at the same address, so that a restart does not
    /// leave a second entry behind; nodes of one authority differ by their address.
    pub id: Uuid,
    pub display_name: String,
    pub version: String,
    /// Where the management port is reached by others.
    pub address: Address,
    pub labels: BTreeMap<String, String>,
    registered: f64,
}

impl Discovery {
    pub fn new(authority: &str, address: Address) -> Self {
        // The namespace is made from a name too, so that nobody else's identifiers fall into it.
        let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, GROUP.as_bytes());
        let id = Uuid::new_v5(&namespace, format!("{authority}@{address}").as_bytes());
        Self {
            id,
            display_name: format!("{GROUP}-{authority}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address,
            labels: BTreeMap::new(),
            registered: unix_seconds(),
        }
    }

    pub fn key(&self) -> String {
        format!("service_discovery.{GROUP}.{}", self.id)
    }

    /// Writes the entry at once and then from time to time, until told to stop.
    pub async fn run(self, config: RedisConfig, mut stop: watch::Receiver<bool>) {
        let mut link = Link::new(config, db::STAT);
        let mut backoff = Backoff::default();
        let mut down = false;
        loop {
            let writing = self.write(&mut link);
            let written = tokio::select! {
                written = writing => written,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let wait = match written {
                Ok(()) => {
                    if down {
                        info!("service discovery is written again");
                    }
                    down = false;
                    backoff.reset();
                    PERIOD
                }
                Err(outage) => {
                    if !down {
                        warn!(%outage, "service discovery is not written");
                    }
                    down = true;
                    backoff.wait()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn write(&self, link: &mut Link) -> Result<(), Outage> {
        let key = self.key();
        let mut pipe = redis::pipe();
        let entry = pipe.cmd("HSET").arg(&key);
        for (field, value) in self.fields(unix_seconds()) {
            entry.arg(field).arg(value.to_string());
        }
        pipe.cmd("EXPIRE").arg(&key).arg(LASTS);
        let answers = link.run(&pipe).await?;
        match refused(&answers) {
            None => Ok(()),
            Some(reason) => Err(Outage {
                doing: "service discovery",
                server: key,
                reason,
            }),
        }
    }

    /// The fields of the entry; each is written as JSON.
    fn fields(&self, now: f64) -> [(&'static str, Value); 7] {
        let Address { host, port } = &self.address;
        let endpoint = json!({
            "address": host,
            "port": port,
            "protocol": "http",
            "prometheus_address": self.address.to_string(),
        });
        let health = json!({"registration_time": self.registered, "last_heartbeat": now});
        [
            ("id", json!(self.id)),
            ("display_name", json!(self.display_name)),
            ("service_group", json!(GROUP)),
            ("version", json!(self.version)),
            ("endpoint", endpoint),
            ("health_status", health),
            ("labels", json!(self.labels)),
        ]
    }
}

fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(authority: &str, port: u16) -> Discovery {
        Discovery::new(authority, Address::new("10.0.0.9", port))
    }

    #[test]
    fn the_id_belongs_to_authority_and_address() {
        let id = entry("worker-1", 10201).id;
        assert_eq!(id.get_version_num(), 5);
        assert_eq!(id, entry("worker-1", 10201).id);
        assert_ne!(id, entry("worker-2", 10201).id);
        assert_ne!(id, entry("worker-1", 10202).id);
    }

    #[test]
    fn fields_are_those_that_are_looked_for() {
        let entry = entry("worker-1", 10201);
        let fields: BTreeMap<_, _> = entry.fields(7.5).into_iter().collect();
        assert_eq!(fields["id"], json!(entry.id.to_string()));
        assert_eq!(fields["display_name"], "appproxy-worker-worker-1");
        assert_eq!(fields["service_group"], "appproxy-worker");
        assert_eq!(
            fields["endpoint"],
            json!({"address": "10.0.0.9", "port": 10201, "protocol": "http",
                "prometheus_address": "10.0.0.9:10201"})
        );
        assert_eq!(fields["health_status"]["last_heartbeat"], 7.5);
        assert_eq!(fields["labels"], json!({}));
    }
}
