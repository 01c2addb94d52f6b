//! The only place that knows Backend.AI: circuits in, xDS messages out.
//!
//! | module | holds |
//! |---|---|
//! | [`model`], [`wire`] | circuits, validated; their JSON form |
//! | [`resolve`] | where kernels are that are announced by name |
//! | [`registry`] | the circuits in force and whose they are; which change touches what |
//! | [`translate`] | circuits -> xDS messages, pure |
//! | [`shim`] | the REST interface for pushes |
//! | [`api`] | the worker's own interface: setup links, health, metrics |
//! | [`permit`] | what opens an interactive app to its owner |
//! | [`problem`] | what can go wrong for users, in the words of Backend.AI |
//! | [`check`] | whether everything the worker needs is there, before it starts |
//! | [`client`] | calls to the Coordinator |
//! | [`link`] | registration, liveness, listings and events: what ties this worker to the Coordinator |
//! | [`event`], [`bus`] | what the event bus says and is told; the bus itself |
//! | [`redis`] | connections to Redis, and whether it answers |
//! | [`usage`] | what keeps used circuits and sessions alive |
//! | [`inference_metrics`] | what model servers say of themselves, for an autoscaler |
//! | [`discovery`] | the entry by which Prometheus finds this worker |
//!
//! [`Circuits`] ties them together: a change is tried on a copy of the registry, translated,
//! sent to the control plane as one batch, and kept only once its generation is live.

pub mod api;
pub mod bus;
pub mod check;
pub mod client;
mod created;
pub mod discovery;
pub mod event;
mod fault;
pub mod inference_metrics;
pub mod link;
pub mod marker;
pub mod model;
pub mod permit;
pub mod problem;
pub mod redis;
pub mod registry;
pub mod resolve;
pub mod shim;
#[cfg(test)]
mod testing;
pub mod translate;
pub mod usage;
pub mod wire;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use causeway_xds::reject::Rejected;
use causeway_xds::source::{Batch, Batches, OnRejection, Outcome, Update};
use tokio::sync::{Mutex, oneshot};
use tracing::{debug, warn};
use uuid::Uuid;

pub use created::Created;
pub use fault::{Fault, PushError};
use model::{Circuit, Slot};
use registry::{CircuitRegistry, Owner, Touched};
use resolve::Resolver;
pub use translate::Frame;
use translate::{blame, names};
use wire::WireRoute;

use crate::telemetry::activity::Activities;

/// How often names of pushed kernels are looked at. A good answer counts for longer.
const FOLLOWED_EVERY: Duration = Duration::from_secs(10);

/// The circuits of this worker, shared by everything that announces them.
///
/// One change at a time: the next waits until the one before is live or refused. A caller that
/// goes away does not undo its change; what was sent to the control plane is seen through.
#[derive(Debug)]
pub struct Circuits {
    frame: Frame,
    batches: Batches,
    created: Created,
    activities: Arc<Activities>,
    resolver: Resolver,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    registry: CircuitRegistry,
    /// The generation that shows `registry`.
    generation: u64,
    /// Counts changes; the version of the messages sent.
    version: u64,
}

/// What a change led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    pub generation: u64,
    /// Whether there is a new generation because of it.
    pub changed: bool,
    /// Whether a circuit is new, not just different.
    pub created: bool,
    /// The circuits that the change named, as they are now.
    pub circuits: Vec<Arc<Circuit>>,
}

impl Circuits {
    /// `activities` is where the data plane notes what is in use; it is told which circuits go and
    /// which sessions they belong to.
    pub fn new(frame: Frame, batches: Batches, activities: Arc<Activities>) -> Arc<Self> {
        Self::resolving(frame, batches, activities, Resolver::default())
    }

    /// The same, with names looked up by `resolver`.
    pub fn resolving(
        frame: Frame,
        batches: Batches,
        activities: Arc<Activities>,
        resolver: Resolver,
    ) -> Arc<Self> {
        Arc::new(Self {
            frame,
            batches,
            created: Created::default(),
            activities,
            resolver,
            state: Mutex::default(),
        })
    }

    /// Sends what stands before the first circuit: listeners, and every slot still empty. To be
    /// called once, before anything is announced.
    pub async fn install_frame(&self) -> Result<Outcome, PushError> {
        let mut state = self.state.lock().await;
        let outcome = self.send(translate::frame(&self.frame)).await?;
        if let Some(first) = outcome.rejected.first() {
            return Err(PushError::Invalid(refusal(first)));
        }
        state.generation = outcome.generation;
        Ok(outcome)
    }

    /// Looks names of kernels up. Circuits and routes are announced with the addresses in them.
    pub const fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Makes `circuits` the whole set of `owner`; those in `keep` stay as they are.
    pub async fn replace_all(
        self: &Arc<Self>,
        owner: Owner,
        circuits: Vec<Circuit>,
        keep: HashSet<Uuid>,
    ) -> Result<Applied, PushError> {
        self.check(&circuits)?;
        self.apply(move |registry| {
            permit(registry, owner, &circuits)?;
            let ids = ids(&circuits);
            Ok((registry.replace_all(owner, circuits, &keep), ids))
        })
        .await
    }

    /// Adds circuits, or brings known ones up to date.
    pub async fn announce(
        self: &Arc<Self>,
        owner: Owner,
        circuits: Vec<Circuit>,
    ) -> Result<Applied, PushError> {
        self.check(&circuits)?;
        self.apply(move |registry| {
            permit(registry, owner, &circuits)?;
            let ids = ids(&circuits);
            Ok((registry.announce(owner, circuits), ids))
        })
        .await
    }

    /// Replaces the kernels of one circuit.
    pub async fn set_routes(
        self: &Arc<Self>,
        owner: Owner,
        id: Uuid,
        routes: Vec<WireRoute>,
    ) -> Result<Applied, PushError> {
        let names = resolve::names_of(routes.iter().map(WireRoute::kernel_host));
        let resolved = self.resolver.ask(names).await;
        self.apply(move |registry| {
            permit_one(registry, owner, id)?;
            let protocol = registry.get(id).ok_or(PushError::Unknown(id))?.protocol;
            let mut routes = wire::kernel_routes(routes, protocol).map_err(PushError::Invalid)?;
            resolved.put_into_routes(&mut routes);
            let touched = registry
                .set_routes(id, routes)
                .ok_or(PushError::Unknown(id))?;
            Ok((touched, vec![id]))
        })
        .await
    }

    /// Looks the names of all kernels of one owner up again, and follows where they lead now.
    pub async fn refresh(self: &Arc<Self>, owner: Owner) -> Result<(), PushError> {
        let circuits = self.owned(owner).await;
        let names = resolve::names(circuits.iter().flat_map(|c| &c.routes));
        if names.is_empty() {
            return Ok(());
        }
        let resolved = self.resolver.ask(names).await;
        let ids: Vec<Uuid> = circuits.iter().map(|c| c.id).collect();
        let change = move |registry: &mut CircuitRegistry| {
            let mut touched = Touched::default();
            for id in ids {
                // Of what has changed meanwhile, only the names that were asked about are touched.
                let ours = registry.owner(id) == Some(owner);
                if let Some(circuit) = registry.get(id).filter(|_| ours) {
                    let mut routes = circuit.routes.clone();
                    resolved.put_into_routes(&mut routes);
                    let new = registry.set_routes(id, routes).unwrap_or_default();
                    touched.routes.extend(new.routes);
                }
            }
            Ok((touched, Vec::new()))
        };
        self.apply(change).await.map(drop)
    }

    pub async fn remove(self: &Arc<Self>, owner: Owner, id: Uuid) -> Result<Applied, PushError> {
        self.apply(move |registry| {
            permit_one(registry, owner, id)?;
            let touched = registry.remove(id).ok_or(PushError::Unknown(id))?;
            Ok((touched, Vec::new()))
        })
        .await
    }

    /// Whether this worker can serve a circuit, and may.
    pub fn serves(&self, circuit: &Circuit) -> Result<(), Fault> {
        self.frame.check(circuit)
    }

    /// Every circuit of one owner, oldest first.
    pub async fn owned(&self, owner: Owner) -> Vec<Arc<Circuit>> {
        self.state.lock().await.registry.owned(owner)
    }

    /// Every circuit in force, oldest first, and the generation that shows them.
    pub async fn list(&self) -> (u64, Vec<Arc<Circuit>>) {
        let state = self.state.lock().await;
        (state.generation, state.registry.list())
    }

    pub async fn owner(&self, id: Uuid) -> Option<Owner> {
        self.state.lock().await.registry.owner(id)
    }

    pub async fn get(&self, id: Uuid) -> Option<Arc<Circuit>> {
        self.state.lock().await.registry.get(id).cloned()
    }

    /// Whether a circuit is served on the wildcard frontend under this host. Lower case.
    pub async fn serves_host(&self, host: &str) -> bool {
        let domain = self.frame.wildcard.as_ref().map(|w| w.domain.as_str());
        let Some(label) = domain.and_then(|domain| host.strip_suffix(domain)) else {
            return false;
        };
        let slot = Slot::Subdomain(label.to_owned());
        self.state.lock().await.registry.in_slot(&slot).is_some()
    }

    /// How many circuits have been new since the start.
    pub fn created(&self) -> &Created {
        &self.created
    }

    /// What can be said about a push without knowing what is in force.
    fn check(&self, circuits: &[Circuit]) -> Result<(), PushError> {
        let mut ids = HashMap::with_capacity(circuits.len());
        let mut slots: HashMap<&Slot, usize> = HashMap::with_capacity(circuits.len());
        for (i, circuit) in circuits.iter().enumerate() {
            let here = format!("circuits[{i}]");
            self.frame
                .check(circuit)
                .map_err(|f| PushError::Invalid(f.within(&here)))?;
            let taken = |field: &str, what: String, by: usize| {
                let reason = format!("{what} is claimed by circuits[{by}] of this push too");
                PushError::Conflict(Fault::at(format!("{here}.{field}"), reason))
            };
            if let Some(other) = ids.insert(circuit.id, i) {
                return Err(taken("id", format!("circuit {}", circuit.id), other));
            }
            if let Some(other) = slots.insert(&circuit.slot, i) {
                return Err(taken(circuit.slot.field(), circuit.slot.to_string(), other));
            }
        }
        Ok(())
    }

    /// Runs a change to its end even if the caller is dropped meanwhile: between sending a batch
    /// and keeping the registry that belongs to it nothing may be lost.
    async fn apply(
        self: &Arc<Self>,
        change: impl FnOnce(&mut CircuitRegistry) -> Result<(Touched, Vec<Uuid>), PushError>
        + Send
        + 'static,
    ) -> Result<Applied, PushError> {
        let this = Arc::clone(self);
        let task = tokio::spawn(async move { this.apply_here(change).await });
        task.await.unwrap_or(Err(PushError::Stopped))
    }

    async fn apply_here(
        &self,
        change: impl FnOnce(&mut CircuitRegistry) -> Result<(Touched, Vec<Uuid>), PushError>,
    ) -> Result<Applied, PushError> {
        let mut state = self.state.lock().await;
        let mut next = state.registry.clone();
        let (touched, named) = change(&mut next)?;
        let new: Vec<_> = named
            .iter()
            .filter(|id| state.registry.get(**id).is_none())
            .filter_map(|id| next.get(*id).map(|circuit| circuit.protocol))
            .collect();
        let circuits = named
            .iter()
            .filter_map(|id| next.get(*id).cloned())
            .collect();
        let mut changed = false;
        if !touched.is_empty() {
            let version = (state.version + 1).to_string();
            let updates = translate::change(&self.frame, &next, &touched, &version);
            self.note_present(&next, &touched);
            let outcome = self.send(updates).await?;
            if let Some(first) = outcome.rejected.first() {
                let rejected = outcome.rejected.len();
                warn!(rejected, %first, "translation was refused");
                self.note_present(&state.registry, &touched);
                self.note_gone(&next, &state.registry, &touched);
                return Err(PushError::Refused {
                    fault: refusal(first),
                    circuits: blame::culprits(&self.frame, &next, &touched, &outcome.rejected),
                });
            }
            debug!(
                generation = outcome.generation,
                circuits = next.len(),
                "circuits changed"
            );
            self.note_gone(&state.registry, &next, &touched);
            state.version += 1;
            state.generation = outcome.generation;
            changed = outcome.changed;
        }
        new.iter().for_each(|protocol| self.created.note(*protocol));
        // Also when nothing was touched: a circuit may have changed hands.
        state.registry = next;
        Ok(Applied {
            generation: state.generation,
            changed,
            created: !new.is_empty(),
            circuits,
        })
    }

    /// Tells which circuits there are from now on, before a request can use one. Sessions change with
    /// the kernels, which the routes of a circuit do not show.
    fn note_present(&self, now: &CircuitRegistry, touched: &Touched) {
        if !self.frame.usage {
            return;
        }
        for id in touched.circuits.union(&touched.routes) {
            if let Some(circuit) = now.get(*id) {
                drop(self.activities.announce(*id, &circuit.sessions()));
            }
        }
    }

    fn note_gone(&self, before: &CircuitRegistry, now: &CircuitRegistry, touched: &Touched) {
        for id in touched.circuits.union(&touched.routes) {
            if before.get(*id).is_some() && now.get(*id).is_none() {
                self.activities.remove(*id);
            }
        }
    }

    /// All or nothing; waits until it is live, or refused.
    async fn send(&self, updates: Vec<Update>) -> Result<Outcome, PushError> {
        let (answer, answered) = oneshot::channel();
        let batch = Batch {
            updates,
            touched: Vec::new(),
            on_rejection: OnRejection::ApplyNothing,
            answer: Some(answer),
        };
        self.batches
            .send(batch)
            .await
            .map_err(|_| PushError::Stopped)?;
        answered.await.map_err(|_| PushError::Stopped)
    }
}

/// Follows the names of pushed kernels, which nobody announces again, until the circuits are gone.
pub async fn follow_names(circuits: Weak<Circuits>) {
    loop {
        tokio::time::sleep(FOLLOWED_EVERY).await;
        let Some(circuits) = circuits.upgrade() else {
            return;
        };
        if let Err(error) = circuits.refresh(Owner::Shim).await {
            warn!(%error, "new addresses of kernel names are not in force");
        }
    }
}

/// Refuses a push that wants what the Coordinator's circuits have. The other way round it is not
/// refused, but said.
fn permit(registry: &CircuitRegistry, owner: Owner, circuits: &[Circuit]) -> Result<(), PushError> {
    for (i, circuit) in circuits.iter().enumerate() {
        if let Some(field) = registry.forbids(owner, circuit) {
            let reason = "belongs to a circuit of the Coordinator";
            let fault = Fault::at(format!("circuits[{i}].{field}"), reason);
            return Err(PushError::Conflict(fault));
        }
        if let Some(holder) = registry.in_slot(&circuit.slot)
            && holder.id != circuit.id
            && registry.owner(holder.id) != Some(owner)
        {
            let (pushed, slot) = (holder.id, &circuit.slot);
            warn!(%pushed, %slot, circuit = %circuit.id, "pushed circuit gives way to the Coordinator's");
        }
    }
    Ok(())
}

/// To the Coordinator a pushed circuit does not exist; a push may not touch the Coordinator's.
fn permit_one(registry: &CircuitRegistry, owner: Owner, id: Uuid) -> Result<(), PushError> {
    match (owner, registry.owner(id)) {
        (Owner::Shim, Some(Owner::Coordinator)) => {
            let reason = "belongs to the Coordinator, which alone changes it";
            Err(PushError::Conflict(Fault::at("id", reason)))
        }
        (Owner::Coordinator, Some(Owner::Shim)) => Err(PushError::Unknown(id)),
        _ => Ok(()),
    }
}

fn ids(circuits: &[Circuit]) -> Vec<Uuid> {
    circuits.iter().map(|circuit| circuit.id).collect()
}

/// The control plane speaks of messages, the caller of circuits.
fn refusal(rejected: &Rejected) -> Fault {
    match names::circuit_id(&rejected.name) {
        Some(id) => Fault::at(
            id.to_string(),
            format!("{} ({})", rejected.invalid, rejected.kind),
        ),
        None => Fault::at("", rejected.to_string()),
    }
}
