//! Typed resources: message -> [`Resource`], in two steps so that a bad one can be named.
//!
//! Typed resources are plain data: no sockets, no `dyn`, comparable, cheap to put in a golden file.
//! Every field of a message is either read here or named in a refusal or in a list of what is
//! accepted without effect; the decoders take messages apart without `..`, so a field that a new
//! version of the message crate adds does not compile until somebody decides about it.
//!
//! Each typed resource is in a file of its own; its decoder is below it or in a directory of the
//! same name. [`IGNORED`] is the list of what is accepted without effect.

pub mod access_log;
pub mod address;
pub mod api_source;
pub mod cluster;
pub mod config_source;
mod context;
mod decode;
pub mod dns_resolver;
pub mod filter_config;
pub mod format;
pub mod fraction;
pub mod headers;
pub mod http_manager;
mod ignored;
pub mod listener;
pub mod load_assignment;
pub mod matcher;
pub mod metadata;
pub mod parts;
pub mod rate_limit;
mod raw;
mod references;
pub mod route;
pub mod sorted;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
pub mod tlv;
mod watched;

use std::sync::Arc;

use crate::extension::Extensions;
use crate::type_url::ResourceType;

pub use address::Address;
pub use cluster::Cluster;
pub use decode::{Decoded, decode, decode_again, decode_named, decode_noting};
pub use decode::{effective_name, name_in, resource_name};
pub use filter_config::FilterConfig;
pub use ignored::IGNORED;
pub use listener::Listener;
pub use load_assignment::LoadAssignment;
pub(crate) use raw::Models;
pub use raw::Raw;
pub use references::Reference;
pub use route::{HostSource, RouteConfiguration, VirtualHost};
pub use tls::Secret;
pub use watched::WatchedFiles;

/// A decoded and validated resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    Listener(Arc<Listener>),
    RouteConfiguration(Arc<RouteConfiguration>),
    /// A virtual host that is a resource of its own. `name` is the resource name,
    /// `<route configuration>/<virtual host>`.
    VirtualHost {
        name: Arc<str>,
        host: HostSource,
    },
    Cluster(Arc<Cluster>),
    LoadAssignment(Arc<LoadAssignment>),
    Secret(Arc<Secret>),
    FilterConfig(Arc<FilterConfig>),
}

impl Resource {
    pub fn kind(&self) -> ResourceType {
        match self {
            Self::Listener(_) => ResourceType::Listener,
            Self::RouteConfiguration(_) => ResourceType::RouteConfiguration,
            Self::VirtualHost { .. } => ResourceType::VirtualHost,
            Self::Cluster(_) => ResourceType::Cluster,
            Self::LoadAssignment(_) => ResourceType::LoadAssignment,
            Self::Secret(_) => ResourceType::Secret,
            Self::FilterConfig(_) => ResourceType::FilterConfig,
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Listener(l) => &l.name,
            Self::RouteConfiguration(r) => &r.name,
            Self::VirtualHost { name, .. } => name,
            Self::Cluster(c) => &c.name,
            Self::LoadAssignment(a) => &a.cluster_name,
            Self::Secret(s) => &s.name,
            Self::FilterConfig(f) => &f.name,
        }
    }

    /// As it is kept: a resource that is light and may be one of many as the message that it came in.
    pub(crate) fn packed(self, message: &Raw, extensions: &dyn Extensions) -> Self {
        match self {
            Self::VirtualHost { name, host } => Self::VirtualHost {
                host: host.packed(&name, message, extensions),
                name,
            },
            other => other,
        }
    }

    /// Whether both are the very same object in memory, which makes them equal without a look.
    pub fn shares_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Listener(a), Self::Listener(b)) => Arc::ptr_eq(a, b),
            (Self::RouteConfiguration(a), Self::RouteConfiguration(b)) => Arc::ptr_eq(a, b),
            (Self::VirtualHost { host: a, .. }, Self::VirtualHost { host: b, .. }) => {
                a.shares_with(b)
            }
            (Self::Cluster(a), Self::Cluster(b)) => Arc::ptr_eq(a, b),
            (Self::LoadAssignment(a), Self::LoadAssignment(b)) => Arc::ptr_eq(a, b),
            (Self::Secret(a), Self::Secret(b)) => Arc::ptr_eq(a, b),
            (Self::FilterConfig(a), Self::FilterConfig(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
