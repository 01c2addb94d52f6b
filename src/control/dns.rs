//! The addresses of names, as a source: it looks up what a cluster names, again and again, and
//! delivers load assignments. Nothing of it is on the way of a request.
//!
//! The first answer is delivered even when nothing was found, so that nobody waits for what is not
//! there. Later on a name that cannot be looked up keeps the addresses it had.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::ResourceType;
use causeway_xds::proto::core::address::Address as AddressKind;
use causeway_xds::proto::core::socket_address::PortSpecifier;
use causeway_xds::proto::core::{self, Metadata};
use causeway_xds::proto::endpoint::endpoint::HealthCheckConfig;
use causeway_xds::proto::endpoint::lb_endpoint::HostIdentifier;
use causeway_xds::proto::endpoint::{self, LbEndpoint, LocalityLbEndpoints};
use causeway_xds::proto::{ClusterLoadAssignment, UInt32Value};
use causeway_xds::resource::Address;
use causeway_xds::resource::cluster::{Dns, DnsFamily};
use causeway_xds::resource::load_assignment::{
    Endpoint, EndpointCheck, EndpointHealth, LocalityEndpoints, SOCKET_METADATA,
};
use causeway_xds::resource::metadata::{Labels, to_metadata};
use causeway_xds::source::{Batch, Batches, Extent, Origin, Source, Update};
use causeway_xds::type_url::pack_as;
use tracing::{debug, warn};

/// A host and a port to look up.
type Name = (String, u16);

/// The addresses of each name; none for one that was never found.
type Answers = BTreeMap<Name, Vec<SocketAddr>>;

type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Whom to ask.
pub type Lookup = Arc<dyn Fn(Name) -> Looking + Send + Sync>;

/// The names of one cluster.
pub struct DnsSource {
    dns: Arc<Dns>,
    lookup: Lookup,
}

impl DnsSource {
    /// Asks the resolver of the system.
    pub fn new(dns: Arc<Dns>) -> Self {
        Self::with(
            dns,
            Arc::new(|(host, port)| {
                Box::pin(async move {
                    let found = tokio::net::lookup_host((host.as_str(), port)).await?;
                    Ok(found.collect())
                })
            }),
        )
    }

    /// Asks somebody else.
    pub fn with(dns: Arc<Dns>, lookup: Lookup) -> Self {
        Self { dns, lookup }
    }

    async fn follow(self, batches: Batches) {
        let mut answers = names(&self.dns);
        let mut delivered = None;
        let mut failures = 0_u32;
        loop {
            let failed = self.look(&mut answers).await;
            failures = if failed { failures + 1 } else { 0 };
            let message = assignment(&self.dns, &answers);
            if delivered.as_ref() != Some(&message) {
                let update = update(&self.dns, &message);
                if batches.send(Batch::new(vec![update])).await.is_err() {
                    return;
                }
                delivered = Some(message);
            }
            tokio::select! {
                () = tokio::time::sleep(pause(&self.dns, failures)) => {}
                () = batches.closed() => return,
            }
        }
    }

    /// Looks all names up at once. Returns whether one of them failed.
    async fn look(&self, answers: &mut Answers) -> bool {
        let asked = answers.keys().cloned().map(|name| {
            let looking = (self.lookup)(name.clone());
            async move { (name, looking.await) }
        });
        let mut failed = false;
        for (name, result) in futures_util::future::join_all(asked).await {
            let Some(known) = answers.get_mut(&name) else {
                continue;
            };
            let found = result.and_then(|found| match choose(self.dns.family, found) {
                found if found.is_empty() => Err(io::Error::other("no address")),
                found => Ok(found),
            });
            match found {
                Ok(found) => take(known, found, self.dns.logical),
                Err(error) => {
                    failed = true;
                    let host = &name.0;
                    let kept = known.len();
                    match kept {
                        0 => warn!(host, %error, "name cannot be looked up"),
                        _ => debug!(host, %error, kept, "name cannot be looked up"),
                    }
                }
            }
        }
        failed
    }
}

impl Source for DnsSource {
    fn origin(&self) -> Origin {
        origin(&self.dns)
    }

    fn run(self: Box<Self>, batches: Batches) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.follow(batches))
    }
}

/// One for each set of names: what is left of one that nobody wants any more is found by it.
pub(super) fn origin(dns: &Dns) -> Origin {
    Origin::Dns(Arc::from(dns.resource.as_str()))
}

fn names(dns: &Dns) -> Answers {
    let endpoints = dns.assignment.localities.iter().flat_map(|l| &l.endpoints);
    let named = endpoints.filter_map(|endpoint| match &endpoint.address {
        Address::Named { host, port } => Some(((host.clone(), *port), Vec::new())),
        Address::Socket(_) | Address::Pipe(_) => None,
    });
    named.collect()
}

/// Those that count, in an order that does not depend on how a server turns its answers.
fn choose(family: DnsFamily, mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    found.sort_unstable();
    found.dedup();
    let (v4, v6): (Vec<_>, Vec<_>) = found.into_iter().partition(SocketAddr::is_ipv4);
    let first_of = |a: Vec<_>, b| if a.is_empty() { b } else { a };
    match family {
        DnsFamily::Auto => first_of(v6, v4),
        DnsFamily::V4Preferred => first_of(v4, v6),
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::All => [v4, v6].concat(),
    }
}

/// A logical name keeps its address for as long as that is one of those found: connections are
/// not given up for the order of an answer.
fn take(known: &mut Vec<SocketAddr>, mut found: Vec<SocketAddr>, logical: bool) {
    if logical {
        let kept = known.first().filter(|address| found.contains(address));
        let first = kept.copied().or(found.first().copied());
        found = first.into_iter().collect();
    }
    *known = found;
}

/// Until the next lookup, after so many failures on end.
fn pause(dns: &Dns, failures: u32) -> Duration {
    let (base, max) = dns.failure_refresh;
    match failures {
        0 => dns.refresh,
        n => base.saturating_mul(2_u32.saturating_pow(n - 1)).min(max),
    }
}

fn update(dns: &Dns, message: &ClusterLoadAssignment) -> Update {
    let kind = ResourceType::LoadAssignment;
    Update {
        origin: origin(dns),
        kind,
        version: String::new(),
        extent: Extent::Incremental,
        upserts: vec![pack_as(message, kind.message_name())],
        listing: None,
        removals: Vec::new(),
    }
}

/// What the cluster names, with addresses instead of names.
fn assignment(dns: &Dns, answers: &Answers) -> ClusterLoadAssignment {
    let localities = dns.assignment.localities.iter();
    ClusterLoadAssignment {
        cluster_name: dns.resource.clone(),
        policy: Some(endpoint::cluster_load_assignment::Policy {
            overprovisioning_factor: Some(UInt32Value {
                value: dns.assignment.overprovisioning,
            }),
            weighted_priority_health: dns.assignment.weighted_health,
            ..Default::default()
        }),
        endpoints: localities.map(|l| locality(l, answers)).collect(),
        ..Default::default()
    }
}

fn locality(model: &LocalityEndpoints, answers: &Answers) -> LocalityLbEndpoints {
    let mut endpoints = Vec::with_capacity(model.endpoints.len());
    for endpoint in &model.endpoints {
        match &endpoint.address {
            Address::Named { host, port } => {
                let found = answers.get(&(host.clone(), *port));
                for address in found.into_iter().flatten() {
                    endpoints.push((socket(*address), host.as_str(), endpoint));
                }
            }
            Address::Socket(address) => endpoints.push((socket(*address), "", endpoint)),
            Address::Pipe(path) => {
                let path = path.display().to_string();
                let pipe = AddressKind::Pipe(core::Pipe { path, mode: 0 });
                endpoints.push((pipe, "", endpoint));
            }
        }
    }
    // Each address has the weight of its name, as in Envoy, as long as the sum fits into 32 bits.
    let total: u64 = endpoints.iter().map(|(_, _, e)| u64::from(e.weight)).sum();
    let scale = total.div_ceil(u64::from(u32::MAX)).max(1);
    let scale = u32::try_from(scale).unwrap_or(u32::MAX);
    let endpoints = endpoints.into_iter();
    LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: model.locality.region.clone(),
            zone: model.locality.zone.clone(),
            sub_zone: model.locality.sub_zone.clone(),
        }),
        priority: model.priority,
        metadata: socket_metadata(&model.socket_labels),
        load_balancing_weight: (model.weight > 0).then_some(UInt32Value {
            value: model.weight,
        }),
        lb_endpoints: endpoints
            .map(|(address, host, model)| lb_endpoint(address, host, model, scale))
            .collect(),
        ..Default::default()
    }
}

fn socket(address: SocketAddr) -> AddressKind {
    AddressKind::SocketAddress(core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    })
}

fn lb_endpoint(address: AddressKind, host: &str, model: &Endpoint, scale: u32) -> LbEndpoint {
    let hostname = match model.hostname.as_str() {
        "" => host,
        given => given,
    };
    LbEndpoint {
        health_status: health(model.health) as i32,
        metadata: to_metadata(&model.metadata),
        load_balancing_weight: Some(UInt32Value {
            value: (model.weight / scale).max(1),
        }),
        host_identifier: Some(HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(core::Address {
                address: Some(address),
            }),
            hostname: hostname.to_owned(),
            health_check_config: check(&model.check),
            ..Default::default()
        })),
    }
}

fn check(model: &EndpointCheck) -> Option<HealthCheckConfig> {
    (model != &EndpointCheck::default()).then(|| HealthCheckConfig {
        port_value: model.port.unwrap_or_default().into(),
        hostname: model.hostname.clone(),
        address: None,
        disable_active_health_check: model.disabled,
    })
}

fn health(model: EndpointHealth) -> core::HealthStatus {
    use core::HealthStatus as Status;
    match model {
        EndpointHealth::Unknown => Status::Unknown,
        EndpointHealth::Healthy => Status::Healthy,
        EndpointHealth::Unhealthy => Status::Unhealthy,
        EndpointHealth::Draining => Status::Draining,
        EndpointHealth::Timeout => Status::Timeout,
        EndpointHealth::Degraded => Status::Degraded,
    }
}

/// What the decoder of localities reads of it.
fn socket_metadata(labels: &Labels) -> Option<Metadata> {
    let given = (!labels.is_empty()).then(|| (SOCKET_METADATA.to_owned(), labels.clone()));
    to_metadata(&given.into_iter().collect())
}

#[cfg(test)]
mod tests;
