//! One request: from its head to the action of its route.

use std::rc::Rc;
use std::time::Duration;

use causeway_xds::resource::http_manager::SchemeRule;
use http::header::{HOST, HeaderMap, HeaderValue, TRAILER};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use http_body::Body as _;

use super::around::Surroundings;
use super::attempts;
use super::body::Body;
use super::client_cert;
use super::connection_manager::Connection;
use super::descent::{self, Descent, Gone, Way};
use super::ending::Ending;
use super::exchange::Exchange;
use super::forwarded::{self, X_FORWARDED_PROTO};
use super::head::{self, UpgradeRequest, unsay_upgrade};
use super::internal_redirect::Again;
use super::names::Names;
use super::reply::{self, Manner};
use super::request::{edit_head, edit_response};
use super::routed::{Routed, Where};
use super::router::{self, Forwarded, Job};
use super::strict;
use super::timeouts::Timeouts;
use super::upgrade::Downstream;
use crate::error::{Failure, ResponseFlag};
use crate::filter::{Flow, LocalReply, Stream, Then};
use crate::net::Incoming;
use crate::route::redirect::Redirect;
use crate::route::{Action, Chosen, PerRoute};
use crate::upstream::body::ClientBody;

/// Why a stream ends without an answer (HTTP/2): the request is not one, as its codec sees it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Refused {
    #[error("the head of the request is refused")]
    Reset,
    /// And malformed requests end their connection.
    #[error("the request is malformed")]
    Malformed,
}

/// Serves one request of `connection`; `downstream` is there if it may ask for an upgrade.
///
/// # Errors
/// [`Refused`]
pub async fn handle(
    connection: Rc<Connection>,
    parts: Parts,
    body: Incoming,
    mut downstream: Option<Downstream>,
) -> Result<Response<Body>, Refused> {
    let mut head = Some(parts);
    let parts = head.as_mut().expect("made a line above");
    connection.request_began();
    let mut exchange = Exchange::begin(&connection, parts);
    let mut body = ClientBody::new(body, Rc::clone(&exchange.progress));
    // Those of HTTP/1 have to be announced (RFC 9110 section 6.6.2).
    if parts.version != Version::HTTP_2 && !body.is_end_stream() {
        let announced = parts.headers.contains_key(TRAILER);
        exchange.progress.drop_trailers.set(!announced);
    }
    let mut manner = Manner {
        grpc: parts.version == Version::HTTP_2 && reply::is_grpc(&parts.headers),
        // An answer that does not wait for the body leaves the connection in doubt.
        close: !body.is_end_stream() || parts.method == Method::CONNECT || connection.is_ending(),
        http2: parts.version == Version::HTTP_2,
    };
    let is_head = parts.method == Method::HEAD;
    // Filled in its place: it is large, and each move would copy it.
    let mut routed = None;
    let mut settled = match begin(&connection, parts, &mut exchange, &mut routed) {
        Ok(None) => None,
        Ok(Some(location)) => Some(Ok(Decided::moved(location))),
        Err(failure) => Some(Err(failure)),
    };
    if settled.is_some() {
        routed = None;
    }
    exchange.asked = connection.manager.filters.asked(parts);
    // A redirect that is followed here leads to another turn.
    loop {
        let parts = head.as_mut().expect("each turn begins with one");
        let decided = match (&mut routed, settled.take()) {
            (_, Some(decided)) => decided,
            (None, None) => unreachable!("one or the other"),
            (Some(routed), None) => {
                let mut passage = Passage {
                    parts,
                    body: &mut body,
                    routed,
                    next: 0,
                };
                let flow = match passage.pass(&exchange) {
                    // Rare, and large: it has a place of its own.
                    flow @ (Flow::Wait(_) | Flow::Reroute) => {
                        Box::pin(passage.go_on(flow, &mut exchange)).await
                    }
                    flow => Ok(flow),
                };
                flow.and_then(|flow| act(flow, &connection, parts, routed, &mut exchange))
            }
        };
        let ending = Ending::of(parts, &connection.manager, is_head, manner.http2);
        let chosen = routed.as_ref().and_then(|routed| routed.chosen.as_ref());
        let mut target = None;
        let response = match (decided, &routed, chosen) {
            (Ok(Decided::Forward { to, upgrade }), Some(known), Some(chosen)) => {
                let Action::Forward(forward) = &chosen.route.action else {
                    unreachable!("decided by the action")
                };
                let close = connection.is_ending();
                let asking = Manner { close, ..manner };
                target = connection.manager.filters.target(parts, chosen.filters());
                let job = Job {
                    parts: &mut head,
                    body,
                    chosen,
                    forward,
                    cluster: to.cluster,
                    copies: to.copies,
                    upgrade,
                    downstream: downstream.take(),
                    routed: known,
                    manner: asking,
                };
                match router::forward(job, exchange).await {
                    Forwarded::Answer(response) => response,
                    Forwarded::Again(again) => {
                        let next = *again;
                        manner = again_as(manner, &next, &connection);
                        routed = next.decided.is_none().then_some(next.routed);
                        settled = next.decided.map(|decided| decided.map(Decided::moved));
                        (head, body, exchange) = (Some(next.parts), next.body, next.exchange);
                        continue;
                    }
                }
            }
            (other, _, chosen) => {
                exchange.keep_request(parts, chosen);
                let mut response = match other {
                    Ok(Decided::Reply(reply)) => reply::local(*reply, manner, exchange),
                    Ok(Decided::Redirect {
                        status,
                        location,
                        headers,
                    }) => reply::redirect(status, &location, headers, manner, exchange),
                    Ok(Decided::Forward { .. }) => unreachable!("a route that forwards was chosen"),
                    Err(failure) if manner.http2 && strict::is_of_the_codec(&failure) => {
                        exchange.failed(&failure);
                        return Err(Refused::Reset);
                    }
                    Err(failure)
                        if manner.http2
                            && !connection.manager.model.resets_malformed
                            && strict::is_malformed(&failure) =>
                    {
                        exchange.failed(&failure);
                        return Err(Refused::Malformed);
                    }
                    Err(failure) => reply::from_failure(&failure, manner, exchange),
                };
                router::server_header(response.headers_mut(), &connection);
                response
            }
        };
        // Whoever was not asked for the way up has no word on the way down.
        let response = match &connection.manager.filters {
            filters if routed.is_some() && !filters.is_empty() => {
                let way = Way {
                    filters,
                    route: chosen.map_or(PerRoute::NONE, Chosen::filters),
                    target: target.as_deref(),
                    manner,
                };
                match descent::begin(response, &way) {
                    Descent::Done(response) => Gone::Down(response),
                    // Rare, and large: it has a place of its own.
                    Descent::Paused(paused) => Box::pin(paused.go_on(&way)).await,
                    Descent::Again(again) => Gone::Again(again),
                }
            }
            _ => Gone::Down(response),
        };
        let response = match response {
            Gone::Down(response) => response,
            Gone::Again(again) => {
                let next = *again;
                manner = again_as(manner, &next, &connection);
                routed = Some(next.routed);
                (head, body, exchange) = (Some(next.parts), next.body, next.exchange);
                continue;
            }
        };
        return Ok(ending.apply(response));
    }
}

/// What follows has come whole.
fn again_as(manner: Manner, next: &Again, connection: &Connection) -> Manner {
    Manner {
        close: connection.is_ending(),
        grpc: manner.grpc && reply::is_grpc(&next.parts.headers),
        ..manner
    }
}

/// A request on its way through the filters.
struct Passage<'p> {
    parts: &'p mut Parts,
    body: &'p mut ClientBody,
    routed: &'p mut Routed,
    /// The filter that is next.
    next: usize,
}

impl Passage<'_> {
    /// Asks the filters from the next one on; the one before them goes on first, if it waited.
    fn step(&mut self, exchange: &Exchange, then: Option<Then>) -> Flow {
        let filters = &exchange.connection.manager.filters;
        let cluster = self.routed.to.cluster.as_ref();
        let around = Surroundings {
            exchange,
            cluster: cluster.map_or("", |cluster| &cluster.name),
            route: self.routed.chosen.as_ref().map(|chosen| &*chosen.route),
        };
        let route = self.routed.chosen.as_ref();
        let route = route.map_or(PerRoute::NONE, Chosen::filters);
        let mut stream = Stream::new(self.parts, self.body, self.routed.client, &around);
        let flow = match then {
            Some(then) => filters.resume(&mut stream, route, self.next, then),
            None => Flow::Continue,
        };
        match flow {
            Flow::Continue => filters.request(&mut stream, route, &mut self.next),
            flow => flow,
        }
    }

    fn pass(&mut self, exchange: &Exchange) -> Flow {
        match exchange.connection.manager.filters.is_empty() {
            true => Flow::Continue,
            false => self.step(exchange, None),
        }
    }

    /// Waits as often as filters want to, and chooses the route anew when they have changed what it
    /// depends on.
    async fn go_on(mut self, flow: Flow, exchange: &mut Exchange) -> Result<Flow, Failure> {
        let connection = Rc::clone(&exchange.connection);
        let limits = &connection.manager.model.timeouts;
        let watch = &mut exchange.watch;
        watch.limit(limits.request, Duration::ZERO, limits.stream_idle);
        watch.limit_duration(limits.max_stream_duration);
        let mut flow = flow;
        loop {
            let then = match flow {
                Flow::Wait(mut wait) => {
                    let timeouts = Timeouts::default();
                    Some(attempts::watched(wait.as_mut(), exchange, &timeouts).await?)
                }
                Flow::Reroute => {
                    self.routed.choose(exchange, self.parts);
                    if let Some(chosen) = &self.routed.chosen {
                        exchange.routed(chosen);
                    }
                    None
                }
                flow => return Ok(flow),
            };
            flow = self.step(exchange, then);
        }
    }
}

enum Decided {
    Forward {
        to: Where,
        upgrade: Option<UpgradeRequest>,
    },
    Reply(Box<LocalReply>),
    Redirect {
        status: StatusCode,
        location: String,
        /// Beside the location.
        headers: HeaderMap,
    },
}

impl Decided {
    /// The client is to ask for the plain form of its path.
    fn moved(location: String) -> Self {
        Self::Redirect {
            status: StatusCode::TEMPORARY_REDIRECT,
            location,
            headers: HeaderMap::new(),
        }
    }
}

/// As Envoy words it.
const CLIENT_UNKNOWN: &str = "rejected_because_detection_failed";

/// From the head of a request to its route. `Some`: to that place, whatever the routes say.
fn begin(
    connection: &Rc<Connection>,
    parts: &mut Parts,
    exchange: &mut Exchange,
    routed: &mut Option<Routed>,
) -> Result<Option<String>, Failure> {
    let manager = &connection.manager;
    let heads = connection.activity().heads.as_ref();
    let facts = head::sanitise(parts, &manager.model, connection.local_port, heads)?;
    if facts.redirect.is_some() {
        return Ok(facts.redirect);
    }
    let mut names = facts.names;
    if manager.early_edits.edits_requests() {
        edit_head(&manager.early_edits, parts, &*exchange);
        names = Names::of(&parts.headers);
    }
    let rules = &manager.model.forwarded;
    let client = forwarded::apply(&mut parts.headers, names, rules, &connection.peer);
    let client = client.map_err(|forwarded::Unknown(status)| {
        let stats = &manager.stats;
        stats.downstream_rq_rejected_via_ip_detection.inc();
        Failure {
            flag: None,
            ..Failure::local(
                status,
                ResponseFlag::DownstreamProtocolError,
                CLIENT_UNKNOWN,
            )
        }
    })?;
    if let Some(agent) = &manager.agent {
        agent.tell(&mut parts.headers);
    }
    let session = connection.session.as_deref();
    client_cert::apply(
        &mut parts.headers,
        names,
        &manager.model.client_cert,
        session,
    );
    forwarded::request_id(&mut parts.headers, names, &manager.model, client);
    let client = client.ip;
    exchange.client.set(Some(client));
    let scheme = match manager.model.scheme {
        SchemeRule::Http => Some(HeaderValue::from_static("http")),
        SchemeRule::Https => Some(HeaderValue::from_static("https")),
        SchemeRule::Keep | SchemeRule::Upstream => None,
    };
    if let Some(scheme) = scheme {
        parts.headers.insert(X_FORWARDED_PROTO, scheme);
    }

    let routed = routed.insert(Routed::new(client, names.internal));
    if let Some(asked) = facts.upgrade {
        // A preflight passes where nothing else does, so it must not become a tunnel. Ignoring what
        // it asks for is always allowed (RFC 9110 section 7.8).
        // With a body the request may be taken for an ordinary one behind us, so it is one for
        // filters, which leave tunnels alone.
        let with_body = !asked.connect && !asked.extended && !exchange.progress.request_ended.get();
        let ignored = parts.method == Method::OPTIONS
            || with_body
            || asked.protocol.as_bytes().eq_ignore_ascii_case(b"h2c");
        if ignored {
            unsay_upgrade(&mut parts.headers);
        } else {
            routed.upgrade = Some(asked);
        }
    }
    routed.choose(exchange, parts);
    // Without a route, filters come first all the same.
    if let Some(chosen) = &routed.chosen {
        exchange.routed(chosen);
        if let Action::Forward(forward) = &chosen.route.action {
            routed.check_upgrade(&forward.upgrades, manager)?;
        }
    }
    Ok(None)
}

/// What filters have let pass does what its route says.
fn act(
    flow: Flow,
    connection: &Rc<Connection>,
    parts: &mut Parts,
    routed: &mut Routed,
    exchange: &mut Exchange,
) -> Result<Decided, Failure> {
    let manager = &connection.manager;
    match flow {
        Flow::Continue => {}
        Flow::Fail(failure) => return Err(*failure),
        Flow::Reply(reply) => return Ok(Decided::Reply(reply)),
        Flow::Wait(_) | Flow::Reroute => unreachable!("seen to before"),
    }
    if routed.to_https {
        return Ok(redirected(&Redirect::to_https(), parts, HeaderMap::new()));
    }
    let Some(chosen) = &routed.chosen else {
        manager.stats.no_route.inc();
        return Err(Failure::local(
            StatusCode::NOT_FOUND,
            ResponseFlag::NoRoute,
            "route_not_found",
        ));
    };
    match &chosen.route.action {
        Action::Forward(forward) => {
            // A filter may have led the request to another route.
            routed.check_upgrade(&forward.upgrades, manager)?;
            Ok(Decided::Forward {
                to: std::mem::take(&mut routed.to),
                upgrade: routed.upgrade.take(),
            })
        }
        Action::Direct {
            status,
            body,
            format,
        } => {
            manager.stats.rq_direct_response.inc();
            exchange.answered(*status);
            let format = format.as_deref();
            let (body, mut headers) = reply::written(body, format, parts, exchange);
            edit_response(chosen.edits(), &mut headers, Some(exchange));
            let mut reply = LocalReply::new(*status, "direct_response");
            reply.body = body;
            reply.headers = headers;
            Ok(Decided::Reply(Box::new(reply)))
        }
        Action::Redirect(redirect) => {
            manager.stats.rq_redirect.inc();
            exchange.answered(redirect.status);
            exchange.detail("direct_response");
            let mut headers = HeaderMap::new();
            edit_response(chosen.edits(), &mut headers, Some(exchange));
            Ok(redirected(redirect, parts, headers))
        }
    }
}

fn redirected(redirect: &Redirect, parts: &Parts, headers: HeaderMap) -> Decided {
    let text = |name: &http::HeaderName| {
        parts
            .headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
    };
    let scheme = match text(&X_FORWARDED_PROTO) {
        "" => "http",
        scheme => scheme,
    };
    let location = redirect.location(scheme, text(&HOST), parts.uri.path(), parts.uri.query());
    Decided::Redirect {
        status: redirect.status,
        location,
        headers,
    }
}
