//! Load-balancing policy: the classic fields, and the list of extensions that replaces them.

use super::{
    Balancing, HashFunction, Hashing, Maglev, OverrideHost, Policy, RingHash, SlowStart, Subsets,
    ZoneAware,
};
use crate::proto::Any;
use crate::proto::UInt32Value;
use crate::proto::core::{HealthStatusSet, RuntimeDouble, TypedExtensionConfig};
use crate::proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LbSubsetConfig, LeastRequestLbConfig, MaglevLbConfig,
    RingHashLbConfig, RoundRobinLbConfig,
    common_lb_config::{
        ConsistentHashingLbConfig as ClassicHashing, LocalityConfigSpecifier as ClassicLocality,
        LocalityWeightedLbConfig, ZoneAwareLbConfig,
    },
    ring_hash_lb_config::HashFunction as ClassicFunction,
};
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
use crate::proto::envoy::r#type::v3::Percent;
use crate::proto::google::protobuf::UInt64Value;
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, accept, each, enumeration, fault, flag, not_empty, number, percent, refuse,
    required, unknown_type, unpack,
};
use crate::resource::load_assignment::EndpointHealth;
use crate::type_url::message_name;

/// The most points of a ring, and its default bound.
const MAX_RING: u64 = 8 << 20;
const DEFAULT_RING: u64 = 1024;
const DEFAULT_TABLE: u64 = 65_537;
const MAX_TABLE: u64 = 5_000_011;
/// How deep policies may be nested in each other.
const MAX_NESTING: u32 = 4;

/// The fields of a cluster that say how to choose.
pub(super) struct Fields {
    pub lb_policy: i32,
    pub lb_config: Option<LbConfig>,
    pub common_lb_config: Option<CommonLbConfig>,
    pub load_balancing_policy: Option<LoadBalancingPolicy>,
    pub lb_subset_config: Option<LbSubsetConfig>,
    /// The cluster chooses by itself, as its type says.
    pub provided: bool,
}

impl Balancing {
    pub(super) fn decode(mut fields: Fields, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let mut balancing = Self::default();
        let mut hashing = Hashing::default();
        if let Some(common) = fields.common_lb_config.take() {
            hashing = balancing.common(common, ctx).at("common_lb_config")?;
        }
        if fields.provided {
            check_provided(&fields)?;
            return Ok(balancing);
        }
        // The list wins over the classic fields whenever it is there.
        if let Some(extension) = fields.load_balancing_policy {
            if fields.lb_subset_config.is_some() {
                let reason = "cannot be combined with load_balancing_policy";
                return Err(Invalid::at("lb_subset_config", reason));
            }
            balancing
                .first_supported(extension, 0)
                .at("load_balancing_policy")?;
            return Ok(balancing);
        }
        if let Some(subsets) = fields.lb_subset_config {
            balancing.subsets = Subsets::classic(subsets).at("lb_subset_config")?;
        }
        balancing.slow_start = slow_start(fields.lb_policy, fields.lb_config.as_mut())?;
        let bias = request_bias(fields.lb_config.as_mut())?;
        balancing.request_bias = bias.filter(|_| fields.lb_policy == LbPolicy::LeastRequest as i32);
        balancing.policy = classic(fields.lb_policy, fields.lb_config, hashing)?;
        Ok(balancing)
    }

    /// Policies are named in order of preference, so that an older proxy finds one it knows.
    fn first_supported(&mut self, message: LoadBalancingPolicy, depth: u32) -> Result<(), Invalid> {
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

    /// What is said for every policy. Returns what is for those that hash.
    fn common(&mut self, message: CommonLbConfig, ctx: &Context<'_>) -> Result<Hashing, Invalid> {
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

/// A cluster that chooses by itself has to say so in every form that it uses.
fn check_provided(fields: &Fields) -> Result<(), Invalid> {
    const LISTED: &str =
        "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided";
    let wrong = |field: &str, wanted: &str| {
        let reason = format!("must be {wanted} for a cluster of type ORIGINAL_DST");
        Err(Invalid::at(field, reason))
    };
    if fields.lb_policy != LbPolicy::ClusterProvided as i32 {
        return wrong("lb_policy", "CLUSTER_PROVIDED");
    }
    if let Some(list) = &fields.load_balancing_policy {
        let first = list.policies.first();
        let first = first.and_then(|p| p.typed_extension_config.as_ref()?.typed_config.as_ref());
        if first.is_none_or(|any| message_name(&any.type_url) != LISTED) {
            return wrong("load_balancing_policy", "ClusterProvided");
        }
    }
    let subsets = fields.lb_subset_config.as_ref();
    if subsets.is_some_and(|subsets| !subsets.subset_selectors.is_empty()) {
        let reason = "cannot be combined with CLUSTER_PROVIDED";
        return Err(Invalid::at("lb_subset_config", reason));
    }
    Ok(())
}

fn classic(lb_policy: i32, config: Option<LbConfig>, hashing: Hashing) -> Result<Policy, Invalid> {
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
fn slow_start(policy: i32, config: Option<&mut LbConfig>) -> Result<Option<SlowStart>, Invalid> {
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

fn request_bias(config: Option<&mut LbConfig>) -> Result<Option<f64>, Invalid> {
    let Some(LbConfig::LeastRequestLbConfig(config)) = config else {
        return Ok(None);
    };
    let found = config.active_request_bias.take().map(bias).transpose();
    found.at("least_request_lb_config")
}

/// Only the default is read: the runtime has no decimal numbers.
fn bias(message: RuntimeDouble) -> Result<f64, Invalid> {
    let read = || {
        let RuntimeDouble {
            default_value,
            runtime_key,
        } = message;
        not_empty(runtime_key, "runtime_key")?;
        match default_value >= 0.0 && default_value.is_finite() {
            true => Ok(default_value),
            false => Err(Invalid::at("default_value", "must be at least 0")),
        }
    };
    read().at("active_request_bias")
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

fn choices_of(given: Option<crate::proto::UInt32Value>) -> Result<u32, Invalid> {
    Ok(number(given, "choice_count", 2..=u32::MAX)?.unwrap_or(2))
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

impl Hashing {
    fn decode(use_hostname: bool, factor: Option<UInt32Value>) -> Result<Self, Invalid> {
        Ok(Self {
            use_hostname,
            balance_factor: number(factor, "hash_balance_factor", 100..=u32::MAX)?,
        })
    }
}

impl ZoneAware {
    /// A percentage is rounded, as in Envoy.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 100"
    )]
    fn decode(
        routing_enabled: Option<Percent>,
        min_cluster_size: Option<UInt64Value>,
    ) -> Result<Self, Invalid> {
        let default = Self::default();
        let percent = percent(routing_enabled, "routing_enabled")?;
        Ok(Self {
            percent: percent.map_or(default.percent, |percent| percent.round() as u32),
            least: min_cluster_size.map_or(default.least, |size| size.value),
            ..default
        })
    }

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

impl RingHash {
    fn decode(
        minimum: Option<UInt64Value>,
        maximum: Option<UInt64Value>,
        function: HashFunction,
        hashing: Hashing,
    ) -> Result<Self, Invalid> {
        let size = |given: Option<UInt64Value>, field: &str, default| {
            let size = given.map_or(default, |v| v.value);
            if size > MAX_RING {
                return Err(Invalid::at(field, format!("{size} is above {MAX_RING}")));
            }
            Ok(size)
        };
        let ring = Self {
            minimum_size: size(minimum, "minimum_ring_size", DEFAULT_RING)?,
            maximum_size: size(maximum, "maximum_ring_size", MAX_RING)?,
            function,
            hashing,
        };
        if ring.minimum_size > ring.maximum_size {
            return Err(Invalid::at(
                "minimum_ring_size",
                "is above maximum_ring_size",
            ));
        }
        if ring.maximum_size == 0 {
            return Err(Invalid::at("maximum_ring_size", "must not be zero"));
        }
        Ok(ring)
    }
}

fn table_of(given: Option<UInt64Value>) -> Result<u64, Invalid> {
    let size = given.map_or(DEFAULT_TABLE, |v| v.value);
    if size > MAX_TABLE {
        return Err(Invalid::at(
            "table_size",
            format!("{size} is above {MAX_TABLE}"),
        ));
    }
    if !is_prime(size) {
        return Err(Invalid::at("table_size", "must be a prime"));
    }
    Ok(size)
}

fn is_prime(n: u64) -> bool {
    n >= 2
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
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
