//! Connections to endpoints: connecting, pooling, leasing, retiring.
//!
//! Every data thread has pools of its own, so no lock and no wake-up across threads is on the
//! request path. What the threads share (counts, limits, the endpoint itself) is atomic.

pub mod body;
pub mod connect;
pub mod diagnosis;
pub mod endpoint;
mod eyeballs;
pub mod limits;
pub mod outcomes;
pub mod pool;
pub mod via;

use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_xds::resource::cluster::{
    AutoSni, HappyEyeballs, Http2Options, Options, Preconnect, ProxyProtocol, SourceAddresses,
    TcpKeepalive,
};
use causeway_xds::resource::headers::HeaderCase;
use causeway_xds::resource::route::Priority;

pub use connect::{ConnectError, ConnectErrorKind, keep_alive, share};
pub use endpoint::{Endpoint, EndpointKey};
pub use limits::{Limits, Permit};
pub use via::{Client, Via};

use crate::telemetry::stats::{ClusterStats, Counter, Room};
use crate::tls::ClientTls;

/// How the endpoints of one cluster are connected to. Kept from snapshot to snapshot while none of
/// this changes; a change makes new endpoints, so that no connection of the old kind is used again.
/// What every request asks comes first, as in [`Endpoint`].
#[derive(Debug)]
#[repr(C)]
pub struct Transport {
    pub stats: Arc<ClusterStats>,
    /// What other clusters may have as well.
    pub settings: Arc<Settings>,
    pub limits: Limits,
    pub cluster: Arc<str>,
    /// Of routes with priority HIGH, for requests and retries.
    pub high_limits: Limits,
    /// Requests that no endpoint got because of a limit, for reports of load. Statistics do not do
    /// for that: clusters can share them.
    pub dropped: Counter,
}

/// Of a [`Transport`], what depends on nothing but the options of the cluster and on secrets. Of very many
/// clusters most have the same.
#[derive(Debug)]
pub struct Settings {
    /// What it was made from.
    pub options: Arc<Options>,
    pub protocol: Protocol,
    pub tls: Option<ClientTls>,
    /// Instead of `tls`, for endpoints that match one.
    pub sockets: Vec<Option<ClientTls>>,
    /// Whether connections to one endpoint may differ in what they are for: there is `auto_sni` or
    /// `proxy_protocol`.
    pub varies: bool,
    /// Only where there is TLS.
    pub auto_sni: Option<AutoSni>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub connect_timeout: Duration,
    /// How long a request waits for a connection that comes free, or that another request opens.
    pub queue_timeout: Duration,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Connections that are opened ahead of need; not where they differ in what they are for
    /// ([`Self::varies`]).
    pub preconnect: Option<Preconnect>,
    /// Of endpoints with several addresses.
    pub happy_eyeballs: HappyEyeballs,
    /// Where connections come from, one of a family; empty leaves it to the system.
    pub source_addresses: SourceAddresses,
    /// How long an unused connection is kept; zero keeps it.
    pub idle_timeout: Duration,
    /// Requests after which a connection is closed; zero is no limit.
    pub max_requests: u32,
    /// After which a connection takes no more requests; zero is no limit.
    pub max_connection_duration: Duration,
    /// Of one request, from when it is sent; zero is no limit.
    pub max_stream_duration: Duration,
    /// Bytes that the head of a response may have, where the cluster says so.
    pub max_response_head: Option<usize>,
    /// HTTP/1: how the names of fields are written.
    pub header_case: HeaderCase,
}

impl std::ops::Deref for Transport {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Transport {
    pub fn limits_of(&self, priority: Priority) -> &Limits {
        match priority {
            Priority::Default => &self.limits,
            Priority::High => &self.high_limits,
        }
    }

    /// Counts a request for which a limit left no room.
    pub fn overflowed(&self) {
        self.stats.upstream_rq_pending_overflow.inc();
        self.dropped.inc();
    }
}

impl Settings {
    /// Of connections by this one of `sockets`, or none of them.
    pub fn tls_of(&self, socket: Option<usize>) -> Option<&ClientTls> {
        match socket {
            None => self.tls.as_ref(),
            Some(index) => self.sockets.get(index)?.as_ref(),
        }
    }

    /// As [`Self::tls_of`].
    pub fn proxy_protocol_of(&self, socket: Option<usize>) -> Option<&ProxyProtocol> {
        self.proxy_protocol.as_ref().filter(|_| socket.is_none())
    }

    /// Whether a connection takes no more requests.
    pub fn is_spent(&self, served: u32, opened: Instant) -> bool {
        let (requests, duration) = (self.max_requests, self.max_connection_duration);
        (requests != 0 && served >= requests)
            || (!duration.is_zero() && opened.elapsed() >= duration)
    }
}

/// What is spoken to the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2(Http2Options),
    /// What the endpoint chooses by ALPN.
    Auto(Http2Options),
}

impl Room for Transport {
    fn gauges(&self, f: &mut dyn FnMut(&str, i64)) {
        for (priority, limits) in [("default", &self.limits), ("high", &self.high_limits)] {
            limits.gauges(&mut |name, value| f(&format!("{priority}.{name}"), value));
        }
    }
}

impl Protocol {
    /// As logs say it; nothing where it depends on the connection.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::Http1 => Some("HTTP/1.1"),
            Self::Http2(_) => Some("HTTP/2"),
            Self::Auto(_) => None,
        }
    }
}
