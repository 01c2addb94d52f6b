//! Full listings: what the Coordinator wants us to serve, brought into force as one change, and
//! told in the log where it differs from what we had. Also the state file, which is a listing of an
//! earlier life.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::super::client::ClientError;
use super::super::model::{Circuit, Slot};
use super::super::registry::Owner;
use super::super::resolve;
use super::calls::{Calls, Done, Listing, said};
use super::install::{self, Bad, Sorted};
use super::order::SETTLE;
use super::{Link, SAVE_AFTER, sooner, state_file};

/// Listings out of turn are this far apart at least.
const GAP: Duration = Duration::from_secs(10);
/// How long a listing out of turn waits for what may still be under way.
const SOON: Duration = Duration::from_secs(1);
/// So many ids are logged; of the rest the number is.
const LOGGED: usize = 10;

impl<C: Calls> Link<C> {
    /// Circuits of an earlier life, until the first listing.
    pub(super) async fn restore(&mut self) {
        let Some(path) = self.config.state_file.clone() else {
            return;
        };
        let authority = self.config.authority.clone();
        let shown = path.display().to_string();
        let reading = tokio::task::spawn_blocking(move || state_file::read(&path, &authority));
        let saved = match reading.await {
            Ok(Ok(Some(saved))) => saved,
            Ok(Ok(None)) => return info!(file = shown, "no state file yet"),
            Ok(Err(error)) => return warn!(file = shown, %error, "state file not used"),
            Err(error) => return error!(file = shown, %error, "state file not read"),
        };
        let Sorted { mut good, bad } = install::sort(&self.circuits, &saved.circuits);
        install::log(&bad);
        self.circuits.resolver().resolve(&mut good).await;
        let age = SystemTime::now().duration_since(saved.written_at);
        match install::install(&self.circuits, good, None).await {
            Ok(installed) => {
                install::log(&installed.refused);
                info!(
                    file = shown,
                    age_s = age.unwrap_or_default().as_secs(),
                    circuits = installed.applied.circuits.len(),
                    "serving circuits of the state file until the Coordinator has listed its own"
                );
                self.count_circuits().await;
            }
            Err(error) => warn!(file = shown, %error, "state file not used"),
        }
    }

    /// How often circuits are listed in turn.
    fn period(&self) -> Duration {
        self.config.poll_period.unwrap_or(self.config.relist_period)
    }

    /// Has circuits listed out of turn, to settle a doubt.
    pub(super) fn list_soon(&mut self, now: Instant) {
        if self.worker.is_some() {
            let earliest = self.listed_at.map_or(now, |at| at + GAP);
            sooner(&mut self.due.list, (now + SOON).max(earliest));
        }
    }

    /// A kernel without an address is looked for with the next listing, which then comes soon.
    pub(super) fn try_names_again(&mut self, circuits: &[Arc<Circuit>]) {
        if resolve::lacks_any(circuits) {
            self.list_soon(Instant::now());
        }
    }

    pub(super) fn list(&mut self, now: Instant) {
        let Some(worker) = self.worker else {
            return;
        };
        if self.busy.listing {
            // The one under way may have begun too early for whatever wants this one.
            self.due.list = Some(now + SOON);
            return;
        }
        let (client, known) = (self.client.clone(), Arc::clone(&self.circuits));
        self.busy.listing = true;
        self.listed_at = Some(now);
        self.calls.spawn(async move {
            let circuits = match client.circuits(worker).await {
                Ok(circuits) => circuits,
                Err(error) => return Done::Listed(now, Err(error)),
            };
            // Here, where no event waits for it.
            let resolved = known.resolver().ask(install::names(&circuits)).await;
            let listing = Listing { circuits, resolved };
            Done::Listed(now, Ok(listing))
        });
    }

    pub(super) async fn listed(
        &mut self,
        requested: Instant,
        result: Result<Listing, ClientError>,
    ) {
        self.busy.listing = false;
        let failure: &dyn std::fmt::Display = match result {
            Ok(listing) => match self.bring_into_force(requested, &listing).await {
                Ok(()) => {
                    self.listing.reset();
                    if self.said.listing.take().is_some() {
                        info!("circuits are listed again");
                    }
                    let next = Instant::now() + self.period();
                    sooner(&mut self.due.list, next);
                    return;
                }
                Err(error) => &error.to_string(),
            },
            Err(error) if error.is_not_found() => {
                self.status.count(|c| &mut c.listing_failures);
                return self.unknown(&error, Instant::now());
            }
            Err(error) => &error.to_string(),
        };
        self.status.count(|c| &mut c.listing_failures);
        let wait = self.listing.next();
        sooner(&mut self.due.list, Instant::now() + wait);
        if said(&mut self.said.listing, &failure) {
            debug!(%failure, ?wait, "circuits still not listed");
        } else {
            warn!(%failure, "circuits not listed; those in force stay");
        }
    }

    async fn bring_into_force(
        &mut self,
        requested: Instant,
        listing: &Listing,
    ) -> Result<(), super::super::PushError> {
        let Sorted { mut good, bad } = install::sort(&self.circuits, &listing.circuits);
        listing.resolved.put_into(&mut good);
        let before = by_id(self.circuits.owned(Owner::Coordinator).await);
        let held = self.ledger.holds(requested);
        // Nor may a circuit that the listing still knows take the place of one it does not yet.
        let held_places = held.iter().filter_map(|id| before.get(id)).map(|c| &c.slot);
        let held_places: HashSet<&Slot> = held_places.collect();
        good.retain(|c| held.contains(&c.id) || !held_places.contains(&c.slot));
        let mut keep = held.clone();
        keep.extend(bad.iter().filter_map(|bad| stays(bad, &before)));
        let listed: Vec<Uuid> = good.iter().map(|c| c.id).collect();
        let installed = install::install(&self.circuits, good, Some(keep)).await?;
        install::log(&bad);
        install::log(&installed.refused);
        let after = by_id(self.circuits.owned(Owner::Coordinator).await);

        let difference = Difference::between(&before, &after);
        let first = self.status.change(|report| {
            let refused = bad.len() + installed.refused.len();
            report.counters.circuits_refused += u64::try_from(refused).unwrap_or(u64::MAX);
            report.counters.listings += 1;
            report.circuits = after.len();
            report.last_listing.replace(SystemTime::now()).is_none()
        });
        if first {
            info!(circuits = after.len(), ?difference, "circuits listed");
        } else if !difference.is_empty() {
            // In traefik mode this is how changes come; with a bus it is how a lost one is found.
            if self.bus.is_some() {
                self.status.count(|c| &mut c.listing_repairs);
            }
            info!(
                circuits = after.len(),
                ?difference,
                "listing brought changes"
            );
        }
        if first || !difference.is_empty() {
            sooner(&mut self.due.save, Instant::now() + SAVE_AFTER);
        }
        // Whoever launched one of these while the bus was away still waits for our word.
        let waited_for = |circuit: &&Value| {
            install::id_of(circuit).is_some_and(|id| difference.added.contains(&id))
        };
        let waited_for = listing
            .circuits
            .iter()
            .filter(waited_for)
            .take(MOST_REPLIED);
        self.reply(waited_for.cloned().collect()).await;
        // Where an event held against the listing, the next one tells who was right.
        let disputed = held
            .iter()
            .any(|id| listed.contains(id) != after.contains_key(id));
        if disputed {
            sooner(&mut self.due.list, Instant::now() + SETTLE);
        }
        self.try_names_again(&installed.applied.circuits);
        self.ledger.forget(Instant::now());
        Ok(())
    }

    pub(super) async fn count_circuits(&mut self) {
        let circuits = self.circuits.owned(Owner::Coordinator).await.len();
        self.status.change(|report| report.circuits = circuits);
    }

    pub(super) fn save(&mut self) {
        let Some(path) = self.config.state_file.clone() else {
            return;
        };
        if self.busy.saving {
            self.due.save = Some(Instant::now() + SAVE_AFTER);
            return;
        }
        self.busy.saving = true;
        let (circuits, authority) = (Arc::clone(&self.circuits), self.config.authority.clone());
        self.calls.spawn(async move {
            let circuits = circuits.owned(Owner::Coordinator).await;
            let write = move || state_file::write(&path, &authority, &circuits, SystemTime::now());
            let written = tokio::task::spawn_blocking(write).await;
            Done::Saved(written.unwrap_or_else(|error| Err(std::io::Error::other(error))))
        });
    }

    pub(super) fn saved(&mut self, result: std::io::Result<()>) {
        self.busy.saving = false;
        let Err(error) = result else {
            self.said.save = None;
            return self.status.count(|c| &mut c.state_writes);
        };
        self.status.count(|c| &mut c.state_write_failures);
        let again = said(&mut self.said.save, &error);
        let file = self.config.state_file.as_deref().unwrap_or("".as_ref());
        if !again {
            warn!(file = %file.display(), %error, "state file not written; trying on");
        }
        sooner(&mut self.due.save, Instant::now() + GAP);
    }

    /// At the end, when no other change can come.
    pub(super) async fn save_now(&mut self) {
        // Two writers would get into each other's way.
        let mut again = self.due.save.take().is_some();
        while self.busy.saving || again {
            if !self.busy.saving {
                again = false;
                self.save();
            }
            match self.calls.join_next().await {
                Some(Ok(Done::Saved(result))) => self.saved(result),
                Some(_) => {}
                None => return,
            }
        }
    }
}

fn by_id(circuits: Vec<Arc<Circuit>>) -> HashMap<Uuid, Arc<Circuit>> {
    circuits.into_iter().map(|c| (c.id, c)).collect()
}

/// The circuit whose earlier version stays in force, if there is one and it may.
fn stays(bad: &Bad, known: &HashMap<Uuid, Arc<Circuit>>) -> Option<Uuid> {
    let id = bad.id?;
    known.get(&id).filter(|known| bad.may_stay(known))?;
    Some(id)
}

/// After an event about its routes the Coordinator may date a circuit anew without telling.
fn same_but_for_dates(a: &Circuit, b: &Circuit) -> bool {
    let mut a = a.clone();
    a.updated_at.clone_from(&b.updated_at);
    a == *b
}

/// Circuits found by one listing for which a reply is sent: a burst of launches. After a restart all
/// are found, and nobody waits for most of them.
const MOST_REPLIED: usize = 256;

/// What a listing changed. Prints as numbers and the first few ids.
#[derive(Default)]
struct Difference {
    added: Vec<Uuid>,
    removed: Vec<Uuid>,
    changed: Vec<Uuid>,
}

impl Difference {
    fn between(before: &HashMap<Uuid, Arc<Circuit>>, now: &HashMap<Uuid, Arc<Circuit>>) -> Self {
        let mut difference = Self::default();
        for (id, circuit) in now {
            match before.get(id) {
                None => difference.added.push(*id),
                Some(known) if !same_but_for_dates(known, circuit) => difference.changed.push(*id),
                Some(_) => {}
            }
        }
        let gone = before.keys().filter(|id| !now.contains_key(id));
        difference.removed.extend(gone);
        for list in [
            &mut difference.added,
            &mut difference.removed,
            &mut difference.changed,
        ] {
            list.sort_unstable();
        }
        difference
    }

    const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl std::fmt::Debug for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for (what, ids) in [
            ("added", &self.added),
            ("removed", &self.removed),
            ("changed", &self.changed),
        ] {
            if ids.is_empty() {
                continue;
            }
            write!(f, "{separator}{what} {}:", ids.len())?;
            separator = "; ";
            for id in ids.iter().take(LOGGED) {
                write!(f, " {id}")?;
            }
            if ids.len() > LOGGED {
                f.write_str(" ...")?;
            }
        }
        if self.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}
