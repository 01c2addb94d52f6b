//! TCP proxying: one connection in, one connection out, bytes both ways.

pub mod bare;
mod early;
mod log;
mod silence;
mod told;
mod tunnel;

use std::any::Any;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_xds::resource::listener::TcpHash;
use causeway_xds::resource::metadata::Labels;
use causeway_xds::resource::tlv::Tlv;
use http::StatusCode;

use self::early::Early;
use self::log::Log;
use self::silence::Silence;
use self::told::{broken_off, failure, idle, report};
use self::tunnel::{Refused, Tunnel};
use crate::cluster::outlier::Outcome;
use crate::cluster::{Cluster, Wish};
use crate::error::{Failure, ResponseFlag};
use crate::filter::StreamState;
use crate::filter::network::Connection;
use crate::net::Io;
use crate::net::body::Trailers;
use crate::net::copy::{self, Ended, Side};
use crate::route::hash::{of_address, of_text};
use crate::runtime::timer::Deadline;
use crate::snapshot::tunneling::{RESPONSE_TRAILERS, fields};
use crate::snapshot::{Reader, TcpProxySpec, TcpTarget};
use crate::telemetry::activity::Activity;
use crate::tls::Session;
use crate::upstream::pool::{self, About, Counted, CountedRelay, Lease};
use crate::upstream::{self, Endpoint, Via};
use crate::util::time::jittered;

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
        mut io,
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
    let most = longest(&spec);
    let early = match spec.awaits_data {
        None => Bytes::new(),
        Some(room) => match early::first(&mut io, room, spec.idle_timeout, left(most, began)).await
        {
            Early::Data(data) => data,
            Early::End => return,
            Early::Lasted => return spec.stats.max_downstream_connection_duration.inc(),
            Early::Idle => {
                spec.stats.idle_timeout.inc();
                let limit = spec.idle_timeout;
                let failure = idle(format!("client: idle_timeout ({limit:?}) fired"));
                log.failed(&failure);
                return report(&spec, peer, &failure);
            }
            Early::Broken(error) => {
                let failure = broken_off(format!("client, before it had said anything: {error}"));
                log.failed(&failure);
                return report(&spec, peer, &failure);
            }
        },
    };
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
        let mut down = Side::new(io, early);
        let mut up = Side::new(upstream.io, upstream.early);
        let (to_client, to_endpoint) = (
            Silence::new("downstream_idle_timeout", spec.downstream_idle_timeout),
            Silence::new("upstream_idle_timeout", spec.upstream_idle_timeout),
        );
        let copied = copy::both(&mut down, &mut up, spec.idle_timeout, |down, up| {
            to_client.moved(down);
            to_endpoint.moved(up);
            log.moved(down, up);
            spec.stats.downstream_cx_tx_bytes_total.add(down);
            spec.stats.downstream_cx_rx_bytes_total.add(up);
        });
        let mut fired = ("idle_timeout", spec.idle_timeout);
        let ended = tokio::select! {
            biased;
            ended = copied => Some(ended),
            () = Deadline::after(left(most, began)), if !most.is_zero() => None,
            limit = to_client.too_long(), if to_client.is_set() => { fired = limit; Some(Ended::Idle) }
            limit = to_endpoint.too_long(), if to_endpoint.is_set() => { fired = limit; Some(Ended::Idle) }
            never = log.periodic() => match never {},
        };
        if let Some(trailers) = upstream.trailers.as_ref().and_then(|place| place.get()) {
            log.state()
                .set_object(RESPONSE_TRAILERS, fields(None, trailers));
        }
        match ended {
            None => spec.stats.max_downstream_connection_duration.inc(),
            Some(Ended::Idle) => spec.stats.idle_timeout.inc(),
            Some(_) => {}
        }
        if let Some(failure) = ended.and_then(|e| failure(e, fired, &endpoint)) {
            log.failed(&failure);
            report(&spec, peer, &failure);
        }
        drop((guard, usage));
    };
    pool::spawn_tied(&tied, task);
}

/// How long a connection may last; zero is for ever.
fn longest(spec: &TcpProxySpec) -> Duration {
    jittered(spec.max_duration, spec.max_duration_jitter)
}

/// What is left of such a limit; zero is no limit.
fn left(limit: Duration, began: Instant) -> Duration {
    match limit {
        limit if limit.is_zero() => limit,
        limit => limit.saturating_sub(began.elapsed()).max(SHORTEST),
    }
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
    let via = Via::of_connection(&cluster.transport, standing, log.state().source());
    let hash = match &spec.hash {
        None => None,
        Some(TcpHash::SourceIp) => asked
            .addresses
            .map(|(client, _)| of_address(client.ip().to_canonical())),
        Some(TcpHash::FilterState(key)) => log.state().value(key).map(|text| of_text(&text)),
    };
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
    /// Where the trailers of a tunnel will be, if they are wanted.
    trailers: Option<Trailers>,
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
            trailers: None,
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
        trailers,
        about,
        lease,
    } = opened?;
    Ok(Upstream {
        io,
        early,
        trailers,
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

#[cfg(test)]
mod tests {
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
}
