//! TCP proxying: one connection in, one connection out, bytes both ways.

pub mod bare;
mod log;
mod tunnel;

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_xds::resource::metadata::Labels;
use causeway_xds::resource::tlv::Tlv;
use http::StatusCode;

use self::log::Log;
use self::tunnel::{Refused, Tunnel};
use crate::cluster::outlier::Outcome;
use crate::cluster::{Cluster, Wish};
use crate::error::{Failure, ResponseFlag};
use crate::filter::StreamState;
use crate::filter::network::Connection;
use crate::net::Io;
use crate::net::copy::{self, End, Ended, Side};
use crate::route::hash::of_address;
use crate::runtime::timer::Deadline;
use crate::snapshot::{Reader, TcpProxySpec, TcpTarget};
use crate::telemetry::activity::Activity;
use crate::tls::Session;
use crate::upstream::pool::{self, About, Counted, CountedRelay, Lease};
use crate::upstream::{self, Endpoint, Via};

/// What is left of a limit that has passed before it is looked at.
const SHORTEST: Duration = Duration::from_nanos(1);

/// Whether a peer may connect at all. Asked before anything is said to it, so that one who may not
/// costs no handshake.
pub fn admits(spec: &TcpProxySpec, peer: Option<SocketAddr>) -> bool {
    let admitted = spec.policy.admits(peer.map(|peer| peer.ip()));
    if !admitted {
        spec.stats.downstream_cx_total.inc();
        spec.stats.downstream_cx_denied.inc();
        let (status, flag) = (StatusCode::FORBIDDEN, ResponseFlag::Unauthorized);
        let failure = Failure::local(status, flag, "client_ip_not_allowed");
        report(spec, peer, &failure);
    }
    admitted
}

/// A connection as it was accepted.
pub struct Downstream {
    pub io: Io,
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// Where the connection was bound for before it was redirected.
    pub restored: Option<SocketAddr>,
    /// `None` for a connection in clear text.
    pub session: Option<Rc<Session>>,
    /// SNI; may be empty.
    pub server_name: String,
    /// What filters have left of it.
    pub state: Rc<StreamState>,
    /// Instead of those of the proxy.
    pub cluster: Option<Arc<str>>,
}

/// What is known of the client's side for as long as the connection lasts.
struct Client {
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    session: Option<Rc<Session>>,
    server_name: String,
    state: Rc<StreamState>,
}

impl Client {
    fn shown(&self) -> Connection<'_> {
        Connection {
            peer: self.peer,
            local: self.local,
            session: self.session.as_deref(),
            server_name: &self.server_name,
            state: &self.state,
        }
    }
}

/// Proxies one connection. Returns once the two are joined; the copying goes on in a task of its
/// own, which ends when the endpoint is removed. `guard` lives as long as the connection.
pub async fn proxy(
    downstream: Downstream,
    spec: Arc<TcpProxySpec>,
    reader: &RefCell<Reader>,
    guard: Box<dyn Any>,
) {
    let Downstream {
        io,
        peer,
        local,
        restored,
        session,
        server_name,
        state,
        cluster,
    } = downstream;
    let began = Instant::now();
    spec.stats.downstream_cx_total.inc();
    let (name, labels) = match cluster {
        Some(name) => (name, None),
        None => {
            let target = choose(&spec);
            (Arc::clone(&target.name), Some(&target.labels))
        }
    };
    let client = Client {
        peer,
        local,
        session,
        server_name,
        state,
    };
    let log = Log::begin(&spec, &name, client);
    log.started();
    let cluster = reader.borrow_mut().load().clusters.get(&name).cloned();
    let wish = Asked {
        addresses: peer.zip(local),
        tlvs: &spec.tlvs.beside(log.state().tlvs(), &log),
        restored,
        labels,
    };
    let (endpoint, upstream) = match open(&spec, cluster.as_deref(), &wish, &log).await {
        Ok(opened) => opened,
        Err(failure) => {
            log.failed(&failure);
            return report(&spec, peer, &failure);
        }
    };
    log.connected(&endpoint, upstream.about);
    let tied = Arc::clone(&endpoint);
    let usage = spec.usage.as_ref().map(Activity::begin);
    let task = async move {
        let _counted = (upstream.held, CountedRelay::new(&endpoint));
        let (down, up) = (
            Side::new(io, Bytes::new()),
            Side::new(upstream.io, upstream.early),
        );
        let copied = copy::both(down, up, spec.idle_timeout, |down, up| {
            log.moved(down, up);
            spec.stats.downstream_cx_tx_bytes_total.add(down);
            spec.stats.downstream_cx_rx_bytes_total.add(up);
        });
        let left = match longest(&spec) {
            limit if limit.is_zero() => limit,
            // Zero would be no limit.
            limit => limit.saturating_sub(began.elapsed()).max(SHORTEST),
        };
        let ended = tokio::select! {
            biased;
            ended = copied => Some(ended),
            () = Deadline::after(left) => None,
            never = log.periodic() => match never {},
        };
        match ended {
            None => spec.stats.max_downstream_connection_duration.inc(),
            Some(Ended::Idle) => spec.stats.idle_timeout.inc(),
            Some(_) => {}
        }
        if let Some(failure) = ended.and_then(|e| failure(e, spec.idle_timeout, &endpoint)) {
            log.failed(&failure);
            report(&spec, peer, &failure);
        }
        drop((guard, usage));
    };
    pool::spawn_tied(&tied, task);
}

/// How long a connection may last; zero is for ever. Spread by chance, so that connections that began
/// together do not come again together.
fn longest(spec: &TcpProxySpec) -> Duration {
    let share = spec.max_duration_jitter / 100.0 * fastrand::f64();
    spec.max_duration
        .checked_add(spec.max_duration.mul_f64(share))
        .unwrap_or(spec.max_duration)
}

/// The cluster of a new connection, by weight.
fn choose(spec: &TcpProxySpec) -> &TcpTarget {
    let sum = spec.clusters.last().map_or(0, |target| target.sum);
    match &spec.clusters[..] {
        [only] => only,
        several => {
            let drawn = fastrand::u32(..sum.max(1));
            let index = several.partition_point(|target| target.sum <= drawn);
            &several[index]
        }
    }
}

/// What a connection to an endpoint is made for.
struct Asked<'a> {
    /// The client's, and the one that it connected to.
    addresses: Option<(SocketAddr, SocketAddr)>,
    /// Of the PROXY protocol header that stands for it.
    tlvs: &'a [Tlv],
    /// Where the connection was bound for before it was redirected.
    restored: Option<SocketAddr>,
    labels: Option<&'a Labels>,
}

/// A connection to an endpoint of the cluster: the first that can be connected to, of as many as
/// are to be tried.
async fn open(
    spec: &TcpProxySpec,
    cluster: Option<&Cluster>,
    asked: &Asked<'_>,
    log: &Log,
) -> Result<(Arc<Endpoint>, Upstream), Failure> {
    let Some(cluster) = cluster else {
        spec.stats.downstream_cx_no_route.inc();
        let (status, flag) = (StatusCode::SERVICE_UNAVAILABLE, ResponseFlag::NoCluster);
        return Err(Failure::local(status, flag, "cluster_not_found"));
    };
    let standing = upstream::Client {
        addresses: asked.addresses,
        tlvs: asked.tlvs,
    };
    let via = Via::of_connection(&cluster.transport, standing);
    let client = asked
        .addresses
        .map(|(client, _)| client.ip().to_canonical());
    let hash = client.filter(|_| spec.hash_source_ip).map(of_address);
    let mut attempts = 1;
    let mut lost: Vec<String> = Vec::new();
    let deadline = spec.policy.connect_deadline;
    let deadline = deadline.and_then(|whole| Instant::now().checked_add(whole));
    loop {
        let connect_timeout = cluster.transport.connect_timeout;
        let limit = deadline.map_or(connect_timeout, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            upstream::share(left, spec.max_connect_attempts - (attempts - 1)).min(connect_timeout)
        });
        let wish = Wish {
            hash,
            labels: asked.labels,
            destination: cluster.destination(None, asked.restored),
        };
        let picked = cluster.pick(wish).inspect_err(|_| {
            cluster.transport.stats.upstream_cx_none_healthy.inc();
        })?;
        let endpoint: &Arc<Endpoint> = &picked;
        let opened = connect(spec, endpoint, cluster, (via.as_ref(), limit), log).await;
        match opened {
            Ok(upstream) => return Ok((Arc::clone(endpoint), upstream)),
            Err(error) if attempts < spec.max_connect_attempts && error.is_of_endpoint() => {
                let error = Failure::from(error);
                tracing::debug!(%endpoint, %error, "trying again");
                lost.extend(error.cause);
                if let Some(backoff) = spec.backoff {
                    // Zero would be for ever.
                    Deadline::after(pause(backoff, attempts).max(SHORTEST)).await;
                }
                attempts += 1;
            }
            Err(error) => {
                if spec.max_connect_attempts > 1 {
                    let stats = &cluster.transport.stats;
                    stats.upstream_cx_connect_attempts_exceeded.inc();
                }
                let mut failure = Failure::from(error);
                // One of several endpoints is not the whole story.
                if !lost.is_empty() {
                    lost.extend(failure.cause.take());
                    failure.cause = Some(lost.join("; "));
                }
                return Err(failure);
            }
        }
    }
}

/// The way to an endpoint, as it is or in a tunnel.
struct Upstream {
    io: Io,
    /// What was read of it already.
    early: Bytes,
    about: About,
    /// Lives as long as the connection.
    held: Held,
}

/// What counts a connection to an endpoint.
#[expect(dead_code, reason = "held, and dropped")]
enum Held {
    Raw(Counted),
    Tunnel(Lease),
}

async fn connect(
    spec: &TcpProxySpec,
    endpoint: &Arc<Endpoint>,
    cluster: &Cluster,
    (via, limit): (Option<&Rc<Via>>, Duration),
    log: &Log,
) -> Result<Upstream, Refused> {
    let transport = &cluster.transport;
    let Some(tunneling) = &spec.tunneling else {
        let opened = pool::open_raw(limit, endpoint, transport, via.map(Rc::as_ref)).await;
        cluster.note(endpoint, Outcome::of(&opened));
        let opened = opened.map_err(Refused::Unconnected)?;
        let about = opened.about();
        let (io, counted) = opened.into_parts();
        return Ok(Upstream {
            io,
            early: Bytes::new(),
            about,
            held: Held::Raw(counted),
        });
    };
    let opened = tunnel::open(tunneling, endpoint, transport, via, log).await;
    cluster.note(
        endpoint,
        match &opened {
            Ok(_) => Some(Outcome::Connected),
            Err(Refused::Unconnected(error)) => Outcome::of::<()>(&Err(error.clone())),
            Err(Refused::Unopened(_)) => Some(Outcome::Unreachable),
            Err(Refused::Nowhere(_)) => None,
        },
    );
    let Tunnel {
        io,
        early,
        about,
        lease,
    } = opened?;
    Ok(Upstream {
        io,
        early,
        about,
        held: Held::Tunnel(lease),
    })
}

/// The wait before one more attempt: anything up to a limit that doubles each time (full jitter).
fn pause((base, max): (Duration, Duration), attempts: u32) -> Duration {
    let doubled = 1_u32
        .checked_shl(attempts - 1)
        .and_then(|n| base.checked_mul(n));
    doubled
        .map_or(max, |limit| limit.min(max))
        .mul_f64(fastrand::f64())
}

/// What went wrong, if something did. The statuses are those of HTTP for the like of it: nobody is
/// told them here.
fn failure(ended: Ended, idle: Duration, endpoint: &impl fmt::Display) -> Option<Failure> {
    match ended {
        Ended::Closed => None,
        Ended::Idle => Some(
            Failure::local(
                StatusCode::GATEWAY_TIMEOUT,
                ResponseFlag::StreamIdleTimeout,
                "tcp_session_idle_timeout",
            )
            .because(format!("{endpoint}: idle_timeout ({idle:?}) fired")),
        ),
        Ended::Broken(End::A, error) => Some(
            Failure::local(
                StatusCode::BAD_REQUEST,
                ResponseFlag::DownstreamTermination,
                "downstream_remote_disconnect",
            )
            .because(format!("client, while connected to {endpoint}: {error}")),
        ),
        Ended::Broken(End::B, error) => Some(
            Failure::local(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlag::UpstreamConnectionTermination,
                "upstream_remote_disconnect",
            )
            .because(format!("{endpoint}, while connected: {error}")),
        ),
    }
}

/// There is no answer to put a failure in, so it is told in the log: in full at `debug`, and now and
/// then as a warning. What a client does, and a limit that was configured, warn nobody.
fn report(spec: &TcpProxySpec, peer: Option<SocketAddr>, failure: &Failure) {
    let name = Names(&spec.clusters);
    let flag = failure.flag.map_or("-", ResponseFlag::short);
    let peer = peer.map(tracing::field::display);
    let ordinary = matches!(
        failure.flag,
        Some(
            ResponseFlag::DownstreamTermination
                | ResponseFlag::StreamIdleTimeout
                | ResponseFlag::Unauthorized
        )
    );
    let warned = if ordinary {
        None
    } else {
        spec.warnings.pass(Instant::now())
    };
    match warned {
        Some(held_back) => tracing::warn!(
            cluster = %name, peer, flag, held_back, %failure, "connection closed"
        ),
        None => {
            tracing::debug!(cluster = %name, peer, flag, %failure, "connection closed");
        }
    }
}

/// The clusters of a proxy, for the log.
struct Names<'s>(&'s [TcpTarget]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, target) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "|" })?;
            f.write_str(&target.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest() {
        let (base, max) = (Duration::from_millis(10), Duration::from_millis(35));
        for (attempts, limit) in [(1, 10), (2, 20), (3, 35), (40, 35)] {
            for _ in 0..100 {
                assert!(pause((base, max), attempts) <= Duration::from_millis(limit));
            }
        }
    }

    #[test]
    fn an_end_says_who_brought_it_about() {
        let told = |ended| {
            let failure = failure(ended, Duration::from_secs(3), &"10.0.0.1:80")?;
            Some((failure.flag.unwrap().short(), failure.to_string()))
        };
        let reset = || io::Error::other("reset");
        assert_eq!(told(Ended::Closed), None);
        for (ended, flag, text) in [
            (
                Ended::Idle,
                "SI",
                "504 tcp_session_idle_timeout: 10.0.0.1:80: idle_timeout (3s) fired",
            ),
            (
                Ended::Broken(End::A, reset()),
                "DC",
                "400 downstream_remote_disconnect: client, while connected to 10.0.0.1:80: reset",
            ),
            (
                Ended::Broken(End::B, reset()),
                "UC",
                "503 upstream_remote_disconnect: 10.0.0.1:80, while connected: reset",
            ),
        ] {
            assert_eq!(told(ended), Some((flag, text.to_owned())));
        }
    }
}
