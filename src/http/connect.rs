//! CONNECT that ends here: the client's bytes go to an endpoint as they are.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use http::StatusCode;

use super::exchange::Exchange;
use super::failures;
use super::timeouts::Timeouts;
use crate::cluster::outlier::Outcome;
use crate::cluster::{Cluster, Wish};
use crate::error::Failure;
use crate::route::action::Forward;
use crate::upstream::pool::{self, RawConnection};
use crate::upstream::{Endpoint, Via};

/// A connection to an endpoint of the cluster.
pub async fn open(
    cluster: &Cluster,
    forward: &Forward,
    wish: Wish<'_>,
    timeouts: &Timeouts,
    exchange: &mut Exchange,
) -> Result<(Arc<Endpoint>, RawConnection), Failure> {
    let transport = &cluster.transport;
    let endpoint = Arc::clone(&*cluster.pick(wish).inspect_err(|_| {
        transport.stats.upstream_cx_none_healthy.inc();
    })?);
    let limit = &transport.limits_of(forward.priority).requests;
    let permit = limit
        .acquire()
        .ok_or_else(|| failures::overflow(limit.max()))
        .inspect_err(|_| transport.dropped.inc())?;
    exchange.asked(&endpoint, transport, permit);
    let via = Via::of_connection(transport, exchange.connection.addresses);
    let mut opening = pin!(pool::open_raw(&endpoint, transport, via.as_deref()));
    let opened = std::future::poll_fn(|cx| {
        if let Poll::Ready(opened) = Pin::new(&mut opening).poll(cx) {
            cluster.note(&endpoint, Outcome::of(&opened));
            return Poll::Ready(opened.map_err(Failure::from));
        }
        exchange.poll_watch(cx).map(|fired| {
            fired.count(exchange);
            Err(failures::deadline(fired, exchange, timeouts))
        })
    })
    .await
    .inspect_err(|failure| exchange.upstream_failed(failure.status))?;
    if let Some(kept) = &exchange.kept {
        kept.connection.set(Some(opened.about()));
    }
    exchange.upstream_answered(StatusCode::OK);
    Ok((Arc::clone(&endpoint), opened))
}
