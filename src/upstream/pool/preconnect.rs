//! Connections that are opened before somebody needs them (`preconnect_policy`), as Envoy counts:
//! each data thread for itself, and within the limit of connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::{
    Connecting, Kind, Lease, Pool, http1, multiplex, spawn_tied, with_known_pool, with_pool,
};
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::Availability;
use crate::upstream::limits::Permit;
use crate::upstream::{Endpoint, Protocol, Transport};

/// Connections that are begun for one request at most.
const MOST: usize = 3;

thread_local! {
    /// Requests by cluster, as far as somebody wants to know.
    static REQUESTS: RefCell<HashMap<usize, Rc<Cell<usize>>>> = RefCell::default();
}

/// A request, from when it looks for a connection until it has ended. Only where there is a policy.
pub(super) struct Demand {
    endpoint: u64,
    cluster: usize,
    requests: Rc<Cell<usize>>,
}

impl Demand {
    pub(super) fn begin(endpoint: &Endpoint, transport: &Arc<Transport>) -> Option<Self> {
        transport.preconnect?;
        let cluster = key(transport);
        let requests = REQUESTS.with_borrow_mut(|all| Rc::clone(all.entry(cluster).or_default()));
        requests.set(requests.get() + 1);
        with_pool(endpoint.uid, |pool| pool.demand += 1);
        Some(Self {
            endpoint: endpoint.uid,
            cluster,
            requests,
        })
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.requests.set(self.requests.get() - 1);
        if self.requests.get() == 0 {
            // At thread exit there may be nothing left to forget.
            REQUESTS
                .try_with(|all| all.borrow_mut().remove(&self.cluster))
                .ok();
        }
        with_known_pool(self.endpoint, |pool| {
            pool.demand = pool.demand.saturating_sub(1);
        });
    }
}

/// What the requests of a cluster are counted by, which holds it as long as there are any.
fn key(transport: &Arc<Transport>) -> usize {
    Arc::as_ptr(transport).addr()
}

/// Requests of this thread to a cluster with a policy.
pub fn requests(transport: &Arc<Transport>) -> usize {
    REQUESTS.with_borrow(|all| all.get(&key(transport)).map_or(0, |n| n.get()))
}

/// A connection that is being opened for nobody in particular.
struct Ahead {
    endpoint: u64,
    _connecting: Connecting,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        with_known_pool(self.endpoint, |pool| {
            pool.ahead = pool.ahead.saturating_sub(1);
        });
    }
}

/// Opens what the requests to this endpoint want to find there (`per_upstream_preconnect_ratio`).
pub(super) fn look(endpoint: &Arc<Endpoint>, transport: &Arc<Transport>) {
    let Some(policy) = transport.preconnect else {
        return;
    };
    for _ in 0..MOST {
        let short = with_pool(endpoint.uid, |pool| {
            let wanted = count(pool.demand) * policy.per_upstream;
            let spare = spare(pool, transport);
            spare.is_some_and(|spare| wanted > count(pool.demand + spare))
        });
        if !short || !begin(endpoint, transport) {
            return;
        }
    }
}

/// Opens a connection to an endpoint that will be asked next, unless one is there
/// (`predictive_preconnect_ratio`). Whether one is there or under way now.
pub fn ahead(endpoint: &Arc<Endpoint>, transport: &Arc<Transport>) -> bool {
    let is_there = with_pool(endpoint.uid, |pool| {
        spare(pool, transport).is_none_or(|spare| spare > 0)
    });
    is_there || begin(endpoint, transport)
}

#[expect(clippy::cast_precision_loss, reason = "numbers of requests")]
fn count(n: usize) -> f64 {
    n as f64
}

/// Requests that could be sent at once or soon, beyond those there are; nothing where that is not
/// known yet, as a connection is being opened that may take many.
fn spare(pool: &Pool, transport: &Transport) -> Option<usize> {
    match speaks_http1(pool, transport) {
        true => Some(pool.idle.len() + pool.ahead),
        false => multiplex::spare(pool),
    }
}

fn speaks_http1(pool: &Pool, transport: &Transport) -> bool {
    match transport.protocol {
        Protocol::Http1 => true,
        Protocol::Http2(_) => false,
        Protocol::Auto(_) => pool.speaks_http1,
    }
}

/// `false`: there is nobody to connect to, or no room.
fn begin(endpoint: &Arc<Endpoint>, transport: &Arc<Transport>) -> bool {
    let is_well = endpoint.availability() == Availability::Healthy
        && !endpoint.is_shunned()
        && !endpoint.is_retired();
    // Of connections that differ, nobody knows which will be asked for.
    if !is_well || transport.varies {
        return false;
    }
    let Some(permit) = transport.limits.connections.acquire() else {
        transport.stats.upstream_cx_overflow.inc();
        return false;
    };
    let ahead = with_pool(endpoint.uid, |pool| {
        pool.ahead += 1;
        Ahead {
            endpoint: endpoint.uid,
            _connecting: Connecting::begin(endpoint.uid, pool),
        }
    });
    let (endpoint, transport) = (Arc::clone(endpoint), Arc::clone(transport));
    spawn_tied(&Arc::clone(&endpoint), async move {
        let opened = open(&endpoint, &transport, permit).await;
        drop(ahead);
        match opened {
            // To whoever waits for one, or to those that do not.
            Ok(Some(connection)) => Lease {
                endpoint,
                transport,
                kind: Kind::Http1(connection),
                reused: false,
                _demand: None,
            }
            .give_back(),
            Ok(None) => {}
            // Counted as any other; nobody was to be served by it.
            Err(error) => tracing::debug!(%error, "no connection ahead of need"),
        }
    });
    true
}

async fn open(
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    permit: Permit,
) -> Result<Option<Box<http1::Http1>>, ConnectError> {
    match with_pool(endpoint.uid, |pool| speaks_http1(pool, transport)) {
        true => http1::open(endpoint, transport, None, permit)
            .await
            .map(Some),
        false => multiplex::open_ahead(endpoint, transport, permit).await,
    }
}
