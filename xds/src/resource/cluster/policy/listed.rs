//! The list of extensions, `load_balancing_policy`.

use super::{bias, choices_of, table_of};
use crate::proto::Any;
use crate::proto::core::TypedExtensionConfig;
use crate::proto::envoy::config::cluster::v3::{LoadBalancingPolicy, load_balancing_policy};
use crate::proto::envoy::extensions::load_balancing_policies::{
    common::v3::{ConsistentHashingLbConfig, LocalityLbConfig, locality_lb_config},
    least_request::v3::{LeastRequest, least_request::SelectionMethod},
    maglev::v3 as maglev,
    override_host::v3 as override_host,
    random::v3::Random,
    ring_hash::v3 as ring_hash,
    round_robin::v3::RoundRobin,
    subset::v3::Subset,
    wrr_locality::v3::WrrLocality,
};
use crate::reject::Invalid;
use crate::resource::cluster::{
    Balancing, HashFunction, Hashing, Maglev, OverrideHost, Policy, RingHash, SlowStart, Subsets,
    ZoneAware,
};
use crate::resource::context::{
    At, enumeration, fault, flag, refuse, required, unknown_type, unpack,
};
use crate::type_url::message_name;

/// How deep policies may be nested in each other.
const MAX_NESTING: u32 = 4;

impl Balancing {
    /// Policies are named in order of preference, so that an older proxy finds one it knows.
    pub(super) fn first_supported(
        &mut self,
        message: LoadBalancingPolicy,
        depth: u32,
    ) -> Result<(), Invalid> {
        let LoadBalancingPolicy { policies } = message;
        let mut unknown = None;
        for (index, policy) in policies.into_iter().enumerate() {
            let load_balancing_policy::Policy {
                typed_extension_config,
            } = policy;
            let one = || -> Result<(bool, String), Invalid> {
                let TypedExtensionConfig {
                    name: _,
                    typed_config,
                } = required(typed_extension_config, "typed_extension_config")?;
                let any = required(typed_config, "typed_config").at("typed_extension_config")?;
                let known = self.extension(&any, depth);
                Ok((
                    known.at("typed_extension_config.typed_config")?,
                    any.type_url,
                ))
            };
            match one().at_index("policies", index)? {
                (true, _) => return Ok(()),
                (false, type_url) => unknown = unknown.or(Some(type_url)),
            }
        }
        match unknown {
            Some(type_url) => Err(unknown_type(&type_url)).at("policies"),
            None => Err(Invalid::at("policies", "must not be empty")),
        }
    }

    /// Whether the policy is known; then it is taken.
    fn extension(&mut self, any: &Any, depth: u32) -> Result<bool, Invalid> {
        self.policy = match message_name(&any.type_url) {
            "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin" => {
                let RoundRobin {
                    slow_start_config,
                    locality_lb_config,
                } = unpack(any)?;
                self.slow_start = SlowStart::listed(slow_start_config)?;
                self.locality(locality_lb_config)?;
                Policy::RoundRobin
            }
            "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest" => {
                self.least_request(unpack(any)?)?
            }
            "envoy.extensions.load_balancing_policies.random.v3.Random" => {
                let Random { locality_lb_config } = unpack(any)?;
                self.locality(locality_lb_config)?;
                Policy::Random
            }
            "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash" => {
                self.ring_hash(unpack(any)?)?
            }
            "envoy.extensions.load_balancing_policies.maglev.v3.Maglev" => {
                let maglev::Maglev {
                    table_size,
                    consistent_hashing_lb_config,
                    locality_weighted_lb_config,
                } = unpack(any)?;
                self.by_locality |= locality_weighted_lb_config.is_some();
                Policy::Maglev(Maglev {
                    table_size: table_of(table_size)?,
                    hashing: decode_hashing(consistent_hashing_lb_config)?,
                })
            }
            "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality" => {
                let WrrLocality {
                    endpoint_picking_policy,
                } = unpack(any)?;
                if depth >= MAX_NESTING {
                    return Err(fault("policies are nested too deeply"));
                }
                let inner = required(endpoint_picking_policy, "endpoint_picking_policy")?;
                self.first_supported(inner, depth + 1)
                    .at("endpoint_picking_policy")?;
                self.by_locality = true;
                self.policy
            }
            "envoy.extensions.load_balancing_policies.subset.v3.Subset" => {
                let mut message: Subset = unpack(any)?;
                if depth >= MAX_NESTING {
                    return Err(fault("policies are nested too deeply"));
                }
                if self.subsets.is_some() {
                    return Err(fault("there are subsets around it already"));
                }
                let inner = required(message.subset_lb_policy.take(), "subset_lb_policy")?;
                self.subsets = Some(Subsets::extension(message)?);
                self.first_supported(inner, depth + 1)
                    .at("subset_lb_policy")?;
                self.policy
            }
            "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost" => {
                let mut message: override_host::OverrideHost = unpack(any)?;
                if depth > 0 {
                    return Err(fault("cannot be within another policy"));
                }
                let inner = required(message.fallback_policy.take(), "fallback_policy")?;
                self.override_host = Some(OverrideHost::decode(message)?);
                self.first_supported(inner, depth + 1)
                    .at("fallback_policy")?;
                self.policy
            }
            _ => return Ok(false),
        };
        Ok(true)
    }

    fn least_request(&mut self, message: LeastRequest) -> Result<Policy, Invalid> {
        #[allow(deprecated, reason = "the older form of selection_method")]
        let LeastRequest {
            choice_count,
            active_request_bias,
            slow_start_config,
            locality_lb_config,
            enable_full_scan,
            selection_method,
        } = message;
        self.request_bias = active_request_bias.map(bias).transpose()?;
        self.slow_start = SlowStart::listed(slow_start_config)?;
        self.locality(locality_lb_config)?;
        let choices = choices_of(choice_count)?;
        let full = match enumeration(selection_method, "selection_method")? {
            SelectionMethod::NChoices => flag(enable_full_scan, false),
            SelectionMethod::FullScan => true,
        };
        Ok(Policy::LeastRequest {
            choices: (!full).then_some(choices),
        })
    }

    fn ring_hash(&mut self, message: ring_hash::RingHash) -> Result<Policy, Invalid> {
        use ring_hash::ring_hash::HashFunction as Function;
        #[allow(deprecated, reason = "still sent; the newer form wins")]
        let ring_hash::RingHash {
            hash_function,
            minimum_ring_size,
            maximum_ring_size,
            use_hostname_for_hashing,
            hash_balance_factor,
            consistent_hashing_lb_config,
            locality_weighted_lb_config,
        } = message;
        let function = match enumeration(hash_function, "hash_function")? {
            Function::DefaultHash | Function::XxHash => HashFunction::XxHash,
            Function::MurmurHash2 => HashFunction::MurmurHash2,
        };
        self.by_locality |= locality_weighted_lb_config.is_some();
        let hashing = match consistent_hashing_lb_config {
            None => Hashing::decode(use_hostname_for_hashing, hash_balance_factor)?,
            some => decode_hashing(some)?,
        };
        RingHash::decode(minimum_ring_size, maximum_ring_size, function, hashing)
            .map(Policy::RingHash)
    }

    fn locality(&mut self, message: Option<LocalityLbConfig>) -> Result<(), Invalid> {
        use locality_lb_config::LocalityConfigSpecifier;
        match message.and_then(|m| m.locality_config_specifier) {
            None => {}
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => self.by_locality = true,
            Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => {
                self.fail_on_panic = zones.fail_traffic_on_panic;
                self.zones = ZoneAware::listed(zones)
                    .at("zone_aware_lb_config")
                    .at("locality_lb_config")?;
            }
        }
        Ok(())
    }
}

impl ZoneAware {
    fn listed(message: locality_lb_config::ZoneAwareLbConfig) -> Result<Self, Invalid> {
        use locality_lb_config::zone_aware_lb_config::{ForceLocalZone, LocalityBasis};
        #[allow(deprecated, reason = "the older form of force_local_zone")]
        let locality_lb_config::ZoneAwareLbConfig {
            routing_enabled,
            min_cluster_size,
            fail_traffic_on_panic: _,
            force_locality_direct_routing,
            force_local_zone,
            locality_basis,
        } = message;
        let older = force_locality_direct_routing.then_some(1);
        let least = |ForceLocalZone { min_size }| min_size.map_or(1, |size| size.value);
        let basis: LocalityBasis = enumeration(locality_basis, "locality_basis")?;
        Ok(Self {
            all_at_home: force_local_zone.map(least).or(older),
            by_weight: basis == LocalityBasis::HealthyHostsWeight,
            ..Self::decode(routing_enabled, min_cluster_size)?
        })
    }
}

fn decode_hashing(message: Option<ConsistentHashingLbConfig>) -> Result<Hashing, Invalid> {
    let Some(ConsistentHashingLbConfig {
        use_hostname_for_hashing,
        hash_balance_factor,
        hash_policy,
    }) = message
    else {
        return Ok(Hashing::default());
    };
    let decode = || {
        refuse!(hash_policy);
        Hashing::decode(use_hostname_for_hashing, hash_balance_factor)
    };
    decode().at("consistent_hashing_lb_config")
}
