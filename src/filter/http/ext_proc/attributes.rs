//! Attributes of a request that the processor is told.

use std::collections::HashMap;

use causeway_xds::proto::Struct;
use causeway_xds::proto::google::protobuf::{Value, value::Kind};
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::fault;
use http::StatusCode;

use crate::filter::Stream;

/// Under which they stand in the message.
const NAMESPACE: &str = "envoy.filters.http.ext_proc";

/// One attribute, by the name that configuration has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute(&'static str);

/// Those of requests and connections, which do not change until the response.
const OF_REQUEST: [&str; 22] = [
    "request.path",
    "request.url_path",
    "request.query",
    "request.host",
    "request.scheme",
    "request.method",
    "request.referer",
    "request.useragent",
    "request.id",
    "request.protocol",
    "source.address",
    "source.port",
    "destination.address",
    "destination.port",
    "connection.id",
    "connection.mtls",
    "connection.requested_server_name",
    "connection.tls_version",
    "connection.subject_peer_certificate",
    "connection.uri_san_peer_certificate",
    "xds.cluster_name",
    "xds.route_name",
];
const OF_RESPONSE: &str = "response.code";

impl Attribute {
    pub fn parse(name: String) -> Result<Self, Invalid> {
        let mut known = OF_REQUEST.iter().chain([&OF_RESPONSE]);
        let known = known.find(|known| **known == name).copied();
        known
            .map(Self)
            .ok_or_else(|| fault(format!("the attribute {name:?} is not supported yet")))
    }

    /// `None`: there is no such thing.
    fn of(self, stream: &Stream<'_>) -> Option<Kind> {
        let request = &*stream.request;
        let downstream = stream.downstream();
        let text = |text: &str| Some(Kind::StringValue(text.to_owned()));
        let header = |name: &str| {
            let value = request.headers.get(name)?;
            text(&String::from_utf8_lossy(value.as_bytes()))
        };
        let peer = downstream.session.and_then(|session| session.peer.as_ref());
        match self.0 {
            "request.path" => text(request.uri.path_and_query()?.as_str()),
            "request.url_path" => text(request.uri.path()),
            "request.query" => text(request.uri.query().unwrap_or_default()),
            "request.host" => header("host"),
            "request.scheme" => header("x-forwarded-proto")
                .or_else(|| text(["http", "https"][usize::from(stream.tls)])),
            "request.method" => text(request.method.as_str()),
            "request.referer" => header("referer"),
            "request.useragent" => header("user-agent"),
            "request.id" => header("x-request-id"),
            "request.protocol" => text(match request.version {
                http::Version::HTTP_2 => "HTTP/2",
                http::Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            }),
            "source.address" => text(&downstream.peer?.to_string()),
            "source.port" => Some(Kind::NumberValue(downstream.peer?.port().into())),
            "destination.address" => text(&downstream.local?.to_string()),
            "destination.port" => Some(Kind::NumberValue(downstream.local?.port().into())),
            "connection.id" => Some(Kind::NumberValue(downstream.id as f64)),
            "connection.mtls" => Some(Kind::BoolValue(peer.is_some())),
            "connection.requested_server_name" => text(downstream.requested_server_name),
            "connection.tls_version" => text(downstream.session?.version),
            "connection.subject_peer_certificate" => text(&peer?.names.subject),
            "connection.uri_san_peer_certificate" => text(peer?.names.uris.first()?),
            "xds.cluster_name" => text(stream.cluster()),
            "xds.route_name" => text(&stream.route()?.name),
            _ => None,
        }
    }
}

pub type Attributes = HashMap<String, Struct>;

fn told(fields: HashMap<String, Value>) -> Attributes {
    match fields.is_empty() {
        true => Attributes::new(),
        false => Attributes::from([(NAMESPACE.to_owned(), Struct { fields })]),
    }
}

/// Of a request.
pub fn of_request(all: &[Attribute], stream: &Stream<'_>) -> HashMap<String, Value> {
    let fields = all.iter().filter_map(|attribute| {
        let kind = Some(attribute.of(stream)?);
        Some((attribute.0.to_owned(), Value { kind }))
    });
    fields.collect()
}

/// Of a request as they are sent.
pub fn request(all: &[Attribute], stream: &Stream<'_>) -> Attributes {
    told(of_request(all, stream))
}

/// Of a response: what was known of the request already, and what is known now.
pub fn response(
    all: &[Attribute],
    mut before: HashMap<String, Value>,
    status: StatusCode,
) -> Attributes {
    if all.iter().any(|attribute| attribute.0 == OF_RESPONSE) {
        let kind = Some(Kind::NumberValue(status.as_u16().into()));
        before.insert(OF_RESPONSE.to_owned(), Value { kind });
    }
    told(before)
}
