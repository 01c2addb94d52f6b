//! A connection of HTTP/2: its codec, its deadlines, its pings.

mod malformed;
mod stream;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Handshake};
use tokio::io::AsyncWriteExt as _;

pub use self::malformed::Malformed;
use super::clock::{Clock, Counted, Tick};
use super::coalesce::Coalesced;
use super::connection_manager::{Connection, lifetime};
use super::http1::{AT_ONCE, linger};
use crate::net::Io;
use crate::net::http2::{MAX_FRAME, MAX_RESETS, Pings, SEND_BUFFER, Windows};
use crate::runtime::timer::Deadline;

/// Streams per connection when the configuration gives none (Envoy's default since 1.36).
const MAX_STREAMS: u32 = 1024;

type Wire = Coalesced<Counted>;

/// How a connection ended.
enum Over {
    /// All was said.
    Closed,
    /// The codec ended it, and has told why.
    Codec(h2::Error),
    /// A request was malformed, and malformed requests end their connection.
    Malformed,
    /// There is nobody to tell.
    Dead(&'static str),
    /// It could not be written to.
    Broken(std::io::Error),
}

/// Serves a connection to its end: until the client or the codec ends it, a deadline fires, or it has
/// drained.
pub async fn serve(io: Io, connection: Rc<Connection>) {
    let activity = connection.shared_activity();
    let mut io = Coalesced::new(Counted::new(io, activity));
    if !connection.manager.model.resets_malformed {
        io.end_with_malformed();
    }
    let wire = io.handle();
    let over = drive(io, &wire, &connection).await;
    let stats = &connection.manager.stats;
    let peer = connection.peer.ip;
    match over {
        Over::Closed => {}
        Over::Codec(error) => {
            stats.downstream_cx_protocol_error.inc();
            tracing::debug!(%error, %peer, "connection ended");
        }
        Over::Malformed => {
            stats.downstream_cx_protocol_error.inc();
            tracing::debug!(%peer, "connection ended with a malformed request");
        }
        Over::Dead(why) => return tracing::debug!(%peer, "{why}"),
        Over::Broken(error) => return tracing::debug!(%error, %peer, "connection broke off"),
    }
    let limit = connection.manager.model.timeouts.delayed_close;
    if let Some(counted) = wire.into_inner()
        && !limit.is_zero()
    {
        let mut io = counted.into_inner();
        // What was said last is to arrive; the client may be gone.
        tokio::time::timeout(limit, io.shutdown()).await.ok();
        linger(io, limit).await;
    }
}

async fn drive(io: Wire, wire: &Wire, connection: &Rc<Connection>) -> Over {
    let model = &connection.manager.model;
    let mut codec = Codec {
        stage: Stage::Opening(builder(connection).handshake(io)),
        closing: false,
        pings: None,
    };
    let mut clock = Clock::new(&model.timeouts, Duration::ZERO, connection.idle_since());
    let mut drained = std::pin::pin!(connection.drain.begun());
    let mut lifetime = lifetime(model);
    // The codec ends a connection only once its peer has acknowledged that it is to end.
    let patience = (model.timeouts.drain + model.timeouts.delayed_close).max(AT_ONCE);
    let mut expiry = Deadline::never();
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(over) = codec.poll(cx, wire, connection) {
                return Poll::Ready(over);
            }
            if connection.is_malformed() || wire.is_malformed() {
                return Poll::Ready(Over::Malformed);
            }
            if let Err(error) = wire.end_turn(cx, connection.active() > 1) {
                return Poll::Ready(Over::Broken(error));
            }
            if !codec.closing && (connection.is_spent() || drained.as_mut().poll(cx).is_ready()) {
                connection.manager.stats.downstream_cx_drain_close.inc();
                codec.shut_down();
                expiry = Deadline::after(patience);
                continue;
            }
            if !codec.closing && lifetime.as_mut().is_some_and(|l| l.poll_unpin(cx)) {
                codec.shut_down();
                expiry = Deadline::after(patience);
                continue;
            }
            if Pin::new(&mut expiry).poll(cx).is_ready() && !connection.is_busy() {
                return Poll::Ready(Over::Dead("the end of the connection is not acknowledged"));
            }
            match clock.poll(cx, connection) {
                Tick::IdleTimeout if !codec.is_open() => {
                    connection.manager.stats.downstream_cx_idle_timeout.inc();
                    return Poll::Ready(Over::Dead("the preface has not come"));
                }
                Tick::IdleTimeout if !codec.closing => {
                    connection.manager.stats.downstream_cx_idle_timeout.inc();
                    codec.shut_down();
                    expiry = Deadline::after(patience);
                    clock.stop_idle();
                    continue;
                }
                Tick::WriteStalled => {
                    connection.manager.stats.downstream_rq_idle_timeout.inc();
                    return Poll::Ready(Over::Dead("stream idle timeout fired on a write"));
                }
                _ => return Poll::Pending,
            }
        }
    })
    .await
}

fn builder(connection: &Connection) -> Builder {
    let model = &connection.manager.model;
    let options = &model.http2;
    let windows = Windows::new(
        options.initial_stream_window_size,
        options.initial_connection_window_size,
    );
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(options.max_concurrent_streams.unwrap_or(MAX_STREAMS))
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_frame_size(MAX_FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(MAX_RESETS))
        // Twice what is allowed: what is between is refused by a reset, as Envoy does.
        .max_header_list_size(model.max_request_headers_kb.saturating_mul(2 * 1024));
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    builder
}

/// What reads and writes frames.
struct Codec {
    stage: Stage,
    /// What runs comes to its end, and nothing new begins.
    closing: bool,
    pings: Option<Pings>,
}

#[allow(
    clippy::large_enum_variant,
    reason = "one for each connection, on the heap"
)]
enum Stage {
    /// The preface has not come yet.
    Opening(Handshake<Wire, Bytes>),
    Open(h2::server::Connection<Wire, Bytes>),
}

impl Codec {
    /// Does all there is to do: streams that begin become tasks.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        wire: &Wire,
        connection: &Rc<Connection>,
    ) -> Poll<Over> {
        if let Stage::Opening(handshake) = &mut self.stage {
            let mut codec = match ready!(Pin::new(handshake).poll(cx)) {
                Ok(codec) => codec,
                Err(error) => return Poll::Ready(Over::Codec(error)),
            };
            if self.closing {
                codec.graceful_shutdown();
            }
            self.pings = connection.manager.model.http2.keepalive.and_then(|set| {
                let pings = codec.ping_pong()?;
                Some(Pings::new(pings, set))
            });
            self.stage = Stage::Open(codec);
        }
        let Stage::Open(codec) = &mut self.stage else {
            return Poll::Pending;
        };
        if let Some(pings) = &mut self.pings
            && pings.poll(cx, wire.reads())
        {
            return Poll::Ready(Over::Dead("a ping was not answered"));
        }
        loop {
            match ready!(codec.poll_accept(cx)) {
                Some(Ok((request, respond))) => {
                    wire.accepted(respond.stream_id().as_u32());
                    let connection = Rc::clone(connection);
                    tokio::task::spawn_local(stream::serve(connection, request, respond));
                }
                Some(Err(error)) => return Poll::Ready(Over::Codec(error)),
                None => return Poll::Ready(Over::Closed),
            }
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    fn shut_down(&mut self) {
        self.closing = true;
        if let Stage::Open(codec) = &mut self.stage {
            codec.graceful_shutdown();
        }
    }
}
