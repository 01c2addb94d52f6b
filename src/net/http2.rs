//! HTTP/2 on either side: flow control, bodies, and streams that became tunnels.

mod received;
mod tunnel;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

pub use self::received::{Received, Wanted};
pub use self::tunnel::Tunnel;
use super::{Heard, Io};

/// Of one stream, when the configuration gives none, in bytes. It bounds what a peer that does not
/// read makes us hold for one exchange.
const STREAM: u32 = 256 << 10;
/// Of one connection, in bytes: the default, and the least there is.
///
/// The codec ends a connection (`ENHANCE_YOUR_CALM`) on which too many small DATA frames wait to
/// be read, and what it allows is half this window: each waiting frame below 256 bytes costs what
/// it lacks of 256. A stream of small messages that waits for its peer is no attack, so there has to
/// be room for one that filled `STREAM` with messages of a few bytes, or for five with messages of
/// twenty.
const CONNECTION: u32 = 32 << 20;

/// Receive windows of a connection and of each of its streams (RFC 9113 section 5.2), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    pub stream: u32,
    pub connection: u32,
}

impl Windows {
    /// From `initial_stream_window_size` and `initial_connection_window_size`.
    pub fn new(stream: Option<u32>, connection: Option<u32>) -> Self {
        Self {
            stream: stream.unwrap_or(STREAM),
            connection: connection.unwrap_or_default().max(CONNECTION),
        }
    }
}

/// What writes to an endpoint for a tunnel through a stream.
///
/// hyper writes in a task of its own, which ends the stream in good order when the tunnel is gone,
/// whatever the reason, and waits for the peer to take what is left. Both must not be where a
/// tunnel has broken off: so the task is known here, and is cut. Then the codec resets the stream
/// (RFC 9113 section 8.5) and lets go of what waited.
#[derive(Clone, Default)]
pub struct Writer(Rc<Cell<Option<AbortHandle>>>);

impl Writer {
    /// Starts the task that writes.
    pub fn start(&self, future: impl Future + 'static) {
        let task = tokio::task::spawn_local(async move {
            future.await;
        });
        self.0.set(Some(task.abort_handle()));
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

/// Held by a tunnel: when it is dropped the stream is reset, unless it has ended in good order.
#[derive(Debug)]
pub struct Hold(pub Writer);

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(task) = self.0.0.take() {
            task.abort();
        }
    }
}

/// A stream to an endpoint that became a tunnel. To whoever reads, hyper tells of a reset with CANCEL as of an end
/// in good order; whoever writes is told the truth, so that the end is only believed when the writer
/// agrees.
#[derive(Debug)]
pub struct TunnelStream {
    io: TokioIo<Upgraded>,
    end: End,
}

/// What the reader has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    /// The writer has to hear of it, too.
    Told,
    Checked,
}

impl TunnelStream {
    /// Of a stream whose answer has come.
    pub fn new(upgraded: Upgraded) -> Self {
        Self {
            io: TokioIo::new(upgraded),
            end: End::NotYet,
        }
    }
}

/// The end of a connection to an endpoint that has been switched, and what was read of it already.
pub fn upstream_parts(upgraded: Upgraded) -> (Io, Bytes) {
    match upgraded.downcast::<TokioIo<Heard<Io>>>() {
        Ok(parts) => (parts.io.into_inner().into_inner(), parts.read_buf),
        // A stream of HTTP/2 has no socket of its own.
        Err(stream) => (
            Io::Stream(Box::new(TunnelStream::new(stream))),
            Bytes::new(),
        ),
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end == End::NotYet {
            let before = buf.filled().len();
            std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            self.end = End::Told;
            // The task that writes is woken by the same reset, and comes before the next turn.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.end == End::Told {
            self.end = End::Checked;
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.io).poll_flush(cx) {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
