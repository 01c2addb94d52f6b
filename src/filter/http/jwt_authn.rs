//! `envoy.filters.http.jwt_authn`: lets requests pass that show the tokens which are required.
//!
//! A request is looked at as a whole; only when its tokens are good, or may be bad, is it changed.
//! When keys have to be fetched first, it waits, and is looked at again. Whatever goes wrong on the
//! way, a missing key or a service that does not answer, refuses the request.

mod effects;
mod extract;
mod keys;
mod provider;
mod remote;
mod requirement;
mod status;
#[cfg(test)]
mod tests;
mod token;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, each, fault, not_empty, required, route_match};
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, StatusCode};
use proto::per_route_config::RequirementSpecifier;
use proto::requirement_rule::RequirementType;

use self::keys::Keys;
use self::provider::{Provider, Source};
use self::remote::{Now, Remote};
use self::requirement::{Found, KeyRing, NoKeys, Request, Requirement, Stop, Verdict};
use self::status::Status;
use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, LocalReply, Stream, Then};
use crate::matching::headers::RequestHead;
use crate::route::RouteConfig;
use crate::route::matcher::RouteMatcher;
use crate::telemetry::stats::Counter;

const NAME: &str = "envoy.filters.http.jwt_authn";

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    name: NAME,
    build,
    per_route: &[(
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
        build_per_route,
    )],
};

/// Bytes of a path that `www-authenticate` repeats.
const MAX_REALM: usize = 256;

#[derive(Debug)]
struct JwtAuthn(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    providers: Vec<Provider>,
    /// By provider, where its keys are elsewhere.
    remotes: Vec<Option<Arc<Remote>>>,
    rules: Vec<Rule>,
    /// Sorted by name.
    named: BTreeMap<String, Option<Arc<Requirement>>>,
    bypass_preflight: bool,
    strip_failure: bool,
    allowed: Arc<Counter>,
    denied: Arc<Counter>,
    preflight_bypassed: Arc<Counter>,
}

#[derive(Debug)]
struct Rule {
    matcher: RouteMatcher,
    /// `None`: nothing.
    requires: Option<Arc<Requirement>>,
}

#[derive(Debug, PartialEq, Eq)]
enum PerRoute {
    Disabled,
    Named(String),
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::JwtAuthentication {
        providers,
        rules,
        filter_state_rules,
        bypass_cors_preflight,
        requirement_map,
        strip_failure_response,
        stat_prefix,
    } = decode(config)?;
    refuse!(filter_state_rules);
    let prefix = match stat_prefix.is_empty() {
        true => "jwt_authn.".to_owned(),
        false => format!("jwt_authn.{stat_prefix}."),
    };
    let counter = |name: &str| context.counter(&format!("{prefix}{name}"));
    let mut places = HashMap::new();
    let mut list = Vec::new();
    for (name, provider) in providers.into_iter().collect::<BTreeMap<_, _>>() {
        let provider = Provider::decode(provider).at_key("providers", &name)?;
        places.insert(name, list.len());
        list.push(provider);
    }
    let names: BTreeMap<_, _> = places.iter().map(|(name, at)| (*at, name)).collect();
    let remote = |(at, provider): (usize, &Provider)| match &provider.source {
        Source::Local(_) => Ok(None),
        Source::Remote(config) => {
            let success = counter("jwks_fetch_success");
            let remote = Remote::new(config, success, counter("jwks_fetch_failed"));
            let remote = remote.at("remote_jwks").at_key("providers", names[&at])?;
            Ok(Some(Arc::new(remote)))
        }
    };
    let remotes = list
        .iter()
        .enumerate()
        .map(remote)
        .collect::<Result<_, _>>()?;
    let mut named = BTreeMap::new();
    for (name, requirement) in requirement_map {
        let requirement = Requirement::decode(requirement, &places);
        let requirement = requirement.at_key("requirement_map", &name)?.map(Arc::new);
        named.insert(name, requirement);
    }
    let rules = each("rules", rules, |rule| {
        Rule::decode(rule, &places, &named, context)
    })?;
    Ok(Arc::new(JwtAuthn(Arc::new(Inner {
        providers: list,
        remotes,
        rules,
        named,
        bypass_preflight: bypass_cors_preflight,
        strip_failure: strip_failure_response,
        allowed: counter("allowed"),
        denied: counter("denied"),
        preflight_bypassed: counter("cors_preflight_bypassed"),
    }))))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::PerRouteConfig {
        requirement_specifier,
    } = decode(config)?;
    let specifier = required(requirement_specifier, "requirement_specifier")?;
    Ok(RouteConfig::new(match specifier {
        RequirementSpecifier::Disabled(true) => PerRoute::Disabled,
        RequirementSpecifier::Disabled(false) => {
            return Err(Invalid::at("disabled", "must be true if it is given"));
        }
        RequirementSpecifier::RequirementName(name) => {
            PerRoute::Named(not_empty(name, "requirement_name")?)
        }
    }))
}

impl Rule {
    fn decode(
        message: proto::RequirementRule,
        providers: &HashMap<String, usize>,
        named: &BTreeMap<String, Option<Arc<Requirement>>>,
        context: &Context,
    ) -> Result<Self, Invalid> {
        let proto::RequirementRule {
            r#match,
            requirement_type,
        } = message;
        let matcher = route_match(required(r#match, "match")?).at("match")?;
        let requires = match requirement_type {
            None => None,
            Some(RequirementType::Requires(requirement)) => {
                let requirement = Requirement::decode(requirement, providers);
                requirement.at("requires")?.map(Arc::new)
            }
            Some(RequirementType::RequirementName(name)) => {
                let unknown = || fault(format!("{name:?} is not in requirement_map"));
                let found = named.get(&name).ok_or_else(unknown);
                found.at("requirement_name")?.clone()
            }
        };
        Ok(Self {
            matcher: RouteMatcher::compile(&matcher, &context.layers),
            requires,
        })
    }
}

impl HttpFilter for JwtAuthn {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let inner = &self.0;
        // What a client writes there could be taken for what a token says.
        for name in inner.providers.iter().flat_map(Provider::reserved) {
            stream.request.headers.remove(name);
        }
        if inner.bypass_preflight && is_preflight(stream.request) {
            inner.preflight_bypassed.inc();
            return Flow::Continue;
        }
        let requirement = match stream.route_config::<PerRoute>() {
            Some(PerRoute::Disabled) => None,
            Some(PerRoute::Named(name)) => match inner.named.get(name) {
                Some(requirement) => requirement.clone(),
                None => return inner.wrong_name(name),
            },
            None => {
                let view = RequestHead(stream.request);
                let mut rules = inner.rules.iter();
                let rule = rules.find(|rule| rule.matcher.matches(&view));
                rule.and_then(|rule| rule.requires.clone())
            }
        };
        match requirement {
            Some(requirement) => inner.look(stream, requirement, Vec::new()),
            None => {
                inner.allowed.inc();
                Flow::Continue
            }
        }
    }
}

fn is_preflight(request: &Parts) -> bool {
    let given = |name| {
        request
            .headers
            .get(name)
            .is_some_and(|v: &HeaderValue| !v.is_empty())
    };
    request.method == Method::OPTIONS && given(ORIGIN) && given(ACCESS_CONTROL_REQUEST_METHOD)
}

impl Inner {
    /// `fetched`: providers whose keys this request has waited for, and whether they came.
    fn look(
        self: &Arc<Self>,
        stream: &mut Stream<'_>,
        requirement: Arc<Requirement>,
        fetched: Vec<(usize, bool)>,
    ) -> Flow {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let request = Request {
            headers: &stream.request.headers,
            uri: &stream.request.uri,
            now: now.map_or(0, |since| since.as_secs()),
        };
        let ring = Ring {
            inner: self,
            fetched: &fetched,
            stale: Default::default(),
        };
        let mut found = Found::default();
        let checked = requirement.check(&request, &self.providers, &ring, &mut found);
        for provider in ring.stale.into_inner() {
            self.renew(provider, stream);
        }
        match checked {
            Ok(()) => self.pass(stream, &found),
            Err(Stop::Denied(status)) => {
                self.note(stream, &found);
                self.deny(stream.request, status, stream.tls)
            }
            Err(Stop::Fetch(provider)) => {
                let Some(remote) = self.remotes[provider].clone() else {
                    return self.deny(stream.request, Status::FetchFailed, stream.tls);
                };
                let (inner, calls) = (Arc::clone(self), stream.calls());
                Flow::wait(async move {
                    let came = remote.fetch(calls).await;
                    let mut fetched = fetched;
                    fetched.push((provider, came));
                    Box::new(move |stream: &mut Stream<'_>| {
                        inner.look(stream, requirement, fetched)
                    }) as Then
                })
            }
        }
    }

    /// Fetches beside the request.
    fn renew(&self, provider: usize, stream: &Stream<'_>) {
        let remote = self.remotes[provider].clone();
        if let Some(remote) = remote.filter(|remote| !remote.is_busy()) {
            let calls = stream.calls();
            tokio::task::spawn_local(async move { remote.fetch(calls).await });
        }
    }

    fn pass(&self, stream: &mut Stream<'_>, found: &Found) -> Flow {
        self.allowed.inc();
        self.note(stream, found);
        effects::apply(found, &self.providers, stream.request);
        match effects::reroutes(found, &self.providers) {
            true => Flow::Reroute,
            false => Flow::Continue,
        }
    }

    fn note(&self, stream: &Stream<'_>, found: &Found) {
        for (key, value) in effects::metadata(found, &self.providers) {
            stream.state().set_metadata(NAME, &key, value);
        }
    }

    fn deny(&self, request: &Parts, status: Status, tls: bool) -> Flow {
        self.denied.inc();
        let text = status.text();
        let mut reply = LocalReply::new(status.http(), details(text));
        if !self.strip_failure {
            reply = reply.saying(text);
            let error = match status {
                Status::Missing => "",
                _ => ", error=\"invalid_token\"",
            };
            let challenge = format!("Bearer realm=\"{}\"{error}", realm(request, tls));
            if let Ok(challenge) = HeaderValue::try_from(challenge) {
                reply.headers.insert(WWW_AUTHENTICATE, challenge);
            }
        }
        Flow::reply(reply)
    }

    /// The route names a requirement that there is not: nobody knows what it would have refused.
    fn wrong_name(&self, name: &str) -> Flow {
        self.denied.inc();
        let known: Vec<&str> = self.named.keys().map(String::as_str).collect();
        let known = known.join(",");
        let text = format!("Wrong requirement_name: {name}. It should be one of [{known}]");
        let reply = LocalReply::new(StatusCode::FORBIDDEN, details(&text));
        Flow::reply(reply.saying(format!("Failed JWT authentication: {text}")))
    }
}

fn details(text: &str) -> String {
    format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_"))
}

/// What the client asked for, cut short.
fn realm(request: &Parts, tls: bool) -> String {
    let header = |name: &str| request.headers.get(name).and_then(|v| v.to_str().ok());
    let scheme = header("x-forwarded-proto").unwrap_or(if tls { "https" } else { "http" });
    let host = header(HOST.as_str()).unwrap_or_default();
    let sent = || {
        request
            .uri
            .path_and_query()
            .map_or("", |path| path.as_str())
    };
    let path = header("x-envoy-original-path").unwrap_or_else(sent);
    let end = path.floor_char_boundary(MAX_REALM);
    // A quotation mark would end the text.
    format!("{scheme}://{host}{}", &path[..end]).replace('"', "%22")
}

/// The keys that there are while one request is looked at.
struct Ring<'i> {
    inner: &'i Inner,
    fetched: &'i [(usize, bool)],
    /// Providers whose keys have to be renewed.
    stale: std::cell::RefCell<Vec<usize>>,
}

impl KeyRing for Ring<'_> {
    fn verify(&self, provider: usize, check: &dyn Fn(&Keys) -> Verdict) -> Result<Verdict, NoKeys> {
        if let Source::Local(keys) = &self.inner.providers[provider].source {
            return Ok(check(keys));
        }
        let remote = self.inner.remotes[provider]
            .as_ref()
            .ok_or(NoKeys::Failed)?;
        match remote.now(Instant::now()) {
            Now::Fresh(kept) => Ok(check(&kept.keys)),
            Now::Stale(kept) => {
                let mut stale = self.stale.borrow_mut();
                if !stale.contains(&provider) {
                    stale.push(provider);
                }
                Ok(check(&kept.keys))
            }
            Now::Nothing => match self.fetched.iter().find(|(of, _)| *of == provider) {
                None => Err(NoKeys::Fetch),
                Some((_, false)) => Err(NoKeys::Failed),
                Some((_, true)) => {
                    let kept = remote.any().ok_or(NoKeys::Failed)?;
                    Ok(check(&kept.keys))
                }
            },
        }
    }
}
