//! `envoy.filters.http.compressor`: sends bodies in a coding that the other side accepts.
//!
//! Several compressors may be in a chain, each with its coding; what a client accepts decides which
//! of them does it. Streams of events are never compressed, whatever configuration says: they are
//! waited for byte by byte.

mod accept;
mod direction;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::compressor::v3 as proto;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, flag, required};
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue,
    TRANSFER_ENCODING, VARY,
};
use proto::compressor_per_route::Override;

use self::accept::{Choice, choose};
use self::direction::Direction;
pub use self::direction::has_token;
use super::super::compression::{Encoding, compressor};
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use crate::route::RouteConfig;
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.compressor.v3.Compressor",
    name: "envoy.filters.http.compressor",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
        build_per_route,
    )],
};

/// Filter state: the codings of the compressors of a chain, in order, an exclamation mark behind
/// those that go before equals.
const CODINGS: &str = "causeway.compressors";

#[derive(Debug)]
struct Compressor {
    encoding: Encoding,
    choose_first: bool,
    request: Option<Direction>,
    response: Direction,
    disable_on_etag: bool,
    weaken_etag: bool,
    remove_accept_encoding: bool,
    /// Sorted.
    never: Vec<u16>,
    no_accept_header: Arc<Counter>,
}

#[derive(Debug)]
enum PerRoute {
    Disabled,
    RemoveAcceptEncoding(Option<bool>),
}

/// What the client accepts; nothing where it does not say.
struct Accepted(Option<HeaderValue>);

#[allow(deprecated, reason = "the older fields are still written")]
fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::Compressor {
        content_length,
        content_type,
        disable_on_etag_header,
        remove_accept_encoding_header,
        runtime_enabled,
        compressor_library,
        request_direction_config,
        response_direction_config,
        choose_first,
    } = decode(config)?;
    let library = required(compressor_library, "compressor_library")?;
    let (name, encoding) = compressor(library).at("compressor_library")?;
    let scope = format!("compressor.{name}.{}.", encoding.coding.word());
    let older = proto::compressor::CommonDirectionConfig {
        enabled: runtime_enabled,
        min_content_length: content_length,
        content_type,
        content_type_matcher: Vec::new(),
    };
    let request = request_direction_config
        .map(|direction| {
            let proto::compressor::RequestDirectionConfig { common_config } = direction;
            let scope = format!("{scope}request.");
            let common = common_config.unwrap_or_default();
            Direction::decode(common, false, &scope, context).at("common_config")
        })
        .transpose()
        .at("request_direction_config")?;
    let filter = match response_direction_config {
        None => Compressor {
            encoding,
            choose_first,
            request,
            response: Direction::decode(older, true, &scope, context)?,
            disable_on_etag: disable_on_etag_header,
            weaken_etag: false,
            remove_accept_encoding: remove_accept_encoding_header,
            never: Vec::new(),
            no_accept_header: context.counter(&format!("{scope}no_accept_header")),
        },
        Some(direction) => {
            let scope = format!("{scope}response.");
            let within = || {
                let proto::compressor::ResponseDirectionConfig {
                    common_config,
                    disable_on_etag_header,
                    weaken_etag_on_compress,
                    remove_accept_encoding_header,
                    uncompressible_response_codes,
                    status_header_enabled,
                } = direction;
                refuse!(status_header_enabled);
                let mut never = Vec::new();
                for code in uncompressible_response_codes {
                    let code = u16::try_from(code).ok().filter(|c| (200..600).contains(c));
                    never.push(code.ok_or_else(|| {
                        Invalid::at("uncompressible_response_codes", "must be statuses")
                    })?);
                }
                never.sort_unstable();
                let common = common_config.unwrap_or_default();
                Ok(Compressor {
                    encoding,
                    choose_first,
                    request,
                    response: Direction::decode(common, true, &scope, context)
                        .at("common_config")?,
                    disable_on_etag: disable_on_etag_header,
                    weaken_etag: weaken_etag_on_compress,
                    remove_accept_encoding: remove_accept_encoding_header,
                    never,
                    no_accept_header: context.counter(&format!("{scope}no_accept_header")),
                })
            };
            within().at("response_direction_config")?
        }
    };
    Ok(Arc::new(filter))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::CompressorPerRoute { r#override } = decode(config)?;
    Ok(RouteConfig::new(match required(r#override, "override")? {
        Override::Disabled(true) => PerRoute::Disabled,
        Override::Disabled(false) => {
            return Err(Invalid::at("disabled", "must be true if it is given"));
        }
        Override::Overrides(overrides) => {
            let within = || {
                let proto::CompressorOverrides {
                    response_direction_config,
                    compressor_library,
                } = overrides;
                refuse!(compressor_library);
                let direction = response_direction_config.unwrap_or_default();
                let proto::ResponseDirectionOverrides {
                    remove_accept_encoding_header,
                } = direction;
                let remove = remove_accept_encoding_header.map(|v| flag(Some(v), false));
                Ok(PerRoute::RemoveAcceptEncoding(remove))
            };
            within().at("overrides")?
        }
    }))
}

impl HttpFilter for Compressor {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let mut remove = self.remove_accept_encoding;
        match stream.route_config() {
            Some(PerRoute::Disabled) => return Flow::Continue,
            Some(PerRoute::RemoveAcceptEncoding(Some(told))) => remove = *told,
            _ => {}
        }
        let state = stream.state();
        let mark = if self.choose_first { "!" } else { "" };
        let before = state.value(CODINGS);
        let before = before.as_deref().unwrap_or_default();
        let name = self.encoding.coding.name();
        state.set_value(CODINGS, &format!("{before}{name}{mark},"));
        let accepted = stream.request.headers.get(ACCEPT_ENCODING).cloned();
        stream.keep(Accepted(accepted));
        if remove {
            stream.request.headers.remove(ACCEPT_ENCODING);
        }
        if let Some(direction) = &self.request
            && !stream.is_bodyless()
        {
            self.compress_request(direction, stream);
        }
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        if let Some(PerRoute::Disabled) = answer.route_config() {
            return;
        }
        let Some(accepted) = answer.kept::<Accepted>() else {
            return;
        };
        let length = self.response.is_long_enough(answer.headers);
        let possible = self.response.enabled.is_on()
            && self.response.takes(answer.headers)
            && !(self.disable_on_etag && answer.headers.contains_key(ETAG))
            && self.never.binary_search(&answer.status.as_u16()).is_err();
        let chosen = possible && length && !answer.bodyless && self.is_chosen(answer, &accepted);
        let compress = chosen
            .then(|| self.response.compress(&self.encoding))
            .flatten();
        match compress {
            Some(compress) => {
                weaken(answer.headers, self.weaken_etag);
                let coding = HeaderValue::from_static(self.encoding.coding.name());
                answer.headers.insert(CONTENT_ENCODING, coding);
                answer.transform(Box::new(compress));
                self.response.compressed.inc();
            }
            None => self.response.not_compressed.inc(),
        }
        // Caches have to know that it depends, whatever came of it this time.
        if possible && length {
            vary(answer.headers);
        }
    }
}

impl Compressor {
    fn compress_request(&self, direction: &Direction, stream: &mut Stream<'_>) {
        let headers = &mut stream.request.headers;
        let wanted = direction.enabled.is_on()
            && direction.is_long_enough(headers)
            && direction.takes(headers);
        let Some(compress) = wanted.then(|| direction.compress(&self.encoding)).flatten() else {
            direction.not_compressed.inc();
            return;
        };
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        let coding = HeaderValue::from_static(self.encoding.coding.name());
        headers.insert(CONTENT_ENCODING, coding);
        stream.transform_body(Box::new(compress));
        direction.compressed.inc();
    }

    fn is_chosen(&self, answer: &Answer<'_>, accepted: &Accepted) -> bool {
        let Some(accepted) = &accepted.0 else {
            self.no_accept_header.inc();
            return false;
        };
        let codings = answer.state().and_then(|state| state.value(CODINGS));
        let offered = codings.as_deref().unwrap_or_default();
        let offered = offered.split(',').filter(|name| !name.is_empty());
        let offered: Vec<Choice<'_>> = offered.map(Choice::written).collect();
        let accepted = accepted.to_str().unwrap_or_default();
        choose(accepted, &offered) == Some(self.encoding.coding.name())
    }
}

/// A strong tag would promise the very bytes that we change.
fn weaken(headers: &mut HeaderMap, keep: bool) {
    let Some(tag) = headers.get(ETAG) else { return };
    if tag.as_bytes().starts_with(b"W/") || tag.as_bytes().starts_with(b"w/") {
        return;
    }
    let weak = [b"W/", tag.as_bytes()].concat();
    match HeaderValue::from_bytes(&weak) {
        Ok(weak) if keep => {
            headers.insert(ETAG, weak);
        }
        _ => {
            headers.remove(ETAG);
        }
    }
}

fn vary(headers: &mut HeaderMap) {
    const NAME: &str = "Accept-Encoding";
    let all = headers.get_all(VARY).iter().filter_map(|v| v.to_str().ok());
    let all: Vec<&str> = all.collect();
    let all = all.join(", ");
    if all
        .split(',')
        .any(|token| token.trim().eq_ignore_ascii_case(NAME))
    {
        return;
    }
    let value = match all.is_empty() {
        true => NAME.to_owned(),
        false => format!("{all}, {NAME}"),
    };
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(VARY, value);
    }
}
