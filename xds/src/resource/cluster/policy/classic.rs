//! The classic fields: `lb_policy` and what goes with each.

use super::{DEFAULT_TABLE, bias, choices_of, table_of};
use crate::proto::core::HealthStatusSet;
use crate::proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig,
    RoundRobinLbConfig,
    common_lb_config::{
        ConsistentHashingLbConfig as ClassicHashing, LocalityConfigSpecifier as ClassicLocality,
        LocalityWeightedLbConfig, ZoneAwareLbConfig,
    },
    ring_hash_lb_config::HashFunction as ClassicFunction,
};
use crate::reject::Invalid;
use crate::resource::cluster::{
    Balancing, HashFunction, Hashing, Maglev, Policy, RingHash, SlowStart, ZoneAware,
};
use crate::resource::context::{At, Context, accept, each, enumeration, percent, refuse};
use crate::resource::load_assignment::EndpointHealth;

impl Balancing {
    /// What is said for every policy. Returns what is for those that hash.
    pub(super) fn common(
        &mut self,
        message: CommonLbConfig,
        ctx: &Context<'_>,
    ) -> Result<Hashing, Invalid> {
        let CommonLbConfig {
            healthy_panic_threshold,
            update_merge_window: _,
            ignore_new_hosts_until_first_hc,
            close_connections_on_host_set_change,
            consistent_hashing_lb_config,
            override_host_status,
            locality_config_specifier,
        } = message;
        refuse!(close_connections_on_host_set_change);
        if let Some(HealthStatusSet { statuses }) = override_host_status {
            let statuses = each("statuses", statuses, |status| {
                EndpointHealth::decode(status, "")
            });
            self.named_status = Some(statuses.at("override_host_status")?);
        }
        accept!(ctx, "CommonLbConfig": ignore_new_hosts_until_first_hc);
        if let Some(threshold) = percent(healthy_panic_threshold, "healthy_panic_threshold")? {
            // Envoy takes the whole part of it.
            self.panic_threshold = threshold.trunc();
        }
        match locality_config_specifier {
            None => {}
            Some(ClassicLocality::ZoneAwareLbConfig(zones)) => {
                let ZoneAwareLbConfig {
                    routing_enabled,
                    min_cluster_size,
                    fail_traffic_on_panic,
                } = zones;
                self.fail_on_panic = fail_traffic_on_panic;
                self.zones = ZoneAware::decode(routing_enabled, min_cluster_size)
                    .at("zone_aware_lb_config")?;
            }
            Some(ClassicLocality::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) => {
                self.by_locality = true;
            }
        }
        let Some(ClassicHashing {
            use_hostname_for_hashing,
            hash_balance_factor,
        }) = consistent_hashing_lb_config
        else {
            return Ok(Hashing::default());
        };
        Hashing::decode(use_hostname_for_hashing, hash_balance_factor)
            .at("consistent_hashing_lb_config")
    }
}

pub(super) fn classic(
    lb_policy: i32,
    config: Option<LbConfig>,
    hashing: Hashing,
) -> Result<Policy, Invalid> {
    let policy = enumeration(lb_policy, "lb_policy")?;
    // A configuration for another policy has no effect, as in Envoy; it has to be right all the same.
    let (mut ring, mut table, mut choices) = (
        RingHash::decode(None, None, HashFunction::XxHash, hashing)?,
        DEFAULT_TABLE,
        choices_of(None)?,
    );
    match config {
        None => {}
        // Nothing else is in it.
        Some(LbConfig::RoundRobinLbConfig(_)) => {}
        Some(LbConfig::LeastRequestLbConfig(config)) => {
            choices = least_request(config).at("least_request_lb_config")?;
        }
        Some(LbConfig::RingHashLbConfig(config)) => {
            ring = classic_ring(config, hashing).at("ring_hash_lb_config")?;
        }
        Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size })) => {
            table = table_of(table_size).at("maglev_lb_config")?;
        }
        // For clusters of type ORIGINAL_DST.
        Some(LbConfig::OriginalDstLbConfig(_)) => {}
    }
    match policy {
        LbPolicy::RoundRobin => Ok(Policy::RoundRobin),
        LbPolicy::LeastRequest => Ok(Policy::LeastRequest {
            choices: Some(choices),
        }),
        LbPolicy::Random => Ok(Policy::Random),
        LbPolicy::RingHash => Ok(Policy::RingHash(ring)),
        LbPolicy::Maglev => Ok(Policy::Maglev(Maglev {
            table_size: table,
            hashing,
        })),
        LbPolicy::ClusterProvided => Err(Invalid::at(
            "lb_policy",
            "CLUSTER_PROVIDED does not fit the type of the cluster",
        )),
        other => Err(Invalid::at(
            "lb_policy",
            format!("{} is not supported yet", other.as_str_name()),
        )),
    }
}

/// What the configuration of the chosen policy says of it; that of another one has no effect.
pub(super) fn slow_start(
    policy: i32,
    config: Option<&mut LbConfig>,
) -> Result<Option<SlowStart>, Invalid> {
    let (found, of, at) = match config {
        Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })) => (
            slow_start_config.take(),
            LbPolicy::RoundRobin,
            "round_robin_lb_config",
        ),
        Some(LbConfig::LeastRequestLbConfig(config)) => (
            config.slow_start_config.take(),
            LbPolicy::LeastRequest,
            "least_request_lb_config",
        ),
        _ => return Ok(None),
    };
    let slow_start = SlowStart::classic(found).at(at)?;
    Ok(slow_start.filter(|_| policy == of as i32))
}

pub(super) fn request_bias(config: Option<&mut LbConfig>) -> Result<Option<f64>, Invalid> {
    let Some(LbConfig::LeastRequestLbConfig(config)) = config else {
        return Ok(None);
    };
    let found = config.active_request_bias.take().map(bias).transpose();
    found.at("least_request_lb_config")
}

fn least_request(message: LeastRequestLbConfig) -> Result<u32, Invalid> {
    let LeastRequestLbConfig {
        choice_count,
        // Taken out already, both of them.
        active_request_bias: _,
        slow_start_config: _,
    } = message;
    choices_of(choice_count)
}

fn classic_ring(message: RingHashLbConfig, hashing: Hashing) -> Result<RingHash, Invalid> {
    let RingHashLbConfig {
        minimum_ring_size,
        hash_function,
        maximum_ring_size,
    } = message;
    let function = match enumeration(hash_function, "hash_function")? {
        ClassicFunction::XxHash => HashFunction::XxHash,
        ClassicFunction::MurmurHash2 => HashFunction::MurmurHash2,
    };
    RingHash::decode(minimum_ring_size, maximum_ring_size, function, hashing)
}
