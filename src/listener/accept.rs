//! Accepting connections, and taking one as far as its protocol (steps 1 to 5 of a request).

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};

use super::admission::Admission;
use super::inspect::Findings;
use super::worker::{Current, Directory};
use crate::filter::network::{Asking, Closing, Connection, Passed};
use crate::http::{self, Accepted};
use crate::net::Io;
use crate::net::descriptors::Told;
use crate::runtime::drain::Drain;
use crate::runtime::timer::Deadline;
use crate::snapshot::{ChainKind, ChainSpec, ListenerSpec, Reader};
use crate::tcp;
use crate::telemetry::logging::Sparse;
use crate::telemetry::stats::ListenerStats;
use crate::tls::Session;
use crate::upstream::limits::Permit;

/// How long accepting pauses when the process is out of file descriptors: retrying at once would
/// spin, since the connection stays in the queue.
const PAUSE: Duration = Duration::from_millis(50);

/// A socket that connections come from.
pub enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<(Io, Option<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => {
                let (io, peer) = socket.accept().await?;
                // An error here means that the peer is gone already.
                io.set_nodelay(true).ok();
                Ok((Io::Tcp(io), Some(peer)))
            }
            Self::Unix(socket) => Ok((Io::Unix(socket.accept().await?.0), None)),
        }
    }
}

/// Accepts connections, each of which becomes a task, until it is dropped. `current` says as what they
/// are taken at that moment.
pub async fn accept_forever(
    acceptor: Acceptor,
    current: Rc<RefCell<Current>>,
    reader: Rc<RefCell<Reader>>,
    directory: Directory,
    admission: Arc<Admission>,
) {
    let warnings = Sparse::default();
    loop {
        match acceptor.accept().await {
            Ok((io, peer)) => {
                let (spec, drain) = {
                    let current = current.borrow();
                    (Arc::clone(&current.spec), current.drain.clone())
                };
                let place = if spec.model.counts_globally {
                    let Some(place) = admission.admit() else {
                        // Closed by being dropped.
                        spec.stats.downstream_global_cx_overflow.inc();
                        continue;
                    };
                    Some(place)
                } else {
                    None
                };
                let directory = directory.clone();
                let reader = Rc::clone(&reader);
                let connection = connection(io, peer, (spec, drain), reader, directory, place);
                debug_assert!(
                    size_of_val(&connection) <= ROOM,
                    "{}",
                    size_of_val(&connection)
                );
                tokio::task::spawn_local(connection);
            }
            Err(error) => {
                let spec = Arc::clone(&current.borrow().spec);
                spec.stats.downstream_cx_overflow.inc();
                // Every turn would tell the same.
                if let Some(held_back) = warnings.pass(Instant::now()) {
                    let error = Told(&error);
                    tracing::warn!(listener = %spec.name, held_back, %error, "accept failed");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Bytes that the task of a connection may take: that many are held by each one that is parked. What is
/// large and not for all of them goes to the heap.
const ROOM: usize = 1920;

/// Counts a connection for as long as it, or a tunnel that came of it, is open.
struct Guard(Arc<ListenerStats>, Instant);

impl Guard {
    fn new(stats: &Arc<ListenerStats>) -> Self {
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        Self(Arc::clone(stats), Instant::now())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.downstream_cx_active.dec();
        self.0.downstream_cx_destroy.inc();
        let ms = u64::try_from(self.1.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.downstream_cx_length_ms.observe(ms);
    }
}

async fn connection(
    mut io: Io,
    peer: Option<SocketAddr>,
    (mut spec, mut drain): (Arc<ListenerSpec>, Drain),
    reader: Rc<RefCell<Reader>>,
    directory: Directory,
    place: Option<Permit>,
) {
    let mut guard = Box::new(Guard::new(&spec.stats));
    let local = io.tcp().and_then(|tcp| tcp.local_addr().ok());
    let mut findings = Findings::new(peer, local);
    if !spec.model.listener_filters.is_empty()
        && !Box::pin(look(&mut io, &mut findings, &spec, &drain)).await
    {
        return;
    }
    if let Some(destination) = findings.restored
        && spec.model.use_original_dst
        && let Some((other, its_drain)) = directory.find(destination)
        && other.name != spec.name
    {
        // From here on it is a connection of that listener, with filters of its own.
        (spec, drain) = (other, its_drain);
        guard = Box::new(Guard::new(&spec.stats));
        // Who has connected, and what was seen of it, stays.
        findings.local = Some(destination);
        let filters = !spec.model.listener_filters.is_empty();
        if filters && !Box::pin(look(&mut io, &mut findings, &spec, &drain)).await {
            return;
        }
        findings.restored = findings.restored.or(Some(destination));
    }
    let Some(chain) = spec.chain(&findings.facts()).cloned() else {
        return spec.stats.no_filter_chain_match.inc();
    };
    let Findings {
        peer,
        local,
        restored,
        hello,
        state,
        ..
    } = findings;
    if let ChainKind::Tcp(proxy) = &chain.kind
        && !tcp::admits(proxy, peer)
    {
        return;
    }
    let mut passed = Passed::default();
    let new = Connection {
        peer,
        local,
        session: None,
        server_name: &hello.server_name,
        state: &state,
    };
    if let Err(closing) = chain.network.accept(&new, &mut passed) {
        return close(&spec, &drain, closing).await;
    }
    let Some((io, session)) = Box::pin(secure(io, &chain, &spec, &drain)).await else {
        return;
    };
    let open = Connection {
        session: session.as_deref(),
        ..new
    };
    if let Err(closing) = chain.network.open(&open, &mut passed) {
        return close(&spec, &drain, closing).await;
    }
    if chain.network.asks() {
        let asking = Asking {
            calls: &|| http::calls(&reader),
            state: &state,
        };
        // On the heap, like whatever is large and rare: each connection has room for all that follows.
        let asked = Box::pin(chain.network.ask(&open, &asking, &mut passed)).await;
        if let Err(closing) = asked {
            return close(&spec, &drain, closing).await;
        }
    }
    let Passed { held, cluster } = passed;
    let guard = Box::new((guard, held, place));
    match &chain.kind {
        ChainKind::Echo => tcp::bare::echo(io, &drain).await,
        ChainKind::Direct(data) => tcp::bare::direct(io, data).await,
        ChainKind::Http(manager) => {
            for logger in &manager.access_logs {
                logger.start(|| http::calls(&reader));
            }
            let accepted = Accepted {
                peer,
                local,
                restored,
                session,
                requested_server_name: hello.server_name,
                state,
                reader,
                drain,
                guard,
            };
            http::serve(io, accepted, Arc::clone(manager)).await;
        }
        ChainKind::Tcp(proxy) => {
            for logger in &proxy.access_logs {
                logger.start(|| http::calls(&reader));
            }
            let downstream = tcp::Downstream {
                io,
                peer,
                local,
                restored,
                session,
                server_name: hello.server_name,
                state,
                cluster,
            };
            Box::pin(tcp::proxy(downstream, Arc::clone(proxy), &reader, guard)).await;
        }
    }
}

/// Leaves a peer waiting for as long as a filter says, and closes the connection.
async fn close(spec: &ListenerSpec, drain: &Drain, closing: Closing) {
    let Closing { after, why } = closing;
    tracing::debug!(listener = %spec.name, %why, "a network filter closed a connection");
    if !after.is_zero() {
        tokio::select! {
            () = Deadline::after(after) => {}
            () = drain.begun() => {}
        }
    }
}

/// Runs the listener filters within their deadline. Whether the connection goes on.
async fn look(io: &mut Io, findings: &mut Findings, spec: &ListenerSpec, drain: &Drain) -> bool {
    let model = &spec.model;
    let limit = model.listener_filters_timeout;
    let gathered = {
        let gather = findings.gather(io, spec);
        tokio::select! {
            // What a client has sent before a drain began is still served.
            biased;
            gathered = gather => Some(gathered),
            () = Deadline::after(limit) => None,
            () = drain.begun() => return false,
        }
    };
    match gathered {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            spec.stats.downstream_listener_filter_error.inc();
            tracing::debug!(listener = %spec.name, %error, "listener filters closed a connection");
            false
        }
        None => {
            spec.stats.downstream_pre_cx_timeout.inc();
            let goes_on = model.continue_on_listener_filters_timeout && !findings.unfinished;
            tracing::debug!(listener = %spec.name, ?limit, goes_on,
                "listener_filters_timeout fired");
            goes_on
        }
    }
}

/// The TLS handshake, if the chain wants one, within its deadline.
async fn secure(
    io: Io,
    chain: &ChainSpec,
    spec: &ListenerSpec,
    drain: &Drain,
) -> Option<(Io, Option<Rc<Session>>)> {
    let Some(tls) = &chain.tls else {
        return Some((io, None));
    };
    let Io::Tcp(tcp) = io else {
        tracing::warn!(listener = %spec.name, "TLS over a Unix socket is not supported");
        return None;
    };
    let handshake = tokio::time::timeout(tls.handshake_timeout, tls.accept(tcp));
    let result = tokio::select! {
        result = handshake => result,
        () = drain.begun() => return None,
    };
    match result {
        Ok(Ok(stream)) => {
            spec.stats.ssl_handshake.inc();
            if tls.was_proof(stream.get_ref().1) {
                return None;
            }
            let session = tls.session(stream.get_ref().1);
            Some((Io::ServerTls(Box::new(stream)), Some(Rc::new(session))))
        }
        Ok(Err(error)) => {
            spec.stats.ssl_connection_error.inc();
            tracing::debug!(listener = %spec.name, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            spec.stats.downstream_pre_cx_timeout.inc();
            tracing::debug!(listener = %spec.name, limit = ?tls.handshake_timeout,
                "TLS handshake deadline fired");
            None
        }
    }
}
