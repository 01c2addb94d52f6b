//! Cluster.

mod bind;
mod connection;
mod decode;
mod dns;
mod health_check;
mod original_dst;
mod outlier;
mod override_host;
mod policy;
mod protocol;
mod proxy_protocol;
mod slow_start;
mod socket;
mod subset;

use std::sync::Arc;
use std::time::Duration;

pub use bind::SourceAddresses;
pub use health_check::{HealthCheck, HttpProbe, Intervals, Probe, TcpProbe};
pub use original_dst::OriginalDst;
pub use outlier::{Enforcing, FailurePercentage, OutlierDetection, SuccessRate};
pub use slow_start::SlowStart;
pub use socket::SocketMatch;
pub use subset::{Fallback, Selector, SelectorFallback, Subsets};

use super::config_source::{ConfigSource, Place};
use super::dns_resolver::DnsResolver;
use super::headers::HeaderCase;
use super::load_assignment::{EndpointHealth, LoadAssignment};
use super::metadata::Namespaces;
use super::rate_limit::MetadataKey;
use super::route::HashPolicy;
use super::tls::UpstreamTls;
use super::tlv::{PassTlvs, Tlv};

/// `envoy.config.cluster.v3.Cluster`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub name: String,
    /// Name in statistics; empty means `name`.
    pub alt_stat_name: String,
    pub discovery: Discovery,
    /// Everything else. Many clusters differ in nothing but their names; those in a store share it.
    pub options: Arc<Options>,
}

/// What clusters can have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// For formats (`metadata.filter_metadata`).
    pub metadata: Namespaces,
    /// Default 5 s.
    pub connect_timeout: Duration,
    /// How long a request waits for one of the cluster's connections when there may not be more of
    /// them (`Cluster.metadata`, namespace `causeway`, key `queue_timeout`). Default as
    /// `connect_timeout`.
    pub queue_timeout: Duration,
    pub balancing: Balancing,
    /// How the health of endpoints is found out; nothing if it is not.
    pub health_check: Option<Arc<HealthCheck>>,
    /// How endpoints are left out that answer badly; nothing if they are not.
    pub outlier: Option<OutlierDetection>,
    /// How long changes of health are collected before balancers see them, after the first one.
    /// Default 1 s; zero is not at all (`update_merge_window`).
    pub merge_window: Duration,
    pub limits: Limits,
    /// Those of routes with priority HIGH.
    pub high_limits: Limits,
    pub http: UpstreamHttp,
    pub tls: Option<UpstreamTls>,
    /// Instead of `tls` and `proxy_protocol`, for the endpoints that match (`transport_socket_matches`).
    pub sockets: Vec<SocketMatch>,
    /// Say to the endpoint whose connection it is, before anything else
    /// (`ProxyProtocolUpstreamTransport`).
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The addresses that connections come from, one of a family, the first one by default
    /// (`upstream_bind_config`). Empty: the system chooses.
    pub source_addresses: SourceAddresses,
    /// TCP keep-alive on upstream sockets.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// In which order the addresses of an endpoint with several are tried.
    pub happy_eyeballs: HappyEyeballs,
    /// Connections that are opened before they are needed; nothing where none are.
    pub preconnect: Option<Preconnect>,
    /// The management server that is told what its endpoints have to do (`lrs_server`).
    pub load_reports: Option<Place>,
}

impl std::ops::Deref for Cluster {
    type Target = Options;

    fn deref(&self) -> &Options {
        &self.options
    }
}

impl Cluster {
    /// Every TLS context.
    pub fn tls_contexts(&self) -> impl Iterator<Item = &UpstreamTls> {
        let matched = self.sockets.iter().filter_map(|socket| socket.tls.as_ref());
        self.tls.iter().chain(matched)
    }

    /// What it is called in statistics.
    pub fn stat_name(&self) -> &str {
        match self.alt_stat_name.as_str() {
            "" => &self.name,
            given => given,
        }
    }
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
    /// `ORIGINAL_DST`.
    OriginalDst(OriginalDst),
}

/// Endpoints by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dns {
    /// The load assignment that holds the addresses: whoever looks the names up delivers it under
    /// this name. Another set of names, or another way to look them up, is another resource.
    pub resource: String,
    /// There is one name, and it is one endpoint, whatever addresses it has.
    pub logical: bool,
    /// With names where others have addresses.
    pub assignment: LoadAssignment,
    /// Between two lookups. Default 5 s (`dns_refresh_rate`).
    pub refresh: Duration,
    /// The shortest and the longest wait after a lookup that failed; as `refresh` when not given.
    pub failure_refresh: (Duration, Duration),
    /// The time for which an answer holds stands in place of `refresh`, but no less than this
    /// (`respect_dns_ttl`, `dns_min_refresh_rate`).
    pub respect_ttl: Option<Duration>,
    /// A random part of it is added to the time until the next lookup, unless one failed
    /// (`dns_jitter`). Default none.
    pub jitter: Duration,
    pub family: DnsFamily,
    /// Whom to ask; nobody in particular is whom the bootstrap says.
    pub resolver: Option<DnsResolver>,
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

/// How an endpoint is chosen: `lb_policy` or `load_balancing_policy`, and `common_lb_config`.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancing {
    pub policy: Policy,
    /// Localities take traffic by their weight instead of the number of their endpoints.
    pub by_locality: bool,
    /// Percent of available endpoints below which health is not looked at any more. Default 50;
    /// 0 is never (`healthy_panic_threshold`).
    pub panic_threshold: f64,
    /// Nothing is chosen then (`fail_traffic_on_panic`).
    pub fail_on_panic: bool,
    /// Of round robin, least request and random, unless localities go by their weight.
    pub zones: ZoneAware,
    /// Of round robin and least request.
    pub slow_start: Option<SlowStart>,
    /// Of least request, where the weights of endpoints differ: they are drawn by their weight over
    /// one more than the requests under way, to the power of this (`active_request_bias`). At least 0.
    /// Default none: so many are drawn by weight, and the least busy one of them is taken.
    pub request_bias: Option<f64>,
    /// Requests are served by endpoints with the labels that they ask for (`lb_subset_config`).
    pub subsets: Option<Subsets>,
    /// Requests may name endpoints; the rest of all this is for those that do not.
    pub override_host: Option<OverrideHost>,
    /// What an endpoint that a request or a filter names has to be, for this to count; an empty list:
    /// it never does (`override_host_status`). Default: one that may be chosen.
    pub named_status: Option<Vec<EndpointHealth>>,
}

/// Where requests name the endpoints that they want, the first one for the first attempt
/// (`envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverrideHost {
    pub sources: Vec<HostSource>,
    /// Dynamic metadata that tells which endpoint was asked: a namespace and one key
    /// (`selected_host_key`).
    pub told: Option<MetadataKey>,
}

/// Addresses with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostSource {
    /// The first value of a field.
    Header(String),
    /// Dynamic metadata.
    Metadata(MetadataKey),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    RoundRobin,
    LeastRequest {
        /// How many are drawn and compared (2); all of them with `FULL_SCAN`.
        choices: Option<u32>,
    },
    Random,
    RingHash(RingHash),
    Maglev(Maglev),
}

/// Consistent hashing on a ring (`RingHash`, `ring_hash_lb_config`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingHash {
    /// Points of the ring, together; default 1,024.
    pub minimum_size: u64,
    /// Default and bound 8,388,608.
    pub maximum_size: u64,
    /// How points are found; default xxHash.
    pub function: HashFunction,
    pub hashing: Hashing,
}

/// `RingHash.HashFunction`. Of requests the hash is always xxHash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    #[default]
    XxHash,
    MurmurHash2,
}

/// What is common to the policies that hash (`ConsistentHashingLbConfig`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hashing {
    /// Whether an endpoint stands at the hash of its host name instead of its address.
    pub use_hostname: bool,
    /// Percent of its share of the requests under way that an endpoint takes at most, at least 100;
    /// what is beyond goes to others. `None`: there is no bound (`hash_balance_factor`).
    pub balance_factor: Option<u32>,
}

/// Consistent hashing by table (`Maglev`, `maglev_lb_config`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// A prime; default 65,537, at most 5,000,011.
    pub table_size: u64,
    pub hashing: Hashing,
}

/// Keeping requests in the zone of the proxy (`zone_aware_lb_config`). It needs a cluster of the proxies
/// themselves (`cluster_manager.local_cluster_name`), and is on wherever there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneAware {
    /// Of a hundred requests, those that go by zones. Default 100 (`routing_enabled`).
    pub percent: u32,
    /// Healthy endpoints that it takes. Default 6 (`min_cluster_size`).
    pub least: u64,
    /// With so many healthy endpoints the zone of the proxy gets everything, whatever its share
    /// (`force_local_zone.min_size`).
    pub all_at_home: Option<u32>,
    /// Shares are those of weights instead of numbers (`locality_basis`).
    pub by_weight: bool,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self {
            percent: 100,
            least: 6,
            all_at_home: None,
            by_weight: false,
        }
    }
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            by_locality: false,
            panic_threshold: 50.0,
            fail_on_panic: false,
            zones: ZoneAware::default(),
            slow_start: None,
            request_bias: None,
            subsets: None,
            override_host: None,
            named_status: None,
        }
    }
}

impl Policy {
    /// Whether it wants a hash of the request.
    pub fn hashes(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }
}

/// Envoy's `circuit_breakers`, of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    /// Retries at one time; without effect where there is a budget.
    pub max_retries: u32,
    pub retry_budget: Option<RetryBudget>,
    /// Statistics tell what is left.
    pub track_remaining: bool,
}

/// `CircuitBreakers.Thresholds.RetryBudget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries for each million requests that run or wait (`budget_percent`, 20 by default).
    pub millionths: u32,
    /// Retries that are allowed in any case (`min_retry_concurrency`, 3 by default).
    pub min: u32,
}

impl Default for Limits {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// What is said before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    pub version: ProxyProtocolVersion,
    /// Of the extensions that came with the client's connection (`pass_through_tlvs`).
    pub pass: PassTlvs,
    /// Instead of those of the same type (`added_tlvs`).
    pub added: Vec<Tlv>,
}

impl ProxyProtocol {
    /// Whether an extension of the client's header is told.
    pub fn passes(&self, tlv: &Tlv) -> bool {
        self.pass.includes(tlv.kind) && !self.added.iter().any(|added| added.kind == tlv.kind)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}

/// How to speak HTTP to the endpoints (`HttpProtocolOptions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHttp {
    pub protocol: UpstreamProtocol,
    /// Where the server name for TLS comes from, if it is not fixed.
    pub auto_sni: Option<AutoSni>,
    /// The endpoint's certificate has to be for that name, whatever names the validation asks for.
    pub auto_san_validation: bool,
    /// How long an unused connection is kept. Default 1 h; zero keeps it.
    pub idle_timeout: Duration,
    /// Requests after which a connection is closed; zero is no limit.
    pub max_requests_per_connection: u32,
    /// After which a connection takes no more requests; zero is none.
    pub max_connection_duration: Duration,
    /// How long one request to an endpoint may take, from when it is sent to the end of its response;
    /// zero is no limit.
    pub max_stream_duration: Duration,
    /// KiB that the head of a response may have; `None`: the program's own limit. HTTP/1 only.
    pub max_response_headers_kb: Option<u32>,
    pub header_case: HeaderCase,
    /// By what an endpoint is chosen where the policy hashes, in the place of what routes say. Empty:
    /// routes say it.
    pub hash_policy: Vec<HashPolicy>,
}

/// The server name of a request (`auto_sni`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoSni {
    /// The field that holds it (`override_auto_sni_header`, in lower case), where a request has it;
    /// otherwise `host` does. Empty: none but `host`.
    pub header: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    Http2(Http2Options),
    /// What the endpoint chooses by ALPN (`auto_config`).
    Auto(Http2Options),
}

/// `envoy.config.core.v3.Http2ProtocolOptions`; `None` keeps the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http2Options {
    /// For what arrives; never set in a cluster.
    pub max_concurrent_streams: Option<u32>,
    pub initial_stream_window_size: Option<u32>,
    pub initial_connection_window_size: Option<u32>,
    /// Upgrades by extended CONNECT (RFC 8441) are offered; never set in a cluster.
    pub allow_connect: bool,
    /// Pings on the connection (`connection_keepalive`).
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

/// The order in which the addresses of an endpoint are tried, by families of IP (RFC 8305 section 4;
/// `upstream_connection_options.happy_eyeballs_config`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HappyEyeballs {
    /// The family that comes first; by default that of the endpoint's first address.
    pub first: Option<IpFamily>,
    /// Addresses of it before each one of the other family; at least 1, the default.
    pub count: u32,
}

impl Default for HappyEyeballs {
    fn default() -> Self {
        Self {
            first: None,
            count: 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    V4,
    V6,
}

/// How many requests connections are held ready for, for each one there is (`preconnect_policy`).
/// From 1, which is none beyond those that need one, to 3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preconnect {
    /// At the same endpoint (`per_upstream_preconnect_ratio`).
    pub per_upstream: f64,
    /// In the whole cluster, at the endpoints that come next (`predictive_preconnect_ratio`).
    pub predictive: f64,
}

#[cfg(test)]
mod tests;
