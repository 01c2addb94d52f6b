//! `causeway.websocket_bridge`: makes a WebSocket of an upstream that speaks TCP, for clients that
//! cannot open a connection of their own: browsers, and whoever is behind a proxy.
//!
//! Configuration: `xds/proto/causeway/v1/circuit.proto`. The filter looks at the handshake (RFC 6455
//! section 4.2.1) and leaves word; the router connects, answers, and carries the bytes. Whatever is
//! no handshake is told so (426), as the upstream could make nothing of it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::causeway::v1 as proto;
use causeway_xds::reject::Invalid;
use http::header::{
    HOST, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode};

use super::super::registry::{Context, decode};
use super::super::{Answer, Bridge, Factory, Flow, HttpFilter, Stream};
use crate::error::{Failure, ResponseFlag};
use crate::route::RouteConfig;
use crate::route::action::split_port;
use crate::util::is_origin;

pub const FACTORY: Factory = Factory {
    message: "causeway.v1.WebSocketBridge",
    name: "causeway.websocket_bridge",
    build,
    per_route: &[("causeway.v1.WebSocketBridgePerRoute", build_per_route)],
};

const MAX_MESSAGE: u32 = 4 << 20;
/// A message is in memory as a whole.
const LARGEST_MESSAGE: u32 = 64 << 20;
/// Shorter than what balancers give a silent connection, of which 60 s is the least.
const PING: u32 = 30;
/// The one version there is (RFC 6455 section 4.1).
const VERSION: HeaderValue = HeaderValue::from_static("13");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

#[derive(Debug)]
struct WebSocketBridge(Bridge);

/// A route that wants it.
#[derive(Debug)]
struct Signal {
    log: bool,
    origins: Origins,
}

/// Whose pages may connect. Browsers let any page open a WebSocket to anywhere, so that an application
/// which asks nobody who they are would be open to whatever page somebody near it looks at.
#[derive(Debug)]
enum Origins {
    All,
    /// And those of the host and port that are asked for.
    These(Vec<String>),
}

impl Origins {
    fn decode(origins: Vec<String>) -> Result<Self, Invalid> {
        if origins.iter().any(|origin| origin == "*") {
            return Ok(Self::All);
        }
        for (index, origin) in origins.iter().enumerate() {
            if !is_origin(origin) {
                let reason = format!("{origin:?} is neither * nor SCHEME://HOST[:PORT]");
                return Err(Invalid::at(format!("allowed_origins[{index}]"), reason));
            }
        }
        Ok(Self::These(origins))
    }

    fn admit(&self, headers: &HeaderMap) -> bool {
        let (Self::These(these), Some(origin)) = (self, headers.get(ORIGIN)) else {
            return true;
        };
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        let own = || {
            let host = headers.get(HOST)?.to_str().ok()?;
            let (scheme, page) = origin.split_once("://")?;
            // The host is asked for by the scheme of the page, or the page is another's anyway.
            let usual = match scheme {
                "http" => "80",
                "https" => "443",
                _ => return None,
            };
            let ((page, its_port), (host, port)) = (place(page, usual), place(host, usual));
            Some(page.eq_ignore_ascii_case(host) && its_port == port)
        };
        these.iter().any(|known| known.eq_ignore_ascii_case(origin)) || own().unwrap_or(false)
    }
}

/// Host and port, which may be left out where it is the usual one.
fn place<'t>(text: &'t str, usual: &'t str) -> (&'t str, &'t str) {
    let (host, port) = split_port(text);
    (host, port.filter(|port| !port.is_empty()).unwrap_or(usual))
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::WebSocketBridge {
        max_message_bytes,
        ping_interval,
    } = decode(config)?;
    if max_message_bytes > LARGEST_MESSAGE {
        let reason = format!("must be at most {LARGEST_MESSAGE}");
        return Err(Invalid::at("max_message_bytes", reason));
    }
    let or = |value, default| if value == 0 { default } else { value };
    Ok(Arc::new(WebSocketBridge(Bridge {
        max_message: or(max_message_bytes, MAX_MESSAGE) as usize,
        ping: Duration::from_secs(or(ping_interval, PING).into()),
        log: false,
    })))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::WebSocketBridgePerRoute {
        log,
        allowed_origins,
    } = decode(config)?;
    Ok(RouteConfig::new(Signal {
        log,
        origins: Origins::decode(allowed_origins)?,
    }))
}

impl HttpFilter for WebSocketBridge {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let Some(Signal { log, origins }) = stream.route_config() else {
            return Flow::Continue;
        };
        let headers = &stream.request.headers;
        // The connection manager leaves the field only where an upgrade was asked for.
        let upgrade = headers.get(UPGRADE).map(HeaderValue::as_bytes);
        let asks = upgrade.is_some_and(|name| name.eq_ignore_ascii_case(b"websocket"));
        if !asks || stream.request.method != Method::GET {
            let told = "This application is reached through a WebSocket";
            return refuse(StatusCode::UPGRADE_REQUIRED, "websocket_required", told);
        }
        if headers.get(SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            let told = "Only version 13 of the WebSocket protocol is spoken here";
            return refuse(StatusCode::UPGRADE_REQUIRED, "websocket_version", told);
        }
        if !has_key(headers) {
            let told = "Sec-WebSocket-Key is missing or wrong";
            return refuse(StatusCode::BAD_REQUEST, "websocket_key", told);
        }
        if !origins.admit(headers) {
            let told = "Pages of this origin may not connect";
            return refuse(StatusCode::FORBIDDEN, "websocket_origin", told);
        }
        stream.state().bridge_to_tcp(Bridge {
            log: *log,
            ..self.0
        });
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        if answer.local
            && answer.status == StatusCode::UPGRADE_REQUIRED
            && answer.route_config::<Signal>().is_some()
        {
            // RFC 9110 section 15.5.22, RFC 6455 section 4.4.
            answer.headers.insert(UPGRADE, WEBSOCKET);
            answer.headers.insert(SEC_WEBSOCKET_VERSION, VERSION);
        }
    }
}

/// Whether there is exactly one key, of 16 bytes.
fn has_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) => STANDARD.decode(key).is_ok_and(|key| key.len() == 16),
        _ => false,
    }
}

fn refuse(status: StatusCode, details: &'static str, told: &'static str) -> Flow {
    let flag = ResponseFlag::DownstreamProtocolError;
    Flow::fail(Failure::local(status, flag, details).saying(told))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{Nowhere, TestBody, answer, chain, per_route, request};
    use super::*;
    use crate::route::PerRoute;

    const HANDSHAKE: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn wanted_by(origins: &[&str]) -> Result<PerRoute, Invalid> {
        let config = proto::WebSocketBridgePerRoute {
            log: true,
            allowed_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        };
        per_route(FACTORY.name, FACTORY.per_route[0].0, &config)
    }

    fn wanted() -> PerRoute {
        wanted_by(&[]).unwrap()
    }

    /// What is left for the router, or the failure.
    fn asked(
        config: &proto::WebSocketBridge,
        headers: &[(&str, &str)],
        route: &PerRoute,
    ) -> Result<Option<Bridge>, (u16, String)> {
        let chain = chain(FACTORY.message, config).unwrap();
        let (around, mut body) = (Nowhere::default(), TestBody::default());
        let mut parts = request("/", headers);
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        let mut stream = Stream::new(&mut parts, &mut body, client, &around);
        match chain.request(&mut stream, route, &mut 0) {
            Flow::Continue => Ok(around.state.bridge()),
            Flow::Fail(failure) => Err((failure.status.as_u16(), failure.word().to_owned())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_handshake_is_left_to_the_router_where_a_route_wants_it() {
        let plain = proto::WebSocketBridge::default();
        let bridge = Bridge {
            max_message: 4 << 20,
            ping: Duration::from_secs(30),
            log: true,
        };
        assert_eq!(asked(&plain, &HANDSHAKE, &wanted()), Ok(Some(bridge)));
        assert_eq!(asked(&plain, &HANDSHAKE, PerRoute::NONE), Ok(None));
        assert_eq!(asked(&plain, &[], PerRoute::NONE), Ok(None));
        let own = proto::WebSocketBridge {
            max_message_bytes: 7,
            ping_interval: 5,
        };
        let bridge = Bridge {
            max_message: 7,
            ping: Duration::from_secs(5),
            log: true,
        };
        assert_eq!(asked(&own, &HANDSHAKE, &wanted()), Ok(Some(bridge)));
    }

    #[test]
    fn what_is_no_handshake_is_told_so() {
        let plain = proto::WebSocketBridge::default();
        let with = |name: &str, value: &'static str| {
            let mut fields = HANDSHAKE.to_vec();
            fields.retain(|(n, _)| *n != name);
            if !value.is_empty() {
                fields.push((HANDSHAKE.iter().find(|(n, _)| *n == name).unwrap().0, value));
            }
            asked(&plain, &fields, &wanted()).unwrap_err()
        };
        for (name, value, status, word) in [
            ("upgrade", "", 426, "websocket_required"),
            ("upgrade", "h2c", 426, "websocket_required"),
            ("sec-websocket-version", "", 426, "websocket_version"),
            ("sec-websocket-version", "8", 426, "websocket_version"),
            ("sec-websocket-key", "", 400, "websocket_key"),
            ("sec-websocket-key", "c2hvcnQ=", 400, "websocket_key"),
        ] {
            assert_eq!(
                with(name, value),
                (status, word.to_owned()),
                "{name} {value}"
            );
        }
    }

    #[test]
    fn an_answer_of_ours_says_what_is_spoken() {
        let chain = chain(FACTORY.message, &proto::WebSocketBridge::default()).unwrap();
        let around = Nowhere::default();
        let mut headers = HeaderMap::new();
        // The upstream's own: left alone.
        answer(
            &chain,
            StatusCode::UPGRADE_REQUIRED,
            &mut headers,
            &wanted(),
            &around,
        );
        assert!(headers.is_empty());
        let mut local = Answer::new(StatusCode::UPGRADE_REQUIRED, &mut headers, Some(&around));
        local.local = true;
        chain.response(&mut local, &wanted(), &mut chain.len(), None);
        assert_eq!(headers[UPGRADE], "websocket");
        assert_eq!(headers[SEC_WEBSOCKET_VERSION], "13");
    }

    #[test]
    fn pages_of_other_origins_stay_out_unless_they_are_named() {
        let admitted_at = |host: &'static str, origins: &[&str], origin: &'static str| {
            let route = wanted_by(origins).unwrap();
            let more = [("host", host), ("origin", origin)];
            let fields = [&HANDSHAKE[..], &more].concat();
            match asked(&proto::WebSocketBridge::default(), &fields, &route) {
                Ok(bridge) => bridge.is_some(),
                Err(failure) => {
                    assert_eq!(failure, (403, "websocket_origin".to_owned()));
                    false
                }
            }
        };
        let admitted = |origins: &[&str], origin| admitted_at("app.test:8080", origins, origin);
        for (origin, alone, named) in [
            ("https://app.test:8080", true, true),
            ("http://APP.test:8080", true, true),
            // Another port is another application.
            ("https://app.test", false, false),
            ("http://app.test:5050", false, false),
            ("ftp://app.test:8080", false, false),
            ("https://portal.test", false, true),
            ("https://portal.test:8443", false, false),
            ("http://portal.test", false, false),
            ("https://app.test.evil.test", false, false),
            ("https://evil.test/app.test", false, false),
            ("null", false, false),
            ("", false, false),
        ] {
            assert_eq!(admitted(&[], origin), alone, "{origin}");
            assert_eq!(
                admitted(&["https://portal.test"], origin),
                named,
                "{origin}"
            );
            assert!(admitted(&["*"], origin), "{origin}");
        }
        for (host, origin, same) in [
            ("app.test", "https://app.test", true),
            ("app.test:443", "https://app.test", true),
            ("app.test", "http://app.test:80", true),
            ("app.test", "http://app.test:443", false),
            ("[::1]:80", "http://[::1]", true),
            ("other.apps.test", "https://app.apps.test", false),
        ] {
            assert_eq!(admitted_at(host, &[], origin), same, "{host} {origin}");
        }
        // Only browsers send it.
        let host = [&HANDSHAKE[..], &[("host", "app.test")]].concat();
        let config = proto::WebSocketBridge::default();
        let bridge = asked(&config, &host, &wanted()).unwrap();
        assert!(bridge.is_some());
        for wrong in ["portal.test", "https://", "https://portal.test/", ""] {
            let error = wanted_by(&[wrong]).unwrap_err().to_string();
            assert!(error.starts_with("allowed_origins[0]: "), "{error}");
        }
    }

    #[test]
    fn a_limit_that_is_none_is_refused() {
        let config = proto::WebSocketBridge {
            max_message_bytes: LARGEST_MESSAGE + 1,
            ..proto::WebSocketBridge::default()
        };
        let error = chain(FACTORY.message, &config).unwrap_err().to_string();
        assert_eq!(error, "max_message_bytes: must be at most 67108864");
    }
}
