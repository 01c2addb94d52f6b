//! `causeway.forwarded`: tells the upstream what the client called it.
//!
//! Configuration: `xds/proto/causeway/v1/circuit.proto`. `x-forwarded-for` and
//! `x-forwarded-proto` are the connection manager's; this filter adds `x-forwarded-host`,
//! `x-forwarded-port` and `forwarded`, and what RStudio wants. What a client sends of these is
//! believed as far as the fields are meant to be, and only if it can be a host: the values go into
//! fields with a grammar of their own.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::causeway::v1 as proto;
use causeway_xds::reject::Invalid;
use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};

use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, RouteConfig, Stream};

pub const FACTORY: Factory = Factory {
    message: "causeway.v1.Forwarded",
    name: "causeway.forwarded",
    build,
    per_route: Some(build_per_route),
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
    Ok(Arc::new(RouteForwarded { rstudio }))
}

impl HttpFilter for Forwarded {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let route = stream.route_config::<RouteForwarded>();
        let tls = stream.tls;
        let client = stream.client;
        let path = stream.request.uri.path();
        let headers = &mut stream.request.headers;
        // One entry is what the connection manager wrote: the peer, who is the client then.
        if self.client_only
            && headers
                .get(X_FORWARDED_FOR)
                .is_some_and(|value| value.as_bytes().contains(&b','))
            && let Ok(client) = HeaderValue::from_str(&client.to_string())
        {
            headers.insert(X_FORWARDED_FOR, client);
        }
        if let Some(proto) = &self.proto {
            headers.insert(X_FORWARDED_PROTO, proto.clone());
        }
        if told(headers, &X_FORWARDED_HOST).is_none() {
            match headers.get(HOST).cloned() {
                Some(host) => headers.insert(X_FORWARDED_HOST, host),
                None => headers.remove(X_FORWARDED_HOST),
            };
        }
        let scheme = scheme(headers, tls);
        let Some(host) = told(headers, &X_FORWARDED_HOST) else {
            // A host may be empty (RFC 9110 section 7.2). What is left is nobody's word.
            headers.remove(X_FORWARDED_PORT);
            headers.remove(FORWARDED);
            return Flow::Continue;
        };
        let port = match port(host) {
            Some(port) => HeaderValue::from(port),
            None if matches!(scheme, "https" | "wss") => HeaderValue::from_static("443"),
            None => HeaderValue::from_static("80"),
        };
        let forwarded = forwarded(host, scheme);
        let rstudio = route
            .is_some_and(|route| route.rstudio && path.starts_with('/'))
            .then(|| {
                let request = [scheme, "://", host, path].concat();
                (
                    HeaderValue::from_str(scheme),
                    HeaderValue::from_str(&request),
                )
            });
        headers.insert(X_FORWARDED_PORT, port);
        match forwarded {
            Some(forwarded) => headers.insert(FORWARDED, forwarded),
            None => headers.remove(FORWARDED),
        };
        if let Some((Ok(proto), Ok(request))) = rstudio {
            headers.insert(X_RSTUDIO_PROTO, proto);
            headers.insert(X_RSTUDIO_REQUEST, request);
        }
        Flow::Continue
    }
}

/// The first of what a field lists, if it can be a host with or without a port.
fn told<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let first = headers.get(name)?.to_str().ok()?.split(',').next()?.trim();
    let of_host = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&b);
    (!first.is_empty() && first.bytes().all(of_host)).then_some(first)
}

fn scheme(headers: &HeaderMap, tls: bool) -> &str {
    let told = headers.get(X_FORWARDED_PROTO).and_then(|v| v.to_str().ok());
    let first = told.and_then(|v| v.split(',').next()).map(str::trim);
    let of_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    match first {
        Some(scheme) if !scheme.is_empty() && scheme.bytes().all(of_scheme) => scheme,
        _ if tls => "https",
        _ => "http",
    }
}

/// The port of `name:port` or `[address]:port`.
fn port(host: &str) -> Option<u16> {
    let after = match host.rsplit_once(']') {
        Some((_, after)) => after,
        None => &host[host.find(':')?..],
    };
    after.strip_prefix(':')?.parse().ok()
}

/// RFC 7239 section 4: a value that is no token is quoted. Neither quotes nor backslashes can be
/// part of a host.
fn forwarded(host: &str, scheme: &str) -> Option<HeaderValue> {
    let of_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let quote = match host.bytes().all(of_token) {
        true => "",
        false => "\"",
    };
    let value = ["host=", quote, host, quote, ";proto=", scheme].concat();
    HeaderValue::try_from(value).ok()
}

#[cfg(test)]
mod tests;
