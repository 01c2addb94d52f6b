//! A connection of HTTP/2 to an endpoint: what its task and the pool know together.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_xds::resource::cluster::Http2Options;
use h2::Reason;
use h2::client::{Builder, Connection, SendRequest};
use http::Request;

use super::opening::{self, Opening};
use super::sent::Sent;
use crate::net::Io;
use crate::net::http2::{MAX_FRAME, Pings, SEND_BUFFER, Windows};
use crate::upstream::body::RequestBody;
use crate::upstream::pool::about::About;
use crate::upstream::pool::raw::Counted;
use crate::upstream::pool::{SendError, leave, preconnect, with_pool};
use crate::upstream::{Endpoint, Transport};

/// What the codec says of the streams that a peer allows until the peer has said something; no peer
/// can say this.
const UNKNOWN: usize = usize::MAX - 1;
/// There are no more on a connection (RFC 9113 section 5.1.1).
const ALL: usize = 1 << 30;
/// Bytes that the head of an answer may have, where nothing else is said.
const MAX_HEAD: u32 = 64 << 10;
/// Streams that were cancelled, and for how long, so that what still comes for them is known to be late.
const REMEMBERED: usize = 4096;
const REMEMBER: Duration = Duration::from_secs(10);

/// As long as there is one the connection stays open.
pub(super) struct Link {
    sender: RefCell<SendRequest<Bytes>>,
    about: About,
    /// Whose connection it is.
    endpoint: u64,
    /// That have begun and not ended.
    pub(super) streams: Cell<usize>,
    pub(super) served: Cell<u32>,
    pub(super) idle_since: Cell<Instant>,
    /// Somebody may wait for a place.
    pub(super) wanted: Cell<bool>,
    /// How many streams the peer takes; nothing while it has not said so.
    most: Cell<Option<usize>>,
    /// It takes no more requests.
    closed: Cell<bool>,
    /// Of its opening.
    number: u64,
}

impl Link {
    /// Begins HTTP/2 on a connection.
    pub(super) async fn begin(
        io: Io,
        endpoint: &Endpoint,
        options: &Http2Options,
        transport: &Transport,
        opening: Opening,
    ) -> Result<(Rc<Self>, Running), h2::Error> {
        let windows = Windows::new(
            options.initial_stream_window_size,
            options.initial_connection_window_size,
        );
        let about = About::new(&io);
        let max_head = transport.max_response_head.map(u32::try_from);
        let max_head = max_head.map_or(MAX_HEAD, |bytes| bytes.unwrap_or(u32::MAX));
        let (sender, mut codec) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(UNKNOWN)
            .initial_window_size(windows.stream)
            .initial_connection_window_size(windows.connection)
            .max_frame_size(MAX_FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            // Requests that time out or are left end their streams, many at a time, and what comes for
            // those meanwhile is no fault of the endpoint.
            .max_concurrent_reset_streams(REMEMBERED)
            .reset_stream_duration(REMEMBER)
            .max_local_error_reset_streams(None)
            .max_header_list_size(max_head)
            .handshake(io)
            .await?;
        let pings = options.keepalive.and_then(|set| {
            let pings = codec.ping_pong()?;
            Some(Pings::new(pings, set))
        });
        let link = Rc::new(Self {
            sender: RefCell::new(sender),
            about,
            endpoint: endpoint.uid,
            streams: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            wanted: Cell::new(false),
            most: Cell::new(None),
            closed: Cell::new(false),
            number: opening.number(),
        });
        let running = Running {
            codec,
            pings,
            link: Rc::downgrade(&link),
            opening: Some(opening),
        };
        Ok((link, running))
    }

    /// A request on a stream of its own.
    pub(super) fn send(self: &Rc<Self>, request: Request<RequestBody>) -> Sent {
        if self.closed.get() {
            // Since it was found in the pool.
            return Sent::failed(SendError {
                error: h2::Error::from(Reason::REFUSED_STREAM).into(),
                unsent: Some(Box::new(request)),
            });
        }
        // A handle that has sent may have to wait before it sends again; a fresh one never has.
        let mut sender = self.sender.borrow().clone();
        Sent::begin(self, &mut sender, request)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// How many streams the peer takes; nothing while it has not said so.
    pub(super) fn most(&self) -> Option<usize> {
        self.most.get()
    }

    /// Whether the peer takes another stream now. The codec would hold it back, and all after it.
    pub(super) fn has_room(&self) -> bool {
        self.most
            .get()
            .is_some_and(|most| self.streams.get() < most)
    }

    /// Whether the peer takes extended CONNECT (RFC 8441 section 3). Waits for its settings, if they
    /// have not come.
    pub(super) async fn takes_upgrades(&self) -> bool {
        while self.most.get().is_none() {
            match opening::join(self.endpoint, self.number) {
                // Without an answer they are there, or the connection is gone.
                Some(known) => drop(known.await),
                None => return false,
            }
        }
        self.sender.borrow().is_extended_connect_protocol_enabled()
    }

    /// After a turn of the codec: what the pool has to know. Whether that has changed what the peer
    /// takes.
    fn look(&self, most: usize) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(_)) = self.sender.borrow_mut().poll_ready(cx) {
            self.closed.set(true);
        }
        let most = (most != UNKNOWN).then_some(most.min(ALL));
        if self.most.get() == most {
            return false;
        }
        self.most.set(most);
        with_pool(self.endpoint, |pool| {
            pool.streams_each = most;
            // There may be room for them all.
            pool.waiting.clear();
        });
        true
    }
}

/// One stream's place on a connection, for as long as the stream lasts.
pub(in crate::upstream::pool) struct Place(pub(super) Rc<Link>);

impl Place {
    pub(super) fn new(link: &Rc<Link>) -> Self {
        link.streams.set(link.streams.get() + 1);
        link.served.set(link.served.get() + 1);
        Self(Rc::clone(link))
    }

    /// For what is left of a stream that had one.
    pub(super) fn after(link: &Rc<Link>) -> Self {
        link.streams.set(link.streams.get() + 1);
        Self(Rc::clone(link))
    }

    pub(in crate::upstream::pool) fn about(&self) -> About {
        self.0.about
    }

    pub(in crate::upstream::pool) fn send(&self, request: Request<RequestBody>) -> Sent {
        self.0.send(request)
    }

    pub(in crate::upstream::pool) async fn takes_upgrades(&self) -> bool {
        self.0.takes_upgrades().await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let link = &self.0;
        let streams = link.streams.get() - 1;
        link.streams.set(streams);
        if streams == 0 {
            link.idle_since.set(Instant::now());
        }
        if link.wanted.get() {
            // Whoever waits longest looks again, and finds this place.
            leave(link.endpoint, |pool| {
                link.wanted.set(pool.waiting.len() > 1);
            });
        }
    }
}

/// Reads and writes a connection until it has ended.
pub(super) struct Running {
    codec: Connection<Io, Bytes>,
    pings: Option<Pings>,
    link: Weak<Link>,
    /// Until the peer has said how many streams it takes.
    opening: Option<Opening>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(link) = self.link.upgrade() {
            link.closed.set(true);
        }
    }
}

impl Running {
    pub(super) async fn run(
        mut self,
        endpoint: &Arc<Endpoint>,
        transport: &Arc<Transport>,
        _counted: Counted,
    ) {
        let ended = poll_fn(|cx| {
            let (ended, changed) = self.poll(cx);
            if changed {
                self.opening = None;
                preconnect::look(endpoint, transport);
            }
            ended
        });
        match ended.await {
            Ok(()) => {}
            Err(Ended::Codec(error)) => tracing::debug!(%error, "upstream connection ended"),
            Err(Ended::Dead) => tracing::debug!(%endpoint, "a ping was not answered"),
        }
    }

    /// And whether the peer has changed how many streams it takes.
    fn poll(&mut self, cx: &mut Context<'_>) -> (Poll<Result<(), Ended>>, bool) {
        // What comes besides is not counted here: only an answer is one.
        if let Some(pings) = &mut self.pings
            && pings.poll(cx, 0)
        {
            return (Poll::Ready(Err(Ended::Dead)), false);
        }
        let ended = Pin::new(&mut self.codec).poll(cx);
        let most = self.codec.max_concurrent_send_streams();
        let link = self.link.upgrade();
        let changed = link.is_some_and(|link| link.look(most));
        (ended.map_err(Ended::Codec), changed)
    }
}

enum Ended {
    Codec(h2::Error),
    /// The peer says nothing any more.
    Dead,
}
