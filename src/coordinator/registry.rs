//! The circuits in force, by id and by the places they occupy. Pure and persistent: a copy costs
//! a pointer, which is how a refused push is undone.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{HashMap, OrdMap};
use uuid::Uuid;

use super::model::{Circuit, KernelRoute, Slot};

/// All circuits in force. At most one holds each [`Slot`].
#[derive(Clone, Debug, Default)]
pub struct CircuitRegistry {
    circuits: HashMap<Uuid, Entry>,
    slots: HashMap<Slot, Uuid>,
    /// Path segment -> the circuits under it, oldest first.
    segments: HashMap<Uuid, OrdMap<u64, Uuid>>,
    next_arrival: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    /// When the id first came, as a running number; survives updates.
    arrival: u64,
    circuit: Arc<Circuit>,
}

/// What a change may have touched: only this needs to be translated again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Circuits that came, went, or changed in anything but their routes.
    pub circuits: BTreeSet<Uuid>,
    /// Circuits whose kernels changed.
    pub routes: BTreeSet<Uuid>,
    pub slots: BTreeSet<Slot>,
    /// First path segments of the path frontend.
    pub segments: BTreeSet<Uuid>,
}

impl Touched {
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl CircuitRegistry {
    pub fn len(&self) -> usize {
        self.circuits.len()
    }

    pub fn is_empty(&self) -> bool {
        self.circuits.is_empty()
    }

    pub fn get(&self, id: Uuid) -> Option<&Arc<Circuit>> {
        self.circuits.get(&id).map(|entry| &entry.circuit)
    }

    pub fn in_slot(&self, slot: &Slot) -> Option<&Arc<Circuit>> {
        self.slots.get(slot).and_then(|id| self.get(*id))
    }

    /// The circuits under a path segment, newest first: of two with the same app name the newer
    /// one is meant, the older is one whose removal was missed.
    pub fn under_segment(&self, segment: Uuid) -> impl Iterator<Item = &Arc<Circuit>> {
        let ids = self.segments.get(&segment).into_iter();
        ids.flat_map(|ids| ids.values().rev())
            .filter_map(|id| self.get(*id))
    }

    /// Every circuit, oldest first.
    pub fn list(&self) -> Vec<Arc<Circuit>> {
        let mut entries: Vec<&Entry> = self.circuits.values().collect();
        entries.sort_unstable_by_key(|entry| entry.arrival);
        entries
            .into_iter()
            .map(|entry| Arc::clone(&entry.circuit))
            .collect()
    }

    /// Adds circuits, or brings known ones up to date. Of several with the same slot the last
    /// one stays. An equal circuit touches nothing.
    pub fn announce(&mut self, circuits: Vec<Circuit>) -> Touched {
        let mut touched = Touched::default();
        for circuit in circuits {
            self.announce_one(circuit, &mut touched);
        }
        touched
    }

    /// Makes `circuits` the whole set.
    pub fn replace_all(&mut self, circuits: Vec<Circuit>) -> Touched {
        let mut touched = Touched::default();
        let wanted: std::collections::HashSet<Uuid> = circuits.iter().map(|c| c.id).collect();
        let gone: Vec<Uuid> = self
            .circuits
            .keys()
            .filter(|id| !wanted.contains(id))
            .copied()
            .collect();
        for id in gone {
            self.take(id, &mut touched);
        }
        for circuit in circuits {
            self.announce_one(circuit, &mut touched);
        }
        touched
    }

    /// Replaces the kernels of one circuit; `None` if there is no such circuit.
    pub fn set_routes(&mut self, id: Uuid, routes: Vec<KernelRoute>) -> Option<Touched> {
        let mut touched = Touched::default();
        let entry = self.circuits.get_mut(&id)?;
        if entry.circuit.routes != routes {
            Arc::make_mut(&mut entry.circuit).routes = routes;
            touched.routes.insert(id);
        }
        Some(touched)
    }

    /// Takes a circuit out; `None` if there is no such circuit.
    pub fn remove(&mut self, id: Uuid) -> Option<Touched> {
        let mut touched = Touched::default();
        self.take(id, &mut touched).map(|_| touched)
    }

    fn announce_one(&mut self, circuit: Circuit, touched: &mut Touched) {
        let known = self.get(circuit.id).cloned();
        if known.as_deref() == Some(&circuit) {
            return;
        }
        if let Some(known) = &known
            && same_but_for_routes(known, &circuit)
        {
            self.set_routes(circuit.id, circuit.routes)
                .map(|t| touched.routes.extend(t.routes))
                .unwrap_or_default();
            return;
        }
        // "A second circuit on the same key replaces the first" (contract, keys and limits).
        if let Some(holder) = self.slots.get(&circuit.slot).copied()
            && holder != circuit.id
        {
            self.take(holder, touched);
        }
        let arrival = self.take(circuit.id, touched).unwrap_or_else(|| {
            self.next_arrival += 1;
            self.next_arrival
        });
        self.put(arrival, Arc::new(circuit), touched);
    }

    fn put(&mut self, arrival: u64, circuit: Arc<Circuit>, touched: &mut Touched) {
        let id = circuit.id;
        self.slots.insert(circuit.slot.clone(), id);
        for segment in circuit.path_segments() {
            self.segments
                .entry(segment)
                .or_default()
                .insert(arrival, id);
        }
        touched.add(&circuit);
        self.circuits.insert(id, Entry { arrival, circuit });
    }

    /// Takes a circuit out of every index; answers its arrival number.
    fn take(&mut self, id: Uuid, touched: &mut Touched) -> Option<u64> {
        let Entry { arrival, circuit } = self.circuits.remove(&id)?;
        self.slots.remove(&circuit.slot);
        for segment in circuit.path_segments() {
            if let Some(ids) = self.segments.get_mut(&segment) {
                ids.remove(&arrival);
                if ids.is_empty() {
                    self.segments.remove(&segment);
                }
            }
        }
        touched.add(&circuit);
        Some(arrival)
    }
}

impl Touched {
    fn add(&mut self, circuit: &Circuit) {
        self.circuits.insert(circuit.id);
        self.routes.insert(circuit.id);
        self.slots.insert(circuit.slot.clone());
        self.segments.extend(circuit.path_segments());
    }
}

fn same_but_for_routes(a: &Circuit, b: &Circuit) -> bool {
    let mut a = a.clone();
    a.routes.clone_from(&b.routes);
    a == *b
}

#[cfg(test)]
mod tests {
    use super::super::testing::circuit;
    use super::*;

    #[test]
    fn announcing_again_touches_nothing() {
        let mut registry = CircuitRegistry::default();
        assert!(!registry.announce(vec![circuit(1, "a")]).is_empty());
        assert!(registry.announce(vec![circuit(1, "a")]).is_empty());
        assert!(registry.replace_all(vec![circuit(1, "a")]).is_empty());
    }

    #[test]
    fn new_kernels_touch_only_the_routes() {
        let mut registry = CircuitRegistry::default();
        registry.announce(vec![circuit(1, "a")]);
        let mut moved = circuit(1, "a");
        moved.routes[0].address.set_port(9);
        let only_routes = Touched {
            routes: [moved.id].into(),
            ..Touched::default()
        };
        assert_eq!(registry.announce(vec![moved.clone()]), only_routes);
        assert!(
            registry
                .set_routes(moved.id, moved.routes)
                .unwrap()
                .is_empty()
        );
        assert_eq!(registry.set_routes(moved.id, vec![]).unwrap(), only_routes);
    }

    #[test]
    fn a_newcomer_takes_the_slot() {
        let mut registry = CircuitRegistry::default();
        registry.announce(vec![circuit(1, "a")]);
        let newcomer = circuit(2, "a");
        let touched = registry.announce(vec![newcomer.clone()]);
        assert_eq!(touched.circuits, [circuit(1, "a").id, newcomer.id].into());
        assert_eq!(registry.len(), 1);
        assert_eq!(registry.in_slot(&newcomer.slot).unwrap().id, newcomer.id);
    }

    #[test]
    fn a_moved_circuit_leaves_its_old_slot() {
        let mut registry = CircuitRegistry::default();
        registry.announce(vec![circuit(1, "a")]);
        let touched = registry.announce(vec![circuit(1, "b")]);
        assert!(registry.in_slot(&circuit(1, "a").slot).is_none());
        assert_eq!(touched.slots.len(), 2);
    }

    /// Whatever happens in whatever order, the indexes agree with the circuits, and a step
    /// reports at least what it changed.
    #[test]
    fn random_sequences_keep_the_indexes_right() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut registry = CircuitRegistry::default();
            for step in 0..200 {
                let before = registry.clone();
                let touched = random_step(&mut registry, &mut rng);
                check(
                    &before,
                    &registry,
                    &touched,
                    &format!("seed {seed} step {step}"),
                );
            }
        }
    }

    fn random_circuit(rng: &mut fastrand::Rng) -> Circuit {
        let mut made = circuit(rng.u8(..8), ["a", "b", "c", "d"][rng.usize(..4)]);
        if rng.bool() {
            made.slot = Slot::Port(rng.u16(1..4));
        }
        made.session_ids = (0..rng.u128(..3)).map(Uuid::from_u128).collect();
        made.routes.truncate(rng.usize(..2));
        made.open_to_public = rng.bool();
        made
    }

    fn random_step(registry: &mut CircuitRegistry, rng: &mut fastrand::Rng) -> Touched {
        let id = circuit(rng.u8(..8), "a").id;
        let many =
            |rng: &mut fastrand::Rng| (0..rng.usize(..4)).map(|_| random_circuit(rng)).collect();
        match rng.u8(..8) {
            0 => registry.replace_all(many(rng)),
            1..=2 => registry.remove(id).unwrap_or_default(),
            3 => registry
                .set_routes(id, random_circuit(rng).routes)
                .unwrap_or_default(),
            _ => registry.announce(many(rng)),
        }
    }

    fn check(before: &CircuitRegistry, now: &CircuitRegistry, touched: &Touched, at: &str) {
        assert_eq!(now.slots.len(), now.circuits.len(), "one slot each, {at}");
        for (id, Entry { arrival, circuit }) in &now.circuits {
            assert_eq!(now.slots.get(&circuit.slot), Some(id), "{at}");
            for segment in circuit.path_segments() {
                assert_eq!(now.segments[&segment].get(arrival), Some(id), "{at}");
            }
            if before
                .get(*id)
                .is_none_or(|old| old.routes != circuit.routes)
            {
                assert!(touched.routes.contains(id), "{at}");
            }
            if before
                .get(*id)
                .is_none_or(|old| !same_but_for_routes(old, circuit))
            {
                assert!(touched.circuits.contains(id), "{at}");
                assert!(touched.slots.contains(&circuit.slot), "{at}");
            }
        }
        for old in before.list() {
            if now.get(old.id).is_none_or(|new| new.slot != old.slot) {
                assert!(touched.circuits.contains(&old.id), "{at}");
                assert!(touched.slots.contains(&old.slot), "{at}");
            }
        }
        let filed: usize = now.segments.values().map(OrdMap::len).sum();
        let expected: usize = now
            .list()
            .iter()
            .map(|c| c.path_segments().collect::<BTreeSet<_>>().len())
            .sum();
        assert_eq!(filed, expected, "nothing is left behind, {at}");
    }
}
