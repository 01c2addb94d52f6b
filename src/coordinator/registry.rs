//! The circuits in force, by id and by the places they occupy. Pure and persistent: a copy costs
//! a pointer, which is how a refused push is undone.
//!
//! Each circuit has an [`Owner`]. What an owner says of its whole set leaves the circuits of the
//! other alone; where both want the same place, the Coordinator has it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use imbl::HashMap;
use uuid::Uuid;

use super::model::{Circuit, KernelRoute, Slot};

/// All circuits in force. At most one holds each [`Slot`].
#[derive(Clone, Debug, Default)]
pub struct CircuitRegistry {
    circuits: HashMap<Uuid, Entry>,
    slots: HashMap<Slot, Uuid>,
    /// Path segment -> the circuits under it, oldest first.
    segments: HashMap<Uuid, Filed>,
    next_arrival: u64,
}

/// Circuits by arrival. Of most path segments there is one.
type Filed = Arc<[(u64, Uuid)]>;

/// Who announced a circuit, and so who may change it or leave it out of a full set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Pushed to the REST shim.
    Shim,
    /// Listed by the Coordinator, or told by it in an event.
    Coordinator,
}

#[derive(Clone, Debug)]
struct Entry {
    owner: Owner,
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

    pub fn owner(&self, id: Uuid) -> Option<Owner> {
        self.circuits.get(&id).map(|entry| entry.owner)
    }

    /// The field of `circuit` that the other owner's claim forbids to `owner`, if any. The
    /// Coordinator is forbidden nothing: it takes over.
    pub fn forbids(&self, owner: Owner, circuit: &Circuit) -> Option<&'static str> {
        if owner == Owner::Coordinator {
            return None;
        }
        let foreign = |id: &Uuid| self.owner(*id) == Some(Owner::Coordinator);
        if foreign(&circuit.id) {
            return Some("id");
        }
        let taken = self.slots.get(&circuit.slot).is_some_and(foreign);
        taken.then(|| circuit.slot.field())
    }

    pub fn in_slot(&self, slot: &Slot) -> Option<&Arc<Circuit>> {
        self.slots.get(slot).and_then(|id| self.get(*id))
    }

    /// The circuits under a path segment, newest first: of two with the same app name the newer
    /// one is meant, the older is one whose removal was missed.
    pub fn under_segment(&self, segment: Uuid) -> impl Iterator<Item = &Arc<Circuit>> {
        let ids = self.segments.get(&segment).into_iter();
        ids.flat_map(|ids| ids.iter().rev())
            .filter_map(|(_, id)| self.get(*id))
    }

    /// Every circuit, oldest first.
    pub fn list(&self) -> Vec<Arc<Circuit>> {
        self.sorted(|_| true)
    }

    /// Every circuit of one owner, oldest first.
    pub fn owned(&self, owner: Owner) -> Vec<Arc<Circuit>> {
        self.sorted(|entry| entry.owner == owner)
    }

    fn sorted(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Arc<Circuit>> {
        let mut entries: Vec<&Entry> = self.circuits.values().filter(|e| wanted(e)).collect();
        entries.sort_unstable_by_key(|entry| entry.arrival);
        entries
            .into_iter()
            .map(|entry| Arc::clone(&entry.circuit))
            .collect()
    }

    /// Adds circuits, or brings known ones up to date. Of several with the same slot the last
    /// one stays. An equal circuit touches nothing. Whatever [`CircuitRegistry::forbids`] has
    /// been asked before.
    pub fn announce(&mut self, owner: Owner, circuits: Vec<Circuit>) -> Touched {
        let mut touched = Touched::default();
        for circuit in circuits {
            self.announce_one(owner, circuit, &mut touched);
        }
        touched
    }

    /// Makes `circuits` the whole set of `owner`, but for those in `keep`, which stay as they are,
    /// there or not.
    pub fn replace_all(
        &mut self,
        owner: Owner,
        circuits: Vec<Circuit>,
        keep: &HashSet<Uuid>,
    ) -> Touched {
        let mut touched = Touched::default();
        let wanted: HashSet<Uuid> = circuits.iter().map(|c| c.id).collect();
        let gone: Vec<Uuid> = self
            .circuits
            .iter()
            .filter(|(id, entry)| {
                entry.owner == owner && !wanted.contains(*id) && !keep.contains(*id)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.take(id, &mut touched);
        }
        for circuit in circuits {
            if !keep.contains(&circuit.id) {
                self.announce_one(owner, circuit, &mut touched);
            }
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

    fn announce_one(&mut self, owner: Owner, circuit: Circuit, touched: &mut Touched) {
        if let Some(entry) = self.circuits.get_mut(&circuit.id) {
            entry.owner = owner;
        }
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
        // A second circuit on the same key replaces the first.
        if let Some(holder) = self.slots.get(&circuit.slot).copied()
            && holder != circuit.id
        {
            self.take(holder, touched);
        }
        let arrival = self.take(circuit.id, touched).unwrap_or_else(|| {
            self.next_arrival += 1;
            self.next_arrival
        });
        self.put(owner, arrival, Arc::new(circuit), touched);
    }

    fn put(&mut self, owner: Owner, arrival: u64, circuit: Arc<Circuit>, touched: &mut Touched) {
        let id = circuit.id;
        self.slots.insert(circuit.slot.clone(), id);
        for segment in circuit.path_segments() {
            let ids = self.segments.entry(segment).or_default();
            let others = ids.iter().filter(|(other, _)| *other != arrival);
            let mut all: Vec<_> = others.copied().chain([(arrival, id)]).collect();
            all.sort_unstable();
            *ids = all.into();
        }
        touched.add(&circuit);
        let entry = Entry {
            owner,
            arrival,
            circuit,
        };
        self.circuits.insert(id, entry);
    }

    /// Takes a circuit out of every index; answers its arrival number.
    fn take(&mut self, id: Uuid, touched: &mut Touched) -> Option<u64> {
        let Entry {
            arrival, circuit, ..
        } = self.circuits.remove(&id)?;
        self.slots.remove(&circuit.slot);
        for segment in circuit.path_segments() {
            let Some(ids) = self.segments.get(&segment) else {
                continue;
            };
            let left = ids.iter().filter(|(other, _)| *other != arrival);
            let left: Filed = left.copied().collect();
            match left.is_empty() {
                true => self.segments.remove(&segment),
                false => self.segments.insert(segment, left),
            };
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

    const SHIM: Owner = Owner::Shim;
    const COORDINATOR: Owner = Owner::Coordinator;

    #[test]
    fn announcing_again_touches_nothing() {
        let mut registry = CircuitRegistry::default();
        assert!(!registry.announce(SHIM, vec![circuit(1, "a")]).is_empty());
        assert!(registry.announce(SHIM, vec![circuit(1, "a")]).is_empty());
        assert!(
            registry
                .replace_all(SHIM, vec![circuit(1, "a")], &HashSet::new())
                .is_empty()
        );
    }

    #[test]
    fn new_kernels_touch_only_the_routes() {
        let mut registry = CircuitRegistry::default();
        registry.announce(SHIM, vec![circuit(1, "a")]);
        let mut moved = circuit(1, "a");
        moved.routes[0].kernel_port = 9;
        let only_routes = Touched {
            routes: [moved.id].into(),
            ..Touched::default()
        };
        assert_eq!(registry.announce(SHIM, vec![moved.clone()]), only_routes);
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
        registry.announce(SHIM, vec![circuit(1, "a")]);
        let newcomer = circuit(2, "a");
        let touched = registry.announce(SHIM, vec![newcomer.clone()]);
        assert_eq!(touched.circuits, [circuit(1, "a").id, newcomer.id].into());
        assert_eq!(registry.len(), 1);
        assert_eq!(registry.in_slot(&newcomer.slot).unwrap().id, newcomer.id);
    }

    #[test]
    fn a_full_set_is_about_the_circuits_of_its_owner() {
        let mut registry = CircuitRegistry::default();
        registry.announce(SHIM, vec![circuit(1, "a"), circuit(2, "b")]);
        registry.announce(COORDINATOR, vec![circuit(3, "c"), circuit(4, "d")]);
        let kept = [circuit(4, "d").id].into();
        registry.replace_all(COORDINATOR, vec![], &kept);
        let ids: Vec<Uuid> = registry.list().iter().map(|c| c.id).collect();
        assert_eq!(
            ids,
            [circuit(1, "a").id, circuit(2, "b").id, circuit(4, "d").id]
        );
        registry.replace_all(SHIM, vec![circuit(2, "b")], &HashSet::new());
        assert_eq!(registry.owned(SHIM).len(), 1);
        assert_eq!(registry.owned(COORDINATOR).len(), 1);
    }

    #[test]
    fn the_coordinator_takes_over_and_the_shim_does_not() {
        let mut registry = CircuitRegistry::default();
        registry.announce(SHIM, vec![circuit(1, "a"), circuit(2, "b")]);
        let same = circuit(1, "a");
        assert_eq!(registry.forbids(COORDINATOR, &same), None);
        assert!(
            registry
                .announce(COORDINATOR, vec![same.clone()])
                .is_empty()
        );
        assert_eq!(registry.owner(same.id), Some(COORDINATOR));
        assert_eq!(registry.forbids(SHIM, &same), Some("id"));
        assert_eq!(registry.forbids(SHIM, &circuit(3, "a")), Some("subdomain"));
        assert_eq!(registry.forbids(SHIM, &circuit(3, "b")), None);
        registry.announce(COORDINATOR, vec![circuit(3, "b")]);
        assert!(registry.get(circuit(2, "b").id).is_none(), "displaced");
    }

    #[test]
    fn a_moved_circuit_leaves_its_old_slot() {
        let mut registry = CircuitRegistry::default();
        registry.announce(SHIM, vec![circuit(1, "a")]);
        let touched = registry.announce(SHIM, vec![circuit(1, "b")]);
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
        let owner = if rng.bool() { SHIM } else { COORDINATOR };
        match rng.u8(..8) {
            0 => registry.replace_all(owner, many(rng), &[id].into()),
            1..=2 => registry.remove(id).unwrap_or_default(),
            3 => registry
                .set_routes(id, random_circuit(rng).routes)
                .unwrap_or_default(),
            _ => registry.announce(owner, many(rng)),
        }
    }

    fn check(before: &CircuitRegistry, now: &CircuitRegistry, touched: &Touched, at: &str) {
        assert_eq!(now.slots.len(), now.circuits.len(), "one slot each, {at}");
        for (id, entry) in &now.circuits {
            let Entry {
                arrival, circuit, ..
            } = entry;
            assert_eq!(now.slots.get(&circuit.slot), Some(id), "{at}");
            for segment in circuit.path_segments() {
                assert!(now.segments[&segment].contains(&(*arrival, *id)), "{at}");
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
        let filed: usize = now.segments.values().map(|ids| ids.len()).sum();
        let expected: usize = now
            .list()
            .iter()
            .map(|c| c.path_segments().collect::<BTreeSet<_>>().len())
            .sum();
        assert_eq!(filed, expected, "nothing is left behind, {at}");
    }
}
