//! Writing what several streams of an HTTP/2 connection have to say in one go.
//!
//! The codec flushes after every frame that it does not copy, which is after nearly every response:
//! a system call each, and the dearest part of a request. Here all of one turn of the connection's
//! task leaves together; and while several streams run, it waits for one turn more: tasks that are
//! ready already come first, so their responses go along. No timer is involved: the next turn
//! follows as soon as the thread has done what was due. A lone stream is never kept waiting.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http2::Malformed;
use super::opening::Opening;

/// More than this is never put together: from here on a system call is cheap for what it moves.
const MOST: usize = 64 * 1024;
/// Buffers that a thread keeps for its connections; one is in use only between two turns.
const KEPT: usize = 4;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A connection whose writes are put together. The codec has one handle, and whoever polls the codec
/// another, to say when they leave.
#[derive(Debug)]
pub struct Coalesced<W>(Rc<RefCell<Shared<W>>>);

#[derive(Debug)]
struct Shared<W> {
    io: W,
    waiting: Vec<u8>,
    /// So much of it is written.
    written: usize,
    /// It was left to the next turn already.
    put_off: bool,
    /// Written, and perhaps still inside the TLS session.
    unflushed: bool,
    /// What is read is looked at as it passes.
    opening: Opening,
    /// So is what is written, where malformed requests end their connection.
    malformed: Option<Malformed>,
    /// Moves with every read.
    reads: u32,
}

impl<W: AsyncWrite + Unpin> Coalesced<W> {
    pub fn new(io: W) -> Self {
        Self(Rc::new(RefCell::new(Shared {
            io,
            waiting: Vec::new(),
            written: 0,
            put_off: false,
            unflushed: false,
            opening: Opening::default(),
            malformed: None,
            reads: 0,
        })))
    }

    /// Malformed requests are to end it. Call it before anything is written.
    pub fn end_with_malformed(&mut self) {
        self.0.borrow_mut().malformed = Some(Malformed::default());
    }

    /// The request of a stream was handed over.
    pub fn accepted(&self, stream: u32) {
        let mut shared = self.0.borrow_mut();
        let Shared {
            malformed, waiting, ..
        } = &mut *shared;
        if let Some(malformed) = malformed {
            malformed.accepted(stream, waiting);
        }
    }

    /// Whether it has to end for a malformed request. Ask when all requests that came have been handed
    /// over.
    pub fn is_malformed(&self) -> bool {
        let shared = self.0.borrow();
        shared.malformed.as_ref().is_some_and(Malformed::is_over)
    }

    /// Moves with everything that comes.
    pub fn reads(&self) -> u32 {
        self.0.borrow().reads
    }

    /// The connection below, when the codec has let go of it; what waits to be written is lost.
    pub fn into_inner(self) -> Option<W> {
        Some(Rc::try_unwrap(self.0).ok()?.into_inner().io)
    }

    pub fn handle(&self) -> Self {
        Self(Rc::clone(&self.0))
    }

    /// Call it when the codec has nothing more to say for now. `crowded`: several streams run, so
    /// more may come of the tasks that are ready.
    ///
    /// # Errors
    /// Those of writing to the connection.
    pub fn end_turn(&self, cx: &mut Context<'_>, crowded: bool) -> io::Result<()> {
        let mut shared = self.0.borrow_mut();
        if shared.waiting.is_empty() && !shared.unflushed {
            return Ok(());
        }
        if crowded && !shared.put_off && !shared.waiting.is_empty() {
            shared.put_off = true;
            cx.waker().wake_by_ref();
            return Ok(());
        }
        match shared.poll_write_out(cx) {
            Poll::Ready(Err(error)) => Err(error),
            // What does not fit wakes the task when it does.
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }
}

impl<W: AsyncWrite + Unpin> Shared<W> {
    fn take(&mut self, bytes: &[u8]) {
        match &mut self.malformed {
            None => self.waiting.extend_from_slice(bytes),
            Some(malformed) => malformed.pass(bytes, &mut self.waiting),
        }
    }

    /// Room for more, which is made if need be.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= MOST {
            ready!(self.poll_write_out(cx))?;
        }
        if self.waiting.capacity() == 0 {
            self.waiting = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        Poll::Ready(Ok(MOST - self.waiting.len()))
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let rest = &self.waiting[self.written..];
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.unflushed = true;
        }
        (self.written, self.put_off) = (0, false);
        let mut empty = std::mem::take(&mut self.waiting);
        empty.clear();
        if empty.capacity() > 0 {
            BUFFERS.with_borrow_mut(|kept| {
                if kept.len() < KEPT {
                    kept.push(empty);
                }
            });
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncRead + Unpin> AsyncRead for Coalesced<W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = self.0.borrow_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut shared.io).poll_read(cx, buf))?;
        shared.reads = shared.reads.wrapping_add(1);
        Poll::Ready(shared.opening.look(&buf.filled()[before..]))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Coalesced<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.borrow_mut();
        let taken = ready!(shared.poll_room(cx))?.min(buf.len());
        shared.take(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.borrow_mut();
        let room = ready!(shared.poll_room(cx))?;
        let mut left = room;
        for buf in bufs {
            let taken = left.min(buf.len());
            shared.take(&buf[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(room - left))
    }

    /// All is copied here, so the codec need not do it.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The end of the turn sees to it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.borrow_mut();
        ready!(shared.poll_write_out(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;

    fn pair() -> (Coalesced<DuplexStream>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1024 * 1024);
        (Coalesced::new(ours), theirs)
    }

    fn write(io: &mut Coalesced<DuplexStream>, bytes: &[u8]) {
        let cx = &mut Context::from_waker(Waker::noop());
        let written = Pin::new(&mut *io).poll_write(cx, bytes);
        assert!(matches!(written, Poll::Ready(Ok(n)) if n == bytes.len()));
        assert!(Pin::new(io).poll_flush(cx).is_ready());
    }

    fn end_turn(io: &Coalesced<DuplexStream>, crowded: bool) {
        io.end_turn(&mut Context::from_waker(Waker::noop()), crowded)
            .unwrap();
    }

    async fn arrived(theirs: &mut DuplexStream) -> usize {
        let mut buffer = vec![0; 1024 * 1024];
        tokio::select! {
            biased;
            read = theirs.read(&mut buffer) => read.unwrap(),
            () = std::future::ready(()) => 0,
        }
    }

    #[tokio::test]
    async fn what_several_streams_say_waits_for_one_turn_of_the_others() {
        let (mut io, mut theirs) = pair();
        write(&mut io, b"one");
        write(&mut io, b"two");
        end_turn(&io, true);
        assert_eq!(arrived(&mut theirs).await, 0);
        write(&mut io, b"three");
        end_turn(&io, true);
        assert_eq!(arrived(&mut theirs).await, 11);
        write(&mut io, b"four");
        end_turn(&io, true);
        assert_eq!(arrived(&mut theirs).await, 0);
    }

    #[tokio::test]
    async fn a_lone_stream_is_not_kept_waiting() {
        let (mut io, mut theirs) = pair();
        write(&mut io, b"one");
        write(&mut io, b"two");
        end_turn(&io, false);
        assert_eq!(arrived(&mut theirs).await, 6);
    }

    #[tokio::test]
    async fn no_more_waits_than_the_bound_and_nothing_is_lost_at_the_end() {
        let (mut io, mut theirs) = pair();
        write(&mut io, &vec![0; MOST]);
        end_turn(&io, true);
        assert_eq!(arrived(&mut theirs).await, 0);
        write(&mut io, b"more");
        assert_eq!(arrived(&mut theirs).await, MOST);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut io).poll_shutdown(cx).is_ready());
        assert_eq!(arrived(&mut theirs).await, 4);
    }

    /// As TLS does: takes everything, and needs a second flush to be rid of it.
    #[derive(Default)]
    struct Reluctant {
        flushes: usize,
    }

    impl AsyncWrite for Reluctant {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            match self.flushes {
                1 => Poll::Pending,
                _ => Poll::Ready(Ok(())),
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The danger: the end of a response stays where it was encrypted.
    #[test]
    fn what_could_not_be_flushed_is_flushed_in_a_later_turn() {
        let mut io = Coalesced::new(Reluctant::default());
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut io).poll_write(cx, b"end").is_ready());
        for flushes in [1, 2, 2] {
            io.end_turn(cx, false).unwrap();
            assert_eq!(io.0.borrow().io.flushes, flushes);
        }
    }
}
