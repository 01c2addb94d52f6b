//! Who is judged: what rules may ask of a connection and of a request.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use causeway_xds::resource::metadata::MetadataValue;
use http::request::Parts;

use crate::filter::{Stream, StreamState};
use crate::matching::headers::{Headers, Values, joined, request_values};
use crate::matching::tree::{Input, Inputs};
use crate::tls::{Names, Session};
use crate::util::percent_decoded;

/// Values by namespace that others have left.
pub trait Metadata {
    /// What filters have noted.
    fn dynamic(&self, namespace: &str) -> Option<Rc<MetadataValue>>;
    /// What the route carries.
    fn of_route(&self, namespace: &str) -> Option<Rc<MetadataValue>>;
    /// An object of the filter state, as text.
    fn state(&self, key: &str) -> Option<Rc<str>>;
}

/// What was left of a connection, which has no route.
impl Metadata for StreamState {
    fn dynamic(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        self.metadata(namespace)
    }
    fn of_route(&self, _: &str) -> Option<Rc<MetadataValue>> {
        None
    }
    fn state(&self, key: &str) -> Option<Rc<str>> {
        self.value(key)
    }
}

/// Nothing was left.
impl Metadata for () {
    fn dynamic(&self, _: &str) -> Option<Rc<MetadataValue>> {
        None
    }
    fn of_route(&self, _: &str) -> Option<Rc<MetadataValue>> {
        None
    }
    fn state(&self, _: &str) -> Option<Rc<str>> {
        None
    }
}

/// What filters have left of a stream, and what its route carries.
pub struct Left<'a, 's>(pub &'a Stream<'s>);

impl Metadata for Left<'_, '_> {
    fn dynamic(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        self.0.state().metadata(namespace)
    }

    fn of_route(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        let mut all = self.0.route()?.metadata.iter();
        let found = all.find(|(name, _)| name == namespace);
        found.map(|(_, value)| Rc::new(value.clone()))
    }

    fn state(&self, key: &str) -> Option<Rc<str>> {
        self.0.state().value(key)
    }
}

#[derive(Clone, Copy)]
pub struct Subject<'s> {
    /// `None` for a connection.
    pub request: Option<&'s Parts>,
    /// The address that the connection came in on.
    pub local: Option<SocketAddr>,
    /// The address at the other end of the connection.
    pub peer: Option<IpAddr>,
    pub peer_port: Option<u16>,
    /// The client, as forwarded headers tell it.
    pub client: Option<IpAddr>,
    pub tls: Option<&'s Session>,
    /// SNI; empty where there is none.
    pub server_name: &'s str,
    pub metadata: &'s dyn Metadata,
}

impl<'a> Subject<'a> {
    /// Of a request; `left` is of the same stream.
    pub fn of(stream: &'a Stream<'_>, left: &'a Left<'_, '_>) -> Self {
        let downstream = stream.downstream();
        Self {
            request: Some(&*stream.request),
            local: downstream.local,
            peer: downstream.peer.map(|peer| peer.ip()),
            peer_port: downstream.peer.map(|peer| peer.port()),
            client: Some(stream.client),
            tls: downstream.session,
            server_name: downstream.requested_server_name,
            metadata: left,
        }
    }

    /// Without the query; `None` without a request, or for one that has no path.
    pub fn path(&self) -> Option<&str> {
        let uri = self.request.map(|request| &request.uri)?;
        // `CONNECT` has an authority only.
        uri.path_and_query().map(|_| uri.path())
    }
}

impl Headers for Subject<'_> {
    fn values<'h>(&'h self, name: &str) -> Values<'h> {
        let Some(request) = self.request else {
            return Values::One(None);
        };
        match name {
            ":scheme" if self.tls.is_some() => Values::One(Some(b"https")),
            ":scheme" => Values::One(Some(b"http")),
            _ => request_values(request, name),
        }
    }
}

/// For trees of matchers.
impl Inputs for Subject<'_> {
    fn value<'i>(&'i self, input: &Input) -> Option<Cow<'i, [u8]>> {
        let text = |text: Option<String>| text.map(|text| Cow::Owned(text.into_bytes()));
        let names = |of: fn(&Names) -> &[String]| {
            let peer = self.tls?.peer.as_ref()?;
            let names = of(&peer.names);
            text((!names.is_empty()).then(|| names.join(",")))
        };
        let address = |ip: Option<IpAddr>| text(ip.map(|ip| ip.to_canonical().to_string()));
        match input {
            Input::RequestHeader(name) => joined(self.values(name)),
            // Decoded, as Envoy does it here and not for routes: a value could hide behind `%61`.
            Input::QueryParameter(name) => {
                let mut pairs = self.request?.uri.query()?.split('&');
                pairs.find_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decoded(key.as_bytes()) == name.as_bytes())
                        .then(|| Cow::Owned(percent_decoded(value.as_bytes())))
                })
            }
            Input::SourceIp => address(self.client.or(self.peer)),
            Input::SourcePort => text(self.peer_port.map(|port| port.to_string())),
            Input::DirectSourceIp => address(self.peer),
            Input::DestinationIp => address(self.local.map(|local| local.ip())),
            Input::DestinationPort => text(self.local.map(|local| local.port().to_string())),
            Input::ServerName => {
                let name = self.server_name;
                (!name.is_empty()).then_some(Cow::Borrowed(name.as_bytes()))
            }
            Input::TransportProtocol => Some(Cow::Borrowed(match self.tls {
                Some(_) => b"tls",
                None => b"raw_buffer",
            })),
            Input::ApplicationProtocol => {
                let protocol = self.tls?.protocol.as_deref()?;
                Some(Cow::Owned([b"'", protocol, b"'"].concat()))
            }
            Input::UriSan => names(|names| &names.uris),
            Input::DnsSan => names(|names| &names.dns),
            Input::Subject => {
                let subject = &self.tls?.peer.as_ref()?.names.subject;
                Some(Cow::Borrowed(subject.as_bytes()))
            }
            // Not of a subject, or not a text.
            Input::ResponseStatus
            | Input::ResponseClass
            | Input::ResponseHeader(_)
            | Input::Metadata { .. } => None,
        }
    }

    fn metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        self.metadata.dynamic(namespace)
    }
}
