//! HTTP filters: what stands between the codec and the router.
//!
//! A filter sees a [`Stream`], never a connection. Its methods are synchronous, so a chain allocates
//! nothing; a filter that has to wait returns [`Flow::Wait`] and goes on when the wait is over.

pub mod body;
pub mod bucket;
pub mod call;
mod chain;
mod compression;
pub mod flag;
pub mod http;
pub mod kept;
mod local_reply;
pub mod network;
pub mod pace;
pub mod pause;
mod query;
pub mod registry;
pub mod rules;
pub mod secrets;
mod state;
mod state_value;
pub mod target;
#[cfg(test)]
mod testing;
mod token_endpoint;

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;

use ::http::header::{HeaderMap, HeaderValue};
use ::http::request::Parts;
use ::http::{StatusCode, Uri};
use bytes::Bytes;

pub use chain::{Chain, RouterConfig, Slot};
pub use local_reply::{Asked, LocalReply, RequestId};
pub use registry::{Context, Factory, Registry};
pub use state::{Bridge, StreamState, WantedEndpoint};

use crate::error::{Failure, ResponseFlag};
use crate::formatter::{Facts, Wants};
use crate::route::{Route, Said};
use crate::tls::Session;
use body::{BodySlot, Read, Transform, Transformed, Whole};
use call::Calls;
use pause::{Gather, Gathered, Pause, Resume, Until};

/// What filters can learn of what is around a stream.
pub trait Around {
    fn downstream(&self) -> Downstream<'_>;

    /// Where filters leave what they know.
    fn state(&self) -> &StreamState;

    fn calls(&self) -> Rc<dyn Calls>;

    /// What substitution formats are filled from.
    fn with_facts(&self, messages: Messages<'_>, f: &mut dyn FnMut(&dyn Facts));

    /// Shown in logs (`%RESPONSE_FLAGS%`).
    fn flag(&self, flag: ResponseFlag);

    /// The endpoint that was asked last.
    fn endpoint(&self) -> Option<SocketAddr>;

    /// Of the route, and of the cluster that the route leads to; may be empty.
    fn cluster(&self) -> &str;

    /// Of the request; `None` also where it is not known any more.
    fn route(&self) -> Option<&Route> {
        None
    }
}

/// What is there of a request and its response.
#[derive(Clone, Copy, Default)]
pub struct Messages<'m> {
    pub request: Option<&'m Parts>,
    pub response: Option<&'m HeaderMap>,
}

/// The connection that a request came on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Downstream<'s> {
    /// Whoever has connected; `None` for a Unix socket. The client is [`Stream::client`].
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// `None` for a connection in clear text.
    pub session: Option<&'s Session>,
    /// May be empty.
    pub requested_server_name: &'s str,
    /// Counts the connections of the process.
    pub id: u64,
}

/// What a filter may look at and change.
pub struct Stream<'s> {
    pub request: &'s mut Parts,
    /// The client's address as `http::forwarded` worked it out.
    pub client: IpAddr,
    /// The port that the connection came in on; 0 where there is none.
    pub local_port: u16,
    /// Whether the connection is encrypted.
    pub tls: bool,
    body: &'s mut dyn BodySlot,
    around: &'s dyn Around,
    /// What the route says to this filter.
    own: Option<&'s Said>,
    /// Of the filter in its chain.
    place: usize,
}

impl<'s> Stream<'s> {
    pub fn new(
        request: &'s mut Parts,
        body: &'s mut dyn BodySlot,
        client: IpAddr,
        around: &'s dyn Around,
    ) -> Self {
        let downstream = around.downstream();
        Self {
            request,
            client,
            local_port: downstream.local.map_or(0, |local| local.port()),
            tls: downstream.session.is_some(),
            body,
            around,
            own: None,
            place: 0,
        }
    }

    /// Lets the filter of that name see what the route says to it, as its chain would.
    #[cfg(test)]
    pub(crate) fn select(&mut self, route: &'s crate::route::PerRoute, name: &str) {
        self.own = route.of(&crate::route::FilterName::new(name));
    }

    /// What the most specific level says to the filter that asks, whose type it knows.
    pub fn route_config<T: Any>(&self) -> Option<&'s T> {
        self.own?.config()
    }

    /// What all levels say, from the most general to the most specific.
    pub fn route_configs<T: Any>(&self) -> impl DoubleEndedIterator<Item = &'s T> + use<'s, T> {
        self.own.into_iter().flat_map(Said::configs)
    }

    pub fn downstream(&self) -> Downstream<'s> {
        self.around.downstream()
    }

    pub fn state(&self) -> &'s StreamState {
        self.around.state()
    }

    /// The cluster that the route leads to; may be empty.
    pub fn cluster(&self) -> &'s str {
        self.around.cluster()
    }

    pub fn route(&self) -> Option<&'s Route> {
        self.around.route()
    }

    /// Something for this filter's [`HttpFilter::response`].
    pub fn keep(&self, value: impl Any) {
        self.state().keep(self.place, Rc::new(value));
    }

    /// The filter that stands in the place of this one for the rest of the exchange, if any does.
    fn choose(&self, filter: state::Choice) {
        self.state().choose(self.place, filter);
    }

    pub fn calls(&self) -> Rc<dyn Calls> {
        self.around.calls()
    }

    pub fn flag(&self, flag: ResponseFlag) {
        self.around.flag(flag);
    }

    /// What substitution formats are filled from.
    pub fn with_facts<R>(&self, f: impl FnOnce(&dyn Facts) -> R) -> Option<R> {
        let messages = Messages {
            request: Some(self.request),
            response: None,
        };
        with_facts(self.around, messages, f)
    }

    /// Whether the request has no body, or none that is left.
    pub fn is_bodyless(&self) -> bool {
        self.body.is_end()
    }

    pub fn take_body(&mut self) -> body::BoxBody {
        self.body.take()
    }

    pub fn put_body(&mut self, body: body::BoxBody) {
        self.body.put(body);
    }

    /// Changes the body of the request while it passes. Its length is not known any more.
    pub fn transform_body(&mut self, transform: Box<dyn Transform>) {
        let inner = self.body.take();
        self.body.put(Box::pin(Transformed::new(inner, transform)));
    }

    /// Waits for the body of the request, up to `limit` bytes of it, which `then` gets.
    pub fn read_body(
        &mut self,
        limit: u64,
        then: impl FnOnce(&mut Stream<'_>, Read) -> Flow + 'static,
    ) -> Flow {
        if self.body.is_end() {
            return then(self, Read::Whole(Whole::default()));
        }
        let body = self.body.take();
        Flow::wait(async move {
            let read = body::read(body, limit).await;
            Box::new(move |stream: &mut Stream<'_>| then(stream, read)) as Then
        })
    }
}

fn with_facts<R>(
    around: &dyn Around,
    messages: Messages<'_>,
    f: impl FnOnce(&dyn Facts) -> R,
) -> Option<R> {
    let mut f = Some(f);
    let mut result = None;
    around.with_facts(messages, &mut |facts| {
        result = f.take().map(|f| f(facts));
    });
    result
}

/// What a filter does with the stream when its wait is over.
pub type Then = Box<dyn FnOnce(&mut Stream<'_>) -> Flow>;

/// The wait of a filter. It ends with the stream, and by the stream's deadlines; what a filter waits
/// for has a deadline of its own beside them.
pub type Wait = Pin<Box<dyn Future<Output = Then>>>;

/// What happens next.
pub enum Flow {
    Continue,
    /// As `Continue`, with the route chosen anew, because the request has changed.
    Reroute,
    Wait(Wait),
    Reply(Box<LocalReply>),
    /// As a reply, but told in the words of whoever renders failures.
    Fail(Box<Failure>),
}

impl Flow {
    pub fn fail(failure: Failure) -> Self {
        Self::Fail(Box::new(failure))
    }

    pub fn reply(reply: LocalReply) -> Self {
        Self::Reply(Box::new(reply))
    }

    pub fn wait(future: impl Future<Output = Then> + 'static) -> Self {
        Self::Wait(Box::pin(future))
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Reroute => f.write_str("Reroute"),
            Self::Wait(_) => f.write_str("Wait"),
            Self::Reply(reply) => f.debug_tuple("Reply").field(reply).finish(),
            Self::Fail(failure) => f.debug_tuple("Fail").field(failure).finish(),
        }
    }
}

/// One configured filter; shared by all requests, so it keeps no per-request state.
pub trait HttpFilter: fmt::Debug + Send + Sync {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let _ = stream;
        Flow::Continue
    }

    /// Called in reverse order, for answers of the upstream and for our own, whoever made them.
    fn response(&self, answer: &mut Answer<'_>) {
        let _ = answer;
    }

    /// What its templates ask of a request.
    fn wants(&self) -> Wants {
        Wants::NONE
    }

    /// Whether [`HttpFilter::response`] looks at [`Answer::target`], which is only kept then.
    fn wants_target(&self) -> bool {
        false
    }

    /// Whether [`HttpFilter::render`] may answer; what it needs of a request is only kept then.
    fn renders(&self) -> bool {
        false
    }

    /// Gives a failure of our own its form; the first filter that has one is asked.
    fn render(&self, failure: &Failure, asked: &Asked) -> Option<LocalReply> {
        let _ = (failure, asked);
        None
    }
}

/// The head of an answer.
pub struct Answer<'a> {
    pub status: StatusCode,
    pub headers: &'a mut HeaderMap,
    /// It is ours, and not the upstream's.
    pub local: bool,
    /// There is no body, or none that is left.
    pub bodyless: bool,
    /// What the client asked for, if a filter of the chain wants it.
    pub target: Option<&'a Target>,
    /// In the order in which they change the body.
    transforms: Vec<Box<dyn Transform>>,
    /// What stands in the place of the body, or before what is left of it.
    body: Option<NewBody>,
    held: Option<Held>,
    /// `None` for the head of a tunnel, of which nothing is known any more.
    around: Option<&'a dyn Around>,
    own: Option<&'a Said>,
    place: usize,
}

impl<'a> Answer<'a> {
    pub fn new(
        status: StatusCode,
        headers: &'a mut HeaderMap,
        around: Option<&'a dyn Around>,
    ) -> Self {
        Self {
            status,
            headers,
            local: false,
            bodyless: false,
            target: None,
            transforms: Vec::new(),
            body: None,
            held: None,
            around,
            own: None,
            place: 0,
        }
    }

    /// As [`Stream::route_config`].
    pub fn route_config<T: Any>(&self) -> Option<&'a T> {
        self.own?.config()
    }

    /// As [`Stream::route_configs`].
    pub fn route_configs<T: Any>(&self) -> impl DoubleEndedIterator<Item = &'a T> + use<'a, T> {
        self.own.into_iter().flat_map(Said::configs)
    }

    /// What this filter kept of the request.
    pub fn kept<T: Any>(&self) -> Option<Rc<T>> {
        self.around?.state().kept(self.place)
    }

    /// As [`Stream::choose`] was told, if it was.
    fn chosen(&self) -> Option<state::Choice> {
        self.around?.state().chosen(self.place)
    }

    pub fn state(&self) -> Option<&'a StreamState> {
        Some(self.around?.state())
    }

    /// The endpoint that has answered, or was asked last.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.around?.endpoint()
    }

    /// `None` for the head of a tunnel.
    pub fn calls(&self) -> Option<Rc<dyn Calls>> {
        Some(self.around?.calls())
    }

    /// As [`Stream::with_facts`].
    pub fn with_facts<R>(&self, f: impl FnOnce(&dyn Facts) -> R) -> Option<R> {
        let messages = Messages {
            request: None,
            response: Some(self.headers),
        };
        with_facts(self.around?, messages, f)
    }

    /// Changes the body while it passes. Its length is not known any more: that field goes.
    pub fn transform(&mut self, transform: Box<dyn Transform>) {
        self.headers.remove(::http::header::CONTENT_LENGTH);
        self.transforms.push(transform);
    }

    /// Waits, which the filters between this one and the client do as well. What the body was changed
    /// by so far is part of it then.
    pub fn wait(&mut self, future: impl Future<Output = Resume> + 'static) {
        self.pause(Until(Box::pin(future)));
    }

    pub fn pause(&mut self, pause: impl Pause + 'static) {
        self.held = Some(Held::Paused(Box::new(pause)));
    }

    /// Waits for the body, up to `limit` bytes of it, which `then` gets. What it gets is gone from the
    /// body, and for `then` to put back.
    pub fn read_body(
        &mut self,
        limit: u64,
        then: impl FnOnce(&mut Answer<'_>, Gathered) + Unpin + 'static,
    ) {
        self.pause(Gather::new(limit, then));
    }

    /// In the place of the body, whatever is left of that.
    pub fn replace_body(&mut self, body: Whole) {
        self.body = Some(NewBody { body, cut: true });
    }

    /// Before what is left of the body.
    pub fn put_back(&mut self, data: Bytes) {
        self.body = Some(NewBody {
            body: Whole::new(data),
            cut: false,
        });
    }

    /// An answer of our own in the place of this one, which no other filter sees.
    pub fn reply(&mut self, reply: LocalReply) {
        self.held = Some(Held::Replied(Box::new(reply)));
    }

    /// The answer to another request in the place of this one, once for each stream.
    pub fn detour(&mut self, detour: Detour) {
        self.held = Some(Held::Detour(Box::new(detour)));
    }

    fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub fn into_outcome(self) -> Outcome {
        Outcome {
            body: self.body,
            transforms: self.transforms,
            held: self.held,
        }
    }
}

/// What filters have made of an answer, beside its head.
pub struct Outcome {
    pub body: Option<NewBody>,
    /// In the order in which they change the body, the new one if there is one.
    pub transforms: Vec<Box<dyn Transform>>,
    pub held: Option<Held>,
}

pub struct NewBody {
    pub body: Whole,
    /// Nothing that is left of the other one follows.
    pub cut: bool,
}

/// Why an answer does not go on to the next filter.
pub enum Held {
    Paused(Box<dyn Pause>),
    Replied(Box<LocalReply>),
    Detour(Box<Detour>),
}

/// A request without a body that begins anew, with routes and filters, in the place of one that was
/// answered.
pub struct Detour {
    /// Its target is a path, its host the field.
    pub request: Parts,
    /// Whether it is for `https`.
    pub https: bool,
    /// What filters find in [`StreamState::stands_in`] from then on.
    pub mark: Rc<dyn Any>,
    /// The answer stays as it was, because the first request has not ended, or there is no route: what
    /// the filter does then.
    pub refused: Resume,
}

/// What a client asked for, in its own terms: before the route rewrote anything.
#[derive(Clone, Debug, Default)]
pub struct Target {
    pub host: Option<HeaderValue>,
    pub uri: Uri,
}

#[cfg(test)]
mod tests;
