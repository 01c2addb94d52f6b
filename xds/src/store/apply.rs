//! Applying updates, with a way back.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::entry::{Accepted, Delivered, Entry, Refusal};
use super::{Applied, Changes, ResourceStore, is_reserved};
use crate::extension::Extensions;
use crate::proto::Any;
use crate::reject::{FieldPath, Invalid, Rejected};
use crate::resource::{Decoded, Resource, decode_again, decode_noting, effective_name, name_in};
use crate::source::{Extent, Origin, Update};
use crate::text::{Listing, Location, Passage, Tree};
use crate::type_url::ResourceType;

/// How often each name is in an update.
type Times = HashMap<Arc<str>, usize, ahash::RandomState>;

/// A batch on its way into the store.
pub(super) struct Transaction<'a> {
    store: &'a mut ResourceStore,
    extensions: &'a dyn Extensions,
    now: SystemTime,
    /// What was known about each name before this batch touched it: the way back, and what the net
    /// changes are counted from.
    before: BTreeMap<(ResourceType, Arc<str>), Option<Box<Entry>>>,
    rejected: Vec<Rejected>,
}

/// Who says something, under which version, and where it is written.
struct Delivery<'t> {
    by: Arc<Delivered>,
    kind: ResourceType,
    listing: Option<&'t Listing>,
    /// Of the listing's text, which is read only if there is something to be found in it.
    tree: OnceCell<Tree<'t>>,
}

impl Delivery<'_> {
    fn locate(&self, index: usize, fault: &Invalid) -> Option<Location> {
        let Listing { document, list } = self.listing?;
        let tree = self.tree.get_or_init(|| document.tree());
        tree.locate_in(list, index, fault.path.as_str())
    }

    /// Kept for what is looked at again when it is brought into use. Of the other kinds there may
    /// be a great many, in large texts.
    fn passage(&self, index: usize) -> Option<Passage> {
        let kept = matches!(self.kind, ResourceType::Cluster | ResourceType::Listener);
        let listing = self.listing.filter(|_| kept)?.clone();
        Some(Passage { listing, index })
    }
}

impl<'a> Transaction<'a> {
    pub(super) fn new(
        store: &'a mut ResourceStore,
        extensions: &'a dyn Extensions,
        now: SystemTime,
    ) -> Self {
        Self {
            store,
            extensions,
            now,
            before: BTreeMap::new(),
            rejected: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, update: Update) {
        let Update {
            origin,
            kind,
            version,
            extent,
            upserts,
            listing,
            removals,
        } = update;
        let version = version.into();
        let delivery = Delivery {
            by: Arc::new(Delivered { origin, version }),
            kind,
            listing: listing.as_ref(),
            tree: OnceCell::new(),
        };

        let mut named = Vec::with_capacity(upserts.len());
        let mut all_named = true;
        for (index, any) in upserts.into_iter().enumerate() {
            match name_of(kind, &any) {
                Ok(name) => named.push((index, name, any)),
                Err(reason) => {
                    all_named = false;
                    let location = delivery.locate(index, &reason);
                    let rejected = Rejected::new(kind, "", reason).located(location);
                    self.rejected.push(rejected);
                }
            }
        }
        let mut times: Times = Times::with_capacity_and_hasher(named.len(), Default::default());
        for (_, name, _) in &named {
            *times.entry(Arc::clone(name)).or_default() += 1;
        }
        for (index, name, any) in named {
            match times.get_mut(&name) {
                Some(1) => self.upsert(&delivery, index, &name, any),
                // Which of them is meant cannot be known. Reported once, at the first.
                Some(n) if *n > 1 => {
                    *n = 0;
                    let reason = fault("is named twice in one update");
                    self.refuse(&delivery, index, &name, reason);
                }
                _ => {}
            }
        }
        for name in &removals {
            self.remove(&delivery, &Arc::from(name.as_str()));
        }
        // A resource without a readable name may be any of those that seem to be missing.
        if extent == Extent::StateOfTheWorld && all_named {
            self.remove_all_but(&delivery, &times);
        }
    }

    fn upsert(&mut self, delivery: &Delivery<'_>, index: usize, name: &Arc<str>, any: Any) {
        if let Err(reason) = self.may_own(delivery, name) {
            self.refuse(delivery, index, name, reason);
            return;
        }
        let known = self.store.entry(delivery.kind, name);
        let accepted = known.and_then(|entry| entry.accepted.as_ref());
        let (accepted, is_new) = match accepted {
            // Sent again: nothing to decode.
            Some(same) if same.raw.is(&any) => {
                let passage = delivery.passage(index);
                (same.again(&delivery.by, passage), false)
            }
            earlier => match decode_after(earlier, &any, self.extensions) {
                Err(rejected) => {
                    self.refuse(delivery, index, name, rejected.invalid);
                    return;
                }
                Ok(decoded) if self.is_too_much(delivery, &decoded.ignored) => {
                    let field = decoded.ignored[0];
                    let reason = fault(format!("{field} would have no effect"));
                    self.refuse(delivery, index, name, reason);
                    return;
                }
                Ok(decoded) => {
                    let equal = earlier.filter(|e| e.resource == decoded.resource);
                    let since = equal.map_or(self.now, |e| e.since);
                    // The same `Arc` as before tells everybody at a glance that it is equal.
                    let same = equal.map(|e| e.resource.clone());
                    let is_new = same.is_none();
                    let raw = self.store.shared.keep(delivery.kind, any);
                    let resource = same.unwrap_or_else(|| {
                        let packed = decoded.resource.packed(&raw, self.extensions);
                        self.store.shared.put(packed)
                    });
                    let notes = (delivery.passage(index), decoded.ignored);
                    let accepted = Accepted::new(&delivery.by, (raw, resource), since, notes);
                    (accepted, is_new)
                }
            },
        };
        let name = match &accepted.resource {
            // It has a copy of its own; one does for both.
            Resource::VirtualHost { name, .. } => &Arc::clone(name),
            _ => name,
        };
        self.edit(delivery.kind, name, |entry| {
            entry.forgive(&accepted.origin);
            entry.accepted = Some(accepted);
            if is_new {
                entry.mark = 0;
            }
        });
    }

    /// Strictness is for what others write; the Coordinator's resources are our own translation.
    fn is_too_much(&self, delivery: &Delivery<'_>, ignored: &[&str]) -> bool {
        let strict = self.extensions.is_strict() && delivery.by.origin != Origin::Coordinator;
        strict && !ignored.is_empty()
    }

    fn may_own(&self, delivery: &Delivery<'_>, name: &str) -> Result<(), Invalid> {
        if is_reserved(name) && delivery.by.origin != Origin::Coordinator {
            return Err(fault("is a name that is reserved for the Coordinator"));
        }
        let owner = self.store.entry(delivery.kind, name).and_then(Entry::owner);
        match owner {
            Some(owner) if *owner != delivery.by.origin => {
                Err(fault(format!("the name is owned by {owner}")))
            }
            _ => Ok(()),
        }
    }

    fn refuse(&mut self, delivery: &Delivery<'_>, index: usize, name: &Arc<str>, reason: Invalid) {
        let location = delivery.locate(index, &reason);
        let rejected = Rejected::new(delivery.kind, &**name, reason.clone());
        self.rejected.push(rejected.located(location.clone()));
        let refusal = Refusal {
            origin: delivery.by.origin.clone(),
            version: delivery.by.version.to_string(),
            reason,
            location,
            at: self.now,
        };
        self.edit(delivery.kind, name, |entry| entry.refuse(refusal));
    }

    /// Takes back everything that the origin ever said about a name. Another origin's resource
    /// stays.
    fn remove(&mut self, delivery: &Delivery<'_>, name: &Arc<str>) {
        let origin = &delivery.by.origin;
        let known = self.store.entry(delivery.kind, name);
        if !known.is_some_and(|entry| entry.origins().any(|o| o == origin)) {
            return;
        }
        self.edit(delivery.kind, name, |entry| {
            entry.forgive(origin);
            entry
                .accepted
                .take_if(|accepted| accepted.origin == *origin);
        });
    }

    fn remove_all_but(&mut self, delivery: &Delivery<'_>, kept: &Times) {
        let names = self
            .store
            .of(delivery.kind)
            .by_origin
            .get(&delivery.by.origin);
        let gone: Vec<Arc<str>> = names
            .into_iter()
            .flatten()
            .filter(|name| !kept.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.remove(delivery, &name);
        }
    }

    /// Changes what is known about a name, remembering what was known before this batch.
    fn edit(&mut self, kind: ResourceType, name: &Arc<str>, edit: impl FnOnce(&mut Entry)) {
        let known = self.store.of_mut(kind).take(name);
        let mut edited = known.clone().unwrap_or_default();
        let key = (kind, Arc::clone(name));
        self.before.entry(key).or_insert(known);
        edit(&mut edited);
        self.store.of_mut(kind).put(name, edited);
    }

    pub(super) fn finish(self, all_or_nothing: bool) -> Applied {
        let Self {
            store,
            before,
            rejected,
            ..
        } = self;
        let mut changes = Changes::default();
        if all_or_nothing && !rejected.is_empty() {
            for ((kind, name), entry) in before {
                let kind = store.of_mut(kind);
                kind.take(&name);
                if let Some(entry) = entry {
                    kind.put(&name, entry);
                }
            }
            return Applied { changes, rejected };
        }
        let mut unchanged = Vec::new();
        for ((kind, name), earlier) in &before {
            let earlier = earlier
                .as_ref()
                .and_then(|e| e.accepted.as_ref())
                .map(|a| &a.resource);
            let list = match (earlier, store.get(*kind, name)) {
                (None, Some(_)) => &mut changes.added,
                (Some(_), None) => &mut changes.removed,
                (Some(earlier), Some(later)) if !same(earlier, later) => &mut changes.changed,
                (Some(_), Some(_)) => {
                    unchanged.push((*kind, name));
                    continue;
                }
                (None, None) => continue,
            };
            list.push((*kind, name.to_string()));
        }
        // What was noted of it stays true of what came back.
        for (kind, name) in unchanged {
            let mark = before
                .get(&(kind, Arc::clone(name)))
                .and_then(Option::as_ref);
            store.mark(kind, name, mark.map_or(0, |entry| entry.mark));
        }
        Applied { changes, rejected }
    }
}

fn decode_after(
    earlier: Option<&Accepted>,
    any: &Any,
    extensions: &dyn Extensions,
) -> Result<Decoded, Rejected> {
    match earlier {
        None => decode_noting(any, None, extensions),
        Some(accepted) => {
            let earlier = (&accepted.raw, &accepted.resource, accepted.ignored());
            decode_again(any, earlier, extensions)
        }
    }
}

fn same(a: &Resource, b: &Resource) -> bool {
    a.shares_with(b) || a == b
}

/// The name of a packed resource, if it is of the kind it was announced as.
fn name_of(kind: ResourceType, any: &Any) -> Result<Arc<str>, Invalid> {
    if ResourceType::from_type_url(&any.type_url) != Some(kind) {
        let reason = format!(
            "is of type {:?} among resources of type {kind}",
            any.type_url
        );
        return Err(fault(reason));
    }
    let name: Option<Arc<str>> = match kind {
        ResourceType::Listener => effective_name(kind, any).map(Arc::from),
        _ => name_in(any).map(Arc::from),
    };
    match name {
        None => Err(fault("bytes do not parse")),
        Some(name) if name.is_empty() => Err(Invalid::at("name", "must not be empty")),
        Some(name) => Ok(name),
    }
}

fn fault(reason: impl Into<std::borrow::Cow<'static, str>>) -> Invalid {
    Invalid::new(FieldPath::root(), reason)
}
