//! HttpConnectionManager.

mod client_cert;
mod decode;
mod early;
mod filters;
mod forwarded;
mod local_reply;
mod protocol;
mod proxy_status;

pub(crate) use decode::check_request_id;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::access_log::{AccessLog, LogFilter};
use super::cluster::Http2Options;
use super::config_source::ConfigSource;
use super::filter_config::FilterDiscovery;
use super::format::FormatString;
use super::headers::{HeaderCase, HeaderEdit, HeaderMutation};
use super::route::{RouteConfiguration, Upgrade};
use crate::extension::TypedExtension;

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpManager {
    pub stat_prefix: String,
    pub codec: Codec,
    pub routes: RouteSource,
    /// In order; the last one is the router.
    pub filters: Vec<HttpFilter>,
    pub access_logs: Vec<AccessLog>,
    pub local_replies: LocalReplies,
    /// In order, each by itself, before anything looks at a request
    /// (`early_header_mutation_extensions`).
    pub early_edits: Vec<HeaderMutation>,
    pub forwarded: Forwarded,
    pub client_cert: ClientCert,
    pub path: PathRules,
    pub host: HostRules,
    pub underscores: Underscores,
    pub http1: Http1Options,
    pub http2: Http2Options,
    /// A malformed request of HTTP/2 resets its stream, and the connection goes on; else it ends the
    /// connection, which is the default
    /// (`http2_protocol_options.override_stream_error_on_invalid_http_message`, or
    /// `stream_error_on_invalid_http_message`).
    pub resets_malformed: bool,
    pub timeouts: Timeouts,
    /// KiB; default 60 (`max_request_headers_kb`).
    pub max_request_headers_kb: u32,
    /// Default 100 (`common_http_protocol_options.max_headers_count`).
    pub max_headers_count: u32,
    /// Requests after which a connection ends (`max_requests_per_connection`).
    pub max_requests: Option<u32>,
    pub upgrades: Vec<Upgrade>,
    /// Default `envoy` (`server_name`).
    pub server_name: String,
    pub server_header: ServerHeader,
    /// Name for `via`, empty for none.
    pub via: String,
    /// Requests are told the name of this program's cluster, as `user-agent` where they have none
    /// (`add_user_agent`).
    pub add_user_agent: bool,
    pub scheme: SchemeRule,
    /// Failures are told in `proxy-status` (`proxy_status_config`).
    pub proxy_status: Option<ProxyStatus>,
    pub generate_request_id: bool,
    pub preserve_external_request_id: bool,
    pub always_set_request_id_in_response: bool,
}

/// What requests are said to be for, where the client does not say (`scheme_header_transformation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchemeRule {
    /// As `x-forwarded-proto` says.
    #[default]
    Keep,
    Http,
    Https,
    /// `:scheme` says how the endpoint is connected to.
    Upstream,
}

/// `ProxyStatusConfig`: what is told of a failure (RFC 9209).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyStatus {
    pub name: ProxyName,
    /// Envoy's word for what has happened.
    pub details: bool,
    /// The response flag, as part of the details.
    pub flags: bool,
    /// The status is the one that the RFC recommends for the failure.
    pub recommended_status: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyName {
    /// As in `server`.
    Server,
    /// `node.id`
    Node,
    Literal(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    #[default]
    Auto,
    Http1,
    Http2,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RouteSource {
    Inline(Arc<RouteConfiguration>),
    Rds { name: String, source: ConfigSource },
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpFilter {
    pub config: HttpFilterConfig,
    /// Off unless a route switches it on.
    pub disabled: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum HttpFilterConfig {
    Inline(TypedExtension),
    /// A resource of its own (`config_discovery`).
    Discovered(FilterDiscovery),
}

/// `local_reply_config`: what becomes of the answers that are made here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalReplies {
    /// The first whose filter holds changes the answer.
    pub mappers: Vec<LocalReplyMapper>,
    /// Of all bodies, unless the mapper has a format of its own.
    pub format: Option<FormatString>,
}

/// `ResponseMapper`.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalReplyMapper {
    pub filter: LogFilter,
    pub status: Option<u16>,
    /// Replaces `%LOCAL_REPLY_BODY%`.
    pub body: Option<String>,
    pub format: Option<FormatString>,
    pub add: Vec<HeaderEdit>,
}

/// How the client's address is worked out and passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    pub use_remote_address: bool,
    pub xff_num_trusted_hops: u32,
    pub skip_xff_append: bool,
    /// An IPv4 address is added to `x-forwarded-for` in IPv6 clothes
    /// (`represent_ipv4_remote_address_as_ipv4_mapped_ipv6`). Only with `use_remote_address`.
    pub map_ipv4: bool,
    /// `original_ip_detection_extensions`. When there is one, the fields above are not set.
    pub detection: Option<Detection>,
    /// `append_x_forwarded_port`
    pub append_port: bool,
    pub internal: InternalAddresses,
}

/// Whose requests may steer retries and timeouts (`internal_address_config`). Default: nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InternalAddresses {
    pub unix_sockets: bool,
    pub networks: Vec<IpNet>,
}

/// What becomes of `x-forwarded-client-cert` (`forward_client_cert_details`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientCert {
    /// Removed.
    #[default]
    Sanitize,
    /// Kept on connections of clients with a certificate, removed on others.
    ForwardOnly,
    /// As `ForwardOnly`, with this client's certificate added.
    AppendForward(CertDetails),
    /// Replaced by this client's certificate; removed when it has none.
    SanitizeSet(CertDetails),
    /// Kept, whoever has sent it.
    AlwaysForwardOnly,
}

/// What is told of a certificate, besides its hash (`set_current_client_cert_details`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertDetails {
    pub cert: bool,
    pub chain: bool,
    pub subject: bool,
    pub uri: bool,
    pub dns: bool,
}

/// `envoy.extensions.http.original_ip_detection`: `xff.v3.XffConfig`, `custom_header.v3.CustomHeaderConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    pub trusted: Trusted,
    pub append: bool,
}

/// Which proxies in front are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// So many besides the peer, wherever they are.
    Hops(u32),
    /// Those that have one of these addresses, the peer among them.
    Networks(Vec<IpNet>),
    /// Whoever connects, about what this field says.
    Header {
        /// Lower case.
        name: String,
        /// Such a client may be an internal one.
        internal: bool,
        /// The status for a request that does not say an address, 400 to 511; `None`: the client is
        /// the peer then.
        otherwise: Option<u16>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathRules {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostRules {
    pub strip_port: StripPort,
    pub strip_trailing_dot: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    #[default]
    Keep,
    /// Only the listener's own port.
    Matching,
    Any,
}

/// `headers_with_underscores_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    #[default]
    Allow,
    RejectRequest,
    DropHeader,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http1Options {
    pub accept_http_10: bool,
    pub default_host_for_http_10: String,
    /// Methods that no specification knows are taken.
    pub allow_custom_methods: bool,
    pub header_case: HeaderCase,
}

/// Zero means none, throughout.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// Connection without a request. Default 1 h.
    pub idle: Duration,
    /// Stream without a byte either way. Default 5 min.
    pub stream_idle: Duration,
    /// From the head of a request to the end of its response. Default none.
    pub max_stream_duration: Duration,
    /// From the first byte of a request to its last. Default none.
    pub request: Duration,
    /// From the first byte of a request to the end of its head. Default none.
    pub request_headers: Duration,
    /// Between our last byte and the close. Default 1 s.
    pub delayed_close: Duration,
    /// From the end of `idle` on, an HTTP/1 connection still takes a request. Default 5 s.
    pub drain: Duration,
    /// From the beginning of a connection until it takes no more requests. Default none.
    pub max_connection: Duration,
    /// So many percent of `max_connection` may be added to it, by chance. Default none.
    pub max_connection_jitter: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(3600),
            stream_idle: Duration::from_secs(300),
            max_stream_duration: Duration::ZERO,
            request: Duration::ZERO,
            request_headers: Duration::ZERO,
            delayed_close: Duration::from_secs(1),
            drain: Duration::from_secs(5),
            max_connection: Duration::ZERO,
            max_connection_jitter: 0.0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// Ours replaces the upstream's.
    #[default]
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

#[cfg(test)]
mod tests;
