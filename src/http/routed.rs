//! What the route table says about a request.

use std::net::IpAddr;
use std::sync::Arc;

use causeway_xds::resource::route::{RequireTls, Upgrade};
use http::header::HOST;
use http::request::Parts;
use http::{Method, StatusCode};

use super::exchange::Exchange;
use super::forwarded::X_FORWARDED_PROTO;
use super::head::UpgradeRequest;
use super::mirror::Copies;
use super::view::View;
use crate::cluster::Cluster;
use crate::error::{Failure, ResponseFlag};
use crate::route::{Action, Chosen, RouteTable, host_key};
use crate::snapshot::{HttpManagerSpec, RouteRef, Snapshot};

/// What the route table says about a request, and what else is known of it.
pub struct Routed {
    pub chosen: Option<Chosen>,
    pub to: Where,
    /// The virtual host wants the client to use TLS.
    pub to_https: bool,
    pub upgrade: Option<UpgradeRequest>,
    /// It has `x-envoy-*` fields.
    pub asks: bool,
    pub client: IpAddr,
}

/// Where a request goes.
#[derive(Default)]
pub struct Where {
    pub cluster: Option<Arc<Cluster>>,
    pub copies: Option<Box<Copies>>,
}

impl Routed {
    /// Nothing is chosen yet. `asks`: whether the request has `x-envoy-*` fields.
    pub fn new(client: IpAddr, asks: bool) -> Self {
        Self {
            chosen: None,
            to: Where::default(),
            to_https: false,
            upgrade: None,
            asks,
            client,
        }
    }

    /// # Errors
    /// The request wants to become what this route does not allow.
    pub fn check_upgrade(
        &self,
        route: &[Upgrade],
        manager: &HttpManagerSpec,
    ) -> Result<(), Failure> {
        let Some(asked) = &self.upgrade else {
            return Ok(());
        };
        if upgrade_allowed(asked, route, &manager.model.upgrades) {
            return Ok(());
        }
        manager.stats.downstream_rq_ws_on_non_ws_route.inc();
        let (status, flag) = (StatusCode::FORBIDDEN, ResponseFlag::NoRoute);
        Err(Failure::local(status, flag, "upgrade_failed").closing())
    }

    /// The one look at the snapshot: afterwards the request holds only what it needs of it.
    pub fn choose(&mut self, exchange: &Exchange, parts: &Parts) {
        let connection = &*exchange.connection;
        (self.chosen, self.to, self.to_https) = (None, Where::default(), false);
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
            return;
        };
        if virtual_host.require_tls() != RequireTls::None {
            let proto = parts.headers.get(&X_FORWARDED_PROTO);
            if proto.is_none_or(|p| p != "https") {
                self.to_https = true;
                return;
            }
        }
        let view = View::of(parts)
            .with(connection.session.as_deref())
            .after(&exchange.filters);
        let Some(route) = virtual_host.find(&view) else {
            return;
        };
        let mut chosen = Chosen {
            route: Arc::clone(route),
            weighted: None,
        };
        if let Action::Forward(forward) = &route.action {
            let (name, weighted) = forward.destination.choose(&view);
            chosen.weighted = weighted;
            self.to.cluster = snapshot.clusters.get(&*name).cloned();
            if !forward.mirrors.is_empty() {
                self.to.copies = copies(&chosen, &view, snapshot);
            }
        }
        self.chosen = Some(chosen);
    }
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
