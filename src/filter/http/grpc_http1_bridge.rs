//! `envoy.filters.http.grpc_http1_bridge`: lets clients of HTTP/1.1, which see no trailers, make unary
//! calls of gRPC.
//!
//! Configuration: `envoy.extensions.filters.http.grpc_http1_bridge.v3.Config`. The status of a call goes
//! into the head of its answer, which waits for all of it. Where it is asked for, a bare message of
//! protobuf becomes a call, and the message of its answer is bare again.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::grpc_http1_bridge::v3 as proto;
use causeway_xds::reject::Invalid;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{StatusCode, Version};

use super::super::body::{Read, Whole};
use super::super::pause::Gathered;
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, LocalReply, Stream, query};
use crate::error::Failure;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config",
    name: "envoy.filters.http.grpc_http1_bridge",
    build,
    per_route: &[],
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const PROTOBUF: &[u8] = b"application/x-protobuf";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Bytes of a message either way.
const MAX_MESSAGE: u64 = 4 << 20;
/// A flag, and the length of the message.
const PREFIX: usize = 5;

#[derive(Debug)]
struct Bridge {
    upgrades: bool,
    drops_query: bool,
}

/// Of a call that is bridged.
struct Bridged {
    /// Its message was bare.
    upgraded: bool,
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::Config {
        upgrade_protobuf_to_grpc,
        ignore_query_parameters,
    } = decode(config)?;
    Ok(Arc::new(Bridge {
        upgrades: upgrade_protobuf_to_grpc,
        drops_query: ignore_query_parameters,
    }))
}

impl HttpFilter for Bridge {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let kind = stream.request.headers.get(CONTENT_TYPE);
        let kind = kind.map_or(&b""[..], HeaderValue::as_bytes);
        let rest = kind.strip_prefix(GRPC.as_bytes());
        let grpc = rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
        let upgraded = self.upgrades && kind == PROTOBUF;
        if !upgraded && (!grpc || stream.request.version == Version::HTTP_2) {
            return Flow::Continue;
        }
        if self.drops_query {
            query::set(stream.request, "");
        }
        stream.keep(Bridged { upgraded });
        let headers = &mut stream.request.headers;
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if !upgraded {
            return Flow::Continue;
        }
        headers.insert(CONTENT_TYPE, GRPC);
        stream.state().take_trailers();
        stream.read_body(MAX_MESSAGE, |stream, read| match read {
            Read::Whole(whole) => {
                let body = Whole {
                    data: prefixed(&whole.data),
                    trailers: whole.trailers,
                };
                let length = HeaderValue::from(body.data.len());
                stream.request.headers.insert(CONTENT_LENGTH, length);
                stream.put_body(body.boxed());
                Flow::Continue
            }
            Read::Larger(..) => Flow::reply(LocalReply::too_large()),
            Read::Broken(_) => Flow::fail(Failure::bad_request("request_body_broken")),
        })
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let Some(bridged) = answer.kept::<Bridged>() else {
            return;
        };
        let upgraded = bridged.upgraded;
        if answer.bodyless {
            return finish(answer, upgraded, Bytes::new(), None);
        }
        answer.read_body(MAX_MESSAGE, move |answer, gathered| match gathered {
            Gathered::Whole(data, trailers) => finish(answer, upgraded, data, trailers),
            Gathered::Larger(_) => refuse(answer, "response_payload_too_large"),
            Gathered::Broken(_) => refuse(answer, "response_body_broken"),
        });
    }
}

/// Nothing of the answer was sent yet.
fn refuse(answer: &mut Answer<'_>, details: &'static str) {
    answer.reply(LocalReply::new(StatusCode::BAD_GATEWAY, details).saying("Bad Gateway"));
}

fn prefixed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The whole answer is there.
fn finish(answer: &mut Answer<'_>, upgraded: bool, data: Bytes, trailers: Option<HeaderMap>) {
    let trailers = trailers.unwrap_or_default();
    for name in [GRPC_STATUS, GRPC_MESSAGE] {
        if let Some(value) = trailers.get(&name) {
            answer.headers.insert(name, value.clone());
        }
    }
    let status = answer.headers.get(GRPC_STATUS).map(HeaderValue::as_bytes);
    // What is no answer of gRPC, or has no status, is told by the status of HTTP.
    if status.is_some_and(|status| status != b"0") {
        answer.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    let grpc = answer.headers.get(CONTENT_TYPE);
    let grpc = grpc.is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes()));
    let data = match upgraded && grpc {
        true => {
            let kind = HeaderValue::from_static("application/x-protobuf");
            answer.headers.insert(CONTENT_TYPE, kind);
            data.slice(data.len().min(PREFIX)..)
        }
        false => data,
    };
    let length = HeaderValue::from(data.len());
    answer.headers.insert(CONTENT_LENGTH, length);
    answer.replace_body(Whole::new(data));
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::filter::Chain;
    use crate::filter::body::BoxBody;
    use crate::filter::testing::{Nowhere, TestBody, chain, descend, pass};
    use crate::route::PerRoute;

    fn made(upgrade: bool) -> Chain {
        let config = proto::Config {
            upgrade_protobuf_to_grpc: upgrade,
            ignore_query_parameters: true,
        };
        chain(FACTORY.message, &config).unwrap()
    }

    async fn text(body: BoxBody) -> Vec<u8> {
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    /// What goes up, and what comes down of an answer with these trailers.
    async fn bridged(
        chain: &Chain,
        kind: &str,
        body: &'static [u8],
        trailers: &[(&'static str, &str)],
    ) -> (Vec<u8>, u16, HeaderMap, Vec<u8>) {
        let around = Nowhere::default();
        let request = Request::post("/p.S/M?a=b").header("content-type", kind);
        let mut parts = request.body(()).unwrap().into_parts().0;
        let mut sent = TestBody(Some(Whole::new(body).boxed()));
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        let route = PerRoute::default();
        let flow = pass(chain, &mut parts, &mut sent, &route, client, &around).await;
        assert!(matches!(flow, Flow::Continue));
        let up = text(sent.0.unwrap()).await;
        let mut fields = HeaderMap::new();
        for (name, value) in trailers {
            fields.insert(*name, value.parse().unwrap());
        }
        let mut head = HeaderMap::new();
        head.insert(CONTENT_TYPE, GRPC);
        let answer = Whole {
            data: prefixed(b"out"),
            trailers: Some(fields),
        };
        let answer = (StatusCode::OK, head, answer.boxed());
        let answered = descend(chain, answer, &route, &around).await;
        let status = answered.status.as_u16();
        (up, status, answered.headers, text(answered.body).await)
    }

    #[tokio::test]
    async fn the_status_of_a_call_is_in_its_head() {
        let chain = made(false);
        let (up, status, head, body) = bridged(
            &chain,
            "application/grpc",
            b"\0\0\0\0\x02in",
            &[("grpc-status", "0")],
        )
        .await;
        assert_eq!((up.as_slice(), status), (&b"\0\0\0\0\x02in"[..], 200));
        assert_eq!(head["grpc-status"], "0");
        assert_eq!(head["content-length"], "8");
        assert_eq!(body, b"\0\0\0\0\x03out");
        let failed = [("grpc-status", "5"), ("grpc-message", "none")];
        let (_, status, head, _) = bridged(&chain, "application/grpc+proto", b"", &failed).await;
        assert_eq!(
            (status, &head["grpc-message"]),
            (503, &"none".parse().unwrap())
        );
    }

    #[tokio::test]
    async fn a_bare_message_becomes_a_call_where_that_is_wanted() {
        let ok = [("grpc-status", "0")];
        let (up, _, head, body) = bridged(&made(true), "application/x-protobuf", b"in", &ok).await;
        assert_eq!(up, b"\0\0\0\0\x02in");
        assert_eq!(head["content-type"], "application/x-protobuf");
        assert_eq!(
            (head["content-length"].as_bytes(), body.as_slice()),
            (&b"3"[..], &b"out"[..])
        );
        let (up, ..) = bridged(&made(false), "application/x-protobuf", b"in", &ok).await;
        assert_eq!(up, b"in");
    }
}
