//! ClusterLoadAssignment.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use super::address::Address;
use super::context::{
    At, Context, accept, each, enumeration, fault, not_empty, number, refuse, required,
};
use super::metadata::{Label, Labels, Namespaces, namespaces};
use crate::proto::core::{self, HealthStatus, Metadata};
use crate::proto::endpoint::lb_endpoint::HostIdentifier;
use crate::proto::endpoint::locality_lb_endpoints::LbConfig;
use crate::proto::endpoint::{self, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use crate::proto::google::protobuf::value::Kind;
use crate::reject::Invalid;

/// Namespace of our own keys in metadata.
pub(crate) const OUR_METADATA: &str = "causeway";
/// Envoy's, of endpoints.
pub const LB_METADATA: &str = "envoy.lb";
/// Envoy's, of endpoints and localities.
pub const SOCKET_METADATA: &str = "envoy.transport_socket_match";

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoadAssignment {
    pub cluster_name: String,
    pub localities: Vec<LocalityEndpoints>,
    /// Percent: how much more than its share of endpoints a priority takes before the next one is
    /// used as well. Default 140 (`overprovisioning_factor`).
    pub overprovisioning: u32,
    /// Whether the share of available endpoints of a priority is one of weights instead of numbers
    /// (`weighted_priority_health`).
    pub weighted_health: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalityEndpoints {
    pub locality: Arc<Locality>,
    pub priority: u32,
    /// Among the localities of its priority (`load_balancing_weight`); 0 when not given.
    pub weight: u32,
    /// As [`Endpoint::socket_labels`], for those that match nothing by their own.
    pub socket_labels: Labels,
    /// Shared with whoever makes something of one of them.
    pub endpoints: Vec<Arc<Endpoint>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: Address,
    /// Where else it is: whichever answers first is connected to (RFC 8305). Only beside an IP
    /// address or a name (`additional_addresses`).
    pub additional_addresses: Vec<SocketAddr>,
    /// Name for `auto_host_rewrite`; may be empty.
    pub hostname: String,
    /// What tells this endpoint from an earlier one at the same address
    /// (`causeway` metadata key `id`); may be empty.
    pub id: String,
    /// What consistent hashing hashes instead of the address (`envoy.lb` metadata key `hash_key`);
    /// may be empty.
    pub hash_key: String,
    /// At least 1; default 1.
    pub weight: u32,
    pub health: EndpointHealth,
    pub check: EndpointCheck,
    /// What subsets are made by (metadata `envoy.lb`).
    pub labels: Labels,
    /// What transport sockets are chosen by (metadata `envoy.transport_socket_match`).
    pub socket_labels: Labels,
    /// All of it, for formats.
    pub metadata: Namespaces,
}

/// What is different for the health checks of one endpoint (`health_check_config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointCheck {
    /// Instead of the port of the address, and of the cluster's `alt_port`.
    pub port: Option<u16>,
    /// Instead of the host that the check names; may be empty.
    pub hostname: String,
    /// It is not checked, and healthy unless the source says otherwise.
    pub disabled: bool,
}

/// `envoy.config.core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointHealth {
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
    Draining,
    Timeout,
    Degraded,
}

/// Whether an address may be a name is up to the cluster.
type DecodeAddress = fn(core::Address) -> Result<Address, Invalid>;

const OVERPROVISIONING: u32 = 140;

impl LoadAssignment {
    /// Without any endpoint.
    pub fn empty(cluster_name: &str) -> Self {
        Self {
            cluster_name: cluster_name.to_owned(),
            localities: Vec::new(),
            overprovisioning: OVERPROVISIONING,
            weighted_health: false,
        }
    }

    pub(crate) fn decode(
        message: ClusterLoadAssignment,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        Self::decode_with(message, Address::decode_literal, ctx)
    }

    /// As [`Self::decode`], for a cluster that looks names up.
    pub(crate) fn decode_names(
        message: ClusterLoadAssignment,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        Self::decode_with(message, Address::decode, ctx)
    }

    fn decode_with(
        message: ClusterLoadAssignment,
        address: DecodeAddress,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let ClusterLoadAssignment {
            cluster_name,
            endpoints,
            named_endpoints,
            policy,
        } = message;
        refuse!(named_endpoints);
        let (overprovisioning, weighted_health) =
            decode_policy(policy.unwrap_or_default()).at("policy")?;
        Ok(Self {
            overprovisioning,
            weighted_health,
            cluster_name: not_empty(cluster_name, "cluster_name")?,
            localities: each("endpoints", endpoints, |l| {
                LocalityEndpoints::decode(l, address, ctx)
            })?,
        })
    }
}

/// The overprovisioning factor, and whether health is weighted.
fn decode_policy(
    message: endpoint::cluster_load_assignment::Policy,
) -> Result<(u32, bool), Invalid> {
    let endpoint::cluster_load_assignment::Policy {
        drop_overloads,
        overprovisioning_factor,
        endpoint_stale_after,
        weighted_priority_health,
    } = message;
    refuse!(drop_overloads, endpoint_stale_after);
    let field = "overprovisioning_factor";
    let factor = number(overprovisioning_factor, field, 1..=u32::MAX)?;
    Ok((factor.unwrap_or(OVERPROVISIONING), weighted_priority_health))
}

impl LocalityEndpoints {
    fn decode(
        message: LocalityLbEndpoints,
        address: DecodeAddress,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let LocalityLbEndpoints {
            locality,
            metadata,
            lb_endpoints,
            load_balancing_weight,
            priority,
            proximity,
            lb_config,
        } = message;
        let weight = number(load_balancing_weight, "load_balancing_weight", 1..=u32::MAX)?;
        let mut metadata = metadata.unwrap_or_default();
        let socket_labels = Label::all(metadata.filter_metadata.remove(SOCKET_METADATA));
        accept!(ctx, "LocalityLbEndpoints": metadata, proximity);
        check_lb_config(lb_config)?;
        const MAX_PRIORITY: u32 = 128;
        if priority > MAX_PRIORITY {
            return Err(Invalid::at(
                "priority",
                format!("{priority} is above {MAX_PRIORITY}"),
            ));
        }
        let endpoints = each("lb_endpoints", lb_endpoints, |e| {
            Endpoint::decode(e, address, ctx).map(Arc::new)
        })?;
        // Balancers add weights up in 32 bits; the message definition asks for the same.
        let total: u64 = endpoints.iter().map(|e| u64::from(e.weight)).sum();
        if total > u64::from(u32::MAX) {
            return Err(Invalid::at(
                "lb_endpoints",
                "the weights add up to more than 2^32 - 1",
            ));
        }
        Ok(Self {
            locality: Locality::shared(locality.unwrap_or_default()),
            priority,
            weight: weight.unwrap_or_default(),
            socket_labels,
            endpoints,
        })
    }
}

#[allow(deprecated, reason = "named so that it can be refused")]
fn check_lb_config(config: Option<LbConfig>) -> Result<(), Invalid> {
    let field = match config {
        None => return Ok(()),
        Some(LbConfig::LoadBalancerEndpoints(_)) => "load_balancer_endpoints",
        Some(LbConfig::LedsClusterLocalityConfig(_)) => "leds_cluster_locality_config",
    };
    Err(Invalid::at(field, "not supported yet"))
}

impl From<core::Locality> for Locality {
    fn from(message: core::Locality) -> Self {
        let core::Locality {
            region,
            zone,
            sub_zone,
        } = message;
        Self {
            region,
            zone,
            sub_zone,
        }
    }
}

impl Locality {
    /// Most have none; that is there once.
    fn shared(message: core::Locality) -> Arc<Self> {
        static NONE: LazyLock<Arc<Locality>> = LazyLock::new(Arc::default);
        match message == core::Locality::default() {
            true => Arc::clone(&NONE),
            false => Arc::new(message.into()),
        }
    }
}

impl Endpoint {
    /// One of which nothing is said but where it is.
    pub fn at(address: Address) -> Self {
        Self {
            address,
            additional_addresses: Vec::new(),
            hostname: String::new(),
            id: String::new(),
            hash_key: String::new(),
            weight: 1,
            health: EndpointHealth::default(),
            check: EndpointCheck::default(),
            labels: Labels::new(),
            socket_labels: Labels::new(),
            metadata: Namespaces::new(),
        }
    }

    fn decode(
        message: LbEndpoint,
        decode_address: DecodeAddress,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let LbEndpoint {
            health_status,
            metadata,
            load_balancing_weight,
            host_identifier,
        } = message;
        let endpoint = match host_identifier {
            Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
            Some(HostIdentifier::EndpointName(_)) => {
                return Err(Invalid::at("endpoint_name", "not supported yet"));
            }
            None => return Err(Invalid::at("endpoint", "must be given")),
        };
        let Host {
            address,
            additional_addresses,
            hostname,
            check,
        } = Host::decode(endpoint, decode_address, ctx).at("endpoint")?;
        let told = decode_metadata(metadata, ctx).at("metadata")?;
        Ok(Self {
            address,
            additional_addresses,
            hostname,
            id: told.id,
            hash_key: told.hash_key,
            labels: told.labels,
            socket_labels: told.socket_labels,
            metadata: told.all,
            weight: number(load_balancing_weight, "load_balancing_weight", 1..=u32::MAX)?
                .unwrap_or(1),
            health: EndpointHealth::decode(health_status, "health_status")?,
            check,
        })
    }
}

/// An endpoint without what its cluster makes of it.
struct Host {
    address: Address,
    additional_addresses: Vec<SocketAddr>,
    hostname: String,
    check: EndpointCheck,
}

impl Host {
    fn decode(
        message: endpoint::Endpoint,
        decode_address: DecodeAddress,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let endpoint::Endpoint {
            address,
            health_check_config,
            hostname,
            additional_addresses,
            observability_name,
        } = message;
        const ADDITIONAL: &str = "additional_addresses";
        accept!(ctx, "Endpoint": observability_name);
        let check = EndpointCheck::decode(health_check_config.unwrap_or_default());
        let address = decode_address(required(address, "address")?).at("address")?;
        if matches!(address, Address::Pipe(_)) && !additional_addresses.is_empty() {
            return Err(Invalid::at(ADDITIONAL, "not beside a pipe"));
        }
        Ok(Self {
            additional_addresses: each(ADDITIONAL, additional_addresses, additional)?,
            address,
            hostname,
            check: check.at("health_check_config")?,
        })
    }
}

fn additional(message: endpoint::endpoint::AdditionalAddress) -> Result<SocketAddr, Invalid> {
    let address = required(message.address, "address")?;
    match Address::decode_literal(address).at("address")? {
        Address::Socket(address) => Ok(address),
        other => Err(Invalid::at(
            "address",
            format!("{other} is not an IP address"),
        )),
    }
}

/// What is read of an endpoint's metadata.
struct Told {
    id: String,
    hash_key: String,
    labels: Labels,
    socket_labels: Labels,
    all: Namespaces,
}

fn decode_metadata(metadata: Option<Metadata>, ctx: &Context<'_>) -> Result<Told, Invalid> {
    let mut metadata = metadata.unwrap_or_default();
    let mut values = std::mem::take(&mut metadata.filter_metadata);
    accept!(ctx, "LbEndpoint": metadata);
    let all = namespaces(values.clone());
    let ours = values.remove(OUR_METADATA);
    let labels = Label::all(values.remove(LB_METADATA));
    let socket_labels = Label::all(values.remove(SOCKET_METADATA));
    let id = ours.and_then(|mut ours| ours.fields.remove("id"));
    let id = match id.map(|value| value.kind) {
        None => String::new(),
        Some(Some(Kind::StringValue(id))) => id,
        Some(_) => {
            return Err(fault("is not a string"))
                .at("id")
                .at_key("filter_metadata", OUR_METADATA);
        }
    };
    Ok(Told {
        id,
        hash_key: match labels.get("hash_key") {
            Some(Label::Text(key)) => key.clone(),
            // Envoy goes by the address then.
            _ => String::new(),
        },
        labels,
        socket_labels,
        all,
    })
}

impl EndpointCheck {
    fn decode(message: endpoint::endpoint::HealthCheckConfig) -> Result<Self, Invalid> {
        let endpoint::endpoint::HealthCheckConfig {
            port_value,
            hostname,
            address,
            disable_active_health_check,
        } = message;
        refuse!(address);
        let Ok(port) = u16::try_from(port_value) else {
            return Err(Invalid::at(
                "port_value",
                format!("{port_value} is above 65535"),
            ));
        };
        Ok(Self {
            port: (port > 0).then_some(port),
            hostname,
            disabled: disable_active_health_check,
        })
    }
}

impl EndpointHealth {
    pub(super) fn decode(status: i32, field: &str) -> Result<Self, Invalid> {
        Ok(match enumeration(status, field)? {
            HealthStatus::Unknown => Self::Unknown,
            HealthStatus::Healthy => Self::Healthy,
            HealthStatus::Unhealthy => Self::Unhealthy,
            HealthStatus::Draining => Self::Draining,
            HealthStatus::Timeout => Self::Timeout,
            HealthStatus::Degraded => Self::Degraded,
        })
    }
}
