//! Listeners: sockets, accept loops, and following the snapshot.
//!
//! The control thread binds (so that a port in use is an error with a reason) and keeps the
//! sockets; every data thread accepts on its own one. A change that leaves the address alone keeps
//! the socket, so no connection is refused while a listener changes.

mod accept;
mod admission;
mod client_hello;
mod inspect;
mod proxy_protocol;
mod worker;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

pub use admission::Admission;
pub use worker::run as run_worker;

use crate::net::listen::{self, Options};
use crate::snapshot::{BindAddress, ListenerSpec, Retired, Snapshot};
use crate::telemetry::stats::Stats;

/// What a data thread is told.
pub enum Command {
    /// Accept on these sockets, or with none only take what others hand over; replaces a listener of that name.
    Listen(Arc<ListenerSpec>, Vec<Socket>),
    /// Serve new connections by this specification, on the socket it has.
    Update(Arc<ListenerSpec>),
    /// Close the socket; connections drain.
    Stop(Arc<str>),
    /// These endpoints are gone.
    Retire(Retired),
    /// Close all sockets; connections drain.
    Drain,
    /// End all connections now.
    Exit,
}

/// A listening socket on its way to a data thread.
pub enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }
}

/// Where a listener really listens: with port 0, the port that the system chose.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<Mutex<HashMap<Arc<str>, Vec<SocketAddr>>>>);

impl Addresses {
    /// The first one.
    pub fn of(&self, listener: &str) -> Option<SocketAddr> {
        self.all_of(listener).first().copied()
    }

    /// In the order of its configuration.
    pub fn all_of(&self, listener: &str) -> Vec<SocketAddr> {
        let addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.get(listener).cloned().unwrap_or_default()
    }

    /// Name and address of all, sorted.
    pub fn all(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let every = |(name, all): (&Arc<str>, &Vec<SocketAddr>)| {
            let name = Arc::clone(name);
            all.clone().into_iter().map(move |a| (Arc::clone(&name), a))
        };
        let mut all: Vec<_> = addresses.iter().flat_map(every).collect();
        all.sort();
        all
    }

    fn set(&self, listener: &Arc<str>, bound: Vec<SocketAddr>) {
        let mut addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match bound.is_empty() {
            false => addresses.insert(Arc::clone(listener), bound),
            true => addresses.remove(listener),
        };
    }
}

/// A listener that could not be bound. The others are not affected.
#[derive(Debug)]
pub struct BindFailure {
    pub listener: Arc<str>,
    pub address: String,
    pub error: io::Error,
}

struct Bound {
    spec: Arc<ListenerSpec>,
    /// For each of its addresses one per data thread; kept, so that an address can go from one
    /// listener to another.
    sockets: Vec<Vec<Socket>>,
}

/// Sockets that nobody listens on any more, by where they are.
type Freed = HashMap<(BindAddress, Options), Vec<Socket>>;

/// All addresses of a listener.
fn shown(spec: &ListenerSpec) -> String {
    let all: Vec<String> = spec.binds().map(ToString::to_string).collect();
    all.join(", ")
}

/// Makes the data threads listen where the newest snapshot says.
pub struct Listeners {
    threads: Vec<mpsc::UnboundedSender<Command>>,
    bound: HashMap<Arc<str>, Bound>,
    addresses: Addresses,
    stats: Arc<Stats>,
    /// Nothing is bound any more once draining has begun.
    drained: bool,
}

impl Listeners {
    /// `threads`: how the data threads are told, one for each.
    pub fn new(threads: Vec<mpsc::UnboundedSender<Command>>, stats: Arc<Stats>) -> Self {
        let count = i64::try_from(threads.len()).unwrap_or(i64::MAX);
        stats
            .listener_manager
            .workers_started
            .set(i64::from(count > 0));
        let (bound, addresses) = (HashMap::new(), Addresses::default());
        Self {
            threads,
            bound,
            addresses,
            stats,
            drained: false,
        }
    }

    /// Follows what is bound from now on.
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// Follows `next`: binds what is new, updates what changed, drains what is gone.
    pub fn reconcile(&mut self, next: &Snapshot, retired: &[Retired]) -> Vec<BindFailure> {
        for retired in retired {
            self.tell(|| Command::Retire(retired.clone()));
        }
        if self.drained {
            return Vec::new();
        }
        let gone: Vec<Arc<str>> = self
            .bound
            .keys()
            .filter(|name| !next.listeners.contains_key(*name))
            .cloned()
            .collect();
        // An address that changes its listener in this step must not be free in between.
        let mut freed = Freed::new();
        for name in gone {
            if let Some(bound) = self.stop(&name) {
                let Bound { spec, sockets } = bound;
                let places = spec.binds().map(|bind| (bind.clone(), spec.options));
                freed.extend(places.zip(sockets));
            }
        }
        let mut failures = Vec::new();
        for (name, spec) in &next.listeners {
            match self.bound.get_mut(name) {
                Some(bound) if Arc::ptr_eq(&bound.spec, spec) => {}
                Some(bound) if bound.spec.is_bound_like(spec) => {
                    bound.spec = Arc::clone(spec);
                    self.tell(|| Command::Update(Arc::clone(spec)));
                }
                _ => {
                    let sockets = spec.binds().map(|bind| {
                        if let Some(sockets) = freed.remove(&(bind.clone(), spec.options)) {
                            return Ok(sockets);
                        }
                        match self.kept(spec, bind) {
                            Some(sockets) => sockets.iter().map(Socket::try_clone).collect(),
                            None => self.bind(bind, spec.options),
                        }
                    });
                    let sockets: io::Result<Vec<Vec<Socket>>> = sockets.collect();
                    match sockets.and_then(|sockets| self.listen(spec, sockets)) {
                        Ok(()) => self.stats.listener_manager.listener_create_success.inc(),
                        Err(error) => {
                            self.stats.listener_manager.listener_create_failure.inc();
                            failures.push(BindFailure {
                                listener: Arc::clone(name),
                                address: shown(spec),
                                error,
                            });
                        }
                    }
                }
            }
        }
        let active = i64::try_from(self.bound.len()).unwrap_or(i64::MAX);
        self.stats
            .listener_manager
            .total_listeners_active
            .set(active);
        failures
    }

    /// The sockets that a listener has at one of the addresses that it is to have.
    fn kept(&self, spec: &ListenerSpec, address: &BindAddress) -> Option<&[Socket]> {
        let bound = self.bound.get(&spec.name)?;
        let mut all = bound.spec.binds().zip(&bound.sockets);
        let (_, sockets) = all.find(|(bind, _)| *bind == address)?;
        (bound.spec.options == spec.options).then_some(sockets)
    }

    fn bind(&self, address: &BindAddress, options: Options) -> io::Result<Vec<Socket>> {
        match address {
            BindAddress::Socket(address) => {
                let sockets = listen::bind(*address, self.threads.len().max(1), options)?;
                Ok(sockets.into_iter().map(Socket::Tcp).collect())
            }
            BindAddress::Unbound(_) => Ok(Vec::new()),
            BindAddress::Pipe(path) => {
                // A socket file that a dead process left behind would block the address for ever.
                if std::os::unix::net::UnixStream::connect(path).is_err() {
                    std::fs::remove_file(path).ok();
                }
                let socket = std::os::unix::net::UnixListener::bind(path)?;
                socket.set_nonblocking(true)?;
                Ok(vec![Socket::Unix(socket)])
            }
        }
    }

    fn listen(&mut self, spec: &Arc<ListenerSpec>, sockets: Vec<Vec<Socket>>) -> io::Result<()> {
        let mut addresses = Vec::new();
        for sockets in &sockets {
            if let Some(Socket::Tcp(socket)) = sockets.first() {
                addresses.push(socket.local_addr()?);
            }
        }
        self.addresses.set(&spec.name, addresses);
        let unbound = spec
            .binds()
            .all(|bind| matches!(bind, BindAddress::Unbound(_)));
        for (index, thread) in self.threads.iter().enumerate() {
            let own = sockets.iter().filter_map(|sockets| sockets.get(index));
            let own: Vec<Socket> = own.map(Socket::try_clone).collect::<io::Result<_>>()?;
            // A Unix socket is one thread's; the others may still serve what was at this name before.
            let command = match own.is_empty() && !unbound {
                true => Command::Stop(Arc::clone(&spec.name)),
                false => Command::Listen(Arc::clone(spec), own),
            };
            // A thread that is gone takes its sockets with it; the process is ending.
            thread.send(command).ok();
        }
        let bound = Bound {
            spec: Arc::clone(spec),
            sockets,
        };
        self.bound.insert(Arc::clone(&spec.name), bound);
        Ok(())
    }

    fn stop(&mut self, name: &Arc<str>) -> Option<Bound> {
        let bound = self.bound.remove(name)?;
        self.addresses.set(name, Vec::new());
        self.tell(|| Command::Stop(Arc::clone(name)));
        Some(bound)
    }

    /// Closes all sockets and lets connections drain.
    pub fn drain(&mut self) {
        self.drained = true;
        self.bound.clear();
        self.stats.listener_manager.total_listeners_active.set(0);
        self.tell(|| Command::Drain);
    }

    /// Ends all connections.
    pub fn exit(&self) {
        self.tell(|| Command::Exit);
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for thread in &self.threads {
            // A thread that is gone has nothing left to do.
            thread.send(command()).ok();
        }
    }
}
