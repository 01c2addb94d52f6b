//! What the event bus tells, one event after the other.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::super::PushError;
use super::super::event::{Event, Notice, Reply};
use super::super::registry::Owner;
use super::super::wire::WireRoute;
use super::calls::Calls;
use super::install::{self, Bad, Sorted, id_of};
use super::order::dated;
use super::{Link, SAVE_AFTER, sooner};

/// How long a reply may wait for its place. The Coordinator waits for it 15 s, so later it is of no
/// use to anybody.
const REPLY: Duration = Duration::from_secs(10);

impl<C: Calls> Link<C> {
    pub(super) async fn notice(&mut self, notice: Option<Notice>) {
        let now = Instant::now();
        match notice {
            Some(Notice::Subscribed) => self.subscribed(now),
            Some(Notice::Event(event)) => self.event(event, now).await,
            Some(Notice::Lost { reason }) => {
                warn!(reason, "event bus lost; circuits stay as they are");
                self.status.change(|report| {
                    report.bus_connected = Some(false);
                    report.counters.bus_losses += 1;
                });
            }
            None => {
                // The bus tries again by itself for ever, so this is the end of the process or a
                // fault. Listings go on.
                error!("the event bus has ended; changes are seen by listing only");
                self.status
                    .change(|report| report.bus_connected = Some(false));
                self.bus = None;
                if self.due.bus.take().is_some() {
                    self.due.register = Some(now);
                }
            }
        }
    }

    fn subscribed(&mut self, now: Instant) {
        self.status
            .change(|report| report.bus_connected = Some(true));
        info!("event bus subscribed");
        if self.due.bus.take().is_some() {
            self.due.register = Some(now);
        } else if self.worker.is_some() {
            // Whatever was said while nobody listened is found by listing.
            self.due.list = Some(now);
        }
    }

    async fn event(&mut self, event: Event, now: Instant) {
        let result = match event {
            Event::Created { circuits } => {
                self.status.count(|c| &mut c.events_created);
                self.created(circuits, now).await
            }
            Event::RoutesUpdated { circuit, routes } => {
                self.status.count(|c| &mut c.events_routes_updated);
                self.routes_updated(&circuit, routes, now).await
            }
            Event::Removed { circuits } => {
                self.status.count(|c| &mut c.events_removed);
                self.removed(&circuits, now).await
            }
        };
        if let Err(error) = result {
            warn!(%error, "an event had no effect; a listing will tell");
            self.list_soon(now);
        }
    }

    /// Installs the circuits, and says so once traffic can reach them. Those that are live and equal
    /// are said, too: the Coordinator asks again at every launch, and somebody waits.
    async fn created(&mut self, circuits: Vec<Value>, now: Instant) -> Result<(), PushError> {
        let (stale, current): (Vec<Value>, Vec<Value>) =
            circuits.iter().cloned().partition(|circuit| {
                id_of(circuit).is_some_and(|id| self.ledger.is_stale(id, dated(circuit)))
            });
        if !stale.is_empty() {
            let ids: Vec<_> = stale.iter().filter_map(id_of).collect();
            warn!(?ids, "announcement is older than what is known, not taken");
            self.ignored(now);
        }
        let Sorted { mut good, bad } = install::sort(&self.circuits, &current);
        self.circuits.resolver().resolve(&mut good).await;
        let mut sorted_out = bad;
        let mut live = HashSet::new();
        if !good.is_empty() {
            let installed = install::install(&self.circuits, good, None).await?;
            live.extend(installed.applied.circuits.iter().map(|c| c.id));
            self.try_names_again(&installed.applied.circuits);
            sorted_out.extend(installed.refused);
            debug!(
                circuits = live.len(),
                generation = installed.applied.generation,
                changed = installed.applied.changed,
                "circuits announced"
            );
        }
        for circuit in &current {
            if let Some(id) = id_of(circuit).filter(|id| live.contains(id)) {
                self.ledger.hear(id, dated(circuit), false, now);
            }
        }
        self.refused(&sorted_out).await;
        // Of a stale announcement the younger version is live, unless the circuit is gone.
        for id in stale.iter().filter_map(id_of) {
            if self.is_ours(id).await {
                live.insert(id);
            }
        }
        self.changed().await;
        let is_live = |c: &Value| id_of(c).is_some_and(|id| live.contains(&id));
        self.reply(circuits.into_iter().filter(is_live).collect())
            .await;
        Ok(())
    }

    async fn routes_updated(
        &mut self,
        circuit: &Value,
        routes: Vec<Value>,
        now: Instant,
    ) -> Result<(), PushError> {
        let Some(id) = id_of(circuit) else {
            warn!("routes of a circuit without a usable id ignored");
            self.ignored(now);
            return Ok(());
        };
        if self.ledger.is_stale(id, dated(circuit)) {
            debug!(circuit = %id, "routes are older than what is known, ignored");
            self.ignored(now);
            return Ok(());
        }
        let routes: Vec<WireRoute> = match routes.iter().map(WireRoute::deserialize).collect() {
            Ok(routes) => routes,
            Err(error) => {
                warn!(circuit = %id, %error, "unreadable routes, the earlier ones stay");
                return Ok(());
            }
        };
        let result = self
            .circuits
            .set_routes(Owner::Coordinator, id, routes)
            .await;
        match result {
            Ok(applied) => {
                self.ledger.hear(id, dated(circuit), false, now);
                self.try_names_again(&applied.circuits);
                self.changed().await;
                Ok(())
            }
            Err(PushError::Unknown(id)) => {
                debug!(circuit = %id, "routes of an unknown circuit ignored; a listing follows");
                self.ignored(now);
                Ok(())
            }
            Err(PushError::Invalid(fault)) => {
                warn!(circuit = %id, %fault, "unusable routes, the earlier ones stay");
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    async fn removed(&mut self, circuits: &[Value], now: Instant) -> Result<(), PushError> {
        let mut result = Ok(());
        for circuit in circuits {
            let Some(id) = id_of(circuit) else {
                continue;
            };
            // Also of a circuit that is not known: its announcement may come after.
            self.ledger.hear(id, dated(circuit), true, now);
            match self.circuits.remove(Owner::Coordinator, id).await {
                Ok(_) => debug!(circuit = %id, "circuit removed"),
                Err(PushError::Unknown(_)) => debug!(circuit = %id, "unknown circuit removed"),
                Err(error) => result = Err(error),
            }
        }
        self.changed().await;
        result
    }

    /// Logs circuits that cannot be installed, and takes earlier versions away that must not stay.
    async fn refused(&mut self, bad: &[Bad]) {
        install::log(bad);
        for bad in bad {
            self.status.count(|c| &mut c.circuits_refused);
            let Some(id) = bad.id else {
                continue;
            };
            let known = self.circuits.get(id).await;
            if known.is_none_or(|known| bad.may_stay(&known)) || !self.is_ours(id).await {
                continue;
            }
            match self.circuits.remove(Owner::Coordinator, id).await {
                Ok(_) => warn!(circuit = %id, "who may come in has changed; no longer served"),
                Err(error) => error!(circuit = %id, %error, "cannot be taken away"),
            }
        }
    }

    async fn is_ours(&self, id: Uuid) -> bool {
        self.circuits.owner(id).await == Some(Owner::Coordinator)
    }

    /// Something was said that cannot be followed; whether something is missing tells a listing.
    fn ignored(&mut self, now: Instant) {
        self.status.count(|c| &mut c.events_ignored);
        self.list_soon(now);
    }

    async fn changed(&mut self) {
        self.count_circuits().await;
        sooner(&mut self.due.save, Instant::now() + SAVE_AFTER);
    }

    /// Nothing is said where nothing is live: the Coordinator then tells its user the truth.
    pub(super) async fn reply(&mut self, circuits: Vec<Value>) {
        let Some(bus) = &self.bus else {
            return;
        };
        if circuits.is_empty() {
            return;
        }
        let sending = bus.replies.send(Reply::Added { circuits });
        match tokio::time::timeout(REPLY, sending).await {
            Ok(Ok(())) => self.status.count(|c| &mut c.replies),
            Ok(Err(_)) => warn!("the event bus has ended, a reply is lost"),
            Err(_) => {
                self.status.count(|c| &mut c.deadlines_fired);
                warn!(limit = ?REPLY, "deadline \"reply to the event bus\" fired, a reply is lost");
            }
        }
    }
}
