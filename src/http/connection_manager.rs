//! One downstream connection: its codec, its timers, its requests.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Context;
use std::time::{Duration, Instant};

use causeway_xds::resource::http_manager::{Codec, HttpManager};
use http::header::HeaderValue;

use super::clock::Activity;
use super::forwarded::Peer;
use super::{http1, http2};
use crate::filter::StreamState;
use crate::net::Io;
use crate::runtime::drain::Drain;
use crate::runtime::timer::Deadline;
use crate::snapshot::{HttpManagerSpec, Reader};
use crate::tls::Session;
use crate::upstream::Client;
use crate::upstream::body::Progress;
use crate::util::time::jittered;

/// Later than anything is due.
pub(super) const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The number of the next connection.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What the listener knows of a connection.
pub struct Accepted {
    /// `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// Where the connection was bound for before it was redirected.
    pub restored: Option<SocketAddr>,
    /// `None` for a connection in clear text.
    pub session: Option<Rc<Session>>,
    /// What a listener filter saw in the TLS handshake; may be empty.
    pub requested_server_name: String,
    /// What filters have left of the connection.
    pub state: Rc<StreamState>,
    pub reader: Rc<RefCell<Reader>>,
    /// Fires when the connection is to end: after what runs now, no new work.
    pub drain: Drain,
    /// Counts the connection for the listener; dropped when the last tunnel of it has ended.
    pub guard: Box<dyn std::any::Any>,
}

/// What all requests of a connection share.
pub struct Connection {
    pub manager: Arc<HttpManagerSpec>,
    pub reader: Rc<RefCell<Reader>>,
    /// Counts the connections of the process.
    pub id: u64,
    pub peer: Peer,
    /// `None` for a connection in clear text.
    pub session: Option<Rc<Session>>,
    pub local_port: Option<u16>,
    /// The client's address and the one it connected to; `None` for a Unix socket.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// `None` for a Unix socket.
    pub peer_address: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// Where the connection was bound for before it was redirected.
    pub restored: Option<SocketAddr>,
    /// What a listener filter saw in the TLS handshake; may be empty.
    pub requested_server_name: String,
    pub server_name: HeaderValue,
    /// What filters have left of it.
    pub state: Rc<StreamState>,
    /// What cookies know its client by, once one is made.
    pub known_by: OnceCell<u64>,
    pub drain: Drain,
    _guard: Box<dyn std::any::Any>,
    active: Cell<u32>,
    /// Requests that it may still have; `None`: any number.
    left: Cell<Option<u32>>,
    activity: Arc<Activity>,
    /// A request whose response is over, while its body is not.
    unread: RefCell<Option<Rc<Progress>>>,
    /// When the last request ended, or the connection began.
    idle_since: Cell<Instant>,
    /// It had no request for too long, so that the next one is its last.
    expired: Cell<bool>,
    /// A request was malformed, and that ends it.
    malformed: Cell<bool>,
    /// When the clock is to look at the latest.
    look: Cell<Instant>,
}

impl Connection {
    /// For connections that stand for this one.
    pub fn client(&self) -> Client<'_> {
        Client {
            addresses: self.addresses,
            tlvs: self.state.tlvs().unwrap_or_default(),
        }
    }

    pub fn is_busy(&self) -> bool {
        self.active.get() > 0
    }

    /// How many requests run.
    pub fn active(&self) -> u32 {
        self.active.get()
    }

    /// Whether it has had as many requests as it may have.
    pub fn is_spent(&self) -> bool {
        self.left.get() == Some(0)
    }

    /// A request was malformed, and that ends the connection (HTTP/2).
    pub fn malformed(&self) {
        self.malformed.set(true);
    }

    pub fn is_malformed(&self) -> bool {
        self.malformed.get()
    }

    /// Whether bytes that come belong to a request that was answered before it had ended.
    pub fn is_in_a_body(&self) -> bool {
        let mut unread = self.unread.borrow_mut();
        if unread.as_ref().is_some_and(|p| p.request_ended.get()) {
            *unread = None;
        }
        unread.is_some()
    }

    /// When the last request ended, or the connection began.
    pub fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// Whether the task of the connection polls its streams too: with HTTP/1 it does.
    pub fn polls_streams(&self) -> bool {
        self.activity.heads.is_some()
    }

    /// Sees to it that the streams are polled at that time, if nothing wakes them sooner.
    pub fn look_by(&self, at: Instant) {
        if at < self.look.get() {
            self.look.set(at);
        }
    }

    /// What [`Connection::look_by`] was told; the clock says when it looks anyway.
    pub fn look(&self) -> &Cell<Instant> {
        &self.look
    }

    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    pub fn shared_activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// The connection had no request for too long: the next one is its last.
    pub fn expire(&self) {
        self.expired.set(true);
    }

    /// Whether the connection is to end once what runs now has ended.
    pub fn is_ending(&self) -> bool {
        self.drain.has_begun()
            || self.is_spent()
            || self.expired.get()
            || self.manager.draining.load(Relaxed)
    }

    pub fn request_began(&self) {
        if let Some(left) = self.left.get() {
            self.left.set(Some(left.saturating_sub(1)));
        }
        self.activity.active.store(true, Relaxed);
        self.activity.answering.store(true, Relaxed);
        self.activity.reading.store(false, Relaxed);
        self.active.set(self.active.get() + 1);
    }

    /// The response is over, whatever has become of the request.
    pub fn request_ended(&self, progress: &Rc<Progress>, now: Instant) {
        if self.polls_streams() && !progress.request_ended.get() {
            *self.unread.borrow_mut() = Some(Rc::clone(progress));
        }
        self.active.set(self.active.get() - 1);
        self.activity.active.store(self.is_busy(), Relaxed);
        // What was read meanwhile was this request's body.
        self.activity.reading.store(false, Relaxed);
        self.idle_since.set(now);
    }
}

/// Serves a connection to its end.
pub async fn serve(io: Io, accepted: Accepted, manager: Arc<HttpManagerSpec>) {
    let stats = Arc::clone(&manager.stats);
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    let is_tls = accepted.session.is_some();
    if is_tls {
        stats.downstream_cx_ssl_total.inc();
    }
    let _counted = ConnectionCount(Arc::clone(&manager), Instant::now());
    let alpn = accepted.session.as_ref();
    let alpn = alpn.and_then(|session| session.protocol.as_deref());
    let is_http2 = match (manager.model.codec, alpn) {
        (Codec::Http1, _) => false,
        (Codec::Http2, _) => true,
        (Codec::Auto, Some(alpn)) => alpn == b"h2",
        (Codec::Auto, None) => {
            let limit = manager.model.timeouts.request_headers;
            let limit = if limit.is_zero() {
                manager.model.timeouts.idle
            } else {
                limit
            };
            tokio::select! {
                // What a client has sent before a drain began is still served.
                biased;
                found = begins_http2(&io) => found,
                () = Deadline::after(limit) => return,
                () = accepted.drain.begun() => return,
            }
        }
    };
    let ip = accepted
        .peer
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |p| p.ip().to_canonical());
    let server_name = HeaderValue::from_str(&manager.model.server_name)
        .unwrap_or_else(|_| HeaderValue::from_static("envoy"));
    let activity = if is_http2 {
        Activity::default()
    } else {
        Activity::http1(manager.model.max_request_headers_kb as usize * 1024)
    };
    let connection = Rc::new(Connection {
        id: NEXT_ID.fetch_add(1, Relaxed),
        peer: Peer {
            unix: accepted.peer.is_none(),
            local_port: accepted.local.map(|a| a.port()),
            ..Peer::new(ip, is_tls)
        }
        .telling(manager.model.forwarded.use_remote_address),
        session: accepted.session,
        requested_server_name: accepted.requested_server_name,
        state: accepted.state,
        addresses: accepted.peer.zip(accepted.local),
        peer_address: accepted.peer,
        local: accepted.local,
        restored: accepted.restored,
        local_port: accepted.local.map(|a| a.port()),
        reader: accepted.reader,
        server_name,
        known_by: OnceCell::new(),
        drain: accepted.drain,
        _guard: accepted.guard,
        active: Cell::new(0),
        left: Cell::new(manager.model.max_requests),
        activity: Arc::new(activity),
        unread: RefCell::default(),
        idle_since: Cell::new(Instant::now()),
        expired: Cell::new(false),
        malformed: Cell::new(false),
        look: Cell::new(Instant::now() + NEVER),
        manager,
    });
    if is_http2 {
        stats.downstream_cx_http2_total.inc();
        // On the heap: each connection would have room for it, and most speak HTTP/1.
        Box::pin(http2::serve(io, connection)).await;
    } else {
        stats.downstream_cx_http1_total.inc();
        http1::serve(io, connection).await;
    }
}

/// Counts a connection for as long as it is open, also when its task is cut.
struct ConnectionCount(Arc<HttpManagerSpec>, Instant);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        let stats = &self.0.stats;
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        let ms = u64::try_from(self.1.elapsed().as_millis()).unwrap_or(u64::MAX);
        stats.downstream_cx_length_ms.observe(ms);
    }
}

/// Whether a clear-text connection begins with HTTP/2's preface (RFC 9113 section 3.4). No method
/// of HTTP/1 begins like it.
async fn begins_http2(io: &Io) -> bool {
    let Some(tcp) = io.tcp().filter(|_| !io.is_tls()) else {
        return false;
    };
    let mut start = [0; 4];
    // A peer that sends less than four bytes at first is slow or hostile; look again a few times,
    // then let the HTTP/1 codec wait for the rest.
    for _ in 0..50 {
        match tcp.peek(&mut start).await {
            Ok(n) if n > 0 && n < 4 && start[..n] == b"PRI "[..n] => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(n) => return n == 4 && start == *b"PRI ",
            Err(_) => return false,
        }
    }
    false
}

/// `max_connection_duration`, after which a connection takes no more requests.
pub(super) struct Lifetime(Deadline);

impl Lifetime {
    /// Whether it is over.
    pub fn poll_unpin(&mut self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut self.0).poll(cx).is_ready()
    }
}

pub(super) fn lifetime(model: &HttpManager) -> Option<Lifetime> {
    let (limit, jitter) = (
        model.timeouts.max_connection,
        model.timeouts.max_connection_jitter,
    );
    (!limit.is_zero()).then(|| Lifetime(Deadline::after(jittered(limit, jitter))))
}
