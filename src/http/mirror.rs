//! Copies of requests for other clusters, whose answers nobody waits for.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::head::unsay_upgrade;
use super::replay::Replay;
use super::request::prepare;
use crate::cluster::outlier::Outcome;
use crate::cluster::{Cluster, Wish};
use crate::route::Route;
use crate::route::action::{Action, Mirror, split_port};
use crate::upstream::body::{Kept, Piece};
use crate::upstream::pool;
use crate::upstream::{Client, Endpoint, Transport, Via};

const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
/// Of a route without a timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Where copies of one request go.
pub struct Copies {
    pub route: Arc<Route>,
    /// With the position of the policy in the route.
    pub clusters: Vec<(Arc<Cluster>, usize)>,
}

impl Copies {
    /// Sends them, each by itself. As many as a cluster may have requests run at one time; one
    /// more is not sent.
    pub fn send(&self, head: &Replay, body: &[Piece]) {
        let Action::Forward(forward) = &self.route.action else {
            return;
        };
        for (cluster, position) in &self.clusters {
            let Some(mirror) = forward.mirrors.get(*position) else {
                continue;
            };
            let mut head = head.to_parts();
            address(&mut head, mirror);
            let copy = Copy {
                route: Arc::clone(&self.route),
                cluster: Arc::clone(cluster),
                head,
                body: body.to_vec(),
            };
            let limit = match forward.timeout.is_zero() {
                true => DEFAULT_TIMEOUT,
                false => forward.timeout,
            };
            tokio::task::spawn_local(async move {
                let cluster = Arc::clone(&copy.cluster);
                if timeout(limit, copy.run()).await.is_err() {
                    cluster.transport.stats.upstream_rq_timeout.inc();
                }
            });
        }
    }
}

/// The host of a copy tells that it is one.
fn address(head: &mut Parts, mirror: &Mirror) {
    let told = head.headers.get(HOST).and_then(|h| h.to_str().ok());
    let host = match (&mirror.host, told) {
        (Some(host), _) => Some(host.clone()),
        (None, Some(told)) if !mirror.keep_host => {
            let (name, port) = split_port(told);
            let colon = if port.is_some() { ":" } else { "" };
            let text = format!("{name}-shadow{colon}{}", port.unwrap_or_default());
            HeaderValue::try_from(text).ok()
        }
        _ => None,
    };
    if let Some(host) = host {
        head.headers.insert(HOST, host);
    }
    head.headers
        .insert(INTERNAL, HeaderValue::from_static("true"));
    // A copy becomes no tunnel.
    unsay_upgrade(&mut head.headers);
}

struct Copy {
    route: Arc<Route>,
    cluster: Arc<Cluster>,
    head: Parts,
    body: Vec<Piece>,
}

/// Counts a request that is no client's for as long as it runs.
pub(super) struct Running {
    endpoint: Arc<Endpoint>,
    transport: Arc<Transport>,
}

impl Running {
    pub(super) fn begin(endpoint: &Arc<Endpoint>, transport: &Arc<Transport>) -> Self {
        transport.stats.upstream_rq_total.inc();
        transport.stats.upstream_rq_active.inc();
        endpoint.stats.rq_total.inc();
        endpoint.stats.rq_active.inc();
        Self {
            endpoint: Arc::clone(endpoint),
            transport: Arc::clone(transport),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.transport.stats.upstream_rq_active.dec();
        self.endpoint.stats.rq_active.dec();
    }
}

impl Copy {
    /// What becomes of it is seen in the statistics only.
    async fn run(self) {
        let Self {
            route,
            cluster,
            mut head,
            body,
        } = self;
        let transport = &cluster.transport;
        let Action::Forward(forward) = &route.action else {
            return;
        };
        let wish = Wish {
            destination: cluster.destination(Some(&head.headers), None),
            ..Wish::default()
        };
        let Ok(picked) = cluster.pick(wish) else {
            return transport.stats.upstream_cx_none_healthy.inc();
        };
        let endpoint = &*picked;
        let limits = transport.limits_of(forward.priority);
        let Some(_permit) = limits.requests.acquire() else {
            return;
        };
        let _running = Running::begin(endpoint, transport);
        let via = Via::of_request(transport, &head.headers, Client::default(), None);
        let checkout = pool::checkout(endpoint, transport, via.as_ref(), false);
        let mut lease = match checkout.await {
            Ok(lease) => lease,
            Err(error) => {
                // A limit or a shortage of ours says nothing of the endpoint.
                if error.is_of_endpoint() {
                    cluster.note(endpoint, Outcome::Unreachable);
                }
                return;
            }
        };
        let bodyless = body.is_empty();
        prepare(&mut head, &lease, forward, None, true, bodyless);
        let body = Kept::whole(body).read();
        let sent = lease.send(http::Request::from_parts(head, body)).await;
        let Ok(mut response) = sent else {
            cluster.note(endpoint, Outcome::Reset);
            return;
        };
        cluster.note(endpoint, Outcome::Answered(response.status().as_u16()));
        transport
            .stats
            .upstream_rq
            .record(response.status().as_u16());
        transport.stats.upstream_rq_completed.inc();
        let body = response.body_mut();
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return;
            }
        }
        lease.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn the_host_of_a_copy_is_marked_before_its_port() {
        for (host, keep, told) in [
            ("h.test:8080", false, "h.test-shadow:8080"),
            ("h.test", false, "h.test-shadow"),
            ("[::1]:80", false, "[::1]-shadow:80"),
            ("h.test", true, "h.test"),
        ] {
            let request = Request::get("/").header("host", host).body(()).unwrap();
            let (mut head, ()) = request.into_parts();
            let mirror = Mirror {
                cluster: crate::route::destination::ClusterName::Fixed("c".into()),
                share: None,
                keep_host: keep,
                host: None,
            };
            address(&mut head, &mirror);
            assert_eq!(head.headers["host"], told);
        }
    }
}
