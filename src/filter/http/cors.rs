//! `envoy.filters.http.cors`: answers preflights, and tells browsers who may read an answer.
//!
//! Configuration: `envoy.extensions.filters.http.cors.v3`. The policy is that of the routes: what a
//! more specific level does not say, a more general one may.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::cors::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, each};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName,
    HeaderValue, ORIGIN,
};
use http::{Method, StatusCode};

use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::matching::text::Test;
use crate::route::RouteConfig;
use crate::route::fraction::Share;
use crate::telemetry::stats::Counter;

const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");
const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// Filter state of a request whose route has a policy: nobody else is to let pages read the answer.
pub const DECIDED: &str = "causeway.cors";

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.cors.v3.Cors",
    name: "envoy.filters.http.cors",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        build_per_route,
    )],
};

#[derive(Debug)]
struct Cors {
    origin_valid: Arc<Counter>,
    origin_invalid: Arc<Counter>,
}

/// What one level says; what it does not say is empty.
struct Policy {
    origins: Vec<Test>,
    /// One of the origins is any.
    any_origin: bool,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: Option<bool>,
    private_network: Option<bool>,
    /// Default: true.
    forward_preflights: Option<bool>,
    /// `None` is always.
    enabled: Option<Share>,
    shadow: Option<Share>,
}

/// An origin that may read the answer.
struct Allowed(HeaderValue);

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::Cors {} = decode(config)?;
    Ok(Arc::new(Cors {
        origin_valid: context.counter("cors.origin_valid"),
        origin_invalid: context.counter("cors.origin_invalid"),
    }))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let proto::CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled,
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
    } = decode(config)?;
    let origins = each(
        "allow_origin_string_match",
        allow_origin_string_match,
        parts::string_matcher,
    )?;
    let origins: Vec<_> = origins.iter().map(Test::string).collect();
    let share = |share: Option<_>, field| {
        let share = share.map(parts::runtime_fraction).transpose().at(field)?;
        Ok::<_, Invalid>(share.map(|share| Share::compile(&share, &context.layers)))
    };
    Ok(RouteConfig::new(Policy {
        // As Envoy asks: an origin of `*`, or a pattern that such a word matches.
        any_origin: origins.iter().any(|origin| origin.matches(b"*")),
        origins,
        methods: value(&allow_methods, "allow_methods")?,
        headers: value(&allow_headers, "allow_headers")?,
        expose: value(&expose_headers, "expose_headers")?,
        max_age: value(&max_age, "max_age")?,
        credentials: allow_credentials.map(|flag| flag.value),
        private_network: allow_private_network_access.map(|flag| flag.value),
        forward_preflights: forward_not_matching_preflights.map(|flag| flag.value),
        enabled: share(filter_enabled, "filter_enabled")?,
        shadow: share(shadow_enabled, "shadow_enabled")?,
    }))
}

fn value(text: &str, field: &str) -> Result<Option<HeaderValue>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    parts::header_value(text.to_owned()).at(field)?;
    let value = HeaderValue::from_str(text);
    value
        .map(Some)
        .map_err(|_| Invalid::at(field, "is no header value"))
}

/// Of the most specific level that says something.
fn first<'p, T>(
    policies: impl DoubleEndedIterator<Item = &'p Policy>,
    of: impl Fn(&'p Policy) -> Option<T>,
) -> Option<T> {
    policies.rev().find_map(of)
}

impl HttpFilter for Cors {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let Some(specific) = stream.route_config::<Policy>() else {
            return Flow::Continue;
        };
        let takes = |share: &Share| share.takes(fastrand::u64(..));
        let enabled = specific.enabled.as_ref().is_none_or(takes);
        let shadow = specific.shadow.as_ref().is_some_and(takes);
        if enabled {
            // Also without an origin: a cache may show the answer to a page of another one.
            stream.state().set_value(DECIDED, "true");
        }
        let request = &stream.request;
        let Some(origin) = request.headers.get(ORIGIN).filter(|o| !o.is_empty()) else {
            return Flow::Continue;
        };
        if !enabled && !shadow {
            return Flow::Continue;
        }
        let with_origins = |p: &'_ &Policy| !p.origins.is_empty();
        let asked = stream.route_configs::<Policy>().rev().find(with_origins);
        let allowed = asked.is_some_and(|policy| policy.allows(origin));
        if allowed {
            self.origin_valid.inc();
        } else {
            self.origin_invalid.inc();
        }
        if !enabled {
            return Flow::Continue;
        }
        let method = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
        let method = method.filter(|method| !method.is_empty());
        if request.method == Method::OPTIONS
            && let Some(method) = method
            && (allowed || !says(stream, |p| p.forward_preflights, true))
        {
            let headers = preflight(stream, allowed.then_some(origin), method);
            if allowed {
                stream.keep(Allowed(origin.clone()));
            }
            let mut reply = LocalReply::new(StatusCode::OK, "cors_response");
            reply.headers = headers;
            return Flow::reply(reply);
        }
        if allowed {
            stream.keep(Allowed(origin.clone()));
        }
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let Some(allowed) = answer.kept::<Allowed>() else {
            return;
        };
        let policies = || answer.route_configs::<Policy>();
        let credentials = first(policies(), |p| p.credentials).unwrap_or(false);
        let expose = first(policies(), |p| p.expose.as_ref());
        let headers = &mut answer.headers;
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed.0.clone());
        if credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(expose) = expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

impl Policy {
    fn allows(&self, origin: &HeaderValue) -> bool {
        self.any_origin || self.origins.iter().any(|o| o.matches(origin.as_bytes()))
    }
}

fn says(stream: &Stream<'_>, of: fn(&Policy) -> Option<bool>, default: bool) -> bool {
    first(stream.route_configs(), of).unwrap_or(default)
}

fn preflight(stream: &Stream<'_>, origin: Option<&HeaderValue>, method: &HeaderValue) -> HeaderMap {
    let asked = &stream.request.headers;
    let policies = || stream.route_configs::<Policy>();
    let mut headers = HeaderMap::new();
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    if says(stream, |p| p.credentials, false) {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
    // A star allows whatever is asked for.
    let star = |allowed: &HeaderValue, asked: Option<&HeaderValue>| match allowed.as_bytes() {
        b"*" => asked.cloned(),
        _ => Some(allowed.clone()),
    };
    if let Some(allowed) = first(policies(), |p| p.methods.as_ref())
        && let Some(value) = star(allowed, Some(method))
    {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, value);
    }
    if let Some(allowed) = first(policies(), |p| p.headers.as_ref())
        && let Some(value) = star(allowed, asked.get(ACCESS_CONTROL_REQUEST_HEADERS))
    {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, value);
    }
    if let Some(max_age) = first(policies(), |p| p.max_age.as_ref()) {
        headers.insert(ACCESS_CONTROL_MAX_AGE, max_age.clone());
    }
    let private = asked.get(REQUEST_PRIVATE_NETWORK);
    if private.is_some_and(|v| v == "true") && says(stream, |p| p.private_network, false) {
        headers.insert(ALLOW_PRIVATE_NETWORK, TRUE);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::testing::{
        Nowhere, TestBody, answer, chain, exact, pass, per_route, request,
    };
    use crate::route::PerRoute;

    fn route(policy: &proto::CorsPolicy) -> PerRoute {
        let message = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
        per_route(FACTORY.name, message, policy).unwrap()
    }

    /// What a browser is told of an answer to a request from there.
    async fn told(route: &PerRoute, origin: &str) -> HeaderMap {
        told_around(route, origin, &Nowhere::default()).await
    }

    async fn told_around(route: &PerRoute, origin: &str, around: &Nowhere) -> HeaderMap {
        let chain = chain(FACTORY.message, &proto::Cors {}).unwrap();
        let mut parts = request("/", &[("origin", origin)]);
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        let mut body = TestBody::default();
        let flow = pass(&chain, &mut parts, &mut body, route, client, around).await;
        assert!(matches!(flow, Flow::Continue));
        let mut headers = HeaderMap::new();
        answer(&chain, StatusCode::OK, &mut headers, route, around);
        headers
    }

    #[tokio::test]
    async fn an_answer_names_the_origin_that_may_read_it() {
        let route = route(&proto::CorsPolicy {
            allow_origin_string_match: vec![exact("https://a.test")],
            allow_credentials: Some(causeway_xds::proto::BoolValue { value: true }),
            expose_headers: "x-e".into(),
            ..proto::CorsPolicy::default()
        });
        let allowed = told(&route, "https://a.test").await;
        assert_eq!(allowed[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.test");
        assert_eq!(allowed[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(allowed[ACCESS_CONTROL_EXPOSE_HEADERS], "x-e");
        assert!(told(&route, "https://b.test").await.is_empty());
        assert!(told(PerRoute::NONE, "https://a.test").await.is_empty());
    }

    #[tokio::test]
    async fn where_there_is_a_policy_others_are_told_that_it_decides() {
        let route = route(&proto::CorsPolicy {
            allow_origin_string_match: vec![exact("https://a.test")],
            ..proto::CorsPolicy::default()
        });
        for (route, origin, decided) in [
            (&route, "https://a.test", true),
            (&route, "https://b.test", true),
            (&route, "", true),
            (PerRoute::NONE, "https://b.test", false),
        ] {
            let around = Nowhere::default();
            told_around(route, origin, &around).await;
            assert_eq!(around.state.value(DECIDED).is_some(), decided, "{origin}");
        }
    }

    #[test]
    fn a_value_that_no_header_can_have_is_refused() {
        let policy = proto::CorsPolicy {
            allow_methods: "GET\r\nx: y".into(),
            ..proto::CorsPolicy::default()
        };
        let message = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
        let told = per_route(FACTORY.name, message, &policy).unwrap_err();
        assert_eq!(
            told.to_string(),
            "allow_methods: contains a control character"
        );
    }
}
