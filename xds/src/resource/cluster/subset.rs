//! Subsets of endpoints by their labels: the classic field and the extension.

use std::collections::BTreeSet;

use crate::proto::Struct;
use crate::proto::envoy::config::cluster::v3::cluster::{
    LbSubsetConfig, lb_subset_config as classic,
};
use crate::proto::envoy::extensions::load_balancing_policies::subset::v3 as extension;
use crate::reject::Invalid;
use crate::resource::context::{At, each, enumeration, fault, refuse};
use crate::resource::metadata::{Label, Labels};

/// `LbSubsetConfig`, or the policy `Subset`: requests that ask for labels get endpoints that have
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsets {
    /// Only requests that ask for exactly the keys of one of these are served by a subset.
    pub selectors: Vec<Selector>,
    /// Of those that no subset serves, and that no selector has a fallback for.
    pub fallback: Fallback,
    /// The labels of the endpoints of [`Fallback::Default`].
    pub default_subset: Labels,
    /// Weights of localities count in subsets as well.
    pub locality_weight_aware: bool,
    /// In proportion to how many endpoints of the locality are in the subset.
    pub scale_locality_weight: bool,
    /// When the fallback finds nobody, everyone may be chosen.
    pub panic_mode_any: bool,
    /// A label that is a list stands for each of its elements.
    pub list_as_any: bool,
}

/// `LbSubsetSelector`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub keys: BTreeSet<String>,
    /// A subset is its first endpoint, whatever its health and priority.
    pub single_host: bool,
    /// `None`: that of all.
    pub fallback: Option<SelectorFallback>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    Nobody,
    Any,
    Default,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorFallback {
    To(Fallback),
    /// The request is looked at again as if it asked for these keys only.
    Keys(BTreeSet<String>),
}

/// What both forms have, enumerations by their numbers, which are the same.
struct Fields {
    fallback_policy: i32,
    default_subset: Option<Struct>,
    selectors: Vec<SelectorFields>,
    locality_weight_aware: bool,
    scale_locality_weight: bool,
    panic_mode_any: bool,
    list_as_any: bool,
}

struct SelectorFields {
    keys: Vec<String>,
    single_host_per_subset: bool,
    fallback_policy: i32,
    fallback_keys_subset: Vec<String>,
}

impl Subsets {
    /// Nothing without a selector: then it is not in effect.
    pub(super) fn classic(message: LbSubsetConfig) -> Result<Option<Self>, Invalid> {
        let LbSubsetConfig {
            fallback_policy,
            default_subset,
            subset_selectors,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback_policy,
        } = message;
        refuse!(metadata_fallback_policy);
        let selectors = subset_selectors.into_iter().map(|selector| {
            let classic::LbSubsetSelector {
                keys,
                single_host_per_subset,
                fallback_policy,
                fallback_keys_subset,
            } = selector;
            SelectorFields {
                keys,
                single_host_per_subset,
                fallback_policy,
                fallback_keys_subset,
            }
        });
        let subsets = Self::decode(Fields {
            fallback_policy,
            default_subset,
            selectors: selectors.collect(),
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
        })?;
        Ok(Some(subsets).filter(|subsets| !subsets.selectors.is_empty()))
    }

    /// Without the policy inside, which is the caller's.
    pub(super) fn extension(message: extension::Subset) -> Result<Self, Invalid> {
        let extension::Subset {
            fallback_policy,
            default_subset,
            subset_selectors,
            allow_redundant_keys,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback_policy,
            subset_lb_policy: _,
        } = message;
        refuse!(allow_redundant_keys, metadata_fallback_policy);
        let selectors = subset_selectors.into_iter().map(|selector| {
            let extension::subset::LbSubsetSelector {
                keys,
                single_host_per_subset,
                fallback_policy,
                fallback_keys_subset,
            } = selector;
            SelectorFields {
                keys,
                single_host_per_subset,
                fallback_policy,
                fallback_keys_subset,
            }
        });
        Self::decode(Fields {
            fallback_policy,
            default_subset,
            selectors: selectors.collect(),
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
        })
    }

    fn decode(fields: Fields) -> Result<Self, Invalid> {
        use classic::LbSubsetFallbackPolicy as Policy;
        Ok(Self {
            selectors: each("subset_selectors", fields.selectors, Selector::decode)?,
            fallback: match enumeration(fields.fallback_policy, "fallback_policy")? {
                Policy::NoFallback => Fallback::Nobody,
                Policy::AnyEndpoint => Fallback::Any,
                Policy::DefaultSubset => Fallback::Default,
            },
            default_subset: Label::all(fields.default_subset),
            locality_weight_aware: fields.locality_weight_aware,
            scale_locality_weight: fields.scale_locality_weight,
            panic_mode_any: fields.panic_mode_any,
            list_as_any: fields.list_as_any,
        })
    }
}

impl Selector {
    fn decode(fields: SelectorFields) -> Result<Self, Invalid> {
        use classic::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Policy;
        let keys: BTreeSet<String> = fields.keys.into_iter().collect();
        let some: BTreeSet<String> = fields.fallback_keys_subset.into_iter().collect();
        let policy = enumeration(fields.fallback_policy, "fallback_policy")?;
        let wrong = if policy != Policy::KeysSubset {
            (!some.is_empty()).then_some("can be set only for KEYS_SUBSET")
        } else if some.is_empty() {
            Some("must not be empty")
        } else if !some.is_subset(&keys) {
            Some("must be some of the keys")
        } else {
            (some == keys).then_some("must not be all of the keys")
        };
        if let Some(reason) = wrong {
            return Err(fault(reason)).at("fallback_keys_subset");
        }
        Ok(Self {
            keys,
            single_host: fields.single_host_per_subset,
            fallback: match policy {
                Policy::NotDefined => None,
                Policy::NoFallback => Some(SelectorFallback::To(Fallback::Nobody)),
                Policy::AnyEndpoint => Some(SelectorFallback::To(Fallback::Any)),
                Policy::DefaultSubset => Some(SelectorFallback::To(Fallback::Default)),
                Policy::KeysSubset => Some(SelectorFallback::Keys(some)),
            },
        })
    }
}
