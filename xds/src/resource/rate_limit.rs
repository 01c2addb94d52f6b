//! Rate limit actions: what a request is counted by (`envoy.config.route.v3.RateLimit`).
//!
//! Routes, virtual hosts and the filters that limit rates carry them. Each entry makes at most one
//! descriptor, a list of keys and values, from the facts of a request.

mod decode;

use ipnet::IpNet;

use super::matcher::{HeaderMatcher, QueryMatcher};
use crate::proto::envoy::r#type::v3::RateLimitUnit;

/// `envoy.config.route.v3.RateLimit`.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Counts for filters of this stage only; 0 to 10.
    pub stage: u32,
    /// Runtime key `ratelimit.<key>.http_filter_enabled`, a percentage, may switch it off; may be
    /// empty.
    pub disable_key: String,
    /// In order; each adds one entry. Never empty.
    pub actions: Vec<Action>,
    /// Told to the service instead of the limit that it has.
    pub limit: Option<Override>,
    /// How much one request counts; 1 if it is not given.
    pub hits: Option<u64>,
    /// Whether `x-ratelimit-*` headers speak of this limit; `None`: as the filter says.
    pub headers: Option<bool>,
}

/// `envoy.config.route.v3.RateLimit.Action`.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Entry `source_cluster`: `node.cluster` of this program.
    SourceCluster,
    /// Entry `destination_cluster`: the cluster that the route chooses.
    DestinationCluster,
    RequestHeader {
        /// Lower case; may be a pseudo header.
        header: String,
        key: String,
        /// A header that is missing leaves out the entry and not the whole descriptor.
        skip_if_absent: bool,
    },
    QueryParameter {
        parameter: String,
        key: String,
        skip_if_absent: bool,
    },
    /// Entry `remote_address`: the client's address.
    RemoteAddress,
    /// Entry `masked_remote_address`: the client's network, as `192.0.2.0/24`.
    MaskedRemoteAddress {
        v4: u8,
        v6: u8,
    },
    GenericKey {
        key: String,
        value: String,
    },
    HeaderMatch {
        key: String,
        value: String,
        expect: bool,
        headers: Vec<HeaderMatcher>,
    },
    QueryMatch {
        key: String,
        value: String,
        expect: bool,
        parameters: Vec<QueryMatcher>,
    },
    AddressMatch {
        key: String,
        value: String,
        invert: bool,
        ranges: Vec<IpNet>,
    },
    Metadata {
        key: String,
        at: MetadataKey,
        from: MetadataOf,
        /// May be empty.
        default: String,
        skip_if_absent: bool,
    },
}

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataOf {
    Request,
    Route,
}

/// `envoy.type.metadata.v3.MetadataKey`: a namespace and keys into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataKey {
    pub namespace: String,
    pub path: Vec<String>,
}

/// `envoy.config.route.v3.RateLimit.Override`.
#[derive(Clone, Debug, PartialEq)]
pub enum Override {
    Limit {
        requests: u32,
        unit: Unit,
    },
    /// A structure with `requests_per_unit` and `unit`.
    DynamicMetadata(MetadataKey),
}

/// `envoy.type.v3.RateLimitUnit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Year,
}

impl Unit {
    /// By the name that dynamic metadata and the service use.
    pub fn named(name: &str) -> Option<Self> {
        RateLimitUnit::from_str_name(name).and_then(Self::of)
    }
}

#[cfg(test)]
mod tests;
