//! HTTP filters: what stands between the codec and the router.
//!
//! A filter sees a [`Stream`], never a connection. Its methods are synchronous, so a chain
//! allocates nothing; the first filter that has to wait brings a third [`Flow`].

pub mod registry;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, StatusCode};

pub use registry::{Factory, Registry};

/// What a filter may look at and change.
pub struct Stream<'s> {
    pub request: &'s mut Parts,
    /// The client's address as `http::forwarded` worked it out.
    pub client: std::net::IpAddr,
}

/// What happens next.
pub enum Flow {
    Continue,
    Reply(LocalReply),
}

/// A response we make ourselves.
#[derive(Clone, Debug)]
pub struct LocalReply {
    pub status: StatusCode,
    pub body: Cow<'static, str>,
    pub headers: HeaderMap,
}

/// One configured filter; shared by all requests, so it keeps no per-request state.
pub trait HttpFilter: fmt::Debug + Send + Sync {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let _ = stream;
        Flow::Continue
    }

    /// Called in reverse order.
    fn response(&self, status: StatusCode, headers: &mut HeaderMap) {
        let _ = (status, headers);
    }
}

/// The filters of one connection manager in order, the router left out, and what the router was
/// told.
#[derive(Debug, Default)]
pub struct Chain {
    pub filters: Vec<Arc<dyn HttpFilter>>,
    pub router: RouterConfig,
}

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterConfig {
    /// No `x-envoy-*` headers are added to requests and responses.
    pub suppress_envoy_headers: bool,
}
