//! CONNECT that ends here: the client's bytes go to an endpoint as they are.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::exchange::Exchange;
use super::failures;
use super::timeouts::Timeouts;
use crate::cluster::outlier::Outcome;
use crate::cluster::{Cluster, Wish};
use crate::error::Failure;
use crate::route::action::Forward;
use crate::upstream::pool::{self, RawConnection};
use crate::upstream::{self, Endpoint, Via};

/// A connection to an endpoint of the cluster: the first that can be connected to, out of as many
/// different ones as `endpoints` says.
pub async fn open(
    cluster: &Cluster,
    forward: &Forward,
    wish: Wish<'_>,
    endpoints: usize,
    timeouts: &Timeouts,
    exchange: &mut Exchange,
) -> Result<(Arc<Endpoint>, RawConnection), Failure> {
    let transport = &cluster.transport;
    let mut picked = cluster.pick(wish).inspect_err(|_| {
        transport.stats.upstream_cx_none_healthy.inc();
    })?;
    let mut tried = Vec::new();
    // Who waits does not wait longer for several endpoints than for one.
    let deadline = Instant::now().checked_add(transport.connect_timeout);
    let attempts = endpoints.min(cluster.known_endpoints().len()).max(1);
    loop {
        let left = deadline.map_or(transport.connect_timeout, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        let ahead = u32::try_from(attempts.saturating_sub(tried.len())).unwrap_or(u32::MAX);
        let within = upstream::share(left, ahead);
        let endpoint = Arc::clone(&*picked);
        let limit = &transport.limits_of(forward.priority).requests;
        let permit = limit
            .acquire()
            .ok_or_else(|| failures::overflow(limit.max()))
            .inspect_err(|_| transport.dropped.inc())?;
        exchange.asked(&endpoint, transport, permit);
        let (failure, may_retry) =
            match attempt(cluster, (&endpoint, within), timeouts, exchange).await {
                Ok(opened) => {
                    if let Some(kept) = &exchange.kept {
                        kept.connection.set(Some(opened.about()));
                    }
                    exchange.upstream_answered(StatusCode::OK);
                    return Ok((endpoint, opened));
                }
                Err(failed) => failed,
            };
        if let Some(kept) = &exchange.kept {
            kept.lost(failure.why());
        }
        tried.push(endpoint.uid);
        let other = match may_retry && tried.len() < endpoints {
            true => cluster.pick_other(&tried, 0, wish).ok(),
            false => None,
        };
        let Some(other) = other else {
            exchange.upstream_failed(failure.status);
            return Err(failure);
        };
        tracing::debug!(%endpoint, %failure, "trying another");
        exchange.upstream_retried(None);
        picked = other;
    }
}

/// Whether another endpoint may do better comes with the failure.
async fn attempt(
    cluster: &Cluster,
    (endpoint, within): (&Arc<Endpoint>, Duration),
    timeouts: &Timeouts,
    exchange: &mut Exchange,
) -> Result<RawConnection, (Failure, bool)> {
    let transport = &cluster.transport;
    let source = exchange.filters.source();
    let via = Via::of_connection(transport, exchange.connection.client(), source);
    let mut opening = pin!(pool::open_raw(within, endpoint, transport, via.as_deref()));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(opened) = Pin::new(&mut opening).poll(cx) {
            cluster.note(endpoint, Outcome::of(&opened));
            return Poll::Ready(opened.map_err(|error| {
                let of_endpoint = error.is_of_endpoint();
                (Failure::from(error), of_endpoint)
            }));
        }
        exchange.poll_watch(cx).map(|fired| {
            fired.count(exchange);
            Err((failures::deadline(fired, exchange, timeouts), false))
        })
    })
    .await
}
