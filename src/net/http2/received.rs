//! What comes on a stream of HTTP/2, as the body of a message.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};

/// The body of a message that comes on a stream. An end is only what the peer said is one: any reset
/// is an error, one without an error code too (RFC 9113 section 8.1).
#[derive(Debug, Default)]
pub struct Received {
    /// `None` once it has ended.
    stream: Option<RecvStream>,
    /// Bytes that the head has told of and that have not come yet.
    left: Option<u64>,
    /// Only trailers can follow.
    data_over: bool,
    /// Whom to tell when the body is first asked for.
    wanted: Option<Rc<Wanted>>,
}

/// Tells that somebody has begun to read a body, which its sender may wait for
/// (`Expect: 100-continue`, RFC 9110 section 10.1.1).
#[derive(Debug, Default)]
pub struct Wanted {
    asked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wanted {
    fn ask(&self) {
        self.asked.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready once the body is wanted.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.asked.get() {
            return Poll::Ready(());
        }
        self.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Received {
    /// Of a stream that has not ended; without one there is no body. `length` is what the head says
    /// of it.
    pub fn new(stream: RecvStream, length: Option<u64>) -> Self {
        Self {
            stream: Some(stream),
            left: length,
            data_over: false,
            wanted: None,
        }
    }

    /// Tells `wanted` when it is read.
    pub fn telling(mut self, wanted: Rc<Wanted>) -> Self {
        self.wanted = Some(wanted);
        self
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let me = &mut *self;
        if let Some(wanted) = me.wanted.take() {
            wanted.ask();
        }
        let Some(stream) = &mut me.stream else {
            return Poll::Ready(None);
        };
        if !me.data_over {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Handed on, so that the peer may send as much again. It fails only for a stream
                    // that is gone.
                    stream.flow_control().release_capacity(data.len()).ok();
                    if let Some(left) = &mut me.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    if stream.is_end_stream() {
                        me.stream = None;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => me.data_over = true,
            }
        }
        let trailers = ready!(stream.poll_trailers(cx))?;
        me.stream = None;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.stream, self.left) {
            (None, _) => SizeHint::with_exact(0),
            (_, Some(left)) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}
