//! `envoy.filters.http.decompressor`: takes bodies out of a coding, for whoever does not know it.
//!
//! A body that becomes more than its bound allows breaks off; so does one that is not what its
//! `content-encoding` says.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::decompressor::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, flag, required};
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue,
    TRANSFER_ENCODING,
};

use super::super::compression::{Decoding, Decompress, decompressor};
use super::super::flag::Flag;
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use super::compressor::has_token;
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.decompressor.v3.Decompressor",
    name: "envoy.filters.http.decompressor",
    build,
    per_route: &[],
};

#[derive(Debug)]
struct Decompressor {
    decoding: Decoding,
    /// Upstreams are told that we take the coding.
    advertise: bool,
    request: Direction,
    response: Direction,
}

#[derive(Debug)]
struct Direction {
    enabled: Flag,
    ignore_no_transform: bool,
    decompressed: Arc<Counter>,
    not_decompressed: Arc<Counter>,
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::Decompressor {
        decompressor_library,
        request_direction_config,
        response_direction_config,
    } = decode(config)?;
    let library = required(decompressor_library, "decompressor_library")?;
    let (name, decoding) = decompressor(library).at("decompressor_library")?;
    let scope = format!("decompressor.{name}.{}.", decoding.coding.word());
    let proto::decompressor::RequestDirectionConfig {
        common_config: request,
        advertise_accept_encoding,
    } = request_direction_config.unwrap_or_default();
    let proto::decompressor::ResponseDirectionConfig {
        common_config: response,
    } = response_direction_config.unwrap_or_default();
    let direction = |common: Option<_>, side: &str| {
        Direction::decode(
            common.unwrap_or_default(),
            &format!("{scope}{side}."),
            context,
        )
        .at("common_config")
        .at(&format!("{side}_direction_config"))
    };
    Ok(Arc::new(Decompressor {
        decoding,
        advertise: flag(advertise_accept_encoding, false),
        request: direction(request, "request")?,
        response: direction(response, "response")?,
    }))
}

impl Direction {
    fn decode(
        message: proto::decompressor::CommonDirectionConfig,
        scope: &str,
        context: &Context,
    ) -> Result<Self, Invalid> {
        let proto::decompressor::CommonDirectionConfig {
            enabled,
            ignore_no_transform_header,
        } = message;
        let enabled = enabled
            .map(|flag| Flag::decode(flag, &context.layers))
            .transpose()
            .at("enabled")?;
        Ok(Self {
            enabled: enabled.unwrap_or(Flag::fixed(true)),
            ignore_no_transform: ignore_no_transform_header,
            decompressed: context.counter(&format!("{scope}decompressed")),
            not_decompressed: context.counter(&format!("{scope}not_decompressed")),
        })
    }

    /// The head is that of the plain body then.
    fn begin(&self, decoding: &Decoding, headers: &mut HeaderMap) -> Option<Decompress> {
        let begun = self
            .is_wanted(decoding, headers)
            .then(|| Decompress::new(decoding).ok())
            .flatten();
        match &begun {
            None => self.not_decompressed.inc(),
            Some(_) => {
                self.decompressed.inc();
                headers.remove(CONTENT_ENCODING);
                headers.remove(CONTENT_LENGTH);
                headers.remove(TRANSFER_ENCODING);
            }
        }
        begun
    }

    fn is_wanted(&self, decoding: &Decoding, headers: &HeaderMap) -> bool {
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        let one = codings.next().and_then(|value| value.to_str().ok());
        self.enabled.is_on()
            && codings.next().is_none()
            && one.is_some_and(|one| one.trim().eq_ignore_ascii_case(decoding.coding.name()))
            && (self.ignore_no_transform || !has_token(headers, &CACHE_CONTROL, "no-transform"))
    }
}

impl HttpFilter for Decompressor {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        if self.advertise {
            advertise(&mut stream.request.headers, self.decoding.coding.name());
        }
        if !stream.is_bodyless()
            && let Some(begun) = self
                .request
                .begin(&self.decoding, &mut stream.request.headers)
        {
            stream.transform_body(Box::new(begun));
        }
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        if !answer.bodyless
            && let Some(begun) = self.response.begin(&self.decoding, answer.headers)
        {
            answer.transform(Box::new(begun));
        }
    }
}

fn advertise(headers: &mut HeaderMap, coding: &'static str) {
    if !has_token(headers, &ACCEPT_ENCODING, coding) {
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static(coding));
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::proto::core::TypedExtensionConfig;
    use causeway_xds::proto::envoy::extensions::compression::gzip::decompressor::v3::Gzip;
    use causeway_xds::proto::{Any, BoolValue, Message};
    use http_body_util::BodyExt as _;
    use std::io::Write as _;

    use super::*;
    use crate::filter::body::{BodySlot as _, Whole};
    use crate::filter::testing::{Nowhere, TestBody, chain, request};
    use crate::route::PerRoute as RouteSaid;

    fn config() -> proto::Decompressor {
        proto::Decompressor {
            decompressor_library: Some(TypedExtensionConfig {
                name: "lib".into(),
                typed_config: Some(Any {
                    type_url:
                        "type.googleapis.com/envoy.extensions.compression.gzip.decompressor.v3.Gzip"
                            .into(),
                    value: Gzip::default().encode_to_vec(),
                }),
            }),
            request_direction_config: Some(proto::decompressor::RequestDirectionConfig {
                common_config: None,
                advertise_accept_encoding: Some(BoolValue { value: true }),
            }),
            ..Default::default()
        }
    }

    fn gzipped(text: &str) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(text.as_bytes()).unwrap();
        writer.finish().unwrap()
    }

    async fn sent(headers: &[(&str, &str)], body: Vec<u8>) -> (HeaderMap, Option<Vec<u8>>) {
        let chain = chain(FACTORY.message, &config()).unwrap();
        let around = Nowhere::default();
        let mut parts = request("/", headers);
        let mut slot = TestBody(Some(Whole::new(body).boxed()));
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        let mut stream = Stream::new(&mut parts, &mut slot, client, &around);
        let flow = chain.request(&mut stream, &RouteSaid::default(), &mut 0);
        assert!(matches!(flow, Flow::Continue), "{flow:?}");
        let whole = slot.take().collect().await.ok();
        (parts.headers, whole.map(|w| w.to_bytes().to_vec()))
    }

    #[tokio::test]
    async fn a_request_goes_on_in_plain_and_asks_for_the_coding() {
        let headers = [("content-encoding", "gzip"), ("content-length", "29")];
        let (headers, body) = sent(&headers, gzipped("hello")).await;
        assert_eq!(body.unwrap(), b"hello");
        assert!(!headers.contains_key("content-encoding"));
        assert!(!headers.contains_key("content-length"));
        assert_eq!(headers["accept-encoding"], "gzip");
    }

    #[tokio::test]
    async fn what_is_in_another_coding_or_may_not_be_changed_passes() {
        for headers in [
            vec![("content-encoding", "br")],
            vec![("content-encoding", "gzip, br")],
            vec![
                ("content-encoding", "gzip"),
                ("cache-control", "no-transform"),
            ],
            vec![],
        ] {
            let (_, body) = sent(&headers, b"as it is".to_vec()).await;
            assert_eq!(body.unwrap(), b"as it is", "{headers:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_not_what_it_says_breaks_off() {
        let (_, body) = sent(&[("content-encoding", "gzip")], b"no gzip".to_vec()).await;
        assert_eq!(body, None);
        let mut cut = gzipped("hello hello hello");
        cut.truncate(cut.len() - 6);
        let (_, body) = sent(&[("content-encoding", "gzip")], cut).await;
        assert_eq!(body, None);
    }
}
