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
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{Method, StatusCode};

use super::super::registry::{Context, decode};
use super::super::{Answer, Bridge, Factory, Flow, HttpFilter, Stream};
use crate::error::{Failure, ResponseFlag};
use crate::route::RouteConfig;

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
struct Wanted {
    log: bool,
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
    let proto::WebSocketBridgePerRoute { log } = decode(config)?;
    Ok(RouteConfig::new(Wanted { log }))
}

impl HttpFilter for WebSocketBridge {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let Some(Wanted { log }) = stream.route_config() else {
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
        stream.state().bridge_to_tcp(Bridge {
            log: *log,
            ..self.0
        });
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        if answer.local
            && answer.status == StatusCode::UPGRADE_REQUIRED
            && answer.route_config::<Wanted>().is_some()
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

    fn wanted() -> PerRoute {
        let message = FACTORY.per_route[0].0;
        per_route(
            FACTORY.name,
            message,
            &proto::WebSocketBridgePerRoute { log: true },
        )
        .unwrap()
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
        chain.response(&mut local, &wanted());
        assert_eq!(headers[UPGRADE], "websocket");
        assert_eq!(headers[SEC_WEBSOCKET_VERSION], "13");
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
