//! The worker's configuration as the rest of the program sees it: validated, nothing optional
//! that may not really be absent.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::acme::Acme;
use super::coordinator::CoordinatorConfig;
use super::keys::UnknownKey;
use super::logging::Logging;
use super::policies::Policy;
use super::xds::XdsConfig;
use crate::util::Secret;

/// The worker's configuration, validated.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// `secrets.api_secret`: what a caller of the REST shim must present, and what the worker
    /// presents to the Coordinator.
    pub api_secret: Secret,
    pub causeway: Causeway,
    /// `None`: push only; no registration, no Redis.
    pub coordinator: Option<CoordinatorConfig>,
    /// `[xds]`: management servers beside the Coordinator.
    pub xds: Option<XdsConfig>,
    /// How users of private circuits prove who they are. Always there with a Coordinator; `None`
    /// when a push-only file does not have both `secrets.jwt_secret` and `[permit_hash]`.
    pub access: Option<Access>,
    /// Of the worker's API and of the port and wildcard frontends.
    pub tls: Tls,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `None`: no port frontend.
    pub port_proxy: Option<PortProxy>,
    /// `None`: no wildcard frontend.
    pub wildcard_domain: Option<WildcardDomain>,
    pub process: Process,
    pub logging: Logging,
    /// Keys of the file that mean nothing to us.
    pub unknown: Vec<UnknownKey>,
    /// Keys of the file that the legacy worker knows and that change nothing here.
    pub without_effect: Vec<String>,
}

impl WorkerConfig {
    /// What a file that holds nothing but `secrets.api_secret` says.
    pub fn push_only(api_secret: Secret) -> Self {
        Self {
            api_secret,
            causeway: Causeway::default(),
            coordinator: None,
            xds: None,
            access: None,
            tls: Tls::default(),
            trusted_proxies: Vec::new(),
            port_proxy: None,
            wildcard_domain: None,
            process: Process::default(),
            logging: Logging::default(),
            unknown: Vec::new(),
            without_effect: Vec::new(),
        }
    }
}

/// `[causeway]`: what the legacy worker does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Causeway {
    /// Default 127.0.0.1:6040.
    pub management: SocketAddr,
    /// Default 0.0.0.0:5050; `None` when switched off (`false` or `""`).
    pub path_frontend: Option<SocketAddr>,
    /// `None`: the path frontend speaks plain text. Default: the worker's pair when `tls_listen`
    /// is set.
    pub path_tls: Option<Certificates>,
    /// Whether the path frontend cuts `/<session>/<service>` off. Default true.
    pub strip_prefix: bool,
    /// Whether circuits that are not open to the public are served although nothing checks who
    /// calls. Default false.
    pub allow_unauthenticated: bool,
    /// Between two listings of all circuits. Default 60 s.
    pub relist_period: Duration,
    /// Between two listings of all circuits in traefik mode. Default 1 s.
    pub traefik_poll_period: Duration,
    /// Bounds one call to the Coordinator. Default 10 s.
    pub coordinator_timeout: Duration,
    /// Between two writes of usage to Redis. Default 1 s.
    pub usage_period: Duration,
    /// Where the last circuits are kept across restarts. `None`: nowhere.
    pub state_file: Option<PathBuf>,
    /// Whether the event bus is listened to. Default true.
    pub bus: bool,
    /// Whether every port of the range is bound at the start. Default true.
    pub ports_at_start: bool,
    /// Between two checks of a kernel that is one of several. Default 30 s; zero: none are made.
    pub kernel_check_period: Duration,
    /// Whether a kernel that cannot be connected to is left out for a while, where there are others.
    /// Default true.
    pub kernel_ejection: bool,
    /// Servers of DNS that are asked where kernels are that are announced by name, in their order.
    /// Empty: the system is asked.
    pub dns_servers: Vec<SocketAddr>,
    /// Connections that clients may have with the frontends at one time; `None`: any number.
    pub max_connections: Option<u32>,
    /// How long a connection of a TCP circuit may be silent; zero: for ever, the default.
    pub tcp_idle_timeout: Duration,
    /// Whether the log has a line for each connection of a TCP circuit. Default true.
    pub tcp_log: bool,
    /// Origins whose pages may open WebSockets to TCP circuits, private ones too, beside those of the
    /// same host. Default none.
    pub tcp_websocket_origins: Vec<String>,
    /// How long connections may go on once the process is to end. Default 4 s: what supervises a
    /// worker gives it 5.
    pub drain_time: Duration,
    /// What circuits get beside being served.
    pub policies: Vec<Policy>,
    /// `[causeway.acme]`. `None`: certificates are files.
    pub acme: Option<Acme>,
}

impl Default for Causeway {
    fn default() -> Self {
        Self {
            management: SocketAddr::from(([127, 0, 0, 1], 6040)),
            path_frontend: Some(SocketAddr::from(([0, 0, 0, 0], 5050))),
            path_tls: None,
            strip_prefix: true,
            allow_unauthenticated: false,
            relist_period: Duration::from_secs(60),
            traefik_poll_period: Duration::from_secs(1),
            coordinator_timeout: Duration::from_secs(10),
            usage_period: Duration::from_secs(1),
            state_file: None,
            bus: true,
            ports_at_start: true,
            kernel_check_period: Duration::from_secs(30),
            kernel_ejection: true,
            dns_servers: Vec::new(),
            max_connections: None,
            tcp_idle_timeout: Duration::ZERO,
            tcp_log: true,
            tcp_websocket_origins: Vec::new(),
            drain_time: Duration::from_secs(4),
            policies: Vec::new(),
            acme: None,
        }
    }
}

/// What opens private circuits to their users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Signs the tokens of model services and of `/setup`.
    pub jwt_secret: Secret,
    pub permit_hash: PermitHash,
}

/// `[permit_hash]`: makes the cookie of interactive applications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermitHash {
    /// Its UTF-8 bytes are the key.
    pub secret: Secret,
    pub digest_mod: DigestMod,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestMod {
    Sha224,
    #[default]
    Sha256,
    Sha384,
    Sha512,
}

/// TLS of the worker's own listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `None`: plain text.
    pub listen: Option<Certificates>,
    /// A balancer in front terminates TLS, so that users reach the worker by https.
    pub advertised: bool,
}

impl Tls {
    /// Whether users reach the worker by https.
    pub fn is_https(&self) -> bool {
        self.advertised || self.listen.is_some()
    }
}

/// Where the certificates of a listener come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificates {
    Files(TlsFiles),
    /// As [`Causeway::acme`] says.
    Automatic,
}

/// A certificate with its key, in PEM; both could be read when the file was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
}

/// `[proxy_worker.port_proxy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortProxy {
    pub bind_host: IpAddr,
    /// `bind_port_range` written out. May be empty. A 0 lets the system choose.
    pub bind_ports: Vec<u16>,
    /// The first number of `advertised_port_range`, which is as long as the bind range.
    pub advertised_from: Option<u16>,
}

/// `[proxy_worker.wildcard_domain]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WildcardDomain {
    pub bind_addr: SocketAddr,
    /// Lower case, begins with a dot.
    pub domain: String,
    pub advertised_port: Option<u16>,
}

/// How the process behaves towards the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Who to become after the start, when started as root.
    pub user: Option<Account>,
    pub group: Option<Account>,
    /// `None`: no file; so is `/dev/null`, the legacy default.
    pub pid_file: Option<PathBuf>,
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    Id(u32),
    Name(String),
}
