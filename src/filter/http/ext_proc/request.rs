//! A request under processing.

use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use causeway_xds::proto::envoy::service::ext_proc::v3 as service;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, HeaderMap};
use service::ProcessingResponse;
use service::processing_response::Response as Said;

use super::config::BodyMode;
use super::processing::{Changes, Processing, Trouble};
use super::session::{ROOM, Side};
use super::streamed::{Duplex, Feed, Observer, Pieces, fed, trailers_answered};
use super::turn::Turn;
use crate::error::Failure;
use crate::filter::body::{BoxBody, Read, Transformed, Whole, rejoined};
use crate::filter::target::Target;
use crate::filter::{Flow, LocalReply, Stream, Then};

const SIDE: Side = Side::Request;

/// Shows it to a processor that only looks on.
pub fn observe(processing: &Rc<Processing>, stream: &mut Stream<'_>) -> Flow {
    let direction = processing.direction(SIDE);
    if direction.headers {
        processing.send_request_head(stream);
    }
    if !stream.is_bodyless() && (direction.body == BodyMode::Streamed || direction.trailers) {
        stream.transform_body(Box::new(Observer::new(processing, SIDE)));
    }
    Flow::Continue
}

pub fn begin(processing: &Rc<Processing>, stream: &mut Stream<'_>) -> Flow {
    let direction = processing.direction(SIDE);
    if !direction.headers {
        return with_body(Rc::clone(processing), stream);
    }
    processing.send_request_head(stream);
    let processing = Rc::clone(processing);
    if !stream.is_bodyless() {
        match direction.body {
            BodyMode::Duplex => {
                let duplex = Duplex::new(&processing, SIDE);
                return Flow::wait(both(processing, stream.take_body(), duplex, None));
            }
            BodyMode::Streamed if processing.fixed.eager_body => {
                let (pieces, turn) = (Pieces::new(&processing, SIDE), processing.turn(SIDE));
                return Flow::wait(both(processing, stream.take_body(), pieces, Some(turn)));
            }
            _ => {}
        }
    }
    Flow::wait(async move {
        let answer = processing.turn(SIDE).answer().await;
        Box::new(move |stream: &mut Stream<'_>| match answer {
            Ok(message) => with_head(processing, stream, message),
            Err(trouble) => settled(&processing, stream, trouble),
        }) as Then
    })
}

/// Sends the body while the answer to the head is waited for, which may need all of it.
async fn both(
    processing: Rc<Processing>,
    mut body: BoxBody,
    mut feed: impl Feed + 'static,
    mut turn: Option<Turn>,
) -> Then {
    let answer = std::future::poll_fn(|cx| {
        match fed(&mut feed, body.as_mut(), cx) {
            Err(error) => return Poll::Ready(Err(error)),
            Ok(sent) => {
                if let Some(turn) = turn.as_mut().filter(|_| sent) {
                    turn.restart();
                }
            }
        }
        processing.poll(SIDE, turn.as_mut(), cx).map(Ok)
    });
    let answer = answer.await;
    Box::new(move |stream: &mut Stream<'_>| {
        let answer = match answer {
            Err(_) => return Flow::fail(Failure::bad_request("request_body_broken")),
            Ok(answer) => answer.and_then(|message| head(&processing, stream, message)),
        };
        let flow = match answer {
            Ok(changes) if changes.replaces => return replaced(&processing, stream, changes),
            Ok(_) => passed(&processing),
            Err(trouble) => settled(&processing, stream, trouble),
        };
        unmeasured(&processing, &mut stream.request.headers);
        stream.put_body(Box::pin(Transformed::new(body, Box::new(feed))));
        flow
    })
}

/// Without the processor, or not at all.
fn settled(processing: &Processing, stream: &Stream<'_>, trouble: Trouble) -> Flow {
    processing.leave(stream.state());
    match processing.settle(trouble) {
        Some(reply) => Flow::reply(reply),
        None => passed(processing),
    }
}

fn passed(processing: &Processing) -> Flow {
    match processing.reroute.take() {
        true => Flow::Reroute,
        false => Flow::Continue,
    }
}

/// What the processor says about the head.
fn head(
    processing: &Processing,
    stream: &mut Stream<'_>,
    message: ProcessingResponse,
) -> Result<Changes, Trouble> {
    let said = match message.response {
        Some(Said::RequestHeaders(said)) => said,
        other => return Err(processing.spurious(other)),
    };
    processing.override_modes(message.mode_override.as_ref());
    let target = &mut Target::Request(stream.request);
    let changes = processing.changes(said.response, target)?;
    processing.leave(stream.state());
    processing.reroute.set(changes.clears);
    Ok(changes)
}

fn with_head(
    processing: Rc<Processing>,
    stream: &mut Stream<'_>,
    message: ProcessingResponse,
) -> Flow {
    match head(&processing, stream, message) {
        Err(trouble) => settled(&processing, stream, trouble),
        Ok(changes) if changes.replaces => replaced(&processing, stream, changes),
        Ok(_) => with_body(processing, stream),
    }
}

/// The processor has made the body, and sees no more of the request.
fn replaced(processing: &Processing, stream: &mut Stream<'_>, changes: Changes) -> Flow {
    processing.set_direction(SIDE, |direction| {
        (direction.body, direction.trailers) = (BodyMode::None, false);
    });
    if let Some(data) = changes.body {
        put(stream, Whole::new(data));
    }
    passed(processing)
}

/// A body that is there has a length.
fn put(stream: &mut Stream<'_>, body: Whole) {
    let headers = &mut stream.request.headers;
    match body.trailers {
        None => headers.insert(CONTENT_LENGTH, HeaderValue::from(body.data.len())),
        Some(_) => headers.remove(CONTENT_LENGTH),
    };
    stream.put_body(body.boxed());
}

/// How long it will be is not known.
fn unmeasured(processing: &Processing, headers: &mut HeaderMap) {
    if !processing.fixed.keeps_length {
        headers.remove(CONTENT_LENGTH);
    }
}

fn with_body(processing: Rc<Processing>, stream: &mut Stream<'_>) -> Flow {
    let direction = processing.direction(SIDE);
    if stream.is_bodyless() {
        return passed(&processing);
    }
    match direction.body {
        BodyMode::None if !direction.trailers => {}
        BodyMode::None => stream.transform_body(Box::new(Pieces::new(&processing, SIDE))),
        BodyMode::Streamed => {
            unmeasured(&processing, &mut stream.request.headers);
            stream.transform_body(Box::new(Pieces::new(&processing, SIDE)));
        }
        BodyMode::Duplex => {
            unmeasured(&processing, &mut stream.request.headers);
            stream.transform_body(Box::new(Duplex::new(&processing, SIDE)));
        }
        BodyMode::Buffered | BodyMode::Partial => {
            return stream.read_body(ROOM as u64, move |stream, read| {
                buffered(processing, stream, read)
            });
        }
    }
    passed(&processing)
}

fn buffered(processing: Rc<Processing>, stream: &mut Stream<'_>, read: Read) -> Flow {
    let (data, trailers, rest) = match read {
        Read::Whole(whole) => (whole.data, whole.trailers, None),
        Read::Larger(first, rest) if processing.direction(SIDE).body == BodyMode::Partial => {
            (first, None, Some(rest))
        }
        Read::Larger(..) => return Flow::reply(LocalReply::too_large()),
        Read::Broken(_) => return Flow::fail(Failure::bad_request("request_body_broken")),
    };
    processing.look_at(stream.state());
    processing.send_body(SIDE, &data, rest.is_none() && trailers.is_none());
    Flow::wait(async move {
        let answer = processing.turn(SIDE).answer().await;
        Box::new(move |stream: &mut Stream<'_>| {
            let whole = rest.is_none();
            let changes = answer.and_then(|message| body(&processing, stream, message, whole));
            let data = match changes {
                Ok(changes) => changes.body.unwrap_or(data),
                Err(trouble) => {
                    let flow = settled(&processing, stream, trouble);
                    put_all(stream, data, trailers, rest);
                    return flow;
                }
            };
            if let Some(rest) = rest {
                unmeasured(&processing, &mut stream.request.headers);
                stream.put_body(rejoined(data, rest));
                if processing.direction(SIDE).trailers {
                    processing.set_direction(SIDE, |direction| direction.body = BodyMode::None);
                    stream.transform_body(Box::new(Pieces::new(&processing, SIDE)));
                }
                return passed(&processing);
            }
            match trailers {
                Some(trailers) if processing.direction(SIDE).trailers => {
                    with_trailers(processing, data, trailers)
                }
                trailers => {
                    put(stream, Whole { data, trailers });
                    passed(&processing)
                }
            }
        }) as Then
    })
}

fn put_all(
    stream: &mut Stream<'_>,
    data: Bytes,
    trailers: Option<HeaderMap>,
    rest: Option<BoxBody>,
) {
    match rest {
        Some(rest) => stream.put_body(rejoined(data, rest)),
        None => stream.put_body(Whole { data, trailers }.boxed()),
    }
}

/// What the processor says about a body, and of a whole one about the head.
fn body(
    processing: &Processing,
    stream: &mut Stream<'_>,
    message: ProcessingResponse,
    whole: bool,
) -> Result<Changes, Trouble> {
    let said = match message.response {
        Some(Said::RequestBody(said)) => said,
        other => return Err(processing.spurious(other)),
    };
    let mut response = said.response.unwrap_or_default();
    if !whole {
        response.header_mutation = None;
    }
    let target = &mut Target::Request(stream.request);
    let changes = processing.changes(Some(response), target)?;
    processing.leave(stream.state());
    processing
        .reroute
        .set(processing.reroute.get() || changes.clears);
    Ok(changes)
}

fn with_trailers(processing: Rc<Processing>, data: Bytes, mut trailers: HeaderMap) -> Flow {
    processing.send_trailers(SIDE, &trailers);
    Flow::wait(async move {
        let answer = processing.turn(SIDE).answer().await;
        Box::new(move |stream: &mut Stream<'_>| {
            let done = answer
                .and_then(|message| trailers_answered(&processing, SIDE, message, &mut trailers));
            let flow = match done {
                Ok(()) => passed(&processing),
                Err(trouble) => settled(&processing, stream, trouble),
            };
            processing.leave(stream.state());
            let trailers = Some(trailers);
            put(stream, Whole { data, trailers });
            flow
        }) as Then
    })
}
