//! After a 101, or a CONNECT that was accepted: opaque bytes both ways.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::body::Body;
use super::clock;
use super::exchange::Exchange;
use super::failures::MAX_DURATION;
use super::head::{UpgradeRequest, strip_response};
use super::request::edit_response;
use super::router::server_header;
use super::watch::Fired;
use crate::error::ResponseFlag;
use crate::net::copy::{self, Ended, Side};
use crate::net::http2::Tunnel;
use crate::net::{Incoming, Io, NotSwitched, Switching};
use crate::route::HeaderEdits;
use crate::runtime::timer::Deadline;
use crate::upstream::Endpoint;
use crate::upstream::pool::{self, Counted, Lease, RawConnection};

/// The client's end of a tunnel, which it becomes when its answer is on its way.
pub enum Downstream {
    /// A connection of HTTP/1.
    Connection(OnUpgrade),
    /// A stream of HTTP/2.
    Stream(oneshot::Receiver<Tunnel>),
}

impl Downstream {
    /// The client's end, and what was read of it already.
    ///
    /// # Errors
    /// [`NotSwitched`]
    pub async fn switched(self) -> Result<(Io, Bytes), NotSwitched> {
        match self {
            Self::Connection(upgrade) => {
                let upgraded = upgrade.await?.downcast::<TokioIo<clock::Counted>>();
                // It is what the codec was given.
                let parts = upgraded.map_err(|_| NotSwitched::Stream)?;
                Ok((parts.io.into_inner().into_inner(), parts.read_buf))
            }
            Self::Stream(tunnel) => {
                let tunnel = tunnel.await.map_err(|_| NotSwitched::Stream)?;
                Ok((Io::Tunnel(Box::new(tunnel)), Bytes::new()))
            }
        }
    }
}

/// The upstream end of a tunnel, and how long it may be silent (zero: for ever).
pub struct Ends {
    pub lease: Lease,
    pub idle: Duration,
}

/// What the far end of a tunnel is.
enum Far {
    /// A connection that has to switch first.
    Switched(Switching, Lease),
    Raw(Io, Counted),
}

/// Answers a CONNECT whose upstream is a connection without HTTP.
pub fn accept(
    downstream: Downstream,
    (endpoint, upstream): (Arc<Endpoint>, RawConnection),
    idle: Duration,
    exchange: Box<Exchange>,
) -> Response<Body> {
    exchange.answered(StatusCode::OK);
    let mut response = Response::new(Body::Empty);
    server_header(response.headers_mut(), &exchange.connection);
    let (io, counted) = upstream.into_parts();
    let far = Far::Raw(io, counted);
    pool::spawn_tied(&endpoint, tunnel(downstream, far, idle, exchange));
    response
}

/// Relays the upstream's 101 as it is, or what it says instead over HTTP/2, and joins the two connections once both have switched.
pub fn switch(
    mut response: Response<Incoming>,
    asked: UpgradeRequest,
    downstream: Downstream,
    ends: Ends,
    edits: &HeaderEdits,
    exchange: Box<Exchange>,
) -> Response<Body> {
    let upstream = Switching::of(&mut response);
    let (mut head, _) = response.into_parts();
    let status = head.status;
    let protocol = head.headers.get(UPGRADE).cloned().unwrap_or(asked.protocol);
    head.extensions.clear();
    // A 101 has no body, so that no framing can be in doubt.
    strip_response(&mut head.headers).ok();
    if asked.extended {
        // There is neither a 101 nor an answer to a key over HTTP/2 (RFC 8441 section 5).
        head.status = StatusCode::OK;
        head.version = Version::HTTP_2;
        head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    } else if !asked.connect {
        if ends.lease.is_http2() {
            // As the endpoint would have answered over HTTP/1.1.
            (head.status, head.version) = (StatusCode::SWITCHING_PROTOCOLS, Version::HTTP_11);
            let accept = asked.key.map(|key| derive_accept_key(key.as_bytes()));
            if let Some(Ok(accept)) = accept.map(HeaderValue::try_from) {
                head.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            }
        }
        head.headers.insert(UPGRADE, protocol);
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    exchange.upstream_answered(status);
    exchange.answered(head.status);
    server_header(&mut head.headers, &exchange.connection);
    edit_response(edits, &mut head.headers, Some(&exchange));
    if let Some(kept) = &exchange.kept {
        kept.response(&head.headers, &exchange.connection.manager.wants);
    }
    let endpoint = Arc::clone(ends.lease.endpoint());
    let far = Far::Switched(upstream, ends.lease);
    pool::spawn_tied(&endpoint, tunnel(downstream, far, ends.idle, exchange));
    Response::from_parts(head, Body::Empty)
}

async fn tunnel(downstream: Downstream, far: Far, idle: Duration, exchange: Box<Exchange>) {
    let both = match far {
        Far::Switched(upstream, lease) => {
            let both = tokio::try_join!(downstream.switched(), upstream.switched());
            both.map(|(down, (io, early))| (down, Side::new(io, early), (Some(lease), None)))
        }
        Far::Raw(io, counted) => downstream.switched().await.map(|down| {
            let up = Side::new(io, Bytes::new());
            (down, up, (None, Some(counted)))
        }),
    };
    // What is held counts the connection for as long as it lasts.
    let ((io, early), upstream, _held) = match both {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "upgrade was not completed"),
    };
    let mut upstream = upstream;
    let mut downstream = Side::new(io, early);
    let ended = {
        let _active = Active::begin(&exchange);
        let copied = copy::both(&mut downstream, &mut upstream, idle, |down, up| {
            let progress = &exchange.progress;
            progress.sent.set(progress.sent.get() + down);
            progress.received.set(progress.received.get() + up);
        });
        match exchange.watch.duration_left() {
            None => copied.await,
            Some((left, fired)) => tokio::select! {
                ended = copied => ended,
                // Zero would be for ever, and nothing may be left already.
                () = Deadline::after(left.max(Duration::from_nanos(1))) => return over(&exchange, fired),
            },
        }
    };
    match ended {
        Ended::Closed => {}
        Ended::Idle => {
            exchange.flag(ResponseFlag::StreamIdleTimeout);
            exchange
                .connection
                .manager
                .stats
                .downstream_rq_idle_timeout
                .inc();
        }
        Ended::Broken(_, error) => tracing::debug!(%error, "tunnel broke off"),
    }
    exchange.complete();
}

/// The stream has lasted for as long as it may.
fn over(exchange: &Exchange, fired: Fired) {
    fired.count(exchange);
    match fired.flag() {
        // As with any other stream.
        None => exchange.detail(MAX_DURATION),
        Some(flag) => exchange.flag(flag),
    }
    exchange.complete();
}

/// Counts a tunnel for as long as it is open, also when it is cut.
pub(super) struct Active<'e>(&'e Exchange);

impl<'e> Active<'e> {
    pub fn begin(exchange: &'e Exchange) -> Self {
        let stats = &exchange.connection.manager.stats;
        stats.downstream_cx_upgrades_total.inc();
        stats.downstream_cx_upgrades_active.inc();
        Self(exchange)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0
            .connection
            .manager
            .stats
            .downstream_cx_upgrades_active
            .dec();
    }
}
