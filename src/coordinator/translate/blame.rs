//! From a refused message back to the circuits it was made of: the control plane speaks of messages,
//! whoever announced circuits has to know which of them to leave out.

use std::collections::BTreeSet;

use causeway_xds::reject::Rejected;
use uuid::Uuid;

use super::super::model::Slot;
use super::super::registry::{CircuitRegistry, Touched};
use super::{Frame, names};

/// The circuits that the refused messages of a change belong to, each once. A message that only
/// went away, or that stands for no circuit, has none.
pub fn culprits(
    frame: &Frame,
    now: &CircuitRegistry,
    touched: &Touched,
    rejected: &[Rejected],
) -> Vec<Uuid> {
    let mut found = BTreeSet::new();
    for Rejected { name, .. } in rejected {
        if let Some(id) = names::circuit_id(name) {
            found.insert(id);
        }
        let slots = touched.slots.iter();
        let holders = slots
            .filter(|slot| resource_of(frame, slot).as_ref() == Some(name))
            .filter_map(|slot| now.in_slot(slot));
        found.extend(holders.map(|circuit| circuit.id));
        // Several circuits share the host of a path segment; only those of this change are new
        // to the control plane.
        let segments = touched.segments.iter();
        let under = segments
            .filter(|segment| names::path_host(**segment) == *name)
            .flat_map(|segment| now.under_segment(*segment));
        found.extend(
            under
                .map(|c| c.id)
                .filter(|id| touched.circuits.contains(id)),
        );
    }
    found.retain(|id| now.get(*id).is_some());
    found.into_iter().collect()
}

/// The resource that shows who holds a slot.
fn resource_of(frame: &Frame, slot: &Slot) -> Option<String> {
    match slot {
        Slot::Subdomain(label) => Some(names::wildcard_host(label)),
        Slot::Port(port) => {
            let (number, _) = frame.slots.as_ref()?.of_advertised(*port)?;
            Some(names::slot(number))
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::ResourceType;
    use causeway_xds::reject::Invalid;

    use super::super::Wildcard;
    use super::*;
    use crate::coordinator::registry::Owner;
    use crate::coordinator::testing::circuit;

    #[test]
    fn every_kind_of_message_leads_to_its_circuit() {
        let frame = Frame {
            slots: None,
            wildcard: Some(Wildcard {
                address: "127.0.0.1:0".parse().unwrap(),
                domain: ".apps.test".into(),
            }),
            path: None,
            ..Frame::default()
        };
        let mut registry = CircuitRegistry::default();
        let (a, b) = (circuit(1, "a"), circuit(2, "b"));
        let touched = registry.announce(Owner::Coordinator, vec![a.clone(), b.clone()]);
        let blamed = |name: &str| {
            let rejected = Rejected::new(ResourceType::Cluster, name, Invalid::at("f", "r"));
            culprits(&frame, &registry, &touched, &[rejected])
        };
        assert_eq!(blamed(&names::circuit(a.id)), [a.id]);
        assert_eq!(blamed("wildcard/b"), [b.id]);
        assert_eq!(blamed(&names::path_host(b.session_ids[0])), [b.id]);
        assert!(blamed("wildcard/c").is_empty());
        assert!(blamed(names::WILDCARD).is_empty());
    }
}
