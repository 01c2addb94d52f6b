//! `envoy.filters.http.buffer`: waits for the whole request before anything of it goes on.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::UInt32Value;
use causeway_xds::proto::envoy::extensions::filters::http::buffer::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, required};
use http::Method;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use proto::buffer_per_route::Override;

use super::super::body::Read;
use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::route::RouteConfig;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.buffer.v3.Buffer",
    name: "envoy.filters.http.buffer",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
        build_per_route,
    )],
};

#[derive(Debug)]
struct Buffer {
    /// Bytes.
    max: u32,
}

#[derive(Debug)]
enum PerRoute {
    Disabled,
    Max(u32),
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let max = maximum(decode(config)?)?;
    Ok(Arc::new(Buffer { max }))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::BufferPerRoute { r#override } = decode(config)?;
    Ok(RouteConfig::new(match required(r#override, "override")? {
        Override::Disabled(true) => PerRoute::Disabled,
        Override::Disabled(false) => {
            return Err(Invalid::at("disabled", "must be true if it is given"));
        }
        Override::Buffer(buffer) => PerRoute::Max(maximum(buffer).at("buffer")?),
    }))
}

fn maximum(message: proto::Buffer) -> Result<u32, Invalid> {
    let proto::Buffer { max_request_bytes } = message;
    match max_request_bytes {
        Some(UInt32Value { value }) if value > 0 => Ok(value),
        _ => Err(Invalid::at(
            "max_request_bytes",
            "must be given, and more than 0",
        )),
    }
}

impl HttpFilter for Buffer {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let max = match stream.route_config() {
            Some(PerRoute::Disabled) => return Flow::Continue,
            Some(PerRoute::Max(max)) => *max,
            None => self.max,
        };
        // A tunnel never ends.
        let tunnel = stream.request.headers.contains_key(UPGRADE);
        if stream.is_bodyless() || tunnel || stream.request.method == Method::CONNECT {
            return Flow::Continue;
        }
        stream.read_body(max.into(), |stream, read| match read {
            Read::Whole(whole) => {
                let headers = &mut stream.request.headers;
                if whole.trailers.is_none() && !headers.contains_key(CONTENT_LENGTH) {
                    headers.remove(TRANSFER_ENCODING);
                    headers.insert(CONTENT_LENGTH, whole.data.len().into());
                }
                stream.put_body(whole.boxed());
                Flow::Continue
            }
            Read::Larger(..) => Flow::reply(LocalReply::too_large()),
            Read::Broken(_) => Flow::reply(LocalReply::broken_body()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::StatusCode;

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::filter::body::{BodySlot as _, Whole};
    use crate::filter::testing::{Nowhere, TestBody, chain, pass, per_route, request};
    use crate::route::PerRoute as RouteSaid;

    fn config(max: u32) -> proto::Buffer {
        proto::Buffer {
            max_request_bytes: Some(UInt32Value { value: max }),
        }
    }

    async fn send(max: u32, body: &'static str, route: &RouteSaid) -> (Flow, TestBody, u64) {
        let chain = chain(FACTORY.message, &config(max)).unwrap();
        let mut parts = request("/", &[]);
        let mut slot = TestBody(Some(Whole::new(body).boxed()));
        let client = Ipv4Addr::LOCALHOST.into();
        let around = Nowhere::default();
        let flow = pass(&chain, &mut parts, &mut slot, route, client, &around).await;
        let length = parts.headers.get(CONTENT_LENGTH);
        let length = length.map_or(0, |v| v.to_str().unwrap().parse().unwrap());
        (flow, slot, length)
    }

    #[tokio::test]
    async fn a_body_goes_on_whole_and_with_its_length() {
        let (flow, mut slot, length) = send(6, "abcdef", &RouteSaid::default()).await;
        assert!(matches!(flow, Flow::Continue), "{flow:?}");
        assert_eq!(length, 6);
        assert_eq!(slot.take().collect().await.unwrap().to_bytes(), "abcdef");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_unless_the_route_says_otherwise() {
        let (flow, ..) = send(5, "abcdef", &RouteSaid::default()).await;
        let Flow::Reply(reply) = flow else {
            panic!("{flow:?}")
        };
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(reply.text(), "Payload Too Large");
        let message = FACTORY.per_route[0].0;
        let said = |r#override| {
            let config = proto::BufferPerRoute {
                r#override: Some(r#override),
            };
            per_route(FACTORY.name, message, &config)
        };
        for route in [Override::Disabled(true), Override::Buffer(config(6))] {
            let (flow, ..) = send(5, "abcdef", &said(route).unwrap()).await;
            assert!(matches!(flow, Flow::Continue), "{flow:?}");
        }
        let error = said(Override::Buffer(config(0))).unwrap_err().to_string();
        let expected = "buffer.max_request_bytes: must be given, and more than 0";
        assert_eq!(error, expected);
    }
}
