//! RouteConfiguration and what it is made of.

mod action;
mod again;
mod decode;
mod destination;
mod domains;
mod hash_policy;
mod internal_redirect;
mod mirror;
mod redirect;
mod retry;
mod source;
mod template;
mod tree;

pub(in crate::resource) use destination::labels;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::config_source::ConfigSource;
use super::format::FormatString;
use super::fraction::RuntimeFraction;
use super::headers::HeaderEdits;
use super::matcher::tree::Tree;
use super::matcher::value::{FilterStateMatcher, MetadataMatcher};
use super::matcher::{CookieMatcher, HeaderMatcher, QueryMatcher};
use super::metadata::Labels;
pub use super::metadata::MetadataValue;
use super::rate_limit::RateLimit;
use super::tls::SecretRef;
use crate::extension::TypedExtension;

pub use destination::{ClusterName, Destination, Selection, WeightedCluster, WeightedClusters};
pub use hash_policy::{HashBy, HashCookie, HashPolicy};
pub use internal_redirect::{InternalRedirect, RedirectPredicate};
pub use mirror::Mirror;
pub use retry::{BackOff, RateLimited, ResetHeader, Retry, RetryOn};
pub use source::{HostSource, PackedHost};
pub use template::{PathTemplate, RewritePart, TemplateRewrite};

/// `envoy.config.route.v3.RouteConfiguration`.
#[derive(Clone, Debug, Default)]
pub struct RouteConfiguration {
    pub name: String,
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    /// More virtual hosts arrive as resources of their own, named `<route configuration>/<name>`.
    pub vhds: Option<ConfigSource>,
    /// What selects the virtual host instead of the `Host` header.
    pub vhost_key: VirtualHostKey,
    pub ignore_port_in_host_matching: bool,
    pub edits: HeaderEdits,
    /// Whether the edits of the most specific level win (`most_specific_header_mutations_wins`).
    pub most_specific_edits_win: bool,
    /// What follows a `;` in a path is not looked at by matchers
    /// (`ignore_path_parameters_in_path_matching`).
    pub ignore_path_parameters: bool,
    /// Of routes that have none of their own, neither their virtual hosts.
    pub mirrors: Vec<Mirror>,
    /// By filter name, sorted.
    pub filter_config: Vec<(String, TypedExtension)>,
    /// What it says to filters needs these.
    pub filter_secrets: Vec<SecretRef>,
}

/// How a request chooses its virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VirtualHostKey {
    /// The `Host` header or `:authority`.
    #[default]
    Host,
    /// The first segment of the path (`vhost_header: ":first-path-segment"`, an extension of ours:
    /// it makes "one virtual host per compute session" as cheap as one per subdomain).
    FirstPathSegment,
}

/// `envoy.config.route.v3.VirtualHost`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualHost {
    pub name: String,
    /// Lower case. `*`, `*.suffix`, `*-suffix`, `prefix.*` or exact, port included if given.
    pub domains: Vec<String>,
    pub routes: Vec<Route>,
    /// Which of `routes` are looked through, each in order: all of them when there is no tree
    /// (`matcher`, whose actions are `Route` and `RouteList`).
    pub tree: Option<Arc<Tree<Range<usize>>>>,
    pub require_tls: RequireTls,
    pub edits: HeaderEdits,
    /// `include_request_attempt_count`.
    pub include_request_attempt_count: bool,
    /// `include_attempt_count_in_response`.
    pub include_attempt_count_in_response: bool,
    /// The upstream is told whether a retry follows a timeout (`include_is_timeout_retry_header`).
    pub include_is_timeout_retry_header: bool,
    /// Of routes that have none of their own.
    pub retry: Option<Arc<Retry>>,
    /// Of routes that have none of their own.
    pub mirrors: Vec<Mirror>,
    /// Of routes that have none of their own.
    pub buffer_limit: Option<u64>,
    /// Of routes that have none of their own, or ask for these as well.
    pub rate_limits: Vec<RateLimit>,
    /// By filter name, sorted.
    pub filter_config: Vec<(String, TypedExtension)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequireTls {
    #[default]
    None,
    ExternalOnly,
    All,
}

/// `envoy.config.route.v3.Route`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// A label, for logs; may be empty.
    pub name: String,
    /// By namespace, sorted (`metadata.filter_metadata`).
    pub metadata: Vec<(String, MetadataValue)>,
    pub matcher: RouteMatch,
    pub action: Action,
    pub edits: HeaderEdits,
    /// By filter name, sorted.
    pub filter_config: Vec<(String, TypedExtension)>,
    /// Bytes of a request's body that are kept for a retry or a mirror
    /// (`request_body_buffer_limit`, or `per_request_buffer_limit_bytes`). Default 1 MiB.
    pub buffer_limit: Option<u64>,
}

/// `envoy.config.route.v3.RouteMatch`.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    pub path: PathMatch,
    /// `case_sensitive`, default true. Not for a regex.
    pub case_sensitive: bool,
    pub headers: Vec<HeaderMatcher>,
    /// All of them must match.
    pub query: Vec<QueryMatcher>,
    pub cookies: Vec<CookieMatcher>,
    /// Only this share of the requests (`runtime_fraction`).
    pub fraction: Option<RuntimeFraction>,
    /// Only requests of gRPC, by their `content-type`.
    pub grpc: bool,
    /// What filters must have set (`dynamic_metadata`). Nothing is set when a route is chosen first; a
    /// filter that has the route chosen anew can lead elsewhere.
    pub metadata: Vec<MetadataMatcher>,
    /// The same of `filter_state`.
    pub filter_state: Vec<FilterStateMatcher>,
    /// What the client's certificate must be (`tls_context`).
    pub certificate: CertificateMatch,
}

/// `envoy.config.route.v3.RouteMatch.TlsContextMatchOptions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertificateMatch {
    /// Whether one is shown; `None`: either will do.
    pub presented: Option<bool>,
    /// Whether one is shown that somebody who is trusted vouches for; `None`: either will do.
    pub validated: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    Prefix(String),
    Exact(String),
    /// Matches `value` itself and `value/...`.
    SeparatedPrefix(String),
    /// Whole path without the query; checked to compile.
    Regex(String),
    /// `path_match_policy` with the URI template extension.
    Template(PathTemplate),
    /// Requests with the method CONNECT, which have no path (`connect_matcher`).
    Connect,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    Direct(DirectResponse),
}

/// `envoy.config.route.v3.RouteAction`: to a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    pub destination: Destination,
    /// What subsets of the cluster are asked for (`metadata_match`).
    pub labels: Labels,
    /// Status when the cluster does not exist; default 503.
    pub cluster_not_found: u16,
    pub path_rewrite: PathRewrite,
    pub host_rewrite: HostRewrite,
    /// Whole time until the response has ended; zero is none. Default 15 s.
    pub timeout: Duration,
    /// Overrides the connection manager's stream idle timeout; zero is none.
    pub idle_timeout: Option<Duration>,
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// The older form of the same; not followed when `max_stream_duration` is given.
    pub grpc_timeout: Option<GrpcTimeout>,
    pub upgrades: Vec<Upgrade>,
    /// `append_x_forwarded_host`.
    pub append_x_forwarded_host: bool,
    pub retry: Option<Arc<Retry>>,
    pub internal_redirect: Option<Arc<InternalRedirect>>,
    pub mirrors: Vec<Mirror>,
    pub priority: Priority,
    /// Only matters where the cluster's policy hashes.
    pub hash_policy: Vec<HashPolicy>,
    /// What requests are counted by, for the filters that limit rates.
    pub rate_limits: Vec<RateLimit>,
    /// The rate limits of the virtual host count as well (`include_vh_rate_limits`).
    pub include_host_rate_limits: bool,
}

/// Which of a cluster's limits count (`RoutingPriority`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    #[default]
    Default,
    High,
}

/// `envoy.config.route.v3.RouteAction.MaxStreamDuration`. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxStreamDuration {
    /// Overrides the connection manager's.
    pub limit: Option<Duration>,
    /// `grpc-timeout` of a request counts, up to this (`grpc_timeout_header_max`).
    pub grpc_max: Option<Duration>,
    /// Taken off of `grpc-timeout` (`grpc_timeout_header_offset`).
    pub grpc_offset: Option<Duration>,
}

/// `max_grpc_timeout` and `grpc_timeout_offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcTimeout {
    /// `grpc-timeout` of a request is its route timeout, up to this. Zero is no limit.
    pub max: Duration,
    pub offset: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathRewrite {
    #[default]
    None,
    /// Replaces the matched prefix or path.
    Prefix(String),
    /// As `prefix_rewrite`, and the part that was cut goes upstream in `x-forwarded-prefix`
    /// (our own addition, on a route that carries the `causeway.strip_prefix` metadata).
    StripPrefix,
    /// Pattern (checked to compile) and substitution in the `regex` crate's syntax.
    Regex {
        pattern: String,
        substitution: String,
    },
    /// `path_rewrite_policy` with the URI template extension.
    Template(TemplateRewrite),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostRewrite {
    #[default]
    None,
    Literal(String),
    /// The value of this header, if the request has it; lower case.
    Header(String),
    /// What becomes of the path, without the query; as [`PathRewrite::Regex`].
    PathRegex {
        pattern: String,
        substitution: String,
    },
    /// The chosen endpoint's host name (`auto_host_rewrite`).
    Auto,
}

/// One entry of `upgrade_configs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Lower case; `*` stands for any but CONNECT (an addition of ours, used by circuits).
    pub kind: String,
    pub enabled: bool,
    /// The tunnel of a CONNECT ends here, and its bytes go to the endpoint (`connect_config`).
    pub terminate: bool,
}

/// `envoy.config.route.v3.RedirectAction`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `https_redirect` is `Some("https")`.
    pub scheme: Option<String>,
    /// Whether the scheme was given by `https_redirect` (then port 80 is dropped).
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: RedirectPath,
    pub status: u16,
    pub strip_query: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RedirectPath {
    #[default]
    Keep,
    /// The whole path; its own query, if any, replaces the request's.
    Path(String),
    Prefix(String),
    Regex {
        pattern: String,
        substitution: String,
    },
}

/// `envoy.config.route.v3.DirectResponseAction`.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectResponse {
    pub status: u16,
    pub body: bytes::Bytes,
    /// What is sent instead of `body`, which it may refer to (`%LOCAL_REPLY_BODY%`).
    pub format: Option<FormatString>,
}

/// The two parts of the name of a virtual host that is a resource of its own. The name of a route
/// configuration may contain slashes, that of the virtual host in it may not.
pub fn split_virtual_host_name(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('/')
        .filter(|(routes, host)| !routes.is_empty() && !host.is_empty())
}

#[cfg(test)]
mod tests;
