//! What a route does, compiled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_xds::resource::metadata::Labels;
use causeway_xds::resource::route as model;
use http::StatusCode;
use http::header::HeaderValue;

use super::destination::{ClusterName, Destination};
use super::fraction::Share;
use super::hash::Hashing;
use super::internal_redirect::InternalRedirect;
use super::redirect::Redirect;
use super::retry::Retry;
use super::rewrite::{HostRewrite, Rewrite};
use crate::formatter::BodyFormat;
use crate::runtime::layers::Layers;

pub use super::redirect::split_port;

#[derive(Debug)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    Direct {
        status: StatusCode,
        body: Bytes,
        /// What is sent instead of `body`.
        format: Option<Box<BodyFormat>>,
    },
}

#[derive(Debug)]
pub struct Forward {
    pub destination: Destination,
    /// What subsets of the cluster are asked for.
    pub labels: Labels,
    pub cluster_not_found: StatusCode,
    /// What few routes have is kept elsewhere: there may be very many.
    pub path_rewrite: Option<Box<Rewrite>>,
    pub host_rewrite: Option<Box<HostRewrite>>,
    /// Zero is none.
    pub timeout: Duration,
    /// What the upstream is told of `timeout`, in milliseconds.
    pub timeout_header: Option<HeaderValue>,
    pub idle_timeout: Option<Duration>,
    pub max_stream_duration: Option<Box<model::MaxStreamDuration>>,
    pub grpc_timeout: Option<Box<model::GrpcTimeout>>,
    pub upgrades: Vec<model::Upgrade>,
    pub append_x_forwarded_host: bool,
    pub retry: Option<Arc<Retry>>,
    /// Redirects that are followed here.
    pub internal_redirect: Option<Box<InternalRedirect>>,
    pub mirrors: Vec<Mirror>,
    pub priority: model::Priority,
    /// By what an endpoint is chosen where the cluster's policy hashes.
    pub hashing: Hashing,
    /// Bytes of a body that are kept for a retry or a mirror.
    pub buffer_limit: u64,
}

/// A copy of a request that goes to another cluster.
#[derive(Debug)]
pub struct Mirror {
    pub cluster: ClusterName,
    /// `None` is every request.
    pub share: Option<Share>,
    pub keep_host: bool,
    pub host: Option<HeaderValue>,
}

pub fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// What a route gets from what is around it when it does not say.
pub struct Around<'a> {
    pub retry: Option<&'a Arc<Retry>>,
    pub mirrors: &'a [model::Mirror],
    pub buffer_limit: u64,
    pub layers: &'a Layers,
}

impl Mirror {
    fn compile(model: &model::Mirror, layers: &Layers) -> Self {
        let host = model.host.as_deref();
        Self {
            cluster: ClusterName::compile(&model.cluster),
            share: model.fraction.as_ref().map(|f| Share::compile(f, layers)),
            keep_host: model.keep_host,
            host: host.and_then(|host| HeaderValue::from_str(host).ok()),
        }
    }
}

impl Forward {
    /// The policy for attempts that have sent nothing, if that is all that is ever tried again.
    pub fn unsent(&self) -> Option<&Retry> {
        self.retry.as_deref().filter(|retry| retry.is_for_unsent())
    }

    pub fn compile(
        model: &model::Forward,
        matcher: &model::RouteMatch,
        destination: Destination,
        around: &Around<'_>,
    ) -> Self {
        let own = model.retry.as_deref().map(Retry::compile).map(Arc::new);
        let retry = own.or_else(|| around.retry.cloned());
        let mirrors = match model.mirrors.is_empty() {
            true => around.mirrors,
            false => &model.mirrors,
        };
        let mut told = model.timeout;
        if let Some(retry) = &retry
            && !retry.per_try_timeout.is_zero()
            && (told.is_zero() || retry.per_try_timeout < told)
        {
            told = retry.per_try_timeout;
        }
        Self {
            labels: model.labels.clone(),
            destination,
            cluster_not_found: status(model.cluster_not_found),
            path_rewrite: Rewrite::compile(&model.path_rewrite, matcher).map(Box::new),
            host_rewrite: HostRewrite::compile(&model.host_rewrite).map(Box::new),
            timeout: model.timeout,
            timeout_header: (!told.is_zero()).then(|| milliseconds(told)),
            idle_timeout: model.idle_timeout,
            max_stream_duration: model.max_stream_duration.map(Box::new),
            grpc_timeout: model
                .grpc_timeout
                .filter(|_| model.max_stream_duration.is_none())
                .map(Box::new),
            upgrades: model.upgrades.clone(),
            append_x_forwarded_host: model.append_x_forwarded_host,
            retry,
            internal_redirect: model
                .internal_redirect
                .as_deref()
                .map(InternalRedirect::compile)
                .map(Box::new),
            mirrors: mirrors
                .iter()
                .map(|mirror| Mirror::compile(mirror, around.layers))
                .collect(),
            priority: model.priority,
            hashing: Hashing::compile(&model.hash_policy),
            buffer_limit: around.buffer_limit,
        }
    }
}

/// A time as headers tell it.
pub fn milliseconds(time: Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
