//! A request's body and the body of its answer as the two directions of one stream of bytes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Incoming;

/// What one write may bring: as much is held until the peer takes it.
const PIECE: usize = 16 * 1024;

/// What was written last and is not yet on its way, and who waits for it to change.
#[derive(Debug, Default)]
struct Passage {
    piece: Bytes,
    state: State,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Nothing more will be written.
    Finished,
    /// The writer is gone before it had finished.
    BrokenOff,
    /// Nobody reads any more.
    Unread,
}

impl Passage {
    fn turn(&mut self, state: State) {
        self.state = state;
        let waiting = self.reader.take().into_iter().chain(self.writer.take());
        waiting.for_each(Waker::wake);
    }
}

/// Both ends are on one thread, so that nobody ever waits for the lock: it is there because streams
/// may be sent to others before they are used.
type Shared = Arc<Mutex<Passage>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Passage> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The writer's end of a body. Dropped without a shutdown it breaks the body off.
#[derive(Debug)]
pub struct Sender(Shared);

/// The body of a request that is written piece by piece.
#[derive(Debug)]
pub struct Written(Shared);

/// A body, and what it is written by.
pub fn written() -> (Sender, Written) {
    let passage = Shared::default();
    (Sender(Arc::clone(&passage)), Written(passage))
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut passage = lock(&self.0);
        if passage.state == State::Open {
            passage.turn(State::BrokenOff);
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let mut passage = lock(&self.0);
        // What was written last is taken with the end, so that there is nothing to be missed.
        if passage.state == State::Open || passage.piece.has_remaining() {
            passage.turn(State::Unread);
        }
    }
}

impl Body for Written {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut passage = lock(&self.0);
        if passage.state == State::BrokenOff {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        if passage.piece.has_remaining() {
            let piece = std::mem::take(&mut passage.piece);
            if let Some(writer) = passage.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if passage.state == State::Finished {
            return Poll::Ready(None);
        }
        passage.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The fields behind a body, once they have come.
pub type Trailers = Arc<OnceLock<HeaderMap>>;

/// See the module.
pub struct BodyStream {
    sender: Sender,
    incoming: Incoming,
    /// Of `incoming`, and not yet read.
    piece: Bytes,
    trailers: Option<Trailers>,
}

impl std::fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BodyStream")
    }
}

impl BodyStream {
    /// `trailers`: where those of the answer are wanted.
    pub fn new(sender: Sender, incoming: Incoming, trailers: Option<Trailers>) -> Self {
        Self {
            sender,
            incoming,
            piece: Bytes::new(),
            trailers,
        }
    }
}

impl AsyncRead for BodyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.piece.has_remaining() {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(frame) => {
                        let told = self.trailers.as_ref().zip(frame.into_trailers().ok());
                        if let Some((place, trailers)) = told {
                            // They come once.
                            place.set(trailers).ok();
                        }
                    }
                },
                Some(Err(error)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.piece.len().min(buf.remaining());
        buf.put_slice(&self.piece.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BodyStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut passage = lock(&self.sender.0);
        if passage.state != State::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if passage.piece.has_remaining() {
            passage.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = &buf[..buf.len().min(PIECE)];
        passage.piece = Bytes::copy_from_slice(taken);
        if let Some(reader) = passage.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Waits until the peer takes the last piece: a stream that is dropped right after it must not
    /// cut what was written.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut passage = lock(&self.sender.0);
        match passage.state {
            State::Open if passage.piece.has_remaining() => {
                passage.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Open => {
                passage.turn(State::Finished);
                Poll::Ready(Ok(()))
            }
            State::Finished => Poll::Ready(Ok(())),
            State::BrokenOff | State::Unread => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_writer_that_leaves_breaks_the_body_off() {
        let (sender, mut body) = written();
        lock(&sender.0).piece = Bytes::from_static(b"one");
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "one");
        drop(sender);
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);

        let (sender, mut body) = written();
        lock(&sender.0).turn(State::Finished);
        drop(sender);
        assert!(body.frame().await.is_none());

        let (sender, body) = written();
        drop(body);
        assert_eq!(lock(&sender.0).state, State::Unread);
    }
}
