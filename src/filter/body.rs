//! Bodies as filters see them: taken whole, or changed while they pass.

use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

/// A body of any kind, on one thread.
pub type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub Box<dyn Error + Send + Sync>);

impl BodyError {
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// The body of a request on its way through a chain.
pub trait BodySlot {
    /// It has no byte left.
    fn is_end(&self) -> bool;
    /// Leaves an empty one.
    fn take(&mut self) -> BoxBody;
    fn put(&mut self, body: BoxBody);
}

/// Changes a body while it passes, piece by piece.
pub trait Transform {
    /// # Errors
    /// The body cannot be changed, and breaks off.
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError>;

    /// As [`Transform::data`], for those that want to know whether it is known already that nothing
    /// follows. [`Transform::end`] is called in any case.
    ///
    /// # Errors
    /// As [`Transform::data`].
    fn piece(&mut self, data: Bytes, last: bool, out: &mut Frames) -> Result<(), BodyError> {
        let _ = last;
        self.data(data, out)
    }

    /// Asked before the body is, whenever nothing is put out: for those that wait for somebody.
    ///
    /// # Errors
    /// As [`Transform::data`].
    fn step(&mut self, out: &mut Frames, cx: &mut Context<'_>) -> Result<Step, BodyError> {
        let _ = (out, cx);
        Ok(Step::Read)
    }

    /// Whether something may still be put out after the end of the body.
    fn is_waiting(&self) -> bool {
        false
    }

    /// The body has ended; with these trailers, if it had any. What does not put them into `out`
    /// drops them.
    ///
    /// # Errors
    /// As [`Transform::data`].
    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        if let Some(trailers) = trailers {
            out.push_back(Frame::trailers(trailers));
        }
        Ok(())
    }

    /// Ready when the next piece, of what was put out, may go on: for those that slow a body down.
    fn poll_ready(&mut self, next: &Frame<Bytes>, cx: &mut Context<'_>) -> Poll<()> {
        let _ = (next, cx);
        Poll::Ready(())
    }
}

/// What a [`Transform`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More of the body. After its end there is none, and the changed body ends too. Whoever waits for
    /// something else besides is woken by that.
    Read,
    /// Something was put out.
    Out,
    /// Nothing, until it is woken.
    Wait,
    /// The body ends here, whatever is left of the other one.
    End,
}

/// Pieces of a body, in order.
pub type Frames = VecDeque<Frame<Bytes>>;

/// A body and what changes it.
pub struct Transformed<B> {
    pub inner: B,
    transform: Box<dyn Transform>,
    out: Frames,
    ended: bool,
}

impl<B> Transformed<B> {
    pub fn new(inner: B, transform: Box<dyn Transform>) -> Self {
        Self {
            inner,
            transform,
            out: Frames::new(),
            ended: false,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Transformed<B>
where
    B::Error: From<BodyError>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(next) = this.out.front() {
                ready!(this.transform.poll_ready(next, cx));
                return Poll::Ready(this.out.pop_front().map(Ok));
            }
            match this.transform.step(&mut this.out, cx) {
                Ok(Step::Read) if this.ended => return Poll::Ready(None),
                Ok(Step::Read) => {}
                Ok(Step::Out) => continue,
                Ok(Step::Wait) => return Poll::Pending,
                Ok(Step::End) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            let done = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let last = this.inner.is_end_stream();
                        this.transform.piece(data, last, &mut this.out)
                    }
                    Err(frame) => {
                        this.ended = true;
                        let trailers = frame.into_trailers().ok();
                        this.transform.end(trailers, &mut this.out)
                    }
                },
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.ended = true;
                    this.transform.end(None, &mut this.out)
                }
            };
            if let Err(error) = done {
                this.ended = true;
                return Poll::Ready(Some(Err(error.into())));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.out.is_empty() && !self.transform.is_waiting()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A body that is there, with its trailers.
#[derive(Debug, Default)]
pub struct Whole {
    pub data: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Whole {
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self {
            data: data.into(),
            trailers: None,
        }
    }

    pub fn boxed(self) -> BoxBody {
        Box::pin(self)
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.trailers {
            // A body that is followed by something is not sent by its length.
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.data.len() as u64),
        }
    }
}

/// What was read of a body.
pub enum Read {
    /// All of it.
    Whole(Whole),
    /// It is larger than was wanted: what came first, and the rest.
    Larger(Bytes, BoxBody),
    Broken(BodyError),
}

/// Reads up to `limit` bytes, or one piece more: a body that is larger can be put together again.
pub async fn read(mut body: BoxBody, limit: u64) -> Read {
    let mut data = BytesMut::new();
    loop {
        match body.frame().await {
            None => return Read::Whole(Whole::new(data)),
            Some(Err(error)) => return Read::Broken(error),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) => data.extend_from_slice(&piece),
                Err(frame) => {
                    return Read::Whole(Whole {
                        data: data.freeze(),
                        trailers: frame.into_trailers().ok(),
                    });
                }
            },
        }
        if data.len() as u64 > limit {
            return Read::Larger(data.freeze(), body);
        }
    }
}

/// What was read of a body, and the rest of it.
pub fn rejoined(first: Bytes, rest: BoxBody) -> BoxBody {
    struct Rejoined(Option<Bytes>, BoxBody);
    impl Body for Rejoined {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            match self.0.take() {
                Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
                None => self.1.as_mut().poll_frame(cx),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_none() && self.1.is_end_stream()
        }
    }
    Box::pin(Rejoined(Some(first), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Twice;
    impl Transform for Twice {
        fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
            if data == "bad" {
                return Err(BodyError::new("not this"));
            }
            out.extend([Frame::data(data.clone()), Frame::data(data)]);
            Ok(())
        }
        fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
            let count = trailers.map_or(0, |t| t.len());
            out.push_back(Frame::data(Bytes::from(format!("[{count}]"))));
            Ok(())
        }
    }

    async fn through(whole: Whole) -> Result<Bytes, BodyError> {
        let body = Transformed::new(whole.boxed(), Box::new(Twice));
        Ok(body.collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_body_is_changed_to_its_end() {
        let mut trailers = HeaderMap::new();
        trailers.insert("a", http::HeaderValue::from_static("1"));
        let whole = Whole {
            data: Bytes::from_static(b"ab"),
            trailers: Some(trailers),
        };
        assert_eq!(through(whole).await.unwrap(), "abab[1]");
        assert_eq!(through(Whole::default()).await.unwrap(), "[0]");
        assert!(through(Whole::new("bad")).await.is_err());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_given_back_whole() {
        let body = || Whole::new("0123456789").boxed();
        assert!(matches!(read(body(), 10).await, Read::Whole(w) if w.data.len() == 10));
        let Read::Larger(first, rest) = read(body(), 9).await else {
            panic!("it is larger")
        };
        let again = rejoined(first, rest).collect().await.unwrap();
        assert_eq!(again.to_bytes(), "0123456789");
    }
}
