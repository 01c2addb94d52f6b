//! The addresses of names: from the system, or from servers of DNS that are asked directly.

mod files;
mod servers;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use causeway_xds::resource::cluster::DnsFamily;
use causeway_xds::resource::dns_resolver::{DnsResolver, DnsServers};
use tokio::time::timeout;

use servers::Servers;

/// What the system may take for a name. It has deadlines of its own for the servers that it asks
/// (`resolv.conf`), which together are shorter unless somebody made them long.
const SYSTEM: Duration = Duration::from_secs(30);

/// For how long an answer of the system holds, which it does not tell: as in Envoy.
const SYSTEM_TTL: Duration = Duration::from_secs(60);

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Without one the name does not exist, or has no address of the family that was asked for.
    pub addresses: Vec<IpAddr>,
    /// For how long that holds, if somebody says so.
    pub ttl: Option<Duration>,
}

/// Nobody can say where a name leads: no server answered, or one said that it could not.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    #[error("{0}")]
    System(Arc<std::io::Error>),
    #[error("deadline \"name lookup\" ({0:?}) fired")]
    Deadline(Duration),
    #[error("not a name: {0}")]
    Name(String),
    /// By the last server that was tried.
    #[error("{server}: {reason}")]
    Server {
        server: std::net::SocketAddr,
        reason: String,
    },
    #[error("there is no server to ask")]
    NoServer,
}

pub type Looking = Pin<Box<dyn Future<Output = Result<Answer, LookupError>> + Send>>;

/// Somebody to ask for the addresses of a name, of a family as far as that can be told apart.
pub type Lookup = Arc<dyn Fn(String, DnsFamily) -> Looking + Send + Sync>;

/// Whom to ask, for each place that may say so.
#[derive(Debug, Default)]
pub struct Resolvers {
    /// Where a place says nothing.
    default: Option<DnsResolver>,
    /// Shared by all who ask the same servers in the same way.
    servers: Mutex<HashMap<DnsServers, Weak<Servers>>>,
}

impl Resolvers {
    pub fn new(default: Option<DnsResolver>) -> Self {
        Self {
            default,
            servers: Mutex::default(),
        }
    }

    /// Whoever has to know how long an answer holds asks servers, unless told otherwise: the system
    /// does not say.
    pub fn lookup(&self, asked: Option<&DnsResolver>, needs_ttl: bool) -> Lookup {
        match asked.or(self.default.as_ref()) {
            Some(DnsResolver::Servers(servers)) => self.servers(servers),
            Some(DnsResolver::System) => system(),
            None if needs_ttl => self.servers(&DnsServers::default()),
            None => system(),
        }
    }

    fn servers(&self, config: &DnsServers) -> Lookup {
        // Each entry is written as a whole.
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = known.get(config).and_then(Weak::upgrade);
        let servers = servers.unwrap_or_else(|| {
            known.retain(|_, servers| servers.strong_count() > 0);
            let servers = Arc::new(Servers::new(config.clone()));
            known.insert(config.clone(), Arc::downgrade(&servers));
            servers
        });
        Arc::new(move |host, family| {
            let servers = Arc::clone(&servers);
            Box::pin(async move { servers.lookup(&host, family).await })
        })
    }
}

/// Asks the system, as `getaddrinfo` does. It does not tell a name that does not exist from servers
/// that do not answer, so both are errors.
fn system() -> Lookup {
    Arc::new(|host, _| {
        Box::pin(async move {
            let found = timeout(SYSTEM, tokio::net::lookup_host((host.as_str(), 0))).await;
            let found = found.map_err(|_| LookupError::Deadline(SYSTEM))?;
            let found = found.map_err(|e| LookupError::System(Arc::new(e)))?;
            Ok(Answer {
                addresses: found.map(|address| address.ip()).collect(),
                ttl: Some(SYSTEM_TTL),
            })
        })
    })
}

#[cfg(test)]
mod tests;
