//! Which bodies are compressed, on the way up or on the way down.

use std::sync::Arc;

use causeway_xds::proto::envoy::extensions::filters::http::compressor::v3::compressor as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, each, string_matcher};
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName,
};

use crate::filter::compression::{Compress, Encoding};
use crate::filter::flag::Flag;
use crate::filter::registry::Context;
use crate::matching::text::Test;
use crate::telemetry::stats::Counter;

/// `min_content_length` when it is not given.
const MIN_LENGTH: u64 = 30;
/// `content_type` when it is not given.
const TYPES: [&str; 18] = [
    "application/ecmascript",
    "application/javascript",
    "application/json",
    "application/x-javascript",
    "application/x-json",
    "application/xhtml+xml",
    "application/xml",
    "image/svg+xml",
    "text/css",
    "text/ecmascript",
    "text/html",
    "text/javascript",
    "text/js",
    "text/jscript",
    "text/plain",
    "text/x-javascript",
    "text/x-js",
    "text/xml",
];
/// Is waited for byte by byte.
const EVENTS: &str = "text/event-stream";

#[derive(Debug)]
pub struct Direction {
    pub enabled: Flag,
    min_length: u64,
    types: Vec<String>,
    matchers: Vec<Test>,
    pub compressed: Arc<Counter>,
    pub not_compressed: Arc<Counter>,
    too_small: Arc<Counter>,
    taken: Arc<Counter>,
    given: Arc<Counter>,
}

impl Direction {
    /// `scope` of the counters, which ends with a dot.
    #[allow(deprecated, reason = "the older list of types is still written")]
    pub fn decode(
        message: proto::CommonDirectionConfig,
        enabled_by_default: bool,
        scope: &str,
        context: &Context,
    ) -> Result<Self, Invalid> {
        let proto::CommonDirectionConfig {
            enabled,
            min_content_length,
            content_type,
            content_type_matcher,
        } = message;
        let enabled = enabled
            .map(|flag| Flag::decode(flag, &context.layers))
            .transpose()
            .at("enabled")?;
        let types = match content_type.is_empty() && content_type_matcher.is_empty() {
            true => TYPES.iter().map(|name| (*name).to_owned()).collect(),
            false => content_type
                .iter()
                .map(|t| t.to_ascii_lowercase())
                .collect(),
        };
        let matchers = each("content_type_matcher", content_type_matcher, |m| {
            string_matcher(m).map(|matcher| Test::string(&matcher))
        })?;
        let counter = |name: &str| context.counter(&format!("{scope}{name}"));
        Ok(Self {
            enabled: enabled.unwrap_or(Flag::fixed(enabled_by_default)),
            min_length: min_content_length.map_or(MIN_LENGTH, |v| v.value.into()),
            types,
            matchers,
            compressed: counter("compressed"),
            not_compressed: counter("not_compressed"),
            too_small: counter("content_length_too_small"),
            taken: counter("total_uncompressed_bytes"),
            given: counter("total_compressed_bytes"),
        })
    }

    /// A body whose length nobody knows may be long.
    pub fn is_long_enough(&self, headers: &HeaderMap) -> bool {
        let Some(length) = headers.get(CONTENT_LENGTH) else {
            return true;
        };
        let length = length
            .to_str()
            .ok()
            .and_then(|text| text.parse::<u64>().ok());
        let enough = length.is_some_and(|length| length >= self.min_length);
        if !enough {
            self.too_small.inc();
        }
        enough
    }

    /// Whether it is a kind of body that may be compressed, and is not yet.
    pub fn takes(&self, headers: &HeaderMap) -> bool {
        !headers.contains_key(CONTENT_ENCODING)
            && !has_token(headers, &CACHE_CONTROL, "no-transform")
            && self.takes_type(headers)
    }

    fn takes_type(&self, headers: &HeaderMap) -> bool {
        let Some(kind) = headers.get(CONTENT_TYPE) else {
            return true;
        };
        let text = String::from_utf8_lossy(kind.as_bytes());
        let name = text.split(';').next().unwrap_or_default().trim();
        let name = name.to_ascii_lowercase();
        name != EVENTS
            && (self.types.contains(&name)
                || self
                    .matchers
                    .iter()
                    .any(|test| test.matches(name.as_bytes())))
    }

    pub fn compress(&self, encoding: &Encoding) -> Option<Compress> {
        Compress::new(encoding, Arc::clone(&self.taken), Arc::clone(&self.given)).ok()
    }
}

/// Whether one of the values of a field has a token.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}
