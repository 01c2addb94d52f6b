//! Requests that have no connection yet: their number is limited, and so is how long they wait.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::http1::{Http1, open};
use super::{Pool, connection_permit, with_pool};
use crate::upstream::connect::{ConnectError, ConnectErrorKind};
use crate::upstream::limits::Permit;
use crate::upstream::{Endpoint, Transport, Via};

/// A request for which there is no connection, and what kind it needs.
pub(super) type Waiting = (Option<Rc<Via>>, oneshot::Sender<Box<Http1>>);

impl Pool {
    /// The longest waiting request that is still there.
    pub(super) fn next_waiting(&mut self) -> Option<oneshot::Sender<Box<Http1>>> {
        loop {
            let (_, waiting) = self.waiting.pop_front()?;
            if !waiting.is_closed() {
                return Some(waiting);
            }
        }
    }

    /// As [`Pool::next_waiting`], of those that can use such a connection.
    pub(super) fn next_waiting_for(
        &mut self,
        via: Option<&Rc<Via>>,
    ) -> Option<oneshot::Sender<Box<Http1>>> {
        self.waiting.retain(|(_, waiting)| !waiting.is_closed());
        let fits = |(wanted, _): &Waiting| wanted.as_ref() == via;
        let index = self.waiting.iter().position(fits)?;
        self.waiting.remove(index).map(|(_, waiting)| waiting)
    }
}

/// A request without a connection, until it has one. Envoy counts those for which a connection is
/// being opened among them.
pub(super) struct Pending<'t> {
    transport: &'t Transport,
    _permit: Permit,
}

impl<'t> Pending<'t> {
    pub(super) fn begin(
        endpoint: &Endpoint,
        transport: &'t Transport,
    ) -> Result<Self, ConnectError> {
        let limit = &transport.limits.pending;
        let Some(permit) = limit.acquire() else {
            transport.overflowed();
            return Err(ConnectError {
                address: endpoint.to_string(),
                kind: ConnectErrorKind::Overflow(limit.max(), "pending requests"),
            });
        };
        transport.stats.upstream_rq_pending_total.inc();
        transport.stats.upstream_rq_pending_active.inc();
        Ok(Self {
            transport,
            _permit: permit,
        })
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.transport.stats.upstream_rq_pending_active.dec();
    }
}

/// No connection came free in time. Counted as an overflow, which it is.
pub(super) fn waited_too_long(endpoint: &Endpoint, transport: &Transport) -> ConnectError {
    transport.overflowed();
    transport.stats.upstream_rq_queue_timeout.inc();
    ConnectError {
        address: endpoint.to_string(),
        kind: ConnectErrorKind::Queue(transport.queue_timeout),
    }
}

/// Queues for a connection of this thread that comes free or ends, at most `queue_timeout`.
/// Opening one that may be opened then has its own deadline.
pub(super) async fn for_http1(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
) -> Result<(Box<Http1>, bool), ConnectError> {
    let deadline = tokio::time::Instant::now() + transport.queue_timeout;
    loop {
        let (free, freed) = oneshot::channel();
        with_pool(endpoint.uid, |pool| {
            pool.waiting.push_back((via.cloned(), free))
        });
        match tokio::time::timeout_at(deadline, freed).await {
            Ok(Ok(mut connection)) => {
                if connection.is_usable(transport).await {
                    return Ok((connection, true));
                }
            }
            // A connection has ended, or was not opened.
            Ok(Err(_)) => {}
            Err(_) => return Err(waited_too_long(endpoint, transport)),
        }
        if let Ok((permit, _connecting)) = connection_permit(endpoint, transport) {
            return Ok((open(endpoint, transport, via, permit).await?, false));
        }
    }
}
