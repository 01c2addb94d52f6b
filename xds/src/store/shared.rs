//! Parts of resources that many have in common, kept once.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::proto::Any;
use crate::resource::cluster::Options;
use crate::resource::{Models, Raw, Resource};
use crate::type_url::ResourceType;

/// How many different parts are looked through. Where there are very many clusters, they are made by a
/// program from a few patterns.
const RECENT: usize = 8;

/// The parts that came last.
#[derive(Debug, Default)]
pub(super) struct Shared {
    options: VecDeque<Weak<Options>>,
    models: [Models; ResourceType::ALL.len()],
}

impl Shared {
    /// A message to be kept.
    pub fn keep(&mut self, kind: ResourceType, any: Any) -> Raw {
        self.models[kind as usize].keep(kind, any)
    }

    /// The same resource, with what it has in common with others in the place of its own.
    pub fn put(&mut self, mut resource: Resource) -> Resource {
        if let Resource::Cluster(cluster) = &mut resource
            && let Some(cluster) = Arc::get_mut(cluster)
        {
            self.options.retain(|known| known.strong_count() > 0);
            let mut known = self.options.iter().filter_map(Weak::upgrade);
            if let Some(same) = known.find(|known| *known == cluster.options) {
                cluster.options = same;
            } else {
                self.options.truncate(RECENT - 1);
                self.options.push_front(Arc::downgrade(&cluster.options));
            }
        }
        resource
    }
}
