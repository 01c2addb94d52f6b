//! Circuits -> xDS messages. Pure; the table of what becomes what is in docs/ARCHITECTURE.md.
//!
//! [`frame`] writes what stands from start to end: listeners and their route configurations,
//! every port slot still empty. [`change`] writes what a change of the registry touched.
//!
//! Nothing here checks who calls: access checks are filters that a later version adds. Until
//! then [`Frame::check`] refuses what those checks would protect, so that no circuit is exposed
//! that was not meant to be.

pub mod blame;
mod cluster;
mod listener;
pub mod names;
mod route;

use std::net::SocketAddr;

use causeway_xds::ResourceType;
use causeway_xds::proto::{Any, Message};
use causeway_xds::source::{Extent, Origin, Update};
use causeway_xds::type_url::pack_as;

use super::Fault;
use super::model::{Circuit, Slot};
use super::registry::{CircuitRegistry, Touched};
use crate::config::WorkerConfig;
use names::Slots;

/// The frontends: what circuits are served on. Fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct Frame {
    pub slots: Option<Slots>,
    pub wildcard: Option<Wildcard>,
    pub path: Option<PathFrontend>,
    /// See [`crate::config::Causeway::allow_unauthenticated`].
    pub allow_unauthenticated: bool,
}

#[derive(Clone, Debug)]
pub struct Wildcard {
    pub address: SocketAddr,
    /// Begins with a dot.
    pub domain: String,
}

#[derive(Clone, Debug)]
pub struct PathFrontend {
    pub address: SocketAddr,
    pub strip_prefix: bool,
}

impl From<&WorkerConfig> for Frame {
    fn from(config: &WorkerConfig) -> Self {
        Self {
            slots: config.port_proxy.as_ref().map(Slots::from),
            wildcard: config.wildcard_domain.as_ref().map(|w| Wildcard {
                address: w.bind_addr,
                domain: w.domain.clone(),
            }),
            path: config.causeway.path_frontend.map(|address| PathFrontend {
                address,
                strip_prefix: config.causeway.strip_prefix,
            }),
            allow_unauthenticated: config.causeway.allow_unauthenticated,
        }
    }
}

impl Frame {
    /// Whether this worker can serve the circuit, and may.
    pub fn check(&self, circuit: &Circuit) -> Result<(), Fault> {
        match &circuit.slot {
            Slot::Port(port) => {
                let known = self
                    .slots
                    .as_ref()
                    .and_then(|slots| slots.of_advertised(*port));
                if known.is_none() {
                    return Err(Fault::at("port", "not a port of this worker's range"));
                }
            }
            Slot::Subdomain(_) if self.wildcard.is_none() => {
                return Err(Fault::at(
                    "frontend_mode",
                    "this worker has no wildcard frontend",
                ));
            }
            Slot::Subdomain(_) => {}
        }
        let listed = circuit.allowed_client_ips.as_deref().unwrap_or_default();
        if listed.split(',').any(|entry| !entry.trim().is_empty()) {
            let reason = "client address lists are not supported yet";
            return Err(Fault::at("allowed_client_ips", reason));
        }
        if !circuit.open_to_public && !self.allow_unauthenticated {
            let reason = "must be true: this version does not check who calls, and would serve \
                          a private app to anyone ([causeway] allow_unauthenticated = true \
                          permits it)";
            return Err(Fault::at("open_to_public", reason));
        }
        Ok(())
    }
}

/// Everything that stands before the first circuit comes.
pub fn frame(frame: &Frame) -> Vec<Update> {
    let mut messages = Messages::default();
    if let Some(slots) = &frame.slots {
        for (number, address) in slots.iter() {
            let name = names::slot(number);
            messages.listener(&listener::http(&name, address));
            messages.routes(&route::empty_slot(number));
        }
    }
    if let Some(wildcard) = &frame.wildcard {
        messages.listener(&listener::http(names::WILDCARD, wildcard.address));
        messages.routes(&route::wildcard());
    }
    if let Some(path) = &frame.path {
        messages.listener(&listener::http(names::PATH, path.address));
        messages.routes(&route::path());
    }
    messages.into_updates("frame")
}

/// What brings the proxy from an earlier state to `now`, when only `touched` may differ.
pub fn change(
    frame: &Frame,
    now: &CircuitRegistry,
    touched: &Touched,
    version: &str,
) -> Vec<Update> {
    let mut messages = Messages::default();
    for id in &touched.circuits {
        match now.get(*id) {
            Some(circuit) => messages.cluster(&cluster::cluster(circuit)),
            None => messages.remove(ResourceType::Cluster, names::circuit(*id)),
        }
    }
    for id in &touched.routes {
        match now.get(*id) {
            Some(circuit) => messages.assignment(&cluster::assignment(circuit)),
            None => messages.remove(ResourceType::LoadAssignment, names::circuit(*id)),
        }
    }
    for slot in &touched.slots {
        messages.slot(frame, slot, now.in_slot(slot).map(AsRef::as_ref));
    }
    if let Some(path) = &frame.path {
        for segment in &touched.segments {
            let circuits: Vec<&Circuit> = now.under_segment(*segment).map(AsRef::as_ref).collect();
            match route::path_host(*segment, &circuits, path.strip_prefix) {
                Some(host) => messages.host(&host),
                None => messages.remove(ResourceType::VirtualHost, names::path_host(*segment)),
            }
        }
    }
    messages.into_updates(version)
}

/// Messages and removals by kind.
#[derive(Debug, Default)]
struct Messages {
    upserts: Vec<(ResourceType, Any)>,
    removals: Vec<(ResourceType, String)>,
}

impl Messages {
    fn slot(&mut self, frame: &Frame, slot: &Slot, circuit: Option<&Circuit>) {
        match slot {
            Slot::Subdomain(label) => {
                let domain = frame.wildcard.as_ref().map(|w| w.domain.as_str());
                match (circuit, domain) {
                    (Some(circuit), Some(domain)) => {
                        self.host(&route::wildcard_host(label, domain, circuit));
                    }
                    _ => self.remove(ResourceType::VirtualHost, names::wildcard_host(label)),
                }
            }
            Slot::Port(port) => {
                let slots = frame.slots.as_ref();
                let Some((number, address)) = slots.and_then(|s| s.of_advertised(*port)) else {
                    return;
                };
                let name = names::slot(number);
                match circuit {
                    Some(circuit) if circuit.protocol.is_http() => {
                        self.listener(&listener::http(&name, address));
                        self.routes(&route::slot(number, circuit));
                    }
                    Some(circuit) => {
                        self.listener(&listener::tcp(&name, address, circuit));
                        self.routes(&route::empty_slot(number));
                    }
                    None => {
                        self.listener(&listener::http(&name, address));
                        self.routes(&route::empty_slot(number));
                    }
                }
            }
        }
    }

    fn listener(&mut self, message: &causeway_xds::proto::Listener) {
        self.upsert(ResourceType::Listener, message);
    }

    fn routes(&mut self, message: &causeway_xds::proto::RouteConfiguration) {
        self.upsert(ResourceType::RouteConfiguration, message);
    }

    fn host(&mut self, message: &causeway_xds::proto::VirtualHost) {
        self.upsert(ResourceType::VirtualHost, message);
    }

    fn cluster(&mut self, message: &causeway_xds::proto::Cluster) {
        self.upsert(ResourceType::Cluster, message);
    }

    fn assignment(&mut self, message: &causeway_xds::proto::ClusterLoadAssignment) {
        self.upsert(ResourceType::LoadAssignment, message);
    }

    fn upsert(&mut self, kind: ResourceType, message: &impl Message) {
        self.upserts
            .push((kind, pack_as(message, kind.message_name())));
    }

    fn remove(&mut self, kind: ResourceType, name: String) {
        self.removals.push((kind, name));
    }

    /// One update per kind that has anything, in the order in which kinds are applied.
    fn into_updates(self, version: &str) -> Vec<Update> {
        let mut updates: Vec<Update> = ResourceType::ALL
            .into_iter()
            .map(|kind| Update {
                origin: Origin::Coordinator,
                kind,
                version: version.to_owned(),
                extent: Extent::Incremental,
                upserts: Vec::new(),
                listing: None,
                removals: Vec::new(),
            })
            .collect();
        let of = |updates: &mut Vec<Update>, kind| updates.iter().position(|u| u.kind == kind);
        for (kind, message) in self.upserts {
            if let Some(at) = of(&mut updates, kind) {
                updates[at].upserts.push(message);
            }
        }
        for (kind, name) in self.removals {
            if let Some(at) = of(&mut updates, kind) {
                updates[at].removals.push(name);
            }
        }
        updates.retain(|u| !u.upserts.is_empty() || !u.removals.is_empty());
        updates
    }
}

#[cfg(test)]
mod tests;
