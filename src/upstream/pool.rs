//! Per-thread pools of connections, by endpoint.
//!
//! HTTP/1.1: connections wait last in, first out, so that a burst's surplus grows old and is
//! closed. HTTP/2: one connection per endpoint and thread, shared by clones of its sender.
//! Everything here runs on one data thread; nothing is borrowed across an await.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::body::RequestBody;
use super::connect::{ConnectError, ConnectErrorKind, connect};
use super::limits::Permit;
use super::{Endpoint, Protocol, Transport};
use crate::net::Io;

/// How often a data thread looks for connections that were idle too long.
pub const SWEEP: Duration = Duration::from_secs(1);

/// Bytes that the head of a response may have (Envoy's default).
const MAX_RESPONSE_HEAD: usize = 60 * 1024;

type Uids<V> = std::collections::HashMap<u64, V, BuildHasherDefault<ahash::AHasher>>;

thread_local! {
    static POOLS: RefCell<Uids<Pool>> = RefCell::default();
}

#[derive(Default)]
struct Pool {
    idle: VecDeque<Idle>,
    /// Of the connections in `idle`.
    transport: Option<Arc<Transport>>,
    http2: Option<http2::SendRequest<RequestBody>>,
    /// Somebody is opening the HTTP/2 connection; the others wait here.
    opening: Option<Vec<oneshot::Sender<()>>>,
    /// Requests for which the connection limit left no connection.
    waiting: VecDeque<oneshot::Sender<Http1>>,
    /// What dies with the endpoint: its connections and tunnels.
    tasks: Uids<AbortHandle>,
    next_task: u64,
}

struct Idle {
    connection: Http1,
    since: Instant,
}

struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    served: u32,
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
    Http2(http2::SendRequest<RequestBody>),
}

/// Why a request got no response head.
#[derive(Debug)]
pub struct SendError {
    pub error: hyper::Error,
    /// The peer cannot have seen a whole request.
    pub unsent: bool,
}

/// Lets a connection or tunnel die with its endpoint.
pub struct Tied {
    endpoint: u64,
    task: u64,
}

impl Drop for Tied {
    fn drop(&mut self) {
        let untie = |pools: &RefCell<Uids<Pool>>| {
            if let Ok(mut pools) = pools.try_borrow_mut()
                && let Some(pool) = pools.get_mut(&self.endpoint)
            {
                pool.tasks.remove(&self.task);
            }
        };
        // At thread exit the pools may be gone already.
        POOLS.try_with(untie).ok();
    }
}

fn with_pool<R>(endpoint: u64, f: impl FnOnce(&mut Pool) -> R) -> R {
    POOLS.with_borrow_mut(|pools| f(pools.entry(endpoint).or_default()))
}

/// Runs `future` as a task that ends when the endpoint is removed.
pub fn spawn_tied(endpoint: &Endpoint, future: impl Future<Output = ()> + 'static) {
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

/// A raw connection, for TCP proxying, counted like any other.
pub struct RawConnection {
    io: Io,
    counted: Counted,
}

impl RawConnection {
    /// The stream, and what must live as long as it does.
    pub fn into_parts(self) -> (Io, Counted) {
        (self.io, self.counted)
    }
}

/// Opens a connection that is not pooled.
///
/// # Errors
/// [`ConnectError`].
pub async fn open_raw(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
) -> Result<RawConnection, ConnectError> {
    let permit = connection_permit(endpoint, transport)?;
    let io = connect(endpoint, transport).await?;
    let counted = Counted::new(endpoint, transport, permit);
    Ok(RawConnection { io, counted })
}

fn connection_permit(endpoint: &Endpoint, transport: &Transport) -> Result<Permit, ConnectError> {
    transport.limits.connections.acquire().ok_or_else(|| {
        transport.stats.upstream_cx_overflow.inc();
        let max = transport.limits.connections.max();
        let kind = ConnectErrorKind::Overflow(max, "connections");
        ConnectError {
            address: endpoint.to_string(),
            kind,
        }
    })
}

/// A connection for one request: an idle one if there is one and `fresh` does not forbid it.
///
/// # Errors
/// [`ConnectError`]: no connection could be opened, or a limit is reached.
pub async fn checkout(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    fresh: bool,
) -> Result<Lease, ConnectError> {
    let (kind, reused) = match transport.protocol {
        Protocol::Http1 => checkout_http1(endpoint, transport, fresh).await?,
        Protocol::Http2(_) => checkout_http2(endpoint, transport, fresh).await?,
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
    fresh: bool,
) -> Result<(Kind, bool), ConnectError> {
    if !fresh && let Some(connection) = idle_http1(endpoint).await {
        return Ok((Kind::Http1(connection), true));
    }
    let permit = match connection_permit(endpoint, transport) {
        Ok(permit) => permit,
        Err(overflow) => {
            return wait_for_http1(endpoint, transport, overflow)
                .await
                .map(|connection| (Kind::Http1(connection), true));
        }
    };
    let io = connect(endpoint, transport).await?;
    let counted = Counted::new(endpoint, transport, permit);
    transport.stats.upstream_cx_http1_total.inc();
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_RESPONSE_HEAD)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| http_error(endpoint, e))?;
    spawn_tied(endpoint, async move {
        let _counted = counted;
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok((Kind::Http1(Http1 { sender, served: 0 }), false))
}

/// The connection that became idle last and still works.
async fn idle_http1(endpoint: &Endpoint) -> Option<Http1> {
    loop {
        let Idle { mut connection, .. } = with_pool(endpoint.uid, |pool| pool.idle.pop_back())?;
        // The connection task may still have to notice that the last response has ended.
        if !connection.sender.is_closed()
            && (connection.sender.is_ready() || connection.sender.ready().await.is_ok())
        {
            return Some(connection);
        }
    }
}

fn http_error(endpoint: &Endpoint, error: hyper::Error) -> ConnectError {
    ConnectError {
        address: endpoint.to_string(),
        kind: ConnectErrorKind::Http(error),
    }
}

/// Queues for a connection of this thread that comes free, at most `connect_timeout`.
async fn wait_for_http1(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    overflow: ConnectError,
) -> Result<Http1, ConnectError> {
    let Some(_pending) = transport.limits.pending.acquire() else {
        transport.stats.upstream_rq_pending_overflow.inc();
        return Err(overflow);
    };
    transport.stats.upstream_rq_pending_total.inc();
    let (free, freed) = oneshot::channel();
    with_pool(endpoint.uid, |pool| pool.waiting.push_back(free));
    match tokio::time::timeout(transport.connect_timeout, freed).await {
        Ok(Ok(connection)) => Ok(connection),
        _ => {
            transport.stats.upstream_rq_pending_overflow.inc();
            Err(overflow)
        }
    }
}

async fn checkout_http2(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    fresh: bool,
) -> Result<(Kind, bool), ConnectError> {
    let mut fresh = fresh;
    loop {
        let turn = with_pool(endpoint.uid, |pool| {
            if std::mem::take(&mut fresh) {
                pool.http2 = None;
            }
            match (&pool.http2, &mut pool.opening) {
                (Some(sender), _) if !sender.is_closed() => Turn::Use(sender.clone()),
                (_, Some(waiting)) => {
                    let (done, opened) = oneshot::channel();
                    waiting.push(done);
                    Turn::Wait(opened)
                }
                (_, opening) => {
                    *opening = Some(Vec::new());
                    Turn::Open(Opening(endpoint.uid))
                }
            }
        });
        match turn {
            Turn::Use(sender) => return Ok((Kind::Http2(sender), true)),
            // Whether it worked is seen on the next turn; a failure makes one of us try again.
            Turn::Wait(opened) => drop(opened.await),
            Turn::Open(opening) => {
                let sender = open_http2(endpoint, transport).await?;
                with_pool(endpoint.uid, |pool| pool.http2 = Some(sender.clone()));
                drop(opening);
                return Ok((Kind::Http2(sender), false));
            }
        }
    }
}

enum Turn {
    Use(http2::SendRequest<RequestBody>),
    Wait(oneshot::Receiver<()>),
    Open(Opening),
}

/// Wakes those who wait for the HTTP/2 connection, however the attempt ends.
struct Opening(u64);

impl Drop for Opening {
    fn drop(&mut self) {
        with_pool(self.0, |pool| pool.opening = None);
    }
}

async fn open_http2(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
) -> Result<http2::SendRequest<RequestBody>, ConnectError> {
    let Protocol::Http2(options) = &transport.protocol else {
        unreachable!("only called for HTTP/2")
    };
    let permit = connection_permit(endpoint, transport)?;
    let io = connect(endpoint, transport).await?;
    let counted = Counted::new(endpoint, transport, permit);
    transport.stats.upstream_cx_http2_total.inc();
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(options.initial_stream_window_size)
        .initial_connection_window_size(options.initial_connection_window_size)
        .max_header_list_size(64 * 1024)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| http_error(endpoint, e))?;
    spawn_tied(endpoint, async move {
        let _counted = counted;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(sender)
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

    /// Sends a request; the future is the head of its response.
    ///
    /// # Errors
    /// The connection broke off first.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> + use<> {
        // Handed over here, not in the future: a request is large, and each move copies it.
        let sent = match &mut self.kind {
            Kind::Http1(connection) => {
                connection.served += 1;
                Either::Left(connection.sender.try_send_request(request))
            }
            Kind::Http2(sender) => Either::Right(sender.try_send_request(request)),
        };
        async move {
            sent.await.map_err(|mut e| {
                let unsent = e.take_message().is_some();
                SendError {
                    error: e.into_error(),
                    unsent,
                }
            })
        }
    }

    /// Puts the connection back. Call it only when the response has been read to its end.
    pub fn give_back(self) {
        let Kind::Http1(connection) = self.kind else {
            return;
        };
        let max = self.transport.max_requests;
        if max != 0 && connection.served >= max {
            return self.transport.stats.upstream_cx_max_requests.inc();
        }
        if connection.sender.is_closed() || self.endpoint.is_retired() {
            return;
        }
        with_pool(self.endpoint.uid, |pool| {
            let mut connection = connection;
            while let Some(waiting) = pool.waiting.pop_front() {
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
            let dropped = (std::mem::take(&mut pool.idle), pool.http2.take());
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
            if let Some(transport) = &pool.transport {
                let limit = transport.idle_timeout;
                // The oldest are in front.
                while pool.idle.front().is_some_and(|idle| {
                    idle.connection.sender.is_closed()
                        || (!limit.is_zero() && now.duration_since(idle.since) >= limit)
                }) {
                    transport.stats.upstream_cx_idle_timeout.inc();
                    dropped.extend(pool.idle.pop_front());
                }
            }
            if pool
                .http2
                .as_ref()
                .is_some_and(http2::SendRequest::is_closed)
            {
                pool.http2 = None;
            }
            !(pool.idle.is_empty()
                && pool.http2.is_none()
                && pool.opening.is_none()
                && pool.waiting.is_empty()
                && pool.tasks.is_empty())
        });
    });
    drop(dropped);
}
