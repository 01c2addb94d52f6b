//! What comes on a stream of HTTP/2, as the body of a message.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::{RecvStream, SendStream};
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::Tunnel;

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
    beside: Beside,
}

/// What else there is to the stream of a body.
#[derive(Debug, Default)]
enum Beside {
    #[default]
    Nothing,
    /// Whom to tell when the body is first asked for.
    Wanted(Arc<Wanted>),
    /// The body of the request is still sent.
    Upload(AbortHandle),
    /// Of an answer to CONNECT: our half.
    Half(Box<SendStream<Bytes>>),
}

/// Tells that somebody has begun to read a body, which its sender may wait for
/// (`Expect: 100-continue`, RFC 9110 section 10.1.1).
#[derive(Debug, Default)]
pub struct Wanted {
    asked: AtomicBool,
    waker: AtomicWaker,
}

impl Wanted {
    fn ask(&self) {
        self.asked.store(true, Relaxed);
        self.waker.wake();
    }

    /// Ready once the body is wanted. Both sides are on one thread.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.asked.load(Relaxed) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
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
            beside: Beside::Nothing,
        }
    }

    /// Tells `wanted` when it is read.
    pub fn telling(mut self, wanted: Arc<Wanted>) -> Self {
        self.beside = Beside::Wanted(wanted);
        self
    }

    /// Of an answer to a request that is still sent by `upload`: who does not want all of the answer
    /// does not want that, either.
    pub fn uploading(mut self, upload: AbortHandle) -> Self {
        self.beside = Beside::Upload(upload);
        self
    }

    /// Of an answer to CONNECT, which may open a tunnel.
    pub fn answering(mut self, half: SendStream<Bytes>) -> Self {
        self.beside = Beside::Half(Box::new(half));
        self
    }

    /// The tunnel that such an answer opens.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        match std::mem::take(&mut self.beside) {
            Beside::Half(half) => Some(Tunnel::new(*half, self.stream.take()?)),
            _ => None,
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Beside::Upload(upload) = &self.beside
            && self.stream.is_some()
        {
            upload.abort();
        }
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
        if let Beside::Wanted(wanted) = &me.beside {
            wanted.ask();
            me.beside = Beside::Nothing;
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
