//! Bytes both ways between two connections.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;
use crate::runtime::timer::Deadline;

/// What one read may bring. One buffer per thread serves every tunnel: an idle tunnel holds none.
const SCRATCH: usize = 256 * 1024;
/// As [`SCRATCH`], for the other side of a stream of HTTP/2.
const STREAM_PIECE: usize = 16 * 1024;

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
pub async fn both(
    mut a: Side,
    mut b: Side,
    idle: Duration,
    mut moved: impl FnMut(u64, u64),
) -> Ended {
    let mut deadline = Deadline::after(idle);
    let mut last = Instant::now();
    std::future::poll_fn(|cx| {
        let mut active = false;
        let to_b = transfer(cx, (&mut a, End::A), (&mut b, End::B), |n| {
            active = true;
            moved(0, n);
        });
        let to_a = transfer(cx, (&mut b, End::B), (&mut a, End::A), |n| {
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
        if from.read_done {
            if !from.shut {
                ready!(Pin::new(&mut to.io).poll_shutdown(cx)).map_err(at_target)?;
                from.shut = true;
            }
            return Poll::Ready(Ok(()));
        }
        let read = BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(SCRATCH, 0);
            // A stream of HTTP/2 takes whatever it is given, and keeps it until the peer lets it go.
            let most = match to.io {
                Io::Stream(_) => STREAM_PIECE,
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
        match ready!(read)? {
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

    /// The danger: tunnels that somebody sweeps away because nothing was said on them for a minute.
    #[tokio::test(start_paused = true)]
    async fn a_silent_tunnel_outlives_the_day_when_no_limit_is_set() {
        let (mut client, down) = UnixStream::pair().unwrap();
        let (up, mut kernel) = UnixStream::pair().unwrap();
        let side = |io| Side::new(Io::Unix(io), Bytes::new());
        let joined = both(side(down), side(up), Duration::ZERO, |_, _| ());
        let joined = tokio::spawn(joined);
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
