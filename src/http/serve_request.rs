//! One request: from its head to the action of its route.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use causeway_xds::resource::route::{RequireTls, Upgrade};
use http::header::{HOST, HeaderMap, TRAILER};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::Body;
use super::client_cert;
use super::connection_manager::Connection;
use super::exchange::Exchange;
use super::forwarded::{self, X_FORWARDED_PROTO, X_REQUEST_ID};
use super::head::{self, UpgradeRequest};
use super::mirror::Copies;
use super::names::Names;
use super::reply::{self, Manner};
use super::request::{edit_head, edit_response};
use super::router::{self, Job};
use super::strict;
use super::view::View;
use crate::cluster::Cluster;
use crate::error::{Failure, ResponseFlag};
use crate::filter::{Flow, LocalReply, Stream};
use crate::route::redirect::Redirect;
use crate::route::{Action, Chosen, RouteTable, host_key};
use crate::snapshot::{RouteRef, Snapshot};

/// What the route table says about a request.
enum Found {
    Route(Chosen, Where),
    ToHttps,
    Nothing,
}

/// Where a request goes.
#[derive(Default)]
struct Where {
    cluster: Option<Arc<Cluster>>,
    copies: Option<Box<Copies>>,
}

/// Why a stream ends without an answer (HTTP/2): the request is not one, as its codec sees it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the head of the request is refused")]
pub struct Reset;

/// Serves one request of `connection`.
///
/// # Errors
/// [`Reset`]
pub async fn handle(
    connection: Rc<Connection>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Reset> {
    // hyper puts something there exactly when an upgrade is asked for.
    let asked = !request.extensions().is_empty();
    let on_upgrade = asked.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut head = Some(parts);
    let parts = head.as_mut().expect("made a line above");
    connection.request_began();
    let mut exchange = Exchange::begin(&connection, parts);
    exchange.asked = connection.manager.filters.asked(parts);
    exchange.progress.request_ended.set(body.is_end_stream());
    // Those of HTTP/1 have to be announced (RFC 9110 section 6.6.2).
    if parts.version != Version::HTTP_2 && !body.is_end_stream() {
        let announced = parts.headers.contains_key(TRAILER);
        exchange.progress.drop_trailers.set(!announced);
    }
    let manner = Manner {
        grpc: parts.version == Version::HTTP_2 && reply::is_grpc(&parts.headers),
        // An answer that does not wait for the body leaves the connection in doubt.
        close: !body.is_end_stream() || parts.method == Method::CONNECT || connection.is_ending(),
        http2: parts.version == Version::HTTP_2,
    };
    let decided = decide(&connection, parts, &mut exchange);
    if let Some(asked) = &mut exchange.asked {
        asked.looked_at(&parts.headers);
    }
    let told_id = match connection.manager.model.always_set_request_id_in_response {
        true => parts.headers.get(&X_REQUEST_ID).cloned(),
        false => None,
    };
    let mut response = match decided {
        Ok(Decided::Forward {
            chosen,
            to: Where { cluster, copies },
            upgrade,
            asks,
            client,
        }) => {
            let Action::Forward(forward) = &chosen.route.action else {
                unreachable!("decided by the action")
            };
            let close = connection.is_ending();
            let manner = Manner { close, ..manner };
            let filters = &connection.manager.filters;
            let target = filters.target(parts, chosen.filters());
            let job = Job {
                parts: &mut head,
                body,
                chosen: &chosen,
                forward,
                cluster,
                copies,
                upgrade,
                on_upgrade,
                asks,
                client,
                manner,
            };
            // The chain has run on the way up; it runs in reverse on the way down.
            let mut response = router::forward(job, exchange).await;
            let status = response.status();
            let headers = response.headers_mut();
            filters.response(status, headers, chosen.filters(), target.as_deref());
            response
        }
        other => {
            exchange.keep_request(parts, None);
            let mut response = match other {
                Ok(Decided::Reply {
                    status,
                    body,
                    headers,
                }) => reply::direct(status, body, headers, manner, exchange),
                Ok(Decided::Redirect {
                    status,
                    location,
                    headers,
                }) => reply::redirect(status, &location, headers, manner, exchange),
                Ok(Decided::Forward { .. }) => unreachable!("matched above"),
                Err(failure) if manner.http2 && strict::is_of_the_codec(&failure) => {
                    exchange.failed(&failure);
                    return Err(Reset);
                }
                Err(failure) => reply::from_failure(&failure, manner, exchange),
            };
            router::server_header(response.headers_mut(), &connection);
            response
        }
    };
    if let Some(id) = told_id {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    if let Some(exchange) = response.body().exchange()
        && let Some(kept) = &exchange.kept
    {
        kept.response(response.headers(), &connection.manager.wants);
    }
    Ok(response)
}

enum Decided {
    Forward {
        chosen: Chosen,
        to: Where,
        upgrade: Option<UpgradeRequest>,
        /// It has `x-envoy-*` fields.
        asks: bool,
        client: IpAddr,
    },
    Reply {
        status: StatusCode,
        body: Bytes,
        headers: HeaderMap,
    },
    Redirect {
        status: StatusCode,
        location: String,
        /// Beside the location.
        headers: HeaderMap,
    },
}

fn decide(
    connection: &Rc<Connection>,
    parts: &mut Parts,
    exchange: &mut Exchange,
) -> Result<Decided, Failure> {
    let manager = &connection.manager;
    let heads = connection.activity().heads.as_ref();
    let facts = head::sanitise(parts, &manager.model, connection.local_port, heads)?;
    if let Some(location) = facts.redirect {
        return Ok(Decided::Redirect {
            status: StatusCode::TEMPORARY_REDIRECT,
            location,
            headers: HeaderMap::new(),
        });
    }
    let mut names = facts.names;
    if manager.early_edits.edits_requests() {
        edit_head(&manager.early_edits, parts, &*exchange);
        names = Names::of(&parts.headers);
    }
    let rules = &manager.model.forwarded;
    let client = forwarded::apply(&mut parts.headers, names, rules, &connection.peer);
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

    let (chosen, to) = match choose(connection, parts) {
        Found::Route(chosen, to) => (chosen, to),
        Found::ToHttps => {
            return Ok(redirected(&Redirect::to_https(), parts, HeaderMap::new()));
        }
        Found::Nothing => {
            manager.stats.no_route.inc();
            return Err(Failure::local(
                StatusCode::NOT_FOUND,
                ResponseFlag::NoRoute,
                "route_not_found",
            ));
        }
    };
    exchange.routed(&chosen);
    let upgrade = facts
        .upgrade
        // A preflight passes where nothing else does, so it must not become a tunnel. Ignoring what
        // it asks for is always allowed (RFC 9110 section 7.8).
        .filter(|_| parts.method != Method::OPTIONS)
        .filter(|u| !u.protocol.as_bytes().eq_ignore_ascii_case(b"h2c"));
    if let (Some(asked), Action::Forward(forward)) = (&upgrade, &chosen.route.action)
        && !upgrade_allowed(asked, &forward.upgrades, &manager.model.upgrades)
    {
        manager.stats.downstream_rq_ws_on_non_ws_route.inc();
        return Err(Failure::local(
            StatusCode::FORBIDDEN,
            ResponseFlag::NoRoute,
            "upgrade_failed",
        )
        .closing());
    }
    let local_port = connection.local_port.unwrap_or(0);
    let tls = connection.peer.tls;
    let stream = Stream::new(parts, client, local_port, tls, &mut exchange.usage);
    match manager.filters.request(stream, chosen.filters()) {
        Flow::Continue => {}
        Flow::Fail(failure) => return Err(*failure),
        Flow::Reply(reply) => {
            exchange.detail("filter_reply");
            let LocalReply {
                status,
                body,
                headers,
            } = *reply;
            let body = Bytes::from(body.into_owned());
            return Ok(Decided::Reply {
                status,
                body,
                headers,
            });
        }
    }
    match &chosen.route.action {
        Action::Forward(_) => Ok(Decided::Forward {
            chosen,
            to,
            upgrade,
            asks: names.internal,
            client,
        }),
        Action::Direct {
            status,
            body,
            format,
        } => {
            manager.stats.rq_direct_response.inc();
            exchange.answered(*status);
            exchange.detail("direct_response");
            let format = format.as_deref();
            let (body, mut headers) = reply::written(body, format, parts, exchange);
            edit_response(chosen.edits(), &mut headers, Some(exchange));
            Ok(Decided::Reply {
                status: *status,
                body,
                headers,
            })
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

/// The one look at the snapshot: afterwards the request holds only what it needs of it.
fn choose(connection: &Connection, parts: &Parts) -> Found {
    let mut reader = connection.reader.borrow_mut();
    let snapshot = reader.load();
    let table: Option<&RouteTable> = match &connection.manager.routes {
        RouteRef::Inline(table) => Some(table),
        RouteRef::Named(name) => snapshot.routes.get(name).map(|table| &**table),
    };
    let path = parts.uri.path();
    let host = parts
        .headers
        .get(HOST)
        .and_then(|h| h.to_str().ok())
        .unwrap_or("");
    let Some(virtual_host) = table
        .filter(|_| path.starts_with('/') || parts.method == Method::CONNECT)
        .and_then(|table| table.virtual_host(host_key(table, host, path)))
    else {
        return Found::Nothing;
    };
    if virtual_host.require_tls != RequireTls::None
        && parts
            .headers
            .get(&X_FORWARDED_PROTO)
            .is_none_or(|p| p != "https")
    {
        return Found::ToHttps;
    }
    let view = View::of(parts).with(connection.session.as_deref());
    let Some(route) = virtual_host.find(&view) else {
        return Found::Nothing;
    };
    let mut chosen = Chosen {
        route: Arc::clone(route),
        weighted: None,
    };
    let mut to = Where::default();
    if let Action::Forward(forward) = &route.action {
        let (name, weighted) = forward.destination.choose(&view);
        chosen.weighted = weighted;
        to.cluster = snapshot.clusters.get(&*name).cloned();
        if !forward.mirrors.is_empty() {
            to.copies = copies(&chosen, &view, snapshot);
        }
    }
    Found::Route(chosen, to)
}

/// Where copies of a request go, if any are made.
fn copies(chosen: &Chosen, view: &View<'_>, snapshot: &Snapshot) -> Option<Box<Copies>> {
    let Action::Forward(forward) = &chosen.route.action else {
        return None;
    };
    let mirrors = forward.mirrors.iter().enumerate();
    let clusters: Vec<_> = mirrors
        // Each share for itself.
        .filter(|(_, m)| m.share.as_ref().is_none_or(|s| s.takes(fastrand::u64(..))))
        .filter_map(|(position, mirror)| {
            let cluster = snapshot.clusters.get(&*mirror.cluster.of(view))?;
            Some((Arc::clone(cluster), position))
        })
        .collect();
    (!clusters.is_empty()).then(|| {
        Box::new(Copies {
            route: Arc::clone(&chosen.route),
            clusters,
        })
    })
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

/// The route's word counts before the connection manager's.
fn upgrade_allowed(asked: &UpgradeRequest, route: &[Upgrade], manager: &[Upgrade]) -> bool {
    let (any, asked) = (!asked.connect, asked.protocol.as_bytes());
    let says = |list: &[Upgrade]| {
        list.iter()
            .find(|u| (any && u.kind == "*") || u.kind.as_bytes().eq_ignore_ascii_case(asked))
            .map(|u| u.enabled)
    };
    says(route).or_else(|| says(manager)).unwrap_or(false)
}
