//! Following a redirect of an answer here, in the place of the client (`internal_redirect_policy`).

use std::rc::Rc;

use causeway_xds::resource::http_manager::HttpManager;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Method, StatusCode, Uri};

use super::attempts::Sent;
use super::exchange::Exchange;
use super::forwarded::X_FORWARDED_PROTO;
use super::head;
use super::routed::Routed;
use crate::error::Failure;
use crate::route::internal_redirect::{InternalRedirect, Target, Trail};
use crate::telemetry::stats::{Counter, HttpStats};
use crate::upstream::body::{ClientBody, Piece};

/// The URL that was asked for before the redirect.
const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-envoy-original-url");

/// A request that goes where an answer has sent it.
pub struct Followed {
    pub parts: Parts,
    pub body: Vec<Piece>,
    pub trail: Box<Trail>,
    pub routed: Routed,
    /// Where to send the client instead, or why there is no way on.
    pub decided: Option<Result<String, Failure>>,
}

/// Why a redirect is left to the client; Envoy counts each.
type Reason = fn(&HttpStats) -> &Counter;

/// An answer that redirects.
pub struct Redirect<'r> {
    pub policy: &'r InternalRedirect,
    /// The name of the route that it came by.
    pub from: &'r str,
    pub status: StatusCode,
    pub answer: &'r HeaderMap,
}

impl Redirect<'_> {
    /// Makes of what was sent the request that the answer asks for. `None`: the client gets the
    /// answer as it is. `sent` is `None` when the request has not ended, or its body is not there
    /// any more.
    pub fn follow(
        &self,
        sent: Option<Box<Sent>>,
        routed: &Routed,
        exchange: &Exchange,
    ) -> Option<Followed> {
        let followed = sent.and_then(|sent| match self.apply(*sent, routed, exchange) {
            Ok(followed) => Some(followed),
            Err(reason) => {
                if let Some(reason) = reason {
                    reason(&exchange.connection.manager.stats).inc();
                }
                None
            }
        });
        exchange.count_upstream(|stats| match followed {
            Some(_) => &stats.upstream_internal_redirect_succeeded_total,
            None => &stats.upstream_internal_redirect_failed_total,
        });
        followed
    }

    fn apply(
        &self,
        sent: Sent,
        routed: &Routed,
        exchange: &Exchange,
    ) -> Result<Followed, Option<Reason>> {
        let Sent {
            mut parts,
            mut body,
        } = sent;
        let location = self.answer.get(LOCATION).ok_or(None)?;
        let target = Target::parse(location.as_bytes()).ok_or(Some::<Reason>(|s| {
            &s.passthrough_internal_redirect_bad_location
        }))?;
        let mut trail = exchange.trail.clone().unwrap_or_default();
        let https = trail.https.unwrap_or_else(|| {
            let proto = parts.headers.get(&X_FORWARDED_PROTO);
            proto.is_some_and(|proto| proto == "https")
        });
        // What goes over a connection in clear text is not safe, whatever it is called.
        let from_tls = https && exchange.connection.session.is_some();
        if !self.policy.cross_scheme && from_tls != target.https {
            return Err(Some(|s| &s.passthrough_internal_redirect_unsafe_scheme));
        }
        if trail.count >= self.policy.max {
            return Err(Some(|s| {
                &s.passthrough_internal_redirect_too_many_redirects
            }));
        }
        let original = url(https, &parts);
        self.copy(&mut parts.headers);
        trail.count += 1;
        trail.https = Some(target.https);
        let to_tls = target.https && !from_tls;
        parts.headers.insert(HOST, target.host);
        parts.uri = Uri::from(target.path);
        // What the answer has left in the request counts as if the client had sent it.
        let mut there = Routed::new(routed.client, true);
        let connection = &exchange.connection;
        let model: &HttpManager = &connection.manager.model;
        let decided = head::sanitise_target(&mut parts, model, connection.local_port).transpose();
        if decided.is_none() {
            there.choose(exchange, &parts);
        }
        let to = match &there.chosen {
            Some(chosen) => chosen.route.name.as_str(),
            // An answer of its own, by which the client is sent elsewhere.
            None if there.to_https || decided.is_some() => "",
            None => return Err(Some(|s| &s.passthrough_internal_redirect_no_route)),
        };
        if !self.policy.lets(self.from, to, to_tls, &mut trail) {
            return Err(Some(|s| &s.passthrough_internal_redirect_predicate));
        }
        // RFC 9110 section 15.4.4.
        if self.status == StatusCode::SEE_OTHER
            && ![Method::GET, Method::HEAD].contains(&parts.method)
        {
            parts.method = Method::GET;
            parts.headers.remove(CONTENT_LENGTH);
            body.clear();
        }
        if let Some(original) = original {
            parts.headers.insert(ORIGINAL_URL, original);
        }
        Ok(Followed {
            parts,
            body,
            trail,
            routed: there,
            decided,
        })
    }

    /// Takes over the fields that the route names; those that the answer does not have go.
    fn copy(&self, headers: &mut HeaderMap) {
        for name in &self.policy.copied {
            headers.remove(name);
            for value in self.answer.get_all(name) {
                headers.append(name, value.clone());
            }
        }
    }
}

/// What a request is for, as one URL.
fn url(https: bool, parts: &Parts) -> Option<HeaderValue> {
    let scheme: &[u8] = if https { b"https://" } else { b"http://" };
    let host = parts.headers.get(HOST)?.as_bytes();
    let path = parts.uri.path_and_query()?.as_str().as_bytes();
    HeaderValue::from_bytes(&[scheme, host, path].concat()).ok()
}

/// A stream that begins anew.
pub struct Again {
    pub parts: Parts,
    pub body: ClientBody,
    pub routed: Routed,
    pub exchange: Box<Exchange>,
    /// Where to send the client instead, or why there is no way on.
    pub decided: Option<Result<String, Failure>>,
}

impl Followed {
    /// Ends the exchange that was answered by the redirect, and begins the one that follows it. As
    /// with Envoy both are logged, the first with the target of the redirect.
    pub fn begin(self, answered: Box<Exchange>, status: StatusCode, headers: &HeaderMap) -> Again {
        let Self {
            parts,
            body,
            trail,
            routed,
            decided,
        } = self;
        let connection = Rc::clone(&answered.connection);
        let manager = &connection.manager;
        connection.request_began();
        let mut exchange = Exchange::begin(&connection, &parts);
        exchange.start = answered.start;
        exchange.client.set(answered.client.get());
        exchange.trail = Some(trail);
        if let Some(mark) = answered.filters.stands_in() {
            exchange.filters.stand_in(mark);
        }
        exchange.asked = manager.filters.asked(&parts);
        let progress = &exchange.progress;
        progress.received.set(answered.progress.received.get());
        progress.end_request();
        let body = ClientBody::again(body, Rc::clone(progress));
        answered.redirected(&parts, status, headers);
        if let Some(chosen) = &routed.chosen {
            exchange.routed(chosen);
        }
        Again {
            parts,
            body,
            routed,
            exchange,
            decided,
        }
    }
}
