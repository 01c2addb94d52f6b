//! The way of an answer through the filters, from the upstream to the client.

use std::pin::Pin;
use std::task::Poll;

use http::Response;

use super::around::Surroundings;
use super::body::{Body, Seen};
use super::detour::{self, Refused};
use super::failures;
use super::internal_redirect::Again;
use super::reply::{self, Manner};
use super::router;
use super::timeouts::Timeouts;
use crate::error::Failure;
use crate::filter::pause::{Pause, Resume};
use crate::filter::{Answer, Around, Chain, Held, LocalReply, Outcome, Target};
use crate::route::PerRoute;

/// What is on the way.
pub struct Way<'w> {
    pub filters: &'w Chain,
    pub route: &'w PerRoute,
    pub target: Option<&'w Target>,
    pub manner: Manner,
}

pub enum Descent {
    Done(Response<Body>),
    /// A filter waits.
    Paused(Box<Paused>),
    /// Another request comes in the place of the one that was answered.
    Again(Box<Again>),
}

pub struct Paused {
    response: Response<Body>,
    /// Of the filter that waits.
    place: usize,
    pause: Box<dyn Pause>,
}

/// How the way of an answer has ended.
pub enum Gone {
    Down(Response<Body>),
    Again(Box<Again>),
}

/// Leads an answer through all filters, or to the first one that waits.
pub fn begin(response: Response<Body>, way: &Way<'_>) -> Descent {
    step(response, way.filters.len(), None, way)
}

fn step(
    mut response: Response<Body>,
    mut place: usize,
    resume: Option<Resume>,
    way: &Way<'_>,
) -> Descent {
    let mut headers = std::mem::take(response.headers_mut());
    let body = response.body();
    let around = body.exchange().map(|exchange| Surroundings {
        exchange,
        cluster: "",
        route: None,
    });
    let around = around.as_ref().map(|around| around as &dyn Around);
    let mut answer = Answer::new(response.status(), &mut headers, around);
    answer.local = body.is_local();
    answer.bodyless = http_body::Body::is_end_stream(body);
    answer.target = way.target;
    way.filters
        .response(&mut answer, way.route, &mut place, resume);
    let status = answer.status;
    let Outcome {
        body: new,
        transforms,
        held,
    } = answer.into_outcome();
    if status != response.status() {
        if let Some(exchange) = body.exchange() {
            exchange.answered(status);
        }
        *response.status_mut() = status;
    }
    *response.headers_mut() = headers;
    if let Some(new) = new {
        response = response.map(|body| body.renewed(new));
    }
    if !transforms.is_empty() {
        response = response.map(|body| transforms.into_iter().fold(body, Body::transformed));
    }
    match held {
        None => Descent::Done(response),
        Some(Held::Replied(reply)) => Descent::Done(replied(response, *reply, way)),
        Some(Held::Detour(detour)) => match detour::begin(response, *detour) {
            Ok(again) => Descent::Again(again),
            Err(refused) => {
                let Refused { response, then } = *refused;
                step(response, place, Some(then), way)
            }
        },
        Some(Held::Paused(pause)) => Descent::Paused(Box::new(Paused {
            response,
            place,
            pause,
        })),
    }
}

impl Paused {
    /// Waits as often as filters want to, within the deadlines of the stream.
    pub async fn go_on(self, way: &Way<'_>) -> Gone {
        let mut paused = self;
        loop {
            let Self {
                response,
                place,
                pause,
            } = &mut paused;
            let place = *place;
            let body = response.body_mut();
            let waited = std::future::poll_fn(|cx| {
                let mut seen = Seen(&mut *body);
                let seen: Pin<&mut Seen<'_>> = Pin::new(&mut seen);
                if let Poll::Ready(resume) = pause.poll(seen, cx) {
                    return Poll::Ready(Ok(resume));
                }
                let Some(exchange) = body.exchange_mut() else {
                    return Poll::Pending;
                };
                exchange.poll_watch(cx).map(|fired| {
                    fired.count(exchange);
                    Err(failures::deadline(fired, exchange, &Timeouts::default()))
                })
            });
            let resume = match waited.await {
                Ok(resume) => resume,
                Err(failure) => return Gone::Down(failed(paused.response, &failure, way)),
            };
            match step(paused.response, place, Some(resume), way) {
                Descent::Done(response) => return Gone::Down(response),
                Descent::Paused(next) => paused = *next,
                Descent::Again(again) => return Gone::Again(again),
            }
        }
    }
}

/// What the upstream has said does not count any more.
fn replied(response: Response<Body>, reply: LocalReply, way: &Way<'_>) -> Response<Body> {
    let version = response.version();
    let Some(exchange) = response.into_body().into_exchange() else {
        let mut empty = Response::new(Body::Empty);
        *empty.version_mut() = version;
        return empty;
    };
    if reply.flag.is_none() {
        exchange.unflag();
    }
    let manner = closing(way.manner, &exchange);
    let connection = std::rc::Rc::clone(&exchange.connection);
    let mut response = reply::local(reply, manner, exchange);
    router::server_header(response.headers_mut(), &connection);
    response
}

fn failed(response: Response<Body>, failure: &Failure, way: &Way<'_>) -> Response<Body> {
    let Some(exchange) = response.into_body().into_exchange() else {
        return Response::new(Body::Empty);
    };
    let manner = closing(way.manner, &exchange);
    let connection = std::rc::Rc::clone(&exchange.connection);
    let mut response = reply::from_failure(failure, manner, exchange);
    router::server_header(response.headers_mut(), &connection);
    response
}

/// A request whose body was not read to its end leaves the connection in doubt.
fn closing(manner: Manner, exchange: &super::exchange::Exchange) -> Manner {
    Manner {
        close: manner.close || !exchange.progress.request_ended.get(),
        ..manner
    }
}
