//! `causeway.access`: asks who calls before a request goes on.
//!
//! Configuration: `xds/proto/causeway/v1/access.proto`. A route may limit the addresses that may
//! call, and want either a permit (a cookie with a given value) or a signed token for itself.
//! OPTIONS needs neither, because browsers send preflights without credentials; addresses count
//! all the same. The permit never goes on to the upstream.

use std::sync::Arc;

use bytes::Bytes;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::causeway::v1 as proto;
use causeway_xds::reject::{FieldPath, Invalid};
use causeway_xds::resource::address::{contain, networks};
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, COOKIE, Entry, HeaderMap, HeaderValue,
};
use http::{Method, StatusCode};
use ipnet::IpNet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream, StreamState};
use super::cors;
use crate::error::{Failure, ResponseFlag};
use crate::route::RouteConfig;
use crate::util::Secret;

pub const FACTORY: Factory = Factory {
    message: "causeway.v1.Access",
    name: "causeway.access",
    build,
    per_route: &[("causeway.v1.AccessPerRoute", build_per_route)],
};

struct Access {
    cookie_name: String,
    token_key: Option<DecodingKey>,
    token_schemes: Vec<String>,
    any_origin: bool,
    validation: Validation,
}

/// What a route asks.
#[derive(Debug)]
struct RouteAccess {
    networks: Vec<IpNet>,
    caller: Caller,
}

#[derive(Debug)]
enum Caller {
    Anyone,
    Permit(Secret),
    /// The claim `id` that a token must have.
    Token(String),
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::Access {
        cookie_name,
        token_key,
        token_schemes,
        any_origin,
    } = decode(config)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = 0;
    validation.validate_nbf = true;
    // A token without an end is valid until its key changes.
    validation.required_spec_claims.clear();
    Ok(Arc::new(Access {
        cookie_name,
        token_key: (!token_key.is_empty()).then(|| DecodingKey::from_secret(token_key.as_bytes())),
        token_schemes,
        any_origin,
        validation,
    }))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::AccessPerRoute {
        allowed_client_ips,
        caller,
    } = decode(config)?;
    let caller = match caller {
        None => Caller::Anyone,
        Some(proto::access_per_route::Caller::Permit(permit)) => {
            Caller::Permit(Secret::new(not_empty(permit.value, "permit", "value")?))
        }
        Some(proto::access_per_route::Caller::Token(token)) => {
            Caller::Token(not_empty(token.id, "token", "id")?)
        }
    };
    Ok(RouteConfig::new(RouteAccess {
        networks: networks(&allowed_client_ips, "allowed_client_ips")?,
        caller,
    }))
}

/// An empty value would be one that anybody can guess.
fn not_empty(value: String, message: &str, field: &str) -> Result<String, Invalid> {
    if value.is_empty() {
        let at = FieldPath::root().field(message).field(field);
        return Err(Invalid::new(at, "must not be empty"));
    }
    Ok(value)
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl HttpFilter for Access {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let Some(route) = stream.route_config::<RouteAccess>() else {
            return Flow::Continue;
        };
        if !route.networks.is_empty() && !contain(&route.networks, stream.client) {
            return refuse(
                StatusCode::FORBIDDEN,
                "client_ip_not_allowed",
                "E20011: Client address not allowed",
            );
        }
        let preflight = stream.request.method == Method::OPTIONS;
        let headers = &mut stream.request.headers;
        let permit = match &route.caller {
            Caller::Permit(permit) if !preflight => Some(permit),
            _ => None,
        };
        let cookies = Cookies::take(headers, &self.cookie_name, permit);
        let asked = match &route.caller {
            _ if preflight => Ok(()),
            Caller::Anyone => Ok(()),
            Caller::Permit(_) => self.check_permit(&cookies),
            Caller::Token(id) => self.check_token(headers, id),
        };
        match asked {
            Ok(()) => Flow::Continue,
            Err(failure) => Flow::Fail(Box::new(failure)),
        }
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let decided = |state: &StreamState| state.value(cors::DECIDED).is_some();
        if self.any_origin && !answer.state().is_some_and(decided) {
            let origin = answer.headers.entry(ACCESS_CONTROL_ALLOW_ORIGIN);
            origin.or_insert(HeaderValue::from_static("*"));
        }
    }
}

impl Access {
    fn check_permit(&self, cookies: &Cookies) -> Result<(), Failure> {
        if self.cookie_name.is_empty() {
            return Err(misconfigured("a permit is wanted, but no cookie is named"));
        }
        if cookies.permitted {
            return Ok(());
        }
        Err(if cookies.named {
            unauthorized("permit_invalid", "E20005: Invalid authorization cookie")
        } else {
            unauthorized(
                "permit_missing",
                "E20004: Authorization cookie not provided",
            )
        })
    }

    fn check_token(&self, headers: &HeaderMap, id: &str) -> Result<(), Failure> {
        let Some(key) = &self.token_key else {
            return Err(misconfigured("a token is wanted, but there is no key"));
        };
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Err(unauthorized(
                "token_missing",
                "E20006: Authorization header not provided",
            ));
        };
        let text = value.to_str().unwrap_or_default().trim();
        let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
        if !self.token_schemes.iter().any(|known| known == scheme) {
            // Not echoed at length: it may be a credential of another kind.
            let shown: String = scheme.chars().take(16).collect();
            let told = format!("E20007: Unsupported authorization method {shown}");
            return Err(unauthorized("token_scheme", told));
        }
        let invalid = |why: &str| {
            let told = format!("E20008: Invalid authorization token ({why})");
            unauthorized("token_invalid", told)
        };
        let claims = jsonwebtoken::decode::<Claims>(token.trim(), key, &self.validation)
            .map_err(|error| invalid(reason(error.kind())))?
            .claims;
        if claims.iat.is_some_and(|iat| iat > unix_now()) {
            return Err(invalid("The token is not yet valid (iat)"));
        }
        if claims.id.as_deref() != Some(id) {
            return Err(unauthorized(
                "token_mismatch",
                "E20009: Authorization token mismatch",
            ));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Claims {
    id: Option<String>,
    iat: Option<f64>,
}

fn unix_now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

fn reason(kind: &jsonwebtoken::errors::ErrorKind) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match kind {
        ErrorKind::ExpiredSignature => "Signature has expired",
        ErrorKind::ImmatureSignature => "The token is not yet valid (nbf)",
        ErrorKind::InvalidSignature => "Signature verification failed",
        ErrorKind::InvalidAudience => "Invalid audience",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "The specified alg value is not allowed"
        }
        _ => "Not a valid token",
    }
}

fn refuse(status: StatusCode, details: &'static str, told: &'static str) -> Flow {
    let failure = Failure::local(status, ResponseFlag::Unauthorized, details).saying(told);
    Flow::Fail(Box::new(failure))
}

fn unauthorized(details: &'static str, told: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::local(
        StatusCode::UNAUTHORIZED,
        ResponseFlag::Unauthorized,
        details,
    )
    .saying(told)
}

fn misconfigured(cause: &str) -> Failure {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Failure::local(status, ResponseFlag::Unauthorized, "access_misconfigured").because(cause)
}

/// What one look at the cookies of a request tells.
#[derive(Debug, Default)]
struct Cookies {
    /// The cookie in question is among them.
    named: bool,
    /// It has the value that is wanted.
    permitted: bool,
}

impl Cookies {
    /// Takes the cookie out of a request, and leaves the others byte for byte.
    fn take(headers: &mut HeaderMap, name: &str, permit: Option<&Secret>) -> Self {
        let mut found = Self::default();
        // A cookie without a name is nobody's.
        if name.is_empty() {
            return found;
        }
        // One look-up for all that follows.
        let Entry::Occupied(mut fields) = headers.entry(COOKIE) else {
            return found;
        };
        // Bytes of the others, as they are sent on.
        let mut others = 0;
        for field in fields.iter() {
            for pair in pairs(field.as_bytes()) {
                let Some(value) = named(pair, name) else {
                    others += joined(pair.len(), others);
                    continue;
                };
                found.named = true;
                // Several may be sent: a cookie of the domain beside one of the host.
                found.permitted |= permit.is_some_and(|permit| permit.matches(unquoted(value)));
            }
        }
        if !found.named {
            return found;
        }
        if others == 0 {
            fields.remove();
            return found;
        }
        // One allocation, which is just as large as the value that is made of it.
        let mut kept = Vec::with_capacity(others);
        for field in fields.iter() {
            for pair in pairs(field.as_bytes()) {
                if pair.is_empty() || named(pair, name).is_some() {
                    continue;
                }
                if !kept.is_empty() {
                    kept.extend_from_slice(BETWEEN);
                }
                kept.extend_from_slice(pair);
            }
        }
        // Made of parts of values, so it can be one.
        match HeaderValue::from_maybe_shared(Bytes::from(kept)) {
            Ok(kept) => fields.insert(kept),
            Err(_) => fields.remove(),
        };
        found
    }
}

/// Bytes that a pair of this length adds to so many.
fn joined(pair: usize, before: usize) -> usize {
    match (pair, before) {
        (0, _) => 0,
        (pair, 0) => pair,
        (pair, _) => pair + BETWEEN.len(),
    }
}

/// What stands between two pairs (RFC 6265 section 4.2.1).
const BETWEEN: &[u8] = b"; ";

/// The `name=value` pairs of one field. Searched for by words, because cookies are long and every
/// request of an app has them.
fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    let ends = memchr::memchr_iter(b';', field).chain(std::iter::once(field.len()));
    ends.map(move |end| {
        let pair = &field[from..end];
        from = end + 1;
        pair.trim_ascii()
    })
}

/// The value of a pair, if it is of this cookie.
fn named<'c>(pair: &'c [u8], name: &str) -> Option<&'c [u8]> {
    let rest = pair.strip_prefix(name.as_bytes())?;
    rest.trim_ascii_start()
        .strip_prefix(b"=")
        .map(<[u8]>::trim_ascii)
}

fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"");
    inner.and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests;
