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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extension::Unchecked;
    use crate::proto;
    use crate::resource::cluster::Cluster;
    use crate::resource::decode;
    use crate::type_url::pack;

    /// A cluster whose options are told apart by how long connecting may take.
    fn cluster(name: &str, seconds: i64) -> Resource {
        let message = proto::Cluster {
            name: name.into(),
            connect_timeout: Some(proto::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        decode(&pack(&message), &Unchecked).unwrap()
    }

    fn of(resource: &Resource) -> &Arc<Cluster> {
        let Resource::Cluster(cluster) = resource else {
            panic!("{resource:?}");
        };
        cluster
    }

    fn share(a: &Resource, b: &Resource) -> bool {
        Arc::ptr_eq(&of(a).options, &of(b).options)
    }

    #[test]
    fn what_is_equal_is_kept_once_and_what_is_not_stays_as_it_came() {
        let mut shared = Shared::default();
        let first = shared.put(cluster("a", 1));
        let second = shared.put(cluster("b", 1));
        let other = shared.put(cluster("c", 2));
        assert!(share(&first, &second));
        assert!(!share(&first, &other));
        assert_eq!(of(&second).name, "b");
        assert_eq!(second, cluster("b", 1));
        assert_eq!(other, cluster("c", 2));
    }

    #[test]
    fn what_somebody_else_holds_is_left_alone() {
        let mut shared = Shared::default();
        let first = shared.put(cluster("a", 1));
        let held = cluster("b", 1);
        let put = shared.put(held.clone());
        assert!(Arc::ptr_eq(of(&held), of(&put)));
        assert!(!share(&first, &put));
    }

    #[test]
    fn only_a_few_are_looked_through_and_none_is_kept_alive() {
        let mut shared = Shared::default();
        let patterns = || (1..).take(RECENT + 1);
        let all: Vec<Resource> = patterns().map(|n| shared.put(cluster("a", n))).collect();
        assert_eq!(shared.options.len(), RECENT);
        // The newest is found; the oldest was forgotten.
        let newest = i64::try_from(RECENT + 1).unwrap();
        assert!(share(&all[RECENT], &shared.put(cluster("b", newest))));
        assert!(!share(&all[0], &shared.put(cluster("b", 1))));
        drop(all);
        let last = shared.put(cluster("c", 99));
        assert_eq!(shared.options.len(), 1);
        drop(last);
    }
}
