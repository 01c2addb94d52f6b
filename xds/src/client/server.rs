//! How a management server is reached. The program makes the connections: what TLS is and what
//! certificates are trusted is its business.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::resource::api_source::Metadata;

/// A connection, TLS included if there is to be some.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Opens connections to a server, within a deadline of its own.
pub trait Connect: Send + Sync + fmt::Debug {
    fn connect(&self) -> Connecting;
}

/// A management server.
#[derive(Clone, Debug)]
pub struct Server {
    /// As operators know it: shown in logs, metrics and the config dump.
    pub name: Arc<str>,
    pub connect: Arc<dyn Connect>,
    /// The `:authority` (or `Host`) of what is sent.
    pub authority: String,
    /// Whether requests say `https`.
    pub secure: bool,
    /// Sent with each stream or poll.
    pub metadata: Metadata,
    /// The largest message taken, in bytes.
    pub max_message: usize,
    /// HTTP/2 pings on the connection.
    pub keepalive: Option<Keepalive>,
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub interval: Duration,
    /// After which a ping without an answer ends the connection.
    pub timeout: Duration,
}
