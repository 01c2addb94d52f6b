//! Snapshots: what the data threads serve from. Compiled, immutable, shared.
//!
//! A snapshot is made from the one before it; what did not change is the same `Arc`. Maps are
//! persistent, so a change of one entry among many thousands copies a path of a few nodes.

mod agent;
pub mod compile;
mod proxy_protocol;
mod proxy_status;
pub mod publish;
mod tlvs;
pub mod tunneling;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use causeway_xds::resource::http_manager::HttpManager;
use causeway_xds::resource::listener as model;
use causeway_xds::resource::metadata::Labels;
use imbl::shared_ptr::DefaultSharedPtr;

pub use agent::Agent;
pub use compile::{Compiled, Compiler, Resources, Retired};
pub use proxy_protocol::{ProxyProtocolStats, VersionStats};
pub use proxy_status::{PROXY_STATUS, ProxyStatus};
pub use publish::{Publisher, Reader};
pub use tlvs::AddedTlvs;
pub use tunneling::Tunneling;

use crate::access_log::Logger;
use crate::cluster::Cluster;
use crate::filter::Chain;
use crate::filter::network::NetworkChain;
use crate::formatter::Wants;
use crate::local_reply::LocalReplies;
use crate::net::listen::Options;
use crate::route::{HeaderEdits, RouteTable};
use crate::telemetry::activity::Activity;
use crate::telemetry::logging::Sparse;
use crate::telemetry::stats::{HttpStats, ListenerHttpStats, ListenerStats, TcpStats};
use crate::tls::ServerTls;

/// A persistent map by name.
pub type Map<V> = imbl::GenericHashMap<Arc<str>, V, ahash::RandomState, DefaultSharedPtr>;

/// Everything the data plane needs to serve.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts published snapshots; the first is 1.
    pub generation: u64,
    pub listeners: Map<Arc<ListenerSpec>>,
    pub routes: Map<Arc<RouteTable>>,
    pub clusters: Map<Arc<Cluster>>,
}

/// A listener, ready to be bound.
#[derive(Debug)]
pub struct ListenerSpec {
    pub name: Arc<str>,
    pub bind: BindAddress,
    /// It listens there as well; of the same kind as `bind`.
    pub more_binds: Vec<BindAddress>,
    pub options: Options,
    /// In the order of the model, whose matcher says which of them takes a connection.
    pub chains: Vec<Arc<ChainSpec>>,
    /// For connections that none of them takes.
    pub default_chain: Option<Arc<ChainSpec>>,
    pub stats: Arc<ListenerStats>,
    /// In the order of the listener filters; those of other kinds count nothing.
    pub filter_stats: Vec<ProxyProtocolStats>,
    pub model: Arc<model::Listener>,
}

impl ListenerSpec {
    /// Everywhere it listens.
    pub fn binds(&self) -> impl Iterator<Item = &BindAddress> {
        std::iter::once(&self.bind).chain(&self.more_binds)
    }

    /// Whether this is exactly one of its addresses.
    pub fn listens_at(&self, address: SocketAddr) -> bool {
        self.binds().any(|bind| bind.socket() == Some(address))
    }

    /// Whether the sockets of the other would do for this one.
    pub fn is_bound_like(&self, other: &Self) -> bool {
        self.options == other.options && self.binds().eq(other.binds())
    }

    /// The chain that serves a connection.
    pub fn chain(&self, facts: &model::Facts<'_>) -> Option<&Arc<ChainSpec>> {
        let found = self.model.matcher.find(facts);
        let found = found.and_then(|index| self.chains.get(index));
        found.or(self.default_chain.as_ref())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BindAddress {
    Socket(SocketAddr),
    Pipe(PathBuf),
    /// Nobody listens there; other listeners hand connections over.
    Unbound(SocketAddr),
}

impl BindAddress {
    /// `None` for a Unix socket.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(address) | Self::Unbound(address) => Some(*address),
            Self::Pipe(_) => None,
        }
    }
}

impl std::fmt::Display for BindAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) | Self::Unbound(address) => address.fmt(f),
            Self::Pipe(path) => path.display().fmt(f),
        }
    }
}

#[derive(Debug)]
pub struct ChainSpec {
    pub tls: Option<ServerTls>,
    /// The filters before the last one.
    pub network: NetworkChain,
    pub kind: ChainKind,
}

#[derive(Debug)]
pub enum ChainKind {
    Http(Arc<HttpManagerSpec>),
    Tcp(Arc<TcpProxySpec>),
    /// Sends back what comes.
    Echo,
    /// Sends this and closes.
    Direct(Bytes),
}

/// An HTTP connection manager.
#[derive(Debug)]
pub struct HttpManagerSpec {
    pub model: HttpManager,
    pub routes: RouteRef,
    pub filters: Chain,
    pub access_logs: Vec<Logger>,
    pub local_replies: Option<LocalReplies>,
    /// Made before anything looks at a request.
    pub early_edits: HeaderEdits,
    /// What requests say of this program; `None`: nothing.
    pub agent: Option<Agent>,
    /// How clients are told of failures; `None`: by the status alone.
    pub proxy_status: Option<ProxyStatus>,
    /// What loggers and local replies ask of a request.
    pub wants: Wants,
    /// Clients are to come back on a new connection.
    pub draining: Arc<AtomicBool>,
    pub stats: Arc<HttpStats>,
    pub listener_stats: Arc<ListenerHttpStats>,
}

/// Where the routes of a connection manager are.
#[derive(Clone, Debug)]
pub enum RouteRef {
    Inline(Arc<RouteTable>),
    /// In [`Snapshot::routes`].
    Named(Arc<str>),
}

/// One of the clusters of a TCP proxy.
#[derive(Debug)]
pub struct TcpTarget {
    pub name: Arc<str>,
    /// The sum of the weights up to and with this one.
    pub sum: u32,
    /// What subsets of it are asked for.
    pub labels: Labels,
}

#[derive(Debug)]
pub struct TcpProxySpec {
    pub clusters: Vec<TcpTarget>,
    /// Zero is none.
    pub idle_timeout: Duration,
    /// Without a byte sent to the client, or to the endpoint; zero is none.
    pub downstream_idle_timeout: Duration,
    pub upstream_idle_timeout: Duration,
    /// Bytes of the client that may be held until an endpoint is connected to; `None`: nothing is
    /// waited for.
    pub awaits_data: Option<u32>,
    /// From accept on; zero is no limit.
    pub max_duration: Duration,
    /// So many percent of `max_duration` may be added to it, by chance.
    pub max_duration_jitter: f64,
    /// Endpoints to be tried; at least 1.
    pub max_connect_attempts: u32,
    /// The first wait between two of them, and the longest.
    pub backoff: Option<(Duration, Duration)>,
    /// What chooses the endpoint where the cluster's policy hashes.
    pub hash: Option<model::TcpHash>,
    pub policy: model::ConnectionPolicy,
    pub access_logs: Vec<Logger>,
    pub log_times: model::LogTimes,
    /// Of the PROXY protocol header for endpoints.
    pub tlvs: AddedTlvs,
    pub tunneling: Option<Tunneling>,
    /// What a connection is noted for.
    pub usage: Option<Arc<Activity>>,
    pub stats: Arc<TcpStats>,
    /// Of its failed connections.
    pub warnings: Sparse,
}
