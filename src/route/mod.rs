//! Route tables: compiled, immutable, no I/O.
//!
//! A request finds its virtual host by one hash lookup (then the wildcard lengths, longest first),
//! and in it the first route that matches; where there are many routes, by an index. Tables are persistent maps: changing one virtual host
//! of many thousands shares everything else with the table before it.

pub mod action;
pub mod destination;
pub mod edits;
pub mod explain;
pub mod fraction;
pub mod hash;
mod index;
pub mod internal_redirect;
pub mod matcher;
mod per_filter;
pub mod rate_limits;
pub mod redirect;
pub mod retry;
pub mod rewrite;
mod table;

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use causeway_xds::resource::HostSource;
use causeway_xds::resource::metadata::{Labels, MetadataValue};
use causeway_xds::resource::route as model;

use crate::formatter::BodyFormat;
use crate::matching::headers::RequestHead;
use crate::matching::headers::joined;
use crate::matching::tree::{Input, Inputs, Tree};
use action::{Around, Forward};
use destination::{ClusterName, Destination, Weighted, WeightedCluster};
use index::Index;
use matcher::{Headers, RouteMatcher, Values};
use rate_limits::{Limit, RateLimits};
use redirect::Redirect;
use retry::Retry;

pub use action::Action;
pub use edits::HeaderEdits;
pub use per_filter::{FilterName, Filters, PerRoute, RouteConfig, Said, Word};
pub use table::{RouteTable, host_key};

/// Bytes of a request's body that are kept for a retry or a mirror, when no route says
/// (Envoy takes the default of `per_connection_buffer_limit_bytes` then).
pub const BUFFER_LIMIT: u64 = 1 << 20;

/// A route and what it does.
#[derive(Debug)]
pub struct Route {
    /// A label; may be empty.
    pub name: String,
    /// By namespace.
    pub metadata: Vec<(String, MetadataValue)>,
    pub matcher: RouteMatcher,
    pub action: Action,
    /// Of all levels, in the order in which they apply.
    edits: HeaderEdits,
    /// What the route says to filters.
    filters: PerRoute,
    pub told: Told,
    /// What requests are counted by, if there is anything.
    pub rate_limits: Option<Box<RateLimits>>,
}

impl Route {
    /// What it carries in a namespace.
    pub fn metadata(&self, namespace: &str) -> Option<&MetadataValue> {
        let mut all = self.metadata.iter();
        let (_, value) = all.find(|(name, _)| name == namespace)?;
        Some(value)
    }
}

/// What is told about attempts (fields of the virtual host).
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// The upstream, which attempt it sees (`include_request_attempt_count`).
    pub attempt: bool,
    /// The client, how many there were (`include_attempt_count_in_response`).
    pub attempts: bool,
    /// The upstream, whether a retry follows a timeout (`include_is_timeout_retry_header`).
    pub timeout_retry: bool,
}

/// The route of one request, and which of its weighted clusters was chosen.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub route: Arc<Route>,
    pub weighted: Option<usize>,
}

impl Chosen {
    fn cluster(&self) -> Option<&WeightedCluster> {
        match &self.route.action {
            Action::Forward(forward) => forward.destination.weighted(self.weighted?),
            _ => None,
        }
    }

    pub fn edits(&self) -> &HeaderEdits {
        self.cluster().map_or(&self.route.edits, |c| &c.edits)
    }

    pub fn filters(&self) -> &PerRoute {
        self.cluster().map_or(&self.route.filters, |c| &c.filters)
    }

    /// What subsets of the cluster are asked for.
    pub fn labels(&self) -> Option<&Labels> {
        match (self.cluster(), &self.route.action) {
            (Some(cluster), _) => Some(&cluster.labels),
            (None, Action::Forward(forward)) => Some(&forward.labels),
            _ => None,
        }
    }

    /// The host that the weighted cluster is asked for.
    pub fn host(&self) -> Option<&http::HeaderValue> {
        self.cluster()?.host.as_ref()
    }
}

/// A virtual host. One that is light is compiled by its first request: of very many most are idle.
#[derive(Debug)]
pub struct VirtualHost {
    source: HostSource,
    common: Arc<Common>,
    /// As its source says, which is far away when a request asks.
    require_tls: model::RequireTls,
    plan: OnceLock<Box<Plan>>,
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
struct Plan {
    routes: Box<[Arc<Route>]>,
    order: Order,
    /// What follows a `;` in a path is not looked at.
    ignore_path_parameters: bool,
}

/// How the first route that matches is found.
#[derive(Debug)]
enum Order {
    /// By asking one after the other.
    Each,
    Indexed(Index),
    /// A tree says which are asked.
    Tree(Tree<Range<usize>>),
}

/// What a request looks like to the matchers.
pub trait RequestView: Headers {
    /// Path without the query.
    fn path(&self) -> &str;
    /// What follows the first `?`; empty when nothing does.
    fn query(&self) -> &str;
    /// Whether it asks for a tunnel, and so has no path.
    fn is_connect(&self) -> bool {
        false
    }
    /// Whether the client has shown a certificate, and whether somebody trusted vouches for it.
    fn certificate(&self) -> Option<bool> {
        None
    }
    /// What filters have set in a namespace.
    fn metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        let _ = namespace;
        None
    }
    /// What filters have set under a key.
    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        let _ = key;
        None
    }
    /// A number that is the same whenever this request is looked at.
    fn random(&self) -> u64;
}

impl RequestView for RequestHead<'_> {
    fn path(&self) -> &str {
        self.0.uri.path()
    }
    fn query(&self) -> &str {
        self.0.uri.query().unwrap_or_default()
    }
    fn is_connect(&self) -> bool {
        self.0.method == http::Method::CONNECT
    }
    /// Drawn anew each time.
    fn random(&self) -> u64 {
        fastrand::u64(..)
    }
}

/// A request whose path ends before its parameters.
struct WithoutParameters<'r, R>(&'r R);

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

    fn plan(&self) -> &Plan {
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
    fn asked(&self, request: &impl RequestView) -> &[Arc<Route>] {
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

/// What the routes of a virtual host share while they are compiled.
struct Level<'a> {
    host: &'a model::VirtualHost,
    config: &'a model::RouteConfiguration,
    registry: &'a dyn Filters,
    retry: Option<Arc<Retry>>,
    rate_limits: Arc<[Limit]>,
}

impl Level<'_> {
    fn route(&self, route: &model::Route) -> Route {
        let Self { host, config, .. } = *self;
        let action = self.action(route);
        let mut edits = HeaderEdits::compile(
            [&route.edits, &host.edits, &config.edits].into_iter(),
            config.most_specific_edits_win,
        );
        if let Action::Direct {
            format: Some(format),
            ..
        } = &action
        {
            format.text.note(&mut edits.wants);
        }
        Route {
            name: route.name.clone(),
            metadata: route.metadata.clone(),
            matcher: RouteMatcher::compile(&route.matcher, self.layers()),
            action,
            edits,
            filters: self.filters(route, None),
            told: Told {
                attempt: host.include_request_attempt_count,
                attempts: host.include_attempt_count_in_response,
                timeout_retry: host.include_is_timeout_retry_header,
            },
            rate_limits: match &route.action {
                model::Action::Forward(forward) => RateLimits::compile(
                    &forward.rate_limits,
                    forward.include_host_rate_limits,
                    &self.rate_limits,
                    self.layers(),
                ),
                // Requests that go nowhere are not counted.
                _ => None,
            },
        }
    }

    fn layers(&self) -> &crate::runtime::layers::Layers {
        self.registry.layers()
    }

    /// What all levels say to filters, a weighted cluster included.
    fn filters(&self, route: &model::Route, cluster: Option<&model::WeightedCluster>) -> PerRoute {
        let Self { host, config, .. } = *self;
        let name = (Some(host.name.as_str()), Some(route));
        let of_cluster = cluster.map_or(&[][..], |cluster| &cluster.filter_config);
        let levels = [
            (&config.filter_config[..], (None, None)),
            (&host.filter_config[..], (name.0, None)),
            (&route.filter_config[..], name),
            (of_cluster, name),
        ];
        let last = levels.len() - 1;
        let words = levels.into_iter().enumerate();
        let mut words = words.flat_map(|(level, (said, (host, route)))| {
            said.iter().map(move |said| Word {
                said,
                config: &config.name,
                host,
                route,
                cluster: cluster.filter(|_| level == last).map(|c| &c.cluster),
            })
        });
        self.registry.per_route(&mut words)
    }

    fn action(&self, route: &model::Route) -> Action {
        match &route.action {
            model::Action::Forward(forward) => {
                let destination = self.destination(route, &forward.destination);
                let limit = route.buffer_limit.or(self.host.buffer_limit);
                let around = Around {
                    retry: self.retry.as_ref(),
                    mirrors: match self.host.mirrors.is_empty() {
                        true => &self.config.mirrors,
                        false => &self.host.mirrors,
                    },
                    buffer_limit: limit.unwrap_or(BUFFER_LIMIT),
                    layers: self.layers(),
                };
                let forward = Forward::compile(forward, &route.matcher, destination, &around);
                Action::Forward(Box::new(forward))
            }
            model::Action::Redirect(redirect) => {
                Action::Redirect(Box::new(Redirect::compile(redirect, &route.matcher)))
            }
            model::Action::Direct(direct) => Action::Direct {
                status: action::status(direct.status),
                body: direct.body.clone(),
                format: direct
                    .format
                    .as_ref()
                    .map(|format| Box::new(BodyFormat::compile(format))),
            },
        }
    }

    fn destination(&self, route: &model::Route, model: &model::Destination) -> Destination {
        let Self { host, config, .. } = *self;
        match model {
            model::Destination::Cluster(name) => Destination::Cluster(ClusterName::compile(name)),
            model::Destination::Weighted(weighted) => {
                Destination::Weighted(Weighted::compile(weighted, self.layers(), |cluster| {
                    let edits = HeaderEdits::compile(
                        [&cluster.edits, &route.edits, &host.edits, &config.edits].into_iter(),
                        config.most_specific_edits_win,
                    );
                    (edits, self.filters(route, Some(cluster)))
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
