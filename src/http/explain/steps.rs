//! The steps of a request, in the order in which it would take them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::resource::http_manager::{HttpFilterConfig, HttpManager};
use causeway_xds::resource::listener as model;
use causeway_xds::resource::route::RequireTls;
use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, PROXY_AUTHORIZATION};
use http::request::Parts;

use super::imagined::Imagined;
use super::{Explanation, Question, Unclear};
use crate::http::forwarded::{self, Peer, X_FORWARDED_PROTO};
use crate::http::head;
use crate::http::names::Names;
use crate::http::request::{edit_head, edit_request};
use crate::http::timeouts::Timeouts;
use crate::http::view::View;
use crate::route::action::split_port;
use crate::route::{Action, Chosen, RouteTable, host_key};
use crate::snapshot::{BindAddress, ChainKind, HttpManagerSpec, ListenerSpec, RouteRef, Snapshot};

/// Routes that are told of, at most: those before the one that is taken.
const MOST_ROUTES: usize = 50;

/// Fields whose values are nobody's business.
const SECRET: [HeaderName; 3] = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];

pub(super) fn take(
    snapshot: &Snapshot,
    question: &Question,
    out: &mut Explanation,
) -> Result<(), Unclear> {
    let listener = listener(snapshot, question)?;
    out.say(
        "listener",
        format!("{:?} at {}", listener.name, listener.bind),
    );
    let Some(manager) = manager(listener, question, out) else {
        return Ok(());
    };
    let mut parts = question.head();
    let Some(imagined) = admit(&mut parts, manager, listener, question, out) else {
        return Ok(());
    };
    route(snapshot, manager, parts, imagined, out);
    Ok(())
}

fn listener<'s>(
    snapshot: &'s Snapshot,
    question: &Question,
) -> Result<&'s Arc<ListenerSpec>, Unclear> {
    let none = |text: String| Err(Unclear::Listener(text));
    if let Some(name) = &question.listener {
        return match snapshot.listeners.get(name.as_str()) {
            Some(found) => Ok(found),
            None => none(format!("there is no listener {name:?}")),
        };
    }
    let speaks_http = |listener: &&Arc<ListenerSpec>| {
        let chains = listener.chains.iter().chain(&listener.default_chain);
        chains
            .into_iter()
            .any(|c| matches!(c.kind, ChainKind::Http(_)))
    };
    let all: Vec<_> = snapshot.listeners.values().filter(speaks_http).collect();
    let port = question.port();
    let of_port = |l: &&&Arc<ListenerSpec>| {
        let mut binds = l.binds();
        binds.any(|bind| matches!(bind, BindAddress::Socket(at) if at.port() == port))
    };
    let mut named: Vec<_> = all.iter().filter(of_port).collect();
    if named.is_empty() && all.len() == 1 {
        named.push(&all[0]);
    }
    match named[..] {
        [one] => Ok(one),
        [] => none(format!(
            "no listener speaks HTTP at port {port}; name one with --listener"
        )),
        _ => none(format!(
            "several listeners are at port {port}; name one with --listener"
        )),
    }
}

/// The HTTP connection manager of the filter chain that takes the connection.
fn manager<'s>(
    listener: &'s ListenerSpec,
    question: &Question,
    out: &mut Explanation,
) -> Option<&'s Arc<HttpManagerSpec>> {
    let client = SocketAddr::new(question.client, 0);
    let name = match question.tls() {
        true => question.url.host().unwrap_or_default().to_ascii_lowercase(),
        false => String::new(),
    };
    let facts = model::Facts {
        destination: listener.bind.socket(),
        server_name: &name,
        transport_protocol: if question.tls() { "tls" } else { "raw_buffer" },
        application_protocols: &[],
        direct_source: Some(question.client),
        source: Some(client),
    };
    let Some(chain) = listener.chain(&facts) else {
        out.say(
            "outcome",
            "no filter chain takes the connection: it is closed",
        );
        return None;
    };
    let position = listener.chains.iter().position(|c| Arc::ptr_eq(c, chain));
    let which = position.map_or("the default one".to_owned(), |n| format!("number {n}"));
    let mut notes = Vec::new();
    if chain.tls.is_some() != question.tls() {
        notes.push(match chain.tls {
            Some(_) => "it speaks TLS, and the URL does not".to_owned(),
            None => "it speaks no TLS, and the URL does".to_owned(),
        });
    }
    match &chain.kind {
        ChainKind::Http(manager) => {
            let says = format!("{which}, HTTP ({:?})", manager.model.stat_prefix);
            out.say_more("filter chain", says, notes);
            Some(manager)
        }
        ChainKind::Echo | ChainKind::Direct(_) => {
            out.say_more("filter chain", which, notes);
            out.say(
                "outcome",
                "it is no HTTP: the filter chain answers by itself",
            );
            None
        }
        ChainKind::Tcp(_) => {
            out.say_more("filter chain", format!("{which}, TCP"), notes);
            out.say("outcome", "bytes are relayed; nothing looks at requests");
            None
        }
    }
}

/// What happens to a head before there is a route; `None` when it ends here.
fn admit(
    parts: &mut Parts,
    manager: &HttpManagerSpec,
    listener: &ListenerSpec,
    question: &Question,
    out: &mut Explanation,
) -> Option<Imagined> {
    let before = parts.uri.clone();
    let local_port = listener.bind.socket().map(|at| at.port());
    let facts = match head::sanitise(parts, &manager.model, local_port, None) {
        Ok(facts) => facts,
        Err(failure) => {
            let (status, details) = (failure.status.as_u16(), failure.word());
            let text = format!("the head is refused: {status} ({details})");
            out.say("outcome", text);
            return None;
        }
    };
    if let Some(location) = facts.redirect {
        out.say("outcome", format!("307 to the normal path {location:?}"));
        return None;
    }
    if parts.uri != before {
        out.say("path", format!("{before} is taken as {}", parts.uri));
    }
    let mut imagined = Imagined {
        client: question.client,
        route: None,
        cluster: String::new(),
        known: question.clusters.clone(),
    };
    let mut names = facts.names;
    if manager.early_edits.edits_requests() {
        let was = parts.headers.clone();
        edit_head(&manager.early_edits, parts, &imagined);
        names = Names::of(&parts.headers);
        out.say_more(
            "early edits",
            "of headers",
            differences(&was, &parts.headers),
        );
    }
    let peer = Peer::new(question.client, question.tls());
    let rules = &manager.model.forwarded;
    let client = match forwarded::apply(&mut parts.headers, names, rules, &peer) {
        Ok(client) => client,
        Err(forwarded::Unknown(status)) => {
            let status = status.as_u16();
            out.say(
                "outcome",
                format!("{status}: it does not say who its client is"),
            );
            return None;
        }
    };
    let whose = if client.internal {
        "internal"
    } else {
        "external"
    };
    out.say("client", format!("{} ({whose})", client.ip));
    imagined.client = client.ip;
    Some(imagined)
}

fn route(
    snapshot: &Snapshot,
    manager: &HttpManagerSpec,
    mut parts: Parts,
    mut imagined: Imagined,
    out: &mut Explanation,
) {
    let not_found = "404: there is no route (NR, route_not_found)";
    let table: Option<&RouteTable> = match &manager.routes {
        RouteRef::Inline(table) => Some(table),
        RouteRef::Named(name) => {
            let found = snapshot.routes.get(name);
            if found.is_none() {
                out.say(
                    "routes",
                    format!("the route configuration {name:?} is not there"),
                );
            }
            found.map(|table| &**table)
        }
    };
    let Some(table) = table else {
        return out.say("outcome", not_found);
    };
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default().to_owned();
    let key = host_key(table, &host, parts.uri.path());
    let Some((virtual_host, by)) = table.explain(key) else {
        let says = format!("none of {:?} has a domain for {key:?}", table.name);
        let without = split_port(key).0;
        let other = table.explain(without).filter(|_| without != key);
        let note = other.map(|(host, _)| format!("without its port it would be {:?}", host.name()));
        out.say_more("virtual host", says, note.into_iter().collect());
        return out.say("outcome", not_found);
    };
    let says = format!("{:?} of {:?}: {by}", virtual_host.name(), table.name);
    out.say("virtual host", says);
    let secure = parts.headers.get(&X_FORWARDED_PROTO);
    if virtual_host.require_tls() != RequireTls::None && secure.is_none_or(|p| p != "https") {
        return out.say("outcome", "301 to the same URL over TLS (require_tls)");
    }
    let found = {
        let view = View::of(&parts);
        let (tried, left_out) = virtual_host.tried(&view, MOST_ROUTES);
        tell_tried(&tried, left_out, virtual_host, out);
        virtual_host.find(&view).map(|route| {
            let mut chosen = Chosen {
                route: Arc::clone(route),
                weighted: None,
            };
            if let Action::Forward(forward) = &route.action {
                let (name, weighted) = forward.destination.choose(&view);
                imagined.cluster = name.into_owned();
                chosen.weighted = weighted;
            }
            chosen
        })
    };
    let Some(chosen) = found else {
        return out.say("outcome", not_found);
    };
    imagined.route = Some(Arc::clone(&chosen.route));
    filters(&manager.model, out);
    match &chosen.route.action {
        Action::Forward(_) => {
            forwarded_to(snapshot, manager, &chosen, &mut parts, &imagined, out);
        }
        Action::Direct { status, body, .. } => {
            let says = format!(
                "{} with {} bytes (direct response)",
                status.as_u16(),
                body.len()
            );
            out.say("outcome", says);
        }
        Action::Redirect(redirect) => {
            let scheme = parts.headers.get(&X_FORWARDED_PROTO);
            let scheme = scheme.and_then(|s| s.to_str().ok()).unwrap_or("http");
            let (path, query) = (parts.uri.path(), parts.uri.query());
            let location = redirect.location(scheme, &host, path, query);
            let status = redirect.status.as_u16();
            out.say("outcome", format!("{status} to {location} (redirect)"));
        }
    }
}

fn tell_tried(
    tried: &[crate::route::explain::Tried],
    left_out: usize,
    host: &crate::route::VirtualHost,
    out: &mut Explanation,
) {
    let label = |tried: &crate::route::explain::Tried| match tried.name.as_str() {
        "" => format!("route {}", tried.position),
        name => format!("route {} {name:?}", tried.position),
    };
    if left_out > 0 {
        out.say("routes", format!("{left_out} before these do not match"));
    } else if host.has_tree() {
        let says = format!("a matcher tree chooses {} of {}", tried.len(), host.len());
        out.say("routes", says);
    }
    for route in tried {
        let words = |c: &crate::route::matcher::Condition| c.text.clone();
        if route.matches() {
            let notes = route.conditions.iter().map(words).collect();
            out.say_more("route", format!("{} is taken", label(route)), notes);
        } else {
            let near = if route.is_near_miss() {
                " (near miss)"
            } else {
                ""
            };
            let notes = route.missed().map(|c| format!("not met: {}", c.text));
            let says = format!("{} does not match{near}", label(route));
            out.say_more("route", says, notes.collect());
        }
    }
}

fn filters(manager: &HttpManager, out: &mut Explanation) {
    let names = manager.filters.iter().map(|filter| {
        let name = match &filter.config {
            HttpFilterConfig::Inline(extension) => extension.name.clone(),
            HttpFilterConfig::Discovered(discovery) => discovery.name.clone(),
        };
        match filter.disabled {
            true => format!("{name} (disabled unless the route says otherwise)"),
            false => name,
        }
    });
    let says = "not run here; each may answer by itself or change the request";
    out.say_more("filters", says, names.collect());
}

fn forwarded_to(
    snapshot: &Snapshot,
    manager: &HttpManagerSpec,
    chosen: &Chosen,
    parts: &mut Parts,
    imagined: &Imagined,
    out: &mut Explanation,
) {
    let Action::Forward(forward) = &chosen.route.action else {
        return;
    };
    let tell = !manager.filters.router.suppress_envoy_headers;
    let asks = Names::of(&parts.headers).internal;
    let (was, target) = (parts.headers.clone(), parts.uri.clone());
    let limits = &manager.model.timeouts;
    let max = limits.max_stream_duration;
    let timeouts = Timeouts::of(forward, max, &mut parts.headers, asks, tell);
    edit_request(parts, forward, chosen, tell, imagined);
    if parts.uri != target {
        out.say("rewrite", format!("{target} becomes {}", parts.uri));
    }
    let changes = differences(&was, &parts.headers);
    if !changes.is_empty() {
        out.say_more("headers", "as the upstream sees them", changes);
    }
    let idle = forward.idle_timeout.unwrap_or(limits.stream_idle);
    let says = format!(
        "route {}, per try {}, idle {}, whole stream {}",
        time(timeouts.route),
        time(timeouts.per_try),
        time(idle),
        time(timeouts.duration),
    );
    out.say("timeouts", says);
    match &forward.retry {
        Some(retry) if retry.retries > 0 => {
            let says = format!("up to {} times on {}", retry.retries, retry.on);
            out.say("retries", says);
        }
        _ => out.say("retries", "none"),
    }
    for mirror in &forward.mirrors {
        let name = mirror.cluster.of(&View::of(parts)).into_owned();
        out.say("mirror", format!("a copy goes to cluster {name:?}"));
    }
    let cluster = &imagined.cluster;
    if chosen.weighted.is_some() {
        out.say("cluster", format!("{cluster:?}, drawn by weight this time"));
    }
    match snapshot.clusters.get(cluster.as_str()) {
        Some(found) if !(found.endpoints.all().is_empty() && imagined.known.contains(cluster)) => {
            let count = found.endpoints.all().len();
            let says = format!("forwarded to cluster {cluster:?} ({count} endpoints)");
            out.say("outcome", says);
        }
        _ if imagined.known.contains(cluster) => {
            let says =
                format!("forwarded to cluster {cluster:?} (its endpoints are not known here)");
            out.say("outcome", says);
        }
        _ => {
            let status = forward.cluster_not_found.as_u16();
            let says = format!("{status}: there is no cluster {cluster:?} (NC, cluster_not_found)");
            out.say("outcome", says);
        }
    }
}

fn time(duration: Duration) -> String {
    match duration.is_zero() {
        true => "none".to_owned(),
        false => format!("{duration:?}"),
    }
}

/// What became of header fields, in words.
fn differences(before: &HeaderMap, after: &HeaderMap) -> Vec<String> {
    let all = |map: &HeaderMap, name: &HeaderName| -> Vec<Vec<u8>> {
        let values = map.get_all(name).into_iter();
        values.map(|value| value.as_bytes().to_vec()).collect()
    };
    let mut notes = Vec::new();
    for name in after.keys() {
        if all(before, name) == all(after, name) {
            continue;
        }
        let sign = if before.contains_key(name) { '~' } else { '+' };
        for value in after.get_all(name) {
            let text = match SECRET.contains(name) {
                true => "[redacted]".into(),
                false => String::from_utf8_lossy(value.as_bytes()),
            };
            notes.push(format!("{sign} {name}: {text}"));
        }
    }
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    notes.extend(gone.map(|name| format!("- {name}")));
    notes
}
