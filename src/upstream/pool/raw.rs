//! Connections that are counted, and those that are not pooled.

use std::sync::Arc;
use std::time::Duration;

use super::about::About;
use super::connection_permit;
use crate::net::Io;
use crate::upstream::connect::{ConnectError, connect_within};
use crate::upstream::limits::Permit;
use crate::upstream::{Endpoint, Transport, Via};

/// Counts a connection as long as it lives.
pub struct Counted {
    endpoint: Arc<Endpoint>,
    transport: Arc<Transport>,
    _permit: Permit,
}

impl Counted {
    pub(super) fn new(
        endpoint: &Arc<Endpoint>,
        transport: &Arc<Transport>,
        permit: Permit,
    ) -> Self {
        transport.stats.upstream_cx_total.inc();
        transport.stats.upstream_cx_active.inc();
        endpoint.stats.cx_total.inc();
        endpoint.stats.cx_active.inc();
        Self {
            endpoint: Arc::clone(endpoint),
            transport: Arc::clone(transport),
            _permit: permit,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.transport.stats.upstream_cx_active.dec();
        self.transport.stats.upstream_cx_destroy.inc();
        self.endpoint.stats.cx_active.dec();
    }
}

/// A raw connection, for TCP proxying, counted like any other, and as one request.
pub struct RawConnection {
    io: Io,
    counted: Counted,
}

/// Counts a connection that is relayed as bytes as a request to its endpoint as long as it lives.
pub struct CountedRelay(Arc<Endpoint>);

impl CountedRelay {
    pub fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.stats.rq_total.inc();
        endpoint.stats.rq_active.inc();
        Self(Arc::clone(endpoint))
    }
}

impl Drop for CountedRelay {
    fn drop(&mut self) {
        self.0.stats.rq_active.dec();
    }
}

impl RawConnection {
    /// The stream, and what must live as long as it does.
    pub fn into_parts(self) -> (Io, Counted) {
        (self.io, self.counted)
    }

    /// What is told of it from now on.
    pub fn about(&self) -> About {
        About::new(&self.io)
    }
}

/// Opens a connection that is not pooled, within `limit`.
///
/// # Errors
/// [`ConnectError`].
pub async fn open_raw(
    limit: Duration,
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Via>,
) -> Result<RawConnection, ConnectError> {
    let (permit, _connecting) = connection_permit(endpoint, transport)?;
    let io = connect_within(limit, endpoint, transport, via).await?;
    let counted = Counted::new(endpoint, transport, permit);
    Ok(RawConnection { io, counted })
}
