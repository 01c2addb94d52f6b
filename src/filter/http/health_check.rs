//! `envoy.filters.http.health_check`: answers health checks of whoever stands in front.
//!
//! Configuration: `envoy.extensions.filters.http.health_check.v3.HealthCheck`. While
//! `/healthcheck/fail` holds, checks fail, and every other answer says so as well.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::health_check::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, each, percent, required};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::super::call::{Calls, Members};
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::error::ResponseFlag;
use crate::matching::headers::{HeaderCondition, RequestHead};

const DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
const CHECKED_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
const FAILING: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    name: "envoy.filters.http.health_check",
    build,
    per_route: &[],
};

#[derive(Debug)]
struct HealthCheck {
    /// All of them make a request a health check.
    headers: Vec<HeaderCondition>,
    pass_through: bool,
    cache: Option<Cache>,
    /// Least share of healthy endpoints, in per cent, by cluster.
    minimum: Vec<(String, f64)>,
    /// `/healthcheck/fail` holds.
    failing: Arc<AtomicBool>,
    /// Our own, as the bootstrap calls it.
    cluster: Option<HeaderValue>,
}

/// What the upstream has answered last.
#[derive(Debug)]
struct Cache {
    lasts: Duration,
    answer: Mutex<Option<Cached>>,
}

#[derive(Clone, Copy, Debug)]
struct Cached {
    status: StatusCode,
    degraded: bool,
    until: Instant,
}

/// A request that is a health check.
struct Check;

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::HealthCheck {
        pass_through_mode,
        cache_time,
        cluster_min_healthy_percentages,
        headers,
    } = decode(config)?;
    let pass_through = required(pass_through_mode, "pass_through_mode")?.value;
    let cache_time = parts::duration(cache_time, "cache_time")?;
    let cache_time = cache_time.filter(|time| !time.is_zero());
    if cache_time.is_some() && !pass_through {
        let reason = "must not be given without pass_through_mode";
        return Err(Invalid::at("cache_time", reason));
    }
    let headers = each("headers", headers, parts::header_matcher)?;
    let mut minimum = Vec::new();
    for (cluster, share) in cluster_min_healthy_percentages {
        let share = percent(Some(share), "value");
        let share = share.at_key("cluster_min_healthy_percentages", &cluster)?;
        minimum.push((cluster, share.unwrap_or(0.0)));
    }
    minimum.sort_by(|a, b| a.0.cmp(&b.0));
    let cluster = &*context.local_cluster;
    Ok(Arc::new(HealthCheck {
        headers: headers.iter().map(HeaderCondition::compile).collect(),
        pass_through,
        cache: cache_time.map(|lasts| Cache {
            lasts,
            answer: Mutex::new(None),
        }),
        minimum,
        failing: Arc::clone(&context.draining),
        cluster: HeaderValue::from_str(cluster).ok(),
    }))
}

impl HttpFilter for HealthCheck {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let head = RequestHead(stream.request);
        if !self.headers.iter().all(|header| header.matches(&head)) {
            return Flow::Continue;
        }
        stream.keep(Check);
        let failing = self.failing.load(Relaxed);
        let cached = self.cache.as_ref().and_then(Cache::get);
        if self.pass_through && !failing && cached.is_none() {
            return Flow::Continue;
        }
        let (status, degraded, details) = match cached {
            _ if failing => (
                StatusCode::SERVICE_UNAVAILABLE,
                false,
                "health_check_failed",
            ),
            Some(cached) => (cached.status, cached.degraded, "health_check_cached"),
            None => {
                let (status, details) = self.of_clusters(&*stream.calls());
                (status, false, details)
            }
        };
        let mut reply = LocalReply::new(status, details);
        if !status.is_success() {
            reply = reply.flagged(ResponseFlag::FailedLocalHealthCheck);
        }
        if degraded {
            reply.headers.insert(DEGRADED, HeaderValue::from_static(""));
        }
        Flow::reply(reply)
    }

    fn response(&self, answer: &mut Answer<'_>) {
        if answer.kept::<Check>().is_some() {
            if let Some(cache) = &self.cache {
                cache.set(answer.status, answer.headers.contains_key(DEGRADED));
            }
            if let Some(cluster) = &self.cluster {
                answer.headers.insert(CHECKED_CLUSTER, cluster.clone());
            }
        } else if self.failing.load(Relaxed) {
            let failing = HeaderValue::from_static("true");
            answer.headers.insert(FAILING, failing);
        }
    }
}

impl HealthCheck {
    fn of_clusters(&self, calls: &dyn Calls) -> (StatusCode, &'static str) {
        for (cluster, share) in &self.minimum {
            let Some(members) = calls.members(cluster) else {
                return (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "health_check_no_cluster_found",
                );
            };
            if !enough(members, *share) {
                return (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "health_check_cluster_unhealthy",
                );
            }
        }
        (StatusCode::OK, "health_check_ok")
    }
}

/// Degraded endpoints count as healthy ones do. A cluster without endpoints is only good enough
/// where nothing is asked of it.
fn enough(members: Members, share: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "counts of endpoints")]
    let (total, good) = (
        members.total as f64,
        (members.healthy + members.degraded) as f64,
    );
    match members.total {
        0 => share == 0.0,
        _ => good >= total * share / 100.0,
    }
}

impl Cache {
    fn get(&self) -> Option<Cached> {
        let cached = *self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        cached.filter(|cached| cached.until > Instant::now())
    }

    /// What came out of it is not put in again.
    fn set(&self, status: StatusCode, degraded: bool) {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if answer.is_none_or(|cached| cached.until <= now) {
            *answer = Some(Cached {
                status,
                degraded,
                until: now + self.lasts,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_endpoints_are_healthy() {
        let members = |healthy, total| Members {
            total,
            healthy,
            degraded: 0,
        };
        assert!(enough(members(1, 2), 50.0));
        assert!(!enough(members(1, 2), 50.1));
        assert!(enough(members(0, 0), 0.0));
        assert!(!enough(members(0, 0), 1.0));
        let degraded = Members {
            total: 2,
            healthy: 1,
            degraded: 1,
        };
        assert!(enough(degraded, 100.0));
    }

    #[test]
    fn an_answer_is_kept_for_a_while() {
        let cache = |lasts| Cache {
            lasts,
            answer: Mutex::default(),
        };
        let long = cache(Duration::from_secs(3600));
        assert!(long.get().is_none());
        long.set(StatusCode::SERVICE_UNAVAILABLE, true);
        long.set(StatusCode::OK, false);
        let cached = long.get().unwrap();
        assert_eq!(cached.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(cached.degraded);
        let over = cache(Duration::ZERO);
        over.set(StatusCode::OK, false);
        assert!(over.get().is_none());
    }

    #[test]
    fn a_cache_is_for_answers_of_others() {
        let config = proto::HealthCheck {
            pass_through_mode: Some(causeway_xds::proto::BoolValue { value: false }),
            cache_time: Some(causeway_xds::proto::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..proto::HealthCheck::default()
        };
        let extension = crate::filter::testing::extension(FACTORY.message, &config);
        let told = build(&extension, &Context::default()).unwrap_err();
        assert_eq!(
            told.to_string(),
            "cache_time: must not be given without pass_through_mode"
        );
    }
}
