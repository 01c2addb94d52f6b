//! `causeway.forwarded`: tells the upstream what the client called it.
//!
//! Configuration: `xds/proto/causeway/v1/circuit.proto`. `x-forwarded-for` and
//! `x-forwarded-proto` are the connection manager's; this filter adds `x-forwarded-host`,
//! `x-forwarded-port` and `forwarded`, and what RStudio wants. What a client sends of these is
//! believed as far as the fields are meant to be, and only if it can be a host: the values go into
//! fields with a grammar of their own.

mod words;

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::causeway::v1 as proto;
use causeway_xds::reject::Invalid;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use self::words::Words;
use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, Stream};
use crate::route::RouteConfig;

pub const FACTORY: Factory = Factory {
    message: "causeway.v1.Forwarded",
    name: "causeway.forwarded",
    build,
    per_route: &[("causeway.v1.ForwardedPerRoute", build_per_route)],
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_RSTUDIO_PROTO: HeaderName = HeaderName::from_static("x-rstudio-proto");
const X_RSTUDIO_REQUEST: HeaderName = HeaderName::from_static("x-rstudio-request");

#[derive(Debug)]
struct Forwarded {
    proto: Option<HeaderValue>,
    client_only: bool,
}

#[derive(Debug)]
struct RouteForwarded {
    rstudio: bool,
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::Forwarded { proto, client_only } = decode(config)?;
    let proto = match proto.as_str() {
        "" => None,
        "http" => Some(HeaderValue::from_static("http")),
        "https" => Some(HeaderValue::from_static("https")),
        other => {
            let reason = format!("{other:?} is neither \"http\" nor \"https\"");
            return Err(Invalid::at("proto", reason));
        }
    };
    Ok(Arc::new(Forwarded { proto, client_only }))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::ForwardedPerRoute { rstudio } = decode(config)?;
    Ok(RouteConfig::new(RouteForwarded { rstudio }))
}

impl HttpFilter for Forwarded {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let route = stream.route_config::<RouteForwarded>();
        let tls = stream.tls;
        let path = stream.request.uri.path();
        let headers = &mut stream.request.headers;
        let fields = Fields::of(headers);
        // One entry is what the connection manager wrote: the peer, who is the client then.
        let client = (self.client_only
            && fields
                .forwarded_for
                .is_some_and(|value| value.as_bytes().contains(&b',')))
        .then(|| HeaderValue::from_str(&stream.client.to_string()).ok())
        .flatten();
        let scheme = scheme(self.proto.as_ref().or(fields.proto), tls);
        let mut words = fields
            .forwarded_host
            .and_then(|told| words::of(told, scheme));
        let told = words.is_some();
        let own = if told { None } else { fields.host.cloned() };
        if let Some(host) = &own {
            words = words::of(host, scheme);
        }
        let rstudio = route
            .filter(|route| route.rstudio && path.starts_with('/'))
            .and_then(|_| {
                let host = words::told(own.as_ref().or(fields.forwarded_host)?)?;
                let request = [scheme, "://", host, path].concat();
                let proto = HeaderValue::from_str(scheme).ok()?;
                Some((proto, HeaderValue::from_str(&request).ok()?))
            });
        if let Some(client) = client {
            headers.insert(X_FORWARDED_FOR, client);
        }
        if let Some(proto) = &self.proto {
            headers.insert(X_FORWARDED_PROTO, proto.clone());
        }
        // What the client said stays, if it can be a host.
        match own {
            Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
            None if told => {}
            None => drop(headers.remove(X_FORWARDED_HOST)),
        }
        let Some(Words { port, forwarded }) = words else {
            // A host may be empty (RFC 9110 section 7.2). What is left is nobody's word.
            headers.remove(X_FORWARDED_PORT);
            headers.remove(FORWARDED);
            return Flow::Continue;
        };
        headers.insert(X_FORWARDED_PORT, port);
        headers.insert(FORWARDED, forwarded);
        if let Some((proto, request)) = rstudio {
            headers.insert(X_RSTUDIO_PROTO, proto);
            headers.insert(X_RSTUDIO_REQUEST, request);
        }
        Flow::Continue
    }
}

/// What a request says of these, found in one pass: each separate look-up would hash a name.
#[derive(Default)]
struct Fields<'h> {
    host: Option<&'h HeaderValue>,
    forwarded_for: Option<&'h HeaderValue>,
    forwarded_host: Option<&'h HeaderValue>,
    proto: Option<&'h HeaderValue>,
}

impl<'h> Fields<'h> {
    fn of(headers: &'h HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            let place = match name.len() {
                4 if name == "host" => &mut found.host,
                15 if name == "x-forwarded-for" => &mut found.forwarded_for,
                16 if name == "x-forwarded-host" => &mut found.forwarded_host,
                17 if name == "x-forwarded-proto" => &mut found.proto,
                _ => continue,
            };
            // Of several fields of a name the first counts.
            place.get_or_insert(value);
        }
        found
    }
}

fn scheme(told: Option<&HeaderValue>, tls: bool) -> &str {
    match told.map(HeaderValue::as_bytes) {
        // What nearly every request says, of whichever connection manager.
        Some(b"http") => return "http",
        Some(b"https") => return "https",
        _ => {}
    }
    let told = told.and_then(|v| v.to_str().ok());
    let first = told.and_then(|v| v.split(',').next()).map(str::trim);
    let of_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    match first {
        Some(scheme) if !scheme.is_empty() && scheme.bytes().all(of_scheme) => scheme,
        _ if tls => "https",
        _ => "http",
    }
}

#[cfg(test)]
mod tests;
