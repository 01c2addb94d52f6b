//! Virtual hosts as they are kept while nobody needs what is in them.
//!
//! There may be a great many, one for each circuit, and most of them are idle. Decoded, one takes ten
//! times the room of its bytes; so one that is light is kept as it came, and decoded again by whoever
//! looks into it, which takes a few microseconds.

use std::sync::Arc;

use super::{
    Action, Destination, Forward, HashBy, HashPolicy, HostRewrite, PathMatch, PathRewrite,
};
use super::{RequireTls, Retry, Route, RouteMatch, VirtualHost};
use crate::extension::{Extensions, TypedExtension, Unchecked};
use crate::proto::{self, Message as _};
use crate::resource::Raw;
use crate::resource::context::Context;

/// Routes that a light virtual host has at most.
pub(super) const FEW: usize = 4;

/// A virtual host, or that of which it can be made again.
#[derive(Clone, Debug)]
pub enum HostSource {
    Decoded(Arc<VirtualHost>),
    Packed(Arc<PackedHost>),
}

/// A light virtual host that is a resource of its own: what it is found by, and its message. It has been
/// decoded once, and so it can be again.
#[derive(Debug)]
pub struct PackedHost {
    name: Arc<str>,
    domains: Box<[Box<str>]>,
    require_tls: RequireTls,
    message: Raw,
}

impl HostSource {
    pub fn name(&self) -> &str {
        match self {
            Self::Decoded(host) => &host.name,
            Self::Packed(host) => &host.name,
        }
    }

    /// As [`VirtualHost::domains`].
    pub fn domains(&self) -> impl ExactSizeIterator<Item = &str> {
        let (decoded, packed) = match self {
            Self::Decoded(host) => (&host.domains[..], &[][..]),
            Self::Packed(host) => (&[][..], &host.domains[..]),
        };
        let count = decoded.len() + packed.len();
        (0..count).map(move |at| match decoded.get(at) {
            Some(domain) => domain.as_str(),
            None => &packed[at],
        })
    }

    pub fn require_tls(&self) -> RequireTls {
        match self {
            Self::Decoded(host) => host.require_tls,
            Self::Packed(host) => host.require_tls,
        }
    }

    /// All of it.
    pub fn decoded(&self) -> Arc<VirtualHost> {
        match self {
            Self::Decoded(host) => Arc::clone(host),
            Self::Packed(host) => Arc::new(host.decode().unwrap_or_default()),
        }
    }

    /// Whether both are the very same object in memory.
    pub fn shares_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Decoded(a), Self::Decoded(b)) => Arc::ptr_eq(a, b),
            (Self::Packed(a), Self::Packed(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// What is kept of a virtual host called `name`, which came as `message`.
    pub(crate) fn packed(
        self,
        name: &Arc<str>,
        message: &Raw,
        extensions: &dyn Extensions,
    ) -> Self {
        match self {
            // One that is delivered under another name than its own does not say so in its message.
            Self::Decoded(host) if host.name == **name && host.is_light(extensions) => {
                Self::Packed(Arc::new(PackedHost {
                    name: Arc::clone(name),
                    domains: host.domains.iter().map(|d| d.as_str().into()).collect(),
                    require_tls: host.require_tls,
                    message: message.clone(),
                }))
            }
            other => other,
        }
    }
}

impl PartialEq for HostSource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Packed(a), Self::Packed(b)) if a.message == b.message => true,
            _ => self.shares_with(other) || *self.decoded() == *other.decoded(),
        }
    }
}

impl PackedHost {
    fn decode(&self) -> Option<VirtualHost> {
        let message: proto::VirtualHost =
            proto::VirtualHost::decode(&*self.message.bytes()).ok()?;
        VirtualHost::decode_alone(message, &Context::new(&Unchecked)).ok()
    }
}

impl VirtualHost {
    /// Whether it is made ready for requests in no time, however often, from nothing but what is in it:
    /// it has few routes, no regular expression, and nothing to say for which files are read or
    /// anything is counted.
    pub fn is_light(&self, extensions: &dyn Extensions) -> bool {
        let says_little = |said: &[(String, TypedExtension)]| {
            let mut said = said.iter();
            said.all(|(_, config)| extensions.is_light_per_route(config))
        };
        let is_light = |route: &Route| route.is_light() && says_little(&route.filter_config);
        self.routes.len() <= FEW
            && self.tree.is_none()
            && self.rate_limits.is_empty()
            && self.mirrors.is_empty()
            && self.edits.is_empty()
            && self.retry.is_none()
            && says_little(&self.filter_config)
            && self.routes.iter().all(is_light)
    }
}

impl Route {
    fn is_light(&self) -> bool {
        let RouteMatch {
            path,
            case_sensitive: _,
            headers,
            query,
            cookies,
            fraction,
            grpc: _,
            metadata,
            filter_state,
            certificate: _,
        } = &self.matcher;
        let by_path = headers.is_empty()
            && query.is_empty()
            && cookies.is_empty()
            && fraction.is_none()
            && metadata.is_empty()
            && filter_state.is_empty()
            && !matches!(path, PathMatch::Regex(_) | PathMatch::Template(_));
        by_path && self.edits.is_empty() && self.action.is_light()
    }
}

impl Action {
    fn is_light(&self) -> bool {
        match self {
            Self::Forward(forward) => forward.is_light(),
            // A body may come from a file.
            Self::Direct(direct) => direct.body.is_empty() && direct.format.is_none(),
            Self::Redirect(_) => false,
        }
    }
}

impl Forward {
    fn is_light(&self) -> bool {
        let rewrites_by_regex = matches!(
            self.path_rewrite,
            PathRewrite::Regex { .. } | PathRewrite::Template(_)
        ) || matches!(self.host_rewrite, HostRewrite::PathRegex { .. });
        let asks_headers =
            |retry: &Arc<Retry>| !retry.headers.is_empty() || !retry.request_headers.is_empty();
        let by_regex = |policy: &HashPolicy| {
            matches!(
                policy.by,
                HashBy::Header {
                    rewrite: Some(_),
                    ..
                }
            )
        };
        matches!(self.destination, Destination::Cluster(_))
            && !rewrites_by_regex
            && self.mirrors.is_empty()
            && self.rate_limits.is_empty()
            && self.internal_redirect.is_none()
            && !self.retry.as_ref().is_some_and(asks_headers)
            && !self.hash_policy.iter().any(by_regex)
    }
}
