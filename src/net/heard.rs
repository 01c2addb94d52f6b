//! What a peer has said before it stopped listening is heard.
//!
//! An application that answers before it has read a request, and closes (413 to an upload that is too
//! large), resets the connection. Its answer is there to be read all the same, but whoever happens to
//! write first meets the reset, and gives up. So writing to somebody who is gone goes nowhere without a
//! word here; the end, and that it was none in good order, comes with reading.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that is written to in vain once its peer is gone, for as long as there is something to read.
#[derive(Debug)]
pub struct Heard<W> {
    io: W,
    /// Nothing that is written arrives.
    gone: bool,
}

impl<W> Heard<W> {
    pub fn new(io: W) -> Self {
        Self { io, gone: false }
    }

    pub fn into_inner(self) -> W {
        self.io
    }

    fn written<T>(&mut self, result: io::Result<T>, all: T) -> io::Result<T> {
        match result {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                self.gone = true;
                Ok(all)
            }
            other => other,
        }
    }
}

impl<W: AsyncRead + Unpin> AsyncRead for Heard<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let ended = matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before;
        // The system has told of the reset once, to the writer.
        if ended && self.gone && buf.remaining() > 0 {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        read
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Heard<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.gone {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        written.map(|result| self.written(result, buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = || -> usize { bufs.iter().map(|buf| buf.len()).sum() };
        if self.gone {
            return Poll::Ready(Ok(all()));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        written.map(|result| self.written(result, all()))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        flushed.map(|result| self.written(result, ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_after_a_write_has_failed_and_its_end_is_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap());
        let mut io = Heard::new(connected.await.unwrap());
        let (mut peer, _) = listener.accept().await.unwrap();
        io.write_all(b"nobody reads this").await.unwrap();
        peer.readable().await.unwrap();
        peer.write_all(b"go away").await.unwrap();
        // With something unread, this resets.
        drop(peer);
        for _ in 0..2_000 {
            io.write_all(b"nor this").await.unwrap();
            if io.gone {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(io.gone);
        let mut said = Vec::new();
        let end = io.read_to_end(&mut said).await.unwrap_err();
        assert_eq!(
            (&said[..], end.kind()),
            (&b"go away"[..], ErrorKind::ConnectionReset)
        );
        io.write_all(b"in vain").await.unwrap();
        io.shutdown().await.unwrap();
    }
}
