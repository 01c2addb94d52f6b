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
mod host;
mod index;
pub mod internal_redirect;
mod level;
pub mod matcher;
mod per_filter;
pub mod rate_limits;
pub mod redirect;
pub mod retry;
pub mod rewrite;
mod table;
mod view;

use std::sync::Arc;

use causeway_xds::resource::metadata::{Labels, MetadataValue};

use destination::WeightedCluster;
use matcher::RouteMatcher;
use rate_limits::RateLimits;

pub use action::Action;
pub use edits::HeaderEdits;
pub use host::{Common, VirtualHost};
pub use per_filter::{FilterName, Filters, PerRoute, RouteConfig, Said, Word};
pub use table::{RouteTable, host_key};
pub use view::RequestView;

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

#[cfg(test)]
mod tests;
