//! Listener.

mod chain_match;
mod decode;
mod filters;
mod listener_filters;
mod tcp_proxy;
mod tunneling;

pub use chain_match::{ChainMatcher, Facts};
pub use listener_filters::{
    ListenerFilter, ListenerFilterKind, OriginalSrc, Predicate, ProxyProtocol, TlsInspector,
    TlvRule,
};

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::access_log::AccessLog;
use super::address::{Address, contain};
use super::format::Format;
use super::headers::HeaderEdit;
use super::http_manager::HttpManager;
use super::metadata::Labels;
use super::tls::{DownstreamTls, SecretRef};
use super::tlv::TlvSource;
use crate::extension::TypedExtension;

/// `envoy.config.listener.v3.Listener`.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: String,
    /// Name in statistics; empty means the address.
    pub stat_prefix: String,
    pub address: Address,
    /// It listens there as well (`additional_addresses`). IP addresses and ports.
    pub more_addresses: Vec<SocketAddr>,
    /// Takes connections for addresses that are not those of this machine (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// The addresses need not be there when it begins to listen (`IP_FREEBIND`).
    pub freebind: bool,
    /// Connections come in by it. Default true; otherwise only those that a listener with
    /// `use_original_dst` hands over.
    pub bind_to_port: bool,
    /// Connections that were bound for another address go to the listener that has it, if one does.
    pub use_original_dst: bool,
    /// Whether the limit of connections of the whole process holds for it. Default true
    /// (`ignore_global_conn_limit`).
    pub counts_globally: bool,
    /// In order; what they find out is what chains are chosen by.
    pub listener_filters: Vec<ListenerFilter>,
    /// For all of them together (`listener_filters_timeout`). Default 15 s; zero is none.
    pub listener_filters_timeout: Duration,
    /// Choose a chain by what was found out in time, instead of closing the connection.
    pub continue_on_listener_filters_timeout: bool,
    pub filter_chains: Vec<FilterChain>,
    /// Says which of `filter_chains` takes a connection.
    pub matcher: ChainMatcher,
    /// For connections that none of them takes.
    pub default_filter_chain: Option<FilterChain>,
    /// What its HTTP filters need, and what its own routes say to them.
    pub filter_secrets: Vec<SecretRef>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FilterChain {
    /// May be empty. What tells the chain from others when the listener changes.
    pub name: String,
    pub tls: Option<DownstreamTls>,
    /// Those before the last one, in order.
    pub before: Vec<TypedExtension>,
    /// The last one.
    pub filter: NetworkFilter,
}

#[derive(Clone, Debug, PartialEq)]
pub enum NetworkFilter {
    Http(Box<HttpManager>),
    Tcp(Box<TcpProxy>),
    /// Sends back what comes (`envoy.extensions.filters.network.echo.v3.Echo`).
    Echo,
    /// Sends this and closes (`envoy.extensions.filters.network.direct_response.v3.Config`).
    Direct(Vec<u8>),
}

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpProxy {
    pub stat_prefix: String,
    /// At least one.
    pub clusters: Vec<TcpCluster>,
    /// Default 1 h; zero is none.
    pub idle_timeout: Duration,
    /// Without a byte sent to the client (`downstream_idle_timeout`). Default zero, which is none.
    pub downstream_idle_timeout: Duration,
    /// Without a byte sent to the endpoint (`upstream_idle_timeout`). Default zero, which is none.
    pub upstream_idle_timeout: Duration,
    /// The client has to speak before an endpoint is connected to (`upstream_connect_mode:
    /// ON_DOWNSTREAM_DATA`); so many bytes of it are held until then (`max_early_data_bytes`).
    /// `None`: an endpoint is connected to at once.
    pub awaits_data: Option<u32>,
    /// From accept on, whatever moves (`max_downstream_connection_duration`). `None` is no limit.
    pub max_duration: Option<Duration>,
    /// So many percent of `max_duration` may be added to it, by chance. Default 0.
    pub max_duration_jitter: f64,
    /// Endpoints to be tried, the first one included. Default 1.
    pub max_connect_attempts: u32,
    /// The first wait between two of them, and the longest. `None` is none.
    pub backoff: Option<(Duration, Duration)>,
    /// What chooses the endpoint where the cluster's policy hashes.
    pub hash: Option<TcpHash>,
    pub policy: ConnectionPolicy,
    pub access_logs: Vec<AccessLog>,
    pub log_times: LogTimes,
    /// Extensions of the PROXY protocol header that endpoints get, where their cluster passes them on.
    pub tlvs: Vec<TlvSource>,
    /// Beside those that came with the client's connection.
    pub tlv_merge: TlvMerge,
    /// The bytes travel in a tunnel of HTTP. `None`: as they are.
    pub tunneling: Option<Tunneling>,
}

/// `TcpProxy.hash_policy`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpHash {
    /// The client's address.
    SourceIp,
    /// The text that filters have left under this key; without one nothing is hashed.
    FilterState(String),
}

/// A request to an endpoint, which takes the bytes on from there (`TcpProxy.TunnelingConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunneling {
    /// Where to, as `host:port`.
    pub hostname: Format,
    /// The path of a POST whose body, and that of its answer, the bytes are (`use_post`,
    /// `post_path`). `None`: the request is a CONNECT.
    pub post_path: Option<String>,
    /// Leave the head of the answer in the filter state (`propagate_response_headers`).
    pub keeps_headers: bool,
    /// Leave the trailers of the answer there (`propagate_response_trailers`).
    pub keeps_trailers: bool,
    pub headers: Vec<HeaderEdit>,
    /// Where a new number for each tunnel is told.
    pub request_id: Option<RequestId>,
}

/// Both places of the number of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Lower case. Default `x-request-id`.
    pub header: String,
    /// In the namespace `envoy.filters.network.tcp_proxy` of the dynamic metadata. Default
    /// `tunnel_request_id`.
    pub metadata_key: String,
}

/// `ProxyProtocolTlvMergePolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlvMerge {
    /// Only for a connection that came without a header.
    #[default]
    IfAbsent,
    /// In the place of those of the same type.
    Overwrite,
    /// After the others.
    Append,
}

/// When the access log is written besides the end of a connection (`access_log_options`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogTimes {
    pub start: bool,
    /// Once an endpoint is connected to.
    pub connected: bool,
    /// Every so often; zero is never.
    pub every: Duration,
}

/// One of the clusters of a TCP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpCluster {
    pub name: String,
    /// Its share of the connections, out of the sum of all weights; at least 1.
    pub weight: u32,
    /// What subsets of it are asked for (`metadata_match`), that of the proxy included.
    pub labels: Labels,
}

/// `causeway.v1.ConnectionPolicy`, which stands before a TCP proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPolicy {
    /// Who may connect; empty: everyone.
    pub allowed: Vec<IpNet>,
    /// What the connections are for; empty: not said.
    pub circuit: String,
    pub sessions: Vec<String>,
    /// Whether the log tells of each connection that has ended.
    pub log: bool,
    /// Of all attempts to connect to an endpoint together; nothing is as long as each takes.
    pub connect_deadline: Option<Duration>,
}

impl ConnectionPolicy {
    /// Whether a peer may connect. One without an address is in no list.
    pub fn admits(&self, peer: Option<IpAddr>) -> bool {
        self.allowed.is_empty() || peer.is_some_and(|peer| contain(&self.allowed, peer))
    }
}

#[cfg(test)]
mod tests;
