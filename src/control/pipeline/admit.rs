//! What a change may do at once, and what has to wait or stay for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_xds::ResourceType;
use causeway_xds::reject::Rejected;
use causeway_xds::resource::Resource;
use causeway_xds::source::{Batch, Origin};
use causeway_xds::store::{Changes, Entry};
use tracing::warn;

use super::{Before, FirstChecks, Pipeline};
use crate::control::linger::referred;
use crate::control::subscriptions::wanted_by;
use crate::control::view::View;
use crate::control::warming::Key;
use crate::snapshot::Snapshot;
use crate::upstream::Endpoint;
use crate::upstream::endpoint::Finding;

/// How long listeners stay closed for the first health checks.
const FIRST_CHECKS: Duration = Duration::from_secs(10);

impl Pipeline {
    /// Takes out updates that take away too much.
    pub(super) fn refuse_pushes(&mut self, batch: &mut Batch) -> Vec<Rejected> {
        let mut refused = Vec::new();
        // What runs out of time is taken away by agreement.
        if batch.answer.is_some() {
            batch.updates.retain_mut(|update| {
                let checked = self.guard.check(update, &self.store);
                checked.map_err(|reason| refused.push(reason)).is_ok()
            });
        }
        refused
    }

    /// Takes back removals of what is still referred to: a management server that says so has not
    /// got it now, which is no reason to stop what runs. Envoy does the same. Returns what need not be waited for because of that. A listener
    /// goes on waiting for its routes, as it would answer everything with 404.
    pub(super) fn withhold(&mut self, batch: &mut Batch) -> Vec<Key> {
        let mut absent = Vec::new();
        for update in &mut batch.updates {
            let child = !matches!(update.kind, ResourceType::Cluster | ResourceType::Listener);
            if !child || !matches!(update.origin, Origin::Xds(_)) {
                continue;
            }
            let kind = update.kind;
            update.removals.retain(|name| {
                // A filter whose configuration is taken away goes back to its default.
                let given =
                    kind == ResourceType::FilterConfig && self.store.get(kind, name).is_some();
                let wanted = !given && self.subscriptions.wants(kind, name);
                if wanted {
                    self.absent.insert((kind, name.clone()));
                }
                if wanted && kind != ResourceType::RouteConfiguration {
                    absent.push((kind, name.clone()));
                }
                !wanted
            });
        }
        absent
    }

    /// Takes clusters out of what is removed that routes may still lead to. Returns whether there are
    /// any.
    pub(super) fn linger(
        &mut self,
        changes: &mut Changes,
        before: &Before,
        batch: &Batch,
        now: Instant,
    ) -> bool {
        // Nobody waits for the word that the time of a resource has run out: that is no push, and
        // has no second half.
        if batch.answer.is_none() {
            return false;
        }
        let mut any = false;
        changes.removed.retain(|key| {
            let accepted = before.get(key).and_then(Option::as_ref);
            let accepted = accepted.filter(|a| matches!(a.origin, Origin::Xds(_)));
            let Some(accepted) = accepted.filter(|_| key.0 == ResourceType::Cluster) else {
                return true;
            };
            self.held.keep(key, accepted.clone());
            self.lingering.add(&key.1, now);
            any = true;
            false
        });
        any
    }

    /// Ends clusters that lingered and that no route in use names any more.
    pub(super) fn let_go(&mut self, now: Instant) {
        if self.lingering.is_empty() {
            return;
        }
        let view = View {
            store: &self.store,
            held: &self.held,
        };
        let kinds = [
            ResourceType::Listener,
            ResourceType::RouteConfiguration,
            ResourceType::VirtualHost,
        ];
        let resources = kinds.into_iter().flat_map(|kind| view.iter(kind));
        let names: Vec<String> = self.lingering.names().map(str::to_owned).collect();
        let referred = referred(names.iter().map(String::as_str), resources);
        let mut removed = Changes::default();
        for name in self.lingering.end(&referred, now) {
            let key = (ResourceType::Cluster, name);
            self.held.release(&key);
            self.removed(key, &mut removed);
        }
        self.bring_into_use(&removed);
    }

    fn removed(&mut self, key: Key, admitted: &mut Changes) {
        self.held.release(&key);
        self.warming.removed(&key);
        self.notes.gone(&key);
        self.failed.remove(&key);
        self.follow(&key);
        if snapshot_knows(&self.publisher.current(), &key) {
            admitted.removed.push(key);
        }
    }

    /// Splits off what has to wait. `hopeless` is what need not be waited for.
    pub(super) fn admit(
        &mut self,
        changes: Changes,
        hopeless: Vec<Key>,
        before: &Before,
        now: Instant,
    ) -> Changes {
        let snapshot = self.publisher.current();
        let mut admitted = Changes::default();
        for key in changes.removed {
            self.removed(key, &mut admitted);
        }
        for key in &changes.changed {
            self.subscriptions.renewed(key);
        }
        let mut offered = Vec::new();
        for key in changes.added.into_iter().chain(changes.changed) {
            self.notes.gone(&key);
            if matches!(key.0, ResourceType::Cluster | ResourceType::Listener) {
                offered.push(key);
            } else {
                self.absent.remove(&key);
                for ready in self.warming.arrived(key.0, &key.1) {
                    self.release(ready, &mut admitted);
                }
                self.follow(&key);
                admitted.changed.push(key);
            }
        }
        // A source that sent something unusable will not send better for having been waited for.
        for key in hopeless {
            if self.store.get(key.0, &key.1).is_none() {
                for ready in self.warming.arrived(key.0, &key.1) {
                    self.release(ready, &mut admitted);
                }
            }
        }
        for key in offered {
            let Some(resource) = self.store.get(key.0, &key.1) else {
                continue;
            };
            if key.0 == ResourceType::Cluster {
                self.lingering.forget(&key.1);
            }
            let references = resource.references();
            let store = &self.store;
            let has = |kind, name: &str| store.get(kind, name).is_some();
            if self.warming.offer(&key, &references, has, now) {
                self.release(key, &mut admitted);
            } else {
                let earlier = before.get(&key).cloned().flatten();
                self.held.hold(&key, &snapshot, earlier);
                self.follow(&key);
            }
        }
        self.open_listeners(&mut admitted, now);
        admitted
    }

    pub(super) fn open_listeners(&mut self, admitted: &mut Changes, now: Instant) {
        if self.roots.clusters && !self.awaits_first_checks(now) {
            for key in self.warming.start_listeners() {
                self.release(key, admitted);
            }
        }
    }

    /// Whether listeners are still closed, and there are endpoints that nobody has looked at.
    fn awaits_first_checks(&mut self, now: Instant) -> bool {
        if self.warming.is_open() || matches!(self.first_checks, FirstChecks::Over) {
            return false;
        }
        let snapshot = self.publisher.current();
        let unknown = |(name, entry): (&str, &Entry)| {
            let accepted = entry.accepted.as_ref().map(|a| &a.resource);
            let Some(Resource::Cluster(model)) = accepted else {
                return false;
            };
            let in_use = snapshot.clusters.get(name);
            let pending = |e: &Arc<Endpoint>| e.is_found(Finding::PendingActive);
            model.health_check.is_some()
                && in_use.is_none_or(|cluster| cluster.endpoints.all().iter().any(pending))
        };
        if !self.store.entries(ResourceType::Cluster).any(unknown) {
            return false;
        }
        if matches!(self.first_checks, FirstChecks::None) {
            self.first_checks = FirstChecks::Until(now + FIRST_CHECKS);
        }
        true
    }

    /// Gives up waiting for first checks whose time has come, even if listeners wait for more: a
    /// deadline that has passed must not be waited for again.
    pub(super) fn end_first_checks(&mut self, now: Instant) {
        if let FirstChecks::Until(deadline) = self.first_checks
            && deadline <= now
        {
            if self.awaits_first_checks(now) {
                warn!(
                    "FIRST_CHECKS ({FIRST_CHECKS:?}) fired: not waiting for the first health checks"
                );
                self.stats.pipeline.deadlines_fired.inc();
            }
            self.first_checks = FirstChecks::Over;
        }
    }

    pub(super) fn release(&mut self, key: Key, admitted: &mut Changes) {
        self.held.release(&key);
        self.follow(&key);
        admitted.changed.push(key);
    }

    /// Notes what a resource refers to elsewhere. While it waits, what the version in use refers to
    /// stays.
    fn follow(&mut self, key: &Key) {
        let accepted = self.store.entry(key.0, &key.1);
        let accepted = accepted.and_then(|entry| entry.accepted.as_ref());
        let versions = accepted.into_iter().chain(self.held.earlier(key));
        let wanted = versions.flat_map(|v| wanted_by(&v.resource, &v.origin));
        self.subscriptions.set(key, wanted.collect());
    }
}

/// Whether a removal is more than the end of something that never was in use.
fn snapshot_knows(snapshot: &Snapshot, key: &Key) -> bool {
    match key.0 {
        ResourceType::Cluster => snapshot.clusters.contains_key(&*key.1),
        ResourceType::Listener => snapshot.listeners.contains_key(&*key.1),
        _ => true,
    }
}
