//! Answers that wait on their way down.
//!
//! Most filters look at the head of an answer and let it go. One that has to ask somebody first, or to
//! see the body before the head may go, pauses the answer with a [`Pause`].

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;

use super::Answer;
use super::body::BodyError;

/// The body of an answer, as filters nearer to the upstream have left it.
pub type AnswerBody<'b> = Pin<&'b mut dyn Body<Data = Bytes, Error = BodyError>>;

/// What a filter does with the answer when its wait is over.
pub type Resume = Box<dyn FnOnce(&mut Answer<'_>)>;

/// What an answer waits for, within the deadlines of its stream. It may read of the body meanwhile.
pub trait Pause {
    fn poll(&mut self, body: AnswerBody<'_>, cx: &mut Context<'_>) -> Poll<Resume>;
}

/// Waits, and leaves the body alone.
pub struct Until<F>(pub Pin<Box<F>>);

impl<F: Future<Output = Resume>> Pause for Until<F> {
    fn poll(&mut self, _: AnswerBody<'_>, cx: &mut Context<'_>) -> Poll<Resume> {
        self.0.as_mut().poll(cx)
    }
}

/// What was read of the body of an answer.
#[derive(Debug)]
pub enum Gathered {
    Whole(Bytes, Option<HeaderMap>),
    /// It is larger than was wanted; the rest is still to come.
    Larger(Bytes),
    Broken(BodyError),
}

/// Reads up to `limit` bytes, or one piece more.
pub struct Gather<F> {
    data: BytesMut,
    limit: u64,
    then: Option<F>,
}

impl<F> Gather<F> {
    pub fn new(limit: u64, then: F) -> Self {
        Self {
            data: BytesMut::new(),
            limit,
            then: Some(then),
        }
    }
}

impl<F: FnOnce(&mut Answer<'_>, Gathered) + Unpin + 'static> Pause for Gather<F> {
    fn poll(&mut self, mut body: AnswerBody<'_>, cx: &mut Context<'_>) -> Poll<Resume> {
        let gathered = loop {
            if self.data.len() as u64 > self.limit {
                break Gathered::Larger(self.data.split().freeze());
            }
            match ready!(body.as_mut().poll_frame(cx)) {
                None => break Gathered::Whole(self.data.split().freeze(), None),
                Some(Err(error)) => break Gathered::Broken(error),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => self.data.extend_from_slice(&piece),
                    Err(frame) => {
                        let trailers = frame.into_trailers().ok();
                        break Gathered::Whole(self.data.split().freeze(), trailers);
                    }
                },
            }
        };
        let then = self.then.take();
        Poll::Ready(Box::new(move |answer: &mut Answer<'_>| {
            if let Some(then) = then {
                then(answer, gathered);
            }
        }))
    }
}
