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

use crate::net::listen;
use crate::snapshot::{BindAddress, ListenerSpec, Retired, Snapshot};
use crate::telemetry::stats::Stats;

/// What a data thread is told.
pub enum Command {
    /// Accept on this socket, or only take what others hand over; replaces a listener of that name.
    Listen(Arc<ListenerSpec>, Option<Socket>),
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
pub struct Addresses(Arc<Mutex<HashMap<Arc<str>, SocketAddr>>>);

impl Addresses {
    pub fn of(&self, listener: &str) -> Option<SocketAddr> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(listener)
            .copied()
    }

    pub fn all(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = addresses.iter().map(|(n, a)| (Arc::clone(n), *a)).collect();
        all.sort();
        all
    }

    fn set(&self, listener: &Arc<str>, address: Option<SocketAddr>) {
        let mut addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match address {
            Some(address) => addresses.insert(Arc::clone(listener), address),
            None => addresses.remove(listener),
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
    /// One per data thread; kept, so that an address can go from one listener to another.
    sockets: Vec<Socket>,
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
        let mut freed: HashMap<BindAddress, Vec<Socket>> = HashMap::new();
        for name in gone {
            if let Some(bound) = self.stop(&name) {
                freed.insert(bound.spec.bind.clone(), bound.sockets);
            }
        }
        let mut failures = Vec::new();
        for (name, spec) in &next.listeners {
            match self.bound.get_mut(name) {
                Some(bound) if Arc::ptr_eq(&bound.spec, spec) => {}
                Some(bound) if bound.spec.bind == spec.bind => {
                    bound.spec = Arc::clone(spec);
                    self.tell(|| Command::Update(Arc::clone(spec)));
                }
                _ => {
                    let sockets = match freed.remove(&spec.bind) {
                        Some(sockets) => Ok(sockets),
                        None => self.bind(&spec.bind),
                    };
                    match sockets.and_then(|sockets| self.listen(spec, sockets)) {
                        Ok(()) => self.stats.listener_manager.listener_create_success.inc(),
                        Err(error) => {
                            self.stats.listener_manager.listener_create_failure.inc();
                            failures.push(BindFailure {
                                listener: Arc::clone(name),
                                address: spec.bind.to_string(),
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

    fn bind(&self, address: &BindAddress) -> io::Result<Vec<Socket>> {
        match address {
            BindAddress::Socket(address) => {
                let sockets = listen::bind(*address, self.threads.len().max(1))?;
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

    fn listen(&mut self, spec: &Arc<ListenerSpec>, sockets: Vec<Socket>) -> io::Result<()> {
        if let Some(Socket::Tcp(socket)) = sockets.first() {
            self.addresses.set(&spec.name, Some(socket.local_addr()?));
        }
        if matches!(spec.bind, BindAddress::Unbound(_)) {
            self.tell(|| Command::Listen(Arc::clone(spec), None));
        }
        for (thread, socket) in self.threads.iter().zip(&sockets) {
            // A thread that is gone takes its sockets with it; the process is ending.
            thread
                .send(Command::Listen(Arc::clone(spec), Some(socket.try_clone()?)))
                .ok();
        }
        if !matches!(spec.bind, BindAddress::Unbound(_)) {
            // A Unix socket is one thread's; the others may still serve what was at this name before.
            for thread in self.threads.iter().skip(sockets.len()) {
                thread.send(Command::Stop(Arc::clone(&spec.name))).ok();
            }
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
        self.addresses.set(name, None);
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
