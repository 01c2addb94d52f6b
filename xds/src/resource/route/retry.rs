//! When and how often a request is sent again: message to typed.

use std::time::Duration;

use crate::proto;
use crate::proto::Message as _;
use crate::proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use crate::proto::route::{
    RetryPolicy, retry_policy, retry_policy::RetryHostPredicate, retry_policy::retry_host_predicate,
};
use crate::reject::{FieldPath, Invalid};
use crate::resource::context::{At, Context, duration, each, enumeration, refuse, required};
use crate::resource::headers::header_name;
use crate::resource::matcher::HeaderMatcher;
use crate::type_url::message_name;

const PREVIOUS_HOSTS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
/// Of a policy that does not say (`RetryPolicy.num_retries`).
const DEFAULT_RETRIES: u32 = 1;

/// `envoy.config.route.v3.RetryPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    pub on: RetryOn,
    /// `num_retries`; default 1.
    pub retries: u32,
    /// How often another endpoint is looked for than those that were tried
    /// (`host_selection_retry_max_attempts`, with the predicate that wants others).
    pub other_hosts: u32,
    /// From the moment that a connection is there; zero is none.
    pub per_try_timeout: Duration,
    /// Zero is none.
    pub per_try_idle_timeout: Duration,
    /// For [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<u32>,
    /// Of responses, one of which must match; for [`RetryOn::RETRIABLE_HEADERS`].
    pub headers: Vec<HeaderMatcher>,
    /// Of requests, one of which must match if there are any.
    pub request_headers: Vec<HeaderMatcher>,
    pub back_off: BackOff,
    pub rate_limited: Option<RateLimited>,
}

/// `RetryPolicy.RetryBackOff`: before retry `n` a random part of `base * 2^n`, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Default 25 ms, at least 1 ms.
    pub base: Duration,
    /// Default ten times the base.
    pub max: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        const BASE: Duration = Duration::from_millis(25);
        Self {
            base: BASE,
            max: BASE * 10,
        }
    }
}

/// `RetryPolicy.RateLimitedRetryBackOff`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimited {
    /// The first that is there and makes sense counts.
    pub headers: Vec<ResetHeader>,
    /// What is longer than this is not followed. Default 300 s.
    pub max: Duration,
}

/// `RetryPolicy.ResetHeader`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetHeader {
    /// Lower case.
    pub name: String,
    /// Seconds since 1970, and not from now.
    pub absolute: bool,
}

/// What is worth another attempt (`retry_on`, `x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

impl std::fmt::Display for RetryOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = Self::NAMES.iter().filter(|(_, on)| self.has(*on));
        let names: Vec<_> = names.map(|(name, _)| *name).collect();
        f.write_str(&names.join(","))
    }
}

impl RetryOn {
    pub const SERVER_ERROR: Self = Self(1);
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    pub const CONNECT_FAILURE: Self = Self(1 << 2);
    pub const ENVOY_RATE_LIMITED: Self = Self(1 << 3);
    pub const RETRIABLE_4XX: Self = Self(1 << 4);
    pub const REFUSED_STREAM: Self = Self(1 << 5);
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 6);
    pub const RETRIABLE_HEADERS: Self = Self(1 << 7);
    pub const RESET: Self = Self(1 << 8);
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 9);
    /// Nothing is ever sent over HTTP/3.
    pub const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 10);
    pub const GRPC_CANCELLED: Self = Self(1 << 11);
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 12);
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 13);
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 14);
    pub const GRPC_INTERNAL: Self = Self(1 << 15);

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it has any of `other`.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// One condition by its name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::NAMES.iter();
        all.find(|(known, _)| *known == name).map(|(_, on)| *on)
    }

    const NAMES: [(&'static str, Self); 16] = [
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("envoy-ratelimited", Self::ENVOY_RATE_LIMITED),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-status-codes", Self::RETRIABLE_STATUS_CODES),
        ("retriable-headers", Self::RETRIABLE_HEADERS),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        (
            "http3-post-connect-failure",
            Self::HTTP3_POST_CONNECT_FAILURE,
        ),
        ("cancelled", Self::GRPC_CANCELLED),
        ("deadline-exceeded", Self::GRPC_DEADLINE_EXCEEDED),
        ("resource-exhausted", Self::GRPC_RESOURCE_EXHAUSTED),
        ("unavailable", Self::GRPC_UNAVAILABLE),
        ("internal", Self::GRPC_INTERNAL),
    ];

    /// A list of conditions, as a request writes it: those that are not known are passed over.
    pub fn lenient(list: &str) -> Self {
        let known = words(list).filter_map(Self::named);
        known.fold(Self::default(), Self::or)
    }
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|c| !c.is_empty())
}

impl Retry {
    /// What requests that ask for retries by themselves get (`x-envoy-retry-on`).
    pub fn by_request() -> Self {
        Self {
            on: RetryOn::default(),
            retries: DEFAULT_RETRIES,
            other_hosts: 0,
            per_try_timeout: Duration::ZERO,
            per_try_idle_timeout: Duration::ZERO,
            status_codes: Vec::new(),
            headers: Vec::new(),
            request_headers: Vec::new(),
            back_off: BackOff::default(),
            rate_limited: None,
        }
    }

    pub(super) fn decode(message: RetryPolicy, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_host_predicate,
            retry_options_predicates,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            refresh_cluster_on_retry,
        } = message;
        refuse!(
            retry_priority,
            retry_options_predicates,
            refresh_cluster_on_retry,
        );
        let mut on = RetryOn::default();
        for condition in words(&retry_on) {
            on = on.or(RetryOn::named(condition).ok_or_else(|| {
                Invalid::at("retry_on", format!("{condition:?} is not supported"))
            })?);
        }
        let predicates = each("retry_host_predicate", retry_host_predicate, previous_hosts)?;
        let attempts = u32::try_from(host_selection_retry_max_attempts).map_err(|_| {
            Invalid::at("host_selection_retry_max_attempts", "must not be negative")
        })?;
        let matchers =
            |field, messages| each(field, messages, |header| HeaderMatcher::decode(header, ctx));
        Ok(Self {
            on,
            retries: num_retries.map_or(DEFAULT_RETRIES, |n| n.value),
            // Envoy: one look when the field is zero.
            other_hosts: match predicates.is_empty() {
                true => 0,
                false => attempts.max(1),
            },
            per_try_timeout: duration(per_try_timeout, "per_try_timeout")?.unwrap_or_default(),
            per_try_idle_timeout: duration(per_try_idle_timeout, "per_try_idle_timeout")?
                .unwrap_or_default(),
            status_codes: retriable_status_codes,
            headers: matchers("retriable_headers", retriable_headers)?,
            request_headers: matchers("retriable_request_headers", retriable_request_headers)?,
            back_off: retry_back_off
                .map_or(Ok(BackOff::default()), BackOff::decode)
                .at("retry_back_off")?,
            rate_limited: rate_limited_retry_back_off
                .map(RateLimited::decode)
                .transpose()
                .at("rate_limited_retry_back_off")?,
        })
    }
}

fn above_zero(value: Option<proto::Duration>, field: &str) -> Result<Option<Duration>, Invalid> {
    match duration(value, field)? {
        Some(zero) if zero.is_zero() => Err(Invalid::at(field, "must be greater than zero")),
        other => Ok(other),
    }
}

impl BackOff {
    fn decode(message: retry_policy::RetryBackOff) -> Result<Self, Invalid> {
        let retry_policy::RetryBackOff {
            base_interval,
            max_interval,
        } = message;
        let base = required(above_zero(base_interval, "base_interval")?, "base_interval")?;
        // Envoy raises what is below its clock's resolution.
        let base = base.max(Duration::from_millis(1));
        let max = above_zero(max_interval, "max_interval")?.unwrap_or(base * 10);
        if max < base {
            return Err(Invalid::at("max_interval", "is below base_interval"));
        }
        Ok(Self { base, max })
    }
}

impl RateLimited {
    fn decode(message: retry_policy::RateLimitedRetryBackOff) -> Result<Self, Invalid> {
        const DEFAULT_MAX: Duration = Duration::from_secs(300);
        let retry_policy::RateLimitedRetryBackOff {
            reset_headers,
            max_interval,
        } = message;
        if reset_headers.is_empty() {
            return Err(Invalid::at("reset_headers", "must not be empty"));
        }
        Ok(Self {
            headers: each("reset_headers", reset_headers, ResetHeader::decode)?,
            max: above_zero(max_interval, "max_interval")?.unwrap_or(DEFAULT_MAX),
        })
    }
}

impl ResetHeader {
    fn decode(message: retry_policy::ResetHeader) -> Result<Self, Invalid> {
        let retry_policy::ResetHeader { name, format } = message;
        let absolute = match enumeration(format, "format")? {
            retry_policy::ResetHeaderFormat::Seconds => false,
            retry_policy::ResetHeaderFormat::UnixTimestamp => true,
        };
        Ok(Self {
            name: header_name(&name).at("name")?,
            absolute,
        })
    }
}

fn previous_hosts(message: RetryHostPredicate) -> Result<(), Invalid> {
    let RetryHostPredicate {
        name: _,
        config_type,
    } = message;
    let Some(retry_host_predicate::ConfigType::TypedConfig(any)) = config_type else {
        return Err(Invalid::at("typed_config", "is required"));
    };
    if message_name(&any.type_url) != PREVIOUS_HOSTS {
        let reason = format!("{:?} is not supported yet", any.type_url);
        return Err(Invalid::at("typed_config", reason));
    }
    PreviousHostsPredicate::decode(any.value.as_slice())
        .map(drop)
        .map_err(|e| Invalid::new(FieldPath::root(), e.to_string()))
        .at("typed_config")
}
