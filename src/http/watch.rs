//! The deadlines of one stream.

use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::exchange::Exchange;
use crate::error::ResponseFlag;
use crate::runtime::timer::Deadline;
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
}

impl Fired {
    pub fn flag(self) -> ResponseFlag {
        match self {
            Self::RouteTimeout(_) => ResponseFlag::UpstreamTimeout,
            Self::Request(_) => ResponseFlag::DownstreamTermination,
            Self::StreamIdle(_) => ResponseFlag::StreamIdleTimeout,
        }
    }

    pub fn count(self, exchange: &Exchange) {
        let stats = &exchange.connection.manager.stats;
        match self {
            Self::RouteTimeout(_) => {}
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
        }
    }
}

/// Watches one stream. Polled only when nothing else is ready.
pub struct Watch {
    request: Duration,
    route: Duration,
    idle: Duration,
    request_deadline: Option<Deadline>,
    /// Starts when the request has ended.
    route_deadline: Option<Deadline>,
    idle_deadline: Option<Deadline>,
    seen: u32,
    /// When `seen` was seen to change.
    last: Instant,
}

impl Watch {
    /// Watches nothing yet. `now` is when the stream began.
    pub fn new(now: Instant) -> Self {
        Self {
            request: Duration::ZERO,
            route: Duration::ZERO,
            idle: Duration::ZERO,
            request_deadline: None,
            route_deadline: None,
            idle_deadline: None,
            seen: 0,
            last: now,
        }
    }

    /// Zero means none.
    pub fn limit(&mut self, request: Duration, route: Duration, idle: Duration) {
        (self.request, self.route, self.idle) = (request, route, idle);
    }

    /// Envoy does not apply the route's timeout to an upgraded stream.
    pub fn without_route_timeout(&mut self) {
        self.route = Duration::ZERO;
        self.route_deadline = None;
    }

    pub fn poll(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<Fired> {
        if let Poll::Ready(fired) = self.poll_request(cx, progress) {
            return Poll::Ready(fired);
        }
        if self.idle.is_zero() {
            return Poll::Pending;
        }
        let ticks = progress.ticks.get();
        if ticks != self.seen {
            self.seen = ticks;
            self.last = Instant::now();
        }
        let deadline = self
            .idle_deadline
            .get_or_insert_with(|| Deadline::after(self.idle));
        // Frames are many and deadlines long: the deadline is moved when it fires, not per frame.
        loop {
            ready!(std::pin::Pin::new(&mut *deadline).poll(cx));
            match self
                .idle
                .checked_sub(self.last.elapsed())
                .filter(|left| !left.is_zero())
            {
                Some(left) => deadline.reset(left),
                None => return Poll::Ready(Fired::StreamIdle(self.idle)),
            }
        }
    }

    /// The deadlines that depend on whether the request has ended.
    fn poll_request(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<Fired> {
        let (limit, slot, fired) = if progress.request_ended.get() {
            self.request_deadline = None;
            (
                self.route,
                &mut self.route_deadline,
                Fired::RouteTimeout(self.route),
            )
        } else {
            if !self.route.is_zero() {
                progress.wake_at_end(cx.waker());
            }
            (
                self.request,
                &mut self.request_deadline,
                Fired::Request(self.request),
            )
        };
        if limit.is_zero() {
            return Poll::Pending;
        }
        let deadline = slot.get_or_insert_with(|| Deadline::after(limit));
        std::pin::Pin::new(deadline).poll(cx).map(|()| fired)
    }
}
