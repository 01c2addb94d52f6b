//! TCP proxying: one connection in, one connection out, bytes both ways.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::Cluster;
use crate::net::Io;
use crate::net::copy::{self, Ended, Side};
use crate::snapshot::TcpProxySpec;
use crate::upstream::pool;

/// Proxies one connection. Returns once the two are joined; the copying goes on in a task of its
/// own, which ends when the endpoint is removed. `guard` lives as long as the connection.
pub async fn proxy(
    io: Io,
    spec: Arc<TcpProxySpec>,
    cluster: Option<Arc<Cluster>>,
    guard: Box<dyn Any>,
) {
    spec.stats.downstream_cx_total.inc();
    let Some(cluster) = cluster else {
        spec.stats.downstream_cx_no_route.inc();
        return tracing::debug!(cluster = %spec.cluster, "no such cluster");
    };
    let endpoint = match cluster.pick() {
        Ok(endpoint) => Arc::clone(endpoint),
        Err(error) => {
            cluster.transport.stats.upstream_cx_none_healthy.inc();
            return tracing::debug!(cluster = %cluster.name, %error, "connection closed");
        }
    };
    let upstream = match pool::open_raw(&endpoint, &cluster.transport).await {
        Ok(upstream) => upstream,
        Err(error) => {
            return tracing::debug!(cluster = %cluster.name, %error, "connection closed");
        }
    };
    let task = async move {
        let (upstream, _counted) = upstream.into_parts();
        let (down, up) = (
            Side::new(io, Bytes::new()),
            Side::new(upstream, Bytes::new()),
        );
        let ended = copy::both(down, up, spec.idle_timeout, |down, up| {
            spec.stats.downstream_cx_tx_bytes_total.add(down);
            spec.stats.downstream_cx_rx_bytes_total.add(up);
        })
        .await;
        match ended {
            Ended::Closed => {}
            Ended::Idle => spec.stats.idle_timeout.inc(),
            Ended::Broken(error) => tracing::debug!(%error, "tcp proxy connection broke off"),
        }
        drop(guard);
    };
    pool::spawn_tied(&endpoint, task);
}
