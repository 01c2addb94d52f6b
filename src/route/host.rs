//! Virtual hosts, and finding the first of their routes that matches.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use causeway_xds::resource::HostSource;
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::route as model;

use super::index::Index;
use super::level::Level;
use super::matcher::{Headers, Values};
use super::per_filter::Filters;
use super::rate_limits::Limit;
use super::retry::Retry;
use super::{RequestView, Route};
use crate::matching::headers::joined;
use crate::matching::tree::{Input, Inputs, Tree};

/// A virtual host. One that is light is compiled by its first request: of very many most are idle.
#[derive(Debug)]
pub struct VirtualHost {
    source: HostSource,
    common: Arc<Common>,
    /// As its source says, which is far away when a request asks.
    require_tls: model::RequireTls,
    pub(super) plan: OnceLock<Box<Plan>>,
}

/// What the virtual hosts of a table have in common.
#[derive(Debug)]
pub struct Common {
    /// Without its virtual hosts.
    config: model::RouteConfiguration,
    filters: Arc<dyn Filters>,
    /// Nothing in it keeps a virtual host from being light.
    light: bool,
}

impl Common {
    pub fn new(config: &model::RouteConfiguration, filters: &Arc<dyn Filters>) -> Arc<Self> {
        let config = config.without_hosts();
        let light =
            config.edits.is_empty() && config.mirrors.is_empty() && config.filter_config.is_empty();
        Arc::new(Self {
            config,
            filters: Arc::clone(filters),
            light,
        })
    }
}

/// The routes of a virtual host in order of evaluation.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) routes: Box<[Arc<Route>]>,
    pub(super) order: Order,
    /// What follows a `;` in a path is not looked at.
    pub(super) ignore_path_parameters: bool,
}

/// How the first route that matches is found.
#[derive(Debug)]
pub(super) enum Order {
    /// By asking one after the other.
    Each,
    Indexed(Index),
    /// A tree says which are asked.
    Tree(Tree<Range<usize>>),
}

/// A request whose path ends before its parameters.
pub(super) struct WithoutParameters<'r, R>(pub(super) &'r R);

impl<R: RequestView> Headers for WithoutParameters<'_, R> {
    fn values<'h>(&'h self, name: &str) -> Values<'h> {
        self.0.values(name)
    }
}

impl<R: RequestView> RequestView for WithoutParameters<'_, R> {
    fn path(&self) -> &str {
        self.0.path().split(';').next().unwrap_or_default()
    }
    fn query(&self) -> &str {
        self.0.query()
    }
    fn certificate(&self) -> Option<bool> {
        self.0.certificate()
    }
    fn metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        self.0.metadata(namespace)
    }
    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        self.0.filter_state(key)
    }
    fn random(&self) -> u64 {
        self.0.random()
    }
}

/// What a tree may ask of a request.
struct OfRequest<'r, R>(&'r R);

impl<R: RequestView> Inputs for OfRequest<'_, R> {
    fn value<'i>(&'i self, input: &Input) -> Option<Cow<'i, [u8]>> {
        match input {
            Input::RequestHeader(name) => joined(self.0.values(name)),
            // Refused when the resource was decoded.
            _ => None,
        }
    }
}

impl VirtualHost {
    pub fn name(&self) -> &str {
        self.source.name()
    }

    /// Lower case; see [`model::VirtualHost::domains`].
    pub fn domains(&self) -> impl ExactSizeIterator<Item = &str> {
        self.source.domains()
    }

    pub fn require_tls(&self) -> model::RequireTls {
        self.require_tls
    }

    /// The first route that matches.
    pub fn find(&self, request: &impl RequestView) -> Option<&Arc<Route>> {
        self.plan().find(request)
    }

    pub(super) fn plan(&self) -> &Plan {
        let Self {
            source,
            common,
            plan,
            ..
        } = self;
        plan.get_or_init(|| Box::new(Plan::compile(&source.decoded(), common)))
    }

    /// A virtual host of a table.
    pub fn compile(source: HostSource, common: &Arc<Common>) -> Arc<Self> {
        let light = common.light
            && match &source {
                HostSource::Packed(_) => true,
                HostSource::Decoded(host) => common.filters.is_light(host),
            };
        let host = Self {
            require_tls: source.require_tls(),
            source,
            common: Arc::clone(common),
            plan: OnceLock::new(),
        };
        if !light {
            host.plan();
        }
        Arc::new(host)
    }
}

impl Plan {
    fn find(&self, request: &impl RequestView) -> Option<&Arc<Route>> {
        if request.is_connect() {
            let mut routes = self.asked(request).iter();
            return routes.find(|route| route.matcher.matches_connect(request));
        }
        if self.ignore_path_parameters {
            return self.first(&WithoutParameters(request));
        }
        self.first(request)
    }

    fn first(&self, request: &impl RequestView) -> Option<&Arc<Route>> {
        match &self.order {
            Order::Indexed(index) => index
                .find(request, |position| &self.routes[position].matcher)
                .map(|position| &self.routes[position]),
            Order::Each | Order::Tree(_) => self
                .asked(request)
                .iter()
                .find(|r| r.matcher.matches(request)),
        }
    }

    /// The routes of which the first that matches counts.
    pub(super) fn asked(&self, request: &impl RequestView) -> &[Arc<Route>] {
        match &self.order {
            Order::Tree(tree) => {
                let found = tree.find(&OfRequest(request)).cloned();
                &self.routes[found.unwrap_or_default()]
            }
            Order::Each | Order::Indexed(_) => &self.routes,
        }
    }

    fn compile(host: &model::VirtualHost, common: &Common) -> Self {
        let Common {
            config, filters, ..
        } = common;
        let retry = host.retry.as_deref().map(Retry::compile).map(Arc::new);
        let layers = filters.layers();
        let level = Level {
            host,
            config,
            registry: &**filters,
            retry,
            rate_limits: Limit::compile_all(&host.rate_limits, layers).into(),
        };
        let routes = host.routes.iter().map(|route| Arc::new(level.route(route)));
        Self {
            routes: routes.collect(),
            order: match &host.tree {
                Some(tree) => Order::Tree(Tree::compile(tree, &mut Range::clone)),
                None => Index::of(host.routes.iter().map(|route| &route.matcher))
                    .map_or(Order::Each, Order::Indexed),
            },
            ignore_path_parameters: config.ignore_path_parameters,
        }
    }
}
