//! After a 101: opaque bytes both ways.

use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::body::Body;
use super::clock::Counted;
use super::exchange::Exchange;
use super::head::{UpgradeRequest, strip_response};
use super::router::{edit_response, server_header};
use crate::error::ResponseFlag;
use crate::net::Io;
use crate::net::copy::{self, Ended, Side};
use crate::route::Route;
use crate::upstream::pool::{self, Lease};

/// The upstream end of a tunnel, and how long it may be silent (zero: for ever).
pub struct Ends {
    pub lease: Lease,
    pub idle: Duration,
}

/// Relays the upstream's 101 as it is, and joins the two connections once both have switched.
pub fn switch(
    mut response: Response<Incoming>,
    asked: UpgradeRequest,
    downstream: OnUpgrade,
    ends: Ends,
    route: &Route,
    exchange: Box<Exchange>,
) -> Response<Body> {
    let upstream = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    let protocol = head.headers.get(UPGRADE).cloned().unwrap_or(asked.protocol);
    head.extensions.clear();
    // A 101 has no body, so that no framing can be in doubt.
    strip_response(&mut head.headers).ok();
    head.headers.insert(UPGRADE, protocol);
    head.headers
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    exchange.upstream_answered(StatusCode::SWITCHING_PROTOCOLS);
    exchange.answered(StatusCode::SWITCHING_PROTOCOLS);
    server_header(&mut head.headers, &exchange.connection);
    edit_response(route, &mut head.headers, Some(&exchange));
    if let Some(kept) = &exchange.kept {
        kept.response(&head.headers, &exchange.connection.manager.wants);
    }
    let endpoint = std::sync::Arc::clone(ends.lease.endpoint());
    pool::spawn_tied(&endpoint, tunnel(downstream, upstream, ends, exchange));
    Response::from_parts(head, Body::Empty)
}

async fn tunnel(downstream: OnUpgrade, upstream: OnUpgrade, ends: Ends, exchange: Box<Exchange>) {
    let (downstream, upstream) = match tokio::try_join!(downstream, upstream) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "upgrade was not completed"),
    };
    let stats = &exchange.connection.manager.stats;
    stats.downstream_cx_upgrades_total.inc();
    stats.downstream_cx_upgrades_active.inc();
    let ended = {
        let _active = Active(&exchange);
        match (downstream_side(downstream), upstream_side(upstream)) {
            (Some(down), Some(up)) => {
                copy::both(down, up, ends.idle, |down, up| {
                    exchange
                        .progress
                        .sent
                        .set(exchange.progress.sent.get() + down);
                    exchange
                        .progress
                        .received
                        .set(exchange.progress.received.get() + up);
                })
                .await
            }
            _ => return tracing::error!("an upgraded connection is of an unknown kind"),
        }
    };
    match ended {
        Ended::Closed => {}
        Ended::Idle => {
            exchange.flag(ResponseFlag::StreamIdleTimeout);
            exchange
                .connection
                .manager
                .stats
                .downstream_rq_idle_timeout
                .inc();
        }
        Ended::Broken(_, error) => tracing::debug!(%error, "tunnel broke off"),
    }
    exchange.complete();
}

/// Counts a tunnel for as long as it is open, also when it is cut.
struct Active<'e>(&'e Exchange);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0
            .connection
            .manager
            .stats
            .downstream_cx_upgrades_active
            .dec();
    }
}

fn downstream_side(upgraded: Upgraded) -> Option<Side> {
    let parts = upgraded.downcast::<TokioIo<Counted>>().ok()?;
    Some(Side::new(
        parts.io.into_inner().into_inner(),
        parts.read_buf,
    ))
}

fn upstream_side(upgraded: Upgraded) -> Option<Side> {
    let parts = upgraded.downcast::<TokioIo<Io>>().ok()?;
    Some(Side::new(parts.io.into_inner(), parts.read_buf))
}
