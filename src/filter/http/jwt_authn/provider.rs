//! One provider: whose tokens are taken, and what becomes of their claims.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_xds::proto::core;
use causeway_xds::proto::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{
    At, HttpUri, data, duration, each, fault, header_name, not_empty, number, required,
    string_matcher,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use proto::jwt_provider::{JwksSourceSpecifier, NormalizePayload};
use serde_json::{Map, Value};

use super::extract::Place;
use super::keys::{Keys, MAX_SET};
use super::status::Status;
use super::token::Token;
use crate::matching::text::Test;

/// `clock_skew_seconds` when it is not given.
const DEFAULT_SKEW: u64 = 60;
/// `cache_duration` when it is not given.
const DEFAULT_CACHE: Duration = Duration::from_secs(600);
/// `failed_refetch_duration` when it is not given.
const DEFAULT_REFETCH: Duration = Duration::from_secs(1);

/// `envoy.extensions.filters.http.jwt_authn.v3.JwtProvider`.
#[derive(Debug)]
pub struct Provider {
    /// Empty is any.
    pub issuer: String,
    audiences: Vec<String>,
    subjects: Option<Test>,
    require_expiration: bool,
    /// Seconds.
    max_lifetime: Option<u64>,
    skew: u64,
    pub places: Vec<Place>,
    /// The token goes on.
    pub forward: bool,
    payload_header: Option<HeaderName>,
    pad: bool,
    claims: Vec<ClaimToHeader>,
    pub payload_in_metadata: Option<String>,
    pub header_in_metadata: Option<String>,
    pub failed_in_metadata: Option<String>,
    /// Claims whose text becomes a list of words.
    space_delimited: Vec<String>,
    clear_route_cache: bool,
    pub source: Source,
}

#[derive(Debug)]
struct ClaimToHeader {
    header: HeaderName,
    path: Vec<String>,
}

/// Where the keys are.
#[derive(Debug)]
pub enum Source {
    Local(Keys),
    Remote(RemoteJwks),
}

/// `envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteJwks {
    pub uri: HttpUri,
    /// How long keys are good.
    pub cache: Duration,
    /// Keys are renewed beside the requests, which go on with the old ones; the time is that until
    /// a fetch that failed is tried again.
    pub refetch: Option<Duration>,
    pub retries: u32,
    /// The first, and the longest, time between attempts.
    pub back_off: (Duration, Duration),
}

impl Provider {
    pub fn decode(message: proto::JwtProvider) -> Result<Self, Invalid> {
        let proto::JwtProvider {
            issuer,
            audiences,
            subjects,
            require_expiration,
            max_lifetime,
            forward,
            from_headers,
            from_params,
            from_cookies,
            forward_payload_header,
            pad_forward_payload_header,
            payload_in_metadata,
            normalize_payload_in_metadata,
            header_in_metadata,
            failed_status_in_metadata,
            clock_skew_seconds,
            jwt_cache_config: _, // each token is verified: there is nothing to be seen of a cache
            claim_to_headers,
            clear_route_cache,
            jwks_source_specifier,
        } = message;
        let some = |text: String| (!text.is_empty()).then_some(text);
        let source = match required(jwks_source_specifier, "jwks_source_specifier")? {
            JwksSourceSpecifier::LocalJwks(source) => {
                let keys = data(source, MAX_SET).and_then(|b| Keys::parse(&b).map_err(fault));
                Source::Local(keys.at("local_jwks")?)
            }
            JwksSourceSpecifier::RemoteJwks(remote) => {
                Source::Remote(RemoteJwks::decode(remote).at("remote_jwks")?)
            }
        };
        let subjects = subjects.map(string_matcher).transpose().at("subjects")?;
        let NormalizePayload {
            space_delimited_claims,
        } = normalize_payload_in_metadata.unwrap_or_default();
        Ok(Self {
            issuer,
            audiences,
            subjects: subjects.as_ref().map(Test::string),
            require_expiration,
            max_lifetime: duration(max_lifetime, "max_lifetime")?.map(|max| max.as_secs()),
            skew: match clock_skew_seconds {
                0 => DEFAULT_SKEW,
                seconds => seconds.into(),
            },
            places: Place::of(from_headers, from_params, from_cookies)?,
            forward,
            payload_header: some(forward_payload_header)
                .map(|name| name_of(&name))
                .transpose()
                .at("forward_payload_header")?,
            pad: pad_forward_payload_header,
            claims: each("claim_to_headers", claim_to_headers, ClaimToHeader::decode)?,
            payload_in_metadata: some(payload_in_metadata),
            header_in_metadata: some(header_in_metadata),
            failed_in_metadata: some(failed_status_in_metadata),
            space_delimited: space_delimited_claims,
            clear_route_cache,
            source,
        })
    }

    /// The headers that nobody but this filter may set.
    pub fn reserved(&self) -> impl Iterator<Item = &HeaderName> {
        let claims = self.claims.iter().map(|claim| &claim.header);
        self.payload_header.iter().chain(claims)
    }

    /// All but the signature. `audiences` take the place of those of the provider.
    pub fn check(
        &self,
        token: &Token,
        audiences: Option<&[String]>,
        now: u64,
    ) -> Result<(), Status> {
        token.check_time(now, self.skew)?;
        let allowed = audiences.unwrap_or(&self.audiences);
        if !allowed.is_empty() && !allowed.iter().any(|a| names(&token.audiences, a)) {
            return Err(Status::AudienceNotAllowed);
        }
        let subject = token.subject.as_bytes();
        if self
            .subjects
            .as_ref()
            .is_some_and(|test| !test.matches(subject))
            || !token.check_lifetime(now, self.require_expiration, self.max_lifetime)
        {
            return Err(Status::VerificationFails);
        }
        Ok(())
    }

    /// Tells the upstream what a good token says.
    pub fn tell(&self, token: &Token, headers: &mut HeaderMap) {
        if let Some(name) = &self.payload_header {
            let mut text = token.payload64().to_owned();
            while self.pad && !text.len().is_multiple_of(4) {
                text.push('=');
            }
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.append(name, value);
            }
        }
        for claim in &self.claims {
            let text = claim.find(&token.payload).map(claim_text);
            // What cannot be the value of a header is not sent, and nothing else in its place.
            let value = text.filter(|text| !text.is_empty());
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                headers.append(&claim.header, value);
            }
        }
    }

    /// Whether a good token may change the choice of the route.
    pub fn reroutes(&self) -> bool {
        self.clear_route_cache && (!self.claims.is_empty() || self.payload_in_metadata.is_some())
    }

    /// The payload as metadata has it.
    pub fn normalized(&self, payload: &Map<String, Value>) -> Map<String, Value> {
        let mut payload = payload.clone();
        for claim in &self.space_delimited {
            if let Some(Value::String(text)) = payload.get(claim) {
                let words = text.split(' ').filter(|word| !word.is_empty());
                let words = words.map(|word| Value::String(word.to_owned())).collect();
                payload.insert(claim.clone(), Value::Array(words));
            }
        }
        payload
    }
}

/// An audience may be written with a scheme and a slash at its end, or without.
fn names(audiences: &[String], allowed: &str) -> bool {
    fn sanitized(audience: &str) -> &str {
        let bare = audience
            .strip_prefix("https://")
            .or_else(|| audience.strip_prefix("http://"))
            .unwrap_or(audience);
        bare.strip_suffix('/').unwrap_or(bare)
    }
    let allowed = sanitized(allowed);
    audiences
        .iter()
        .any(|audience| sanitized(audience) == allowed)
}

fn name_of(name: &str) -> Result<HeaderName, Invalid> {
    let name = header_name(name)?;
    match name.as_str() {
        "host" => Err(fault("may not be changed as a header")),
        _ => name.parse().map_err(|_| fault("is no header name")),
    }
}

impl ClaimToHeader {
    fn decode(message: proto::JwtClaimToHeader) -> Result<Self, Invalid> {
        let proto::JwtClaimToHeader {
            header_name,
            claim_name,
            claim_path,
        } = message;
        let path = each("claim_path", claim_path, |segment| {
            let proto::jwt_claim_to_header::PathSegment { key } = segment;
            not_empty(key, "key")
        })?;
        let path = match (claim_name.is_empty(), path.is_empty()) {
            (false, true) => claim_name.split('.').map(str::to_owned).collect(),
            (true, false) => path,
            _ => {
                let reason = "exactly one of it and claim_path must be given";
                return Err(Invalid::at("claim_name", reason));
            }
        };
        Ok(Self {
            header: name_of(&header_name).at("header_name")?,
            path,
        })
    }

    fn find<'p>(&self, payload: &'p Map<String, Value>) -> Option<&'p Value> {
        let (first, rest) = self.path.split_first()?;
        let step = |value: &'p Value, key: &String| value.as_object()?.get(key);
        rest.iter().try_fold(payload.get(first)?, step)
    }
}

/// Lists and objects as JSON in base64, the rest as it is.
fn claim_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(number)) if number.fract() == 0.0 && number.abs() < 9e15 => {
                format!("{number:.0}")
            }
            (None, number) => format!("{:.6}", number.unwrap_or(0.0)),
        },
        Value::Array(_) | Value::Object(_) => STANDARD.encode(value.to_string()),
    }
}

impl RemoteJwks {
    fn decode(message: proto::RemoteJwks) -> Result<Self, Invalid> {
        let proto::RemoteJwks {
            http_uri,
            cache_duration,
            async_fetch,
            retry_policy,
        } = message;
        let uri =
            required(http_uri, "http_uri").and_then(|uri| HttpUri::decode(uri).at("http_uri"));
        let refetch = async_fetch.map(|fetch| {
            let proto::JwksAsyncFetch {
                fast_listener: _, // a listener never waits for keys
                failed_refetch_duration,
            } = fetch;
            let again = duration(failed_refetch_duration, "failed_refetch_duration")?;
            Ok(again.unwrap_or(DEFAULT_REFETCH))
        });
        let cache = duration(cache_duration, "cache_duration")?;
        if cache.is_some_and(|cache| cache < Duration::from_millis(1)) {
            return Err(Invalid::at("cache_duration", "must be at least 1 ms"));
        }
        let (retries, back_off) = retry_policy
            .map(retry)
            .transpose()
            .at("retry_policy")?
            .unwrap_or_default();
        Ok(Self {
            uri: uri?,
            cache: cache.unwrap_or(DEFAULT_CACHE),
            refetch: refetch.transpose().at("async_fetch")?,
            retries,
            back_off,
        })
    }
}

/// How often a fetch is tried again, and the times between.
fn retry(message: core::RetryPolicy) -> Result<(u32, (Duration, Duration)), Invalid> {
    /// More would let one request wait for long.
    const MAX: u32 = 10;
    let core::RetryPolicy {
        retry_back_off,
        num_retries,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = message;
    // What is retried is any failure.
    refuse!(
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts
    );
    let back_off = match retry_back_off {
        None => (Duration::from_secs(1), Duration::from_secs(10)),
        Some(core::BackoffStrategy {
            base_interval,
            max_interval,
        }) => {
            let base = required(duration(base_interval, "base_interval")?, "base_interval")
                .at("retry_back_off")?;
            if base < Duration::from_millis(1) {
                return Err(fault("must be at least 1 ms"))
                    .at("base_interval")
                    .at("retry_back_off");
            }
            let max = duration(max_interval, "max_interval").at("retry_back_off")?;
            let max = max.unwrap_or(base * 10);
            if max < base {
                return Err(fault("is less than base_interval"))
                    .at("max_interval")
                    .at("retry_back_off");
            }
            (base, max)
        }
    };
    Ok((
        number(num_retries, "num_retries", 0..=MAX)?.unwrap_or(1),
        back_off,
    ))
}
