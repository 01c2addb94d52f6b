//! Load-balancing policy: the classic fields, and the list of extensions that replaces them.

mod classic;
mod listed;

use super::{Balancing, HashFunction, Hashing, RingHash, Subsets, ZoneAware};
use crate::proto::UInt32Value;
use crate::proto::core::RuntimeDouble;
use crate::proto::envoy::config::cluster::v3::LoadBalancingPolicy;
use crate::proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LbSubsetConfig,
};
use crate::proto::envoy::r#type::v3::Percent;
use crate::proto::google::protobuf::UInt64Value;
use crate::reject::Invalid;
use crate::resource::context::{At, Context, number, percent};
use crate::type_url::message_name;
use classic::{classic, request_bias, slow_start};

/// The most points of a ring, and its default bound.
const MAX_RING: u64 = 8 << 20;
const DEFAULT_RING: u64 = 1024;
const DEFAULT_TABLE: u64 = 65_537;
const MAX_TABLE: u64 = 5_000_011;

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

/// Only the default is read: the runtime has no decimal numbers.
fn bias(message: RuntimeDouble) -> Result<f64, Invalid> {
    let read = || {
        let RuntimeDouble {
            default_value,
            runtime_key: _,
        } = message;
        match default_value >= 0.0 && default_value.is_finite() {
            true => Ok(default_value),
            false => Err(Invalid::at("default_value", "must be at least 0")),
        }
    };
    read().at("active_request_bias")
}

fn choices_of(given: Option<crate::proto::UInt32Value>) -> Result<u32, Invalid> {
    Ok(number(given, "choice_count", 2..=u32::MAX)?.unwrap_or(2))
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
