//! What a worker with a Coordinator has besides.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Deserialize;

use super::redis::Redis;

/// The link to the Coordinator, and what the worker tells it of itself.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// `http` or `https`, with a host.
    pub endpoint: http::Uri,
    /// `false` lets any certificate of the Coordinator pass.
    pub verify_certificate: bool,
    /// The identity of the worker; all nodes of one group share it.
    pub authority: String,
    /// `proxy_worker.id`, tells the nodes of one group apart.
    pub node_id: String,
    pub frontend_mode: FrontendMode,
    pub protocol: WorkerProtocol,
    pub accepted_traffics: Vec<Traffic>,
    pub app_filters: Vec<AppFilter>,
    pub filtered_apps_only: bool,
    pub heartbeat_period: Duration,
    pub redis: Redis,
    /// Where the worker's API listens.
    pub api_bind_addr: SocketAddr,
    /// Where browsers find the worker's API: `api_advertised_addr`, else `api_bind_addr` as it is
    /// written in the file.
    pub api_public_addr: HostPort,
    /// What service discovery is told; else `api_bind_addr` as written.
    pub announce_addr: HostPort,
    pub service_discovery: ServiceDiscovery,
    pub metric_access_allowed_hosts: Ipv4Net,
    pub inference_metric_collection_interval: Duration,
}

/// Which frontend is registered, and so which listeners exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrontendMode {
    /// [`super::WorkerConfig::port_proxy`] is there.
    Port {
        /// What users reach the ports by: `advertised_host`, else `bind_host` as written.
        public_host: String,
    },
    /// [`super::WorkerConfig::wildcard_domain`] is there.
    Wildcard,
    /// Traefik carries the traffic; this worker only keeps the books.
    Traefik(Traefik),
}

/// `[proxy_worker.traefik]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traefik {
    /// Of Traefik's API on this machine.
    pub api_port: u16,
    /// `last_used_time_marker_directory`.
    pub marker_directory: PathBuf,
    pub frontend: TraefikFrontend,
}

/// The inner mode: what is registered with the Coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraefikFrontend {
    Port {
        advertised_host: String,
        /// Lowest and highest, both included.
        port_range: (u16, u16),
    },
    Wildcard {
        /// Lower case, begins with a dot.
        domain: String,
        advertised_port: u16,
        tls_advertised: bool,
    },
}

/// `proxy_worker.protocol`: what the worker's circuits speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerProtocol {
    Http,
    H2,
    Tcp,
    Preopen,
    Vnc,
    Rdp,
}

impl WorkerProtocol {
    pub const ALL: [Self; 6] = [
        Self::Http,
        Self::H2,
        Self::Tcp,
        Self::Preopen,
        Self::Vnc,
        Self::Rdp,
    ];

    /// As it is written in the file and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::H2 => "h2",
            Self::Tcp => "tcp",
            Self::Preopen => "preopen",
            Self::Vnc => "vnc",
            Self::Rdp => "rdp",
        }
    }
}

/// A kind of circuit that the Coordinator may place here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Traffic {
    Interactive,
    Inference,
}

impl Traffic {
    /// As it is written in the file and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Inference => "inference",
        }
    }
}

/// Which applications are placed here, for example `session.user_uuid`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AppFilter {
    pub key: String,
    pub value: String,
}

/// `[service_discovery]`; the keys of the newer workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceDiscovery {
    pub instance_id: Option<String>,
    /// Events are published only when this is set.
    pub service_group: Option<String>,
    pub display_name: Option<String>,
    pub extra_labels: BTreeMap<String, String>,
    pub endpoints: Vec<ServiceEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServiceEndpoint {
    pub role: String,
    pub scope: String,
    pub address: String,
    pub port: u16,
    pub protocol: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// A host as it is written, to be given to others or resolved when it is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
