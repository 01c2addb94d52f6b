//! Per-thread pools of connections, by endpoint.
//!
//! HTTP/1.1: connections wait last in, first out, so that a burst's surplus grows old and is
//! closed. HTTP/2: streams share a connection until the peer takes no more of them.
//! Everything here runs on one data thread; nothing is borrowed across an await.

mod about;
mod http1;
mod multiplex;
mod parking;
mod preconnect;
mod raw;
mod spared;
mod waiting;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, TryFutureExt as _};
use http::{Request, Response};
use hyper::client::conn::TrySendError;
use tokio::task::AbortHandle;

use self::http1::Http1;
use self::preconnect::Demand;
use self::waiting::Waiting;
use super::body::RequestBody;
use super::connect::{ConnectError, ConnectErrorKind};
use super::limits::Permit;
use super::{Endpoint, Protocol, Transport, Via};
use crate::net::{Incoming, WireError};

pub use about::About;
pub use preconnect::{ahead, requests};
pub use raw::{Counted, CountedRelay, RawConnection, open_raw};
pub use spared::poll_frame;

/// How often a data thread looks for connections that were idle too long.
pub const SWEEP: Duration = Duration::from_secs(1);

/// Bytes that the head of a response may have (Envoy's default).
const MAX_RESPONSE_HEAD: usize = 60 * 1024;

type Uids<V> = std::collections::HashMap<u64, V, BuildHasherDefault<Spread>>;

/// Spreads numbers that were counted up: one multiplication, since nobody chooses them for us.
#[derive(Clone, Copy, Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        // The golden ratio: neighbours end up far apart, in the high bits too.
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

thread_local! {
    static POOLS: RefCell<Uids<Pool>> =
        const { RefCell::new(Uids::with_hasher(BuildHasherDefault::new())) };
}

#[derive(Default)]
struct Pool {
    idle: VecDeque<Idle>,
    /// Of the connections in `idle` and `http2`.
    transport: Option<Arc<Transport>>,
    http2: Vec<multiplex::Shared>,
    /// Connections of HTTP/2 that somebody is opening; others wait for them.
    openings: Vec<multiplex::Awaited>,
    /// Streams that a connection of HTTP/2 takes, by what the endpoint said last.
    streams_each: Option<usize>,
    /// Requests for which the connection limit left no connection.
    waiting: VecDeque<Waiting>,
    /// Of an endpoint that chooses by ALPN: it has chosen HTTP/1.1.
    speaks_http1: bool,
    /// Held by everybody who is opening a connection.
    connecting: Weak<()>,
    /// What dies with the endpoint: its connections and tunnels.
    tasks: Uids<AbortHandle>,
    next_task: u64,
    /// Requests, and connections that are being opened for none; only where there is a policy for it.
    demand: usize,
    ahead: usize,
}

impl Pool {
    /// The connection of that kind that became idle last.
    fn pop_idle(&mut self, via: Option<&Rc<Via>>) -> Option<Idle> {
        // Where all are alike it is the last.
        let fits = |idle: &Idle| idle.connection.via.as_ref() == via;
        let index = self.idle.iter().rposition(fits)?;
        self.idle.remove(index)
    }
}

struct Idle {
    connection: Box<Http1>,
    since: Instant,
}

impl Idle {
    /// Whether nobody is likely to want it any more, while others are kept for `limit`.
    fn is_over(&self, limit: Duration, now: Instant) -> bool {
        let limit = Via::patience(self.connection.via.as_ref(), limit);
        !limit.is_zero() && now.duration_since(self.since) >= limit
    }
}

/// A connection for one request.
pub struct Lease {
    endpoint: Arc<Endpoint>,
    transport: Arc<Transport>,
    kind: Kind,
    /// It has served a request before, so the peer may have closed it in the same moment.
    pub reused: bool,
    _demand: Option<Demand>,
}

enum Kind {
    /// Large, and moved many times for each request.
    Http1(Box<Http1>),
    Http2(multiplex::Place),
}

/// Why a request got no response head.
#[derive(Debug)]
pub struct SendError {
    pub error: WireError,
    /// The request, when the peer has not seen any of it.
    pub unsent: Option<Box<Request<RequestBody>>>,
}

impl From<TrySendError<Request<RequestBody>>> for SendError {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = error.take_message().map(Box::new);
        Self {
            error: error.into_error().into(),
            unsent,
        }
    }
}

/// Lets a connection or tunnel die with its endpoint.
pub struct Tied {
    endpoint: u64,
    task: u64,
}

impl Drop for Tied {
    fn drop(&mut self) {
        let task = self.task;
        leave(self.endpoint, |pool| drop(pool.tasks.remove(&task)));
    }
}

/// Somebody who is opening a connection, until it is there or came to nothing.
struct Connecting {
    endpoint: u64,
    _counted: Rc<()>,
}

impl Connecting {
    fn begin(endpoint: u64, pool: &mut Pool) -> Self {
        let counted = pool.connecting.upgrade().unwrap_or_default();
        pool.connecting = Rc::downgrade(&counted);
        Self {
            endpoint,
            _counted: counted,
        }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        leave(self.endpoint, |_| ());
    }
}

/// For drops. There may be room now: a request that loses its place in the queue looks again.
fn leave(endpoint: u64, left: impl FnOnce(&mut Pool)) {
    with_known_pool(endpoint, |pool| {
        left(pool);
        pool.next_waiting()
    });
}

/// For drops: at thread exit the pools may be gone already.
fn with_known_pool<R>(endpoint: u64, f: impl FnOnce(&mut Pool) -> R) -> Option<R> {
    let known = |pools: &RefCell<Uids<Pool>>| {
        let mut pools = pools.try_borrow_mut().ok()?;
        pools.get_mut(&endpoint).map(f)
    };
    POOLS.try_with(known).ok().flatten()
}

fn with_pool<R>(endpoint: u64, f: impl FnOnce(&mut Pool) -> R) -> R {
    POOLS.with_borrow_mut(|pools| match pools.get_mut(&endpoint) {
        Some(pool) => f(pool),
        None => f(pools.entry(endpoint).or_default()),
    })
}

/// Runs `future` as a task that ends when the endpoint is removed.
pub fn spawn_tied(endpoint: &Endpoint, future: impl Future<Output = ()> + 'static) {
    if endpoint.is_cut() {
        return;
    }
    let uid = endpoint.uid;
    let task = with_pool(uid, |pool| {
        pool.next_task += 1;
        pool.next_task
    });
    let tied = Tied {
        endpoint: uid,
        task,
    };
    let handle = tokio::task::spawn_local(async move {
        let _tied = tied;
        future.await;
    });
    with_pool(uid, |pool| pool.tasks.insert(task, handle.abort_handle()));
}

/// Room for one more connection. A pool without any gets its first one whatever the limit says, as
/// with Envoy: other threads and endpoints may hold all of them, and nothing would ever come free
/// here. What comes with the permit is held until the connection is there.
fn connection_permit(
    endpoint: &Endpoint,
    transport: &Transport,
) -> Result<(Permit, Connecting), ConnectError> {
    let limit = &transport.limits.connections;
    let permitted = with_pool(endpoint.uid, |pool| {
        let opening = pool.connecting.upgrade();
        let permit = limit.acquire().or_else(|| {
            transport.stats.upstream_cx_overflow.inc();
            let none = pool.tasks.is_empty() && opening.is_none();
            none.then(|| limit.exceed())
        });
        let Some(permit) = permit else {
            return Err(ConnectError {
                address: endpoint.to_string(),
                kind: ConnectErrorKind::Overflow(limit.max(), "connections"),
            });
        };
        Ok((permit, Connecting::begin(endpoint.uid, pool)))
    });
    if permitted.is_err() {
        // What is kept for others must not keep this one out: whoever comes next finds room.
        let spare = |pool: &mut Pool| (pool.idle.pop_front(), multiplex::pop_idle(&mut pool.http2));
        drop(with_pool(endpoint.uid, spare));
    }
    permitted
}

/// A pooled HTTP/1.1 connection that can be used at once. What [`checkout`] may have to do is a large
/// future, and most requests need not carry it.
pub fn ready(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
) -> Option<Lease> {
    if matches!(transport.protocol, Protocol::Http2(_)) {
        return None;
    }
    let connection = with_pool(endpoint.uid, |pool| {
        while let Some(idle) = pool.pop_idle(via) {
            let Idle { connection, .. } = &idle;
            if transport.is_spent(connection.served, connection.opened) {
                continue;
            }
            if idle.connection.is_ready() {
                return Some(idle.connection);
            }
            if !idle.connection.is_closed() {
                // Parked, or still to notice that its last response has ended: worth a wait.
                pool.idle.push_back(idle);
                return None;
            }
        }
        None
    })?;
    let demand = Demand::begin(endpoint, transport);
    preconnect::look(endpoint, transport);
    Some(Lease {
        endpoint: Arc::clone(endpoint),
        transport: Arc::clone(transport),
        kind: Kind::Http1(connection),
        reused: true,
        _demand: demand,
    })
}

/// A connection for one request: an idle one if there is one and `fresh` does not forbid it.
///
/// # Errors
/// [`ConnectError`]: no connection could be opened, or a limit is reached.
pub async fn checkout(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    fresh: bool,
) -> Result<Lease, ConnectError> {
    let http1 = match transport.protocol {
        Protocol::Http1 => true,
        Protocol::Http2(_) => false,
        Protocol::Auto(_) => with_pool(endpoint.uid, |pool| pool.speaks_http1),
    };
    let demand = Demand::begin(endpoint, transport);
    let (kind, reused) = if http1 {
        preconnect::look(endpoint, transport);
        let (connection, reused) = http1::checkout(endpoint, transport, via, fresh).await?;
        (Kind::Http1(connection), reused)
    } else {
        let found = multiplex::checkout(endpoint, transport, via).await?;
        preconnect::look(endpoint, transport);
        found
    };
    Ok(Lease {
        endpoint: Arc::clone(endpoint),
        transport: Arc::clone(transport),
        kind,
        reused,
        _demand: demand,
    })
}

fn http_error(endpoint: &Endpoint, error: WireError) -> ConnectError {
    ConnectError {
        address: endpoint.to_string(),
        kind: ConnectErrorKind::Http(Arc::new(error)),
    }
}

impl Lease {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.kind, Kind::Http2(_))
    }

    /// The connection, for those who tell of it.
    pub fn about(&self) -> About {
        match &self.kind {
            Kind::Http1(connection) => connection.about,
            Kind::Http2(place) => place.about(),
        }
    }

    /// Whether an upgrade can be asked for; over HTTP/2 once the endpoint has said what it takes
    /// (RFC 8441 section 3).
    pub async fn takes_upgrades(&self) -> bool {
        match &self.kind {
            Kind::Http1(_) => true,
            Kind::Http2(place) => place.takes_upgrades().await,
        }
    }

    /// Sends a request; the future is the head of its response.
    ///
    /// # Errors
    /// The connection broke off first; see [`SendError`].
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> + use<> {
        // Handed over here, not in the future: a request is large, and each move copies it.
        match &mut self.kind {
            Kind::Http1(connection) => {
                connection.served += 1;
                let sender = connection.sender().expect("what is leased has a codec");
                let sent = sender.try_send_request(request);
                Either::Left(sent.map_ok_or_else(
                    |error| Err(SendError::from(error)),
                    |answer| Ok(answer.map(Incoming::Http1)),
                ))
            }
            Kind::Http2(place) => Either::Right(place.send(request)),
        }
    }

    /// Puts the connection back. Call it only when the response has been read to its end.
    pub fn give_back(self) {
        let Kind::Http1(connection) = self.kind else {
            return;
        };
        if self
            .transport
            .is_spent(connection.served, connection.opened)
        {
            return self.transport.stats.upstream_cx_max_requests.inc();
        }
        if connection.is_closed() || self.endpoint.is_retired() {
            return;
        }
        with_pool(self.endpoint.uid, |pool| {
            let mut connection = connection;
            while let Some(waiting) = pool.next_waiting_for(connection.via.as_ref()) {
                match waiting.send(connection) {
                    Ok(()) => return,
                    Err(back) => connection = back,
                }
            }
            if !pool.waiting.is_empty() {
                // They need connections of another kind, for which its end makes room.
                return;
            }
            pool.transport
                .get_or_insert_with(|| Arc::clone(&self.transport));
            pool.idle.push_back(Idle {
                connection,
                since: Instant::now(),
            });
        });
    }
}

/// Forgets pooled connections of endpoints that are gone. With `cut`, whatever still runs to them
/// ends as well.
pub fn retire(endpoints: &[u64], cut: bool) {
    for uid in endpoints {
        let (dropped, tasks) = POOLS.with_borrow_mut(|pools| {
            let Some(pool) = pools.get_mut(uid) else {
                return (None, Vec::new());
            };
            let dropped = (
                std::mem::take(&mut pool.idle),
                std::mem::take(&mut pool.http2),
            );
            let tasks = if cut {
                pool.tasks.drain().map(|(_, t)| t).collect()
            } else {
                vec![]
            };
            (Some(dropped), tasks)
        });
        drop(dropped);
        tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Closes connections that were idle too long, parks those that nobody has wanted for a while, and
/// forgets pools that hold nothing.
pub fn sweep() {
    let now = Instant::now();
    let mut dropped = Vec::new();
    POOLS.with_borrow_mut(|pools| {
        pools.retain(|_, pool| {
            // What the peer has closed is no loss.
            pool.idle.retain(|idle| !idle.connection.is_closed());
            pool.http2.retain(|shared| !shared.is_closed());
            pool.waiting.retain(|(_, waiting)| !waiting.is_closed());
            if let Some(transport) = &pool.transport {
                let (limit, idle) = (transport.idle_timeout, dropped.len());
                let is_over = |idle: &Idle| idle.is_over(limit, now);
                if pool.idle.iter().any(is_over) {
                    let all = std::mem::take(&mut pool.idle).into_iter();
                    let (over, kept): (VecDeque<_>, VecDeque<_>) = all.partition(is_over);
                    pool.idle = kept;
                    dropped.extend(over);
                }
                for idle in &mut pool.idle {
                    if now.duration_since(idle.since) >= parking::PARK {
                        idle.connection.park();
                    }
                }
                let shared = pool.http2.len();
                pool.http2.retain(|shared| !shared.was_idle_for(limit, now));
                let closed = dropped.len() - idle + shared - pool.http2.len();
                transport.stats.upstream_cx_idle_timeout.add(closed as u64);
            }
            !(pool.idle.is_empty()
                && pool.http2.is_empty()
                && pool.openings.is_empty()
                && pool.waiting.is_empty()
                && pool.connecting.strong_count() == 0
                && pool.tasks.is_empty())
        });
    });
    drop(dropped);
}
