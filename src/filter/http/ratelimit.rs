//! `envoy.filters.http.ratelimit`: asks a service how much is left for a request.
//!
//! What a request is counted by follows from the rate limits of its route and virtual host, unless
//! the route's configuration for this filter, or the filter's own, brings some. A request that is
//! counted by nothing asks nobody.

mod answer;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use causeway_xds::proto::envoy::extensions::common::ratelimit::v3 as common;
use causeway_xds::proto::envoy::extensions::filters::http::ratelimit::v3 as proto;
use causeway_xds::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use causeway_xds::proto::envoy::r#type::v3::{HttpStatus, RateLimitUnit};
use causeway_xds::proto::{UInt64Value, route};
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::fraction::{Fraction, RuntimeFraction};
use causeway_xds::resource::parts::{
    At, duration, each, enumeration, header_edits, not_empty, required, runtime_fraction,
};
use causeway_xds::resource::rate_limit::{RateLimit, Unit};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use proto::rate_limit::XRateLimitHeadersRfcVersion;
use proto::rate_limit_per_route::{OverrideOptions, VhRateLimitsOptions};

use self::answer::{Told, add_headers};
use super::super::call::{CallError, unary};
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, LocalReply, Stream, Then};
use super::ext_authz::{GrpcCall, check_version};
use crate::error::ResponseFlag;
use crate::formatter::Wants;
use crate::matching::headers::RequestHead;
use crate::route::RouteConfig;
use crate::route::edits::Level;
use crate::route::fraction::Share;
use crate::route::rate_limits::{Counted, Descriptor, HostLimits, Limit};
use crate::runtime::layers::Layers;
use crate::telemetry::stats::Counter;

const NAME: &str = "envoy.filters.http.ratelimit";
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// `timeout` when it is not given.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);
const RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const INTERNAL: &str = "x-envoy-internal";
/// The status of gRPC.
const RESOURCE_EXHAUSTED: u8 = 8;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    name: NAME,
    build,
    per_route: &[(
        "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
        build_per_route,
    )],
};

#[derive(Debug)]
struct GlobalRateLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    domain: String,
    stage: u32,
    /// Only requests from inside, or only those from outside.
    internal: Option<bool>,
    service: GrpcCall,
    failure_mode_deny: bool,
    deny_share: Option<Share>,
    enabled: Share,
    enforced: Share,
    exhausted: bool,
    headers: bool,
    retry_after: bool,
    ratelimited_header: bool,
    status: StatusCode,
    status_on_error: StatusCode,
    response_headers: Level,
    wants: Wants,
    limits: Vec<Limit>,
    metadata_namespace: String,
    local_cluster: Arc<str>,
    stats: Stats,
}

#[derive(Debug)]
struct Stats {
    ok: Arc<Counter>,
    over_limit: Arc<Counter>,
    error: Arc<Counter>,
    failure_mode_allowed: Arc<Counter>,
}

#[derive(Debug)]
struct PerRoute {
    host: HostLimits,
    limits: Vec<Limit>,
    /// May be empty.
    domain: String,
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::RateLimit {
        domain,
        stage,
        request_type,
        timeout,
        failure_mode_deny,
        rate_limited_as_resource_exhausted,
        rate_limit_service,
        enable_x_ratelimit_headers,
        disable_x_envoy_ratelimited_header,
        rate_limited_status,
        response_headers_to_add,
        status_on_error,
        stat_prefix,
        filter_enabled,
        filter_enforced,
        failure_mode_deny_percent,
        rate_limits,
        metadata_namespace,
        enable_retry_after_header,
    } = decode(config)?;
    if stage > 10 {
        return Err(Invalid::at(
            "stage",
            format!("{stage} is not within 0 and 10"),
        ));
    }
    let layers = &context.layers;
    let edits = header_edits(response_headers_to_add, "response_headers_to_add")?;
    let response_headers = Level::compile(&edits, &[]);
    let mut wants = Wants::default();
    response_headers.note(&mut wants);
    let prefix = match stat_prefix.is_empty() {
        true => "ratelimit.".to_owned(),
        false => format!("ratelimit.{stat_prefix}."),
    };
    let counter = |name: &str| context.counter(&format!("{prefix}{name}"));
    let share = |given: Option<_>, key: &str, field: &str| {
        let given = given.map(runtime_fraction).transpose().at(field)?;
        Ok(Share::compile(
            &given.unwrap_or_else(|| always(key)),
            layers,
        ))
    };
    let mut service = self::service(required(rate_limit_service, "rate_limit_service")?)
        .at("rate_limit_service")?;
    service.timeout = duration(timeout, "timeout")?.unwrap_or(DEFAULT_TIMEOUT);
    Ok(Arc::new(GlobalRateLimit(Arc::new(Inner {
        domain: not_empty(domain, "domain")?,
        stage,
        internal: match request_type.as_str() {
            "" | "both" => None,
            "internal" => Some(true),
            "external" => Some(false),
            other => {
                let reason = format!("{other:?} is not \"internal\", \"external\" or \"both\"");
                return Err(Invalid::at("request_type", reason));
            }
        },
        service,
        failure_mode_deny,
        deny_share: failure_mode_deny_percent
            .map(runtime_fraction)
            .transpose()
            .at("failure_mode_deny_percent")?
            .map(|share| Share::compile(&share, layers)),
        enabled: share(
            filter_enabled,
            "ratelimit.http_filter_enabled",
            "filter_enabled",
        )?,
        enforced: share(
            filter_enforced,
            "ratelimit.http_filter_enforcing",
            "filter_enforced",
        )?,
        exhausted: rate_limited_as_resource_exhausted,
        headers: match enumeration(enable_x_ratelimit_headers, "enable_x_ratelimit_headers")? {
            XRateLimitHeadersRfcVersion::Off => false,
            XRateLimitHeadersRfcVersion::DraftVersion03 => true,
        },
        retry_after: enable_retry_after_header,
        ratelimited_header: !disable_x_envoy_ratelimited_header,
        status: status_or(rate_limited_status, StatusCode::TOO_MANY_REQUESTS),
        status_on_error: status_or(status_on_error, StatusCode::INTERNAL_SERVER_ERROR),
        response_headers,
        wants,
        limits: limits(rate_limits, layers)?,
        metadata_namespace: match metadata_namespace.is_empty() {
            true => NAME.to_owned(),
            false => metadata_namespace,
        },
        local_cluster: Arc::clone(&context.local_cluster),
        stats: Stats {
            ok: counter("ok"),
            over_limit: counter("over_limit"),
            error: counter("error"),
            failure_mode_allowed: counter("failure_mode_allowed"),
        },
    }))))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let proto::RateLimitPerRoute {
        vh_rate_limits,
        override_option,
        rate_limits,
        domain,
    } = decode(config)?;
    if enumeration::<OverrideOptions>(override_option, "override_option")?
        != OverrideOptions::Default
    {
        return Err(Invalid::at("override_option", "not supported yet"));
    }
    Ok(RouteConfig::new(PerRoute {
        host: match enumeration(vh_rate_limits, "vh_rate_limits")? {
            VhRateLimitsOptions::Override => HostLimits::Override,
            VhRateLimitsOptions::Include => HostLimits::Include,
            VhRateLimitsOptions::Ignore => HostLimits::Ignore,
        },
        limits: limits(rate_limits, &context.layers)?,
        domain,
    }))
}

fn service(message: RateLimitServiceConfig) -> Result<GrpcCall, Invalid> {
    let RateLimitServiceConfig {
        grpc_service,
        transport_api_version,
    } = message;
    check_version(transport_api_version)?;
    GrpcCall::decode(required(grpc_service, "grpc_service")?).at("grpc_service")
}

fn limits(messages: Vec<route::RateLimit>, layers: &Layers) -> Result<Vec<Limit>, Invalid> {
    let read = |message: route::RateLimit| {
        // There is one stage, which is that of the filter.
        let (stage, disable_key) = (message.stage, &message.disable_key[..]);
        refuse!(stage, disable_key);
        RateLimit::read(message)
    };
    let models = each("rate_limits", messages, read)?;
    Ok(Limit::compile_all(&models, layers))
}

/// All requests, unless the runtime says otherwise.
fn always(key: &str) -> RuntimeFraction {
    RuntimeFraction {
        default: Fraction {
            numerator: 100,
            denominator: 100,
        },
        runtime_key: key.to_owned(),
    }
}

/// What is no status of an error is not taken, as in Envoy.
fn status_or(given: Option<HttpStatus>, otherwise: StatusCode) -> StatusCode {
    let code = given.and_then(|status| u16::try_from(status.code).ok());
    code.filter(|code| *code >= 400)
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(otherwise)
}

impl HttpFilter for GlobalRateLimit {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let inner = &self.0;
        if !inner.enabled.takes(fastrand::u64(..)) || !inner.is_for(stream) {
            return Flow::Continue;
        }
        let descriptors = inner.descriptors(stream);
        if descriptors.is_empty() {
            return Flow::Continue;
        }
        let said = stream.route_config::<PerRoute>();
        let domain = said
            .map(|said| &said.domain)
            .filter(|domain| !domain.is_empty());
        let message = RateLimitRequest {
            domain: domain.unwrap_or(&inner.domain).clone(),
            descriptors: descriptors.into_iter().map(written).collect(),
            hits_addend: 0,
        };
        let (inner, calls) = (Arc::clone(inner), stream.calls());
        Flow::wait(async move {
            let GrpcCall {
                cluster,
                timeout,
                metadata,
            } = &inner.service;
            let answer: Result<RateLimitResponse, CallError> = unary(
                &*calls,
                cluster,
                SHOULD_RATE_LIMIT,
                metadata,
                &message,
                *timeout,
            )
            .await;
            Box::new(move |stream: &mut Stream<'_>| inner.decide(stream, answer)) as Then
        })
    }

    /// What the service has for the client; a refusal has brought it along itself.
    fn response(&self, answer: &mut Answer<'_>) {
        if let Some(told) = answer.kept::<Told>() {
            told.apply(answer.headers);
        }
    }

    fn wants(&self) -> Wants {
        self.0.wants.clone()
    }
}

impl Inner {
    fn is_for(&self, stream: &Stream<'_>) -> bool {
        let value = stream.request.headers.get(INTERNAL);
        let internal = value.is_some_and(|value| value == "true");
        self.internal.is_none_or(|wanted| wanted == internal)
    }

    fn descriptors(&self, stream: &Stream<'_>) -> Vec<Descriptor> {
        let said = stream.route_config::<PerRoute>();
        let route = stream.route();
        let state = stream.state();
        let metadata = |namespace: &str| state.metadata(namespace).map(|value| (*value).clone());
        let view = RequestHead(stream.request);
        let counted = Counted {
            request: &view,
            client: stream.client,
            own_cluster: &self.local_cluster,
            cluster: stream.cluster(),
            dynamic_metadata: &metadata,
            route_metadata: route.map_or(&[], |route| &route.metadata),
        };
        let of = |limit: &Limit| limit.descriptor(&counted);
        let own = said
            .map(|said| &said.limits)
            .filter(|limits| !limits.is_empty());
        let own = own.or(Some(&self.limits).filter(|limits| !limits.is_empty()));
        if let Some(own) = own {
            return own.iter().filter_map(of).collect();
        }
        let limits = route.and_then(|route| route.rate_limits.as_deref());
        let host = said.map_or(HostLimits::default(), |said| said.host);
        let limits = limits.map(|limits| limits.of(self.stage, host));
        limits.into_iter().flatten().filter_map(of).collect()
    }

    fn decide(
        &self,
        stream: &mut Stream<'_>,
        answer: Result<RateLimitResponse, CallError>,
    ) -> Flow {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "no answer about rates");
                return self.failed();
            }
        };
        let Some(told) = Told::of(answer, self.headers, self.retry_after) else {
            return self.failed();
        };
        for (key, value) in &told.metadata {
            let namespace = &self.metadata_namespace;
            stream.state().set_metadata(namespace, key, value.clone());
        }
        if told.over_limit {
            self.stats.over_limit.inc();
            if self.enforced.takes(fastrand::u64(..)) {
                return self.refuse(stream, &told);
            }
        } else {
            self.stats.ok.inc();
        }
        add_headers(&told.request_headers, &mut stream.request.headers);
        stream.keep(told);
        Flow::Continue
    }

    fn refuse(&self, stream: &Stream<'_>, told: &Told) -> Flow {
        let mut reply = LocalReply::new(self.status, "request_rate_limited")
            .flagged(ResponseFlag::RateLimited)
            .saying(told.body.clone());
        if self.exhausted {
            reply.grpc_status = Some(RESOURCE_EXHAUSTED);
        }
        if self.ratelimited_header {
            let value = HeaderValue::from_static("true");
            reply.headers.insert(RATELIMITED, value);
        }
        told.apply(&mut reply.headers);
        told.apply_retry_after(&mut reply.headers);
        let none = HeaderMap::new();
        let changes = stream.with_facts(|facts| self.response_headers.evaluate(&none, facts));
        if let Some(changes) = changes {
            changes.apply(&mut reply.headers);
        }
        Flow::reply(reply)
    }

    fn failed(&self) -> Flow {
        self.stats.error.inc();
        let share = self.deny_share.as_ref();
        let deny = share.map_or(self.failure_mode_deny, |s| s.takes(fastrand::u64(..)));
        if !deny {
            self.stats.failure_mode_allowed.inc();
            return Flow::Continue;
        }
        let reply = LocalReply::new(self.status_on_error, "rate_limiter_error");
        Flow::reply(reply.flagged(ResponseFlag::RateLimitServiceError))
    }
}

fn written(descriptor: Descriptor) -> common::RateLimitDescriptor {
    use common::rate_limit_descriptor::{Entry, RateLimitOverride};
    let Descriptor {
        entries,
        limit,
        hits,
    } = descriptor;
    let entries = entries.into_iter();
    common::RateLimitDescriptor {
        entries: entries.map(|(key, value)| Entry { key, value }).collect(),
        limit: limit.map(|(requests_per_unit, unit)| RateLimitOverride {
            requests_per_unit,
            unit: unit_number(unit),
        }),
        hits_addend: hits.map(|value| UInt64Value { value }),
        is_negative_hits: false,
    }
}

fn unit_number(unit: Unit) -> i32 {
    let unit = match unit {
        Unit::Second => RateLimitUnit::Second,
        Unit::Minute => RateLimitUnit::Minute,
        Unit::Hour => RateLimitUnit::Hour,
        Unit::Day => RateLimitUnit::Day,
        Unit::Month => RateLimitUnit::Month,
        Unit::Year => RateLimitUnit::Year,
    };
    unit as i32
}
