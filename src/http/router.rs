//! Forwarding one request to a cluster, and making a response of whatever comes of it.

use std::rc::Rc;
use std::sync::Arc;

use causeway_xds::resource::http_manager::ServerHeader;
use http::header::{CONNECTION, HeaderName, HeaderValue, SERVER, SET_COOKIE, TRAILER};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use super::attempts::{self, Ask, Asked, UNSENT};
use super::body::{Body, Tail};
use super::connect;
use super::exchange::Exchange;
use super::failures::{self, MAX_DURATION};
use super::head::UpgradeRequest;
use super::internal_redirect::{Again, Redirect};
use super::mirror::Copies;
use super::reply::{self, Manner};
use super::request::{append_via, edit_request, edit_response};
use super::retry::Retries;
use super::routed::Routed;
use super::timeouts::Timeouts;
use super::upgrade::{self, Downstream};
use super::view::View;
use super::websocket;
use crate::cluster::{Cluster, Wish};
use crate::error::{Failure, ResponseFlag};
use crate::net::Incoming;
use crate::route::Chosen;
use crate::route::action::Forward;
use crate::route::hash::Hashed;
use crate::upstream::body::ClientBody;
use crate::upstream::pool::Lease;

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Kernels of a circuit that are tried, one after the other, until one can be connected to.
const KERNELS: usize = 3;

/// A request on its way to a cluster.
pub struct Job<'j> {
    /// There until it is sent.
    pub parts: &'j mut Option<Parts>,
    pub body: ClientBody,
    pub chosen: &'j Chosen,
    pub forward: &'j Forward,
    /// `None`: the snapshot has no such cluster.
    pub cluster: Option<Arc<Cluster>>,
    /// Where copies go.
    pub copies: Option<Box<Copies>>,
    pub upgrade: Option<UpgradeRequest>,
    /// The client's end of an upgrade.
    pub downstream: Option<Downstream>,
    pub routed: &'j Routed,
    pub manner: Manner,
}

/// What came of forwarding.
pub enum Forwarded {
    Answer(Response<Body>),
    /// The answer leads elsewhere, and is followed here.
    Again(Box<Again>),
}

/// Forwards, and makes a response of whatever comes of it.
pub async fn forward(job: Job<'_>, mut exchange: Box<Exchange>) -> Forwarded {
    let Job {
        parts,
        body,
        chosen,
        forward,
        cluster,
        copies,
        upgrade,
        mut downstream,
        routed,
        manner,
    } = job;
    let (asks, client) = (routed.asks, routed.client);
    let connection = Rc::clone(&exchange.connection);
    let manager = &connection.manager;
    let limits = &manager.model.timeouts;
    let tell = !manager.filters.router.suppress_envoy_headers;
    let head = parts.as_mut().expect(UNSENT);
    let timeouts = Timeouts::of(
        forward,
        limits.max_stream_duration,
        &mut head.headers,
        asks,
        tell,
    );
    let idle = forward.idle_timeout.unwrap_or(limits.stream_idle);
    exchange.watch.limit(limits.request, timeouts.route, idle);
    exchange.watch.limit_duration(timeouts.duration);
    append_via(&mut head.headers, &manager.model.via);
    if let (Some(kept), Some(cluster)) = (&exchange.kept, &cluster) {
        // A request has one cluster.
        let known = (Arc::clone(&cluster.name), Arc::clone(&cluster.model));
        kept.cluster.set(known).ok();
    }
    edit_request(head, forward, chosen, tell, &*exchange);
    exchange.keep_request(head, Some(chosen));

    let hashed = match &cluster {
        Some(cluster) if cluster.hashes => {
            let known_by = || *connection.known_by.get_or_init(|| fastrand::u64(..));
            let hashing = cluster.hashing.as_deref().unwrap_or(&forward.hashing);
            hashing.of(&View::of(head), client, known_by)
        }
        _ => Hashed::default(),
    };
    let restored = connection.restored;
    let destination = match &cluster {
        Some(cluster) => cluster.destination(Some(&head.headers), restored),
        None => None,
    };
    let connect = upgrade.as_ref().is_some_and(|u| u.connect);
    let bridge = exchange.filters.bridge().zip(upgrade.as_ref());
    if ((connect && forward.upgrades.iter().any(|u| u.terminate)) || bridge.is_some())
        && let Some(cluster) = &cluster
        && let Some(downstream) = downstream.take()
    {
        let wish = Wish {
            hash: hashed.hash,
            labels: chosen.labels(),
            destination,
        };
        let endpoints = if bridge.is_some() { KERNELS } else { 1 };
        let mut response = match connect::open(
            cluster,
            forward,
            wish,
            endpoints,
            &timeouts,
            &mut exchange,
        )
        .await
        {
            Ok(upstream) => {
                exchange.watch.upgraded();
                match bridge {
                    Some((bridge, asked)) => {
                        let handshake = websocket::Handshake::of(&head.headers, asked);
                        let tunnel = websocket::Tunnel {
                            downstream,
                            upstream,
                            rules: handshake.rules(bridge, idle),
                            log: bridge.log.then(|| Arc::clone(&cluster.name)),
                        };
                        websocket::accept(&handshake, tunnel, exchange)
                    }
                    None => upgrade::accept(downstream, upstream, idle, exchange),
                }
            }
            Err(failure) => failed(&failure, manner, tell, exchange),
        };
        append_via(response.headers_mut(), &manager.model.via);
        edit(&mut response, chosen);
        return Forwarded::Answer(response);
    }
    let ask = Ask {
        retries: Retries::of(forward, head, asks),
        parts,
        body,
        chosen,
        forward,
        copies,
        upgrade: upgrade.as_ref(),
        hash: hashed.hash,
        destination,
        timeouts: &timeouts,
        tell,
    };
    let Asked {
        answer,
        attempts,
        sent,
    } = match &cluster {
        Some(cluster) => attempts::ask(ask, cluster, &mut exchange).await,
        None => {
            manager.stats.no_cluster.inc();
            let flag = ResponseFlag::NoCluster;
            let failure = Failure::local(forward.cluster_not_found, flag, "cluster_not_found");
            Asked {
                answer: Err(failure),
                attempts: 1,
                sent: None,
            }
        }
    };
    if let (Some(policy), Ok((_, response))) = (&forward.internal_redirect, &answer)
        && policy.takes(response.status())
    {
        let redirect = Redirect {
            policy,
            from: &chosen.route.name,
            status: response.status(),
            answer: response.headers(),
        };
        if let Some(followed) = redirect.follow(sent, routed, &exchange) {
            let again = followed.begin(exchange, response.status(), response.headers());
            if let Ok((lease, response)) = answer
                && response.body().is_end_stream()
            {
                lease.give_back();
            }
            return Forwarded::Again(Box::new(again));
        }
    }
    let mut response = match (answer, upgrade, downstream) {
        (Err(failure), ..) => failed(&failure, manner, tell, exchange),
        (Ok((lease, response)), Some(asked), Some(downstream))
            if response.status() == StatusCode::SWITCHING_PROTOCOLS
                || (asked.connect && response.status().is_success())
                || (lease.is_http2() && response.status() == StatusCode::OK) =>
        {
            exchange.watch.upgraded();
            let ends = upgrade::Ends { lease, idle };
            upgrade::switch(*response, asked, downstream, ends, chosen.edits(), exchange)
        }
        // Any success would open the tunnel that the upstream did not.
        (Ok((_, response)), Some(asked), _) if asked.extended && response.status().is_success() => {
            let failure = failures::protocol_error().because("an upgrade was not accepted");
            exchange.upstream_failed(failure.status);
            failed(&failure, manner, tell, exchange)
        }
        (Ok((lease, response)), asked, _) => {
            exchange.watch.limit_idle(timeouts.per_try_idle);
            let close = manner.close || asked.is_some();
            let grpc = manner.grpc || exchange.filters.takes_trailers();
            let manner = Manner {
                grpc: false,
                close,
                ..manner
            };
            let mut response = respond(response, lease, (manner, grpc), exchange);
            for cookie in hashed.cookies {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            response
        }
    };
    if chosen.route.told.attempts {
        let headers = response.headers_mut();
        headers.insert(attempts::COUNT, HeaderValue::from(attempts));
    }
    edit(&mut response, chosen);
    append_via(response.headers_mut(), &manager.model.via);
    Forwarded::Answer(response)
}

/// With the edits of the route; a response without its exchange has them already.
fn edit(response: &mut Response<Body>, chosen: &Chosen) {
    // Taking the fields out and putting them back is no small thing for most requests, which need none.
    if !chosen.edits().edits_responses() || response.body().exchange().is_none() {
        return;
    }
    let mut headers = std::mem::take(response.headers_mut());
    edit_response(chosen.edits(), &mut headers, response.body().exchange());
    *response.headers_mut() = headers;
}

fn failed(
    failure: &Failure,
    manner: Manner,
    tell: bool,
    exchange: Box<Exchange>,
) -> Response<Body> {
    // A request whose body was not read to its end leaves the connection in doubt.
    let close = manner.close || !exchange.progress.request_ended.get();
    let manner = Manner { close, ..manner };
    let mut response = reply::from_failure(failure, manner, exchange);
    explain(failure, &mut response, manner, tell);
    response
}

/// What an answer of ours says besides its status.
fn explain(failure: &Failure, response: &mut Response<Body>, manner: Manner, tell: bool) {
    let headers = response.headers_mut();
    if tell && failure.flag == Some(ResponseFlag::UpstreamOverflow) {
        headers.insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    if manner.grpc && failure.details == MAX_DURATION {
        // DEADLINE_EXCEEDED; the status alone would say something else.
        headers.insert(GRPC_STATUS, HeaderValue::from_static("4"));
    }
}

/// Most answers take a moment or two: those need no allocation.
fn milliseconds(ms: u64) -> HeaderValue {
    const FEW: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match usize::try_from(ms).ok().and_then(|ms| FEW.get(ms)) {
        Some(text) => HeaderValue::from_static(text),
        None => HeaderValue::from(ms),
    }
}

/// `grpc`: the client understands a status of gRPC in trailers.
#[expect(
    clippy::boxed_local,
    reason = "handed on by its pointer: a head is large"
)]
fn respond(
    mut response: Box<Response<Incoming>>,
    lease: Lease,
    (manner, grpc): (Manner, bool),
    exchange: Box<Exchange>,
) -> Response<Body> {
    let status = response.status();
    if status.is_informational() {
        // 101 that nobody asked for: what follows is not HTTP.
        let failure = failures::protocol_error().because("a 101 that was not asked for");
        exchange.upstream_failed(failure.status);
        return reply::from_failure(&failure, manner, exchange);
    }
    let ms = exchange.upstream_answered(status);
    exchange.answered(status);
    *response.version_mut() = Version::HTTP_11;
    // How the names of fields were written stays, if anybody wanted to know it.
    response.extensions_mut().remove::<ReasonPhrase>();
    let headers = response.headers_mut();
    if !exchange
        .connection
        .manager
        .filters
        .router
        .suppress_envoy_headers
    {
        headers.insert(SERVICE_TIME, milliseconds(ms));
    }
    server_header(headers, &exchange.connection);
    if manner.close && !manner.http2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // What has a length has no trailers over HTTP/1 (RFC 9112 section 7.1.2), announced or not.
    let sized = response.body().size_hint().exact().is_some();
    let tail = Tail {
        trailers: lease.is_http2() || (!sized && response.headers().contains_key(TRAILER)),
        grpc: grpc && reply::is_grpc(response.headers()),
        bare: matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED),
    };
    response.map(|incoming| Body::relay(incoming, lease, tail, exchange))
}

pub(super) fn server_header(
    headers: &mut http::HeaderMap,
    connection: &super::connection_manager::Connection,
) {
    match connection.manager.model.server_header {
        ServerHeader::PassThrough => {}
        ServerHeader::AppendIfAbsent if headers.contains_key(SERVER) => {}
        ServerHeader::Overwrite | ServerHeader::AppendIfAbsent => {
            headers.insert(SERVER, connection.server_name.clone());
        }
    }
}
