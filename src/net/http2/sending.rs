//! A body on its way into a stream of HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use super::strip;

/// Why a body did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished<E> {
    #[error("reset by the peer")]
    Reset,
    #[error("{0}")]
    Codec(#[from] h2::Error),
    #[error("{0}")]
    Body(E),
    #[error("the peer has taken nothing for too long")]
    Stalled,
}

/// What breaks off a body.
pub trait Breaks {
    /// What its stream is reset with: never what could be taken for an end.
    fn reason(&self) -> Reason {
        Reason::INTERNAL_ERROR
    }
}

/// Sends a body as fast as the peer takes it.
#[derive(Debug)]
pub struct Sending {
    stream: SendStream<Bytes>,
    /// What the peer has no room for yet, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl Sending {
    pub fn new(stream: SendStream<Bytes>) -> Self {
        Self {
            stream,
            waiting: None,
        }
    }

    /// Ready when all is handed to the codec, or there is no more to be done. `stalled` is asked while
    /// the peer has no room: when it is ready, the stream is reset.
    ///
    /// # Errors
    /// [`Unfinished`]. A body that broke off has reset the stream.
    pub fn poll<B: Body<Data = Bytes, Error: Breaks> + Unpin>(
        &mut self,
        body: &mut B,
        stalled: impl FnOnce(&mut B, &mut Context<'_>) -> Poll<()>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unfinished<B::Error>>> {
        loop {
            if let Some((data, last)) = self.waiting.take() {
                if !data.is_empty() && self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => self.waiting = Some((data, last)),
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                        Poll::Ready(None) => return Poll::Ready(Err(Unfinished::Reset)),
                        Poll::Pending => {
                            self.waiting = Some((data, last));
                            ready!(stalled(body, cx));
                            self.stream.send_reset(Reason::CANCEL);
                            return Poll::Ready(Err(Unfinished::Stalled));
                        }
                    }
                    continue;
                }
                let sent = self.stream.send_data(data, last);
                self.done(sent)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(Ok(_)) => Poll::Ready(Err(Unfinished::Reset)),
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                        Poll::Pending => Poll::Pending,
                    };
                }
                Poll::Ready(None) => {
                    let sent = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(self.done(sent).map_err(Unfinished::Codec));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.stream.send_reset(error.reason());
                    return Poll::Ready(Err(Unfinished::Body(error)));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if !data.is_empty() {
                            // As little as will do, and only now: what is asked for is kept from
                            // other streams. The codec asks for the rest once it has the data.
                            self.stream.reserve_capacity(1);
                        }
                        self.waiting = Some((data, body.is_end_stream()));
                    }
                    Err(frame) => {
                        if let Ok(mut trailers) = frame.into_trailers() {
                            // No more data: others may have the room.
                            self.stream.reserve_capacity(0);
                            strip(&mut trailers, |_| ());
                            let sent = self.stream.send_trailers(trailers);
                            return Poll::Ready(self.done(sent).map_err(Unfinished::Codec));
                        }
                    }
                },
            }
        }
    }

    /// What the codec does not take leaves the stream without an end, unless it is given one.
    fn done(&mut self, sent: Result<(), h2::Error>) -> Result<(), h2::Error> {
        if sent.is_err() {
            self.stream.send_reset(Reason::INTERNAL_ERROR);
        }
        sent
    }
}
