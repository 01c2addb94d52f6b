//! Bytes both ways between two connections.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;
use super::splice::{Filled, Pipe};
use crate::runtime::timer::Deadline;

/// What one read may bring. One buffer per thread serves every tunnel: an idle tunnel holds none.
const SCRATCH: usize = 256 * 1024;
/// As [`SCRATCH`], for the other side of a stream of HTTP/2.
const STREAM_PIECE: usize = 16 * 1024;
/// A read of so much is part of a bulk transfer.
const LARGE: usize = 16 * 1024;
/// After so much in large reads without a small one between, the kernel moves the rest: a pipe pays
/// for bulk only, and costs messages more than it saves them.
const BULK: usize = 1024 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One end of a tunnel.
#[derive(Debug)]
pub struct Side {
    io: Io,
    /// Read from this side and not yet written to the other.
    waiting: Bytes,
    /// This side will send nothing more.
    read_done: bool,
    /// The other side has been told so.
    shut: bool,
    /// Written to this side and perhaps still inside its TLS session.
    unflushed: bool,
    /// Bytes read from this side in large reads, since the last small one.
    run: usize,
    /// On the way from this side to the other; only while it sends much.
    pipe: Option<Pipe>,
}

impl Side {
    /// `early` was read from the connection before the tunnel began.
    pub fn new(io: Io, early: Bytes) -> Self {
        Self {
            io,
            waiting: early,
            read_done: false,
            shut: false,
            unflushed: false,
            run: 0,
            pipe: None,
        }
    }

    fn has_read(&mut self, count: usize) {
        self.run = match count {
            LARGE.. => self.run.saturating_add(count),
            _ => 0,
        };
    }

    fn give_pipe_back(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }
}

/// How a tunnel ended.
#[derive(Debug)]
pub enum Ended {
    /// Both sides had finished.
    Closed,
    /// Nothing moved for as long as is allowed.
    Idle,
    /// This side broke off; the other is cut as well.
    Broken(End, io::Error),
}

/// The sides of a tunnel, as [`both`] calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    A,
    B,
}

/// Copies until both sides have finished, one breaks off, or nothing moves for `idle` (zero: for
/// ever). Half-close is passed on. `moved` is told of bytes written to `a` and to `b`.
///
/// The sides stay with the caller, who counts an end before either peer can see it.
pub async fn both(
    a: &mut Side,
    b: &mut Side,
    idle: Duration,
    mut moved: impl FnMut(u64, u64),
) -> Ended {
    let mut deadline = Deadline::after(idle);
    let mut last = Instant::now();
    std::future::poll_fn(|cx| {
        let mut active = false;
        let to_b = transfer(cx, (&mut *a, End::A), (&mut *b, End::B), |n| {
            active = true;
            moved(0, n);
        });
        let to_a = transfer(cx, (&mut *b, End::B), (&mut *a, End::A), |n| {
            active = true;
            moved(n, 0);
        });
        match (to_a, to_b) {
            (Poll::Ready(Err((end, error))), _) | (_, Poll::Ready(Err((end, error)))) => {
                // What is cut must not look whole.
                match end {
                    End::A => b.io.reset_on_close(),
                    End::B => a.io.reset_on_close(),
                }
                return Poll::Ready(Ended::Broken(end, error));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ended::Closed),
            _ => {}
        }
        if idle.is_zero() {
            return Poll::Pending;
        }
        if active {
            last = Instant::now();
        }
        loop {
            ready!(Pin::new(&mut deadline).poll(cx));
            match idle
                .checked_sub(last.elapsed())
                .filter(|left| !left.is_zero())
            {
                Some(left) => deadline.reset(left),
                None => return Poll::Ready(Ended::Idle),
            }
        }
    })
    .await
}

/// One direction. Ready once `from` has finished and `to` has been told, or one of them broke off.
fn transfer(
    cx: &mut Context<'_>,
    (from, source): (&mut Side, End),
    (to, target): (&mut Side, End),
    mut moved: impl FnMut(u64),
) -> Poll<Result<(), (End, io::Error)>> {
    let at_source = |error| (source, error);
    let at_target = |error| (target, error);
    loop {
        if to.unflushed {
            ready!(Pin::new(&mut to.io).poll_flush(cx)).map_err(at_target)?;
            to.unflushed = false;
        }
        while from.waiting.has_remaining() {
            let n =
                ready!(Pin::new(&mut to.io).poll_write(cx, &from.waiting)).map_err(at_target)?;
            if n == 0 {
                return Poll::Ready(Err(at_target(io::ErrorKind::WriteZero.into())));
            }
            from.waiting.advance(n);
            to.unflushed = to.io.is_tls();
            moved(n as u64);
        }
        if let (Some(pipe), Io::Tcp(to)) = (&mut from.pipe, &to.io) {
            ready!(pipe.poll_drain(cx, to, &mut moved)).map_err(at_target)?;
        }
        if from.read_done {
            from.give_pipe_back();
            if !from.shut {
                ready!(Pin::new(&mut to.io).poll_shutdown(cx)).map_err(at_target)?;
                from.shut = true;
            }
            return Poll::Ready(Ok(()));
        }
        if from.run >= BULK
            && let (Io::Tcp(source), Io::Tcp(_)) = (&from.io, &to.io)
        {
            if from.pipe.is_none() {
                from.pipe = Pipe::take();
            }
            if let Some(pipe) = &mut from.pipe {
                match pipe.poll_fill(cx, source) {
                    Poll::Ready(Ok(Filled::End)) => from.read_done = true,
                    Poll::Ready(Ok(Filled::Bytes(n))) => from.has_read(n),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(at_source(error))),
                    Poll::Pending => {
                        // It is empty, and this may be the last of the bulk.
                        from.give_pipe_back();
                        return Poll::Pending;
                    }
                }
                continue;
            }
        }
        from.give_pipe_back();
        let read = BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(SCRATCH, 0);
            // A stream of HTTP/2 takes whatever it is given, and keeps it until the peer lets it go.
            let most = match to.io {
                Io::Body(_) | Io::Tunnel(_) => STREAM_PIECE,
                _ => SCRATCH,
            };
            let mut space = ReadBuf::new(&mut buffer[..most]);
            ready!(Pin::new(&mut from.io).poll_read(cx, &mut space)).map_err(at_source)?;
            let mut filled: &[u8] = space.filled();
            let count = filled.len();
            // What the other side takes at once is never copied.
            while !filled.is_empty() {
                match Pin::new(&mut to.io).poll_write(cx, filled) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(at_target(io::ErrorKind::WriteZero.into())));
                    }
                    Poll::Ready(Ok(n)) => {
                        filled = &filled[n..];
                        moved(n as u64);
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(at_target(error))),
                    Poll::Pending => {
                        from.waiting = Bytes::copy_from_slice(filled);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(count))
        });
        let count = ready!(read)?;
        from.has_read(count);
        match count {
            0 => from.read_done = true,
            _ if from.waiting.has_remaining() => return Poll::Pending,
            // TLS may hold encrypted bytes back until it is flushed.
            _ => to.unflushed = to.io.is_tls(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    async fn tcp_pair() -> (Io, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = (connected.await.unwrap(), listener.accept().await.unwrap().0);
        (Io::Tcp(ours), theirs)
    }

    fn joined(down: Io, up: Io) -> tokio::task::JoinHandle<Ended> {
        tokio::spawn(async move {
            let side = |io| Side::new(io, Bytes::new());
            let (mut down, mut up) = (side(down), side(up));
            both(&mut down, &mut up, Duration::ZERO, |_, _| ()).await
        })
    }

    /// Bulk with a slow reader, messages after it, and bulk once more: nothing is lost or moved.
    #[tokio::test]
    async fn bulk_and_messages_pass_in_order_and_a_half_close_comes_after_them() {
        const MANY: usize = 12 * 1024 * 1024;
        let (down, mut client) = tcp_pair().await;
        let (up, mut server) = tcp_pair().await;
        let joined = joined(down, up);
        let bulk: Vec<u8> = (0..MANY).map(|n| (n % 251) as u8).collect();
        let expected = bulk.clone();
        let sent = tokio::spawn(async move {
            client.write_all(&bulk).await.unwrap();
            let mut heard = [0; 4];
            for _ in 0..20 {
                client.write_all(b"ping").await.unwrap();
                client.read_exact(&mut heard).await.unwrap();
                assert_eq!(&heard, b"pong");
            }
            client.write_all(&bulk).await.unwrap();
            client.shutdown().await.unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            rest
        });
        let mut got = vec![0; MANY];
        // Small pieces, so that the pipe has to wait for its reader.
        for piece in got.chunks_mut(100_000) {
            server.read_exact(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(got == expected);
        for _ in 0..20 {
            server.read_exact(&mut got[..4]).await.unwrap();
            assert_eq!(&got[..4], b"ping");
            server.write_all(b"pong").await.unwrap();
        }
        got.clear();
        server.read_to_end(&mut got).await.unwrap();
        assert!(got == expected);
        // The other direction is open still.
        server.write_all(&expected).await.unwrap();
        drop(server);
        assert!(sent.await.unwrap() == expected);
        assert!(matches!(joined.await.unwrap(), Ended::Closed));
        assert!(
            super::super::splice::pipes_kept() > 0,
            "it was moved by the kernel"
        );
    }

    /// The danger: tunnels that somebody sweeps away because nothing was said on them for a minute.
    #[tokio::test(start_paused = true)]
    async fn a_silent_tunnel_outlives_the_day_when_no_limit_is_set() {
        let (mut client, down) = UnixStream::pair().unwrap();
        let (up, mut kernel) = UnixStream::pair().unwrap();
        let joined = joined(Io::Unix(down), Io::Unix(up));
        let mut heard = [0; 4];
        for _ in 0..144 {
            tokio::time::advance(Duration::from_secs(600)).await;
            assert!(!joined.is_finished());
        }
        client.write_all(b"ping").await.unwrap();
        kernel.read_exact(&mut heard).await.unwrap();
        kernel.write_all(b"pong").await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
        drop(client);
        assert_eq!(kernel.read(&mut heard).await.unwrap(), 0);
        drop(kernel);
        assert!(matches!(joined.await.unwrap(), Ended::Closed));
    }
}
