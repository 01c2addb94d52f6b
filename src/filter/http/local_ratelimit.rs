//! `envoy.filters.http.local_ratelimit`: so many requests and no more, counted here.
//!
//! Configuration: `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`, for the filter
//! and for routes; that of a route takes the place of the other, with buckets of its own, or with one
//! for several routes where it comes in a `causeway.v1.SharedRateLimit`. Buckets last as long as the
//! configuration does that they belong to, whatever else changes in the listener or table. Which of
//! the descriptors a request is counted by follows from `rate_limits` of the filter, or else of the
//! route and its virtual host. Buckets are shared by all threads.

mod limiter;

use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::causeway::v1::SharedRateLimit;
use causeway_xds::proto::envoy::extensions::common::ratelimit::v3 as common;
use causeway_xds::proto::envoy::extensions::filters::http::local_ratelimit::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, each, enumeration, is_default, not_empty, required};
use causeway_xds::resource::rate_limit::RateLimit;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use self::limiter::{Counting, Counts, Limiter, Outcome, PerConnection};
use super::super::bucket::Bucket;
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::error::ResponseFlag;
use crate::formatter::Wants;
use crate::matching::headers::RequestHead;
use crate::route::RouteConfig;
use crate::route::edits::Level;
use crate::route::fraction::Share;
use crate::route::rate_limits::{Counted, HostLimits, Limit};
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    name: "envoy.filters.http.local_ratelimit",
    build,
    per_route: &[
        (
            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            build_per_route,
        ),
        ("causeway.v1.SharedRateLimit", build_shared),
    ],
};

/// What gRPC calls `RESOURCE_EXHAUSTED`.
const RESOURCE_EXHAUSTED: u8 = 8;
/// Of those who share a bucket by its key.
const SHARED: &str = "shared rate limit";

#[derive(Debug)]
struct LocalRateLimit(Settings);

#[derive(Debug)]
struct Settings {
    counting: Arc<Counting>,
    status: StatusCode,
    /// `None` is never.
    enabled: Option<Share>,
    enforced: Option<Share>,
    /// Of requests that are too many and pass all the same.
    request_headers: Level,
    /// Of refusals.
    response_headers: Level,
    stage: u32,
    host_limits: HostLimits,
    /// Instead of those of the route.
    own_limits: Vec<Limit>,
    own_cluster: Arc<str>,
    /// Whether `x-ratelimit-*` headers tell what is left.
    told: bool,
    retry_after: bool,
    exhausted: bool,
    stats: Stats,
    wants: Wants,
}

#[derive(Debug)]
struct Stats {
    enabled: Arc<Counter>,
    ok: Arc<Counter>,
    limited: Arc<Counter>,
    enforced: Arc<Counter>,
}

/// The bucket of a request, of which its answer tells.
struct Told(Arc<Bucket>);

impl Settings {
    fn decode(config: &TypedExtension, context: &Context, of_route: bool) -> Result<Self, Invalid> {
        let proto::LocalRateLimit {
            stat_prefix,
            status,
            token_bucket,
            filter_enabled,
            filter_enforced,
            request_headers_to_add_when_not_enforced,
            response_headers_to_add,
            descriptors,
            stage,
            local_rate_limit_per_downstream_connection,
            local_cluster_rate_limit,
            enable_x_ratelimit_headers,
            vh_rate_limits,
            always_consume_default_token_bucket,
            rate_limited_as_resource_exhausted,
            rate_limits,
            max_dynamic_descriptors,
            enable_retry_after_header,
        } = decode(config)?;
        let stat_prefix = not_empty(stat_prefix, "stat_prefix")?;
        if !is_default(&local_cluster_rate_limit) {
            return Err(Invalid::at("local_cluster_rate_limit", "not supported yet"));
        }
        if of_route && token_bucket.is_none() {
            let reason = "must be given where a route has a configuration of its own";
            return Err(Invalid::at("token_bucket", reason));
        }
        if stage > 10 {
            return Err(Invalid::at("stage", format!("{stage} is above 10")));
        }
        let share = |message: Option<_>, field| {
            let share = message.map(parts::runtime_fraction).transpose().at(field)?;
            Ok::<_, Invalid>(share.map(|share| Share::compile(&share, &context.layers)))
        };
        let edits = |message, field| {
            parts::header_edits(message, field).map(|edits| Level::compile(&edits, &[]))
        };
        let limits = each("rate_limits", rate_limits, RateLimit::read)?;
        let response_headers = edits(response_headers_to_add, "response_headers_to_add")?;
        let request_headers = edits(
            request_headers_to_add_when_not_enforced,
            "request_headers_to_add_when_not_enforced",
        )?;
        let mut wants = Wants::NONE;
        response_headers.note(&mut wants);
        request_headers.note(&mut wants);
        use common::{VhRateLimitsOptions as Vh, XRateLimitHeadersRfcVersion as Rfc};
        let scope = format!("{stat_prefix}.http_local_rate_limit.");
        let counter = |name| context.counter_in(&scope, name);
        let mut limiter = Limiter::decode(token_bucket, descriptors)?;
        limiter.always_default = parts::flag(always_consume_default_token_bucket, true);
        if let Some(max) = max_dynamic_descriptors {
            if max.value == 0 {
                return Err(Invalid::at("max_dynamic_descriptors", "must be at least 1"));
            }
            limiter.max_dynamic = max.value as usize;
        }
        Ok(Self {
            counting: context.keep(config, || Counting {
                limiter,
                per_connection: local_rate_limit_per_downstream_connection
                    .then(PerConnection::default),
            }),
            status: refusal(status),
            enabled: share(filter_enabled, "filter_enabled")?,
            enforced: share(filter_enforced, "filter_enforced")?,
            request_headers,
            response_headers,
            stage,
            host_limits: match enumeration(vh_rate_limits, "vh_rate_limits")? {
                Vh::Override => HostLimits::Override,
                Vh::Include => HostLimits::Include,
                Vh::Ignore => HostLimits::Ignore,
            },
            own_limits: Limit::compile_all(&limits, &context.layers),
            own_cluster: Arc::clone(&context.local_cluster),
            told: match enumeration(enable_x_ratelimit_headers, "enable_x_ratelimit_headers")? {
                Rfc::Off => false,
                Rfc::DraftVersion03 => true,
            },
            retry_after: enable_retry_after_header,
            exhausted: rate_limited_as_resource_exhausted,
            stats: Stats {
                enabled: counter("enabled"),
                ok: counter("ok"),
                limited: counter("rate_limited"),
                enforced: counter("enforced"),
            },
            wants,
        })
    }
}

/// A status that is no refusal is 429, as with Envoy.
fn refusal(status: Option<causeway_xds::proto::envoy::r#type::v3::HttpStatus>) -> StatusCode {
    let code = status.and_then(|status| u16::try_from(status.code).ok());
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    status
        .filter(|status| status.as_u16() >= 400)
        .unwrap_or(StatusCode::TOO_MANY_REQUESTS)
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let settings = Settings::decode(config, context, false)?;
    Ok(Arc::new(LocalRateLimit(settings)))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let settings = Settings::decode(config, context, true)?;
    let wants = settings.wants.clone();
    Ok(RouteConfig::new(settings).wanting(wants))
}

/// One limit for several routes, wherever they are.
fn build_shared(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let SharedRateLimit { share_key, limit } = decode(config)?;
    let share_key = not_empty(share_key, "share_key")?;
    let limit = required(limit, "limit")?;
    let limit = TypedExtension::from_any(config.name.as_str(), limit);
    if limit.message_name() != FACTORY.message {
        return Err(Invalid::at("limit", format!("is no {}", FACTORY.message)));
    }
    let context = match context.place.as_str() {
        "" => context,
        _ => &context.at(format!("{SHARED}/{share_key}")),
    };
    build_per_route(&limit, context).at("limit")
}

impl HttpFilter for LocalRateLimit {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let settings = stream.route_config().unwrap_or(&self.0);
        let takes = |share: &Option<Share>| {
            let share = share.as_ref();
            share.is_some_and(|share| share.takes(fastrand::u64(..)))
        };
        if !takes(&settings.enabled) {
            return Flow::Continue;
        }
        settings.stats.enabled.inc();
        let descriptors = settings.descriptors(stream);
        let now = Instant::now();
        let Outcome {
            allowed,
            bucket,
            told,
        } = settings.ask(stream, &descriptors, now);
        if let Some(bucket) = &bucket
            && told.unwrap_or(settings.told)
        {
            stream.keep(Told(Arc::clone(bucket)));
        }
        if allowed {
            settings.stats.ok.inc();
            return Flow::Continue;
        }
        settings.stats.limited.inc();
        if !takes(&settings.enforced) {
            let headers = &stream.request.headers;
            let changes =
                stream.with_facts(|facts| settings.request_headers.evaluate(headers, facts));
            if let Some(changes) = changes {
                changes.apply(&mut stream.request.headers);
            }
            return Flow::Continue;
        }
        settings.stats.enforced.inc();
        Flow::reply(settings.refuse(stream, bucket.as_deref(), now))
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let Some(told) = answer.kept::<Told>() else {
            return;
        };
        let now = Instant::now();
        let Told(bucket) = &*told;
        for (name, value) in [
            ("x-ratelimit-limit", u64::from(bucket.max())),
            ("x-ratelimit-remaining", bucket.remaining(now)),
            ("x-ratelimit-reset", seconds(bucket.next(now))),
        ] {
            let name = HeaderName::from_static(name);
            answer.headers.append(name, HeaderValue::from(value));
        }
    }

    fn wants(&self) -> Wants {
        self.0.wants.clone()
    }
}

/// Whole seconds, and not less than it takes.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Settings {
    fn descriptors(&self, stream: &Stream<'_>) -> Vec<Counts> {
        if !self.counting.limiter.has_descriptors() {
            return Vec::new();
        }
        let state = stream.state();
        let metadata = |namespace: &str| state.metadata(namespace).map(|value| (*value).clone());
        let route = stream.route();
        let counted = Counted {
            request: &RequestHead(stream.request),
            client: stream.client,
            own_cluster: &self.own_cluster,
            cluster: stream.cluster(),
            dynamic_metadata: &metadata,
            route_metadata: route.map_or(&[], |route| &route.metadata),
        };
        let counts = |limit: &Limit| Some((limit.descriptor(&counted)?, limit.headers));
        if !self.own_limits.is_empty() {
            return self.own_limits.iter().filter_map(counts).collect();
        }
        let of_route = route.and_then(|route| route.rate_limits.as_deref());
        let limits = of_route.map(|limits| limits.of(self.stage, self.host_limits));
        limits.into_iter().flatten().filter_map(counts).collect()
    }

    fn ask(&self, stream: &Stream<'_>, descriptors: &[Counts], now: Instant) -> Outcome {
        match &self.counting.per_connection {
            None => self.counting.limiter.ask(descriptors, now),
            Some(each) => {
                let id = stream.downstream().id;
                each.of(id, &self.counting.limiter, now)
                    .ask(descriptors, now)
            }
        }
    }

    fn refuse(&self, stream: &Stream<'_>, bucket: Option<&Bucket>, now: Instant) -> LocalReply {
        let mut reply = LocalReply::new(self.status, "local_rate_limited")
            .saying("local_rate_limited")
            .flagged(ResponseFlag::RateLimited);
        if self.exhausted {
            reply.grpc_status = Some(RESOURCE_EXHAUSTED);
        }
        if self.retry_after
            && let Some(bucket) = bucket
        {
            let after = seconds(bucket.next(now)).max(1);
            reply.headers.insert(RETRY_AFTER, HeaderValue::from(after));
        }
        let none = HeaderMap::new();
        let changes = stream.with_facts(|facts| self.response_headers.evaluate(&none, facts));
        if let Some(changes) = changes {
            changes.apply(&mut reply.headers);
        }
        reply
    }
}

#[cfg(test)]
mod tests;
