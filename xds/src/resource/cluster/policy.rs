//! Load-balancing policy: the classic field, and the list of extensions that replaces it.

use super::Policy;
use crate::proto::Any;
use crate::proto::core::TypedExtensionConfig;
use crate::proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig,
    common_lb_config::{
        LocalityConfigSpecifier as CommonLocality, LocalityWeightedLbConfig, ZoneAwareLbConfig,
    },
};
use crate::proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use crate::proto::envoy::extensions::load_balancing_policies::{
    least_request::v3::LeastRequest, random::v3::Random, round_robin::v3::RoundRobin,
};
use crate::reject::{FieldPath, Invalid};
use crate::resource::context::{
    At, Context, accept, enumeration, number, refuse, required, unknown_type, unpack,
};
use crate::type_url::message_name;

impl Policy {
    pub(super) fn decode(
        classic: i32,
        classic_config: Option<LbConfig>,
        extension: Option<LoadBalancingPolicy>,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        // The list wins over the classic fields whenever it is there.
        if let Some(extension) = extension {
            return Self::first_supported(extension, ctx).at("load_balancing_policy");
        }
        if let Some(config) = classic_config {
            check_classic(config, ctx)?;
        }
        match enumeration(classic, "lb_policy")? {
            LbPolicy::RoundRobin => Ok(Self::RoundRobin),
            LbPolicy::LeastRequest => Ok(Self::LeastRequest),
            LbPolicy::Random => Ok(Self::Random),
            other => Err(Invalid::at(
                "lb_policy",
                format!("{} is not supported yet", other.as_str_name()),
            )),
        }
    }

    /// Policies are named in order of preference, so that an older proxy finds one it knows.
    fn first_supported(message: LoadBalancingPolicy, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let LoadBalancingPolicy { policies } = message;
        let mut unknown = None;
        for (index, policy) in policies.into_iter().enumerate() {
            let load_balancing_policy::Policy {
                typed_extension_config,
            } = policy;
            let one = || -> Result<(Option<Self>, String), Invalid> {
                let TypedExtensionConfig {
                    name: _,
                    typed_config,
                } = required(typed_extension_config, "typed_extension_config")?;
                let any = required(typed_config, "typed_config").at("typed_extension_config")?;
                let policy = Self::of_extension(&any, ctx);
                Ok((
                    policy.at("typed_extension_config.typed_config")?,
                    any.type_url,
                ))
            };
            match one().at_index("policies", index)? {
                (Some(policy), _) => return Ok(policy),
                (None, type_url) => unknown = unknown.or(Some(type_url)),
            }
        }
        match unknown {
            Some(type_url) => Err(unknown_type(&type_url)).at("policies"),
            None => Err(Invalid::at("policies", "must not be empty")),
        }
    }

    fn of_extension(any: &Any, ctx: &Context<'_>) -> Result<Option<Self>, Invalid> {
        Ok(Some(match message_name(&any.type_url) {
            "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin" => {
                let RoundRobin {
                    slow_start_config,
                    locality_lb_config,
                } = unpack(any)?;
                refuse!(slow_start_config);
                accept!(ctx, "RoundRobin": locality_lb_config);
                Self::RoundRobin
            }
            "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest" => {
                check_least_request(unpack(any)?, ctx)?;
                Self::LeastRequest
            }
            "envoy.extensions.load_balancing_policies.random.v3.Random" => {
                let Random { locality_lb_config } = unpack(any)?;
                accept!(ctx, "Random": locality_lb_config);
                Self::Random
            }
            _ => return Ok(None),
        }))
    }
}

fn check_least_request(message: LeastRequest, ctx: &Context<'_>) -> Result<(), Invalid> {
    #[allow(deprecated, reason = "named so that it can be refused")]
    let LeastRequest {
        choice_count,
        active_request_bias,
        slow_start_config,
        locality_lb_config,
        enable_full_scan,
        selection_method,
    } = message;
    refuse!(
        active_request_bias,
        slow_start_config,
        enable_full_scan,
        selection_method
    );
    number(choice_count, "choice_count", 2..=u32::MAX)?;
    accept!(ctx, "LeastRequest": choice_count, locality_lb_config);
    Ok(())
}

fn check_classic(config: LbConfig, ctx: &Context<'_>) -> Result<(), Invalid> {
    // The last three belong to policies that are refused by name.
    let (field, checked) = match config {
        LbConfig::RoundRobinLbConfig(config) => ("round_robin_lb_config", round_robin(config)),
        LbConfig::LeastRequestLbConfig(config) => {
            ("least_request_lb_config", least_request(config, ctx))
        }
        LbConfig::RingHashLbConfig(_) => ("ring_hash_lb_config", Err(not_yet())),
        LbConfig::MaglevLbConfig(_) => ("maglev_lb_config", Err(not_yet())),
        LbConfig::OriginalDstLbConfig(_) => ("original_dst_lb_config", Err(not_yet())),
    };
    checked.at(field)
}

fn not_yet() -> Invalid {
    Invalid::unsupported(FieldPath::root())
}

fn round_robin(message: RoundRobinLbConfig) -> Result<(), Invalid> {
    let RoundRobinLbConfig { slow_start_config } = message;
    refuse!(slow_start_config);
    Ok(())
}

fn least_request(message: LeastRequestLbConfig, ctx: &Context<'_>) -> Result<(), Invalid> {
    let LeastRequestLbConfig {
        choice_count,
        active_request_bias,
        slow_start_config,
    } = message;
    refuse!(active_request_bias, slow_start_config);
    number(choice_count, "choice_count", 2..=u32::MAX)?;
    accept!(ctx, "LeastRequestLbConfig": choice_count);
    Ok(())
}

pub(super) fn check_common(message: CommonLbConfig, ctx: &Context<'_>) -> Result<(), Invalid> {
    let CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = message;
    refuse!(
        healthy_panic_threshold,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
    );
    accept!(ctx, "CommonLbConfig": update_merge_window, ignore_new_hosts_until_first_hc);
    match locality_config_specifier {
        None => {}
        Some(CommonLocality::ZoneAwareLbConfig(zone_aware_lb_config)) => {
            let ZoneAwareLbConfig {
                routing_enabled: _,
                min_cluster_size: _,
                fail_traffic_on_panic,
            } = zone_aware_lb_config;
            let check = || -> Result<(), Invalid> {
                refuse!(fail_traffic_on_panic);
                Ok(())
            };
            check().at("zone_aware_lb_config")?;
            let zone_aware_lb_config = true;
            accept!(ctx, "CommonLbConfig": zone_aware_lb_config);
        }
        Some(CommonLocality::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) => {
            let locality_weighted_lb_config = true;
            accept!(ctx, "CommonLbConfig": locality_weighted_lb_config);
        }
    }
    Ok(())
}
