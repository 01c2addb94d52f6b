//! Connections of HTTP/1.1: each serves one request at a time.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::http1;

use super::about::About;
use super::parking::{self, handshake};
use super::raw::Counted;
use super::waiting::{self, Pending};
use super::{Idle, connection_permit, http_error, spawn_tied, with_pool};
use crate::net::Io;
use crate::upstream::body::RequestBody;
use crate::upstream::connect::{ConnectError, ConnectErrorKind, connect};
use crate::upstream::limits::Permit;
use crate::upstream::{Endpoint, Protocol, Transport, Via};

/// How long a connection may take to be done with the exchange before. A moment does where the endpoint reads.
const SETTLE: Duration = Duration::from_millis(100);

pub(super) struct Http1 {
    /// None while it is parked.
    sender: Option<http1::SendRequest<RequestBody>>,
    parking: parking::Handle,
    pub(super) about: About,
    pub(super) served: u32,
    pub(super) opened: Instant,
    pub(super) via: Option<Rc<Via>>,
}

pub(super) async fn checkout(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    fresh: bool,
) -> Result<(Box<Http1>, bool), ConnectError> {
    if !fresh && let Some(connection) = idle(endpoint, transport, via).await {
        return Ok((connection, true));
    }
    let _pending = Pending::begin(endpoint, transport)?;
    match connection_permit(endpoint, transport) {
        Ok((permit, _connecting)) => Ok((open(endpoint, transport, via, permit).await?, false)),
        Err(_full) => waiting::for_http1(endpoint, transport, via).await,
    }
}

pub(super) async fn open(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    permit: Permit,
) -> Result<Box<Http1>, ConnectError> {
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
    over(io, endpoint, transport, via, counted).await
}

/// HTTP/1.1 on a connection that is there.
pub(super) async fn over(
    io: Io,
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    counted: Counted,
) -> Result<Box<Http1>, ConnectError> {
    transport.stats.upstream_cx_http1_total.inc();
    let about = About::new(&io);
    let (parking, lent) = parking::Handle::new(io);
    let (sender, codec) = handshake(lent, transport)
        .await
        .map_err(|e| http_error(endpoint, e.into()))?;
    let driver = parking.driver();
    let serving = Arc::clone(transport);
    spawn_tied(endpoint, async move {
        let _counted = counted;
        if let Err(error) = driver.run(codec, &serving).await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(Box::new(Http1 {
        sender: Some(sender),
        parking,
        about,
        served: 0,
        opened: Instant::now(),
        via: via.cloned(),
    }))
}

impl Http1 {
    /// Whether it takes a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| sender.is_ready())
    }

    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Some(sender) => sender.is_closed(),
            None => self.parking.is_over(),
        }
    }

    /// Lets go of its codec, if nothing is under way.
    pub(super) fn park(&mut self) {
        if self.is_ready() {
            self.parking.park();
            self.sender = None;
        }
    }

    /// `None` for one that is parked, which nobody has.
    pub(super) fn sender(&mut self) -> Option<&mut http1::SendRequest<RequestBody>> {
        self.sender.as_mut()
    }

    /// Whether it still works. Its task may still have to notice that the last response has ended.
    ///
    /// It may also have to get rid of the last request, of which its client has sent everything, to an
    /// endpoint that has answered without reading it, and may never do so. Nobody else waits for that.
    /// One that is parked has a codec afterwards.
    pub(super) async fn is_usable(&mut self, transport: &Transport) -> bool {
        let Some(sender) = &mut self.sender else {
            return self.resume(transport).await;
        };
        if sender.is_closed() || sender.is_ready() {
            return !sender.is_closed();
        }
        let settled = tokio::time::timeout(SETTLE, sender.ready()).await;
        matches!(settled, Ok(Ok(())))
    }

    async fn resume(&mut self, transport: &Transport) -> bool {
        let Some(lent) = self.parking.take() else {
            return false;
        };
        match handshake(lent, transport).await {
            Ok((sender, codec)) => {
                self.parking.resume(codec);
                self.sender = Some(sender);
                true
            }
            Err(error) => {
                tracing::debug!(%error, "a parked connection got no codec");
                false
            }
        }
    }
}

/// The connection that became idle last and still works.
async fn idle(
    endpoint: &Endpoint,
    transport: &Transport,
    via: Option<&Rc<Via>>,
) -> Option<Box<Http1>> {
    loop {
        let Idle { mut connection, .. } = with_pool(endpoint.uid, |pool| pool.pop_idle(via))?;
        if !transport.is_spent(connection.served, connection.opened)
            && connection.is_usable(transport).await
        {
            return Some(connection);
        }
    }
}
