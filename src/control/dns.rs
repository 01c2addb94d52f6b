//! The addresses of names, as a source: it looks up what a cluster names, again and again, and
//! delivers load assignments. Nothing of it is on the way of a request.
//!
//! The first answers are delivered together, even when nothing was found, so that nobody waits for
//! what is not there. Later on a name that nobody can tell of keeps the addresses it had; one of
//! which it is said that it has none loses them, unless it is a logical one.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::ResourceType;
use causeway_xds::proto::core::address::Address as AddressKind;
use causeway_xds::proto::core::socket_address::PortSpecifier;
use causeway_xds::proto::core::{self, Metadata};
use causeway_xds::proto::endpoint::endpoint::{AdditionalAddress, HealthCheckConfig};
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
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tracing::{debug, warn};

use crate::net::resolve::{Answer, Lookup, LookupError};

/// A host and a port to look up.
type Name = (String, u16);

/// What is known of each name.
type Hosts = BTreeMap<Name, Host>;

#[derive(Debug, Default)]
struct Host {
    addresses: Vec<IpAddr>,
    answered: bool,
    /// On end, up to now.
    failures: u32,
}

/// The names of one cluster.
pub struct DnsSource {
    dns: Arc<Dns>,
    lookup: Lookup,
}

impl DnsSource {
    pub fn new(dns: Arc<Dns>, lookup: Lookup) -> Self {
        Self { dns, lookup }
    }

    async fn follow(self, batches: Batches) {
        let mut hosts = names(&self.dns);
        let mut delivered = None;
        let ask = |name: Name, pause| {
            let (lookup, family) = (Arc::clone(&self.lookup), self.dns.family);
            async move {
                tokio::time::sleep(pause).await;
                let result = lookup(name.0.clone(), family).await;
                (name, result)
            }
        };
        let asked = hosts.keys().cloned();
        let mut asking: FuturesUnordered<_> = asked.map(|name| ask(name, Duration::ZERO)).collect();
        loop {
            if hosts.values().all(|host| host.answered) {
                let message = assignment(&self.dns, &hosts);
                if delivered.as_ref() != Some(&message) {
                    let update = update(&self.dns, &message);
                    if batches.send(Batch::new(vec![update])).await.is_err() {
                        return;
                    }
                    delivered = Some(message);
                }
            }
            let first = tokio::select! {
                Some(first) = asking.next() => first,
                () = batches.closed() => return,
            };
            let mut next = Some(first);
            // What came at the same time is delivered together.
            while let Some((name, result)) = next {
                if let Some(host) = hosts.get_mut(&name) {
                    let ttl = host.hear(&name.0, result, &self.dns);
                    let pause = pause(&self.dns, host.failures, ttl, fastrand::f64());
                    asking.push(ask(name, pause));
                }
                next = asking.next().now_or_never().flatten();
            }
        }
    }
}

impl Host {
    /// Takes an answer. Returns for how long it holds, if that is known.
    fn hear(
        &mut self,
        name: &str,
        result: Result<Answer, LookupError>,
        dns: &Dns,
    ) -> Option<Duration> {
        let kept = self.addresses.len();
        let news = !std::mem::replace(&mut self.answered, true) || kept > 0 || self.failures > 0;
        let failed = match result {
            Ok(Answer { addresses, ttl }) => {
                let found = choose(dns.family, addresses);
                // A logical name has one endpoint, which does not go.
                if !found.is_empty() || !dns.logical {
                    if found.is_empty() && news {
                        warn!(name, before = kept, "name has no address");
                    }
                    self.failures = 0;
                    take(&mut self.addresses, found, dns.logical);
                    return ttl;
                }
                "it has no address".to_owned()
            }
            Err(error) => error.to_string(),
        };
        self.failures = self.failures.saturating_add(1);
        match (kept, self.failures) {
            (0, 1) => warn!(name, error = failed, "name cannot be looked up"),
            _ => debug!(name, error = failed, kept, "name cannot be looked up"),
        }
        None
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

fn names(dns: &Dns) -> Hosts {
    let endpoints = dns.assignment.localities.iter().flat_map(|l| &l.endpoints);
    let named = endpoints.filter_map(|endpoint| match &endpoint.address {
        Address::Named { host, port } => Some(((host.clone(), *port), Host::default())),
        Address::Socket(_) | Address::Pipe(_) => None,
    });
    named.collect()
}

/// Those that count, in an order that does not depend on how a server turns its answers.
fn choose(family: DnsFamily, mut found: Vec<IpAddr>) -> Vec<IpAddr> {
    found.sort_unstable();
    found.dedup();
    let (v4, v6): (Vec<_>, Vec<_>) = found.into_iter().partition(IpAddr::is_ipv4);
    let first_of = |a: Vec<_>, b| if a.is_empty() { b } else { a };
    match family {
        DnsFamily::Auto => first_of(v6, v4),
        DnsFamily::V4Preferred => first_of(v4, v6),
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::All => [v4, v6].concat(),
    }
}

/// The first address of a logical name stays first for as long as it is one of those found: it is
/// what its one endpoint is known by.
fn take(known: &mut Vec<IpAddr>, mut found: Vec<IpAddr>, logical: bool) {
    let kept = known.first().filter(|_| logical);
    if let Some(place) = kept.and_then(|kept| found.iter().position(|address| address == kept)) {
        found[..=place].rotate_right(1);
    }
    *known = found;
}

/// Until the next lookup of a name, after so many failures on end, or an answer that holds for
/// `ttl`; `part` is that of the jitter, 0 to 1.
fn pause(dns: &Dns, failures: u32, ttl: Option<Duration>, part: f64) -> Duration {
    let (base, max) = dns.failure_refresh;
    match failures {
        0 => {
            // An answer that holds for no time at all says nothing of when to ask again.
            let ttl = ttl.filter(|ttl| !ttl.is_zero());
            let held = dns.respect_ttl.and_then(|least| Some(ttl?.max(least)));
            held.unwrap_or(dns.refresh) + dns.jitter.mul_f64(part)
        }
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
fn assignment(dns: &Dns, hosts: &Hosts) -> ClusterLoadAssignment {
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
        endpoints: localities
            .map(|l| locality(l, hosts, dns.logical))
            .collect(),
        ..Default::default()
    }
}

/// One endpoint of an assignment: what it says of it, and where it is.
struct Found<'m> {
    model: &'m Endpoint,
    /// The name, where it was looked up.
    host: &'m str,
    address: AddressKind,
    others: Vec<SocketAddr>,
}

impl<'m> Found<'m> {
    /// Those of a name: one for each address, or one with all of them if it is a logical one.
    fn by_name(
        model: &'m Endpoint,
        (host, port): (&'m str, u16),
        addresses: &[IpAddr],
        logical: bool,
    ) -> Vec<Self> {
        let each = if logical { addresses.len().max(1) } else { 1 };
        let sockets = addresses.chunks(each).filter_map(|addresses| {
            let mut sockets = addresses.iter().map(|ip| SocketAddr::new(*ip, port));
            let address = socket(sockets.next()?);
            let others = sockets.chain(model.additional_addresses.iter().copied());
            Some(Self {
                model,
                host,
                address,
                others: others.collect(),
            })
        });
        sockets.collect()
    }

    fn by_address(model: &'m Endpoint, address: AddressKind) -> Self {
        Self {
            model,
            host: "",
            address,
            others: model.additional_addresses.clone(),
        }
    }
}

fn locality(model: &LocalityEndpoints, hosts: &Hosts, logical: bool) -> LocalityLbEndpoints {
    let mut endpoints = Vec::with_capacity(model.endpoints.len());
    for endpoint in &model.endpoints {
        match &endpoint.address {
            Address::Named { host, port } => {
                let known = hosts.get(&(host.clone(), *port));
                let addresses = known.map_or(&[][..], |known| &known.addresses);
                let name = (host.as_str(), *port);
                endpoints.extend(Found::by_name(endpoint, name, addresses, logical));
            }
            Address::Socket(address) => {
                endpoints.push(Found::by_address(endpoint, socket(*address)));
            }
            Address::Pipe(path) => {
                let path = path.display().to_string();
                let pipe = AddressKind::Pipe(core::Pipe { path, mode: 0 });
                endpoints.push(Found::by_address(endpoint, pipe));
            }
        }
    }
    // Each address has the weight of its name, as in Envoy, as long as the sum fits into 32 bits.
    let total: u64 = endpoints.iter().map(|e| u64::from(e.model.weight)).sum();
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
        lb_endpoints: endpoints.map(|found| lb_endpoint(found, scale)).collect(),
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

fn lb_endpoint(found: Found<'_>, scale: u32) -> LbEndpoint {
    let Found {
        model,
        host,
        address,
        others,
    } = found;
    let at = |address| core::Address {
        address: Some(address),
    };
    let additional = |address| AdditionalAddress {
        address: Some(at(socket(address))),
    };
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
            address: Some(at(address)),
            additional_addresses: others.into_iter().map(additional).collect(),
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
