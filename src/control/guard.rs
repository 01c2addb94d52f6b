//! What a management server may take away at once. A control plane that lost its own state says
//! that there is nothing; whoever follows it blindly stops serving (gRFC A53 tells of the motive).

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use causeway_xds::ResourceType;
use causeway_xds::reject::{FieldPath, Invalid, Rejected};
use causeway_xds::resource::resource_name;
use causeway_xds::source::{Extent, Origin, Update};
use causeway_xds::store::ResourceStore;

/// What becomes of clusters and listeners that a management server no longer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deletions {
    /// They go.
    #[default]
    Allowed,
    /// They stay (`ignore_resource_deletion`, gRFC A53).
    Ignored,
    /// They go, unless they are more than one and more than this part, in percent, of what the
    /// server has sent. Such a push is refused once, and taken when it is repeated.
    AtMost(u8),
}

/// Watches over removals.
#[derive(Debug, Default)]
pub struct Guard {
    deletions: Deletions,
    /// What was refused last, by its hash.
    refused: HashMap<(Origin, ResourceType), u64>,
}

impl Guard {
    pub fn new(deletions: Deletions) -> Self {
        Self {
            deletions,
            refused: HashMap::new(),
        }
    }

    /// Changes an update as far as it takes away too much.
    ///
    /// # Errors
    /// The update is not to be applied.
    pub fn check(&mut self, update: &mut Update, store: &ResourceStore) -> Result<(), Rejected> {
        let root = matches!(update.kind, ResourceType::Cluster | ResourceType::Listener);
        if !root || !matches!(update.origin, Origin::Xds(_)) {
            return Ok(());
        }
        let percent = match self.deletions {
            Deletions::Allowed => return Ok(()),
            Deletions::Ignored => {
                update.extent = Extent::Incremental;
                update.removals.clear();
                return Ok(());
            }
            Deletions::AtMost(percent) => usize::from(percent),
        };
        let (gone, held) = removed_by(update, store);
        let key = (update.origin.clone(), update.kind);
        if gone.len() <= 1 || gone.len() * 100 <= held * percent {
            self.refused.remove(&key);
            return Ok(());
        }
        let mut hasher = DefaultHasher::new();
        gone.hash(&mut hasher);
        let hash = hasher.finish();
        if self.refused.insert(key.clone(), hash) == Some(hash) {
            self.refused.remove(&key);
            return Ok(());
        }
        let reason = format!(
            "takes away {} of {held}, which is more than {percent} %; refused once, taken if it is \
             repeated",
            gone.len()
        );
        let invalid = Invalid::new(FieldPath::root(), reason);
        Err(Rejected::new(update.kind, "", invalid))
    }
}

/// What of its origin an update would remove, and how much there is of it.
fn removed_by(update: &Update, store: &ResourceStore) -> (BTreeSet<String>, usize) {
    let owned = store.entries(update.kind).filter_map(|(name, entry)| {
        let accepted = entry.accepted.as_ref()?;
        (accepted.origin == update.origin).then_some(name)
    });
    let owned: BTreeSet<&str> = owned.collect();
    let gone = match update.extent {
        Extent::Incremental => {
            let removals = update.removals.iter();
            let gone = removals.filter(|name| owned.contains(name.as_str()));
            gone.cloned().collect()
        }
        Extent::StateOfTheWorld => {
            let named: BTreeSet<String> = update.upserts.iter().filter_map(resource_name).collect();
            let gone = owned.iter().filter(|name| !named.contains(**name));
            gone.map(|name| (*name).to_owned()).collect()
        }
    };
    (gone, owned.len())
}
