//! HTTP/2 connections: each is shared by as many streams as the peer allows.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper::rt::Executor as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::about::About;
use super::http1::{self, Http1};
use super::raw::Counted;
use super::waiting::{Pending, waited_too_long};
use super::{Kind, connection_permit, http_error, leave, spawn_tied, with_pool};
use crate::net::Io;
use crate::net::http2::{Hold, Windows, Writer};
use crate::upstream::body::{Asking, RequestBody};
use crate::upstream::connect::{ConnectError, ConnectErrorKind, connect};
use crate::upstream::limits::Permit;
use crate::upstream::{Endpoint, Protocol, Transport, Via};

/// What h2 says of the streams that a peer allows until the peer has said something; no peer can
/// say this.
const UNKNOWN: usize = usize::MAX - 1;

type Driver = http2::Connection<TokioIo<Io>, RequestBody, Runs>;

/// One connection as the pool has it.
pub(super) struct Shared {
    sender: http2::SendRequest<RequestBody>,
    /// Gone once the connection takes no more requests.
    driver: Weak<RefCell<Driver>>,
    link: Weak<Link>,
    load: Rc<Load>,
    opened: Instant,
    about: About,
    via: Option<Rc<Via>>,
}

struct Load {
    streams: Cell<usize>,
    served: Cell<u32>,
    idle_since: Cell<Instant>,
    /// Whose connection it is.
    endpoint: u64,
    /// Somebody may wait for a place.
    wanted: Cell<bool>,
}

/// One stream's place on a connection, for as long as the stream lasts.
pub(super) struct Place {
    sender: http2::SendRequest<RequestBody>,
    pub(super) about: About,
    link: Weak<Link>,
    /// Of a request that asks for a tunnel: what is left of it when this place is, is reset.
    tunnel: Option<Hold>,
    load: Rc<Load>,
}

impl Place {
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        let request = match request.method() == Method::CONNECT {
            true => self.asking(request),
            false => request,
        };
        self.sender.try_send_request(request)
    }

    /// Waits for the settings of the peer, if they have not come.
    pub(super) async fn takes_upgrades(&self) -> bool {
        loop {
            let Some(link) = self.link.upgrade() else {
                return false;
            };
            let Some(driver) = link.driver.borrow().upgrade() else {
                return false;
            };
            if driver.borrow().current_max_send_streams() != UNKNOWN {
                return driver.borrow().is_extended_connect_protocol_enabled();
            }
            let waiting = with_pool(link.endpoint.uid, |pool| {
                let (done, known) = oneshot::channel();
                pool.opening.as_mut()?.push(done);
                Some(known)
            });
            drop((driver, link));
            match waiting {
                // Without an answer they are there, or the connection is gone.
                Some(known) => drop(known.await),
                None => return false,
            }
        }
    }

    /// A request for a tunnel has no body; what stands there sees to it that its writer is known.
    fn asking(&mut self, request: Request<RequestBody>) -> Request<RequestBody> {
        let Some(link) = self.link.upgrade() else {
            return request;
        };
        let writer = Writer::default();
        self.tunnel = Some(Hold(writer.clone()));
        let asking = Asking::new(&link.asking, writer);
        request.map(|_| RequestBody::asking(asking))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let streams = self.load.streams.get() - 1;
        self.load.streams.set(streams);
        if streams == 0 {
            self.load.idle_since.set(Instant::now());
        }
        if self.load.wanted.get() {
            // Whoever waits longest looks again, and finds this place.
            leave(self.load.endpoint, |pool| {
                self.load.wanted.set(pool.waiting.len() > 1);
            });
        }
    }
}

impl Shared {
    fn place(&self) -> Place {
        self.load.streams.set(self.load.streams.get() + 1);
        self.load.served.set(self.load.served.get() + 1);
        Place {
            sender: self.sender.clone(),
            about: self.about,
            link: Weak::clone(&self.link),
            tunnel: None,
            load: Rc::clone(&self.load),
        }
    }

    /// Whether the peer takes another stream now. hyper would hold it back, and all after it.
    fn has_room(&self) -> bool {
        let most = most_streams(&self.driver).unwrap_or(0);
        most != UNKNOWN && self.load.streams.get() < most
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.driver.strong_count() == 0
    }

    /// Zero is no limit.
    pub(super) fn was_idle_for(&self, limit: Duration, now: Instant) -> bool {
        let limit = Via::patience(self.via.as_ref(), limit);
        !limit.is_zero()
            && self.load.streams.get() == 0
            && now.duration_since(self.load.idle_since.get()) >= limit
    }

    fn is_spent(&self, transport: &Transport) -> bool {
        transport.is_spent(self.load.served.get(), self.opened)
    }
}

/// Takes out a connection that nobody uses.
pub(super) fn pop_idle(connections: &mut Vec<Shared>) -> Option<Shared> {
    let index = connections.iter().position(|c| c.load.streams.get() == 0)?;
    Some(connections.remove(index))
}

fn most_streams(driver: &Weak<RefCell<Driver>>) -> Option<usize> {
    Some(driver.upgrade()?.borrow().current_max_send_streams())
}

enum Turn {
    Use(Place),
    Wait(oneshot::Receiver<ConnectError>),
    Open(Opening),
}

/// Wakes those who wait for a connection: once it is known how many of them it takes, or when it
/// came to nothing.
struct Opening(u64);

impl Drop for Opening {
    fn drop(&mut self) {
        with_pool(self.0, |pool| pool.opening = None);
    }
}

impl Opening {
    /// All who wait fail alike: one by one, each would wait for its own attempt.
    fn failed(self, error: &ConnectError) {
        let waiting = with_pool(self.0, |pool| pool.opening.take());
        for waiting in waiting.into_iter().flatten() {
            // Who has left needs no answer.
            waiting.send(error.clone()).ok();
        }
    }
}

/// A place on a connection (or one of HTTP/1.1, where the endpoint wants that), and whether the connection had served a request before.
pub(super) async fn checkout(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    fresh: bool,
) -> Result<(Kind, bool), ConnectError> {
    let mut fresh = fresh;
    let mut pending = None;
    let mut deadline = tokio::time::Instant::now();
    loop {
        let turn = with_pool(endpoint.uid, |pool| {
            if std::mem::take(&mut fresh) {
                pool.http2.clear();
            }
            let usable = |shared: &Shared| !shared.is_closed() && !shared.is_spent(transport);
            pool.http2.retain(usable);
            if let Some(shared) = pool
                .http2
                .iter()
                .find(|s| s.via.as_ref() == via && s.has_room())
            {
                let place = shared.place();
                let before = pool.http2.len();
                pool.http2.retain(|shared| !shared.is_spent(transport));
                let spent = before - pool.http2.len();
                transport.stats.upstream_cx_max_requests.add(spent as u64);
                return Turn::Use(place);
            }
            match &mut pool.opening {
                Some(waiting) => {
                    let (done, opened) = oneshot::channel();
                    waiting.push(done);
                    Turn::Wait(opened)
                }
                opening => {
                    *opening = Some(Vec::new());
                    Turn::Open(Opening(endpoint.uid))
                }
            }
        });
        if pending.is_none() && !matches!(turn, Turn::Use(_)) {
            pending = Some(Pending::begin(endpoint, transport)?);
            deadline = tokio::time::Instant::now() + transport.queue_timeout;
        }
        match turn {
            Turn::Use(place) => return Ok((Kind::Http2(place), true)),
            Turn::Wait(opened) => {
                // Without an answer it worked, or whoever opened has left: look again.
                match timeout_at(deadline, opened).await {
                    Ok(Ok(error)) => return Err(error),
                    Ok(Err(_)) => {}
                    Err(_) => return Err(waited_too_long(endpoint, transport)),
                }
            }
            Turn::Open(opening) => {
                let opened = match connection_permit(endpoint, transport) {
                    Ok((permit, _connecting)) => open(endpoint, transport, via, permit).await,
                    Err(full) => Err(full),
                };
                let (shared, link) = match opened {
                    Ok(Opened::Http2(shared, link)) => (shared, link),
                    Ok(Opened::Http1(connection)) => {
                        with_pool(endpoint.uid, |pool| pool.speaks_http1 = true);
                        return Ok((Kind::Http1(connection), false));
                    }
                    // There may not be more connections, but places on these come free.
                    Err(error) if matches!(error.kind, ConnectErrorKind::Overflow(..)) => {
                        drop(opening);
                        let freed = with_pool(endpoint.uid, |pool| {
                            let connections = pool.http2.iter();
                            connections.for_each(|shared| shared.load.wanted.set(true));
                            let (free, freed) = oneshot::channel();
                            pool.waiting.push_back((via.cloned(), free));
                            freed
                        });
                        match timeout_at(deadline, freed).await {
                            // It has come to speak HTTP/1 meanwhile.
                            Ok(Ok(mut connection)) => {
                                if connection.is_usable().await {
                                    return Ok((Kind::Http1(connection), true));
                                }
                            }
                            Ok(Err(_)) => {}
                            Err(_) => return Err(waited_too_long(endpoint, transport)),
                        }
                        continue;
                    }
                    Err(error) => {
                        opening.failed(&error);
                        return Err(error);
                    }
                };
                let place = shared.place();
                keep(shared, endpoint, transport);
                link.opening.set(Some(opening));
                link.look();
                return Ok((Kind::Http2(place), false));
            }
        }
    }
}

fn keep(shared: Shared, endpoint: &Endpoint, transport: &Arc<Transport>) {
    if endpoint.is_retired() || shared.is_spent(transport) {
        return;
    }
    with_pool(endpoint.uid, |pool| {
        pool.transport.get_or_insert_with(|| Arc::clone(transport));
        pool.http2.push(shared);
        // There may be room for them all.
        pool.waiting.clear();
    });
}

/// Streams that could begin now; nothing while a peer has not said how many it takes.
pub(super) fn room(connections: &[Shared]) -> Option<usize> {
    let usable = connections.iter().filter(|shared| !shared.is_closed());
    let rooms = usable.map(|shared| {
        let most = most_streams(&shared.driver).filter(|most| *most != UNKNOWN);
        most.map(|most| most.saturating_sub(shared.load.streams.get()))
    });
    rooms.sum()
}

/// Opens a connection for requests to come, unless one is being opened; one of HTTP/1 if the endpoint
/// wants that.
pub(super) async fn open_ahead(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    permit: Permit,
) -> Result<Option<Box<Http1>>, ConnectError> {
    let opening = with_pool(endpoint.uid, |pool| match &pool.opening {
        Some(_) => None,
        None => {
            pool.opening = Some(Vec::new());
            Some(Opening(endpoint.uid))
        }
    });
    let Some(opening) = opening else {
        return Ok(None);
    };
    match open(endpoint, transport, None, permit).await {
        Ok(Opened::Http2(shared, link)) => {
            keep(shared, endpoint, transport);
            link.opening.set(Some(opening));
            link.look();
            Ok(None)
        }
        Ok(Opened::Http1(connection)) => {
            with_pool(endpoint.uid, |pool| pool.speaks_http1 = true);
            Ok(Some(connection))
        }
        Err(error) => {
            opening.failed(&error);
            Err(error)
        }
    }
}

/// What came of a connection.
enum Opened {
    Http2(Shared, Rc<Link>),
    Http1(Box<Http1>),
}

async fn open(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    permit: Permit,
) -> Result<Opened, ConnectError> {
    let (options, chooses) = match &transport.protocol {
        Protocol::Http2(options) => (options, false),
        Protocol::Auto(options) => (options, true),
        Protocol::Http1 => unreachable!("only called for HTTP/2"),
    };
    let io = connect(endpoint, transport, via.map(Rc::as_ref)).await?;
    let counted = Counted::new(endpoint, transport, permit);
    if chooses && !io.chose_http2() {
        let connection = http1::over(io, endpoint, transport, via, counted).await?;
        return Ok(Opened::Http1(connection));
    }
    transport.stats.upstream_cx_http2_total.inc();
    let link = Rc::new(Link {
        endpoint: Arc::clone(endpoint),
        counted: Cell::new(Some(counted)),
        driver: RefCell::default(),
        opening: Cell::new(None),
        asking: Rc::default(),
        answering: Cell::new(None),
    });
    let windows = Windows::new(
        options.initial_stream_window_size,
        options.initial_connection_window_size,
    );
    let mut builder = http2::Builder::new(Runs(Rc::clone(&link)));
    if let Some(keepalive) = options.keepalive {
        builder
            .keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout)
            .keep_alive_while_idle(true);
    }
    let about = About::new(&io);
    let (sender, driver) = builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(UNKNOWN)
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_header_list_size(64 * 1024)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| http_error(endpoint, e))?;
    let driver = Rc::new(RefCell::new(driver));
    *link.driver.borrow_mut() = Rc::downgrade(&driver);
    let shared = Shared {
        sender,
        driver: Rc::downgrade(&driver),
        link: Rc::downgrade(&link),
        load: Rc::new(Load {
            streams: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            endpoint: endpoint.uid,
            wanted: Cell::new(false),
        }),
        opened: Instant::now(),
        about,
        via: via.cloned(),
    };
    spawn_tied(endpoint, async move {
        let ended = std::future::poll_fn(|cx| Pin::new(&mut *driver.borrow_mut()).poll(cx));
        if let Err(error) = ended.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(Opened::Http2(shared, link))
}

/// What the task of a connection and the pool know together.
struct Link {
    endpoint: Arc<Endpoint>,
    counted: Cell<Option<Counted>>,
    driver: RefCell<Weak<RefCell<Driver>>>,
    opening: Cell<Option<Opening>>,
    /// The next task waits for the answer to a request for this one's tunnel.
    asking: Rc<Cell<Option<Writer>>>,
    /// A task that does is polled: what it starts is the writer.
    answering: Cell<Option<Writer>>,
}

impl Link {
    /// Lets those who wait go on once the peer has said how many streams it allows.
    fn look(&self) {
        if let Some(opening) = self.opening.take()
            && most_streams(&self.driver.borrow()) == Some(UNKNOWN)
        {
            self.opening.set(Some(opening));
        }
    }
}

/// Runs hyper's background futures of one connection. The first of them is the connection itself,
/// which outlives the driver as long as there are streams: that one is counted, and ends with the
/// endpoint.
#[derive(Clone)]
struct Runs(Rc<Link>);

impl<F> hyper::rt::Executor<F> for Runs
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let Some(counted) = self.0.counted.take() else {
            return self.run(future);
        };
        let link = Rc::clone(&self.0);
        spawn_tied(&self.0.endpoint, async move {
            let _counted = counted;
            let mut connection = std::pin::pin!(future);
            std::future::poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                link.look();
                polled
            })
            .await;
            drop(link.opening.take());
        });
    }
}

impl Runs {
    fn run(&self, future: impl Future + 'static) {
        if let Some(writer) = self.0.answering.take() {
            return writer.start(future);
        }
        let Some(writer) = self.0.asking.take() else {
            return super::LocalExecutor.execute(future);
        };
        let link = Rc::downgrade(&self.0);
        tokio::task::spawn_local(async move {
            let mut answer = std::pin::pin!(future);
            std::future::poll_fn(|cx| {
                let Some(link) = link.upgrade() else {
                    return answer.as_mut().poll(cx).map(drop);
                };
                link.answering.set(Some(writer.clone()));
                let polled = answer.as_mut().poll(cx);
                link.answering.take();
                polled.map(drop)
            })
            .await;
        });
    }
}
