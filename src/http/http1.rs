//! One HTTP/1 connection. While nothing happens on it, it is parked: its codec with all its buffers
//! goes, and only the socket and what is known of the client stay. Most connections of browsers are
//! idle most of the time, and a parked one costs a quarter of the memory.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_xds::resource::headers::HeaderCase;
use http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::clock::{Clock, Counted, Tick};
use super::connection_manager::{Connection, Lifetime, lifetime};
use super::upgrade::Downstream;
use super::{serve_request, unparsed};
use crate::net::{Incoming, Io};
use crate::runtime::timer::Deadline;
use crate::telemetry::stats::HttpStats;

/// How long nothing has to happen before a connection is parked: more than the pauses between the
/// requests of one page.
const PARK: Duration = Duration::from_millis(250);
/// A deadline of zero would be none.
pub(super) const AT_ONCE: Duration = Duration::from_millis(1);

/// How a stretch of a connection ended.
enum Stretch {
    /// With the connection.
    Closed,
    /// Nothing happens. These bytes were read and not used.
    Quiet(Io, Bytes),
}

/// Why a stretch ended.
enum Over {
    Codec(hyper::Result<()>),
    Tick(Tick),
    Quiet,
}

pub async fn serve(mut io: Io, connection: Rc<Connection>) {
    let mut early = Bytes::new();
    let mut lifetime = lifetime(&connection.manager.model);
    loop {
        // On the heap, so that it is given back while the connection is parked.
        let stretch = Box::pin(stretch(io, early, &connection, &mut lifetime)).await;
        (io, early) = match stretch {
            Stretch::Closed => return,
            Stretch::Quiet(io, early) => (io, without_empty_lines(early)),
        };
        if early.is_empty() {
            silence(&io, &connection, &mut lifetime).await;
        }
    }
}

/// Those that some clients send behind a body mean nothing (RFC 9112 section 2.2).
fn without_empty_lines(early: Bytes) -> Bytes {
    let empty = early.iter().take_while(|b| b"\r\n".contains(b)).count();
    early.slice(empty..)
}

/// Waits until there is something to do for a codec: the client speaks or leaves, or the connection
/// is to end.
async fn silence(io: &Io, connection: &Connection, lifetime: &mut Option<Lifetime>) {
    let _parked = Parked::new(&connection.manager.stats);
    let mut drained = std::pin::pin!(connection.drain.begun());
    let idle = connection.manager.model.timeouts.idle;
    let mut idle = match idle.is_zero() {
        true => Deadline::never(),
        false => {
            let left = idle.saturating_sub(connection.idle_since().elapsed());
            Deadline::after(left.max(Duration::from_millis(1)))
        }
    };
    std::future::poll_fn(|cx| {
        let ended = drained.as_mut().poll(cx).is_ready()
            || Pin::new(&mut idle).poll(cx).is_ready()
            || lifetime.as_mut().is_some_and(|l| l.poll_unpin(cx));
        // An error is met again by whoever reads.
        if ended || io.poll_read_ready(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// Counts a connection while it is parked.
struct Parked<'s>(&'s HttpStats);

impl<'s> Parked<'s> {
    fn new(stats: &'s HttpStats) -> Self {
        stats.downstream_cx_parked.inc();
        Self(stats)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.downstream_cx_parked.dec();
    }
}

/// Serves a connection as long as something happens.
async fn stretch(
    io: Io,
    early: Bytes,
    connection: &Rc<Connection>,
    lifetime: &mut Option<Lifetime>,
) -> Stretch {
    let model = &connection.manager.model;
    let counted = Counted::resumed(io, early, connection.shared_activity());
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(model.max_request_headers_kb as usize * 1024)
        .title_case_headers(model.http1.header_case == HeaderCase::Proper)
        .preserve_header_case(model.http1.header_case == HeaderCase::Preserve)
        .header_read_timeout(None);
    if model.max_headers_count != 100 {
        // hyper's own default; stating it would cost an allocation per request.
        builder.max_headers(model.max_headers_count as usize);
    }
    let service = {
        let connection = Rc::clone(connection);
        service_fn(move |mut request: Request<hyper::body::Incoming>| {
            // hyper puts something there exactly when an upgrade is asked for.
            let asked = !request.extensions().is_empty();
            let asked = asked.then(|| Downstream::Connection(hyper::upgrade::on(&mut request)));
            let (parts, body) = request.into_parts();
            let body = Incoming::Http1(body);
            serve_request::handle(Rc::clone(&connection), parts, body, asked)
        })
    };
    let mut http = builder
        .serve_connection(TokioIo::new(counted), service)
        .with_upgrades();
    let mut clock = Clock::new(
        &model.timeouts,
        model.timeouts.request_headers,
        connection.idle_since(),
    );
    let mut drained = std::pin::pin!(connection.drain.begun());
    let mut draining = false;
    let mut expiry: Option<Deadline> = None;
    let mut rest = Deadline::roughly(PARK);
    let ended = std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut http).poll(cx) {
                return Poll::Ready(Over::Codec(result));
            }
            if !draining && drained.as_mut().poll(cx).is_ready() {
                draining = true;
                connection.manager.stats.downstream_cx_drain_close.inc();
                Pin::new(&mut http).graceful_shutdown();
                continue;
            }
            if !draining && lifetime.as_mut().is_some_and(|l| l.poll_unpin(cx)) {
                draining = true;
                Pin::new(&mut http).graceful_shutdown();
                continue;
            }
            if let Some(end) = &mut expiry
                && !connection.is_busy()
                && Pin::new(end).poll(cx).is_ready()
            {
                return Poll::Ready(Over::Tick(Tick::IdleTimeout));
            }
            if !draining && expiry.is_none() && poll_quiet(cx, &mut rest, connection).is_ready() {
                return Poll::Ready(Over::Quiet);
            }
            return match clock.poll(cx, connection) {
                Tick::Nothing => Poll::Pending,
                Tick::Streams => continue,
                Tick::IdleTimeout => {
                    // A request that is on its way already is still served.
                    connection.manager.stats.downstream_cx_idle_timeout.inc();
                    connection.expire();
                    clock.stop_idle();
                    let limits = &model.timeouts;
                    let left = limits.drain + limits.delayed_close;
                    expiry = Some(Deadline::after(left.max(AT_ONCE)));
                    continue;
                }
                tick => Poll::Ready(Over::Tick(tick)),
            };
        }
    })
    .await;
    let stats = &connection.manager.stats;
    let mut early = Bytes::new();
    let mut held = Vec::new();
    let mut leftover = http.into_parts().map(|parts| {
        let (io, withheld) = parts.io.into_inner().into_parts();
        (held, early) = (withheld, parts.read_buf);
        io
    });
    match ended {
        Over::Quiet => {
            // It is there: only an upgrade takes it, and that ends the codec.
            return leftover.map_or(Stretch::Closed, |io| Stretch::Quiet(io, early));
        }
        Over::Codec(Ok(())) => {
            if let Some(io) = leftover.as_mut().filter(|_| !held.is_empty()) {
                // It was an answer like any other after all.
                say_last(io, &held, model.timeouts.delayed_close).await;
            }
        }
        Over::Codec(Err(error)) => {
            if error.is_parse() {
                stats.downstream_cx_protocol_error.inc();
            }
            tracing::debug!(%error, peer = %connection.peer.ip, "connection ended");
            if !held.is_empty()
                && let Some(io) = leftover
            {
                refuse(io, &error, &held, connection).await;
                return Stretch::Closed;
            }
            if error.is_user() || error.is_body_write_aborted() {
                // The response broke off. A reset tells the client so even where the end of the
                // connection would be the end of the body.
                return cut(leftover);
            }
        }
        Over::Tick(Tick::IdleTimeout) => {
            if let Some(io) = &mut leftover {
                // Said before lingering: a client that does not know would send another request.
                say_last(io, b"", model.timeouts.delayed_close).await;
            }
        }
        Over::Tick(Tick::HeadTimeout) => {
            stats.downstream_rq_header_timeout.inc();
            if let Some(mut io) = leftover {
                let text = "HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\n\
                            content-length: 22\r\nconnection: close\r\n\r\nrequest header timeout";
                let limit = model.timeouts.delayed_close;
                say_last(&mut io, text.as_bytes(), limit).await;
                linger(io, limit).await;
            }
            return Stretch::Closed;
        }
        Over::Tick(Tick::WriteStalled) => {
            stats.downstream_rq_idle_timeout.inc();
            tracing::debug!(peer = %connection.peer.ip, "stream idle timeout fired on a write");
            return cut(leftover);
        }
        Over::Tick(Tick::Nothing | Tick::Streams) => {}
    }
    if let Some(io) = leftover {
        linger(io, connection.manager.model.timeouts.delayed_close).await;
    }
    Stretch::Closed
}

/// Ready when nothing has happened for long enough. Looked at between requests only: a busy
/// connection is woken for it once.
fn poll_quiet(cx: &mut Context<'_>, rest: &mut Deadline, connection: &Connection) -> Poll<()> {
    if connection.is_busy() {
        return Poll::Pending;
    }
    loop {
        ready!(Pin::new(&mut *rest).poll(cx));
        let idle = Instant::now().saturating_duration_since(connection.idle_since());
        match PARK.checked_sub(idle) {
            None if connection.activity().is_quiet() && !connection.is_in_a_body() => {
                return Poll::Ready(());
            }
            None => rest.reset_roughly(PARK),
            Some(left) => rest.reset_roughly(left),
        }
    }
}

/// Answers a head that cannot be parsed, in the place of the parser's own answer. The end of the
/// connection follows when the client has had time to read it.
async fn refuse(mut io: Io, error: &hyper::Error, automatic: &[u8], connection: &Rc<Connection>) {
    let answer = unparsed::answer(error, automatic, connection);
    let limit = connection.manager.model.timeouts.delayed_close;
    // Best effort: the client may be gone, or take nothing.
    tokio::time::timeout(limit, io.write_all(&answer))
        .await
        .ok();
    linger(io, limit).await;
}

/// Ends our side, after some last words. Best effort: the client may be gone, or take nothing of it,
/// and then its connection must not stay for that.
async fn say_last(io: &mut Io, words: &[u8], limit: Duration) {
    let saying = async {
        io.write_all(words).await?;
        io.shutdown().await
    };
    // Asked once even where the limit, `delayed_close_timeout`, is zero.
    tokio::time::timeout(limit, saying).await.ok();
}

/// Closes so that the peer sees a reset, and nothing that waits to be sent is kept.
fn cut(io: Option<Io>) -> Stretch {
    if let Some(io) = io {
        io.reset_on_close();
    }
    Stretch::Closed
}

/// Reads what the client still sends, for a moment: closing at once would reset the connection,
/// and the client might never see our last answer (RFC 9112 section 9.6).
pub(super) async fn linger(mut io: Io, limit: Duration) {
    if limit.is_zero() {
        return;
    }
    // On the heap: every idle connection has room for this future in its own.
    let mut discarded = vec![0; 4096];
    let drain = async { while io.read(&mut discarded).await.is_ok_and(|n| n > 0) {} };
    // Either end will do; the deadline is `delayed_close_timeout`.
    tokio::time::timeout(limit, drain).await.ok();
}
