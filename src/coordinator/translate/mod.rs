//! Circuits -> xDS messages. Pure; the table of what becomes what is in docs/ARCHITECTURE.md.
//!
//! [`frame`] writes what stands from start to end: listeners and their route configurations,
//! every port slot still empty. [`change`] writes what a change of the registry touched.
//!
//! Who calls is checked by filters, which [`filters`] configures. [`Frame::check`] refuses what they
//! could not protect, so that no circuit is exposed that was not meant to be.

pub mod blame;
mod cluster;
mod filters;
mod listener;
pub mod names;
mod policies;
mod route;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use causeway_xds::ResourceType;
use causeway_xds::proto::{Any, Message};
use causeway_xds::source::{Extent, Origin, Update};
use causeway_xds::type_url::pack_as;
use ipnet::IpNet;

use super::Fault;
use super::model::{AppMode, Circuit, Slot};
use super::permit::{Digest, PermitHasher};
use super::registry::{CircuitRegistry, Touched};
use crate::config::{self, Certificates, FrontendMode, Policy, TraefikFrontend, WorkerConfig};
use crate::util::Secret;
use names::Slots;

pub use route::path_segment;
pub use watch::KernelWatch;

const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The frontends: what circuits are served on. Fixed for the life of the process.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    pub slots: Option<Slots>,
    pub wildcard: Option<Wildcard>,
    pub path: Option<PathFrontend>,
    /// See [`crate::config::Causeway::allow_unauthenticated`].
    pub allow_unauthenticated: bool,
    /// `None`: nobody can prove who they are, so only public circuits are served.
    pub access: Option<Access>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether somebody wants to know what is in use.
    pub usage: bool,
    /// How long a connection of a TCP circuit may be silent; zero: for ever.
    pub tcp_idle: Duration,
    /// Whether the log has a line for each of them.
    pub tcp_log: bool,
    /// See [`crate::config::Causeway::tcp_websocket_origins`].
    pub tcp_origins: Vec<String>,
    /// Of ports and wildcard.
    pub tls: Option<Certificates>,
    /// A balancer in front terminates TLS.
    pub https_in_front: bool,
    /// Ports are for circuits that are relayed as bytes: one that nobody has is closed at once, and
    /// speaks no HTTP.
    pub raw_ports: bool,
    /// Ports are bound when a circuit takes them, and not all of them from the start.
    pub ports_on_demand: bool,
    pub watch: KernelWatch,
    /// What circuits get beside being served.
    pub policies: Vec<Policy>,
}

/// What opens private circuits.
#[derive(Clone, Debug)]
pub struct Access {
    /// Signs the tokens of model services.
    pub jwt_secret: Secret,
    pub permits: PermitHasher,
}

impl From<&config::Access> for Access {
    fn from(config: &config::Access) -> Self {
        let digest = match config.permit_hash.digest_mod {
            config::DigestMod::Sha224 => Digest::Sha224,
            config::DigestMod::Sha256 => Digest::Sha256,
            config::DigestMod::Sha384 => Digest::Sha384,
            config::DigestMod::Sha512 => Digest::Sha512,
        };
        Self {
            jwt_secret: config.jwt_secret.clone(),
            permits: PermitHasher::new(&config.permit_hash.secret, digest),
        }
    }
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
    pub tls: Option<Certificates>,
}

impl From<&WorkerConfig> for Frame {
    fn from(config: &WorkerConfig) -> Self {
        let mut slots = config.port_proxy.as_ref().map(Slots::from);
        let mut wildcard = config.wildcard_domain.as_ref().map(|w| Wildcard {
            address: w.bind_addr,
            domain: w.domain.clone(),
        });
        let mut https_by_traefik = false;
        // Where Traefik would have listened, this worker does.
        let mode = config.coordinator.as_ref().map(|c| &c.frontend_mode);
        if let Some(FrontendMode::Traefik(traefik)) = mode {
            match &traefik.frontend {
                TraefikFrontend::Port { port_range, .. } => {
                    slots = Some(Slots::range(EVERYWHERE, *port_range));
                }
                TraefikFrontend::Wildcard {
                    domain,
                    advertised_port,
                    tls_advertised,
                } => {
                    https_by_traefik = *tls_advertised;
                    wildcard = Some(Wildcard {
                        address: SocketAddr::new(EVERYWHERE, *advertised_port),
                        domain: domain.clone(),
                    });
                }
            }
        }
        Self {
            slots,
            wildcard,
            path: config.causeway.path_frontend.map(|address| PathFrontend {
                address,
                strip_prefix: config.causeway.strip_prefix,
                tls: config.causeway.path_tls.clone(),
            }),
            allow_unauthenticated: config.causeway.allow_unauthenticated,
            access: config.access.as_ref().map(Access::from),
            trusted_proxies: config.trusted_proxies.clone(),
            usage: config.coordinator.is_some(),
            tcp_idle: config.causeway.tcp_idle_timeout,
            tcp_log: config.causeway.tcp_log,
            tcp_origins: config.causeway.tcp_websocket_origins.clone(),
            tls: config.tls.listen.clone(),
            https_in_front: config.tls.advertised || https_by_traefik,
            raw_ports: config.coordinator.as_ref().is_some_and(|c| {
                use config::WorkerProtocol::{Rdp, Tcp, Vnc};
                matches!(c.protocol, Tcp | Vnc | Rdp)
            }),
            ports_on_demand: !config.causeway.ports_at_start,
            watch: KernelWatch::from(&config.causeway),
            policies: config.causeway.policies.clone(),
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
        if circuit.open_to_public {
            return Ok(());
        }
        if self.access.is_none() && !self.allow_unauthenticated {
            let reason = "must be true: without secrets.jwt_secret and [permit_hash] nobody can \
                          prove who they are, and a private app would be served to anyone \
                          ([causeway] allow_unauthenticated = true permits it)";
            return Err(Fault::at("open_to_public", reason));
        }
        // Bytes carry no credentials: on a port, such an app (ssh, vnc) asks its users itself.
        let raw = !circuit.protocol.is_http() && matches!(circuit.slot, Slot::Port(_));
        if !raw && !self.can_prove(circuit) {
            let reason = "is required for a private interactive app: its permit is made of it";
            return Err(Fault::at("user_id", reason));
        }
        Ok(())
    }

    /// Whether somebody can prove to be who may use the circuit, where that has to be proven.
    fn can_prove(&self, circuit: &Circuit) -> bool {
        let permit = !circuit.open_to_public && circuit.app_mode == AppMode::Interactive;
        self.access.is_none() || !permit || circuit.user_id.is_some()
    }
}

/// Everything that stands before the first circuit comes.
pub fn frame(frame: &Frame) -> Vec<Update> {
    let mut messages = Messages::default();
    if frame.raw_ports {
        messages.cluster(&cluster::nobody());
    }
    for asked in policies::clusters(&frame.policies) {
        messages.cluster(&asked);
    }
    if let Some(slots) = &frame.slots {
        let standing = slots.iter().filter(|_| !frame.ports_on_demand);
        for (number, address) in standing {
            let name = names::slot(number);
            messages.listener(&listener::empty_slot(frame, &name, address));
            messages.routes(&route::empty_slot(number));
        }
    }
    if let Some(wildcard) = &frame.wildcard {
        messages.listener(&listener::http(
            frame,
            names::WILDCARD,
            wildcard.address,
            frame.tls.as_ref(),
        ));
        messages.routes(&route::wildcard());
    }
    if let Some(path) = &frame.path {
        messages.listener(&listener::http(
            frame,
            names::PATH,
            path.address,
            path.tls.as_ref(),
        ));
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
            Some(circuit) => messages.cluster(&cluster::cluster(frame, circuit)),
            None => messages.remove(ResourceType::Cluster, names::circuit(*id)),
        }
    }
    // How kernels are watched depends on how many there are.
    let watched = touched.routes.difference(&touched.circuits);
    for circuit in watched.filter_map(|id| now.get(*id)) {
        if frame.watch != KernelWatch::default() {
            messages.cluster(&cluster::cluster(frame, circuit));
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
            // One that is relayed as bytes elsewhere may have no user that a permit is made of.
            let circuits = now.under_segment(*segment).map(AsRef::as_ref);
            let circuits: Vec<&Circuit> = circuits.filter(|c| frame.can_prove(c)).collect();
            match route::path_host(frame, *segment, &circuits, path.strip_prefix) {
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
                        self.host(&route::wildcard_host(frame, label, domain, circuit));
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
                        self.listener(&listener::http(frame, &name, address, frame.tls.as_ref()));
                        self.routes(&route::slot(frame, number, circuit));
                    }
                    Some(circuit) => {
                        self.listener(&listener::tcp(frame, &name, address, circuit));
                        self.routes(&route::empty_slot(number));
                    }
                    None if frame.ports_on_demand => {
                        self.remove(ResourceType::Listener, name.clone());
                        self.remove(ResourceType::RouteConfiguration, name);
                    }
                    None => {
                        self.listener(&listener::empty_slot(frame, &name, address));
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
