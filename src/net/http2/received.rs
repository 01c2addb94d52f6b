//! What comes on a stream of HTTP/2, as the body of a message.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::{RecvStream, SendStream};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
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
    /// Of an answer: its end is waited for, also when nobody wants to hear of it.
    lingers: bool,
    beside: Beside,
}

/// How long the end of an answer may be behind what there was to say.
const LINGER: Duration = Duration::from_secs(1);

/// What else there is to the stream of a body.
#[derive(Debug, Default)]
enum Beside {
    #[default]
    Nothing,
    /// Whom to tell when the body is first asked for.
    Wanted(Arc<Signal>),
    /// The body of the request is still sent. Whom to tell when the answer is whole.
    Upload(AbortHandle, Arc<Signal>),
    /// Of an answer to CONNECT: our half.
    Half(Box<SendStream<Bytes>>),
}

/// Tells that somebody has begun to read a body, which its sender may wait for
/// (`Expect: 100-continue`, RFC 9110 section 10.1.1), or has read all of it.
#[derive(Debug, Default)]
pub struct Signal {
    given: AtomicBool,
    waker: AtomicWaker,
}

impl Signal {
    pub fn give(&self) {
        self.given.store(true, Relaxed);
        self.waker.wake();
    }

    /// Ready once it was given. Both sides are on one thread.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.given.load(Relaxed) {
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
            lingers: false,
            beside: Beside::Nothing,
        }
    }

    /// Tells `wanted` when it is read.
    pub fn telling(mut self, wanted: Arc<Signal>) -> Self {
        self.beside = Beside::Wanted(wanted);
        self
    }

    /// Of an answer, on a data thread. What has been said in full is not cancelled when it is dropped:
    /// many peers send the end by itself, and a cancelled stream costs both sides more than a moment.
    /// `bare`: it has no bytes, whatever its head says.
    pub fn lingering(mut self, bare: bool) -> Self {
        self.lingers = true;
        self.data_over = bare;
        self
    }

    /// Of an answer to a request that is still sent by `upload`, which is told when the answer is
    /// whole. Who does not want all of it does not want that, either.
    pub fn uploading(mut self, upload: AbortHandle, whole: Arc<Signal>) -> Self {
        self.beside = Beside::Upload(upload, whole);
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

impl Received {
    fn end(&mut self) {
        self.stream = None;
        if let Beside::Upload(_, whole) = &self.beside {
            whole.give();
        }
    }

    /// Who has sent all that was promised, and then goes, has not broken off.
    fn broken(&mut self, error: h2::Error) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.left == Some(0) && (error.is_io() || error.is_go_away()) {
            self.end();
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(error)))
    }

    /// Whether nothing follows but the end, and perhaps trailers.
    fn is_said(&self) -> bool {
        self.data_over || self.left == Some(0)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        // When the thread ends there is nobody left to wait.
        if self.lingers && self.is_said() && tokio::runtime::Handle::try_current().is_ok() {
            let mut rest = Self {
                stream: Some(stream),
                left: None,
                data_over: false,
                lingers: false,
                beside: std::mem::take(&mut self.beside),
            };
            tokio::task::spawn_local(async move {
                // What comes is let go of: it is nobody's.
                let end = async { while let Some(Ok(_)) = rest.frame().await {} };
                if tokio::time::timeout(LINGER, end).await.is_err() {
                    tracing::debug!(limit = ?LINGER, "the end of an answer did not come in time");
                }
            });
        } else if let Beside::Upload(upload, _) = &self.beside {
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
            wanted.give();
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
                        me.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return me.broken(error),
                None => me.data_over = true,
            }
        }
        match ready!(stream.poll_trailers(cx)) {
            Ok(trailers) => {
                me.end();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => me.broken(error),
        }
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
