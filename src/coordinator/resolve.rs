//! Where kernels are that are announced by name. The data plane knows addresses only, so a name is
//! looked up before its circuit is installed, and again at each listing.
//!
//! A name that leads nowhere is no reason to refuse anything: its kernel takes no traffic until it
//! leads somewhere. Once it has led somewhere the last answer counts until there is a better one.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causeway_xds::resource::cluster::DnsFamily;
use causeway_xds::resource::dns_resolver::{DnsResolver, DnsServers};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::model::{Circuit, KernelRoute};
use crate::net::resolve::Resolvers;

/// How long one name may take.
const LOOKUP: Duration = Duration::from_secs(2);
/// How long all names of one message may take together: somebody may wait 15 s for the reply to it.
const ALL: Duration = Duration::from_secs(10);
/// How many names are looked up at once.
const AT_ONCE: usize = 16;
/// How long an answer counts without asking again.
const FRESH: Duration = Duration::from_secs(30);
/// How long a name that failed is not asked again, so that a burst of events about it waits once.
/// Shorter than what a listing waits that is to try it again.
const FORGIVEN: Duration = Duration::from_millis(500);
/// What is remembered is bounded by this, and by time where that is not enough.
const MAX: usize = 4096;
const FORGOTTEN: Duration = Duration::from_secs(600);
/// So many failures are logged at once; of the rest the number is.
const LOGGED: usize = 10;

/// Answers the addresses of a name, in the order of the system.
pub type Lookup = Box<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Looks names up and remembers the answers.
pub struct Resolver {
    lookup: Lookup,
    permits: Semaphore,
    known: Mutex<HashMap<String, Known>>,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The last good answer.
    address: Option<IpAddr>,
    asked: Instant,
    /// Whether the last question was answered; what is new is logged once.
    well: bool,
}

/// Where names lead; `None` is nowhere. Those that nobody asked about are not in it.
#[derive(Clone, Debug, Default)]
pub struct Resolved(HashMap<String, Option<IpAddr>>);

/// What a host of a kernel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    /// In lower case.
    Name(String),
}

impl Host {
    /// Nothing and "localhost" mean this machine (the legacy worker's rule). `None` is neither an
    /// address nor a name.
    pub fn read(host: Option<&str>) -> Option<Self> {
        let text = host.unwrap_or_default();
        if text.is_empty() || text.eq_ignore_ascii_case("localhost") {
            return Some(Self::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse() {
            return Some(Self::Address(address));
        }
        is_name(text).then(|| Self::Name(text.to_ascii_lowercase()))
    }
}

/// Labels of letters, digits, hyphens and, as inside container networks, underscores. A last label
/// of digits only is a mistyped address, which some resolvers would take for another one.
fn is_name(text: &str) -> bool {
    let plain = |label: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(known)
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(plain) && !last.bytes().all(|b| b.is_ascii_digit())
}

impl Default for Resolver {
    /// Asks the system, as `getaddrinfo` does.
    fn default() -> Self {
        Self::new(Box::new(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        }))
    }
}

impl Resolver {
    /// Asks servers of DNS, in their order, and none but them.
    pub fn of_servers(addresses: Vec<SocketAddr>) -> Self {
        // Each has been asked twice when a name has taken too long.
        let turns = u32::try_from(addresses.len() * 2).unwrap_or(u32::MAX);
        let servers = DnsServers {
            timeout: LOOKUP / turns.max(1),
            tries: 2,
            addresses,
            ..DnsServers::default()
        };
        let resolvers = Resolvers::new(Some(DnsResolver::Servers(servers)));
        let lookup = resolvers.lookup(None, false);
        Self::new(Box::new(move |name| {
            let looking = lookup(name, DnsFamily::V4Preferred);
            Box::pin(async move {
                let answer = looking.await.map_err(io::Error::other)?;
                Ok(answer.addresses)
            })
        }))
    }

    pub fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            permits: Semaphore::new(AT_ONCE),
            known: Mutex::default(),
        }
    }

    /// Looks up what the kernels of `circuits` are called and puts the addresses in. A name that
    /// has led somewhere is not asked again here, whatever its age: somebody waits for this, and a
    /// listing brings it up to date.
    pub async fn resolve(&self, circuits: &mut [Circuit]) {
        let routes = || circuits.iter().flat_map(|circuit| &circuit.routes);
        let mut unknown = names(routes());
        let mut resolved = Resolved::default();
        unknown.retain(|name| {
            let address = self.known().get(name).and_then(|known| known.address);
            if let Some(address) = address {
                resolved.0.insert(name.clone(), Some(address));
            }
            address.is_none()
        });
        resolved.0.extend(self.ask(unknown).await.0);
        resolved.put_into(circuits);
    }

    /// Where `names` lead. Takes a bounded time; with none it takes no time at all.
    pub async fn ask(&self, names: BTreeSet<String>) -> Resolved {
        let deadline = Instant::now() + ALL;
        let mut asking = stream::iter(names)
            .map(|name| async move {
                let answer = self.one(&name, deadline).await;
                (name, answer)
            })
            .buffer_unordered(AT_ONCE);
        let mut resolved = Resolved::default();
        let mut failures = Vec::new();
        while let Some((name, (address, failure))) = asking.next().await {
            failures.extend(failure.map(|reason| format!("{name}: {reason}")));
            resolved.0.insert(name, address);
        }
        if !failures.is_empty() {
            let count = failures.len();
            failures.truncate(LOGGED);
            warn!(
                count,
                ?failures,
                "kernel names not resolved; kernels without an earlier address take no traffic"
            );
        }
        resolved
    }

    /// The address that counts, and why there is no new one if that has not been said yet.
    async fn one(&self, name: &str, deadline: Instant) -> (Option<IpAddr>, Option<String>) {
        let known = self.known().get(name).copied();
        if let Some(known) = known {
            let counts = if known.well { FRESH } else { FORGIVEN };
            if known.asked.elapsed() < counts {
                return (known.address, None);
            }
        }
        let look = async {
            // Never closed.
            let _permit = self.permits.acquire().await.ok();
            match timeout(LOOKUP, (self.lookup)(name.to_owned())).await {
                Ok(Ok(found)) => first(&found).ok_or_else(|| "it has no address".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("deadline \"kernel name\" ({LOOKUP:?}) fired")),
            }
        };
        let answer = match timeout_at(deadline, look).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("deadline \"all kernel names\" ({ALL:?}) fired")),
        };
        self.note(name, known, answer)
    }

    /// Remembers an answer and logs what is new about it.
    fn note(
        &self,
        name: &str,
        before: Option<Known>,
        answer: Result<IpAddr, String>,
    ) -> (Option<IpAddr>, Option<String>) {
        let last = before.and_then(|known| known.address);
        let was_well = before.is_none_or(|known| known.well);
        match (&answer, last) {
            (Ok(now), Some(last)) if *now != last => {
                info!(name, from = %last, to = %now, "kernel name leads elsewhere now");
            }
            (Ok(address), _) if !was_well => info!(name, %address, "kernel name is resolved again"),
            (Ok(address), _) => debug!(name, %address, "kernel name resolved"),
            (Err(reason), _) => debug!(name, reason, ?last, "kernel name not resolved"),
        }
        let well = answer.is_ok();
        let (address, failure) = match answer {
            Ok(address) => (Some(address), None),
            Err(reason) => (last, was_well.then_some(reason)),
        };
        let now = Instant::now();
        let mut known = self.known();
        if known.len() >= MAX {
            known.retain(|_, known| now.duration_since(known.asked) < FORGOTTEN);
        }
        if known.len() < MAX || known.contains_key(name) {
            let asked = now;
            known.insert(
                name.to_owned(),
                Known {
                    address,
                    asked,
                    well,
                },
            );
        }
        (address, failure)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // Each entry is written as a whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolved {
    pub fn put_into(&self, circuits: &mut [Circuit]) {
        for circuit in circuits {
            self.put_into_routes(&mut circuit.routes);
        }
    }

    pub fn put_into_routes(&self, routes: &mut [KernelRoute]) {
        for route in routes {
            if let Some(Host::Name(name)) = Host::read(route.kernel_host.as_deref())
                && let Some(address) = self.0.get(&name)
            {
                route.address = address.map(|ip| SocketAddr::new(ip, route.kernel_port));
            }
        }
    }
}

/// The names among the hosts of kernels.
pub fn names<'r>(routes: impl IntoIterator<Item = &'r KernelRoute>) -> BTreeSet<String> {
    let hosts = routes.into_iter().map(|route| route.kernel_host.as_deref());
    names_of(hosts)
}

/// The same, of hosts as they were announced.
pub fn names_of<'h>(hosts: impl IntoIterator<Item = Option<&'h str>>) -> BTreeSet<String> {
    let named = hosts
        .into_iter()
        .filter_map(|host| match Host::read(host)? {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        });
    named.collect()
}

/// Whether a kernel of these circuits takes no traffic because its name leads nowhere.
pub fn lacks_any(circuits: &[Arc<Circuit>]) -> bool {
    let mut routes = circuits.iter().flat_map(|circuit| &circuit.routes);
    routes.any(|route| route.address.is_none())
}

/// One address is used, as by the legacy worker, which knows only IPv4 for TCP.
fn first(found: &[IpAddr]) -> Option<IpAddr> {
    found
        .iter()
        .find(|ip| ip.is_ipv4())
        .or(found.first())
        .copied()
}

#[cfg(test)]
pub(crate) mod tests;
