//! What is known of a request, for header values, access logs and local replies.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causeway_xds::resource::cluster::Cluster as ClusterModel;
use causeway_xds::resource::format::{Fact, Holder, Point};
use causeway_xds::resource::metadata::{self, MetadataValue};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use super::exchange::Exchange;
use super::forwarded::{X_FORWARDED_PROTO, X_REQUEST_ID};
use super::request::path_of;
use crate::error::ResponseFlag;
use crate::filter::network;
use crate::formatter::{Facts, Key, Value, Wants};
use crate::route::Route;
use crate::upstream::pool::About;
use crate::upstream::{Endpoint, Transport};

/// What of a request outlives its messages, because somebody will ask for it.
#[derive(Debug)]
pub struct Kept {
    pub start: SystemTime,
    head: RefCell<Option<Head>>,
    request: RefCell<Vec<(HeaderName, HeaderValue)>>,
    response: RefCell<Vec<(HeaderName, HeaderValue)>>,
    trailers: RefCell<Vec<(HeaderName, HeaderValue)>>,
    /// That was chosen last.
    pub route: RefCell<Option<Arc<Route>>>,
    /// Its name, and what was said of it.
    pub cluster: OnceCell<(Arc<str>, Arc<ClusterModel>)>,
    /// The endpoint that was asked last.
    pub upstream: RefCell<Option<(Arc<Endpoint>, Arc<Transport>)>>,
    /// What came of that, as far as it is known.
    came_to: RefCell<Option<CameTo>>,
    /// The attempts before it, in their order.
    before: RefCell<Vec<(Arc<Endpoint>, Option<CameTo>)>>,
    /// The connection that was used last.
    pub connection: Cell<Option<About>>,
    pub request_size: Cell<Option<u64>>,
    pub response_size: Cell<Option<u64>>,
    pub request_sent: Cell<Option<Instant>>,
    pub response_began: Cell<Option<Instant>>,
    pub response_ended: Cell<Option<Instant>>,
}

/// What an attempt came to.
#[derive(Debug)]
enum CameTo {
    Answer(StatusCode),
    /// No answer, and why.
    Nothing(String),
}

/// The pseudo headers of a request.
#[derive(Debug)]
struct Head {
    method: Method,
    path: Option<PathAndQuery>,
    authority: Option<HeaderValue>,
    scheme: Option<HeaderValue>,
}

/// Bytes of the fields of a head, names and values.
fn size(headers: &HeaderMap) -> u64 {
    let fields = headers.iter();
    fields
        .map(|(n, v)| (n.as_str().len() + v.len()) as u64)
        .sum()
}

fn keep(from: &HeaderMap, names: &[HeaderName], to: &RefCell<Vec<(HeaderName, HeaderValue)>>) {
    let mut to = to.borrow_mut();
    for name in names {
        if let Some(value) = from.get(name)
            && to.iter().all(|(kept, _)| kept != name)
        {
            to.push((name.clone(), value.clone()));
        }
    }
}

fn find(kept: &RefCell<Vec<(HeaderName, HeaderValue)>>, name: &HeaderName) -> Value<'static> {
    let kept = kept.borrow();
    match kept.iter().find(|(kept, _)| kept == name) {
        Some((_, value)) => Value::Kept(value.clone()),
        None => Value::Missing,
    }
}

impl Kept {
    pub fn new() -> Self {
        Self {
            start: SystemTime::now(),
            head: RefCell::default(),
            request: RefCell::default(),
            response: RefCell::default(),
            trailers: RefCell::default(),
            route: RefCell::default(),
            cluster: OnceCell::new(),
            upstream: RefCell::default(),
            came_to: RefCell::default(),
            before: RefCell::default(),
            connection: Cell::default(),
            request_size: Cell::default(),
            response_size: Cell::default(),
            request_sent: Cell::default(),
            response_began: Cell::default(),
            response_ended: Cell::default(),
        }
    }

    /// An endpoint is asked.
    pub fn asked(&self, endpoint: &Arc<Endpoint>, transport: &Arc<Transport>) {
        let now = Some((Arc::clone(endpoint), Arc::clone(transport)));
        let came_to = self.came_to.take();
        if let Some((before, _)) = self.upstream.replace(now) {
            self.before.borrow_mut().push((before, came_to));
        }
    }

    /// It has answered.
    pub fn answered(&self, status: StatusCode) {
        *self.came_to.borrow_mut() = Some(CameTo::Answer(status));
    }

    /// It has not, and will not. The first reason counts.
    pub fn lost(&self, why: &str) {
        let nothing = || CameTo::Nothing(why.to_owned());
        self.came_to.borrow_mut().get_or_insert_with(nothing);
    }

    /// Keeps what is asked for of a request, in the form in which it is sent on or answered.
    pub fn request(&self, parts: &Parts, wants: &Wants) {
        if wants.request_head {
            *self.head.borrow_mut() = Some(Head {
                method: parts.method.clone(),
                path: path_of(parts),
                authority: parts.headers.get(HOST).cloned(),
                scheme: parts.headers.get(&X_FORWARDED_PROTO).cloned(),
            });
        }
        keep(&parts.headers, wants.request_fields(), &self.request);
        if wants.sizes {
            self.request_size.set(Some(size(&parts.headers)));
        }
    }

    /// Keeps what is asked for of a response, in the form in which the client sees it.
    pub fn response(&self, headers: &HeaderMap, wants: &Wants) {
        keep(headers, wants.response_fields(), &self.response);
        if wants.sizes {
            self.response_size.set(Some(size(headers)));
        }
    }

    pub fn trailers(&self, trailers: &HeaderMap, wants: &Wants) {
        keep(trailers, wants.trailers(), &self.trailers);
    }
}

/// A request at one moment: what is there of its messages, and what was kept.
pub struct Observed<'o> {
    pub exchange: &'o Exchange,
    /// As it is now, if it is still here.
    pub request: Option<&'o Parts>,
    pub response: Option<&'o HeaderMap>,
    /// The body of the local reply that is being made.
    pub body: &'o [u8],
}

impl<'o> Observed<'o> {
    pub fn of(exchange: &'o Exchange) -> Self {
        Self {
            exchange,
            request: None,
            response: None,
            body: b"",
        }
    }

    fn kept(&self) -> Option<&'o Kept> {
        self.exchange.kept.as_deref()
    }

    fn connection(&self) -> Option<About> {
        self.kept()?.connection.get()
    }

    /// Our end of the connection to the endpoint.
    fn local(&self) -> Option<SocketAddr> {
        self.connection()?.local
    }

    fn since(&self, at: Option<Instant>) -> Option<Duration> {
        at.map(|at| at.saturating_duration_since(self.exchange.start))
    }

    /// All that were asked, one after the other.
    fn attempted(&self, what: impl Fn(&Endpoint) -> String) -> Value<'o> {
        let Some(kept) = self.kept() else {
            return Value::Missing;
        };
        let (before, last) = (kept.before.borrow(), kept.upstream.borrow());
        let Some((last, _)) = &*last else {
            return Value::Missing;
        };
        let all = before.iter().map(|(endpoint, _)| endpoint).chain([last]);
        let all: Vec<String> = all.map(|endpoint| what(endpoint)).collect();
        Value::Text(all.join(",").into())
    }

    /// All that were asked, and what came of it.
    fn attempts(&self) -> Value<'o> {
        let Some(kept) = self.kept() else {
            return Value::Missing;
        };
        let last = kept.upstream.borrow();
        let Some((last, _)) = &*last else {
            return Value::Missing;
        };
        let mut text = String::new();
        let mut add = |endpoint: &Endpoint, came_to: Option<&CameTo>| {
            let separator = if text.is_empty() { "" } else { "; " };
            write!(text, "{separator}{endpoint} ").ok();
            match came_to {
                None => text.push('-'),
                Some(CameTo::Answer(status)) => text.push_str(status.as_str()),
                Some(CameTo::Nothing(why)) => {
                    // Causes begin with the address.
                    let rest = why.strip_prefix(&endpoint.to_string());
                    text.push_str(rest.map_or(why, |rest| rest.trim_start_matches(": ")));
                }
            }
        };
        for (endpoint, came_to) in kept.before.borrow().iter() {
            add(endpoint, came_to.as_ref());
        }
        add(last, kept.came_to.borrow().as_ref());
        Value::Text(text.into())
    }

    /// Of the endpoint that was asked last.
    fn endpoint(&self, what: impl Fn(&Endpoint, &Transport) -> Value<'static>) -> Value<'static> {
        let Some(kept) = self.kept() else {
            return Value::Missing;
        };
        let upstream = kept.upstream.borrow();
        upstream
            .as_ref()
            .map_or(Value::Missing, |(e, t)| what(e, t))
    }
}

fn named(endpoint: &Endpoint) -> Value<'static> {
    match endpoint.socket_address() {
        Some(address) => Value::Address(address),
        None => Value::shown(Some(endpoint)),
    }
}

fn head<'v>(kept: Option<&'v Kept>, of: impl Fn(&Head) -> Option<Vec<u8>>) -> Value<'v> {
    let found = kept.and_then(|kept| kept.head.borrow().as_ref().and_then(of));
    found.map_or(Value::Missing, |bytes| Value::Bytes(bytes.into()))
}

impl Facts for Observed<'_> {
    fn request(&self, key: &Key) -> Value<'_> {
        let Some(parts) = self.request else {
            let kept = self.kept();
            return match key {
                Key::Method => head(kept, |h| Some(h.method.as_str().into())),
                Key::Path => head(kept, |h| Some(h.path.as_ref()?.as_str().into())),
                Key::Authority => head(kept, |h| Some(h.authority.as_ref()?.as_bytes().into())),
                Key::Scheme => head(kept, |h| Some(h.scheme.as_ref()?.as_bytes().into())),
                Key::Status => Value::Missing,
                Key::Field(name) => kept.map_or(Value::Missing, |kept| find(&kept.request, name)),
            };
        };
        match key {
            Key::Method => Value::Bytes(parts.method.as_str().as_bytes().into()),
            Key::Path => match parts.uri.path_and_query() {
                Some(path) => Value::Bytes(path.as_str().as_bytes().into()),
                None => path_of(parts).map_or(Value::Missing, |path| {
                    Value::Text(path.as_str().to_owned().into())
                }),
            },
            Key::Authority => Value::header(parts.headers.get(HOST)),
            Key::Scheme => Value::header(parts.headers.get(&X_FORWARDED_PROTO)),
            Key::Status => Value::Missing,
            Key::Field(name) => Value::header(parts.headers.get(name)),
        }
    }

    fn response(&self, key: &Key) -> Value<'_> {
        match (key, self.response) {
            (Key::Status, _) => match self.exchange.status() {
                0 => Value::Missing,
                status => Value::shown(Some(status)),
            },
            (Key::Field(name), Some(headers)) => Value::header(headers.get(name)),
            (Key::Field(name), None) => self
                .kept()
                .map_or(Value::Missing, |kept| find(&kept.response, name)),
            _ => Value::Missing,
        }
    }

    fn trailer(&self, name: &HeaderName) -> Value<'_> {
        self.kept()
            .map_or(Value::Missing, |kept| find(&kept.trailers, name))
    }

    fn fact(&self, fact: Fact) -> Value<'_> {
        let exchange = self.exchange;
        let connection = &exchange.connection;
        let progress = &exchange.progress;
        let client = exchange.client.get().unwrap_or(connection.peer.ip);
        match fact {
            Fact::AccessLogType => Value::word("DownstreamEnd"),
            Fact::BytesReceived => Value::Number(progress.received.get()),
            Fact::BytesSent => Value::Number(progress.sent.get()),
            Fact::ConnectionId => Value::Number(connection.id),
            Fact::DownstreamDirectLocalAddress | Fact::DownstreamLocalAddress => {
                Value::address(connection.local)
            }
            Fact::DownstreamDirectLocalAddressWithoutPort
            | Fact::DownstreamLocalAddressWithoutPort => Value::ip(connection.local),
            Fact::DownstreamDirectLocalPort | Fact::DownstreamLocalPort => {
                Value::port(connection.local)
            }
            Fact::DownstreamDirectRemoteAddress => Value::address(connection.peer_address),
            Fact::DownstreamDirectRemoteAddressWithoutPort => Value::ip(connection.peer_address),
            Fact::DownstreamDirectRemotePort => Value::port(connection.peer_address),
            Fact::DownstreamRemoteAddress => match connection.peer_address {
                Some(peer) if peer.ip().to_canonical() == client => Value::Address(peer),
                // A header says no port.
                _ => Value::Address(SocketAddr::new(client, 0)),
            },
            Fact::DownstreamRemoteAddressWithoutPort => Value::Ip(client),
            Fact::DownstreamRemotePort => match connection.peer_address {
                Some(peer) if peer.ip().to_canonical() == client => Value::port(Some(peer)),
                _ => Value::Number(0),
            },
            Fact::Duration => Value::milliseconds(Some(exchange.start.elapsed())),
            Fact::LocalReplyBody => Value::Bytes(self.body.into()),
            Fact::Protocol => Value::word(exchange.protocol()),
            Fact::RequestDuration => Value::milliseconds(self.point(Point::DownstreamRxEnd)),
            Fact::RequestHeadersBytes => {
                Value::number(self.kept().and_then(|k| k.request_size.get()))
            }
            Fact::RequestTxDuration => Value::milliseconds(self.point(Point::UpstreamTxEnd)),
            Fact::RequestedServerName => {
                let name = connection.requested_server_name.as_str();
                Value::text(Some(name).filter(|name| !name.is_empty()))
            }
            Fact::DownstreamTlsVersion
            | Fact::DownstreamPeerDnsSan
            | Fact::DownstreamPeerEmailSan
            | Fact::DownstreamPeerFingerprint256
            | Fact::DownstreamPeerIssuer
            | Fact::DownstreamPeerSerial
            | Fact::DownstreamPeerSubject
            | Fact::DownstreamPeerUriSan => match connection.session.as_deref() {
                Some(session) => network::of_session(session, fact),
                None => Value::Missing,
            },
            Fact::ResponseCode => Value::Number(exchange.status().into()),
            Fact::ResponseCodeDetails => match exchange.details() {
                Some(details) => Value::Text(details.into_owned().into()),
                None => Value::Missing,
            },
            Fact::ResponseDuration => Value::milliseconds(self.point(Point::UpstreamRxBegin)),
            Fact::ResponseFlags => Value::word(exchange.flagged().map_or("-", ResponseFlag::short)),
            Fact::ResponseFlagsLong => {
                Value::word(exchange.flagged().map_or("-", ResponseFlag::long))
            }
            Fact::ResponseHeadersBytes => {
                Value::number(self.kept().and_then(|k| k.response_size.get()))
            }
            Fact::ResponseTxDuration => {
                let span = self
                    .point(Point::UpstreamRxBegin)
                    .zip(self.point(Point::DownstreamTxEnd));
                Value::milliseconds(span.and_then(|(from, to)| to.checked_sub(from)))
            }
            Fact::RouteName => {
                let route = self.kept().map(|kept| kept.route.borrow());
                let name = route.as_ref().and_then(|r| Some(r.as_ref()?.name.as_str()));
                match name.filter(|name| !name.is_empty()) {
                    Some(name) => Value::Text(name.to_owned().into()),
                    None => Value::Missing,
                }
            }
            Fact::StreamId => self.request(&Key::Field(X_REQUEST_ID)),
            Fact::UniqueId => Value::shown(Some(uuid::Uuid::from_u128(fastrand::u128(..)))),
            Fact::UpstreamCluster | Fact::UpstreamClusterRaw => Value::text(
                self.kept()
                    .and_then(|kept| kept.cluster.get())
                    .map(|(name, _)| &**name),
            ),
            Fact::UpstreamConnectionId => Value::number(self.connection().map(|c| c.id)),
            Fact::UpstreamLocalAddress => Value::address(self.local()),
            Fact::UpstreamLocalAddressWithoutPort => Value::ip(self.local()),
            Fact::UpstreamLocalPort => Value::port(self.local()),
            Fact::UpstreamHost | Fact::UpstreamRemoteAddress => {
                self.endpoint(|endpoint, _| named(endpoint))
            }
            Fact::UpstreamHostName | Fact::UpstreamHostNameWithoutPort => self.endpoint(
                |endpoint, _| match endpoint.attributes.hostname.is_empty() {
                    true => named(endpoint),
                    false => Value::shown(Some(&endpoint.attributes.hostname)),
                },
            ),
            Fact::Attempts => self.attempts(),
            Fact::UpstreamHostsAttempted => self.attempted(ToString::to_string),
            Fact::UpstreamHostsAttemptedWithoutPort => {
                self.attempted(|e| match e.socket_address() {
                    Some(address) => address.ip().to_string(),
                    None => e.to_string(),
                })
            }
            Fact::UpstreamHostNamesAttempted | Fact::UpstreamHostNamesAttemptedWithoutPort => self
                .attempted(|e| match e.attributes.hostname.as_str() {
                    "" => e.to_string(),
                    name => name.to_owned(),
                }),
            Fact::UpstreamProtocol => {
                self.endpoint(|_, transport| Value::text(transport.protocol.name()))
            }
            Fact::UpstreamRemoteAddressWithoutPort => {
                self.endpoint(|endpoint, _| match endpoint.socket_address() {
                    Some(address) => Value::Ip(address.ip()),
                    None => Value::Missing,
                })
            }
            Fact::UpstreamRemotePort => {
                self.endpoint(|endpoint, _| Value::port(endpoint.socket_address()))
            }
            Fact::UpstreamRequestAttemptCount => Value::Number(exchange.attempts.get().into()),
            Fact::UpstreamTransportFailureReason
            | Fact::ConnectionTerminationDetails
            | Fact::GrpcStatusNumber
            | Fact::Hostname
            | Fact::SpanId
            | Fact::TraceId
            | Fact::VirtualClusterName => Value::Missing,
        }
    }

    fn start(&self) -> SystemTime {
        self.kept().map_or_else(SystemTime::now, |kept| kept.start)
    }

    fn point(&self, point: Point) -> Option<Duration> {
        let kept = self.kept()?;
        let progress = &self.exchange.progress;
        let ended = || self.since(progress.request_ended_at.get());
        match point {
            Point::DownstreamRxBegin => Some(Duration::ZERO),
            Point::DownstreamRxEnd => ended(),
            Point::UpstreamTxBegin => self.since(kept.request_sent.get()),
            Point::UpstreamTxEnd => self.since(kept.request_sent.get()).max(ended()),
            Point::UpstreamRxBegin | Point::DownstreamTxBegin => {
                self.since(kept.response_began.get())
            }
            Point::UpstreamRxEnd => self.since(kept.response_ended.get()),
            Point::DownstreamTxEnd => Some(self.exchange.start.elapsed()),
        }
    }

    fn metadata(&self, of: Holder, namespace: &str, path: &[String]) -> Option<MetadataValue> {
        let kept = self.kept()?;
        match of {
            Holder::Route => {
                let route = kept.route.borrow();
                route.as_ref()?.metadata(namespace)?.get(path).cloned()
            }
            Holder::Cluster => {
                let (_, model) = kept.cluster.get()?;
                metadata::find(&model.metadata, namespace, path)
            }
            Holder::Endpoint => {
                let upstream = kept.upstream.borrow();
                let (endpoint, _) = upstream.as_ref()?;
                metadata::find(&endpoint.attributes.metadata, namespace, path)
            }
        }
    }

    fn dynamic_metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        self.exchange.filters.metadata(namespace)
    }

    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        self.exchange.filters.value(key)
    }
}
