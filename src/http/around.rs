//! What filters can learn of what is around a stream, and the calls that they make.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use http_body::{Body, Frame};

use super::exchange::Exchange;
use super::mirror::Running;
use super::observed::Observed;
use super::request::suit;
use crate::cluster::{Cluster, Wish};
use crate::error::ResponseFlag;
use crate::filter::body::{BodyError, BoxBody};
use crate::filter::call::{CallError, Calls, Members};
use crate::filter::{Around, Downstream, Messages, StreamState};
use crate::formatter::Facts;
use crate::net::Incoming;
use crate::route::Route;
use crate::snapshot::Reader;
use crate::upstream::body::RequestBody;
use crate::upstream::endpoint::Availability;
use crate::upstream::pool::{self, Lease};
use crate::upstream::{Client, Endpoint, Permit, Via};

/// A stream, as its filters see what is around it.
pub struct Surroundings<'e> {
    pub exchange: &'e Exchange,
    /// That the route leads to; may be empty.
    pub cluster: &'e str,
    pub route: Option<&'e Route>,
}

impl Around for Surroundings<'_> {
    fn downstream(&self) -> Downstream<'_> {
        let connection = &self.exchange.connection;
        Downstream {
            peer: connection.peer_address,
            local: connection.local,
            session: connection.session.as_deref(),
            requested_server_name: &connection.requested_server_name,
            id: connection.id,
        }
    }

    fn state(&self) -> &StreamState {
        &self.exchange.filters
    }

    fn calls(&self) -> Rc<dyn Calls> {
        calls(&self.exchange.connection.reader)
    }

    fn with_facts(&self, messages: Messages<'_>, f: &mut dyn FnMut(&dyn Facts)) {
        f(&Observed {
            request: messages.request,
            response: messages.response,
            ..Observed::of(self.exchange)
        });
    }

    fn flag(&self, flag: ResponseFlag) {
        self.exchange.flag(flag);
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        self.exchange.endpoint()
    }

    fn cluster(&self) -> &str {
        self.cluster
    }

    fn route(&self) -> Option<&Route> {
        self.route
    }
}

/// Calls to the clusters that a thread sees.
pub fn calls(reader: &Rc<RefCell<Reader>>) -> Rc<dyn Calls> {
    Rc::new(Clusters(Rc::clone(reader)))
}

/// The clusters that the thread of a stream sees. Holds no connection, so that what runs on behind
/// a stream keeps none open.
struct Clusters(Rc<RefCell<Reader>>);

impl Clusters {
    fn find(&self, name: &str) -> Option<Arc<Cluster>> {
        self.0.borrow_mut().load().clusters.get(name).cloned()
    }
}

impl Calls for Clusters {
    fn call(
        &self,
        cluster: &str,
        request: Request<BoxBody>,
        limit: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<BoxBody>, CallError>> {
        let found = self
            .find(cluster)
            .ok_or_else(|| CallError::NoCluster(cluster.to_owned()));
        Box::pin(async move {
            let answered = tokio::time::timeout(limit, ask(found?, request));
            answered.await.unwrap_or(Err(CallError::Timeout(limit)))
        })
    }

    fn members(&self, cluster: &str) -> Option<Members> {
        let cluster = self.find(cluster)?;
        let all = cluster.endpoints.all();
        let count = |wanted| all.iter().filter(|e| e.availability() == wanted).count();
        Some(Members {
            total: all.len(),
            healthy: count(Availability::Healthy),
            degraded: count(Availability::Degraded),
        })
    }
}

async fn ask(
    cluster: Arc<Cluster>,
    request: Request<BoxBody>,
) -> Result<Response<BoxBody>, CallError> {
    let unreachable = |what: &dyn std::fmt::Display| CallError::Unreachable(what.to_string());
    let transport = &cluster.transport;
    let picked = cluster.pick(Wish::default()).map_err(|error| {
        transport.stats.upstream_cx_none_healthy.inc();
        unreachable(&error)
    })?;
    let endpoint: &Arc<Endpoint> = &picked;
    let limit = &transport.limits_of(Default::default()).requests;
    let permit = limit.acquire().ok_or_else(|| unreachable(&"overflow"))?;
    let running = Running::begin(endpoint, transport);
    let (mut head, body) = request.into_parts();
    let via = Via::of_request(transport, &head.headers, Client::default(), None);
    let checkout = pool::checkout(endpoint, transport, via.as_ref(), false);
    let mut lease = checkout.await.map_err(|error| {
        let failure = crate::error::Failure::from(error);
        unreachable(&failure)
    })?;
    suit(&mut head, lease.is_http2());
    let request = Request::from_parts(head, RequestBody::boxed(body));
    let sent = lease.send(request).await;
    let response = sent.map_err(|sent| unreachable(&sent.error))?;
    let status = response.status().as_u16();
    transport.stats.upstream_rq.record(status);
    transport.stats.upstream_rq_completed.inc();
    Ok(response.map(|inner| {
        let answer = Answer {
            inner,
            lease: Some(lease),
            _running: running,
            _permit: permit,
        };
        Box::pin(answer) as BoxBody
    }))
}

/// The body of an answer. Its connection goes back to the pool when it was read to its end.
struct Answer {
    inner: Incoming,
    lease: Option<Lease>,
    _running: Running,
    _permit: Permit,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if (frame.is_none() || self.inner.is_end_stream())
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}
