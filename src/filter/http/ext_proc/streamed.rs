//! Bodies that the processor sees while they pass.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use causeway_xds::proto::envoy::service::ext_proc::v3 as service;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use service::body_mutation::Mutation as NewBody;
use service::processing_response::Response as Said;
use service::{ProcessingResponse, StreamedBodyResponse, TrailersResponse};

use super::config::BodyMode;
use super::processing::{BODY, Processing, Trouble};
use super::session::{ROOM, Side};
use super::turn::Turn;
use crate::filter::body::{BodyError, Frames, Step, Transform};
use crate::filter::target::Target;

/// Breaks a body off for whose sake the client is told something else.
fn broken() -> BodyError {
    BodyError::new("the external processor has refused it")
}

/// `STREAMED`, and `NONE` with trailers: each piece is answered, in order, before it goes on.
pub struct Pieces {
    processing: Rc<Processing>,
    side: Side,
    /// Pieces are shown; if not, only the trailers are.
    shows: bool,
    unanswered: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    /// The processor has the trailers to answer for.
    trailers_sent: bool,
    /// The processor was told that nothing follows.
    end_sent: bool,
    /// All was read.
    is_ended: bool,
    turn: Option<Turn>,
}

/// What can be sent while the answer to a head is still waited for.
pub trait Feed: Transform {
    /// Whether the processor takes more.
    fn takes(&self, cx: &Context<'_>) -> bool;
}

impl Feed for Pieces {
    fn takes(&self, cx: &Context<'_>) -> bool {
        !self.is_ended && self.bytes < ROOM && self.processing.session.has_room(self.side, cx)
    }
}

impl Feed for Duplex {
    fn takes(&self, cx: &Context<'_>) -> bool {
        !self.ended && self.processing.session.has_room(self.side, cx)
    }
}

impl Pieces {
    pub fn new(processing: &Rc<Processing>, side: Side) -> Self {
        Self {
            processing: Rc::clone(processing),
            side,
            shows: processing.direction(side).body == BodyMode::Streamed,
            unanswered: VecDeque::new(),
            bytes: 0,
            trailers: None,
            trailers_sent: false,
            end_sent: false,
            is_ended: false,
            turn: None,
        }
    }

    fn show(&mut self, data: Bytes, end: bool) {
        self.processing.send_body(self.side, &data, end);
        self.bytes += data.len();
        self.unanswered.push_back(data);
        self.end_sent |= end;
    }

    /// The processor owes an answer.
    fn is_owed(&self) -> bool {
        !self.unanswered.is_empty() || self.trailers_sent
    }

    /// What nobody looks at any more goes on as it is.
    fn flush(&mut self, out: &mut Frames) {
        self.turn = None;
        self.bytes = 0;
        let whole = self.unanswered.drain(..).filter(|piece| !piece.is_empty());
        out.extend(whole.map(Frame::data));
        out.extend(self.trailers.take().map(Frame::trailers));
        self.trailers_sent = false;
    }

    fn answered(&mut self, message: ProcessingResponse, out: &mut Frames) -> Result<(), Trouble> {
        let Some(piece) = self.unanswered.front().cloned() else {
            let mut trailers = self.trailers.take().unwrap_or_default();
            let mutation = trailers_of(&self.processing, self.side, message)?;
            self.processing.change_trailers(mutation, &mut trailers)?;
            self.trailers_sent = false;
            out.push_back(Frame::trailers(trailers));
            return Ok(());
        };
        let response = match (self.side, message.response) {
            (Side::Request, Some(Said::RequestBody(body)))
            | (Side::Response, Some(Said::ResponseBody(body))) => body.response,
            (_, said) => return Err(self.processing.spurious(said)),
        };
        // The head is gone: what it would change of that has no effect.
        let mut nowhere = HeaderMap::new();
        let target = &mut Target::Plain(&mut nowhere);
        let response = response.map(|mut response| {
            response.header_mutation = None;
            response
        });
        let changes = self.processing.changes(response, target)?;
        self.unanswered.pop_front();
        self.bytes -= piece.len();
        let piece = changes.body.unwrap_or(piece);
        if !piece.is_empty() {
            out.push_back(Frame::data(piece));
        }
        Ok(())
    }

    /// Nothing is waited for, but the trailers may still have to go.
    fn settled(&mut self, out: &mut Frames) {
        if self.unanswered.is_empty() && !self.trailers_sent {
            out.extend(self.trailers.take().map(Frame::trailers));
        }
    }
}

fn trailers_of(
    processing: &Processing,
    side: Side,
    message: ProcessingResponse,
) -> Result<Option<service::HeaderMutation>, Trouble> {
    match (side, message.response) {
        (Side::Request, Some(Said::RequestTrailers(said)))
        | (Side::Response, Some(Said::ResponseTrailers(said))) => {
            let TrailersResponse { header_mutation } = said;
            Ok(header_mutation)
        }
        (_, said) => Err(processing.spurious(said)),
    }
}

/// Of trailers that are sent by themselves.
pub fn trailers_answered(
    processing: &Processing,
    side: Side,
    message: ProcessingResponse,
    trailers: &mut HeaderMap,
) -> Result<(), Trouble> {
    let mutation = trailers_of(processing, side, message)?;
    processing.change_trailers(mutation, trailers)
}

impl Transform for Pieces {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        self.piece(data, false, out)
    }

    fn piece(&mut self, data: Bytes, last: bool, out: &mut Frames) -> Result<(), BodyError> {
        match self.shows && !self.processing.is_done() {
            true => self.show(data, last),
            false => {
                self.flush(out);
                out.push_back(Frame::data(data));
            }
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        if std::mem::replace(&mut self.is_ended, true) {
            return Ok(());
        }
        self.trailers = trailers;
        if self.processing.is_done() {
            self.flush(out);
            return Ok(());
        }
        match &self.trailers {
            Some(trailers) if self.processing.direction(self.side).trailers => {
                self.processing.send_trailers(self.side, trailers);
                self.trailers_sent = true;
            }
            Some(_) => self.settled(out),
            None if self.shows && !self.end_sent => self.show(Bytes::new(), true),
            None => {}
        }
        Ok(())
    }

    fn step(&mut self, out: &mut Frames, cx: &mut Context<'_>) -> Result<Step, BodyError> {
        while self.is_owed() {
            if self.processing.is_done() {
                self.flush(out);
                break;
            }
            let new = || self.processing.turn(self.side);
            let done = match self.turn.get_or_insert_with(new).poll(cx) {
                Poll::Pending => break,
                Poll::Ready(answer) => answer.and_then(|message| self.answered(message, out)),
            };
            match done {
                Ok(()) => {
                    self.settled(out);
                    self.turn = None;
                }
                Err(trouble) => match self.processing.breaks(trouble) {
                    true => return Err(broken()),
                    false => self.flush(out),
                },
            }
        }
        Ok(if !out.is_empty() {
            Step::Out
        } else {
            // After its end there is nothing to be read, but maybe something to be waited for.
            match self.is_ended {
                true if self.is_waiting() => Step::Wait,
                false if !self.takes(cx) => Step::Wait,
                _ => Step::Read,
            }
        })
    }

    fn is_waiting(&self) -> bool {
        !self.unanswered.is_empty() || self.trailers.is_some()
    }
}

/// Sends what there is of a body. Whether something was.
///
/// # Errors
/// It has broken off.
pub fn fed(
    feed: &mut dyn Feed,
    mut body: Pin<&mut dyn Body<Data = Bytes, Error = BodyError>>,
    cx: &mut Context<'_>,
) -> Result<bool, BodyError> {
    // What is put out is put out again when somebody reads: nothing is answered yet.
    let mut none = Frames::new();
    let mut sent = false;
    while feed.takes(cx) {
        match body.as_mut().poll_frame(cx) {
            Poll::Pending => break,
            Poll::Ready(None) => feed.end(None, &mut none)?,
            Poll::Ready(Some(Err(error))) => return Err(error),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    feed.piece(data, last, &mut none)?;
                }
                Err(frame) => feed.end(frame.into_trailers().ok(), &mut none)?,
            },
        }
        sent = true;
    }
    Ok(sent)
}

/// `FULL_DUPLEX_STREAMED`: what comes back is another body, and comes when it comes.
pub struct Duplex {
    processing: Rc<Processing>,
    side: Side,
    /// The processor has seen something, so that nothing can go on as it was.
    shown: bool,
    /// All was read.
    ended: bool,
    trailers: Option<HeaderMap>,
    /// The other body has ended.
    finished: bool,
}

impl Duplex {
    pub fn new(processing: &Rc<Processing>, side: Side) -> Self {
        Self {
            processing: Rc::clone(processing),
            side,
            shown: false,
            ended: false,
            trailers: None,
            finished: false,
        }
    }

    fn said(&mut self, message: ProcessingResponse, out: &mut Frames) -> Result<(), Trouble> {
        let body = match (self.side, message.response) {
            (Side::Request, Some(Said::RequestBody(body)))
            | (Side::Response, Some(Said::ResponseBody(body))) => body,
            (side, said) => {
                let Some(mut trailers) = self.trailers.take() else {
                    return Err(self.processing.spurious(said));
                };
                let message = ProcessingResponse {
                    response: said,
                    ..ProcessingResponse::default()
                };
                trailers_answered(&self.processing, side, message, &mut trailers)?;
                self.finished = true;
                out.push_back(Frame::trailers(trailers));
                return Ok(());
            }
        };
        let mutation = body.response.and_then(|response| response.body_mutation);
        let Some(NewBody::StreamedResponse(streamed)) = mutation.and_then(|body| body.mutation)
        else {
            return Err(self.processing.refused(BODY));
        };
        let StreamedBodyResponse {
            body,
            end_of_stream,
            end_of_stream_without_message: _, // of a mode that is not offered, as the next
            grpc_message_compressed: _,
            drain_complete: _, // a processor is not told that it could ask for that
        } = streamed;
        if !body.is_empty() {
            out.push_back(Frame::data(Bytes::from(body)));
        }
        self.finished |= end_of_stream;
        Ok(())
    }

    fn failed(&mut self, trouble: Trouble) -> Result<(), BodyError> {
        // What the processor has kept is lost.
        let trouble = match trouble {
            Trouble::Left if self.shown => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Trouble::Failed(status, "ext_proc_error_{half_closed}".to_owned())
            }
            other => other,
        };
        match self.processing.breaks(trouble) || self.shown {
            true => Err(broken()),
            false => Ok(()),
        }
    }
}

impl Transform for Duplex {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        self.piece(data, false, out)
    }

    fn piece(&mut self, data: Bytes, last: bool, out: &mut Frames) -> Result<(), BodyError> {
        if self.processing.is_done() {
            if self.shown {
                return Err(broken());
            }
            out.push_back(Frame::data(data));
            return Ok(());
        }
        self.shown = true;
        self.ended |= last;
        self.processing.send_body(self.side, &data, last);
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        if self.processing.is_done() && !self.shown {
            out.extend(trailers.map(Frame::trailers));
            self.finished = true;
            return Ok(());
        }
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        self.shown = true;
        match &trailers {
            Some(trailers) => self.processing.send_trailers(self.side, trailers),
            None => self.processing.send_body(self.side, &Bytes::new(), true),
        }
        self.trailers = trailers;
        Ok(())
    }

    fn step(&mut self, out: &mut Frames, cx: &mut Context<'_>) -> Result<Step, BodyError> {
        loop {
            if !out.is_empty() {
                return Ok(Step::Out);
            }
            if self.finished {
                return Ok(Step::End);
            }
            if self.processing.is_done() {
                return match self.shown {
                    true => Err(broken()),
                    false => Ok(Step::Read),
                };
            }
            let said = match self.processing.poll(self.side, None, cx) {
                Poll::Ready(said) => said.and_then(|message| self.said(message, out)),
                Poll::Pending => {
                    return Ok(match self.takes(cx) {
                        true => Step::Read,
                        false => Step::Wait,
                    });
                }
            };
            if let Err(trouble) = said {
                self.failed(trouble)?;
            }
        }
    }

    fn is_waiting(&self) -> bool {
        !self.finished
    }
}

/// A copy for a processor that only looks on.
pub struct Observer {
    processing: Rc<Processing>,
    side: Side,
    shows: bool,
    end_sent: bool,
}

impl Observer {
    pub fn new(processing: &Rc<Processing>, side: Side) -> Self {
        Self {
            processing: Rc::clone(processing),
            side,
            shows: processing.direction(side).body == BodyMode::Streamed,
            end_sent: false,
        }
    }
}

impl Transform for Observer {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        self.piece(data, false, out)
    }

    fn piece(&mut self, data: Bytes, last: bool, out: &mut Frames) -> Result<(), BodyError> {
        if self.shows {
            self.processing.send_body(self.side, &data, last);
            self.end_sent |= last;
        }
        out.push_back(Frame::data(data));
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        match trailers {
            Some(trailers) => {
                if self.processing.direction(self.side).trailers {
                    self.processing.send_trailers(self.side, &trailers);
                }
                out.push_back(Frame::trailers(trailers));
            }
            None if self.shows && !self.end_sent => {
                self.processing.send_body(self.side, &Bytes::new(), true);
            }
            None => {}
        }
        Ok(())
    }

    /// Traffic is not faster than who looks on.
    fn step(&mut self, _: &mut Frames, cx: &mut Context<'_>) -> Result<Step, BodyError> {
        Ok(match self.processing.session.has_room(self.side, cx) {
            true => Step::Read,
            false => Step::Wait,
        })
    }
}
