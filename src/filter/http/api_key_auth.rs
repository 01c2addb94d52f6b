//! `envoy.filters.http.api_key_auth`: clients that are known by a key.
//!
//! Configuration: `envoy.extensions.filters.http.api_key_auth.v3`. What a route says takes the place
//! of what the filter says, field by field; a route can also narrow down which clients may call.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::api_key_auth::v3 as proto;
use causeway_xds::reject::{FieldPath, Invalid};
use causeway_xds::resource::parts::{self, At, each, fault, not_empty};
use http::StatusCode;
use http::header::{COOKIE, HeaderName, HeaderValue};
use http::request::Parts;

use super::super::query;
use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::matching::headers::cookie_value;
use crate::route::RouteConfig;
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
    name: "envoy.filters.http.api_key_auth",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
        build_per_route,
    )],
};

struct ApiKeyAuth {
    config: Config,
    allowed: Arc<Counter>,
    unauthorized: Arc<Counter>,
    forbidden: Arc<Counter>,
}

/// Empty where nothing is said.
struct Config {
    /// Clients by key.
    clients: HashMap<Vec<u8>, String>,
    sources: Vec<Source>,
    forwarding: Option<Forwarding>,
}

struct OfRoute {
    config: Config,
    /// Empty: all.
    allowed: HashSet<String>,
}

/// Where a key is.
enum Source {
    Header(HeaderName),
    Query(String),
    Cookie(String),
}

struct Forwarding {
    /// Told the name of the client.
    header: Option<HeaderName>,
    hide: bool,
}

impl std::fmt::Debug for ApiKeyAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKeyAuth").finish_non_exhaustive()
    }
}

impl Config {
    fn decode(
        credentials: Vec<proto::Credential>,
        key_sources: Vec<proto::KeySource>,
        forwarding: Option<proto::Forwarding>,
    ) -> Result<Self, Invalid> {
        let mut clients = HashMap::new();
        for (at, credential) in credentials.into_iter().enumerate() {
            let place = FieldPath::root().field("credentials").index(at);
            let proto::Credential { key, client } = credential;
            let read = || Ok((not_empty(key, "key")?, not_empty(client, "client")?));
            let (key, client) = read().map_err(|e: Invalid| e.within(&place))?;
            // It goes on in a field, and whoever calls must not be able to put another there.
            if HeaderValue::from_str(&client).is_err() {
                return Err(Invalid::new(place.field("client"), "is no header value"));
            }
            if clients.insert(key.into_bytes(), client).is_some() {
                // Which one is not told: it is a secret.
                return Err(Invalid::new(place.field("key"), "is there already"));
            }
        }
        Ok(Self {
            clients,
            sources: each("key_sources", key_sources, Source::decode)?,
            forwarding: forwarding
                .map(Forwarding::decode)
                .transpose()
                .at("forwarding")?,
        })
    }
}

impl Source {
    fn decode(message: proto::KeySource) -> Result<Self, Invalid> {
        let proto::KeySource {
            header,
            query,
            cookie,
        } = message;
        // The first that is given counts, as with Envoy.
        if !header.is_empty() {
            header_name(&header).at("header").map(Self::Header)
        } else if !query.is_empty() {
            Ok(Self::Query(query))
        } else if !cookie.is_empty() {
            Ok(Self::Cookie(cookie))
        } else {
            Err(fault("one of header, query and cookie must be given"))
        }
    }

    fn key(&self, request: &Parts) -> Option<Vec<u8>> {
        let key = match self {
            Self::Header(name) => {
                let value = request.headers.get(name)?.as_bytes();
                value.strip_prefix(b"Bearer ").unwrap_or(value).to_vec()
            }
            Self::Query(name) => {
                let pairs = form_urlencoded::parse(request.uri.query()?.as_bytes());
                let mut of_name = pairs.filter(|(key, _)| key == name);
                of_name.next()?.1.into_owned().into_bytes()
            }
            Self::Cookie(name) => {
                let lines = request.headers.get_all(COOKIE).into_iter();
                let mut values = lines.filter_map(|line| cookie_value(line.as_bytes(), name));
                values.next()?.to_vec()
            }
        };
        (!key.is_empty()).then_some(key)
    }

    fn remove(&self, request: &mut Parts) {
        match self {
            Self::Header(name) => {
                request.headers.remove(name);
            }
            Self::Query(name) => query::remove(request, name),
            Self::Cookie(name) => remove_cookie(request, name),
        }
    }
}

fn remove_cookie(request: &mut Parts, name: &str) {
    let lines = request.headers.get_all(COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    let kept: Vec<&[u8]> = pairs
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
        .filter(|pair| {
            let key = pair.split(|b| *b == b'=').next().unwrap_or_default();
            key.trim_ascii() != name.as_bytes()
        })
        .collect();
    // Made of parts of values, so it can be one.
    match HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
        Ok(value) if !value.is_empty() => request.headers.insert(COOKIE, value),
        _ => request.headers.remove(COOKIE),
    };
}

fn header_name(text: &str) -> Result<HeaderName, Invalid> {
    HeaderName::try_from(parts::header_name(text)?).map_err(|_| fault("is no header name"))
}

impl Forwarding {
    fn decode(message: proto::Forwarding) -> Result<Self, Invalid> {
        let proto::Forwarding {
            header,
            hide_credentials,
        } = message;
        let given = !header.is_empty();
        Ok(Self {
            header: given
                .then(|| header_name(&header))
                .transpose()
                .at("header")?,
            hide: hide_credentials,
        })
    }
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::ApiKeyAuth {
        credentials,
        key_sources,
        forwarding,
    } = decode(config)?;
    Ok(Arc::new(ApiKeyAuth {
        config: Config::decode(credentials, key_sources, forwarding)?,
        allowed: context.counter("api_key_auth.allowed"),
        unauthorized: context.counter("api_key_auth.unauthorized"),
        forbidden: context.counter("api_key_auth.forbidden"),
    }))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::ApiKeyAuthPerRoute {
        credentials,
        key_sources,
        allowed_clients,
        forwarding,
    } = decode(config)?;
    Ok(RouteConfig::new(OfRoute {
        config: Config::decode(credentials, key_sources, forwarding)?,
        allowed: allowed_clients.into_iter().collect(),
    }))
}

impl HttpFilter for ApiKeyAuth {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let route = stream.route_config::<OfRoute>();
        let of_route = route.map(|route| &route.config);
        let own = &self.config;
        let clients = of_route.map_or(&own.clients, |of| match of.clients.is_empty() {
            true => &own.clients,
            false => &of.clients,
        });
        let sources = of_route.map_or(&own.sources, |of| match of.sources.is_empty() {
            true => &own.sources,
            false => &of.sources,
        });
        let unknown = |details| {
            self.unauthorized.inc();
            let reply = LocalReply::new(StatusCode::UNAUTHORIZED, details);
            Flow::reply(reply.saying("Client authentication failed."))
        };
        if sources.is_empty() {
            return unknown("missing_key_sources");
        }
        if clients.is_empty() {
            return unknown("missing_credentials");
        }
        let key = sources.iter().find_map(|source| source.key(stream.request));
        let Some(key) = key else {
            return unknown("missing_api_key");
        };
        let Some(client) = clients.get(&key) else {
            // Spelled as Envoy does.
            return unknown("unkonwn_api_key");
        };
        let admitted = |route: &OfRoute| route.allowed.is_empty() || route.allowed.contains(client);
        if !route.is_none_or(admitted) {
            self.forbidden.inc();
            let reply = LocalReply::new(StatusCode::FORBIDDEN, "client_not_allowed");
            return Flow::reply(reply.saying("Client is forbidden."));
        }
        let forwarding = of_route.and_then(|of| of.forwarding.as_ref());
        if let Some(forwarding) = forwarding.or(own.forwarding.as_ref()) {
            if forwarding.hide {
                sources
                    .iter()
                    .for_each(|source| source.remove(stream.request));
            }
            if let Some(header) = &forwarding.header
                && let Ok(value) = HeaderValue::from_str(client)
            {
                stream.request.headers.insert(header.clone(), value);
            }
        }
        self.allowed.inc();
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::testing::request;

    #[test]
    fn a_key_is_found_where_it_may_be_and_taken_out() {
        let request = || {
            request(
                "/p?a=1&key=k%2B1&b=2&key=again",
                &[("cookie", "x=1; sid=k2; y=2"), ("x-key", "k3")],
            )
        };
        let source = |text: &str| match text {
            "header" => Source::Header(HeaderName::from_static("x-key")),
            "query" => Source::Query("key".into()),
            _ => Source::Cookie("sid".into()),
        };
        for (from, key) in [("header", "k3"), ("query", "k+1"), ("cookie", "k2")] {
            let mut request = request();
            assert_eq!(source(from).key(&request).unwrap(), key.as_bytes());
            source(from).remove(&mut request);
            assert_eq!(source(from).key(&request), None);
            assert_eq!(request.uri.path(), "/p");
            if from == "cookie" {
                assert_eq!(request.headers["cookie"], "x=1; y=2");
            }
            if from == "query" {
                assert_eq!(request.uri.query(), Some("a=1&b=2"));
            }
        }
        let mut bearer = request();
        let value = HeaderValue::from_static("Bearer t");
        bearer.headers.insert("x-key", value);
        assert_eq!(source("header").key(&bearer).unwrap(), b"t");
    }

    #[test]
    fn a_key_that_is_given_twice_is_refused_without_being_told() {
        let credential = |key: &str| proto::Credential {
            key: key.into(),
            client: "c".into(),
        };
        let twice = vec![credential("secret"), credential("secret")];
        let told = Config::decode(twice, vec![], None)
            .err()
            .unwrap()
            .to_string();
        assert_eq!(told, "credentials[1].key: is there already");
        let nowhere = vec![proto::KeySource::default()];
        let told = Config::decode(vec![], nowhere, None).err().unwrap();
        assert_eq!(
            told.to_string(),
            "key_sources[0]: one of header, query and cookie must be given"
        );
    }
}
