//! The deadlines of a connection, and what its socket tells them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_xds::resource::http_manager::Timeouts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection_manager::{Connection, NEVER};
use super::framing::Heads;
use crate::net::Io;
use crate::runtime::timer::Deadline;

/// What the socket of a connection is doing, as its deadlines need to know it.
#[derive(Debug, Default)]
pub struct Activity {
    /// Bytes of a request have come and its head is not complete. HTTP/1 only.
    pub reading: AtomicBool,
    /// A request runs.
    pub active: AtomicBool,
    /// The answer to the last request may not have left yet.
    pub answering: AtomicBool,
    /// The client takes nothing more at the moment.
    pub blocked: AtomicBool,
    /// Counts what it took.
    pub writes: AtomicU32,
    /// Where the heads of requests are looked at once more. HTTP/1 only.
    pub heads: Option<Mutex<Heads>>,
}

/// Notes down what happens on the socket. Must be `Send`, since hyper hands it over on an upgrade.
pub struct Counted {
    io: Io,
    activity: Arc<Activity>,
    /// What the parser answered by itself, which is not sent: see [`Counted::withhold`].
    held: Vec<u8>,
    /// Taken from the socket before, and read first.
    early: Bytes,
}

impl Activity {
    /// Of an HTTP/1 connection whose heads have up to `head` bytes.
    pub fn http1(head: usize) -> Self {
        Self {
            heads: Some(Mutex::new(Heads::new(head))),
            ..Self::default()
        }
    }

    /// Nothing of a request or a response is on its way, as far as the socket knows.
    pub fn is_quiet(&self) -> bool {
        let busy = [&self.reading, &self.active, &self.blocked];
        busy.iter().all(|flag| !flag.load(Relaxed))
    }

    fn note_read(&self, bytes: &[u8]) {
        self.reading.store(true, Relaxed);
        if !self.active.load(Relaxed) {
            self.answering.store(false, Relaxed);
        }
        if let Some(heads) = &self.heads {
            heads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read(bytes);
        }
    }

    fn note_write(&self, blocked: bool) {
        self.blocked.store(blocked, Relaxed);
        if !blocked {
            self.writes.fetch_add(1, Relaxed);
            if !self.active.load(Relaxed) {
                self.answering.store(false, Relaxed);
            }
        }
    }
}

impl Counted {
    pub fn new(io: Io, activity: Arc<Activity>) -> Self {
        Self::resumed(io, Bytes::new(), activity)
    }

    /// Begins anew on a connection, from which `early` was read and not used.
    pub fn resumed(io: Io, early: Bytes, activity: Arc<Activity>) -> Self {
        if let Some(heads) = &activity.heads {
            heads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .forget();
        }
        Self {
            io,
            activity,
            held: Vec::new(),
            early,
        }
    }

    pub fn into_inner(self) -> Io {
        self.io
    }

    /// The socket, and what was held back.
    pub fn into_parts(self) -> (Io, Vec<u8>) {
        (self.io, self.held)
    }

    /// hyper answers what it cannot parse by itself, without a body, a log or a count. Such an
    /// answer is kept for whoever serves the connection, who knows a better one. It is told by its
    /// form, and by nothing else being under way; should it be somebody's answer after all, it is
    /// sent when the connection ends, which it is about to do.
    fn withhold(&mut self, bytes: &[u8]) -> bool {
        if !bytes.starts_with(b"HTTP/1.1 4")
            || self.activity.heads.is_none()
            || self.activity.answering.load(Relaxed)
        {
            return false;
        }
        let mut lines = bytes.split(|b| *b == b'\n').skip(1);
        let mut is = |text: &[u8]| {
            let line = lines.next().and_then(|line| line.get(..text.len()));
            line.is_some_and(|line| line.eq_ignore_ascii_case(text))
        };
        let automatic =
            is(b"connection: close\r") && is(b"content-length: 0\r") && is(b"date: ") && is(b"\r");
        if automatic && lines.next() == Some(b"") {
            self.held = bytes.to_vec();
        }
        !self.held.is_empty()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = if self.early.is_empty() {
            Pin::new(&mut self.io).poll_read(cx, buf)
        } else {
            let count = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(count));
            Poll::Ready(Ok(()))
        };
        if buf.filled().len() > before {
            self.activity.note_read(&buf.filled()[before..]);
        }
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.withhold(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.activity.note_write(result.is_pending());
        result
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [one] = bufs
            && self.withhold(one)
        {
            return Poll::Ready(Ok(one.len()));
        }
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.activity.note_write(result.is_pending());
        result
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        // TLS takes more than the socket does, and keeps the rest.
        if result.is_pending() != self.activity.blocked.load(Relaxed) {
            self.activity.note_write(result.is_pending());
        }
        result
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What the driver of a connection does when nothing else happens.
pub enum Tick {
    Nothing,
    /// The streams may be due, and say anew by when they want to be looked at.
    Streams,
    HeadTimeout,
    IdleTimeout,
    /// The client has taken nothing for as long as a stream may be silent. hyper does not ask a
    /// body for more while it waits to write, so the stream's own deadlines cannot see this.
    WriteStalled,
}

/// The deadlines of a connection between and before requests, looked at by one timer.
pub struct Clock {
    idle: Duration,
    head: Duration,
    deadline: Deadline,
    /// When `deadline` fires.
    at: Instant,
    /// When the timer first saw bytes of a request whose head is not complete.
    head_since: Option<Instant>,
    stall: Duration,
    /// Since when the client takes nothing, and what it had taken by then.
    stalled: Option<(Instant, u32)>,
}

impl Clock {
    /// `since`: from when on the connection is idle, unless it gets to do something.
    pub fn new(timeouts: &Timeouts, head: Duration, since: Instant) -> Self {
        let (idle, stall) = (timeouts.idle, timeouts.stream_idle);
        let left = idle.saturating_sub(since.elapsed());
        let idle_left = (!idle.is_zero()).then(|| left.max(Duration::from_millis(1)));
        let others = [head, stall].into_iter().filter(|d| !d.is_zero());
        let period = others.chain(idle_left).min();
        let deadline = period.map_or_else(Deadline::never, Deadline::after);
        let at = Instant::now() + period.unwrap_or(NEVER);
        Self {
            idle,
            head,
            deadline,
            at,
            head_since: None,
            stall,
            stalled: None,
        }
    }

    /// There is no [`Tick::IdleTimeout`] any more.
    pub fn stop_idle(&mut self) {
        self.idle = Duration::ZERO;
    }

    /// Call when polled.
    pub fn poll(&mut self, cx: &mut Context<'_>, connection: &Connection) -> Tick {
        let busy = connection.is_busy();
        let activity = connection.activity();
        // What comes of a body whose request was answered already is no head.
        let reading = activity.reading.load(Relaxed) && !busy && !connection.is_in_a_body();
        match (reading, self.head_since) {
            (true, None) if !self.head.is_zero() => {
                let now = Instant::now();
                self.head_since = Some(now);
                connection.look_by(now + self.head);
            }
            (false, Some(_)) => self.head_since = None,
            _ => {}
        }
        if !activity.blocked.load(Relaxed) {
            self.stalled = None;
        } else if !self.stall.is_zero() {
            let writes = activity.writes.load(Relaxed);
            if self.stalled.is_none_or(|(_, before)| before != writes) {
                self.stalled = Some((Instant::now(), writes));
            }
        }
        let look = connection.look().get();
        if look < self.at {
            self.at = look;
            let after = look.saturating_duration_since(Instant::now());
            self.deadline.reset(after.max(Duration::from_millis(1)));
        }
        while Pin::new(&mut self.deadline).poll(cx).is_ready() {
            let limits = [
                (self.head_since, self.head, Tick::HeadTimeout),
                (
                    (!busy && self.head_since.is_none()).then(|| connection.idle_since()),
                    self.idle,
                    Tick::IdleTimeout,
                ),
                (
                    self.stalled.map(|(since, _)| since),
                    self.stall,
                    Tick::WriteStalled,
                ),
            ];
            // Nothing is due sooner than the shortest limit from now, unless it runs already.
            let set = [self.idle, self.head, self.stall]
                .into_iter()
                .filter(|d| !d.is_zero());
            let mut next = set.min().unwrap_or(NEVER);
            for (since, limit, tick) in limits {
                if let (Some(since), false) = (since, limit.is_zero()) {
                    match limit
                        .checked_sub(since.elapsed())
                        .filter(|left| !left.is_zero())
                    {
                        None => return tick,
                        Some(left) => next = next.min(left),
                    }
                }
            }
            self.at = Instant::now() + next;
            self.deadline.reset(next);
            connection.look().set(self.at);
            if busy && connection.polls_streams() {
                return Tick::Streams;
            }
        }
        Tick::Nothing
    }
}
