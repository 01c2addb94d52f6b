//! Cluster.

mod decode;
mod dns;
mod policy;
mod protocol;

use std::sync::Arc;
use std::time::Duration;

use super::config_source::ConfigSource;
use super::load_assignment::LoadAssignment;
use super::tls::UpstreamTls;

/// `envoy.config.cluster.v3.Cluster`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub name: String,
    /// Name in statistics; empty means `name`.
    pub alt_stat_name: String,
    pub discovery: Discovery,
    /// Default 5 s.
    pub connect_timeout: Duration,
    pub policy: Policy,
    pub limits: Limits,
    pub http: UpstreamHttp,
    pub tls: Option<UpstreamTls>,
    /// TCP keep-alive on upstream sockets.
    pub tcp_keepalive: Option<TcpKeepalive>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    Static(LoadAssignment),
    Eds {
        /// Name of the load assignment; the cluster's when `service_name` is not given.
        service_name: String,
        source: ConfigSource,
    },
    /// `STRICT_DNS`, `LOGICAL_DNS`, or the cluster type `envoy.clusters.dns`.
    Dns(Arc<Dns>),
}

/// Endpoints by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dns {
    /// The load assignment that holds the addresses: whoever looks the names up delivers it under
    /// this name. Another set of names, or another way to look them up, is another resource.
    pub resource: String,
    /// Only the first address of the one name counts.
    pub logical: bool,
    /// With names where others have addresses.
    pub assignment: LoadAssignment,
    /// Between two lookups. Default 5 s (`dns_refresh_rate`).
    pub refresh: Duration,
    /// The shortest and the longest wait after a lookup that failed; as `refresh` when not given.
    pub failure_refresh: (Duration, Duration),
    pub family: DnsFamily,
}

/// Which addresses of a name are taken (`dns_lookup_family`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DnsFamily {
    /// Those of IPv6, or those of IPv4 if there are none.
    #[default]
    Auto,
    V4Only,
    V6Only,
    /// Those of IPv4, or those of IPv6 if there are none.
    V4Preferred,
    All,
}

/// Load-balancing policies of this release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    RoundRobin,
    LeastRequest,
    Random,
}

/// Envoy's `circuit_breakers`, default priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
}

impl Default for Limits {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
        }
    }
}

/// How to speak HTTP to the endpoints (`HttpProtocolOptions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHttp {
    pub protocol: UpstreamProtocol,
    /// How long an unused connection is kept. Default 1 h; zero keeps it.
    pub idle_timeout: Duration,
    /// Requests after which a connection is closed; zero is no limit.
    pub max_requests_per_connection: u32,
    /// KiB that the head of a response may have; `None`: the program's own limit. HTTP/1 only.
    pub max_response_headers_kb: Option<u32>,
    /// Names of fields are sent with capitals (`header_key_format.proper_case_words`). HTTP/1 only.
    pub proper_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    Http2(Http2Options),
}

/// `envoy.config.core.v3.Http2ProtocolOptions`; `None` keeps the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http2Options {
    /// For what arrives; never set in a cluster.
    pub max_concurrent_streams: Option<u32>,
    pub initial_stream_window_size: Option<u32>,
    pub initial_connection_window_size: Option<u32>,
    /// Pings on the connection (`connection_keepalive`); never set in a listener.
    pub keepalive: Option<Http2Keepalive>,
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Keepalive {
    pub interval: Duration,
    /// After which a ping without an answer ends the connection.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

#[cfg(test)]
mod tests;
