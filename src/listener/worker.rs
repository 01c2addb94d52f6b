//! One data thread: its listeners, its housekeeping.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::accept::{Acceptor, accept_forever};
use super::admission::Admission;
use super::{Command, Socket};
use crate::runtime::drain::Drain;
use crate::runtime::{farewell, timer};
use crate::snapshot::{BindAddress, ListenerSpec, Reader};
use crate::upstream::pool;

/// How long tunnels may take for a last word when the thread ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// A listener as one data thread has it.
struct Active {
    current: Rc<RefCell<Current>>,
    /// Empty: others hand connections over.
    accepting: Vec<AbortHandle>,
}

/// The listeners of a data thread by their address: who takes what was bound for it.
#[derive(Clone, Default)]
pub struct Directory(Rc<RefCell<HashMap<SocketAddr, Rc<RefCell<Current>>>>>);

impl Directory {
    fn enter(&self, active: &Active) {
        for address in addresses(active) {
            let current = Rc::clone(&active.current);
            self.0.borrow_mut().insert(address, current);
        }
    }

    fn leave(&self, active: &Active) {
        let mut all = self.0.borrow_mut();
        for address in addresses(active) {
            if all
                .get(&address)
                .is_some_and(|there| Rc::ptr_eq(there, &active.current))
            {
                all.remove(&address);
            }
        }
    }

    /// The listener with this address, or else the one with its port on all addresses.
    pub fn find(&self, address: SocketAddr) -> Option<(Arc<ListenerSpec>, Drain)> {
        let all = self.0.borrow();
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let found = all.get(&address);
        let found = found.or_else(|| all.get(&SocketAddr::new(any, address.port())))?;
        let current = found.borrow();
        Some((Arc::clone(&current.spec), current.drain.clone()))
    }
}

fn addresses(active: &Active) -> Vec<SocketAddr> {
    let spec = &active.current.borrow().spec;
    spec.binds().filter_map(BindAddress::socket).collect()
}

/// What new connections are served by. Replaced on a change; the old token then drains the
/// connections that were accepted before.
pub struct Current {
    pub spec: Arc<ListenerSpec>,
    pub drain: Drain,
}

impl Current {
    fn new(spec: Arc<ListenerSpec>) -> Self {
        Self {
            spec,
            drain: Drain::default(),
        }
    }
}

/// Runs a data thread until it is told to exit. Call it on a local runtime.
pub async fn run(
    mut commands: mpsc::UnboundedReceiver<Command>,
    reader: Reader,
    admission: Arc<Admission>,
) {
    let reader = Rc::new(RefCell::new(reader));
    let mut listeners: HashMap<Arc<str>, Active> = HashMap::new();
    let directory = Directory::default();
    tokio::task::spawn_local(timer::sweep_forever());
    let mut housekeeping = tokio::time::interval(pool::SWEEP);
    housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = housekeeping.tick() => {
                pool::sweep();
                continue;
            }
        };
        match command {
            Some(Command::Listen(spec, sockets)) => {
                let name = Arc::clone(&spec.name);
                match start(spec, sockets, &reader, &directory, &admission) {
                    Ok(active) => {
                        if let Some(before) = listeners.remove(&name) {
                            directory.leave(&before);
                        }
                        directory.enter(&active);
                        listeners.insert(name, active);
                    }
                    Err(error) => tracing::error!(listener = %name, %error, "cannot accept"),
                }
            }
            Some(Command::Update(spec)) => {
                if let Some(active) = listeners.get(&spec.name) {
                    let mut current = active.current.borrow_mut();
                    if current.spec.model == spec.model {
                        // Only what it refers to is new, a certificate: no reason to end what is
                        // open.
                        current.spec = spec;
                    } else {
                        let old = std::mem::replace(&mut *current, Current::new(spec));
                        old.drain.begin();
                    }
                }
            }
            Some(Command::Stop(name)) => {
                if let Some(active) = listeners.remove(&name) {
                    directory.leave(&active);
                }
            }
            Some(Command::Retire(retired)) => pool::retire(&retired.endpoints, retired.cut),
            Some(Command::Drain) => {
                listeners
                    .values()
                    .for_each(|active| directory.leave(active));
                listeners.clear();
            }
            Some(Command::Exit) | None => return farewell::bid(FAREWELL).await,
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.accepting.iter().for_each(AbortHandle::abort);
        self.current.borrow().drain.begin();
    }
}

fn start(
    spec: Arc<ListenerSpec>,
    sockets: Vec<Socket>,
    reader: &Rc<RefCell<Reader>>,
    directory: &Directory,
    admission: &Arc<Admission>,
) -> io::Result<Active> {
    let acceptors = sockets.into_iter().map(|socket| {
        Ok(match socket {
            Socket::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket)?),
            Socket::Unix(socket) => Acceptor::Unix(UnixListener::from_std(socket)?),
        })
    });
    let acceptors: Vec<Acceptor> = acceptors.collect::<io::Result<_>>()?;
    let current = Rc::new(RefCell::new(Current::new(spec)));
    let accepting = acceptors.into_iter().map(|acceptor| {
        let (current, reader) = (Rc::clone(&current), Rc::clone(reader));
        let accepting = accept_forever(
            acceptor,
            current,
            reader,
            directory.clone(),
            Arc::clone(admission),
        );
        tokio::task::spawn_local(accepting).abort_handle()
    });
    let accepting = accepting.collect();
    Ok(Active { current, accepting })
}
