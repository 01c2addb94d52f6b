//! Why a request gets the route it gets. Asks the same matchers that serve requests.

use std::fmt;
use std::sync::Arc;

use super::host::{Order, Plan, WithoutParameters};
use super::matcher::{Condition, RouteMatcher};
use super::{RequestView, Route, RouteTable, VirtualHost};

/// By what a virtual host was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    Exact(String),
    /// A wildcard, with its star.
    Wildcard(String),
    Any,
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(domain) => write!(f, "its domain {domain:?} is the host"),
            Self::Wildcard(domain) => {
                write!(f, "its domain {domain:?} is the longest wildcard that fits")
            }
            Self::Any => f.write_str("its domain \"*\" takes what no other domain does"),
        }
    }
}

/// A route that was asked.
#[derive(Clone, Debug)]
pub struct Tried {
    /// In its virtual host, from 0.
    pub position: usize,
    pub name: String,
    /// All of them, in words, and whether they hold.
    pub conditions: Vec<Condition>,
}

impl Tried {
    /// What kept it from being taken.
    pub fn missed(&self) -> impl Iterator<Item = &Condition> {
        self.conditions.iter().filter(|condition| !condition.holds)
    }

    pub fn matches(&self) -> bool {
        self.missed().next().is_none()
    }

    /// One condition alone is not met.
    pub fn is_near_miss(&self) -> bool {
        self.missed().count() == 1
    }
}

impl RouteTable {
    /// The virtual host that [`RouteTable::virtual_host`] finds, with the reason.
    pub fn explain(&self, host: &str) -> Option<(&Arc<VirtualHost>, HostMatch)> {
        let found = self.virtual_host(host)?;
        let asked = self.compared(host);
        let is_wild = |domain: &&str| domain.len() > 1 && domain.contains('*');
        let exact = found.domains().find(|domain| **domain == *asked);
        if let Some(domain) = exact {
            return Some((found, HostMatch::Exact(domain.to_owned())));
        }
        let fits = |domain: &&str| match domain.strip_prefix('*') {
            Some(suffix) => asked.len() > suffix.len() && asked.ends_with(suffix),
            None => {
                let prefix = domain.trim_end_matches('*');
                asked.len() > prefix.len() && asked.starts_with(prefix)
            }
        };
        let wild = found.domains().filter(is_wild).filter(fits);
        // A suffix counts before a prefix, then the longer one.
        let best = wild.max_by_key(|domain| (domain.starts_with('*'), domain.len()));
        let by = match best {
            Some(domain) => HostMatch::Wildcard(domain.to_owned()),
            None => HostMatch::Any,
        };
        Some((found, by))
    }
}

impl VirtualHost {
    /// How many routes it has.
    pub fn len(&self) -> usize {
        self.plan().routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.plan().routes.is_empty()
    }

    /// Whether a matcher tree says which routes are asked.
    pub fn has_tree(&self) -> bool {
        matches!(self.plan().order, Order::Tree(_))
    }

    /// The routes that are asked for a request, up to and with the one that is taken, no more than
    /// `most`; and how many there were before that.
    pub fn tried(&self, request: &impl RequestView, most: usize) -> (Vec<Tried>, usize) {
        let plan = self.plan();
        if plan.ignore_path_parameters && !request.is_connect() {
            return plan.look(&WithoutParameters(request), most);
        }
        plan.look(request, most)
    }
}

impl Plan {
    fn look(&self, request: &impl RequestView, most: usize) -> (Vec<Tried>, usize) {
        let asked = self.asked(request);
        let first = asked.first().map_or(0, |first| self.position(first));
        let taken = |route: &&Arc<Route>| match request.is_connect() {
            true => route.matcher.matches_connect(request),
            false => route.matcher.matches(request),
        };
        let end = asked.iter().position(|route| taken(&route));
        let end = end.map_or(asked.len(), |taken| taken + 1);
        let from = end.saturating_sub(most);
        let tried = asked[from..end].iter().enumerate().map(|(n, route)| Tried {
            position: first + from + n,
            name: route.name.clone(),
            conditions: RouteMatcher::conditions(&route.matcher, request),
        });
        (tried.collect(), from)
    }

    fn position(&self, route: &Arc<Route>) -> usize {
        let mut routes = self.routes.iter();
        routes.position(|r| Arc::ptr_eq(r, route)).unwrap_or(0)
    }
}
