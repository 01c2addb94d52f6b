//! Per-thread pools of connections, by endpoint.
//!
//! HTTP/1.1: connections wait last in, first out, so that a burst's surplus grows old and is
//! closed. HTTP/2: streams share a connection until the peer takes no more of them.
//! Everything here runs on one data thread; nothing is borrowed across an await.

mod multiplex;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use causeway_xds::resource::headers::HeaderCase;
use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::body::RequestBody;
use super::connect::{ConnectError, ConnectErrorKind, connect};
use super::limits::Permit;
use super::{Endpoint, Protocol, Transport, Via};
use crate::net::Io;

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
    /// Somebody is opening an HTTP/2 connection; the others wait here.
    opening: Option<Vec<oneshot::Sender<ConnectError>>>,
    /// Requests for which the connection limit left no connection.
    waiting: VecDeque<Waiting>,
    /// Of an endpoint that chooses by ALPN: it has chosen HTTP/1.1.
    speaks_http1: bool,
    /// Held by everybody who is opening a connection.
    connecting: Weak<()>,
    /// What dies with the endpoint: its connections and tunnels.
    tasks: Uids<AbortHandle>,
    next_task: u64,
}

impl Pool {
    /// The longest waiting request that is still there.
    fn next_waiting(&mut self) -> Option<oneshot::Sender<Http1>> {
        loop {
            let (_, waiting) = self.waiting.pop_front()?;
            if !waiting.is_closed() {
                return Some(waiting);
            }
        }
    }

    /// As [`Pool::next_waiting`], of those that can use such a connection.
    fn next_waiting_for(&mut self, via: Option<&Rc<Via>>) -> Option<oneshot::Sender<Http1>> {
        self.waiting.retain(|(_, waiting)| !waiting.is_closed());
        let fits = |(wanted, _): &Waiting| wanted.as_ref() == via;
        let index = self.waiting.iter().position(fits)?;
        self.waiting.remove(index).map(|(_, waiting)| waiting)
    }

    /// The connection of that kind that became idle last.
    fn pop_idle(&mut self, via: Option<&Rc<Via>>) -> Option<Idle> {
        match via {
            // Then all of them are alike.
            None => self.idle.pop_back(),
            Some(_) => {
                let fits = |idle: &Idle| idle.connection.via.as_ref() == via;
                let index = self.idle.iter().rposition(fits)?;
                self.idle.remove(index)
            }
        }
    }
}

/// A request for which there is no connection, and what kind it needs.
type Waiting = (Option<Rc<Via>>, oneshot::Sender<Http1>);

struct Idle {
    connection: Http1,
    since: Instant,
}

/// What is told of a connection.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Counts the connections of the process to endpoints.
    pub id: u64,
    /// Our end of it; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
}

impl About {
    fn new(io: &Io) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            local: io.tcp().and_then(|tcp| tcp.local_addr().ok()),
        }
    }
}

struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    about: About,
    served: u32,
    opened: Instant,
    via: Option<Rc<Via>>,
}

/// A connection for one request.
pub struct Lease {
    endpoint: Arc<Endpoint>,
    transport: Arc<Transport>,
    kind: Kind,
    /// It has served a request before, so the peer may have closed it in the same moment.
    pub reused: bool,
}

enum Kind {
    Http1(Http1),
    Http2(multiplex::Place),
}

/// Why a request got no response head.
#[derive(Debug)]
pub struct SendError {
    pub error: hyper::Error,
    /// The request, when the peer has not seen any of it.
    pub unsent: Option<Box<Request<RequestBody>>>,
}

impl From<TrySendError<Request<RequestBody>>> for SendError {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = error.take_message().map(Box::new);
        Self {
            error: error.into_error(),
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

impl Drop for Connecting {
    fn drop(&mut self) {
        leave(self.endpoint, |_| ());
    }
}

/// For drops. There may be room now: a request that loses its place in the queue looks again.
fn leave(endpoint: u64, left: impl FnOnce(&mut Pool)) {
    let next = |pools: &RefCell<Uids<Pool>>| {
        let mut pools = pools.try_borrow_mut().ok()?;
        let pool = pools.get_mut(&endpoint)?;
        left(pool);
        pool.next_waiting()
    };
    // At thread exit the pools may be gone already.
    POOLS.try_with(next).ok();
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

/// Counts a connection as long as it lives.
pub struct Counted {
    endpoint: Arc<Endpoint>,
    transport: Arc<Transport>,
    _permit: Permit,
}

impl Counted {
    fn new(endpoint: &Arc<Endpoint>, transport: &Arc<Transport>, permit: Permit) -> Self {
        transport.stats.upstream_cx_total.inc();
        transport.stats.upstream_cx_active.inc();
        endpoint.stats.cx_total.inc();
        endpoint.stats.cx_active.inc();
        Self {
            endpoint: Arc::clone(endpoint),
            transport: Arc::clone(transport),
            _permit: permit,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.transport.stats.upstream_cx_active.dec();
        self.transport.stats.upstream_cx_destroy.inc();
        self.endpoint.stats.cx_active.dec();
    }
}

/// A raw connection, for TCP proxying, counted like any other, and as one request.
pub struct RawConnection {
    io: Io,
    counted: Counted,
}

/// Counts a raw connection as a request to its endpoint as long as it lives.
pub struct CountedRaw(Counted);

impl CountedRaw {
    fn new(counted: Counted) -> Self {
        counted.endpoint.stats.rq_total.inc();
        counted.endpoint.stats.rq_active.inc();
        Self(counted)
    }
}

impl Drop for CountedRaw {
    fn drop(&mut self) {
        self.0.endpoint.stats.rq_active.dec();
    }
}

impl RawConnection {
    /// The stream, and what must live as long as it does.
    pub fn into_parts(self) -> (Io, Counted) {
        (self.io, self.counted)
    }

    /// What is told of it from now on.
    pub fn about(&self) -> About {
        About::new(&self.io)
    }

    /// The same where no request was counted for it.
    pub fn into_counted_parts(self) -> (Io, CountedRaw) {
        (self.io, CountedRaw::new(self.counted))
    }
}

/// Opens a connection that is not pooled.
///
/// # Errors
/// [`ConnectError`].
pub async fn open_raw(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Via>,
) -> Result<RawConnection, ConnectError> {
    let (permit, _connecting) = connection_permit(endpoint, transport)?;
    let io = connect(endpoint, transport, via).await?;
    let counted = Counted::new(endpoint, transport, permit);
    Ok(RawConnection { io, counted })
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
        let counted = opening.unwrap_or_default();
        pool.connecting = Rc::downgrade(&counted);
        let connecting = Connecting {
            endpoint: endpoint.uid,
            _counted: counted,
        };
        Ok((permit, connecting))
    });
    if permitted.is_err() && transport.varies() {
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
            if idle.connection.sender.is_ready() {
                return Some(idle.connection);
            }
            if !idle.connection.sender.is_closed() {
                // Still to notice that its last response has ended: worth a wait.
                pool.idle.push_back(idle);
                return None;
            }
        }
        None
    })?;
    Some(Lease {
        endpoint: Arc::clone(endpoint),
        transport: Arc::clone(transport),
        kind: Kind::Http1(connection),
        reused: true,
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
    let (kind, reused) = if http1 {
        let (connection, reused) = checkout_http1(endpoint, transport, via, fresh).await?;
        (Kind::Http1(connection), reused)
    } else {
        multiplex::checkout(endpoint, transport, via, fresh).await?
    };
    Ok(Lease {
        endpoint: Arc::clone(endpoint),
        transport: Arc::clone(transport),
        kind,
        reused,
    })
}

async fn checkout_http1(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    fresh: bool,
) -> Result<(Http1, bool), ConnectError> {
    if !fresh && let Some(connection) = idle_http1(endpoint, transport, via).await {
        return Ok((connection, true));
    }
    let _pending = Pending::begin(endpoint, transport)?;
    match connection_permit(endpoint, transport) {
        Ok((permit, _connecting)) => {
            Ok((open_http1(endpoint, transport, via, permit).await?, false))
        }
        Err(overflow) => wait_for_http1(endpoint, transport, via, overflow).await,
    }
}

/// A request without a connection, until it has one. Envoy counts those for which a connection is
/// being opened among them.
struct Pending<'t> {
    transport: &'t Transport,
    _permit: Permit,
}

impl<'t> Pending<'t> {
    fn begin(endpoint: &Endpoint, transport: &'t Transport) -> Result<Self, ConnectError> {
        let limit = &transport.limits.pending;
        let Some(permit) = limit.acquire() else {
            transport.overflowed();
            return Err(ConnectError {
                address: endpoint.to_string(),
                kind: ConnectErrorKind::Overflow(limit.max(), "pending requests"),
            });
        };
        transport.stats.upstream_rq_pending_total.inc();
        transport.stats.upstream_rq_pending_active.inc();
        Ok(Self {
            transport,
            _permit: permit,
        })
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.transport.stats.upstream_rq_pending_active.dec();
    }
}

async fn open_http1(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    permit: Permit,
) -> Result<Http1, ConnectError> {
    let io = connect(endpoint, transport, via.map(Rc::as_ref)).await?;
    if matches!(transport.protocol, Protocol::Auto(_)) && io.chose_http2() {
        // It has changed its mind. The next request finds out.
        with_pool(endpoint.uid, |pool| pool.speaks_http1 = false);
        return Err(ConnectError {
            address: endpoint.to_string(),
            kind: ConnectErrorKind::OtherProtocol,
        });
    }
    let counted = Counted::new(endpoint, transport, permit);
    http1_over(io, endpoint, transport, via, counted).await
}

/// HTTP/1.1 on a connection that is there.
async fn http1_over(
    io: Io,
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    counted: Counted,
) -> Result<Http1, ConnectError> {
    transport.stats.upstream_cx_http1_total.inc();
    let about = About::new(&io);
    let (sender, connection) = http1::Builder::new()
        .max_header_size(transport.max_response_head.unwrap_or(MAX_RESPONSE_HEAD))
        .title_case_headers(transport.header_case == HeaderCase::Proper)
        .preserve_header_case(transport.header_case == HeaderCase::Preserve)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| http_error(endpoint, e))?;
    spawn_tied(endpoint, async move {
        let _counted = counted;
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(Http1 {
        sender,
        about,
        served: 0,
        opened: Instant::now(),
        via: via.cloned(),
    })
}

impl Http1 {
    /// Whether it still works. Its task may still have to notice that the last response has ended.
    async fn is_usable(&mut self) -> bool {
        !self.sender.is_closed() && (self.sender.is_ready() || self.sender.ready().await.is_ok())
    }
}

/// The connection that became idle last and still works.
async fn idle_http1(
    endpoint: &Endpoint,
    transport: &Transport,
    via: Option<&Rc<Via>>,
) -> Option<Http1> {
    loop {
        let Idle { mut connection, .. } = with_pool(endpoint.uid, |pool| pool.pop_idle(via))?;
        if !transport.is_spent(connection.served, connection.opened) && connection.is_usable().await
        {
            return Some(connection);
        }
    }
}

fn http_error(endpoint: &Endpoint, error: hyper::Error) -> ConnectError {
    ConnectError {
        address: endpoint.to_string(),
        kind: ConnectErrorKind::Http(Arc::new(error)),
    }
}

/// Queues for a connection of this thread that comes free or ends, at most `connect_timeout`.
async fn wait_for_http1(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    overflow: ConnectError,
) -> Result<(Http1, bool), ConnectError> {
    let deadline = tokio::time::Instant::now() + transport.connect_timeout;
    loop {
        let (free, freed) = oneshot::channel();
        with_pool(endpoint.uid, |pool| {
            pool.waiting.push_back((via.cloned(), free))
        });
        match tokio::time::timeout_at(deadline, freed).await {
            Ok(Ok(mut connection)) => {
                if connection.is_usable().await {
                    return Ok((connection, true));
                }
            }
            // A connection has ended, or was not opened.
            Ok(Err(_)) => {}
            Err(_) => {
                transport.overflowed();
                return Err(overflow);
            }
        }
        if let Ok((permit, _connecting)) = connection_permit(endpoint, transport) {
            return Ok((open_http1(endpoint, transport, via, permit).await?, false));
        }
    }
}

/// Runs hyper's background futures on this thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
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
            Kind::Http2(place) => place.about,
        }
    }

    /// Sends a request; the future is the head of its response.
    ///
    /// # Errors
    /// The connection broke off first; see [`SendError`].
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        // Handed over here, not in the future: a request is large, and each move copies it.
        match &mut self.kind {
            Kind::Http1(connection) => {
                connection.served += 1;
                Either::Left(connection.sender.try_send_request(request))
            }
            Kind::Http2(place) => Either::Right(place.sender.try_send_request(request)),
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
        if connection.sender.is_closed() || self.endpoint.is_retired() {
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

/// Closes connections that were idle too long and forgets pools that hold nothing.
pub fn sweep() {
    let now = Instant::now();
    let mut dropped = Vec::new();
    POOLS.with_borrow_mut(|pools| {
        pools.retain(|_, pool| {
            // What the peer has closed is no loss.
            pool.idle.retain(|idle| !idle.connection.sender.is_closed());
            pool.http2.retain(|shared| !shared.is_closed());
            pool.waiting.retain(|(_, waiting)| !waiting.is_closed());
            if let Some(transport) = &pool.transport {
                let (limit, idle) = (transport.idle_timeout, dropped.len());
                // The oldest are in front.
                while pool
                    .idle
                    .front()
                    .is_some_and(|idle| !limit.is_zero() && now.duration_since(idle.since) >= limit)
                {
                    dropped.extend(pool.idle.pop_front());
                }
                let shared = pool.http2.len();
                pool.http2.retain(|shared| !shared.was_idle_for(limit, now));
                let closed = dropped.len() - idle + shared - pool.http2.len();
                transport.stats.upstream_cx_idle_timeout.add(closed as u64);
            }
            !(pool.idle.is_empty()
                && pool.http2.is_empty()
                && pool.opening.is_none()
                && pool.waiting.is_empty()
                && pool.connecting.strong_count() == 0
                && pool.tasks.is_empty())
        });
    });
    drop(dropped);
}
