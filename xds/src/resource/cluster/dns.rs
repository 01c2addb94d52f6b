//! Clusters whose endpoints are names: `STRICT_DNS`, `LOGICAL_DNS` and `envoy.clusters.dns`.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use super::{Discovery, Dns, DnsFamily};
use crate::proto::envoy::config::cluster::v3::cluster::{self, CustomClusterType};
use crate::proto::envoy::extensions::clusters::dns::v3::{DnsCluster, dns_cluster};
use crate::proto::{self, ClusterLoadAssignment};
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, duration, enumeration, not_empty, required, unknown_type, unpack,
};
use crate::resource::dns_resolver::{DnsResolver, DnsResolverFields};
use crate::resource::load_assignment::LoadAssignment;
use crate::type_url::message_name;

const DEFAULT_REFRESH: Duration = Duration::from_secs(5);
const SHORTEST_REFRESH: Duration = Duration::from_millis(1);
const CUSTOM: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";

/// The fields of a cluster that are about names.
#[derive(Default)]
pub(super) struct DnsFields {
    pub refresh_rate: Option<proto::Duration>,
    pub failure_refresh_rate: Option<cluster::RefreshRate>,
    pub respect_ttl: bool,
    pub jitter: Option<proto::Duration>,
    pub lookup_family: i32,
    pub resolver: DnsResolverFields,
}

impl Dns {
    pub(super) fn decode(
        cluster: &str,
        logical: bool,
        fields: DnsFields,
        assignment: Option<ClusterLoadAssignment>,
        ctx: &Context<'_>,
    ) -> Result<Discovery, Invalid> {
        let refresh = refresh_rate(fields.refresh_rate)?;
        let failure_refresh = match fields.failure_refresh_rate {
            None => (refresh, refresh),
            Some(cluster::RefreshRate {
                base_interval,
                max_interval,
            }) => failure_rate(base_interval, max_interval).at("dns_failure_refresh_rate")?,
        };
        let family = match enumeration(fields.lookup_family, "dns_lookup_family")? {
            cluster::DnsLookupFamily::Auto => DnsFamily::Auto,
            cluster::DnsLookupFamily::V4Only => DnsFamily::V4Only,
            cluster::DnsLookupFamily::V6Only => DnsFamily::V6Only,
            cluster::DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
            cluster::DnsLookupFamily::All => DnsFamily::All,
        };
        Self {
            resource: String::new(),
            logical,
            assignment: names(cluster, assignment, logical, ctx)?,
            refresh,
            failure_refresh,
            respect_ttl: fields.respect_ttl.then_some(Duration::ZERO),
            jitter: duration(fields.jitter, "dns_jitter")?.unwrap_or_default(),
            family,
            resolver: DnsResolver::decode(fields.resolver, ctx)?,
        }
        .named(cluster)
    }

    /// `cluster_type`.
    pub(super) fn decode_custom(
        cluster: &str,
        message: CustomClusterType,
        assignment: Option<ClusterLoadAssignment>,
        ctx: &Context<'_>,
    ) -> Result<Discovery, Invalid> {
        let CustomClusterType { name, typed_config } = message;
        const FIELD: &str = "cluster_type";
        not_empty(name, "name").at(FIELD)?;
        let any = required(typed_config, "typed_config").at(FIELD)?;
        let read = || {
            if message_name(&any.type_url) != CUSTOM {
                return Err(unknown_type(&any.type_url));
            }
            let DnsCluster {
                dns_refresh_rate,
                dns_failure_refresh_rate,
                respect_dns_ttl,
                dns_jitter,
                typed_dns_resolver_config,
                dns_lookup_family,
                all_addresses_in_single_endpoint,
                dns_min_refresh_rate,
            } = unpack(&any)?;
            let least = match duration(dns_min_refresh_rate, "dns_min_refresh_rate")? {
                Some(least) if least < Duration::from_secs(1) => {
                    return Err(Invalid::at("dns_min_refresh_rate", "must be at least 1 s"));
                }
                least => least.unwrap_or_default(),
            };
            let respect_ttl = respect_dns_ttl.then_some(least);
            let jitter = duration(dns_jitter, "dns_jitter")?.unwrap_or_default();
            let fields = DnsResolverFields {
                typed_dns_resolver_config,
                ..DnsResolverFields::default()
            };
            let resolver = DnsResolver::decode(fields, ctx)?;
            let refresh = refresh_rate(dns_refresh_rate)?;
            let failure_refresh = match dns_failure_refresh_rate {
                None => (refresh, refresh),
                Some(dns_cluster::RefreshRate {
                    base_interval,
                    max_interval,
                }) => failure_rate(base_interval, max_interval).at("dns_failure_refresh_rate")?,
            };
            use proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily as Family;
            let family = match enumeration(dns_lookup_family, "dns_lookup_family")? {
                Family::Unspecified | Family::Auto => DnsFamily::Auto,
                Family::V4Only => DnsFamily::V4Only,
                Family::V6Only => DnsFamily::V6Only,
                Family::V4Preferred => DnsFamily::V4Preferred,
                Family::All => DnsFamily::All,
            };
            Ok(Self {
                resource: String::new(),
                logical: all_addresses_in_single_endpoint,
                assignment: LoadAssignment::empty(cluster),
                refresh,
                failure_refresh,
                respect_ttl,
                jitter,
                family,
                resolver,
            })
        };
        let mut dns = read().at("typed_config").at(FIELD)?;
        dns.assignment = names(cluster, assignment, dns.logical, ctx)?;
        dns.named(cluster)
    }

    /// A changed list of names is another resource: until it is resolved the earlier one serves.
    fn named(mut self, cluster: &str) -> Result<Discovery, Invalid> {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        self.resource = format!("dns/{cluster}/{:016x}", hasher.finish());
        Ok(Discovery::Dns(self.into()))
    }
}

fn refresh_rate(message: Option<proto::Duration>) -> Result<Duration, Invalid> {
    const FIELD: &str = "dns_refresh_rate";
    match duration(message, FIELD)? {
        None => Ok(DEFAULT_REFRESH),
        Some(rate) if rate <= SHORTEST_REFRESH => Err(Invalid::at(FIELD, "must be more than 1 ms")),
        Some(rate) => Ok(rate),
    }
}

/// The shortest and the longest wait after a failure.
fn failure_rate(
    base: Option<proto::Duration>,
    max: Option<proto::Duration>,
) -> Result<(Duration, Duration), Invalid> {
    let base = required(duration(base, "base_interval")?, "base_interval")?;
    if base <= SHORTEST_REFRESH {
        return Err(Invalid::at("base_interval", "must be more than 1 ms"));
    }
    let max = duration(max, "max_interval")?.unwrap_or(base.saturating_mul(10));
    if max < base {
        return Err(Invalid::at("max_interval", "is less than base_interval"));
    }
    Ok((base, max))
}

fn names(
    cluster: &str,
    message: Option<ClusterLoadAssignment>,
    logical: bool,
    ctx: &Context<'_>,
) -> Result<LoadAssignment, Invalid> {
    const FIELD: &str = "load_assignment";
    let assignment = match message {
        Some(message) => LoadAssignment::decode_names(message, ctx).at(FIELD)?,
        None => LoadAssignment::empty(cluster),
    };
    let endpoints = assignment.localities.iter().map(|l| l.endpoints.len());
    if logical && endpoints.sum::<usize>() != 1 {
        return Err(Invalid::at(FIELD, "must have one endpoint"));
    }
    Ok(assignment)
}
