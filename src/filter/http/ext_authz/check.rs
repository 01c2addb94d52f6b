//! What the service is told of a request.

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use causeway_xds::proto::Struct;
use causeway_xds::proto::core::address::Address as Kind;
use causeway_xds::proto::core::socket_address::PortSpecifier;
use causeway_xds::proto::core::{Address, HeaderMap as RawHeaders, HeaderValue as Raw};
use causeway_xds::proto::core::{Metadata, SocketAddress};
use causeway_xds::proto::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request as Attributes, TlsSession,
};
use causeway_xds::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use causeway_xds::proto::google::protobuf::{ListValue, Timestamp, Value, value};
use causeway_xds::resource::format::Holder;
use causeway_xds::resource::metadata::MetadataValue;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Version};

use super::config::{AnyOf, HttpService, PathRule};
use crate::filter::Stream;
use crate::tls::Session;

const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// What was read of the body for the service.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub data: Bytes,
    /// There is more of it; `None` where nothing was read.
    pub partial: Option<bool>,
}

/// Which headers the service sees.
#[derive(Clone, Copy)]
pub struct Shown<'c> {
    pub allowed: Option<&'c AnyOf>,
    pub disallowed: Option<&'c AnyOf>,
}

impl Shown<'_> {
    fn has(&self, name: &str, otherwise: bool) -> bool {
        self.allowed.map_or(otherwise, |list| list.matches(name))
            && !self.disallowed.is_some_and(|list| list.matches(name))
    }
}

/// The request to an HTTP service. `add` are the headers that configuration adds.
pub fn http_request(
    request: &Parts,
    service: &HttpService,
    shown: Shown<'_>,
    seen: Seen,
    add: Vec<(HeaderName, HeaderValue)>,
) -> Option<Request<Bytes>> {
    let path = match &service.path {
        PathRule::Instead(path) => path.clone(),
        PathRule::Prefix(prefix) => {
            let path = request
                .uri
                .path_and_query()
                .map_or("/", |path| path.as_str());
            format!("{prefix}{path}")
        }
    };
    let (mut head, ()) = Request::builder()
        .method(request.method.clone())
        .uri(path)
        .body(())
        .ok()?
        .into_parts();
    let shown = Shown {
        allowed: service.allowed_headers.as_ref().or(shown.allowed),
        ..shown
    };
    let always = [HOST, AUTHORIZATION];
    for name in request.headers.keys() {
        let denied = shown
            .disallowed
            .is_some_and(|list| list.matches(name.as_str()));
        let wanted = match always.contains(name) {
            true => *name == HOST || !denied,
            false => shown.has(name.as_str(), false) && !is_hop_by_hop(name),
        };
        if wanted && *name != CONTENT_LENGTH && *name != PARTIAL_BODY {
            head.headers.insert(name, joined(&request.headers, name)?);
        }
    }
    if let Some(partial) = seen.partial {
        let value = HeaderValue::from_static(if partial { "true" } else { "false" });
        head.headers.insert(PARTIAL_BODY, value);
    }
    head.headers.insert(CONTENT_LENGTH, seen.data.len().into());
    for (name, value) in add {
        head.headers.insert(name, value);
    }
    Some(Request::from_parts(head, seen.data))
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "transfer-encoding" | "te" | "upgrade" | "proxy-connection"
    )
}

/// All values of a field as one, so that the service sees each of them.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let rest: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
    if rest.is_empty() {
        return Some(first.clone());
    }
    let all: Vec<&[u8]> = std::iter::once(first.as_bytes()).chain(rest).collect();
    HeaderValue::from_bytes(&all.join(&b","[..])).ok()
}

/// What a message for a gRPC service is made with.
pub struct Grpc<'c> {
    pub shown: Shown<'c>,
    pub context: Vec<(&'c str, &'c str)>,
    /// Namespaces of dynamic metadata, and of the route's.
    pub metadata: &'c [String],
    pub route_metadata: &'c [String],
    pub certificate: bool,
    pub session: bool,
    pub raw_headers: bool,
    pub body_as_bytes: bool,
}

impl Grpc<'_> {
    pub fn message(&self, stream: &Stream<'_>, seen: Seen) -> CheckRequest {
        let downstream = stream.downstream();
        let session = downstream.session;
        let sni = downstream.requested_server_name;
        let state = stream.state();
        let dynamic = |namespace: &String| Some((*state.metadata(namespace)?).clone());
        let of_route = |namespace: &String| {
            let found =
                |facts: &dyn crate::formatter::Facts| facts.metadata(Holder::Route, namespace, &[]);
            stream.with_facts(found).flatten()
        };
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(source(downstream.peer, session, self.certificate)),
                destination: Some(destination(downstream.local, session)),
                request: Some(Attributes {
                    time: Some(now()),
                    http: Some(self.http(stream, seen)),
                }),
                context_extensions: self.context.iter().map(own).collect(),
                metadata_context: Some(metadata(self.metadata, dynamic)),
                route_metadata_context: Some(metadata(self.route_metadata, of_route)),
                tls_session: (self.session && session.is_some()).then(|| TlsSession {
                    sni: sni.to_owned(),
                }),
            }),
        }
    }

    fn http(&self, stream: &Stream<'_>, seen: Seen) -> HttpRequest {
        let request = &*stream.request;
        let text = |value: &HeaderValue| sanitized(value.as_bytes());
        let first = |name: &str| request.headers.get(name).map(text).unwrap_or_default();
        let path = request
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let host = first("host");
        let tls = if stream.tls { "https" } else { "http" };
        let scheme = Some(first("x-forwarded-proto")).filter(|s| !s.is_empty());
        let scheme = scheme.unwrap_or_else(|| tls.to_owned());
        let pseudo = [
            (":method", request.method.as_str()),
            (":path", path),
            (":authority", &host),
            (":scheme", &scheme),
        ];
        let mut message = HttpRequest {
            id: first("x-request-id"),
            method: request.method.to_string(),
            path: path.to_owned(),
            host: host.clone(),
            scheme: scheme.clone(),
            size: first("content-length").parse().unwrap_or(-1),
            protocol: protocol(request.version).to_owned(),
            ..HttpRequest::default()
        };
        // What only this filter may say is not taken from the client.
        let own = |name: &HeaderName| *name == HOST || *name == PARTIAL_BODY;
        let names = request.headers.keys().filter(|name| !own(name));
        let shown = |name: &&HeaderName| self.shown.has(name.as_str(), true);
        if self.raw_headers {
            let mut headers: Vec<Raw> = Vec::new();
            let raw = |name: &str, value: &[u8]| Raw {
                key: name.to_owned(),
                raw_value: value.to_vec(),
                ..Raw::default()
            };
            headers.extend(
                pseudo
                    .iter()
                    .map(|(name, value)| raw(name, value.as_bytes())),
            );
            for name in names.filter(shown) {
                let values = request.headers.get_all(name).iter();
                headers.extend(values.map(|value| raw(name.as_str(), value.as_bytes())));
            }
            message.header_map = Some(RawHeaders { headers });
        } else {
            for (name, value) in pseudo {
                if self.shown.has(name, true) {
                    message.headers.insert(name.to_owned(), value.to_owned());
                }
            }
            for name in names.filter(shown) {
                let values: Vec<String> = request.headers.get_all(name).iter().map(text).collect();
                message
                    .headers
                    .insert(name.as_str().to_owned(), values.join(","));
            }
        }
        if let Some(partial) = seen.partial {
            let name = PARTIAL_BODY.as_str().to_owned();
            message.headers.insert(name, partial.to_string());
        }
        match self.body_as_bytes {
            true => message.raw_body = seen.data.to_vec(),
            false => message.body = sanitized(&seen.data),
        }
        message
    }
}

/// A field of this kind holds UTF-8 only.
fn sanitized(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::REPLACEMENT_CHARACTER, "!")
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// Who calls; with the certificate if `shown` says so.
pub fn source(address: Option<SocketAddr>, session: Option<&Session>, shown: bool) -> Peer {
    let mut source = peer(address);
    if let Some(certificate) = session.and_then(|session| session.peer.as_ref()) {
        let names = &certificate.names;
        let first = names.uris.first().or(names.dns.first());
        source.principal = first.cloned().unwrap_or_else(|| names.subject.clone());
        if shown {
            source.certificate = certificate.encoded();
        }
    }
    source
}

/// Who is called.
pub fn destination(address: Option<SocketAddr>, session: Option<&Session>) -> Peer {
    let own = session.and_then(|session| session.local_uris.first());
    Peer {
        principal: own.cloned().unwrap_or_default(),
        ..peer(address)
    }
}

fn peer(address: Option<SocketAddr>) -> Peer {
    let socket = |address: SocketAddr| Address {
        address: Some(Kind::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..SocketAddress::default()
        })),
    };
    Peer {
        address: address.map(socket),
        ..Peer::default()
    }
}

/// When a question is asked.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

/// The namespaces that there are, as a message.
pub fn metadata(
    namespaces: &[String],
    find: impl Fn(&String) -> Option<MetadataValue>,
) -> Metadata {
    let found = namespaces.iter().filter_map(|namespace| {
        let fields = structure(&find(namespace)?)?;
        Some((namespace.clone(), fields))
    });
    Metadata {
        filter_metadata: found.collect(),
        ..Metadata::default()
    }
}

fn structure(value: &MetadataValue) -> Option<Struct> {
    let MetadataValue::Object(fields) = value else {
        return None;
    };
    let fields = fields
        .iter()
        .map(|(key, value)| (key.clone(), written(value)));
    Some(Struct {
        fields: fields.collect(),
    })
}

fn written(value: &MetadataValue) -> Value {
    let kind = match value {
        MetadataValue::Null => value::Kind::NullValue(0),
        MetadataValue::Bool(value) => value::Kind::BoolValue(*value),
        MetadataValue::Number(value) => value::Kind::NumberValue(*value),
        MetadataValue::Text(text) => value::Kind::StringValue(text.clone()),
        MetadataValue::List(list) => value::Kind::ListValue(ListValue {
            values: list.iter().map(written).collect(),
        }),
        MetadataValue::Object(_) => value::Kind::StructValue(structure(value).unwrap_or_default()),
    };
    Value { kind: Some(kind) }
}
