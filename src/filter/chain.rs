//! The filters of one connection manager, in order.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::StatusCode;
use http::header::HOST;
use http::request::Parts;

use super::pause::Resume;
use super::{Answer, Asked, Flow, HttpFilter, LocalReply, Stream, Target, Then};
use crate::error::{Failure, ResponseFlag};
use crate::formatter::Wants;
use crate::route::{FilterName, PerRoute};

/// The filters of one connection manager in order, the router left out, and what the router was
/// told.
#[derive(Debug, Default)]
pub struct Chain {
    filters: Vec<Entry>,
    renders: bool,
    /// Those that look at [`Answer::target`].
    want_target: Vec<FilterName>,
    /// What templates of filters ask of a request.
    pub wants: Wants,
    pub router: RouterConfig,
}

#[derive(Debug)]
struct Entry {
    name: FilterName,
    /// Off unless a route switches it on.
    disabled: bool,
    filter: Kind,
}

#[derive(Debug)]
enum Kind {
    Fixed(Arc<dyn HttpFilter>),
    Changing(Arc<Slot>),
}

/// A filter whose configuration comes and changes while its chain is in use, connections included;
/// nothing as long as there is none.
#[derive(Debug, Default)]
pub struct Slot(ArcSwapOption<Arc<dyn HttpFilter>>);

impl Slot {
    pub fn set(&self, filter: Option<Arc<dyn HttpFilter>>) {
        self.0.store(filter.map(Arc::new));
    }
}

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterConfig {
    /// No `x-envoy-*` headers are added to requests and responses.
    pub suppress_envoy_headers: bool,
}

impl Chain {
    pub(super) fn push(&mut self, name: &str, disabled: bool, filter: Arc<dyn HttpFilter>) {
        self.renders |= filter.renders();
        self.wants.merge(&filter.wants());
        let name = FilterName::new(name);
        if filter.wants_target() {
            self.want_target.push(name.clone());
        }
        let filter = Kind::Fixed(filter);
        self.filters.push(Entry {
            name,
            disabled,
            filter,
        });
    }

    /// What is kept of a request is what any of the configurations that may come could need.
    pub(super) fn push_changing(&mut self, name: &str, disabled: bool, slot: Arc<Slot>) {
        self.renders = true;
        let name = FilterName::new(name);
        self.want_target.push(name.clone());
        let filter = Kind::Changing(slot);
        self.filters.push(Entry {
            name,
            disabled,
            filter,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// In order from `next` on, until one does not continue; `next` is behind that one then.
    pub fn request<'s>(
        &self,
        stream: &mut Stream<'s>,
        route: &'s PerRoute,
        next: &mut usize,
    ) -> Flow {
        if route.is_broken() {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let flag = ResponseFlag::Unauthorized;
            return Flow::fail(Failure::local(status, flag, "route_misconfigured"));
        }
        while let Some(entry) = self.filters.get(*next) {
            stream.place = *next;
            *next += 1;
            stream.own = route.of(&entry.name);
            if stream.own.map_or(entry.disabled, |own| own.disables()) {
                continue;
            }
            let flow = match &entry.filter {
                Kind::Fixed(filter) => filter.request(stream),
                Kind::Changing(slot) => match &*slot.0.load() {
                    Some(filter) => filter.request(stream),
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

    /// The filter before `next` goes on after its wait.
    pub fn resume<'s>(
        &self,
        stream: &mut Stream<'s>,
        route: &'s PerRoute,
        next: usize,
        then: Then,
    ) -> Flow {
        stream.place = next.saturating_sub(1);
        let entry = self.filters.get(stream.place);
        stream.own = entry.and_then(|entry| route.of(&entry.name));
        then(stream)
    }

    /// What of a request has to be kept for [`Chain::response`], if anything has.
    pub fn target(&self, request: &Parts, route: &PerRoute) -> Option<Box<Target>> {
        // Only filters that a route speaks to look at it.
        let mut wanting = self.want_target.iter();
        wanting.any(|name| route.of(name).is_some()).then(|| {
            Box::new(Target {
                host: request.headers.get(HOST).cloned(),
                uri: request.uri.clone(),
            })
        })
    }

    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// In reverse order from the filter before `place` on, which is [`Chain::len`] at first, until one
    /// holds the answer; that one is at `place` then, and goes on with `resume` after its wait.
    pub fn response<'a>(
        &self,
        answer: &mut Answer<'a>,
        route: &'a PerRoute,
        place: &mut usize,
        resume: Option<Resume>,
    ) {
        if let (Some(resume), Some(entry)) = (resume, self.filters.get(*place)) {
            answer.place = *place;
            answer.own = route.of(&entry.name);
            resume(answer);
            if answer.is_held() {
                return;
            }
        }
        for entry in self.filters[..*place].iter().rev() {
            *place -= 1;
            answer.place = *place;
            answer.own = route.of(&entry.name);
            if answer.own.map_or(entry.disabled, |own| own.disables()) {
                continue;
            }
            match &entry.filter {
                Kind::Fixed(filter) => filter.response(answer),
                Kind::Changing(slot) => {
                    if let Some(filter) = &*slot.0.load() {
                        filter.response(answer);
                    }
                }
            }
            if answer.is_held() {
                return;
            }
        }
    }

    /// What of a request has to be kept for [`Chain::render`], if anything has.
    pub fn asked(&self, request: &Parts) -> Option<Box<Asked>> {
        self.renders.then(|| Box::new(Asked::of(request)))
    }

    pub fn render(&self, failure: &Failure, asked: Option<&Asked>) -> Option<LocalReply> {
        let asked = asked?;
        self.filters.iter().find_map(|entry| match &entry.filter {
            Kind::Fixed(filter) => filter.render(failure, asked),
            Kind::Changing(slot) => {
                let now = slot.0.load();
                now.as_ref()?.render(failure, asked)
            }
        })
    }
}

/// As with Envoy, which has no word for the details either.
fn not_configured() -> Flow {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let flag = ResponseFlag::NoFilterConfigFound;
    Flow::fail(Failure::local(status, flag, ""))
}

#[cfg(test)]
mod tests;
