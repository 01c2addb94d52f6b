//! The body of a request on its way up.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// What both directions of a stream note down while they move, for its idle deadline, its access
/// log and its retry decision. One per stream, on one thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Moves with every frame, either way.
    pub ticks: Cell<u32>,
    /// Body bytes from the client.
    pub received: Cell<u64>,
    /// Body bytes to the client.
    pub sent: Cell<u64>,
    /// The client's body has ended. Set by [`Progress::end_request`].
    pub request_ended: Cell<bool>,
    /// What follows the client's body is not passed on.
    pub drop_trailers: Cell<bool>,
    /// Somebody asks when it ended.
    pub timed: Cell<bool>,
    pub request_ended_at: Cell<Option<Instant>>,
    /// Who wants to know of that end: it is seen by the upstream connection's task, and the route's
    /// timeout starts there.
    on_end: RefCell<Option<Waker>>,
    /// The client's body has broken off.
    pub request_broken: Cell<bool>,
}

impl Progress {
    pub fn end_request(&self) {
        if self.request_ended.replace(true) {
            return;
        }
        if self.timed.get() {
            self.request_ended_at.set(Some(Instant::now()));
        }
        if let Some(waker) = self.on_end.take() {
            waker.wake();
        }
    }

    pub fn wake_at_end(&self, waker: &Waker) {
        *self.on_end.borrow_mut() = Some(waker.clone());
    }

    pub fn tick(&self) {
        self.ticks.set(self.ticks.get().wrapping_add(1));
    }
}

/// Streams the client's body, counting. Empty when there is none, or on a second attempt.
#[derive(Debug)]
pub struct RequestBody {
    inner: Option<Incoming>,
    progress: Rc<Progress>,
}

impl RequestBody {
    pub fn streaming(inner: Incoming, progress: Rc<Progress>) -> Self {
        let ended = inner.is_end_stream();
        progress.request_ended.set(ended);
        Self {
            inner: (!ended).then_some(inner),
            progress,
        }
    }

    pub fn empty(progress: Rc<Progress>) -> Self {
        Self {
            inner: None,
            progress,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = std::task::ready!(Pin::new(&mut *inner).poll_frame(cx));
        let ended = inner.is_end_stream();
        let progress = &self.progress;
        progress.tick();
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    progress
                        .received
                        .set(progress.received.get() + data.len() as u64);
                }
                if ended {
                    progress.end_request();
                }
            }
            Some(Err(_)) => progress.request_broken.set(true),
            None => progress.end_request(),
        }
        if progress.drop_trailers.get() && matches!(&frame, Some(Ok(f)) if f.is_trailers()) {
            // They are last.
            return Poll::Ready(None);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
