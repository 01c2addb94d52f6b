//! A response under processing.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use causeway_xds::proto::envoy::service::ext_proc::v3 as service;
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{HeaderValue, StatusCode};
use service::ProcessingResponse;
use service::processing_response::Response as Said;

use super::config::BodyMode;
use super::processing::{Changes, Processing, Trouble};
use super::session::{ROOM, Side};
use super::streamed::{Duplex, Feed, Observer, Pieces, fed, trailers_answered};
use super::turn::Turn;
use crate::filter::body::Whole;
use crate::filter::pause::{AnswerBody, Gathered, Pause, Resume};
use crate::filter::target::Target;
use crate::filter::{Answer, LocalReply};

const SIDE: Side = Side::Response;

pub fn begin(processing: &Rc<Processing>, answer: &mut Answer<'_>) {
    left(processing, answer);
    if let Some(reply) = processing.take_told() {
        return answer.reply(reply);
    }
    if processing.is_done() {
        return;
    }
    if let Some(state) = answer.state() {
        processing.look_at(state);
    }
    let direction = processing.direction(SIDE);
    if direction.headers {
        processing.send_response_head(answer);
    }
    if processing.fixed.observes {
        let streams = direction.body == BodyMode::Streamed || direction.trailers;
        if streams && !answer.bodyless {
            let length = answer.headers.get(CONTENT_LENGTH).cloned();
            answer.transform(Box::new(Observer::new(processing, SIDE)));
            // It stays what it is.
            if let Some(length) = length {
                answer.headers.insert(CONTENT_LENGTH, length);
            }
        }
        return;
    }
    if !direction.headers {
        return with_body(processing, answer);
    }
    match direction.body {
        BodyMode::Duplex if !answer.bodyless => {
            let duplex = Duplex::new(processing, SIDE);
            answer.pause(Both::new(processing, duplex, None));
        }
        BodyMode::Streamed if processing.fixed.eager_body && !answer.bodyless => {
            let (pieces, turn) = (Pieces::new(processing, SIDE), processing.turn(SIDE));
            answer.pause(Both::new(processing, pieces, Some(turn)));
        }
        _ => {
            let processing = Rc::clone(processing);
            answer.wait(async move {
                let said = processing.turn(SIDE).answer().await;
                Box::new(move |answer: &mut Answer<'_>| {
                    let done = said.and_then(|message| head(&processing, answer, message));
                    match done {
                        Ok(changes) if changes.replaces => replaced(&processing, answer, changes),
                        Ok(_) => with_body(&processing, answer),
                        Err(trouble) => settled(&processing, answer, trouble),
                    }
                }) as Resume
            });
        }
    }
}

/// Sends the body while the answer to the head is waited for, which may need all of it.
struct Both<F> {
    processing: Rc<Processing>,
    feed: Option<F>,
    turn: Option<Turn>,
}

impl<F> Both<F> {
    fn new(processing: &Rc<Processing>, feed: F, turn: Option<Turn>) -> Self {
        Self {
            processing: Rc::clone(processing),
            feed: Some(feed),
            turn,
        }
    }
}

impl<F: Feed + 'static> Pause for Both<F> {
    fn poll(&mut self, body: AnswerBody<'_>, cx: &mut Context<'_>) -> Poll<Resume> {
        let said = match self.feed.as_mut().map(|feed| fed(feed, body, cx)) {
            Some(Err(error)) => Err(error),
            sent => {
                let sent = matches!(sent, Some(Ok(true)));
                if let Some(turn) = self.turn.as_mut().filter(|_| sent) {
                    turn.restart();
                }
                Ok(ready!(self.processing.poll(SIDE, self.turn.as_mut(), cx)))
            }
        };
        let (processing, feed) = (Rc::clone(&self.processing), self.feed.take());
        Poll::Ready(Box::new(move |answer: &mut Answer<'_>| {
            let Ok(said) = said else {
                return broken(answer);
            };
            match said.and_then(|message| head(&processing, answer, message)) {
                Ok(changes) if changes.replaces => {
                    return replaced(&processing, answer, changes);
                }
                Ok(_) => {}
                Err(trouble) => settled(&processing, answer, trouble),
            }
            if let Some(feed) = feed {
                streamed(&processing, answer, feed);
            }
        }))
    }
}

/// The upstream has broken off before anything of its answer was sent.
fn broken(answer: &mut Answer<'_>) {
    let reply = LocalReply::new(StatusCode::BAD_GATEWAY, "response_body_broken");
    answer.reply(reply.saying("Bad Gateway"));
}

/// What the processor has left for other filters and the log.
fn left(processing: &Processing, answer: &Answer<'_>) {
    if let Some(state) = answer.state() {
        processing.leave(state);
    }
}

/// Without the processor, or not at all.
fn settled(processing: &Processing, answer: &mut Answer<'_>, trouble: Trouble) {
    left(processing, answer);
    if let Some(reply) = processing.settle(trouble) {
        answer.reply(reply);
    }
}

/// What the processor says about the head.
fn head(
    processing: &Processing,
    answer: &mut Answer<'_>,
    message: ProcessingResponse,
) -> Result<Changes, Trouble> {
    let said = match message.response {
        Some(Said::ResponseHeaders(said)) => said,
        other => return Err(processing.spurious(other)),
    };
    processing.override_modes(message.mode_override.as_ref());
    changed(processing, answer, said.response)
}

fn changed(
    processing: &Processing,
    answer: &mut Answer<'_>,
    response: Option<service::CommonResponse>,
) -> Result<Changes, Trouble> {
    let target = &mut Target::Response(&mut answer.status, answer.headers);
    let changes = processing.changes(response, target)?;
    left(processing, answer);
    Ok(changes)
}

/// The processor has made the body, and sees no more of the response.
fn replaced(processing: &Processing, answer: &mut Answer<'_>, changes: Changes) {
    processing.set_direction(SIDE, |direction| {
        (direction.body, direction.trailers) = (BodyMode::None, false);
    });
    if let Some(data) = changes.body {
        put(answer, Whole::new(data));
    }
}

/// A body that is there has a length.
fn put(answer: &mut Answer<'_>, body: Whole) {
    match body.trailers {
        None => {
            let length = HeaderValue::from(body.data.len());
            answer.headers.insert(CONTENT_LENGTH, length);
        }
        Some(_) => {
            answer.headers.remove(CONTENT_LENGTH);
        }
    }
    answer.replace_body(body);
}

/// How long the body will be is not known, unless the processor is believed.
fn streamed(processing: &Processing, answer: &mut Answer<'_>, feed: impl Feed + 'static) {
    let length = answer.headers.get(CONTENT_LENGTH).cloned();
    answer.transform(Box::new(feed));
    if let Some(length) = length.filter(|_| processing.fixed.keeps_length) {
        answer.headers.insert(CONTENT_LENGTH, length);
    }
}

fn with_body(processing: &Rc<Processing>, answer: &mut Answer<'_>) {
    let direction = processing.direction(SIDE);
    if answer.bodyless {
        return;
    }
    match direction.body {
        BodyMode::None if !direction.trailers => {}
        BodyMode::None => {
            let length = answer.headers.get(CONTENT_LENGTH).cloned();
            answer.transform(Box::new(Pieces::new(processing, SIDE)));
            if let Some(length) = length {
                answer.headers.insert(CONTENT_LENGTH, length);
            }
        }
        BodyMode::Streamed => streamed(processing, answer, Pieces::new(processing, SIDE)),
        BodyMode::Duplex => streamed(processing, answer, Duplex::new(processing, SIDE)),
        BodyMode::Buffered | BodyMode::Partial => {
            let processing = Rc::clone(processing);
            answer.read_body(ROOM as u64, move |answer, gathered| {
                buffered(processing, answer, gathered);
            });
        }
    }
}

fn buffered(processing: Rc<Processing>, answer: &mut Answer<'_>, gathered: Gathered) {
    let (data, trailers, whole) = match gathered {
        Gathered::Whole(data, trailers) => (data, trailers, true),
        Gathered::Larger(data) if processing.direction(SIDE).body == BodyMode::Partial => {
            (data, None, false)
        }
        Gathered::Larger(_) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let reply = LocalReply::new(status, "response_payload_too_large");
            return answer.reply(reply.saying("Internal Server Error"));
        }
        Gathered::Broken(_) => return broken(answer),
    };
    processing.send_body(SIDE, &data, whole && trailers.is_none());
    answer.wait(async move {
        let said = processing.turn(SIDE).answer().await;
        Box::new(move |answer: &mut Answer<'_>| {
            let data = match said.and_then(|message| body(&processing, answer, message, whole)) {
                Ok(changes) => changes.body.unwrap_or(data),
                Err(trouble) => {
                    settled(&processing, answer, trouble);
                    data
                }
            };
            if !whole {
                answer.headers.remove(CONTENT_LENGTH);
                answer.put_back(data);
                if processing.direction(SIDE).trailers && !processing.is_done() {
                    processing.set_direction(SIDE, |direction| direction.body = BodyMode::None);
                    answer.transform(Box::new(Pieces::new(&processing, SIDE)));
                }
                return;
            }
            match trailers {
                Some(trailers) if processing.direction(SIDE).trailers && !processing.is_done() => {
                    with_trailers(processing, answer, data, trailers);
                }
                trailers => put(answer, Whole { data, trailers }),
            }
        }) as Resume
    });
}

/// What the processor says about a body, and of a whole one about the head.
fn body(
    processing: &Processing,
    answer: &mut Answer<'_>,
    message: ProcessingResponse,
    whole: bool,
) -> Result<Changes, Trouble> {
    let said = match message.response {
        Some(Said::ResponseBody(said)) => said,
        other => return Err(processing.spurious(other)),
    };
    let mut response = said.response.unwrap_or_default();
    if !whole {
        response.header_mutation = None;
    }
    changed(processing, answer, Some(response))
}

fn with_trailers(
    processing: Rc<Processing>,
    answer: &mut Answer<'_>,
    data: Bytes,
    mut trailers: HeaderMap,
) {
    processing.send_trailers(SIDE, &trailers);
    answer.wait(async move {
        let said = processing.turn(SIDE).answer().await;
        Box::new(move |answer: &mut Answer<'_>| {
            let done = said
                .and_then(|message| trailers_answered(&processing, SIDE, message, &mut trailers));
            left(&processing, answer);
            if let Err(trouble) = done {
                settled(&processing, answer, trouble);
            }
            let trailers = Some(trailers);
            put(answer, Whole { data, trailers });
        }) as Resume
    });
}
