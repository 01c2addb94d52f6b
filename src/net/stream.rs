//! One byte stream type for every transport, so that what is generic over I/O is compiled once and
//! an upgraded connection can be taken back to its socket.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::body::BodyStream;
use super::http2::Tunnel;

/// A connection, either side.
#[derive(Debug)]
pub enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    ServerTls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    ClientTls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// The body of a request and that of its answer.
    Body(Box<BodyStream>),
    /// A stream of HTTP/2, on either side, that became a tunnel.
    Tunnel(Box<Tunnel>),
}

macro_rules! each {
    ($self:expr, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Io::Tcp($io) => $call,
            Io::Unix($io) => $call,
            Io::ServerTls($io) => $call,
            Io::ClientTls($io) => $call,
            Io::Body($io) => $call,
            Io::Tunnel($io) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => poll_send(io, cx, bufs),
            Self::Unix(io) => poll_send(io, cx, bufs),
            Self::ServerTls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::ClientTls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Body(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tunnel(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Unix(io) => io.is_write_vectored(),
            Self::ServerTls(io) => io.is_write_vectored(),
            Self::ClientTls(io) => io.is_write_vectored(),
            Self::Body(io) => io.is_write_vectored(),
            Self::Tunnel(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

/// Up to so many bytes are put together before they are sent.
const SMALL: usize = 2048;

thread_local! {
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes to a socket by `send` where that takes one piece. `writev` goes by way of the file layer,
/// which costs 0.2 us more each time: more than copying a head and a short body together.
fn poll_send<W: AsyncWrite + Unpin>(
    socket: &mut W,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let socket = Pin::new(socket);
    if let [one] = bufs {
        return socket.poll_write(cx, one);
    }
    if bufs.iter().map(|buf| buf.len()).sum::<usize>() > SMALL {
        return socket.poll_write_vectored(cx, bufs);
    }
    PIECE.with_borrow_mut(|piece| {
        piece.clear();
        for buf in bufs {
            piece.extend_from_slice(buf);
        }
        socket.poll_write(cx, piece)
    })
}

impl Io {
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::ServerTls(_) | Self::ClientTls(_))
    }

    /// Ready when the peer has sent something that nobody has read yet, or has left. TLS must not
    /// hold any of it back: it does not when a read has just found nothing.
    ///
    /// # Errors
    /// The connection cannot be watched any more.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(io) => io.poll_read_ready(cx),
            Self::Unix(io) => io.poll_read_ready(cx),
            Self::ServerTls(io) => io.get_ref().0.poll_read_ready(cx),
            Self::ClientTls(io) => io.get_ref().0.poll_read_ready(cx),
            // Nothing is known of these: whoever reads finds out.
            Self::Body(_) | Self::Tunnel(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether the server has chosen HTTP/2 by ALPN.
    pub fn chose_http2(&self) -> bool {
        match self {
            Self::ClientTls(io) => io.get_ref().1.alpn_protocol() == Some(b"h2"),
            _ => false,
        }
    }

    /// Makes the peer see a reset once this is dropped, and nothing that waits to be sent be kept.
    pub fn reset_on_close(&self) {
        if let Some(tcp) = self.tcp() {
            // Without it the close is an ordinary one, which is the next best.
            socket2::SockRef::from(tcp)
                .set_linger(Some(std::time::Duration::ZERO))
                .ok();
        }
    }

    /// The TCP socket below, whatever is on top.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(io) => Some(io),
            Self::Unix(_) | Self::Body(_) | Self::Tunnel(_) => None,
            Self::ServerTls(io) => Some(io.get_ref().0),
            Self::ClientTls(io) => Some(io.get_ref().0),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_whole_and_in_order_whatever_they_are_sent_by() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (mut client, accepted) = (client.await.unwrap(), listener.accept().await.unwrap());
        let mut io = Io::Tcp(accepted.0);
        let long = vec![b'l'; SMALL];
        for pieces in [
            &[&b"one"[..]][..],
            &[b"head", b"", b"body"],
            &[b"head", &long],
        ] {
            let all = pieces.concat();
            let slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
            // A fresh socket's buffer has room for all of it.
            assert_eq!(io.write_vectored(&slices).await.unwrap(), all.len());
            let mut got = vec![0; all.len()];
            client.read_exact(&mut got).await.unwrap();
            assert_eq!(got, all);
        }
    }
}
