//! Type URLs, and packing messages into `google.protobuf.Any`.

use prost::{Message, Name};

use crate::proto::Any;

/// Prefix of every type URL (proto3 `Any`; xDS protocol text, "Resource types").
pub const PREFIX: &str = "type.googleapis.com/";

/// The message around a resource that is sent under a name or a version of its own.
pub(crate) const WRAPPER: &str = "envoy.service.discovery.v3.Resource";

/// The kinds of resource the store knows, in the order in which a change must be applied
/// ("make before break": what is referred to comes before what refers to it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    Secret,
    Cluster,
    LoadAssignment,
    /// Configuration of an HTTP filter, by name.
    FilterConfig,
    Listener,
    RouteConfiguration,
    VirtualHost,
}

impl ResourceType {
    pub const ALL: [Self; 7] = [
        Self::Secret,
        Self::Cluster,
        Self::LoadAssignment,
        Self::FilterConfig,
        Self::Listener,
        Self::RouteConfiguration,
        Self::VirtualHost,
    ];

    /// Fully qualified message name.
    pub const fn message_name(self) -> &'static str {
        match self {
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::LoadAssignment => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::FilterConfig => "envoy.config.core.v3.TypedExtensionConfig",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "envoy.config.route.v3.VirtualHost",
        }
    }

    pub fn type_url(self) -> String {
        format!("{PREFIX}{}", self.message_name())
    }

    /// `None` for a type the store does not hold.
    pub fn from_type_url(url: &str) -> Option<Self> {
        let name = message_name(url);
        Self::ALL.into_iter().find(|t| t.message_name() == name)
    }

    /// Short name for logs, metrics and the config dump.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Cluster => "cluster",
            Self::LoadAssignment => "endpoints",
            Self::FilterConfig => "filter_config",
            Self::Listener => "listener",
            Self::RouteConfiguration => "route",
            Self::VirtualHost => "virtual_host",
        }
    }
}

impl std::fmt::Display for ResourceType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.short())
    }
}

/// The message name in a type URL: what follows the last slash.
pub fn message_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// Packs a message whose type URL is known to `prost`.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("{PREFIX}{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

/// Packs a message under an explicit message name.
pub fn pack_as<M: Message>(message: &M, name: &str) -> Any {
    Any {
        type_url: format!("{PREFIX}{name}"),
        value: message.encode_to_vec(),
    }
}
