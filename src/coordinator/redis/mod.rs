//! Redis as this worker uses it: where the server is, and how one gets a connection to it.
//!
//! Every wait here has a name and an end, and every failure becomes an [`Outage`]. Nothing in this
//! module tries again by itself; whoever uses it knows how long its own work may wait.

mod backoff;
mod health;
mod link;
mod sentinel;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisResult};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tracing::debug;

use crate::util::Secret;

pub use backoff::Backoff;
pub use health::{Check, RedisHealth};
pub use link::Link;
pub(in crate::coordinator) use link::refused;

/// The logical databases, as Backend.AI divides them.
pub mod db {
    /// Statistics and service discovery.
    pub const STAT: i64 = 0;
    /// What is alive: sessions and circuits.
    pub const LIVE: i64 = 2;
    /// Events. Channels are not divided by database; this is where everybody else connects.
    pub const EVENTS: i64 = 4;
}

/// A host, by name or number, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

/// Where the data are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    StandAlone(Address),
    Sentinel {
        sentinels: Vec<Address>,
        service_name: String,
        /// For the sentinels themselves. Without one, that of the data server is tried where a
        /// sentinel asks for one.
        sentinel_password: Option<Secret>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    pub server: Server,
    pub password: Option<Secret>,
    pub connect_timeout: Duration,
    /// For a command to be answered, or a batch of them.
    pub response_timeout: Duration,
    /// For a sentinel to be reached and, once more, to answer.
    pub sentinel_timeout: Duration,
    /// How often a connection that waits is asked whether it still stands.
    pub ping_every: Duration,
    /// After how many unanswered pings in a row it does not. From the first on, the next is sent
    /// as soon as the one before has timed out: 10 s and 3 times 5 s are 25 s at most.
    pub ping_failures: u32,
}

/// Why Redis cannot be used at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// What was tried; the name of the deadline if that is what ended it.
    pub doing: &'static str,
    pub server: String,
    pub reason: String,
}

impl RedisConfig {
    pub fn stand_alone(host: impl Into<String>, port: u16) -> Self {
        Self::new(Server::StandAlone(Address::new(host, port)))
    }

    pub fn sentinel(sentinels: Vec<Address>, service_name: impl Into<String>) -> Self {
        Self::new(Server::Sentinel {
            sentinels,
            service_name: service_name.into(),
            sentinel_password: None,
        })
    }

    pub fn new(server: Server) -> Self {
        Self {
            server,
            password: None,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(5),
            sentinel_timeout: Duration::from_secs(1),
            ping_every: Duration::from_secs(10),
            ping_failures: 3,
        }
    }

    /// A connection for commands. Behind sentinels it leads to a server that calls itself master.
    pub async fn connect(&self, db: i64) -> Result<(Address, MultiplexedConnection), Outage> {
        match &self.server {
            Server::StandAlone(address) => {
                let connection = self.connect_to(address, db).await?;
                Ok((address.clone(), connection))
            }
            Server::Sentinel { .. } => self.connect_to_master(db).await,
        }
    }

    /// A connection for a subscription, to the same server that [`Self::connect`] would choose.
    pub async fn subscriber(&self, db: i64) -> Result<(Address, PubSub), Outage> {
        let address = match &self.server {
            Server::StandAlone(address) => address.clone(),
            // A connection for subscriptions cannot be asked for its role.
            Server::Sentinel { .. } => self.connect(db).await?.0,
        };
        let stream = open(&address, self.connect_timeout).await?;
        let login = login(self.password.as_ref(), db);
        let pubsub = PubSub::new(&login, stream);
        let pubsub = within("redis login", &address, self.response_timeout, pubsub).await?;
        Ok((address, pubsub))
    }

    async fn connect_to(
        &self,
        address: &Address,
        db: i64,
    ) -> Result<MultiplexedConnection, Outage> {
        let stream = open(address, self.connect_timeout).await?;
        let login = login(self.password.as_ref(), db);
        start(stream, address, &login, self.response_timeout).await
    }
}

/// How one is known to a server. The protocol is the older one, which every server speaks.
fn login(password: Option<&Secret>, db: i64) -> RedisConnectionInfo {
    let login = RedisConnectionInfo::default()
        .set_db(db)
        .set_lib_name("causeway", env!("CARGO_PKG_VERSION"));
    match password {
        Some(password) => login.set_password(password.expose()),
        None => login,
    }
}

async fn open(address: &Address, after: Duration) -> Result<TcpStream, Outage> {
    let connecting = async {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(10))
            .with_interval(Duration::from_secs(5));
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    };
    within("redis connect", address, after, connecting).await
}

/// Makes a fresh connection one for commands.
async fn start(
    stream: TcpStream,
    address: &Address,
    login: &RedisConnectionInfo,
    after: Duration,
) -> Result<MultiplexedConnection, Outage> {
    // Each command is waited for under a name of its own, not under the library's deadline.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None);
    let starting = MultiplexedConnection::new_with_config(login, stream, config);
    let (connection, driver) = within("redis login", address, after, starting).await?;
    // Ends when the connection is dropped.
    tokio::spawn(driver);
    Ok(connection)
}

/// Waits for `work`, but no longer than `after`.
pub(in crate::coordinator) async fn within<T>(
    doing: &'static str,
    server: &Address,
    after: Duration,
    work: impl Future<Output = RedisResult<T>>,
) -> Result<T, Outage> {
    match tokio::time::timeout(after, work).await {
        Ok(done) => done.map_err(|error| Outage::new(doing, server, error)),
        Err(_) => {
            debug!(deadline = doing, %server, limit = ?after, "deadline fired");
            Err(Outage::new(
                doing,
                server,
                format!("no answer within {after:?}"),
            ))
        }
    }
}

impl Address {
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let host = host.into();
        Self { host, port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Outage {
    fn new(doing: &'static str, server: &impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self {
            doing,
            server: server.to_string(),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.doing, self.server, self.reason)
    }
}

impl std::error::Error for Outage {}
