//! Whether a request is sent again, and when.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::resource::route::{Priority, Retry as Model, RetryOn};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName};
use http::request::Parts;

use super::view::{Fields, View};
use crate::cluster::Cluster;
use crate::error::ResponseFlag;
use crate::route::action::Forward;
use crate::route::retry::{Retry, back_off};
use crate::upstream::Permit;

const ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const MAX: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const HEDGE: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Most entries that a request can add to a list.
const MAX_ASKED: usize = 64;

/// How an attempt ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// A limit was reached: never sent again.
    Overflow,
    /// No connection came about.
    Connect,
    /// The upstream did not want the stream, and has not looked at it.
    Refused,
    /// The stream or its connection ended, or took too long.
    Broken,
    /// Whatever was wrong, the upstream is not to blame.
    Final,
}

/// What to do after an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it as it is; the flag says why it could not be better.
    Keep(Option<ResponseFlag>),
    /// Once more, after this time.
    Again(Duration),
}

/// The retries of one request.
pub struct Retries {
    policy: Option<Arc<Retry>>,
    on: RetryOn,
    left: u32,
    made: u32,
    priority: Priority,
    /// What the request added to the lists of the policy.
    status_codes: Vec<u32>,
    header_names: Vec<HeaderName>,
    /// From the decision for a retry to the next decision.
    permit: Cell<Option<Permit>>,
}

impl Retries {
    /// `None` when nothing is ever sent again, or not before [`Self::of_unsent`] says so. `asks` is
    /// whether the request has `x-envoy-*` fields, of which those that are about retries go no
    /// further.
    pub fn of(forward: &Forward, parts: &mut Parts, asks: bool) -> Option<Box<Self>> {
        let policy = forward.retry.as_deref();
        if policy.is_none_or(Retry::is_for_unsent) && !asks {
            return None;
        }
        let mut retries = Self::by(forward);
        let wanted = retries.policy.as_deref().is_none_or(|policy| {
            policy.request_headers.is_empty() || policy.request_headers.matches(&View::of(parts))
        });
        if asks {
            retries.ask(&mut parts.headers);
        }
        (wanted && !retries.on.is_empty()).then(|| Box::new(retries))
    }

    /// Made when the first attempt has failed, for requests that did not need them before.
    pub fn of_unsent(forward: &Forward) -> Option<Box<Self>> {
        forward.unsent()?;
        Some(Box::new(Self::by(forward)))
    }

    /// By what the route says.
    fn by(forward: &Forward) -> Self {
        let policy = forward.retry.clone();
        let told = policy.as_deref();
        Self {
            on: told.map_or(RetryOn::default(), |p| p.on),
            left: told.map_or_else(|| Model::by_request().retries, |p| p.retries),
            policy,
            made: 0,
            priority: forward.priority,
            status_codes: Vec::new(),
            header_names: Vec::new(),
            permit: Cell::new(None),
        }
    }

    fn ask(&mut self, headers: &mut HeaderMap) {
        let mut take = |name: &HeaderName| {
            let value = headers.remove(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        for list in [take(&ON), take(&GRPC_ON)].iter().flatten() {
            self.on = self.on.or(RetryOn::lenient(list));
        }
        if let Some(max) = take(&MAX).and_then(|max| max.trim().parse().ok()) {
            self.left = max;
        }
        let words = |list: &str| -> Vec<String> {
            let words = list.split(',').map(|word| word.trim().to_owned());
            words.take(MAX_ASKED).collect()
        };
        if let Some(codes) = take(&STATUS_CODES) {
            self.status_codes = words(&codes)
                .iter()
                .filter_map(|c| c.parse().ok())
                .collect();
        }
        if let Some(names) = take(&HEADER_NAMES) {
            self.header_names = words(&names)
                .iter()
                .filter_map(|n| n.parse().ok())
                .collect();
        }
        headers.remove(HEDGE);
    }

    /// How many other endpoints are looked for before one is taken that was tried.
    pub fn other_hosts(&self) -> u32 {
        self.policy.as_deref().map_or(0, |p| p.other_hosts)
    }

    /// Whether an attempt may follow one that has sent something. Otherwise neither head nor body
    /// need to be kept.
    pub fn resend(&self) -> bool {
        const UNSENT: RetryOn = RetryOn::CONNECT_FAILURE;
        self.on != UNSENT
    }

    pub fn after_answer(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        cluster: &Cluster,
    ) -> Verdict {
        let wanted = self.wants_another_answer(status, headers);
        let told = self.policy.as_ref().filter(|_| wanted);
        let reset = told.and_then(|policy| policy.reset_after(headers));
        self.decide(wanted, reset, cluster)
    }

    pub fn after_reset(&mut self, reset: Reset, cluster: &Cluster) -> Verdict {
        let wanted = self.wants_another_attempt(reset);
        self.decide(wanted, None, cluster)
    }

    fn wants_another_answer(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let on = self.on;
        if !self.resend() {
            // What was answered was sent, and its head need not be searched.
            return false;
        }
        // Whoever limits the rate has been asked often enough, unless the route knows better.
        if headers.contains_key(RATE_LIMITED) {
            return on.has(RetryOn::ENVOY_RATE_LIMITED);
        }
        let code = status.as_u16();
        let policy = self.policy.as_deref();
        (on.has(RetryOn::SERVER_ERROR) && status.is_server_error())
            || (on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&code))
            || (on.has(RetryOn::RETRIABLE_4XX) && status == StatusCode::CONFLICT)
            || (on.has(RetryOn::RETRIABLE_STATUS_CODES)
                && (self.status_codes.contains(&code.into())
                    || policy.is_some_and(|p| p.status_codes.contains(&code.into()))))
            || (on.has(RetryOn::RETRIABLE_HEADERS)
                && (self
                    .header_names
                    .iter()
                    .any(|name| headers.contains_key(name))
                    || policy.is_some_and(|p| p.headers.matches(&Fields(headers)))))
            || grpc_condition(headers).is_some_and(|condition| on.has(condition))
    }

    fn wants_another_attempt(&self, reset: Reset) -> bool {
        // A reset is answered by a 5xx, and counts as one.
        const ANY: [RetryOn; 3] = [
            RetryOn::RESET,
            RetryOn::SERVER_ERROR,
            RetryOn::GATEWAY_ERROR,
        ];
        let has = |on| self.on.has(on);
        match reset {
            Reset::Overflow | Reset::Final => false,
            _ if ANY.into_iter().any(has) => true,
            Reset::Connect => has(RetryOn::CONNECT_FAILURE) || has(RetryOn::RESET_BEFORE_REQUEST),
            Reset::Refused => has(RetryOn::REFUSED_STREAM),
            Reset::Broken => false,
        }
    }

    fn decide(&mut self, wanted: bool, reset: Option<Duration>, cluster: &Cluster) -> Verdict {
        let stats = &cluster.transport.stats;
        // The retry before this decision has ended.
        let retried = self.permit.take().is_some();
        if !wanted {
            if retried {
                stats.upstream_rq_retry_success.inc();
            }
            return Verdict::Keep(None);
        }
        if self.left == 0 {
            stats.upstream_rq_retry_limit_exceeded.inc();
            return Verdict::Keep(Some(ResponseFlag::UpstreamRetryLimitExceeded));
        }
        let Some(permit) = cluster.transport.limits_of(self.priority).retry() else {
            stats.upstream_rq_retry_overflow.inc();
            return Verdict::Keep(Some(ResponseFlag::UpstreamOverflow));
        };
        self.permit.set(Some(permit));
        self.left -= 1;
        self.made += 1;
        stats.upstream_rq_retry.inc();
        let wait = match reset {
            Some(reset) => {
                stats.upstream_rq_retry_backoff_ratelimited.inc();
                // Not all at the same moment.
                reset.mul_f64(1.0 + fastrand::f64() / 2.0)
            }
            None => {
                stats.upstream_rq_retry_backoff_exponential.inc();
                let limits = self.policy.as_deref().map(|p| p.back_off);
                back_off(limits.unwrap_or_default(), self.made, fastrand::f64())
            }
        };
        Verdict::Again(wait)
    }
}

/// The condition that an answer of gRPC without messages meets.
fn grpc_condition(headers: &HeaderMap) -> Option<RetryOn> {
    match headers.get(GRPC_STATUS)?.as_bytes() {
        b"1" => Some(RetryOn::GRPC_CANCELLED),
        b"4" => Some(RetryOn::GRPC_DEADLINE_EXCEEDED),
        b"8" => Some(RetryOn::GRPC_RESOURCE_EXHAUSTED),
        b"13" => Some(RetryOn::GRPC_INTERNAL),
        b"14" => Some(RetryOn::GRPC_UNAVAILABLE),
        _ => None,
    }
}
