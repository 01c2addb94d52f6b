//! Asking endpoints of a cluster until one answers well enough.

mod ask;
mod clock;
mod preferred;

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use causeway_xds::resource::http_manager::SchemeRule;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body as _;

use self::ask::{Answer, Sending};
use self::clock::{PER_TRY_IDLE, TryClock};
use self::preferred::Preferred;
use super::exchange::Exchange;
use super::failures;
use super::head::{UpgradeRequest, strip_response};
use super::outcome;
use super::replay::Replay;
use super::request::{match_upstream, prepare};
use super::retry::{Reset, Retries, Verdict};
use super::timeouts::{EXPECTED_TIMEOUT, Timeouts};
use crate::cluster::{Cluster, PickError, Picked, Wish};
use crate::error::Failure;
use crate::net::Incoming;
use crate::route::Chosen;
use crate::route::action::{Forward, milliseconds};
use crate::upstream::body::{Kept, Progress, RequestBody};
use crate::upstream::pool::{self, Lease, SendError};
use crate::upstream::{Endpoint, Via};

pub use self::ask::{Ask, Asked, Lost, Sent};

/// Why a head is there.
pub const UNSENT: &str = "a head is put back for every further attempt";
pub const COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");

struct Attempts<'a> {
    ask: Rest<'a>,
    cluster: &'a Cluster,
    body: Sending,
    progress: Rc<Progress>,
    /// How often it was sent by the policy of the route, the first time included.
    count: u32,
    /// A pooled connection was dead: only a fresh one is worth another try.
    again: bool,
    /// What was sent may have to be sent again.
    resend: bool,
    /// The endpoint that is asked, and whether it was connected to.
    asked: Option<(Picked<'a>, bool)>,
    /// Endpoints that did not do.
    tried: Vec<u64>,
    /// Of the attempt before, when no connection came about.
    unreachable: Option<Box<Failure>>,
    /// The head as it was before an endpoint was chosen; only where there may be a retry.
    replay: Option<Replay>,
    /// What a connection has to be for.
    via: Option<Rc<Via>>,
    /// Whom the balancer is not asked for.
    preferred: Preferred,
}

/// [`Ask`] without its body.
struct Rest<'a> {
    parts: &'a mut Option<Parts>,
    chosen: &'a Chosen,
    forward: &'a Forward,
    upgrade: Option<&'a UpgradeRequest>,
    hash: Option<u64>,
    destination: Option<SocketAddr>,
    retries: Option<Box<Retries>>,
    timeouts: &'a Timeouts,
    tell: bool,
}

/// Asks until there is an answer that is good enough, or nothing more to hope for.
pub async fn ask(ask: Ask<'_>, cluster: &Cluster, exchange: &mut Exchange) -> Asked {
    let Ask {
        parts,
        body,
        chosen,
        forward,
        retries,
        copies,
        upgrade,
        hash,
        destination,
        timeouts,
        tell,
    } = ask;
    let via = parts.as_ref().and_then(|head| {
        let client = exchange.connection.client();
        let source = exchange.filters.source();
        Via::of_request(&cluster.transport, &head.headers, client, source)
    });
    let progress = Rc::clone(&exchange.progress);
    let ended = body.is_end_stream();
    let resend = retries.as_ref().is_some_and(|retries| retries.resend())
        || (forward.internal_redirect.is_some() && upgrade.is_none());
    let body = match (resend, &copies) {
        (false, None) => Sending::Once(Some(RequestBody::streaming(body))),
        _ if ended => Sending::Once(None),
        _ => Sending::Kept(Kept::new(body, forward.buffer_limit)),
    };
    if let Some(copies) = copies {
        let head = Replay::of(parts.as_ref().expect(UNSENT));
        match &body {
            Sending::Once(_) => copies.send(&head, &[]),
            Sending::Kept(kept) => kept.when_whole(move |pieces| copies.send(&head, &pieces)),
        }
    }
    let mut attempts = Attempts {
        ask: Rest {
            parts,
            chosen,
            forward,
            upgrade,
            hash,
            destination,
            retries,
            timeouts,
            tell,
        },
        cluster,
        body,
        progress,
        count: 1,
        again: false,
        resend,
        asked: None,
        tried: Vec::new(),
        unreachable: None,
        replay: None,
        via,
        preferred: Preferred::default(),
    };
    let answer = attempts.run(exchange).await;
    let sent = match &answer {
        Ok((_, answer)) => attempts.sent(answer.status()),
        Err(_) => None,
    };
    Asked {
        answer,
        attempts: attempts.count,
        sent,
    }
}

impl<'a> Attempts<'a> {
    async fn run(&mut self, exchange: &mut Exchange) -> Result<Answer, Failure> {
        loop {
            let attempt = self.attempt(exchange).await;
            if let Some(detection) = &self.cluster.outlier
                && let Some((endpoint, connected)) = self.asked.take()
                && let Some(outcome) = outcome::of(attempt.as_ref().map(|(_, r)| &**r), connected)
            {
                detection.note(&endpoint, outcome);
            }
            if let (Err(lost), Some(kept)) = (&attempt, &exchange.kept) {
                kept.lost(lost.failure.why());
            }
            if attempt.is_err() && self.ask.retries.is_none() {
                self.ask.retries = Retries::of_unsent(self.ask.forward);
            }
            let stats = &self.cluster.transport.stats;
            let retries = match self.body.is_given_up() {
                false => self.ask.retries.as_mut(),
                true => {
                    stats.retry_or_shadow_abandoned.inc();
                    None
                }
            };
            let verdict = match (&attempt, retries) {
                (_, None) => Verdict::Keep(None),
                (Ok((_, answer)), Some(retries)) => {
                    retries.after_answer(answer.status(), answer.headers(), self.cluster)
                }
                (Err(lost), Some(retries)) => retries.after_reset(lost.reset, self.cluster),
            };
            let (wait, timed_out) = match (attempt, verdict) {
                (Ok(answer), Verdict::Keep(flag)) => {
                    if let Some(flag) = flag {
                        exchange.flag(flag);
                    }
                    if let Sending::Kept(kept) = &self.body {
                        kept.release();
                    }
                    return Ok(answer);
                }
                (Err(lost), Verdict::Keep(flag)) => {
                    let Lost {
                        mut failure, reset, ..
                    } = lost;
                    if reset != Reset::Final {
                        exchange.upstream_failed(failure.status);
                    }
                    failure.flag = flag.or(failure.flag);
                    return Err(failure);
                }
                (Ok((lease, answer)), Verdict::Again(wait)) => {
                    tracing::debug!(endpoint = %lease.endpoint(), status = %answer.status(),
                        "asking once more");
                    exchange.upstream_retried(Some(answer.status()));
                    self.tried.push(lease.endpoint().uid);
                    self.unreachable = None;
                    if http_body::Body::is_end_stream(answer.body())
                        && self.progress.request_ended.get()
                    {
                        lease.give_back();
                    }
                    (wait, false)
                }
                (Err(lost), Verdict::Again(wait)) => {
                    tracing::debug!(failure = %lost.failure, "asking once more");
                    exchange.upstream_retried(None);
                    self.unreachable =
                        (lost.reset == Reset::Connect).then(|| Box::new(lost.failure));
                    (wait, lost.timed_out)
                }
            };
            self.count += 1;
            self.again = false;
            if !wait.is_zero() {
                let sleep = pin!(tokio::time::sleep(wait));
                watched(sleep, exchange, self.ask.timeouts).await?;
            }
            self.put_back(exchange, timed_out);
        }
    }

    /// What was sent, for a redirect that may be followed here.
    fn sent(&mut self, status: StatusCode) -> Option<Box<Sent>> {
        let policy = self.ask.forward.internal_redirect.as_deref();
        policy.filter(|policy| policy.takes(status) && self.ask.upgrade.is_none())?;
        let body = self.body.all()?;
        let parts = self.replay.take()?.to_parts();
        Some(Box::new(Sent { parts, body }))
    }

    /// The head for one more attempt.
    fn put_back(&mut self, exchange: &Exchange, timed_out: bool) {
        if let Some(replay) = self.replay.take() {
            *self.ask.parts = Some(replay.to_parts());
        }
        let headers = &mut self.ask.parts.as_mut().expect(UNSENT).headers;
        if self.ask.tell {
            let elapsed = match self.progress.request_ended.get() {
                true => exchange.start.elapsed(),
                false => Duration::ZERO,
            };
            if let Some(left) = self.ask.timeouts.expected(elapsed) {
                headers.insert(EXPECTED_TIMEOUT, milliseconds(left));
            }
        }
        if self.ask.chosen.route.told.timeout_retry {
            let told = if timed_out { "true" } else { "false" };
            headers.insert(TIMEOUT_RETRY, HeaderValue::from_static(told));
        }
    }

    fn pick(&mut self, exchange: &Exchange) -> Result<Picked<'a>, Lost> {
        let cluster = self.cluster;
        let headers = self.ask.parts.as_ref().map(|parts| &parts.headers);
        let attempt = (self.tried.is_empty(), self.again);
        let said = (headers, &exchange.filters);
        match self.preferred.next(cluster, said, attempt) {
            Ok(Some(endpoint)) => return Ok(endpoint),
            Ok(None) => {}
            Err(nobody) => {
                cluster.transport.stats.upstream_cx_none_healthy.inc();
                return Err(Lost::finally(nobody.into()));
            }
        }
        let wish = Wish {
            hash: self.ask.hash,
            labels: self.ask.chosen.labels(),
            destination: self.ask.destination,
        };
        let others = match &self.ask.retries {
            Some(retries) => retries.other_hosts(),
            None => self.ask.forward.unsent().map_or(0, |p| p.other_hosts),
        };
        let picked = match others {
            0 => cluster.pick(wish),
            draws => cluster.pick_other(&self.tried, draws, wish),
        };
        let picked = match (picked, self.unreachable.take()) {
            // One that cannot be reached is not tried again at once.
            (Err(_), Some(failure)) => return Err(Lost::finally(*failure)),
            (Err(PickError::AllTried(_)), None) => cluster.pick(wish),
            (picked, _) => picked,
        };
        picked.map_err(|error| {
            cluster.transport.stats.upstream_cx_none_healthy.inc();
            Lost::finally(error.into())
        })
    }

    /// Asks one endpoint; another one when it turns out that a pooled connection was dead.
    async fn attempt(&mut self, exchange: &mut Exchange) -> Result<Answer, Lost> {
        let transport = &self.cluster.transport;
        loop {
            let picked = self.pick(exchange)?;
            let endpoint: &Arc<Endpoint> = &picked;
            let limit = &transport.limits_of(self.ask.forward.priority).requests;
            let Some(permit) = limit.acquire() else {
                transport.dropped.inc();
                return Err(Lost::of(failures::overflow(limit.max()), Reset::Overflow));
            };
            self.cluster.anticipate();
            if let Some(rules) = self.cluster.override_host() {
                preferred::tell(rules, endpoint.socket_address(), &exchange.filters);
            }
            exchange.asked(endpoint, transport, permit);
            self.asked = Some((picked.clone(), false));
            let pooled = if self.again {
                None
            } else {
                pool::ready(endpoint, transport, self.via.as_ref())
            };
            let mut lease = match pooled {
                Some(lease) => lease,
                None => {
                    let via = self.via.as_ref();
                    let checkout = pool::checkout(endpoint, transport, via, self.again);
                    let mut checkout = Box::pin(checkout);
                    let lease = watched(checkout.as_mut(), exchange, self.ask.timeouts).await;
                    match lease.map_err(Lost::finally)? {
                        Ok(lease) => lease,
                        Err(error) => {
                            let reset = match error.is_of_endpoint() {
                                true => Reset::Connect,
                                false => Reset::Overflow,
                            };
                            self.tried.push(endpoint.uid);
                            return Err(Lost::of(error.into(), reset));
                        }
                    }
                }
            };
            self.asked = Some((picked.clone(), true));
            if let Some(kept) = &exchange.kept {
                kept.connection.set(Some(lease.about()));
            }
            if lease.is_http2() && self.ask.upgrade.is_some_and(|upgrade| !upgrade.connect) {
                let mut takes = Box::pin(lease.takes_upgrades());
                let takes = watched(takes.as_mut(), exchange, self.ask.timeouts).await;
                if !takes.map_err(Lost::finally)? {
                    let why = "the endpoint takes no upgrades over HTTP/2";
                    let failure = failures::protocol_error().because(why);
                    return Err(Lost::finally(failure));
                }
            }
            match self.send(&mut lease, exchange).await? {
                Some(response) => return Ok((lease, response)),
                None => {
                    self.again = true;
                    if let Some(kept) = &exchange.kept {
                        kept.lost("the pooled connection was closed");
                    }
                }
            }
        }
    }

    /// `None`: the connection was dead, and everything is as before.
    async fn send(
        &mut self,
        lease: &mut Lease,
        exchange: &mut Exchange,
    ) -> Result<Option<Box<Response<Incoming>>>, Lost> {
        let parts = &mut *self.ask.parts;
        let mut head = parts.take().expect(UNSENT);
        if self.ask.chosen.route.told.attempt {
            head.headers.insert(COUNT, HeaderValue::from(self.count));
        }
        let last = self.again || !lease.reused;
        // The origin may have acted on a request before it hung up (RFC 9110 section 9.2.2).
        let once_more = !last
            && head.method.is_idempotent()
            && (self.progress.request_ended.get() && self.progress.received.get() == 0);
        if self.replay.is_none() && (once_more || self.resend) {
            self.replay = Some(Replay::of(&head));
        }
        let Rest {
            forward,
            upgrade,
            tell,
            ..
        } = self.ask;
        let bodyless = self.progress.request_ended.get() && self.progress.received.get() == 0;
        prepare(&mut head, lease, forward, upgrade, tell, bodyless);
        if exchange.connection.manager.model.scheme == SchemeRule::Upstream {
            let socket = lease.endpoint().attributes.socket;
            match_upstream(&mut head, self.cluster.transport.tls_of(socket).is_some());
        }
        let request = Request::from_parts(head, self.body.next());
        exchange
            .watch
            .limit_upstream(self.cluster.transport.max_stream_duration);
        let sent = pin!(lease.send(request));
        let answered = match *self.ask.timeouts {
            Timeouts {
                per_try: Duration::ZERO,
                per_try_idle: Duration::ZERO,
                ..
            } => watched(sent, exchange, self.ask.timeouts)
                .await
                .map_err(Lost::finally)?,
            _ => self.timed(sent, exchange).await?,
        };
        match answered {
            Ok(response) => {
                let mut response = Box::new(response);
                // What a switched connection says about itself is looked at later.
                if response.status() != StatusCode::SWITCHING_PROTOCOLS
                    && let Err(error) = strip_response(response.headers_mut())
                {
                    let failure = failures::protocol_error().because(error);
                    return Err(Lost::of(failure, Reset::Broken));
                }
                Ok(Some(response))
            }
            Err(SendError {
                error,
                unsent: Some(request),
            }) if !last => {
                let (head, unsent) = request.into_parts();
                *self.ask.parts = Some(head);
                if let Sending::Once(body) = &mut self.body {
                    *body = Some(unsent);
                }
                tracing::debug!(endpoint = %lease.endpoint(), %error,
                    "a pooled connection takes no more requests, trying a fresh one");
                Ok(None)
            }
            Err(error) if once_more && failures::is_stale(&error) => {
                if let Some(replay) = &self.replay {
                    *self.ask.parts = Some(replay.to_parts());
                }
                tracing::debug!(endpoint = %lease.endpoint(), error = %error.error,
                    "a pooled connection was dead, trying a fresh one");
                Ok(None)
            }
            // Not the upstream's fault: the client's body cannot be parsed, or broke off.
            Err(_) if self.progress.request_broken.get() => {
                Err(Lost::finally(Failure::bad_request("request_body_broken")))
            }
            Err(error) => {
                self.tried.push(lease.endpoint().uid);
                let reset = match error.error.is_refused() {
                    true => Reset::Refused,
                    false => Reset::Broken,
                };
                Err(Lost::of(failures::unanswered(&error, lease), reset))
            }
        }
    }

    /// As [`watched`], within the limits of an attempt.
    async fn timed<F: Future>(
        &mut self,
        mut future: Pin<&mut F>,
        exchange: &mut Exchange,
    ) -> Result<F::Output, Lost> {
        let timeouts = self.ask.timeouts;
        let mut clock = TryClock::new(timeouts);
        let late = |details, exchange: &Exchange| {
            let counted = details == PER_TRY_IDLE;
            exchange.count_upstream(|stats| match counted {
                true => &stats.upstream_rq_per_try_idle_timeout,
                false => &stats.upstream_rq_per_try_timeout,
            });
            Lost {
                failure: failures::timeout(details, timeouts),
                reset: Reset::Broken,
                timed_out: true,
            }
        };
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = poll_watched(cx, future.as_mut(), exchange, timeouts) {
                return Poll::Ready(output.map_err(Lost::finally));
            }
            clock
                .poll(cx, &exchange.progress)
                .map(|details| Err(late(details, exchange)))
        })
        .await
    }
}

/// Waits for `future` as long as no deadline of the stream fires.
pub(super) async fn watched<F: Future + ?Sized>(
    mut future: Pin<&mut F>,
    exchange: &mut Exchange,
    timeouts: &Timeouts,
) -> Result<F::Output, Failure> {
    std::future::poll_fn(|cx| poll_watched(cx, future.as_mut(), exchange, timeouts)).await
}

fn poll_watched<F: Future + ?Sized>(
    cx: &mut Context<'_>,
    future: Pin<&mut F>,
    exchange: &mut Exchange,
    timeouts: &Timeouts,
) -> Poll<Result<F::Output, Failure>> {
    if let Poll::Ready(output) = future.poll(cx) {
        return Poll::Ready(Ok(output));
    }
    exchange.poll_watch(cx).map(|fired| {
        fired.count(exchange);
        Err(failures::deadline(fired, exchange, timeouts))
    })
}
