//! The conversation with a processor about one exchange: one stream of gRPC for both directions, or a
//! request of HTTP for each message.
//!
//! A task reads what the processor says and hands it to the direction that it is for, because each of
//! them goes on in a task of its own. What is sent, and what nobody has taken yet, is bounded.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use causeway_xds::proto::Message as _;
use causeway_xds::proto::envoy::service::ext_proc::v3::processing_request::Request as Part;
use causeway_xds::proto::envoy::service::ext_proc::v3::processing_response::Response as Said;
use causeway_xds::proto::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use http::header::{HOST, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use tokio::sync::Notify;

use super::Stats;
use super::config::{Service, Settings};
use super::over_http::HttpCall;
use crate::filter::body::{BodyError, BoxBody};
use crate::filter::call::{CallError, Calls, framed, stream};
use crate::filter::http::ext_authz::GrpcCall;

const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// Until the head of the answer is there, which may come with the first message that the processor
/// sends. What is waited for has nearer deadlines: those of messages, and of the exchange.
const OPENING: Duration = Duration::from_secs(3600);
/// For the processor to end its side, when the exchange has ended.
const CLOSING: Duration = Duration::from_secs(1);
/// Bytes that wait to be sent, from which on no more of a body is read; and bytes of bodies that wait
/// for an answer.
pub const ROOM: usize = 1 << 20;
/// Messages of the processor that wait for a direction, from which on no more is read; as from so many
/// bytes of them as there is room.
const UNREAD: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// How the conversation has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By the processor: it wants to see no more.
    Clean,
    /// With the status of gRPC.
    Failed { code: u32, message: String },
}

/// Lets go of the processor when it is dropped.
pub struct Session {
    shared: Rc<Shared>,
    calls: Rc<dyn Calls>,
    stats: Arc<Stats>,
    service: Settings,
    opened: Cell<bool>,
    deferred: Option<Duration>,
}

#[derive(Default)]
struct Shared {
    outgoing: RefCell<VecDeque<Bytes>>,
    queued: Cell<usize>,
    /// No more is sent.
    shut: Cell<bool>,
    /// Whoever sends.
    sender: Cell<Option<Waker>>,
    /// The directions that wait for the processor, or for room.
    waiting: [Cell<Option<Waker>>; 2],
    /// With their sizes.
    incoming: [RefCell<VecDeque<(usize, ProcessingResponse)>>; 2],
    /// Bytes of those.
    unread: Cell<usize>,
    end: RefCell<Option<End>>,
    /// Messages were taken.
    taken: Notify,
    /// The exchange is over.
    left: Notify,
}

impl Session {
    /// `deferred`: how long the processor may go on afterwards, if not as usual.
    pub fn new(
        calls: Rc<dyn Calls>,
        service: Settings,
        stats: Arc<Stats>,
        deferred: Option<Duration>,
    ) -> Self {
        Self {
            shared: Rc::default(),
            calls,
            stats,
            service,
            opened: Cell::new(false),
            deferred,
        }
    }

    pub fn is_open(&self) -> bool {
        self.opened.get()
    }

    /// Sends a message; the first one opens the stream.
    pub fn send(&self, message: &ProcessingRequest) {
        match &self.service.service {
            Service::Grpc(call) => self.stream(call, message),
            Service::Http(call) => {
                self.opened.set(true);
                self.stats.msgs_sent.inc();
                tokio::task::spawn_local(ask(
                    Rc::clone(&self.shared),
                    Rc::clone(&self.calls),
                    Arc::clone(call),
                    message.clone(),
                    Arc::clone(&self.stats),
                ));
            }
        }
    }

    fn stream(&self, call: &Arc<GrpcCall>, message: &ProcessingRequest) {
        let bytes = Bytes::from(framed(&message.encode_to_vec()));
        let shared = &self.shared;
        shared.queued.set(shared.queued.get() + bytes.len());
        shared.outgoing.borrow_mut().push_back(bytes);
        self.stats.msgs_sent.inc();
        wake(&shared.sender);
        if !self.opened.replace(true) {
            self.stats.started.inc();
            tokio::task::spawn_local(listen(
                Rc::clone(shared),
                Rc::clone(&self.calls),
                Arc::clone(call),
                self.service.metadata.clone(),
                Arc::clone(&self.stats),
                self.deferred.unwrap_or(CLOSING),
            ));
        }
    }

    /// Whether more of a body may be sent; if not, the direction is woken when it may.
    pub fn has_room(&self, side: Side, cx: &Context<'_>) -> bool {
        let shared = &self.shared;
        let room = shared.queued.get() < ROOM || shared.end.borrow().is_some();
        if !room {
            shared.wait(side, cx);
        }
        room
    }

    /// What the processor says to a direction. After the last message, how it has ended.
    pub fn poll(&self, side: Side, cx: &Context<'_>) -> Poll<Result<ProcessingResponse, End>> {
        let shared = &self.shared;
        let next = shared.incoming[side as usize].borrow_mut().pop_front();
        if let Some((size, message)) = next {
            shared.unread.set(shared.unread.get() - size);
            shared.taken.notify_one();
            return Poll::Ready(Ok(message));
        }
        if let Some(end) = &*shared.end.borrow() {
            return Poll::Ready(Err(end.clone()));
        }
        shared.wait(side, cx);
        Poll::Pending
    }

    /// Nothing more is sent.
    pub fn close(&self) {
        self.shared.shut.set(true);
        wake(&self.shared.sender);
        self.shared.left.notify_one();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

fn wake(place: &Cell<Option<Waker>>) {
    if let Some(waker) = place.take() {
        waker.wake();
    }
}

impl Shared {
    fn wait(&self, side: Side, cx: &Context<'_>) {
        self.waiting[side as usize].set(Some(cx.waker().clone()));
    }

    fn wake_all(&self) {
        self.waiting.iter().for_each(wake);
    }

    /// To the direction that it is about.
    fn say(&self, message: ProcessingResponse) {
        let side = match message.response {
            Some(Said::ResponseHeaders(_) | Said::ResponseBody(_) | Said::ResponseTrailers(_)) => {
                Side::Response
            }
            Some(Said::RequestHeaders(_) | Said::RequestBody(_) | Said::RequestTrailers(_)) => {
                Side::Request
            }
            // About whatever it was asked last.
            _ => match self.waits(Side::Response) {
                true => Side::Response,
                false => Side::Request,
            },
        };
        self.hand(side, message);
    }

    fn hand(&self, side: Side, message: ProcessingResponse) {
        let size = message.encoded_len();
        self.unread.set(self.unread.get() + size);
        self.incoming[side as usize]
            .borrow_mut()
            .push_back((size, message));
        wake(&self.waiting[side as usize]);
    }

    fn waits(&self, side: Side) -> bool {
        let waker = self.waiting[side as usize].take();
        let waits = waker.is_some();
        self.waiting[side as usize].set(waker);
        waits
    }

    fn is_full(&self) -> bool {
        let unread = |queue: &RefCell<VecDeque<_>>| queue.borrow().len();
        self.unread.get() >= ROOM || self.incoming.iter().map(unread).sum::<usize>() >= UNREAD
    }
}

/// Messages on their way to the processor.
struct Outgoing(Rc<Shared>);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let shared = &self.0;
        let next = shared.outgoing.borrow_mut().pop_front();
        if let Some(message) = next {
            shared.queued.set(shared.queued.get() - message.len());
            if shared.queued.get() < ROOM {
                shared.wake_all();
            }
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if shared.shut.get() {
            return Poll::Ready(None);
        }
        shared.sender.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// Reads what the processor says, until it has ended or the exchange has.
async fn listen(
    shared: Rc<Shared>,
    calls: Rc<dyn Calls>,
    call: Arc<GrpcCall>,
    own: Vec<(HeaderName, HeaderValue)>,
    stats: Arc<Stats>,
    closing: Duration,
) {
    let read = async {
        let mut metadata: Vec<(HeaderName, HeaderValue)> = call.metadata.clone();
        for (name, value) in own {
            metadata.retain(|(known, _)| *known != name);
            metadata.push((name, value));
        }
        // A host that is none is not worth a failure.
        metadata.retain(|(name, value)| *name != HOST || !value.is_empty());
        let body: BoxBody = Box::pin(Outgoing(Rc::clone(&shared)));
        let opened = stream(&*calls, &call.cluster, PROCESS, &metadata, body, OPENING);
        let mut messages = opened.await?;
        while let Some(message) = messages.next::<ProcessingResponse>().await? {
            stats.msgs_received.inc();
            shared.say(message);
            while shared.is_full() {
                shared.taken.notified().await;
            }
        }
        Ok::<(), CallError>(())
    };
    let left = async {
        shared.left.notified().await;
        tokio::time::sleep(closing).await;
    };
    let end = tokio::select! {
        read = read => match read {
            Ok(()) => {
                stats.closed.inc();
                End::Clean
            }
            Err(error) => {
                if !shared.shut.get() {
                    stats.failed.inc();
                }
                failed(&error)
            }
        },
        () = left => End::Clean,
    };
    *shared.end.borrow_mut() = Some(end);
    shared.wake_all();
}

/// One message over HTTP, unless the exchange is over before there is an answer.
async fn ask(
    shared: Rc<Shared>,
    calls: Rc<dyn Calls>,
    call: Arc<HttpCall>,
    message: ProcessingRequest,
    stats: Arc<Stats>,
) {
    // Whatever it says is about what it was asked: a part of the other direction is no answer.
    let side = match message.request {
        Some(Part::ResponseHeaders(_) | Part::ResponseBody(_) | Part::ResponseTrailers(_)) => {
            Side::Response
        }
        _ => Side::Request,
    };
    let answer = tokio::select! {
        answer = call.ask(&*calls, &message) => answer,
        () = shared.left.notified() => return,
    };
    match answer {
        Ok(message) => {
            stats.msgs_received.inc();
            shared.hand(side, message);
        }
        Err(error) => {
            stats.failed.inc();
            *shared.end.borrow_mut() = Some(failed(&error));
            shared.wake_all();
        }
    }
}

/// As a client of gRPC would say it.
fn failed(error: &CallError) -> End {
    const UNAVAILABLE: u32 = 14;
    const INTERNAL: u32 = 13;
    let code = match error {
        CallError::Status { code, .. } => *code,
        CallError::Broken(_) | CallError::TooLarge(_) => INTERNAL,
        _ => UNAVAILABLE,
    };
    let message = match error {
        CallError::Status { message, .. } => message.clone(),
        other => other.to_string(),
    };
    End::Failed { code, message }
}
