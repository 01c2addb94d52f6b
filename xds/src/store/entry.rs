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
    pub refusals: Vec<Refusal>,
    /// What whoever uses the resource has noted of the version in force ([`super::ResourceStore::mark`]);
    /// 0 is nothing, and what a new version begins with.
    pub mark: u64,
}

/// An accepted resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    pub origin: Origin,
    /// As the source counts; the newest one with this content.
    pub version: Arc<str>,
    /// As it was delivered, for the config dump.
    pub raw: Raw,
    /// Where it was read, for a kind that may turn out to be wrong only when it is used.
    pub passage: Option<Box<Passage>>,
    pub resource: Resource,
    /// Fields that are set without having an effect, entries of
    /// [`IGNORED`](crate::resource::IGNORED).
    pub ignored: Box<[&'static str]>,
    /// When this content was accepted.
    pub since: SystemTime,
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
        self.forgive(&refusal.origin);
        self.refusals.push(refusal);
    }

    /// Drops what was held against an origin.
    pub(super) fn forgive(&mut self, origin: &Origin) {
        self.refusals.retain(|refusal| &refusal.origin != origin);
    }
}
