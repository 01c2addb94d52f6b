//! Subset load balancing: a request that asks for labels gets an endpoint that has them.
//!
//! Every subset is worked out when its endpoints change; a request finds its own by one look-up.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use causeway_xds::resource::LoadAssignment;
use causeway_xds::resource::cluster::{
    Balancing, Fallback, Policy, SelectorFallback, Subsets as Model,
};
use causeway_xds::resource::metadata::{Label, Labels};

use super::selection::{Chosen, Selection};
use super::zones::Peers;
use crate::telemetry::stats::ClusterStats;
use crate::upstream::Endpoint;

/// Subsets that one cluster may have; more of them would be one for each endpoint and key, and each
/// has a balancer of its own.
const MAX_SUBSETS: usize = 10_000;
/// How often a request is looked at with fewer keys.
const MAX_FALLBACKS: usize = 8;

#[derive(Debug)]
pub struct Subsets {
    by_labels: HashMap<Labels, Subset>,
    /// What to do with requests that ask for these keys, where a selector says so.
    fallbacks: HashMap<BTreeSet<String>, SelectorFallback>,
    fallback: Fallback,
    any: Option<Selection>,
    default: Option<Selection>,
    panic_mode_any: bool,
    /// Endpoints that nobody is sent to, because another one is the subset.
    pub duplicates: usize,
}

#[derive(Debug)]
enum Subset {
    Single(u32),
    Some(Selection),
}

impl Subsets {
    pub fn new(
        model: &Model,
        all: &[Arc<Endpoint>],
        assignment: &LoadAssignment,
        balancing: &Balancing,
        peers: Option<&Peers>,
    ) -> Self {
        // Weights of localities are those of the whole cluster.
        let inside = Balancing {
            by_locality: balancing.by_locality && model.locality_weight_aware,
            ..balancing.clone()
        };
        let endpoints = assignment.localities.iter().flat_map(|l| &l.endpoints);
        let labels: Vec<&Labels> = endpoints.map(|e| &e.labels).collect();
        let selection = |members: &dyn Fn(u32) -> bool| {
            let scaled = model.scale_locality_weight;
            Selection::of(all, assignment, &inside, peers, members, scaled)
        };
        let mut by_labels = HashMap::new();
        let mut duplicates = 0;
        for selector in &model.selectors {
            let mut found: HashMap<Labels, Vec<u32>> = HashMap::new();
            for (place, labels) in (0_u32..).zip(&labels) {
                for wanted in combinations(labels, &selector.keys, model.list_as_any) {
                    if found.len() < MAX_SUBSETS || found.contains_key(&wanted) {
                        found.entry(wanted).or_default().push(place);
                    }
                }
            }
            let single = selector.single_host && selector.keys.len() == 1;
            for (wanted, members) in found {
                if by_labels.contains_key(&wanted) {
                    continue;
                }
                let subset = if single {
                    duplicates += members.len() - 1;
                    Subset::Single(members[0])
                } else {
                    Subset::Some(selection(&|place| members.binary_search(&place).is_ok()))
                };
                by_labels.insert(wanted, subset);
            }
        }
        let mut fallbacks = HashMap::new();
        for selector in &model.selectors {
            if let Some(fallback) = &selector.fallback {
                let keys = selector.keys.clone();
                fallbacks.entry(keys).or_insert_with(|| fallback.clone());
            }
        }
        let leads_to = |wanted: Fallback| {
            let mut own = fallbacks.values();
            model.fallback == wanted || own.any(|own| *own == SelectorFallback::To(wanted))
        };
        let any = (model.panic_mode_any || leads_to(Fallback::Any)).then(|| selection(&|_| true));
        let is_default = |place: u32| {
            let labels = labels[place as usize];
            has_all(labels, &model.default_subset, model.list_as_any)
        };
        let default = leads_to(Fallback::Default).then(|| selection(&is_default));
        Self {
            by_labels,
            fallbacks,
            fallback: model.fallback,
            any,
            default,
            panic_mode_any: model.panic_mode_any,
            duplicates,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_labels.len()
    }

    pub fn choose(
        &self,
        all: &[Arc<Endpoint>],
        policy: &Policy,
        hash: Option<u64>,
        wanted: Option<&Labels>,
        stats: &ClusterStats,
    ) -> Chosen {
        let pick = |selection: &Option<Selection>| match selection {
            Some(selection) => selection.choose(all, policy, hash),
            None => Chosen::NOBODY,
        };
        let to = |fallback: Fallback| match fallback {
            Fallback::Nobody => Chosen::NOBODY,
            Fallback::Any => pick(&self.any),
            Fallback::Default => pick(&self.default),
        };
        let mut fewer;
        let mut wanted = wanted.filter(|wanted| !wanted.is_empty());
        for _ in 0..MAX_FALLBACKS {
            let Some(labels) = wanted else { break };
            if let Some(subset) = self.by_labels.get(labels) {
                stats.lb_subsets_selected.inc();
                return match subset {
                    Subset::Single(place) => Chosen::of(*place),
                    Subset::Some(selection) => selection.choose(all, policy, hash),
                };
            }
            if self.fallbacks.is_empty() {
                break;
            }
            let keys: BTreeSet<String> = labels.keys().cloned().collect();
            match self.fallbacks.get(&keys) {
                None => break,
                Some(SelectorFallback::To(fallback)) => return to(*fallback),
                Some(SelectorFallback::Keys(keys)) => {
                    let kept = labels.iter().filter(|(key, _)| keys.contains(*key));
                    let kept = kept.map(|(key, label)| (key.clone(), label.clone()));
                    fewer = kept.collect();
                    wanted = Some(&fewer);
                }
            }
        }
        if self.fallback == Fallback::Nobody {
            return Chosen::NOBODY;
        }
        let chosen = to(self.fallback);
        if chosen.place.is_some() {
            stats.lb_subsets_fallback.inc();
            return chosen;
        }
        if !self.panic_mode_any {
            return chosen;
        }
        let chosen = pick(&self.any);
        if chosen.place.is_some() {
            stats.lb_subsets_fallback_panic.inc();
        }
        chosen
    }
}

/// The labels of these keys that an endpoint has; none if one is missing.
fn combinations(labels: &Labels, keys: &BTreeSet<String>, list_as_any: bool) -> Vec<Labels> {
    if keys.is_empty() {
        return Vec::new();
    }
    let mut all = vec![Labels::new()];
    for key in keys {
        let Some(label) = labels.get(key) else {
            return Vec::new();
        };
        let values = match label {
            Label::List(values) if list_as_any => values.as_slice(),
            label => std::slice::from_ref(label),
        };
        let longer = all.iter().flat_map(|before| {
            let with = |value: &Label| before.with(key, value.clone());
            values.iter().map(with)
        });
        all = longer.take(MAX_SUBSETS).collect();
    }
    // An element that is there twice is one.
    all.sort_unstable();
    all.dedup();
    all
}

fn has_all(there: &Labels, wanted: &Labels, list_as_any: bool) -> bool {
    wanted.iter().all(|(key, wanted)| match there.get(key) {
        Some(Label::List(values)) if list_as_any => values.contains(wanted),
        label => label == Some(wanted),
    })
}

#[cfg(test)]
mod tests;
