//! One data thread: its listeners, its housekeeping.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::accept::{Acceptor, accept_forever};
use super::{Command, Socket};
use crate::runtime::drain::Drain;
use crate::runtime::timer;
use crate::snapshot::{ListenerSpec, Reader};
use crate::upstream::pool;

/// A listener as one data thread has it.
struct Active {
    current: Rc<RefCell<Current>>,
    accepting: AbortHandle,
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
pub async fn run(mut commands: mpsc::UnboundedReceiver<Command>, reader: Reader) {
    let reader = Rc::new(RefCell::new(reader));
    let mut listeners: HashMap<Arc<str>, Active> = HashMap::new();
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
            Some(Command::Listen(spec, socket)) => {
                let name = Arc::clone(&spec.name);
                match start(spec, socket, &reader) {
                    Ok(active) => drop(listeners.insert(name, active)),
                    Err(error) => tracing::error!(listener = %name, %error, "cannot accept"),
                }
            }
            Some(Command::Update(spec)) => {
                if let Some(active) = listeners.get(&spec.name) {
                    let old = active.current.replace(Current::new(spec));
                    old.drain.begin();
                }
            }
            Some(Command::Stop(name)) => drop(listeners.remove(&name)),
            Some(Command::Retire(retired)) => pool::retire(&retired.endpoints, retired.cut),
            Some(Command::Drain) => listeners.clear(),
            Some(Command::Exit) | None => return,
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.accepting.abort();
        self.current.borrow().drain.begin();
    }
}

fn start(
    spec: Arc<ListenerSpec>,
    socket: Socket,
    reader: &Rc<RefCell<Reader>>,
) -> io::Result<Active> {
    let acceptor = match socket {
        Socket::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket)?),
        Socket::Unix(socket) => Acceptor::Unix(UnixListener::from_std(socket)?),
    };
    let current = Rc::new(RefCell::new(Current::new(spec)));
    let accepting = accept_forever(acceptor, Rc::clone(&current), Rc::clone(reader));
    let accepting = tokio::task::spawn_local(accepting).abort_handle();
    Ok(Active { current, accepting })
}
