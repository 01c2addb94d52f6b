//! Connections to endpoints: connecting, pooling, leasing, retiring.
//!
//! Every data thread has pools of its own, so no lock and no wake-up across threads is on the
//! request path. What the threads share (counts, limits, the endpoint itself) is atomic.

pub mod body;
pub mod connect;
pub mod endpoint;
pub mod limits;
pub mod pool;

use std::sync::Arc;
use std::time::Duration;

use causeway_xds::resource::cluster::{Http2Options, TcpKeepalive};

pub use connect::{ConnectError, ConnectErrorKind, keep_alive};
pub use endpoint::{Endpoint, EndpointKey};
pub use limits::{Limits, Permit};

use crate::telemetry::stats::ClusterStats;
use crate::tls::ClientTls;

/// How the endpoints of one cluster are connected to. Kept from snapshot to snapshot while none of
/// this changes; a change makes new endpoints, so that no connection of the old kind is used again.
#[derive(Debug)]
pub struct Transport {
    pub cluster: Arc<str>,
    pub protocol: Protocol,
    pub tls: Option<ClientTls>,
    pub connect_timeout: Duration,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// How long an unused connection is kept; zero keeps it.
    pub idle_timeout: Duration,
    /// Requests after which a connection is closed; zero is no limit.
    pub max_requests: u32,
    /// Bytes that the head of a response may have, where the cluster says so.
    pub max_response_head: Option<usize>,
    /// HTTP/1: names of fields are sent with capitals.
    pub proper_case: bool,
    pub stats: Arc<ClusterStats>,
    pub limits: Arc<Limits>,
}

/// What is spoken to the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2(Http2Options),
}

impl Protocol {
    /// As logs say it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2(_) => "HTTP/2",
        }
    }
}
