//! The body of a response on its way down.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::cut::Cut;
use super::exchange::Exchange;
use super::watch::Fired;
use crate::error::ResponseFlag;
use crate::filter::body::{Transform, Transformed, Whole};
use crate::filter::{self, NewBody};
use crate::net::http2::Breaks;
use crate::net::{Incoming, WireError};
use crate::upstream::pool::{self, Lease};

/// What a client is sent.
pub enum Body {
    Empty,
    Full(Option<Bytes>, Box<Exchange>),
    Upstream(Box<Relay>),
    /// Changed by a filter.
    Transformed(Box<Transformed<Self>>),
    /// Begun anew by a filter.
    Renewed(Box<Renewed>),
}

/// A body with something in front, or in the place, of what is left of it.
pub struct Renewed {
    first: Whole,
    /// Nothing of the rest follows.
    cut: bool,
    rest: Body,
}

/// A body as filters see it.
pub struct Seen<'b>(pub &'b mut Body);

impl HttpBody for Seen<'_> {
    type Data = Bytes;
    type Error = filter::body::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut *self.0).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(filter::body::BodyError::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// Streams an upstream's body, and owns what must last as long as it does.
pub struct Relay {
    inner: Incoming,
    lease: Option<Lease>,
    tail: Tail,
    /// It broke off, and ended all the same: see [`Tail::grpc`].
    over: bool,
    exchange: Box<Exchange>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail {
    /// Trailers are passed on. Those of HTTP/1 have to be announced, or they end here.
    pub trailers: bool,
    /// What breaks off ends with a status of gRPC.
    pub grpc: bool,
    /// It has no body, whatever comes (RFC 9110 sections 9.3.2, 15.3.5 and 15.4.5).
    pub bare: bool,
}

/// Why a body broke off. The connection (or stream) is reset, so that the client can never take
/// what it has for the whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("upstream: {0}")]
    Upstream(WireError),
    #[error("{0} fired")]
    Deadline(Fired),
    #[error("filter: {0}")]
    Filter(#[from] filter::body::BodyError),
}

impl Breaks for BodyError {}

impl Body {
    pub fn relay(inner: Incoming, lease: Lease, tail: Tail, exchange: Box<Exchange>) -> Self {
        let mut relay = Box::new(Relay {
            inner,
            tail,
            over: false,
            lease: Some(lease),
            exchange,
        });
        if relay.inner.is_end_stream() {
            relay.ended();
        } else if tail.bare {
            relay.said();
        }
        Self::Upstream(relay)
    }

    pub fn full(bytes: Bytes, exchange: Box<Exchange>) -> Self {
        if bytes.is_empty() {
            exchange.complete();
        }
        Self::Full((!bytes.is_empty()).then_some(bytes), exchange)
    }
}

impl Body {
    /// Whose it is; `None` for the head of a tunnel.
    pub fn exchange(&self) -> Option<&Exchange> {
        match self {
            Self::Empty => None,
            Self::Full(_, exchange) => Some(exchange),
            Self::Upstream(relay) => Some(&relay.exchange),
            Self::Transformed(body) => body.inner.exchange(),
            Self::Renewed(body) => body.rest.exchange(),
        }
    }

    pub fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        match self {
            Self::Empty => None,
            Self::Full(_, exchange) => Some(exchange),
            Self::Upstream(relay) => Some(&mut relay.exchange),
            Self::Transformed(body) => body.inner.exchange_mut(),
            Self::Renewed(body) => body.rest.exchange_mut(),
        }
    }

    /// Lets go of the body, and of the connection that it comes on.
    pub fn into_exchange(self) -> Option<Box<Exchange>> {
        match self {
            Self::Empty => None,
            Self::Full(_, exchange) => Some(exchange),
            Self::Upstream(relay) => Some(relay.exchange),
            Self::Transformed(body) => body.inner.into_exchange(),
            Self::Renewed(body) => body.rest.into_exchange(),
        }
    }

    /// Ready when the client has taken nothing for so long that its stream ends: what came of that is
    /// noted down.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(exchange) = self.exchange_mut() else {
            return Poll::Pending;
        };
        let fired = std::task::ready!(exchange.poll_stalled(cx));
        tracing::debug!(%fired, "the client takes nothing");
        fired.count(exchange);
        if let Some(flag) = fired.flag() {
            exchange.flag(flag);
        }
        let stats = &exchange.connection.manager.stats;
        stats.downstream_rq_tx_reset.inc();
        Poll::Ready(())
    }

    /// Whether the answer is ours.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Full(..))
    }

    /// Without any byte, as the answer to HEAD (`head`) or one whose status knows no body.
    pub fn bare(self, head: bool) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Full(_, exchange) => Self::full(Bytes::new(), exchange),
            // It is about to end by itself.
            Self::Upstream(mut relay) if head || relay.tail.bare || relay.is_over() => {
                relay.tail.bare = true;
                Self::Upstream(relay)
            }
            // A filter has changed the status: what the upstream has to say is not waited for.
            Self::Upstream(relay) => Self::full(Bytes::new(), relay.exchange),
            Self::Transformed(body) => body.inner.bare(head),
            Self::Renewed(body) => body.rest.bare(head),
        }
    }

    /// With something in front of what is left of it, or in its place.
    pub fn renewed(self, new: NewBody) -> Self {
        Self::Renewed(Box::new(Renewed {
            first: new.body,
            cut: new.cut,
            rest: self,
        }))
    }

    pub fn transformed(self, transform: Box<dyn Transform>) -> Self {
        Self::Transformed(Box::new(Transformed::new(self, transform)))
    }
}

impl Relay {
    /// The response is whole: its connection can serve the next one, unless the request still
    /// goes up. The next one would wait for a client that it has nothing to do with.
    fn ended(&mut self) {
        self.exchange.complete();
        if let Some(kept) = &self.exchange.kept {
            kept.response_ended.set(Some(Instant::now()));
        }
        if let Some(lease) = self.lease.take()
            && self.exchange.progress.request_ended.get()
        {
            lease.give_back();
        }
    }

    /// The client has all that there is to have, and may not look for the end, which over HTTP/2 can
    /// come by itself.
    fn said(&self) {
        self.exchange.complete();
    }

    fn failed(&mut self, flag: Option<ResponseFlag>) {
        if let Some(flag) = flag {
            self.exchange.flag(flag);
        }
        self.exchange
            .connection
            .manager
            .stats
            .downstream_rq_tx_reset
            .inc();
        self.lease = None;
    }

    /// The upstream has left before its answer had ended.
    fn broke(&mut self, cut: Cut, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        tracing::debug!(%error, "upstream body broke off");
        self.exchange.detail(cut.details());
        if let Cut::Reset(_) = cut {
            self.exchange
                .count_upstream(|stats| &stats.upstream_rq_rx_reset);
        }
        // A length that was told is a promise which trailers would break.
        if !self.tail.grpc || self.inner.size_hint().exact().is_some() {
            self.failed(Some(cut.flag()));
            return Err(error);
        }
        self.exchange.flag(cut.flag());
        let trailers = cut.trailers();
        if let Some(kept) = &self.exchange.kept {
            kept.trailers(&trailers, &self.exchange.connection.manager.wants);
        }
        self.over = true;
        self.lease = None;
        self.ended();
        Ok(Frame::trailers(trailers))
    }

    fn is_over(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        loop {
            match pool::poll_frame(&mut self.inner, cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(frame) = self.passed(frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    if self.lease.is_none() {
                        return Poll::Ready(None);
                    }
                }
                Poll::Ready(None) => {
                    self.ended();
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    let cut = Cut::of(&error);
                    return Poll::Ready(Some(self.broke(cut, BodyError::Upstream(error))));
                }
                Poll::Pending => {
                    let fired = std::task::ready!(self.exchange.poll_watch(cx));
                    fired.count(&self.exchange);
                    self.failed(fired.flag());
                    return Poll::Ready(Some(Err(BodyError::Deadline(fired))));
                }
            }
        }
    }

    /// Takes a frame to account; `None` if it goes no further. What does not is the last one, or
    /// part of a body that there should not be.
    fn passed(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let progress = &self.exchange.progress;
        progress.tick();
        let dropped = match frame.data_ref() {
            Some(_) if self.tail.bare => true,
            Some(data) => {
                progress.sent.set(progress.sent.get() + data.len() as u64);
                false
            }
            None => {
                if let (Some(kept), Some(trailers)) = (&self.exchange.kept, frame.trailers_ref()) {
                    kept.trailers(trailers, &self.exchange.connection.manager.wants);
                }
                !self.tail.trailers
            }
        };
        if (dropped && frame.is_trailers()) || self.inner.is_end_stream() {
            self.ended();
        } else if self.inner.size_hint().exact() == Some(0) {
            self.said();
        }
        (!dropped).then_some(frame)
    }
}

impl Body {
    /// The next frame of a body that filters have changed.
    fn poll_changed(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let progress = self
            .exchange()
            .map(|exchange| Rc::clone(&exchange.progress));
        let before = progress.as_ref().map_or(0, |p| p.sent.get());
        let frame = match self {
            Self::Transformed(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Renewed(body) => body.poll(cx),
            other => return Pin::new(other).poll_frame(cx),
        };
        if let Some(progress) = progress {
            // What a filter was given is not what it makes of it.
            let made = match &frame {
                Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
                _ => 0,
            };
            progress.sent.set(before + made as u64);
        }
        frame
    }
}

impl Renewed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.first).poll_frame(cx) {
            Poll::Ready(None) | Poll::Pending if !self.cut => {
                Pin::new(&mut self.rest).poll_frame(cx)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.finish();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) | Poll::Pending => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    /// What was to be sent is on its way.
    fn finish(&self) {
        if self.cut
            && self.first.is_end_stream()
            && let Some(exchange) = self.rest.exchange()
        {
            exchange.complete();
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        match body {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes, exchange) => Poll::Ready(bytes.take().map(|bytes| {
                exchange.progress.sent.set(bytes.len() as u64);
                exchange.complete();
                Ok(Frame::data(bytes))
            })),
            Self::Upstream(relay) => relay.poll(cx),
            Self::Transformed(_) | Self::Renewed(_) => body.poll_changed(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes, _) => bytes.is_none(),
            Self::Upstream(relay) => relay.is_over(),
            Self::Transformed(body) => body.is_end_stream(),
            Self::Renewed(body) => {
                body.first.is_end_stream() && (body.cut || body.rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Upstream(relay) => relay.inner.size_hint(),
            Self::Transformed(body) => body.size_hint(),
            Self::Renewed(body) if body.cut => body.first.size_hint(),
            Self::Renewed(_) => SizeHint::default(),
        }
    }
}
