//! A script beside a body that passes: it sees piece by piece, and the trailers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::call::Called;
use super::run::{Given, Gone, Pending, Place, Run};
use crate::filter::body::{BodyError, Frames, Step, Transform};

/// A script that has asked for the pieces of a body, or for its trailers.
pub struct Passing {
    run: Run,
    gone: Gone,
    waits: Waits,
}

enum Waits {
    Chunk,
    Trailers,
    Call(Pin<Box<dyn Future<Output = Called>>>),
    /// The script has ended.
    Nothing,
}

impl Passing {
    /// For a script that waits for a piece, or for the trailers.
    pub fn new(run: Run, gone: Gone, waits: &Pending) -> Self {
        let waits = match waits {
            Pending::Chunk => Waits::Chunk,
            _ => Waits::Trailers,
        };
        Self { run, gone, waits }
    }

    /// Lets the script go on, and what it is done with.
    fn resume(&mut self, given: Given, out: &mut Frames) {
        let mut place = Place::Passing(&mut self.gone);
        self.waits = match self.run.resume(&mut place, given) {
            Some(Pending::Chunk) => Waits::Chunk,
            Some(Pending::Trailers) => Waits::Trailers,
            Some(Pending::Call(call)) => Waits::Call(Box::pin(call.answer())),
            // The other two are refused when they are asked for.
            Some(Pending::Body | Pending::Reply(_)) | None => Waits::Nothing,
        };
        self.settle(out);
    }

    fn settle(&mut self, out: &mut Frames) {
        // A script that waits for a call may still change what it has.
        if matches!(self.waits, Waits::Call(_)) {
            return;
        }
        let chunk = self.run.chunk.take().filter(|chunk| !chunk.is_empty());
        out.extend(chunk.map(Frame::data));
        if self.run.ended {
            out.extend(self.run.trailers.take().map(Frame::trailers));
        }
    }
}

impl Transform for Passing {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        self.piece(data, false, out)
    }

    fn piece(&mut self, data: Bytes, last: bool, out: &mut Frames) -> Result<(), BodyError> {
        match self.waits {
            Waits::Chunk => {
                self.run.chunk = Some(data);
                self.run.ended = last;
                self.resume(Given::There(true), out);
            }
            _ => out.push_back(Frame::data(data)),
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        let has_trailers = trailers.is_some();
        self.run.ended = true;
        self.run.trailers = trailers;
        match self.waits {
            // The end is told by a piece with nothing in it, which the script may fill.
            Waits::Chunk if !has_trailers => {
                self.run.chunk = Some(Bytes::new());
                self.resume(Given::There(true), out);
            }
            Waits::Chunk => self.resume(Given::There(false), out),
            Waits::Trailers => self.resume(Given::There(has_trailers), out),
            Waits::Call(_) | Waits::Nothing => self.settle(out),
        }
        Ok(())
    }

    fn step(&mut self, out: &mut Frames, cx: &mut Context<'_>) -> Result<Step, BodyError> {
        while let Waits::Call(call) = &mut self.waits {
            match call.as_mut().poll(cx) {
                Poll::Pending => return Ok(Step::Wait),
                Poll::Ready(called) => self.resume(Given::Called(Box::new(called)), out),
            }
        }
        Ok(match out.is_empty() {
            true => Step::Read,
            false => Step::Out,
        })
    }

    fn is_waiting(&self) -> bool {
        matches!(self.waits, Waits::Call(_))
    }
}
