//! HTTP filters: what stands between the codec and the router.
//!
//! A filter sees a [`Stream`], never a connection. Its methods are synchronous, so a chain
//! allocates nothing; the first filter that has to wait brings a further [`Flow`].

pub mod http;
mod local_reply;
pub mod registry;
pub mod rules;
#[cfg(test)]
mod testing;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use ::http::header::{HOST, HeaderMap, HeaderValue};
use ::http::request::Parts;
use ::http::{StatusCode, Uri};
use arc_swap::ArcSwapOption;

pub use local_reply::{Asked, LocalReply};
pub use registry::{Context, Factory, Registry};

use crate::error::{Failure, ResponseFlag};
use crate::telemetry::activity::ActivityGuard;

/// What a filter may look at and change.
pub struct Stream<'s> {
    pub request: &'s mut Parts,
    /// The client's address as `http::forwarded` worked it out.
    pub client: std::net::IpAddr,
    /// The port that the connection came in on; 0 where there is none.
    pub local_port: u16,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Held until the exchange has ended.
    pub usage: &'s mut Option<ActivityGuard>,
    /// What the route says to this filter.
    own: Option<&'s RouteConfig>,
}

impl<'s> Stream<'s> {
    pub fn new(
        request: &'s mut Parts,
        client: std::net::IpAddr,
        local_port: u16,
        tls: bool,
        usage: &'s mut Option<ActivityGuard>,
    ) -> Self {
        Self {
            request,
            client,
            local_port,
            tls,
            usage,
            own: None,
        }
    }

    /// Lets the filter of that name see what the route says to it, as its chain would.
    #[cfg(test)]
    pub(crate) fn select(&mut self, route: &'s PerRoute, name: &str) {
        let place = registry::FACTORIES.iter().position(|f| f.name == name);
        self.own = place.and_then(|place| route.of(place));
    }

    /// The configuration that the route has for the filter that asks, whose type it knows.
    pub fn route_config<T: Any>(&self) -> Option<&'s T> {
        self.own.and_then(|own| (**own).downcast_ref())
    }
}

/// What happens next.
#[derive(Debug)]
pub enum Flow {
    Continue,
    Reply(Box<LocalReply>),
    /// As a reply, but told in the words of whoever renders failures.
    Fail(Box<Failure>),
}

/// One configured filter; shared by all requests, so it keeps no per-request state.
pub trait HttpFilter: fmt::Debug + Send + Sync {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let _ = stream;
        Flow::Continue
    }

    /// Called in reverse order, for answers of the upstream.
    fn response(&self, answer: &mut Answer<'_>) {
        let _ = answer;
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

/// The head of an upstream's answer.
pub struct Answer<'a> {
    pub status: StatusCode,
    pub headers: &'a mut HeaderMap,
    /// What the client asked for, if a filter of the chain wants it.
    pub target: Option<&'a Target>,
    own: Option<&'a RouteConfig>,
}

impl<'a> Answer<'a> {
    /// As [`Stream::route_config`].
    pub fn route_config<T: Any>(&self) -> Option<&'a T> {
        self.own.and_then(|own| (**own).downcast_ref())
    }
}

/// What a client asked for, in its own terms: before the route rewrote anything.
#[derive(Clone, Debug, Default)]
pub struct Target {
    pub host: Option<HeaderValue>,
    pub uri: Uri,
}

/// What one route says to one filter, compiled.
pub type RouteConfig = Arc<dyn Any + Send + Sync>;

/// What one route says to filters, by the place of the filter's factory in the registry.
#[derive(Clone, Default)]
pub struct PerRoute {
    configs: Box<[(usize, RouteConfig)]>,
    /// Something in it cannot be used. What it would have refused is not known, so nothing passes.
    broken: bool,
}

impl PerRoute {
    fn broken() -> Self {
        Self {
            broken: true,
            ..Self::default()
        }
    }

    pub(crate) fn of(&self, factory: usize) -> Option<&RouteConfig> {
        // Two or three entries: a search is cheaper than a map.
        self.configs
            .iter()
            .find(|(of, _)| *of == factory)
            .map(|(_, config)| config)
    }
}

impl fmt::Debug for PerRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .configs
            .iter()
            .map(|(of, _)| registry::FACTORIES[*of].name);
        f.debug_list().entries(names).finish()
    }
}

/// The filters of one connection manager in order, the router left out, and what the router was
/// told.
#[derive(Debug, Default)]
pub struct Chain {
    filters: Vec<Entry>,
    renders: bool,
    /// The factories of those that look at [`Answer::target`].
    want_target: Vec<usize>,
    pub router: RouterConfig,
}

#[derive(Debug)]
enum Entry {
    Fixed(Built),
    Changing(Arc<Slot>),
}

/// A filter, and the place of its factory in the registry.
#[derive(Clone, Debug)]
pub struct Built {
    factory: usize,
    filter: Arc<dyn HttpFilter>,
}

/// A filter whose configuration comes and changes while its chain is in use, connections included;
/// nothing as long as there is none.
#[derive(Debug)]
pub struct Slot {
    now: ArcSwapOption<Built>,
    /// The factories of what it may become.
    factories: Vec<usize>,
}

impl Slot {
    pub fn set(&self, filter: Option<Built>) {
        self.now.store(filter.map(Arc::new));
    }
}

impl Chain {
    fn push(&mut self, filter: Built) {
        self.renders |= filter.filter.renders();
        if filter.filter.wants_target() {
            self.want_target.push(filter.factory);
        }
        self.filters.push(Entry::Fixed(filter));
    }

    /// What is kept of a request is what any of the configurations that may come could need.
    fn push_changing(&mut self, slot: Arc<Slot>) {
        self.renders = true;
        self.want_target.extend(&slot.factories);
        self.filters.push(Entry::Changing(slot));
    }

    /// In order, until one does not continue.
    pub fn request<'s>(&self, mut stream: Stream<'s>, route: &'s PerRoute) -> Flow {
        if route.broken {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let flag = ResponseFlag::Unauthorized;
            return Flow::Fail(Box::new(Failure::local(
                status,
                flag,
                "route_misconfigured",
            )));
        }
        for entry in &self.filters {
            let flow = match entry {
                Entry::Fixed(filter) => filter.request(&mut stream, route),
                Entry::Changing(slot) => match &*slot.now.load() {
                    Some(filter) => filter.request(&mut stream, route),
                    None => not_configured(),
                },
            };
            match flow {
                Flow::Continue => {}
                other => return other,
            }
        }
        Flow::Continue
    }

    /// What of a request has to be kept for [`Chain::response`], if anything has.
    pub fn target(&self, request: &Parts, route: &PerRoute) -> Option<Box<Target>> {
        // Only filters that a route speaks to look at it.
        let mut wanting = self.want_target.iter();
        wanting
            .any(|factory| route.of(*factory).is_some())
            .then(|| {
                Box::new(Target {
                    host: request.headers.get(HOST).cloned(),
                    uri: request.uri.clone(),
                })
            })
    }

    /// In reverse order.
    pub fn response(
        &self,
        status: StatusCode,
        headers: &mut HeaderMap,
        route: &PerRoute,
        target: Option<&Target>,
    ) {
        let mut answer = Answer {
            status,
            headers,
            target,
            own: None,
        };
        for entry in self.filters.iter().rev() {
            match entry {
                Entry::Fixed(filter) => filter.response(&mut answer, route),
                Entry::Changing(slot) => {
                    if let Some(filter) = &*slot.now.load() {
                        filter.response(&mut answer, route);
                    }
                }
            }
        }
    }

    /// What of a request has to be kept for [`Chain::render`], if anything has.
    pub fn asked(&self, request: &Parts) -> Option<Box<Asked>> {
        self.renders.then(|| Box::new(Asked::of(request)))
    }

    pub fn render(&self, failure: &Failure, asked: Option<&Asked>) -> Option<LocalReply> {
        let asked = asked?;
        self.filters.iter().find_map(|entry| match entry {
            Entry::Fixed(filter) => filter.filter.render(failure, asked),
            Entry::Changing(slot) => {
                let now = slot.now.load();
                now.as_ref()?.filter.render(failure, asked)
            }
        })
    }
}

impl Built {
    fn request<'s>(&self, stream: &mut Stream<'s>, route: &'s PerRoute) -> Flow {
        stream.own = route.of(self.factory);
        self.filter.request(stream)
    }

    fn response<'a>(&self, answer: &mut Answer<'a>, route: &'a PerRoute) {
        answer.own = route.of(self.factory);
        self.filter.response(answer);
    }
}

/// As with Envoy, which has no word for the details either.
fn not_configured() -> Flow {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let flag = ResponseFlag::NoFilterConfigFound;
    Flow::Fail(Box::new(Failure::local(status, flag, "")))
}

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterConfig {
    /// No `x-envoy-*` headers are added to requests and responses.
    pub suppress_envoy_headers: bool,
}
