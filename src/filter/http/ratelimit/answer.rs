//! What the service says, in forms that a request and a response can use.

use std::time::Duration;

use bytes::Bytes;
use causeway_xds::proto::core;
use causeway_xds::proto::envoy::service::ratelimit::v3::RateLimitResponse;
use causeway_xds::proto::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit, rate_limit::Unit,
};
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::metadata_value;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

pub type Headers = Vec<(HeaderName, HeaderValue)>;

#[derive(Debug, Default)]
pub struct Told {
    pub over_limit: bool,
    pub request_headers: Headers,
    response_headers: Headers,
    /// Those that tell how much is left.
    limits: Headers,
    retry_after: Option<HeaderValue>,
    pub body: Bytes,
    pub metadata: Vec<(String, MetadataValue)>,
}

impl Told {
    /// `None`: the service does not know either.
    pub fn of(answer: RateLimitResponse, limits: bool, retry_after: bool) -> Option<Self> {
        let RateLimitResponse {
            overall_code,
            statuses,
            response_headers_to_add,
            request_headers_to_add,
            raw_body,
            dynamic_metadata,
            quota: _, // it is the service that keeps it
        } = answer;
        let over_limit = match Code::try_from(overall_code) {
            Ok(Code::Ok) => false,
            Ok(Code::OverLimit) => true,
            _ => return None,
        };
        let over = |status: &&DescriptorStatus| status.code == Code::OverLimit as i32;
        let reset = statuses.iter().filter(over).filter_map(until_reset).max();
        Some(Self {
            over_limit,
            request_headers: headers(request_headers_to_add),
            response_headers: headers(response_headers_to_add),
            limits: match limits {
                true => left(&statuses),
                false => Vec::new(),
            },
            retry_after: reset
                .filter(|_| retry_after)
                .map(|reset| HeaderValue::from(reset.as_secs().max(1))),
            body: raw_body.into(),
            metadata: match dynamic_metadata.map(metadata_value) {
                Some(MetadataValue::Object(fields)) => fields,
                _ => Vec::new(),
            },
        })
    }

    /// On the answer, whoever's it is.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.limits {
            headers.insert(name, value.clone());
        }
        add_headers(&self.response_headers, headers);
    }

    pub fn apply_retry_after(&self, headers: &mut HeaderMap) {
        if let Some(value) = &self.retry_after {
            headers.insert(RETRY_AFTER, value.clone());
        }
    }
}

pub fn add_headers(add: &Headers, headers: &mut HeaderMap) {
    for (name, value) in add {
        headers.append(name, value.clone());
    }
}

/// What can be no header is left out.
fn headers(list: Vec<core::HeaderValue>) -> Headers {
    let header = |header: core::HeaderValue| {
        let value = match header.raw_value.is_empty() {
            true => header.value.into_bytes(),
            false => header.raw_value,
        };
        let name = header.key.parse::<HeaderName>().ok()?;
        Some((name, HeaderValue::from_bytes(&value).ok()?))
    };
    list.into_iter().filter_map(header).collect()
}

fn until_reset(status: &DescriptorStatus) -> Option<Duration> {
    let time = status.duration_until_reset.as_ref()?;
    let nanos = u32::try_from(time.nanos).unwrap_or_default();
    let whole = Duration::from_secs(u64::try_from(time.seconds).ok()?);
    // Whole seconds, and not fewer than it takes.
    Some(whole + Duration::from_secs(u64::from(nanos > 0)))
}

/// The headers of draft-polli-ratelimit-headers-03, about the window that ends first.
fn left(statuses: &[DescriptorStatus]) -> Headers {
    let limited = || {
        statuses
            .iter()
            .filter_map(|s| Some((s, s.current_limit.as_ref()?)))
    };
    let Some((status, limit)) = limited().min_by_key(|(status, _)| status.limit_remaining) else {
        return Vec::new();
    };
    let policies = limited().filter_map(|(_, limit)| policy(limit));
    let quota = limit.requests_per_unit.to_string() + &policies.collect::<String>();
    let reset = status.duration_until_reset.as_ref();
    let reset = reset.map_or(0, |time| u64::try_from(time.seconds).unwrap_or_default());
    let mut headers: Headers = Vec::new();
    headers.extend(
        HeaderValue::try_from(quota)
            .ok()
            .map(|quota| (LIMIT, quota)),
    );
    headers.push((REMAINING, status.limit_remaining.into()));
    headers.push((RESET, reset.into()));
    headers
}

fn policy(limit: &RateLimit) -> Option<String> {
    let window = match Unit::try_from(limit.unit).ok()? {
        Unit::Unknown => return None,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3600,
        Unit::Day => 86_400,
        Unit::Week => 604_800,
        Unit::Month => 2_592_000,
        Unit::Year => 31_536_000,
    };
    let requests = limit.requests_per_unit;
    let name = match limit.name.is_empty() || limit.name.contains('"') {
        true => String::new(),
        false => format!(";name=\"{}\"", limit.name),
    };
    Some(format!(", {requests};w={window}{name}"))
}
