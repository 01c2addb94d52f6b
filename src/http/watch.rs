//! The deadlines of one stream.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::connection_manager::Connection;
use super::exchange::Exchange;
use super::failures::UPSTREAM_DURATION;
use crate::error::ResponseFlag;
use crate::runtime::timer::{Deadline, FAR};
use crate::upstream::body::Progress;

/// Which deadline fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// The route's `timeout`: from the end of the request to the end of the response.
    RouteTimeout(Duration),
    /// `request_timeout`: from the head of the request to its end.
    Request(Duration),
    /// `stream_idle_timeout` or the route's `idle_timeout`: no byte either way.
    StreamIdle(Duration),
    /// `max_stream_duration`: from the head of the request to the end of the response.
    Duration(Duration),
    /// The cluster's `max_stream_duration`: from an attempt to the end of the response.
    Upstream(Duration),
}

impl Fired {
    /// Envoy has none for the duration of a stream.
    pub fn flag(self) -> Option<ResponseFlag> {
        match self {
            Self::RouteTimeout(_) => Some(ResponseFlag::UpstreamTimeout),
            Self::Request(_) => Some(ResponseFlag::DownstreamTermination),
            Self::StreamIdle(_) => Some(ResponseFlag::StreamIdleTimeout),
            Self::Duration(_) => None,
            Self::Upstream(_) => Some(ResponseFlag::UpstreamMaxStreamDurationReached),
        }
    }

    pub fn count(self, exchange: &Exchange) {
        let stats = &exchange.connection.manager.stats;
        match self {
            Self::RouteTimeout(_) => exchange.count_upstream(|stats| &stats.upstream_rq_timeout),
            Self::Duration(_) => stats.downstream_rq_max_duration_reached.inc(),
            Self::Upstream(_) => {
                exchange.count_upstream(|stats| &stats.upstream_rq_max_duration_reached);
                exchange.detail(UPSTREAM_DURATION);
            }
            Self::Request(_) => stats.downstream_rq_timeout.inc(),
            Self::StreamIdle(_) => stats.downstream_rq_idle_timeout.inc(),
        }
    }
}

impl fmt::Display for Fired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RouteTimeout(limit) => write!(f, "route timeout ({limit:?})"),
            Self::Request(limit) => write!(f, "request timeout ({limit:?})"),
            Self::StreamIdle(limit) => write!(f, "stream idle timeout ({limit:?})"),
            Self::Duration(limit) => write!(f, "duration of the stream ({limit:?})"),
            Self::Upstream(limit) => write!(f, "duration of the request upstream ({limit:?})"),
        }
    }
}

/// Watches one stream. Polled only when nothing else is ready.
pub struct Watch {
    request: Duration,
    route: Duration,
    idle: Duration,
    /// From `began`.
    duration: Duration,
    began: Instant,
    /// From `sent`.
    upstream: Duration,
    sent: Instant,
    request_due: Due,
    /// Starts when the request has ended.
    route_due: Due,
    idle_due: Due,
    duration_due: Due,
    upstream_due: Due,
    seen: u32,
    /// When `seen` was seen to change.
    last: Instant,
    /// The stream has left the task of its connection.
    alone: bool,
}

/// When a limit is reached, and who wakes the stream then.
enum Due {
    Unset,
    /// A deadline of its own.
    Own(Deadline),
    /// The connection's clock, which is told to look by then. Far deadlines of HTTP/1 streams are
    /// like this: hardly any fires, and a deadline of its own for each would be the larger part of
    /// what watching costs.
    Connection(Instant),
}

impl Due {
    /// Ready when `limit` from `since` is over; `since` only counts at the first call.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        since: Instant,
        limit: Duration,
        connection: Option<&Connection>,
    ) -> Poll<()> {
        if let Self::Unset = self {
            if let (Some(connection), true) = (connection, limit >= FAR) {
                let at = since + limit;
                connection.look_by(at);
                *self = Self::Connection(at);
                return Poll::Pending;
            }
            *self = Self::Own(Deadline::after(limit));
        }
        match self {
            Self::Unset => Poll::Pending,
            Self::Own(deadline) => Pin::new(deadline).poll(cx),
            Self::Connection(at) if *at <= Instant::now() => Poll::Ready(()),
            Self::Connection(at) => {
                if let Some(connection) = connection {
                    connection.look_by(*at);
                }
                Poll::Pending
            }
        }
    }

    /// Moves what has fired.
    fn reset(&mut self, after: Duration) {
        match self {
            Self::Unset => {}
            Self::Own(deadline) => deadline.reset(after),
            Self::Connection(at) => *at = Instant::now() + after,
        }
    }
}

impl Watch {
    /// Watches nothing yet. `now` is when the stream began.
    pub fn new(now: Instant) -> Self {
        Self {
            request: Duration::ZERO,
            route: Duration::ZERO,
            idle: Duration::ZERO,
            duration: Duration::ZERO,
            began: now,
            upstream: Duration::ZERO,
            sent: now,
            request_due: Due::Unset,
            route_due: Due::Unset,
            idle_due: Due::Unset,
            duration_due: Due::Unset,
            upstream_due: Due::Unset,
            seen: 0,
            last: now,
            alone: false,
        }
    }

    /// Zero means none.
    pub fn limit(&mut self, request: Duration, route: Duration, idle: Duration) {
        if idle != self.idle {
            self.idle_due = Due::Unset;
        }
        (self.request, self.route, self.idle) = (request, route, idle);
    }

    /// Of the whole stream; zero means none.
    pub fn limit_duration(&mut self, duration: Duration) {
        self.duration = duration;
    }

    /// Of an attempt that begins now; zero means none.
    pub fn limit_upstream(&mut self, duration: Duration) {
        self.upstream = duration;
        if !duration.is_zero() {
            (self.sent, self.upstream_due) = (Instant::now(), Due::Unset);
        }
    }

    /// No byte may be longer in coming than this either.
    pub fn limit_idle(&mut self, idle: Duration) {
        if !idle.is_zero() && (self.idle.is_zero() || idle < self.idle) {
            self.idle = idle;
            self.idle_due = Due::Unset;
        }
    }

    /// The stream becomes a tunnel, which has a task of its own. Envoy does not apply the route's
    /// timeout to it.
    pub fn upgraded(&mut self) {
        self.route = Duration::ZERO;
        self.route_due = Due::Unset;
        self.idle_due = Due::Unset;
        self.upstream_due = Due::Unset;
        self.alone = true;
    }

    /// How much is left of the time that the whole stream may take, and what fires then; `None`: no
    /// limit.
    pub fn duration_left(&self) -> Option<(Duration, Fired)> {
        let left = |limit: Duration, since: Instant, fired| {
            (!limit.is_zero()).then(|| (limit.saturating_sub(since.elapsed()), fired))
        };
        let own = left(self.duration, self.began, Fired::Duration(self.duration));
        let upstream = left(self.upstream, self.sent, Fired::Upstream(self.upstream));
        own.into_iter()
            .chain(upstream)
            .min_by_key(|(left, _)| *left)
    }

    /// `connection`: whose task polls this, if it is the connection's own.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        progress: &Progress,
        connection: Option<&Connection>,
    ) -> Poll<Fired> {
        let connection = connection.filter(|_| !self.alone);
        if let Poll::Ready(fired) = self.poll_request(cx, progress, connection) {
            return Poll::Ready(fired);
        }
        if !self.upstream.is_zero() {
            let due = &mut self.upstream_due;
            if due
                .poll(cx, self.sent, self.upstream, connection)
                .is_ready()
            {
                return Poll::Ready(Fired::Upstream(self.upstream));
            }
        }
        self.poll_stalled(cx, progress, connection)
    }

    /// Of a stream whose client takes nothing: the deadlines that it can be blamed for.
    pub fn poll_stalled(
        &mut self,
        cx: &mut Context<'_>,
        progress: &Progress,
        connection: Option<&Connection>,
    ) -> Poll<Fired> {
        let connection = connection.filter(|_| !self.alone);
        if !self.duration.is_zero() {
            let now = Instant::now();
            let left = self.duration.saturating_sub(now.duration_since(self.began));
            if left.is_zero() || self.duration_due.poll(cx, now, left, connection).is_ready() {
                return Poll::Ready(Fired::Duration(self.duration));
            }
        }
        if self.idle.is_zero() {
            return Poll::Pending;
        }
        let ticks = progress.ticks.get();
        if ticks != self.seen {
            self.seen = ticks;
            self.last = Instant::now();
        }
        // Frames are many and deadlines long: the deadline is moved when it fires, not per frame.
        loop {
            ready!(self.idle_due.poll(cx, self.last, self.idle, connection));
            match self
                .idle
                .checked_sub(self.last.elapsed())
                .filter(|left| !left.is_zero())
            {
                Some(left) => self.idle_due.reset(left),
                None => return Poll::Ready(Fired::StreamIdle(self.idle)),
            }
        }
    }

    /// The deadlines that depend on whether the request has ended.
    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        progress: &Progress,
        connection: Option<&Connection>,
    ) -> Poll<Fired> {
        let (limit, slot, fired) = if progress.request_ended.get() {
            self.request_due = Due::Unset;
            (
                self.route,
                &mut self.route_due,
                Fired::RouteTimeout(self.route),
            )
        } else {
            if !self.route.is_zero() {
                progress.wake_at_end(cx.waker());
            }
            (
                self.request,
                &mut self.request_due,
                Fired::Request(self.request),
            )
        };
        if limit.is_zero() {
            return Poll::Pending;
        }
        // The first time that something waits is the time from which its limit counts, but for a
        // request without a body, where reading the clock once more would tell nothing new.
        let since = match slot {
            Due::Unset if progress.ticks.get() > 0 => Instant::now(),
            _ => self.last,
        };
        slot.poll(cx, since, limit, connection).map(|()| fired)
    }
}
