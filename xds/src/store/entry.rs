//! What the store keeps for a name.

use std::sync::Arc;
use std::time::SystemTime;

use crate::reject::Invalid;
use crate::resource::{Raw, Resource};
use crate::source::Origin;
use crate::text::{Location, Passage};

/// What is known about one name of a kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// The version in force.
    pub accepted: Option<Accepted>,
    /// The newest refusal of each origin whose newest version of this name was refused.
    pub refusals: Box<[Refusal]>,
    /// What whoever uses the resource has noted of the version in force ([`super::ResourceStore::mark`]);
    /// 0 is nothing, and what a new version begins with.
    pub mark: u64,
}

/// An accepted resource. There may be very many of them, so what most do not have takes no room.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    pub delivered: Arc<Delivered>,
    /// As it was delivered, for the config dump.
    pub raw: Raw,
    pub resource: Resource,
    /// When this content was accepted.
    pub since: SystemTime,
    notes: Option<Box<Notes>>,
}

/// What the resources of one update have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    pub origin: Origin,
    /// As the source counts; the newest one with this content.
    pub version: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Notes {
    passage: Option<Passage>,
    ignored: Vec<&'static str>,
}

/// A version that was not accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub origin: Origin,
    pub version: String,
    pub reason: Invalid,
    pub location: Option<Location>,
    pub at: SystemTime,
}

impl Accepted {
    /// `passage` is where it was read, `ignored` what [`Self::ignored`] says.
    pub(super) fn new(
        delivered: &Arc<Delivered>,
        (raw, resource): (Raw, Resource),
        since: SystemTime,
        (passage, ignored): (Option<Passage>, Vec<&'static str>),
    ) -> Self {
        let notes = Notes { passage, ignored };
        Self {
            delivered: Arc::clone(delivered),
            raw,
            resource,
            since,
            notes: (notes != Notes::default()).then(|| Box::new(notes)),
        }
    }

    /// The same, delivered once more.
    pub(super) fn again(&self, delivered: &Arc<Delivered>, passage: Option<Passage>) -> Self {
        let same = (self.raw.clone(), self.resource.clone());
        let notes = (passage, self.ignored().to_vec());
        Self::new(delivered, same, self.since, notes)
    }

    /// Where it was read, for a kind that may turn out to be wrong only when it is used.
    pub fn passage(&self) -> Option<&Passage> {
        self.notes.as_ref()?.passage.as_ref()
    }

    /// Fields that are set without having an effect, entries of
    /// [`IGNORED`](crate::resource::IGNORED).
    pub fn ignored(&self) -> &[&'static str] {
        self.notes.as_ref().map_or(&[], |notes| &notes.ignored)
    }
}

impl std::ops::Deref for Accepted {
    type Target = Delivered;

    fn deref(&self) -> &Delivered {
        &self.delivered
    }
}

impl Entry {
    /// The refusal that concerns the version in force: its owner's, or any if there is no owner.
    pub fn rejected(&self) -> Option<&Refusal> {
        match &self.accepted {
            Some(accepted) => self.refusals.iter().find(|r| r.origin == accepted.origin),
            None => self.refusals.first(),
        }
    }

    /// Every origin that this entry mentions, perhaps twice.
    pub(super) fn origins(&self) -> impl Iterator<Item = &Origin> {
        let owner = self.accepted.iter().map(|accepted| &accepted.origin);
        owner.chain(self.refusals.iter().map(|refusal| &refusal.origin))
    }

    pub(super) fn owner(&self) -> Option<&Origin> {
        self.accepted.as_ref().map(|accepted| &accepted.origin)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.accepted.is_none() && self.refusals.is_empty()
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        let origin = &refusal.origin;
        let others = self.refusals.iter().filter(|other| other.origin != *origin);
        self.refusals = others.cloned().chain([refusal.clone()]).collect();
    }

    /// Drops what was held against an origin.
    pub(super) fn forgive(&mut self, origin: &Origin) {
        if !self.refusals.is_empty() {
            let refusals = std::mem::take(&mut self.refusals).into_iter();
            self.refusals = refusals
                .filter(|refusal| refusal.origin != *origin)
                .collect();
        }
    }
}
