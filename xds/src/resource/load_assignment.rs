//! ClusterLoadAssignment.

use super::address::Address;

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadAssignment {
    pub cluster_name: String,
    pub localities: Vec<LocalityEndpoints>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityEndpoints {
    pub locality: Locality,
    pub priority: u32,
    /// `None`: not given.
    pub weight: Option<u32>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    /// Name for `auto_host_rewrite`; may be empty.
    pub hostname: String,
    /// What tells this endpoint from an earlier one at the same address
    /// (`causeway` metadata key `id`); may be empty.
    pub id: String,
    /// At least 1; default 1.
    pub weight: u32,
    pub health: EndpointHealth,
}

/// `envoy.config.core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointHealth {
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
    Draining,
    Timeout,
    Degraded,
}
