//! What the targets share: a store, and resources that go through it.

use std::time::SystemTime;

use causeway::filter::registry::Registry;
use causeway_xds::proto::Any;
use causeway_xds::source::{Batch, Extent, OnRejection, Origin, Update};
use causeway_xds::store::{Applied, ResourceStore};
use causeway_xds::{ResourceType, text};

/// Delivers resources as a management server would, and checks what holds for every delivery.
pub fn deliver(
    store: &mut ResourceStore,
    kind: ResourceType,
    extent: Extent,
    upserts: Vec<Any>,
    removals: Vec<String>,
) {
    let update = Update {
        origin: Origin::Xds("fuzz".into()),
        kind,
        version: "1".into(),
        extent,
        upserts,
        listing: None,
        removals,
    };
    let applied = apply(store, update.clone());
    // What a NACK is made from.
    for rejected in &applied.rejected {
        assert!(!rejected.to_string().is_empty());
    }
    for (_, name) in applied.changes.added.iter().chain(&applied.changes.changed) {
        assert!(store.get(kind, name).is_some(), "changed and not there");
    }
    for (_, name) in &applied.changes.removed {
        assert!(store.get(kind, name).is_none(), "removed and still there");
    }
    // The same once more is no change, whatever it says.
    let again = apply(store, update);
    assert!(again.changes.is_empty(), "equal content is a change");
    assert_eq!(applied.rejected.len(), again.rejected.len());
    // What the config dump does.
    for (_, entry) in store.entries(kind) {
        if let Some(accepted) = &entry.accepted {
            text::to_value(&accepted.any);
        }
    }
}

fn apply(store: &mut ResourceStore, update: Update) -> Applied {
    let mut batch = Batch {
        updates: vec![update],
        on_rejection: OnRejection::ApplyOthers,
        answer: None,
    };
    store.apply(&mut batch, &Registry::default(), SystemTime::UNIX_EPOCH)
}

/// A kind of resource, chosen by the first byte, and the rest.
pub fn kind_and_rest(data: &[u8]) -> Option<(ResourceType, &[u8])> {
    let (first, rest) = data.split_first()?;
    // Seeds begin with a digit, so that they can be read.
    let kind = ResourceType::ALL[usize::from(first.wrapping_sub(b'0')) % ResourceType::ALL.len()];
    Some((kind, rest))
}
