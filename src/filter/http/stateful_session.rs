//! `envoy.filters.http.stateful_session`: a client stays with the endpoint that answered it first.
//!
//! Which one that is, it tells in a cookie or a header. What it tells is only followed to endpoints
//! that the cluster has; an address is nothing that a client could reach others by.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::core::TypedExtensionConfig;
use causeway_xds::proto::envoy::extensions::filters::http::stateful_session::v3 as proto;
use causeway_xds::proto::envoy::extensions::http::stateful_session as state;
use causeway_xds::proto::envoy::r#type::http::v3::{Cookie, CookieAttribute};
use causeway_xds::proto::stateful_session::SessionCookie;
use causeway_xds::proto::{Any, Message};
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{
    At, duration, each, fault, header_name, header_value, not_empty, required,
};
use causeway_xds::type_url::message_name;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use proto::stateful_session_per_route::Override;

use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream, WantedEndpoint};
use crate::route::RouteConfig;
use crate::route::matcher::cookie_value;
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    name: "envoy.filters.http.stateful_session",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
        build_per_route,
    )],
};

#[derive(Debug)]
struct StatefulSession {
    /// `None`: nothing is done.
    state: Option<Arc<Sticky>>,
}

/// How clients are kept where they are.
#[derive(Debug)]
struct Sticky {
    carrier: Carrier,
    /// Without the endpoint there is no answer.
    strict: bool,
    stats: Option<Stats>,
}

#[derive(Debug)]
struct Stats {
    routed: Arc<Counter>,
    failed_open: Arc<Counter>,
    failed_closed: Arc<Counter>,
    no_session: Arc<Counter>,
}

#[derive(Debug)]
enum Carrier {
    Cookie {
        name: String,
        /// May be empty.
        path: String,
        ttl: Option<Duration>,
        /// What follows the value in `set-cookie`.
        attributes: String,
    },
    Header(HeaderName),
}

#[derive(Debug)]
enum PerRoute {
    Disabled,
    Session(Option<Arc<Sticky>>),
}

/// Of a request, for its answer.
struct Asked {
    sticky: Arc<Sticky>,
    wanted: Option<SocketAddr>,
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let state = session(decode(config)?, context)?.map(Arc::new);
    Ok(Arc::new(StatefulSession { state }))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let proto::StatefulSessionPerRoute { r#override } = decode(config)?;
    Ok(RouteConfig::new(match required(r#override, "override")? {
        Override::Disabled(true) => PerRoute::Disabled,
        Override::Disabled(false) => {
            return Err(Invalid::at("disabled", "must be true if it is given"));
        }
        Override::StatefulSession(message) => {
            let state = session(message, context).at("stateful_session")?;
            PerRoute::Session(state.map(Arc::new))
        }
    }))
}

fn session(message: proto::StatefulSession, context: &Context) -> Result<Option<Sticky>, Invalid> {
    let proto::StatefulSession {
        session_state,
        strict,
        stat_prefix,
        status_on_strict_destination_not_found,
    } = message;
    refuse!(status_on_strict_destination_not_found);
    let counter = |name: &str| context.counter(&format!("stateful_session.{stat_prefix}.{name}"));
    let stats = (!stat_prefix.is_empty()).then(|| Stats {
        routed: counter("routed"),
        failed_open: counter("failed_open"),
        failed_closed: counter("failed_closed"),
        no_session: counter("no_session"),
    });
    let Some(state) = session_state else {
        return Ok(None);
    };
    let carrier = carrier(state).at("session_state")?;
    Ok(Some(Sticky {
        carrier,
        strict,
        stats,
    }))
}

fn carrier(message: TypedExtensionConfig) -> Result<Carrier, Invalid> {
    let TypedExtensionConfig {
        name: _, // a label
        typed_config,
    } = message;
    let any = required(typed_config, "typed_config")?;
    let carrier = match message_name(&any.type_url) {
        "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState" => cookie(&any),
        "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState" => header(&any),
        other => Err(fault(format!("session state \"{other}\" is not supported"))),
    };
    carrier.at("typed_config")
}

fn unpacked<M: Message + Default>(any: &Any) -> Result<M, Invalid> {
    M::decode(any.value.as_slice()).map_err(|e| fault(e.to_string()))
}

fn cookie(any: &Any) -> Result<Carrier, Invalid> {
    let state::cookie::v3::CookieBasedSessionState { cookie } = unpacked(any)?;
    let Cookie {
        name,
        ttl,
        path,
        attributes,
    } = required(cookie, "cookie")?;
    let within = || {
        let ttl = duration(ttl, "ttl")?.filter(|ttl| !ttl.is_zero());
        let mut text = String::new();
        if let Some(ttl) = ttl {
            text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
        }
        if !path.is_empty() {
            let path = plain(path.clone()).at("path")?;
            text.push_str(&format!("; Path={path}"));
        }
        let attribute = |CookieAttribute { name, value }| {
            let name = not_empty(plain(name).at("name")?, "name")?;
            let value = plain(value).at("value")?;
            Ok(match value.is_empty() {
                true => format!("; {name}"),
                false => format!("; {name}={value}"),
            })
        };
        text.extend(each("attributes", attributes, attribute)?);
        text.push_str("; HttpOnly");
        Ok(Carrier::Cookie {
            name: not_empty(plain(name).at("name")?, "name")?,
            path,
            ttl,
            attributes: text,
        })
    };
    within().at("cookie")
}

/// A text that ends no part of a cookie.
fn plain(text: String) -> Result<String, Invalid> {
    match text.contains([';', ',', '"', '\\']) {
        true => Err(fault("contains a character that ends a part of a cookie")),
        false => header_value(text),
    }
}

fn header(any: &Any) -> Result<Carrier, Invalid> {
    let state::header::v3::HeaderBasedSessionState { name } = unpacked(any)?;
    let name = header_name(&name).at("name")?;
    let name = name.parse().map_err(|_| fault("is no header name"));
    Ok(Carrier::Header(name.at("name")?))
}

impl StatefulSession {
    fn of<'s>(&'s self, route: Option<&'s PerRoute>) -> Option<&'s Arc<Sticky>> {
        match route {
            Some(PerRoute::Disabled) => None,
            Some(PerRoute::Session(state)) => state.as_ref(),
            None => self.state.as_ref(),
        }
    }
}

impl HttpFilter for StatefulSession {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let Some(sticky) = self.of(stream.route_config()) else {
            return Flow::Continue;
        };
        let path = stream.request.uri.path();
        if !sticky.carrier.is_for(path) {
            return Flow::Continue;
        }
        let wanted = sticky.carrier.wanted(&stream.request.headers, now());
        if let Some(address) = wanted {
            stream.state().want_endpoint(WantedEndpoint {
                address,
                strict: sticky.strict,
            });
        }
        stream.keep(Asked {
            sticky: Arc::clone(sticky),
            wanted,
        });
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let Some(asked) = answer.kept::<Asked>() else {
            return;
        };
        let endpoint = answer.endpoint();
        asked.sticky.count(asked.wanted, endpoint);
        if let Some(endpoint) = endpoint.filter(|endpoint| asked.wanted != Some(*endpoint)) {
            asked.sticky.carrier.tell(endpoint, answer.headers, now());
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

impl Sticky {
    fn count(&self, wanted: Option<SocketAddr>, got: Option<SocketAddr>) {
        let Some(stats) = &self.stats else { return };
        match (wanted, got) {
            (None, _) => stats.no_session.inc(),
            (wanted, got) if wanted == got => stats.routed.inc(),
            (Some(_), None) if self.strict => stats.failed_closed.inc(),
            _ => stats.failed_open.inc(),
        }
    }
}

impl Carrier {
    /// Whether clients send the cookie with requests for this path (RFC 6265 section 5.1.4).
    fn is_for(&self, path: &str) -> bool {
        match self {
            Self::Header(_) => true,
            Self::Cookie { path: of, .. } => {
                let rest = path.strip_prefix(of.as_str());
                rest.is_some_and(|rest| {
                    rest.is_empty() || of.is_empty() || of.ends_with('/') || rest.starts_with('/')
                })
            }
        }
    }

    /// The endpoint that the client has been with.
    fn wanted(&self, headers: &HeaderMap, now: i64) -> Option<SocketAddr> {
        match self {
            Self::Header(name) => {
                let text = STANDARD.decode(headers.get(name)?.as_bytes()).ok()?;
                std::str::from_utf8(&text).ok()?.parse().ok()
            }
            Self::Cookie { name, .. } => {
                let mut cookies = headers.get_all(COOKIE).iter();
                let value = cookies.find_map(|c| cookie_value(c.as_bytes(), name))?;
                let ticket = SessionCookie::decode(STANDARD.decode(value).ok()?.as_slice()).ok()?;
                let good = ticket.expires == 0 || now <= ticket.expires;
                good.then_some(ticket.address)?.parse().ok()
            }
        }
    }

    fn tell(&self, endpoint: SocketAddr, headers: &mut HeaderMap, now: i64) {
        match self {
            Self::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(STANDARD.encode(endpoint.to_string())) {
                    headers.insert(name, value);
                }
            }
            Self::Cookie {
                name,
                ttl,
                attributes,
                ..
            } => {
                let ttl = ttl.map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
                let ticket = SessionCookie {
                    address: endpoint.to_string(),
                    expires: ttl.map_or(0, |ttl| now.saturating_add(ttl)),
                };
                let value = STANDARD.encode(ticket.encode_to_vec());
                let cookie = format!("{name}=\"{value}\"{attributes}");
                if let Ok(cookie) = HeaderValue::try_from(cookie) {
                    headers.append(SET_COOKIE, cookie);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::request::Parts;

    use super::*;
    use crate::filter::Chain;
    use crate::filter::testing::{Nowhere, TestBody, answer, chain, per_route, request};
    use crate::route::PerRoute as RouteSaid;

    fn config(type_url: &str, message: &impl Message) -> proto::StatefulSession {
        proto::StatefulSession {
            session_state: Some(TypedExtensionConfig {
                name: "state".into(),
                typed_config: Some(Any {
                    type_url: format!("type.googleapis.com/{type_url}"),
                    value: message.encode_to_vec(),
                }),
            }),
            ..Default::default()
        }
    }

    fn by_cookie(path: &str) -> proto::StatefulSession {
        let cookie = Cookie {
            name: "aff".into(),
            path: path.into(),
            ttl: Some(causeway_xds::proto::Duration {
                seconds: 120,
                nanos: 0,
            }),
            attributes: vec![CookieAttribute {
                name: "SameSite".into(),
                value: "Strict".into(),
            }],
        };
        config(
            "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
            &state::cookie::v3::CookieBasedSessionState {
                cookie: Some(cookie),
            },
        )
    }

    fn by_header() -> proto::StatefulSession {
        config(
            "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
            &state::header::v3::HeaderBasedSessionState {
                name: "x-session".into(),
            },
        )
    }

    const ENDPOINT: ([u8; 4], u16) = ([192, 0, 2, 9], 8080);

    /// What is wanted of the cluster, and the head of an answer of an endpoint.
    fn exchange(
        chain: &Chain,
        mut parts: Parts,
        route: &RouteSaid,
    ) -> (Option<SocketAddr>, HeaderMap) {
        let around = Nowhere {
            endpoint: Some(ENDPOINT.into()),
            ..Nowhere::default()
        };
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        let mut body = TestBody::default();
        let mut stream = Stream::new(&mut parts, &mut body, client, &around);
        let flow = chain.request(&mut stream, route, &mut 0);
        assert!(matches!(flow, Flow::Continue), "{flow:?}");
        let mut headers = HeaderMap::new();
        answer(chain, StatusCode::OK, &mut headers, route, &around);
        let wanted = around.state.wanted_endpoint().map(|wanted| wanted.address);
        (wanted, headers)
    }

    #[test]
    fn a_cookie_leads_back_to_the_endpoint_and_is_not_given_again() {
        let chain = chain(FACTORY.message, &by_cookie("/p")).unwrap();
        let route = RouteSaid::default();
        let (wanted, headers) = exchange(&chain, request("/p/1", &[]), &route);
        assert_eq!(wanted, None);
        let given = headers[SET_COOKIE].to_str().unwrap();
        let (value, attributes) = given.split_once(';').unwrap();
        assert!(value.starts_with("aff=\""), "{given}");
        let expected = " Max-Age=120; Path=/p; SameSite=Strict; HttpOnly";
        assert_eq!(attributes, expected);

        let again = request("/p/2", &[("cookie", &format!("a=1; {value}"))]);
        let (wanted, headers) = exchange(&chain, again, &route);
        assert_eq!(wanted, Some(ENDPOINT.into()));
        assert!(!headers.contains_key(SET_COOKIE));

        for junk in ["junk", "", "\"CgN4OjE=\""] {
            let parts = request("/p", &[("cookie", &format!("aff={junk}"))]);
            let (wanted, headers) = exchange(&chain, parts, &route);
            assert_eq!(wanted, None, "{junk}");
            assert!(headers.contains_key(SET_COOKIE), "{junk}");
        }
        for outside in ["/", "/pp", "/q/p"] {
            let (_, headers) = exchange(&chain, request(outside, &[]), &route);
            assert!(!headers.contains_key(SET_COOKIE), "{outside}");
        }
    }

    #[test]
    fn a_ticket_that_has_expired_is_none() {
        let cookie = by_cookie("");
        let carrier = carrier(cookie.session_state.unwrap()).unwrap();
        let mut headers = HeaderMap::new();
        carrier.tell(ENDPOINT.into(), &mut headers, 1000);
        let given = headers.remove(SET_COOKIE).unwrap();
        headers.insert(COOKIE, given);
        assert_eq!(carrier.wanted(&headers, 1120), Some(ENDPOINT.into()));
        assert_eq!(carrier.wanted(&headers, 1121), None);
    }

    #[test]
    fn a_header_does_the_same() {
        let chain = chain(FACTORY.message, &by_header()).unwrap();
        let route = RouteSaid::default();
        let (_, headers) = exchange(&chain, request("/", &[]), &route);
        let value = headers["x-session"].to_str().unwrap();
        assert_eq!(value, STANDARD.encode("192.0.2.9:8080"));
        let (wanted, headers) = exchange(&chain, request("/", &[("x-session", value)]), &route);
        assert_eq!(wanted, Some(ENDPOINT.into()));
        assert!(!headers.contains_key("x-session"));
    }

    #[test]
    fn a_route_may_switch_it_off_or_do_it_in_another_way() {
        let chain = chain(FACTORY.message, &by_cookie("")).unwrap();
        let message = FACTORY.per_route[0].0;
        let said = |r#override| {
            let config = proto::StatefulSessionPerRoute {
                r#override: Some(r#override),
            };
            per_route(FACTORY.name, message, &config).unwrap()
        };
        let off = said(Override::Disabled(true));
        let (_, headers) = exchange(&chain, request("/", &[]), &off);
        assert!(headers.is_empty());
        let other = said(Override::StatefulSession(by_header()));
        let (_, headers) = exchange(&chain, request("/", &[]), &other);
        assert!(headers.contains_key("x-session"));
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_path() {
        let refused = |config| chain(FACTORY.message, &config).unwrap_err().to_string();
        let other = config(
            "test.State",
            &state::header::v3::HeaderBasedSessionState::default(),
        );
        assert_eq!(
            refused(other),
            "session_state.typed_config: session state \"test.State\" is not supported"
        );
        assert_eq!(
            refused(by_cookie("/a; Domain=x")),
            "session_state.typed_config.cookie.path: contains a character that ends a part of a cookie"
        );
    }
}
