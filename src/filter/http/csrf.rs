//! `envoy.filters.http.csrf`: refuses requests that change something and come from other sites.
//!
//! Configuration: `envoy.extensions.filters.http.csrf.v3.CsrfPolicy`, for the filter and for routes.

use std::borrow::Cow;
use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::csrf::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, each, required};
use http::header::{HOST, HeaderMap, HeaderName, ORIGIN, REFERER};
use http::{Method, StatusCode};

use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::matching::headers::{Values, joined};
use crate::matching::text::Test;
use crate::route::RouteConfig;
use crate::route::fraction::Share;
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
    name: "envoy.filters.http.csrf",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
        build_per_route,
    )],
};

#[derive(Debug)]
struct Csrf {
    policy: Policy,
    missing: Arc<Counter>,
    invalid: Arc<Counter>,
    valid: Arc<Counter>,
}

#[derive(Debug)]
struct Policy {
    enabled: Share,
    shadow: Option<Share>,
    additional: Vec<Test>,
}

impl Policy {
    fn decode(config: &TypedExtension, context: &Context) -> Result<Self, Invalid> {
        let proto::CsrfPolicy {
            filter_enabled,
            shadow_enabled,
            additional_origins,
        } = decode(config)?;
        let enabled = required(filter_enabled, "filter_enabled")?;
        let enabled = parts::runtime_fraction(enabled).at("filter_enabled")?;
        let shadow = shadow_enabled.map(parts::runtime_fraction).transpose();
        let shadow = shadow.at("shadow_enabled")?;
        let origins = each(
            "additional_origins",
            additional_origins,
            parts::string_matcher,
        )?;
        Ok(Self {
            enabled: Share::compile(&enabled, &context.layers),
            shadow: shadow.map(|shadow| Share::compile(&shadow, &context.layers)),
            additional: origins.iter().map(Test::string).collect(),
        })
    }
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    Ok(Arc::new(Csrf {
        policy: Policy::decode(config, context)?,
        missing: context.counter("csrf.missing_source_origin"),
        invalid: context.counter("csrf.request_invalid"),
        valid: context.counter("csrf.request_valid"),
    }))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    Policy::decode(config, context).map(RouteConfig::new)
}

impl HttpFilter for Csrf {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let changes = [Method::POST, Method::PUT, Method::DELETE, Method::PATCH];
        if !changes.contains(&stream.request.method) {
            return Flow::Continue;
        }
        let policy = stream.route_config().unwrap_or(&self.policy);
        let enabled = policy.enabled.takes(fastrand::u64(..));
        let shadow = policy.shadow.as_ref();
        if !enabled && !shadow.is_some_and(|shadow| shadow.takes(fastrand::u64(..))) {
            return Flow::Continue;
        }
        match policy.judge(&stream.request.headers) {
            Origin::Ours => {
                self.valid.inc();
                return Flow::Continue;
            }
            Origin::Missing => self.missing.inc(),
            Origin::Foreign => self.invalid.inc(),
        }
        if !enabled {
            return Flow::Continue;
        }
        let reply = LocalReply::new(StatusCode::FORBIDDEN, "csrf_origin_mismatch");
        Flow::reply(reply.saying("Invalid origin"))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Origin {
    Ours,
    Missing,
    Foreign,
}

impl Policy {
    fn judge(&self, headers: &HeaderMap) -> Origin {
        let source = match site(headers, ORIGIN) {
            source if source.is_empty() => site(headers, REFERER),
            source => source,
        };
        if source.is_empty() {
            return Origin::Missing;
        }
        if source == site(headers, HOST) || self.additional.iter().any(|o| o.matches(&source)) {
            return Origin::Ours;
        }
        Origin::Foreign
    }
}

/// The host of a URL, with its port if there is one; what is no URL, as it is.
fn site(headers: &HeaderMap, name: HeaderName) -> Cow<'_, [u8]> {
    // Several fields are one value, which is no site of ours.
    let value = joined(Values::of(headers, name.as_str())).unwrap_or_default();
    let text = std::str::from_utf8(&value).unwrap_or_default();
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let start = text.get(..scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme)
            .then(|| &text[scheme.len()..])
    });
    match rest {
        Some(rest) => {
            let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
            let site = &rest[..end];
            // What stands before an at sign names a user, not a site.
            let site = site.rsplit('@').next().unwrap_or_default();
            Cow::Owned(site.as_bytes().to_vec())
        }
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn policy(additional: &str) -> Policy {
        let config = proto::CsrfPolicy {
            filter_enabled: Some(crate::filter::testing::always()),
            shadow_enabled: None,
            additional_origins: vec![crate::filter::testing::exact(additional)],
        };
        let extension = crate::filter::testing::extension(FACTORY.message, &config);
        Policy::decode(&extension, &Context::default()).unwrap()
    }

    fn judge(fields: &[(HeaderName, &str)]) -> Origin {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("s.test"));
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        policy("ok.test:8443").judge(&headers)
    }

    #[test]
    fn a_request_comes_from_where_its_origin_or_else_its_referrer_says() {
        assert_eq!(judge(&[(ORIGIN, "http://s.test")]), Origin::Ours);
        assert_eq!(judge(&[(ORIGIN, "HTTPS://s.test")]), Origin::Ours);
        assert_eq!(judge(&[(ORIGIN, "http://ok.test:8443")]), Origin::Ours);
        assert_eq!(judge(&[(ORIGIN, "http://ok.test")]), Origin::Foreign);
        assert_eq!(judge(&[(ORIGIN, "null")]), Origin::Foreign);
        assert_eq!(judge(&[(REFERER, "http://s.test/page?x")]), Origin::Ours);
        assert_eq!(judge(&[]), Origin::Missing);
        let both = [(ORIGIN, "http://evil.test"), (REFERER, "http://s.test/")];
        assert_eq!(judge(&both), Origin::Foreign);
    }

    #[test]
    fn a_site_cannot_hide_behind_another() {
        let twice = [(ORIGIN, "http://s.test"), (ORIGIN, "http://evil.test")];
        assert_eq!(judge(&twice), Origin::Foreign);
        for origin in [
            "http://s.test@evil.test",
            "http://evil.test#s.test",
            "http://s.test.evil.test",
            "ftp://s.test",
            "http://evil.test\\@s.test",
        ] {
            assert_eq!(judge(&[(ORIGIN, origin)]), Origin::Foreign, "{origin}");
        }
    }
}
