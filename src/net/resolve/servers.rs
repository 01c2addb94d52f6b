//! Servers of DNS, asked directly: over UDP, and over TCP when an answer does not fit.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use causeway_xds::resource::cluster::DnsFamily;
use causeway_xds::resource::dns_resolver::DnsServers;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use super::files::{Files, Text};
use super::{Answer, LookupError};

/// How many names are looked up at once; the others wait for their turn.
const AT_ONCE: usize = 256;

/// Where c-ares and the system's resolver ask when nobody says where.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 53);

/// Servers, and how they are asked.
pub(super) struct Servers {
    config: DnsServers,
    permits: Semaphore,
    /// Which server comes first next time, if they take turns.
    next: AtomicUsize,
    /// Held while files are read, never while servers are asked.
    known: Mutex<Option<(Text, Arc<Known>)>>,
}

/// What follows from the files of the system as they are now.
struct Known {
    files: Files,
    servers: Vec<Server>,
}

struct Server {
    address: SocketAddr,
    /// Asks this one alone and once, so that what is tried next, and when, is said here.
    resolver: TokioResolver,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.config.fmt(f)
    }
}

/// Addresses, and for how long they hold.
type Found = Vec<(IpAddr, Option<u32>)>;

impl Servers {
    pub fn new(config: DnsServers) -> Self {
        Self {
            config,
            permits: Semaphore::new(AT_ONCE),
            next: AtomicUsize::new(0),
            known: Mutex::new(None),
        }
    }

    /// The addresses of a name.
    ///
    /// # Errors
    /// No server could say whether it has any.
    pub async fn lookup(&self, host: &str, family: DnsFamily) -> Result<Answer, LookupError> {
        let name = Name::from_str_relaxed(host).map_err(|e| LookupError::Name(e.to_string()))?;
        // Never closed.
        let _permit = self.permits.acquire().await.ok();
        let known = self.known().await;
        let [v4, v6] = [RecordType::A, RecordType::AAAA];
        let of = |kind| self.of_kind(&known, &name, kind);
        let found = match family {
            DnsFamily::V4Only => of(v4).await,
            DnsFamily::V6Only => of(v6).await,
            DnsFamily::V4Preferred => self.preferring(v4, v6, &known, &name).await,
            DnsFamily::Auto => self.preferring(v6, v4, &known, &name).await,
            DnsFamily::All => {
                let (v4, v6) = tokio::join!(of(v4), of(v6));
                both(v4, v6)
            }
        }?;
        let ttl = found.iter().map(|(_, ttl)| *ttl).min().flatten();
        Ok(Answer {
            addresses: found.into_iter().map(|(address, _)| address).collect(),
            ttl: ttl.map(|seconds| Duration::from_secs(seconds.into())),
        })
    }

    /// The second kind only counts where the first one has nothing.
    async fn preferring(
        &self,
        kind: RecordType,
        other: RecordType,
        known: &Known,
        name: &Name,
    ) -> Result<Found, LookupError> {
        match self.of_kind(known, name, kind).await {
            Ok(found) if !found.is_empty() => Ok(found),
            preferred => both(preferred, self.of_kind(known, name, other).await),
        }
    }

    /// Nothing of a kind whose addresses lead nowhere from here, if that counts.
    async fn of_kind(
        &self,
        known: &Known,
        name: &Name,
        kind: RecordType,
    ) -> Result<Found, LookupError> {
        if self.config.routable_only && !has_interface(kind) {
            return Ok(Vec::new());
        }
        self.search(known, name, kind).await
    }

    /// Made anew when a file has changed, which gives up what is known of the servers.
    async fn known(&self) -> Arc<Known> {
        let mut last = self.known.lock().await;
        let text = Text::read().await;
        match &*last {
            Some((before, known)) if *before == text => Arc::clone(known),
            _ => {
                let known = Arc::new(Known::new(&self.config, Files::parse(&text)));
                *last = Some((text, Arc::clone(&known)));
                known
            }
        }
    }

    /// The first of the names that has addresses. That none has is only known when all were
    /// answered for.
    async fn search(
        &self,
        known: &Known,
        name: &Name,
        kind: RecordType,
    ) -> Result<Found, LookupError> {
        let mut failed = None;
        for name in known.files.candidates(name, !self.config.no_search) {
            if let Some(found) = known.files.addresses(&name, kind) {
                return Ok(found.into_iter().map(|address| (address, None)).collect());
            }
            match self.ask(known, &name, kind).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return Ok(found),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(Vec::new()), Err)
    }

    /// Asks the servers in turn, again and again.
    async fn ask(
        &self,
        known: &Known,
        name: &Name,
        kind: RecordType,
    ) -> Result<Found, LookupError> {
        let DnsServers {
            timeout: limit,
            tries,
            rotate,
            ..
        } = self.config;
        let first = if rotate {
            self.next.fetch_add(1, Relaxed)
        } else {
            0
        };
        let servers = &known.servers;
        let mut failed = LookupError::NoServer;
        for _ in 0..tries {
            for i in 0..servers.len() {
                let server = &servers[(first.wrapping_add(i)) % servers.len()];
                let asked = server.resolver.lookup(name.clone(), kind);
                let reason = match timeout(limit, asked).await {
                    Ok(Ok(answer)) => return Ok(found(answer.answers())),
                    Ok(Err(error)) if error.is_no_records_found() => return Ok(Vec::new()),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("deadline \"dns query\" ({limit:?}) fired"),
                };
                failed = LookupError::Server {
                    server: server.address,
                    reason,
                };
            }
        }
        Err(failed)
    }
}

impl Known {
    fn new(config: &DnsServers, files: Files) -> Self {
        let own = !config.addresses.is_empty() && (!config.as_fallback || files.servers.is_empty());
        let addresses = match (own, files.servers.is_empty()) {
            (true, _) => &config.addresses,
            (false, false) => &files.servers,
            (false, true) => &vec![LOCAL],
        };
        let servers = addresses.iter();
        Self {
            servers: servers.filter_map(|a| Server::new(*a, config)).collect(),
            files,
        }
    }
}

impl Server {
    fn new(address: SocketAddr, config: &DnsServers) -> Option<Self> {
        let connection = |protocol| {
            let mut connection = ConnectionConfig::new(protocol);
            connection.port = address.port();
            connection
        };
        let mut connections = vec![connection(ProtocolConfig::Tcp)];
        if !config.tcp_only {
            connections.insert(0, connection(ProtocolConfig::Udp));
        }
        let server = NameServerConfig::new(address.ip(), true, connections);
        let servers = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut options = ResolverOpts::default();
        options.attempts = 0;
        options.timeout = config.timeout;
        options.cache_size = 0;
        options.edns_payload_len = config.payload;
        options.num_concurrent_reqs = 1;
        options.max_active_requests = AT_ONCE;
        options.use_hosts_file = ResolveHosts::Never;
        let provider = TokioRuntimeProvider::default();
        let resolver = TokioResolver::builder_with_config(servers, provider)
            .with_options(options)
            .build();
        // It fails for TLS only, which is not in use here.
        Some(Self {
            address,
            resolver: resolver.ok()?,
        })
    }
}

/// The addresses in an answer. A name that leads to another one holds for as long as the shorter of
/// the two does.
fn found(records: &[Record]) -> Found {
    let ttl = records.iter().map(|record| record.ttl).min();
    let addresses = records.iter().filter_map(|record| record.data.ip_addr());
    addresses.map(|address| (address, ttl)).collect()
}

/// One kind that nobody could tell of does not hold up the other one; but then there may be more
/// than nothing.
fn both(
    one: Result<Found, LookupError>,
    other: Result<Found, LookupError>,
) -> Result<Found, LookupError> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok([one, other].concat()),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// Whether an interface other than loopback has an address of that kind. Where that cannot be
/// found out, nothing is left out.
fn has_interface(kind: RecordType) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return true;
    };
    interfaces
        .filter_map(|interface| interface.address)
        .any(|address| match kind {
            RecordType::AAAA => address
                .as_sockaddr_in6()
                .is_some_and(|a| !a.ip().is_loopback()),
            _ => address
                .as_sockaddr_in()
                .is_some_and(|a| !a.ip().is_loopback()),
        })
}
