//! Forwarding one request to an endpoint.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use causeway_xds::resource::http_manager::ServerHeader;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, SERVER, TRAILER, UPGRADE,
    VIA,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;

use super::body::Body;
use super::exchange::Exchange;
use super::forwarded::{X_FORWARDED_HOST, X_FORWARDED_PREFIX};
use super::head::{UpgradeRequest, strip_response};
use super::observed::Observed;
use super::replay::Replay;
use super::reply::{self, Manner};
use super::upgrade;
use super::watch::Fired;
use crate::cluster::Cluster;
use crate::error::{Failure, ResponseFlag};
use crate::route::action::{Forward, HostRewrite};
use crate::route::{HeaderEdits, Route};
use crate::upstream::body::RequestBody;
use crate::upstream::pool::{self, Lease, SendError};

/// Why a head is there.
const UNSENT: &str = "a head is put back for every further attempt";
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// A request on its way to a cluster.
pub struct Job<'j> {
    /// There until it is sent.
    pub parts: &'j mut Option<Parts>,
    pub body: Incoming,
    pub route: &'j Route,
    pub forward: &'j Forward,
    /// `None`: the snapshot has no such cluster.
    pub cluster: Option<Arc<Cluster>>,
    pub upgrade: Option<UpgradeRequest>,
    /// Hyper's half of a downstream upgrade, taken before the request was taken apart.
    pub on_upgrade: Option<hyper::upgrade::OnUpgrade>,
    pub manner: Manner,
}

/// Forwards, and makes a response of whatever comes of it.
pub async fn forward(job: Job<'_>, mut exchange: Box<Exchange>) -> Response<Body> {
    let Job {
        parts,
        body,
        route,
        forward,
        cluster,
        upgrade,
        on_upgrade,
        manner,
    } = job;
    let connection = Rc::clone(&exchange.connection);
    let manager = &connection.manager;
    let idle = forward
        .idle_timeout
        .unwrap_or(manager.model.timeouts.stream_idle);
    let request = manager.model.timeouts.request;
    exchange.watch.limit(request, forward.timeout, idle);
    let head = parts.as_mut().expect(UNSENT);
    append_via(&mut head.headers, &manager.model.via);
    let envoy_headers = !manager.filters.router.suppress_envoy_headers;
    if let (Some(kept), Some(cluster)) = (&exchange.kept, &cluster) {
        // A request has one cluster.
        kept.cluster.set(Arc::clone(&cluster.name)).ok();
    }
    edit_request(head, forward, route, envoy_headers, &exchange);
    exchange.keep_request(head, Some(&route.edits.wants));

    let ask = Ask {
        parts,
        body,
        route,
        forward,
        upgrade: upgrade.as_ref(),
    };
    let answer = match &cluster {
        Some(cluster) => attempt(ask, cluster, &mut exchange).await,
        None => {
            manager.stats.no_cluster.inc();
            let flag = ResponseFlag::NoCluster;
            Err(Failure::local(
                forward.cluster_not_found,
                flag,
                "cluster_not_found",
            ))
        }
    };
    let mut response = match (answer, upgrade, on_upgrade) {
        (Err(failure), ..) => {
            // A request whose body was not read to its end leaves the connection in doubt.
            let close = manner.close || !exchange.progress.request_ended.get();
            reply::from_failure(&failure, Manner { close, ..manner }, exchange)
        }
        (Ok((lease, response)), Some(asked), Some(on_upgrade))
            if response.status() == StatusCode::SWITCHING_PROTOCOLS =>
        {
            exchange.watch.upgraded();
            let ends = upgrade::Ends { lease, idle };
            upgrade::switch(response, asked, on_upgrade, ends, route, exchange)
        }
        (Ok((lease, response)), asked, _) => {
            let close = manner.close || asked.is_some();
            let manner = Manner {
                grpc: false,
                close,
                ..manner
            };
            respond(response, lease, manner, exchange)
        }
    };
    if response.body().exchange().is_some() {
        let (mut head, body) = response.into_parts();
        edit_response(route, &mut head.headers, body.exchange());
        response = Response::from_parts(head, body);
    }
    append_via(response.headers_mut(), &manager.model.via);
    response
}

/// What every attempt sends.
struct Ask<'a> {
    parts: &'a mut Option<Parts>,
    body: Incoming,
    route: &'a Route,
    forward: &'a Forward,
    upgrade: Option<&'a UpgradeRequest>,
}

/// Asks endpoints of the cluster until one answers with a head.
async fn attempt(
    ask: Ask<'_>,
    cluster: &Cluster,
    exchange: &mut Exchange,
) -> Result<(Lease, Response<Incoming>), Failure> {
    let Ask {
        parts,
        body,
        route,
        forward,
        upgrade,
    } = ask;
    let progress = Rc::clone(&exchange.progress);
    let mut body = Some(RequestBody::streaming(body, Rc::clone(&progress)));
    let bodyless = progress.request_ended.get();
    // The origin may have acted on a request before it hung up (RFC 9110 section 9.2.2).
    let idempotent = parts.as_ref().is_some_and(|p| p.method.is_idempotent());
    let mut attempts = 0;
    // A pooled connection was dead: only a fresh one is worth another try.
    let mut again = false;
    let mut unreachable: Vec<u64> = Vec::new();
    // Of the endpoint before, in case that there is no other.
    let mut failed: Option<Failure> = None;
    loop {
        attempts += 1;
        let picked = if forward.retry.other_hosts == 0 {
            cluster.pick()
        } else {
            cluster.pick_other(&unreachable, forward.retry.other_hosts)
        };
        let endpoint = match (picked, failed.take()) {
            (Ok(endpoint), _) => endpoint,
            (Err(_), Some(failure)) => return Err(failure),
            (Err(error), None) => {
                cluster.transport.stats.upstream_cx_none_healthy.inc();
                return Err(error.into());
            }
        };
        let Some(permit) = cluster.transport.limits.requests.acquire() else {
            cluster.transport.stats.upstream_rq_pending_overflow.inc();
            return Err(overflow(cluster.transport.limits.requests.max()));
        };
        exchange.asked(endpoint, &cluster.transport, permit);
        if !unreachable.is_empty() {
            cluster.transport.stats.upstream_rq_retry.inc();
        }
        let pooled = if again {
            None
        } else {
            pool::ready(endpoint, &cluster.transport)
        };
        let mut lease = match pooled {
            Some(lease) => lease,
            None => {
                let mut checkout = Box::pin(pool::checkout(endpoint, &cluster.transport, again));
                match watched(checkout.as_mut(), exchange).await? {
                    Ok(lease) => lease,
                    Err(error) => {
                        let retries = unreachable.len() < forward.retry.connect_failures as usize;
                        let elsewhere = retries && error.is_of_endpoint();
                        let failure = Failure::from(error);
                        exchange.upstream_failed(failure.status);
                        if !elsewhere {
                            return Err(failure);
                        }
                        tracing::debug!(%endpoint, %failure, "trying another endpoint");
                        unreachable.push(endpoint.uid);
                        failed = Some(failure);
                        continue;
                    }
                }
            }
        };
        let mut head = parts.take().expect(UNSENT);
        if route.attempt_count {
            head.headers
                .insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
        }
        let last = again || !lease.reused;
        let replay = (!last && bodyless && idempotent).then(|| Replay::of(&head));
        prepare(&mut head, &lease, forward, upgrade, bodyless);
        let streamed = body
            .take()
            .unwrap_or_else(|| RequestBody::empty(Rc::clone(&progress)));
        let sent = pin!(lease.send(Request::from_parts(head, streamed)));
        match watched(sent, exchange).await?.map_err(SendError::from) {
            Ok(mut response) => {
                // What a switched connection says about itself is looked at later.
                if response.status() != StatusCode::SWITCHING_PROTOCOLS
                    && let Err(error) = strip_response(response.headers_mut())
                {
                    exchange.upstream_failed(StatusCode::BAD_GATEWAY);
                    return Err(protocol_error().because(error));
                }
                if !unreachable.is_empty() {
                    cluster.transport.stats.upstream_rq_retry_success.inc();
                }
                return Ok((lease, response));
            }
            Err(SendError {
                error,
                unsent: Some(request),
            }) if !last => {
                let (head, unsent) = request.into_parts();
                *parts = Some(head);
                body = Some(unsent);
                again = true;
                tracing::debug!(endpoint = %lease.endpoint(), %error,
                    "a pooled connection takes no more requests, trying a fresh one");
            }
            Err(error) if replay.is_some() && is_stale(&error) => {
                if let Some(replay) = replay {
                    *parts = Some(replay.to_parts());
                }
                again = true;
                tracing::debug!(endpoint = %lease.endpoint(), error = %error.error,
                    "a pooled connection was dead, trying a fresh one");
            }
            Err(_) if progress.request_broken.get() => {
                // Not the upstream's fault: the client's body cannot be parsed, or broke off.
                return Err(Failure::bad_request("request_body_broken"));
            }
            Err(error) => {
                let failure = send_failure(&error, &lease);
                exchange.upstream_failed(failure.status);
                return Err(failure);
            }
        }
    }
}

/// Waits for `future` as long as no deadline of the stream fires.
async fn watched<F: Future>(
    mut future: Pin<&mut F>,
    exchange: &mut Exchange,
) -> Result<F::Output, Failure> {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        exchange.poll_watch(cx).map(|fired| {
            fired.count(exchange);
            Err(deadline_failure(fired, exchange))
        })
    })
    .await
}

fn deadline_failure(fired: Fired, exchange: &Exchange) -> Failure {
    match fired {
        Fired::RouteTimeout(_) => {
            exchange.upstream_failed(StatusCode::GATEWAY_TIMEOUT);
            Failure::local(
                StatusCode::GATEWAY_TIMEOUT,
                ResponseFlag::UpstreamTimeout,
                "response_timeout",
            )
            .saying("upstream request timeout")
            .because(fired)
        }
        Fired::Request(_) => {
            let timeout = StatusCode::REQUEST_TIMEOUT;
            Failure::local(
                timeout,
                ResponseFlag::DownstreamTermination,
                "request_overall_timeout",
            )
            .saying("request timeout")
            .because(fired)
        }
        Fired::StreamIdle(_) => {
            // Whoever was waited for is to blame: the client, or the upstream.
            let timeout = if exchange.progress.request_ended.get() {
                exchange.upstream_failed(StatusCode::GATEWAY_TIMEOUT);
                StatusCode::GATEWAY_TIMEOUT
            } else {
                StatusCode::REQUEST_TIMEOUT
            };
            Failure::local(
                timeout,
                ResponseFlag::StreamIdleTimeout,
                "stream_idle_timeout",
            )
            .saying("stream timeout")
            .because(fired)
        }
    }
}

fn overflow(max: u32) -> Failure {
    Failure::local(
        StatusCode::SERVICE_UNAVAILABLE,
        ResponseFlag::UpstreamOverflow,
        "upstream_reset_before_response_started{overflow}",
    )
    .saying("upstream connect error or disconnect/reset before headers. reset reason: overflow")
    .because(format!("limit of {max} requests reached"))
}

/// The peer closed a connection that it had kept open between requests: it has not seen this one.
fn is_stale(error: &SendError) -> bool {
    error.error.is_canceled()
        || error.error.is_closed()
        || error.error.is_incomplete_message()
        || std::error::Error::source(&error.error)
            .and_then(|e| e.downcast_ref::<std::io::Error>())
            .is_some_and(|e| {
                matches!(
                    e.kind(),
                    std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
                )
            })
}

fn protocol_error() -> Failure {
    Failure::local(
        StatusCode::BAD_GATEWAY,
        ResponseFlag::UpstreamProtocolError,
        "upstream_reset_before_response_started{protocol_error}",
    )
    .saying(
        "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
    )
}

fn send_failure(error: &SendError, lease: &Lease) -> Failure {
    let cause = format!(
        "{}: waiting for response head: {:?}",
        lease.endpoint(),
        error.error
    );
    if error.error.is_parse() || error.error.is_parse_too_large() {
        return protocol_error().because(cause);
    }
    let (flag, reason) = if lease.is_http2() {
        (ResponseFlag::UpstreamRemoteReset, "remote reset")
    } else {
        (
            ResponseFlag::UpstreamConnectionTermination,
            "connection termination",
        )
    };
    Failure::local(
        StatusCode::SERVICE_UNAVAILABLE,
        flag,
        "upstream_reset_before_response_started{connection_termination}",
    )
    .saying(format!(
        "upstream connect error or disconnect/reset before headers. reset reason: {reason}"
    ))
    .because(cause)
}

/// Adds our name to the list of those that a message went through (RFC 9110 section 7.6.3).
fn append_via(headers: &mut HeaderMap, via: &str) {
    if via.is_empty() {
        return;
    }
    let mut all: Vec<u8> = Vec::new();
    for value in headers.get_all(VIA) {
        all.extend_from_slice(value.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(via.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(VIA, value);
    }
}

/// Edits that are the same for every attempt.
fn edit_request(
    parts: &mut Parts,
    forward: &Forward,
    route: &Route,
    envoy_headers: bool,
    exchange: &Exchange,
) {
    if envoy_headers && let Some(timeout) = &forward.timeout_header {
        parts.headers.insert(EXPECTED_TIMEOUT, timeout.clone());
    }
    // Before the path and the host are rewritten, as Envoy has it.
    edit_head(&route.edits, parts, exchange);
    if let Some(prefix) = forward.path_rewrite.told_prefix(parts.uri.path())
        && let Ok(prefix) = HeaderValue::from_str(prefix)
    {
        parts.headers.insert(X_FORWARDED_PREFIX, prefix);
    }
    if let Some(target) = forward
        .path_rewrite
        .apply(parts.uri.path(), parts.uri.query())
        && let Ok(rewritten) = target.parse::<PathAndQuery>()
    {
        if envoy_headers
            && let Some(original) = parts.uri.path_and_query()
            && let Ok(original) = HeaderValue::from_str(original.as_str())
        {
            parts.headers.insert(ORIGINAL_PATH, original);
        }
        parts.uri = Uri::from(rewritten);
    }
    let rewritten = match &forward.host_rewrite {
        HostRewrite::Literal(host) => Some(host.clone()),
        HostRewrite::None | HostRewrite::Auto => None,
    };
    if let Some(host) = rewritten {
        if forward.append_x_forwarded_host
            && let Some(original) = parts.headers.get(HOST).cloned()
        {
            parts.headers.append(X_FORWARDED_HOST, original);
        }
        parts.headers.insert(HOST, host);
    }
}

/// Edits of a request, level after level.
pub(super) fn edit_head(edits: &HeaderEdits, parts: &mut Parts, exchange: &Exchange) {
    for level in edits.request_levels() {
        if !level.apply_plain(&mut parts.headers) {
            let facts = Observed {
                request: Some(parts),
                ..Observed::of(exchange)
            };
            let changes = level.evaluate(&parts.headers, &facts);
            changes.apply(&mut parts.headers);
        }
    }
}

/// The edits of a route on a response, of the upstream or of our own.
pub(super) fn edit_response(route: &Route, headers: &mut HeaderMap, exchange: Option<&Exchange>) {
    for level in route.edits.response_levels() {
        if level.apply_plain(headers) {
            continue;
        }
        let Some(exchange) = exchange else {
            continue;
        };
        let facts = Observed {
            response: Some(headers),
            ..Observed::of(exchange)
        };
        let changes = level.evaluate(headers, &facts);
        changes.apply(headers);
    }
}

/// Puts a head into the form that the endpoint's protocol wants.
fn prepare(
    head: &mut Parts,
    lease: &Lease,
    forward: &Forward,
    upgrade: Option<&UpgradeRequest>,
    bodyless: bool,
) {
    head.extensions.clear();
    let hostname = &lease.endpoint().hostname;
    if matches!(forward.host_rewrite, HostRewrite::Auto)
        && !hostname.is_empty()
        && let Ok(host) = HeaderValue::from_str(hostname)
    {
        head.headers.insert(HOST, host);
    }
    if lease.is_http2() {
        head.version = Version::HTTP_2;
        let mut uri = std::mem::take(&mut head.uri).into_parts();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        // Not there when the request comes back from a connection that did not send it.
        if let Some(host) = head.headers.remove(HOST) {
            uri.authority = host.to_str().ok().and_then(|h| h.parse().ok());
        }
        head.uri = Uri::from_parts(uri).unwrap_or_default();
    } else {
        head.version = Version::HTTP_11;
        // Every method but these may have a body, so that its absence is said (as Envoy does).
        let plain = [Method::GET, Method::HEAD, Method::CONNECT, Method::TRACE];
        if bodyless && upgrade.is_none() && !plain.contains(&head.method) {
            head.headers
                .entry(CONTENT_LENGTH)
                .or_insert_with(|| HeaderValue::from_static("0"));
        }
    }
    if let Some(upgrade) = upgrade {
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers.insert(UPGRADE, upgrade.protocol.clone());
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

fn respond(
    mut response: Response<Incoming>,
    lease: Lease,
    manner: Manner,
    exchange: Box<Exchange>,
) -> Response<Body> {
    let status = response.status();
    if status.is_informational() {
        // 101 that nobody asked for: what follows is not HTTP.
        let failure = protocol_error().because("a 101 that was not asked for");
        exchange.upstream_failed(failure.status);
        return reply::from_failure(&failure, manner, exchange);
    }
    let ms = exchange.upstream_answered(status);
    exchange.answered(status);
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().clear();
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
    let trailers = lease.is_http2() || response.headers().contains_key(TRAILER);
    response.map(|incoming| Body::relay(incoming, lease, trailers, exchange))
}

pub(super) fn server_header(
    headers: &mut HeaderMap,
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
