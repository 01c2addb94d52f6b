//! Route tables: compiled, immutable, no I/O.
//!
//! A request finds its virtual host by one hash lookup (then the wildcard lengths, longest first),
//! and in it the first route that matches. Tables are persistent maps: changing one virtual host
//! of many thousands shares everything else with the table before it.

pub mod action;
pub mod edits;
pub mod matcher;
mod table;

use std::sync::Arc;

use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::route as model;

use crate::filter::{PerRoute, Registry};

pub use action::Action;
pub use edits::HeaderEdits;
pub use table::{RouteTable, host_key};

/// A route and what it does.
#[derive(Debug)]
pub struct Route {
    /// A label; may be empty.
    pub name: String,
    /// By namespace.
    pub metadata: Vec<(String, MetadataValue)>,
    pub matcher: matcher::RouteMatcher,
    pub action: Action,
    /// Of all levels, in the order in which they apply.
    pub edits: HeaderEdits,
    /// The upstream is told which attempt it sees (`include_request_attempt_count`).
    pub attempt_count: bool,
    /// What the route says to filters.
    pub filters: PerRoute,
}

/// A virtual host with its routes in order of evaluation.
#[derive(Debug)]
pub struct VirtualHost {
    pub name: String,
    pub domains: Vec<String>,
    pub routes: Vec<Arc<Route>>,
    pub require_tls: model::RequireTls,
}

/// What a request looks like to the matchers.
pub trait RequestView {
    /// Path without the query.
    fn path(&self) -> &str;
    /// What follows the first `?`; empty when nothing does.
    fn query(&self) -> &str;
    /// All values of a header, or of a pseudo header, joined as HTTP joins them.
    fn header(&self, name: &str) -> Option<std::borrow::Cow<'_, [u8]>>;
}

impl VirtualHost {
    /// The first route that matches.
    pub fn find(&self, request: &impl RequestView) -> Option<&Arc<Route>> {
        self.routes
            .iter()
            .find(|route| route.matcher.matches(request))
    }

    /// Compiles a virtual host of a route configuration.
    pub fn compile(
        host: &model::VirtualHost,
        config: &model::RouteConfiguration,
        registry: &Registry,
    ) -> Arc<Self> {
        let routes = host
            .routes
            .iter()
            .map(|route| {
                Arc::new(Route {
                    name: route.name.clone(),
                    metadata: route.metadata.clone(),
                    matcher: matcher::RouteMatcher::compile(&route.matcher),
                    attempt_count: host.include_request_attempt_count,
                    action: Action::compile(&route.action, &route.matcher),
                    edits: HeaderEdits::compile(
                        [&route.edits, &host.edits, &config.edits].into_iter(),
                        config.most_specific_edits_win,
                    ),
                    filters: registry
                        .per_route(host.filter_config.iter().chain(&route.filter_config)),
                })
            })
            .collect();
        Arc::new(Self {
            name: host.name.clone(),
            domains: host.domains.clone(),
            routes,
            require_tls: host.require_tls,
        })
    }
}
