//! A stream of HTTP/2 that a server's answer has made a tunnel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Of what is written at once, so much is taken; in bytes.
const PIECE: usize = 64 << 10;

/// Bytes through a stream. It ends in good order by a shutdown; dropped before that, the codec
/// resets the stream and lets go of what waited (RFC 9113 section 8.5).
#[derive(Debug)]
pub struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Taken from the stream, and not read yet.
    early: Bytes,
}

impl Tunnel {
    /// Both directions of a stream whose head is answered.
    pub fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self {
            send,
            receive,
            early: Bytes::new(),
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or(io::ErrorKind::BrokenPipe.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        while me.early.is_empty() {
            match ready!(me.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => me.early = data.map_err(broken)?,
            }
        }
        let count = me.early.len().min(buf.remaining());
        buf.put_slice(&me.early[..count]);
        me.early.advance(count);
        // It fails only for a stream that is gone.
        me.receive.flow_control().release_capacity(count).ok();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    /// Takes more once the peer has room for some of it: the rest waits in the codec.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let piece = &buf[..buf.len().min(PIECE)];
        if piece.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Asked for when there is something to send: what is asked for is kept from other streams.
        self.send.reserve_capacity(1);
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(capacity) => capacity.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
        }
        let data = Bytes::copy_from_slice(piece);
        self.send.send_data(data, false).map_err(broken)?;
        Poll::Ready(Ok(piece.len()))
    }

    /// The task of the connection sees to it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(broken))
    }
}
