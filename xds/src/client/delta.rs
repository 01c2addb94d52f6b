//! The incremental form: requests and responses tell what changes, and both sides remember the rest.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use tracing::warn;

use crate::proto::core::Node;
use crate::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, ResourceError,
};
use crate::source::{Extent, Interest, Origin, Outcome, Update};
use crate::type_url::ResourceType;

use super::machine::{
    Answered, Awaited, AwaitedEntry, Machine, Outgoing, Queue, Received, Reply, Strays, WILDCARD,
};
use super::ttl::Ttl;
use super::unwrap::{self, Entry, shorten};

/// A client of the incremental form.
#[derive(Debug)]
pub(super) struct Delta {
    origin: Origin,
    node: Node,
    /// Whether the first message alone carries the node.
    node_once: bool,
    node_sent: bool,
    types: [Type; ResourceType::ALL.len()],
    /// Types in the order in which they were first asked for.
    order: Vec<ResourceType>,
    queue: Queue,
    strays: Strays,
    awaited: Option<Awaited>,
}

/// What is known of one type.
#[derive(Debug, Default)]
struct Type {
    all: bool,
    names: BTreeSet<String>,
    /// The last version of the whole that was taken; for the eye only.
    version: String,
    /// The versions of the resources that are in use; empty for one that another server sent.
    held: HashMap<String, String>,
    ttl: Ttl,
    // Of the stream:
    asked: bool,
    /// What the server is to be told. A name in both sets was given up and taken again.
    subscribe: BTreeSet<String>,
    unsubscribe: BTreeSet<String>,
    replies: Vec<Reply>,
}

impl Type {
    fn wanted(&self) -> bool {
        self.all || !self.names.is_empty()
    }

    fn wants(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }

    fn subscribe(&mut self, name: String) {
        if self.names.insert(name.clone()) && self.asked {
            self.subscribe.insert(name);
        }
    }

    fn unsubscribe(&mut self, name: String) {
        if !self.names.remove(&name) {
            return;
        }
        if !self.all {
            self.held.remove(&name);
            self.ttl.remove(&name);
        }
        if self.asked && !self.subscribe.remove(&name) {
            self.unsubscribe.insert(name);
        }
    }

    /// The first request on a stream. Without names it is one for everything, in the older form
    /// that all servers understand.
    fn first(&mut self) -> DeltaDiscoveryRequest {
        self.asked = true;
        let wildcard = (self.all && !self.names.is_empty()).then(|| WILDCARD.to_owned());
        DeltaDiscoveryRequest {
            resource_names_subscribe: wildcard
                .into_iter()
                .chain(self.names.iter().cloned())
                .collect(),
            initial_resource_versions: self.held.clone(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// What is new since the last request. A name that is given up and taken again takes two
    /// requests, as one does not tell what comes first.
    fn changes(&mut self) -> Option<DeltaDiscoveryRequest> {
        let unsubscribe = std::mem::take(&mut self.unsubscribe);
        let subscribe = if unsubscribe.is_disjoint(&self.subscribe) {
            std::mem::take(&mut self.subscribe)
        } else {
            BTreeSet::new()
        };
        let some = !subscribe.is_empty() || !unsubscribe.is_empty();
        some.then(|| DeltaDiscoveryRequest {
            resource_names_subscribe: subscribe.into_iter().collect(),
            resource_names_unsubscribe: unsubscribe.into_iter().collect(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// The next request, and whether it asks for something.
    fn request(&mut self) -> Option<(DeltaDiscoveryRequest, bool)> {
        if !self.asked {
            return self.wanted().then(|| (self.first(), true));
        }
        if !self.replies.is_empty() {
            let Reply { nonce, error } = self.replies.remove(0);
            let request = DeltaDiscoveryRequest {
                response_nonce: nonce,
                error_detail: error,
                ..DeltaDiscoveryRequest::default()
            };
            return Some((request, false));
        }
        let request = self.changes()?;
        let asks = !request.resource_names_subscribe.is_empty();
        Some((request, asks))
    }
}

impl Delta {
    pub(super) fn new(origin: Origin, node: Node, node_once: bool) -> Self {
        Self {
            origin,
            node,
            node_once,
            node_sent: false,
            types: Default::default(),
            order: Vec::new(),
            queue: Queue::default(),
            strays: Strays::default(),
            awaited: None,
        }
    }

    fn of(&mut self, kind: ResourceType) -> &mut Type {
        &mut self.types[kind as usize]
    }

    fn send(
        &mut self,
        kind: Option<ResourceType>,
        asks: bool,
        type_url: String,
        request: DeltaDiscoveryRequest,
    ) -> Outgoing<DeltaDiscoveryRequest> {
        let first = !std::mem::replace(&mut self.node_sent, true);
        let node = (first || !self.node_once).then(|| self.node.clone());
        let message = DeltaDiscoveryRequest {
            node,
            type_url,
            ..request
        };
        Outgoing {
            kind,
            asks,
            message,
        }
    }

    fn update(&self, kind: ResourceType, version: String) -> Update {
        Update {
            origin: self.origin.clone(),
            kind,
            version,
            extent: Extent::Incremental,
            upserts: Vec::new(),
            listing: None,
            removals: Vec::new(),
        }
    }

    fn deliver(
        &mut self,
        kind: ResourceType,
        nonce: String,
        version: String,
        (entries, mut removed): (Vec<Entry>, Vec<String>),
        now: Instant,
    ) -> Received {
        let total = entries.len();
        let mut upserts = Vec::new();
        let mut awaited = Vec::new();
        let of = self.of(kind);
        for entry in entries {
            // Late answers to names that nobody wants any more are no fault of the server.
            if !of.wants(&entry.name) {
                continue;
            }
            match entry.body {
                Some(body) => {
                    upserts.push(body);
                    awaited.push(AwaitedEntry {
                        name: entry.name,
                        own_name: entry.own_name,
                        version: entry.version,
                        ttl: entry.ttl,
                    });
                }
                None => {
                    let held = of.held.get(&entry.name);
                    if held.is_some_and(|held| entry.version.is_empty() || *held == entry.version) {
                        of.ttl.set(&entry.name, entry.ttl, now);
                    }
                }
            }
        }
        removed.retain(|name| of.wants(name));
        // That there is nothing at all is news to whoever waits for everything.
        if upserts.is_empty() && removed.is_empty() && !(of.all && total == 0) {
            of.version.clone_from(&version);
            let (reply, answered) = Reply::to(kind, nonce, version, total, &[]);
            self.reply(kind, reply);
            return Received::Answered(answered);
        }
        let mut update = self.update(kind, version.clone());
        update.upserts = upserts;
        update.removals.clone_from(&removed);
        self.awaited = Some(Awaited {
            kind,
            nonce,
            version,
            total,
            entries: awaited,
            removed,
            at: now,
        });
        Received::Deliver(update)
    }

    fn reply(&mut self, kind: ResourceType, reply: Reply) {
        self.of(kind).replies.push(reply);
        self.queue.push(kind);
    }
}

impl Machine for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn interest(&mut self, interest: Interest) {
        let kind = match interest {
            // Whoever is subscribed hears of every change.
            Interest::Refresh(..) => return,
            Interest::All(kind) => {
                let of = self.of(kind);
                if !std::mem::replace(&mut of.all, true) && of.asked {
                    of.subscribe.insert(WILDCARD.to_owned());
                }
                kind
            }
            Interest::Subscribe(kind, names) => {
                let of = self.of(kind);
                names.into_iter().for_each(|name| of.subscribe(name));
                kind
            }
            Interest::Unsubscribe(kind, names) => {
                let of = self.of(kind);
                names.into_iter().for_each(|name| of.unsubscribe(name));
                kind
            }
        };
        if self.of(kind).wanted() && !self.order.contains(&kind) {
            self.order.push(kind);
        }
        self.queue.push(kind);
    }

    fn wanted(&self) -> Vec<ResourceType> {
        let wanted = |kind: &ResourceType| self.types[*kind as usize].wanted();
        self.order.iter().copied().filter(wanted).collect()
    }

    fn connected(&mut self, other_server: bool) {
        self.node_sent = false;
        self.awaited = None;
        self.strays.clear();
        self.queue.clear();
        for of in &mut self.types {
            of.asked = false;
            of.subscribe.clear();
            of.unsubscribe.clear();
            of.replies.clear();
            if other_server {
                // It tells which of the names it does not have, and sends the others: what it
                // calls them by chance as the other did need not be the same.
                of.held.values_mut().for_each(String::clear);
            }
        }
        for kind in self.wanted() {
            self.queue.push(kind);
        }
    }

    fn label(response: &DeltaDiscoveryResponse) -> (&str, &str) {
        (&response.type_url, &response.nonce)
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse, now: Instant) -> Received {
        let DeltaDiscoveryResponse {
            system_version_info: version,
            resources,
            type_url,
            mut removed_resources,
            removed_resource_names,
            nonce,
            resource_errors,
            ..
        } = response;
        let Some(kind) = ResourceType::from_type_url(&type_url) else {
            return self.strays.receive(type_url, nonce);
        };
        if !self.of(kind).asked {
            return Received::Ignored;
        }
        removed_resources.extend(removed_resource_names.into_iter().map(|name| name.name));
        report(kind, &resource_errors);
        match unwrap::delta(kind, resources, &removed_resources) {
            Ok(entries) => self.deliver(kind, nonce, version, (entries, removed_resources), now),
            Err(reason) => {
                let (reply, answered) = Reply::refusal(Some(kind), nonce, &reason);
                self.reply(kind, reply);
                Received::Answered(answered)
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) -> Option<Answered> {
        let awaited = self.awaited.take()?;
        let kind = awaited.kind;
        let of = self.of(kind);
        for name in &awaited.removed {
            of.held.remove(name);
            of.ttl.remove(name);
        }
        for entry in awaited.accepted(&outcome.rejected) {
            // Given up meanwhile, perhaps.
            if of.wants(&entry.name) {
                of.held.insert(entry.name.clone(), entry.version.clone());
                of.ttl.set(&entry.name, entry.ttl, awaited.at);
            }
        }
        if outcome.rejected.is_empty() {
            of.version.clone_from(&awaited.version);
        }
        let Awaited {
            nonce,
            version,
            total,
            ..
        } = awaited;
        let (reply, answered) = Reply::to(kind, nonce, version, total, &outcome.rejected);
        self.reply(kind, reply);
        Some(answered)
    }

    fn next(&mut self) -> Option<Outgoing<DeltaDiscoveryRequest>> {
        if let Some((type_url, Reply { nonce, error })) = self.strays.pop() {
            let request = DeltaDiscoveryRequest {
                response_nonce: nonce,
                error_detail: error,
                ..DeltaDiscoveryRequest::default()
            };
            return Some(self.send(None, false, type_url, request));
        }
        while let Some(kind) = self.queue.pop(|_| true) {
            if let Some((request, asks)) = self.of(kind).request() {
                // There may be more to tell of it.
                self.queue.push(kind);
                return Some(self.send(Some(kind), asks, kind.type_url(), request));
            }
        }
        None
    }

    fn backlog(&self) -> usize {
        let replies = self.types.iter().map(|of| of.replies.len());
        self.strays.len() + replies.sum::<usize>()
    }

    fn deadline(&self) -> Option<Instant> {
        self.types.iter().filter_map(|of| of.ttl.deadline()).min()
    }

    fn expire(&mut self, now: Instant) -> Vec<Update> {
        let mut updates = Vec::new();
        for kind in ResourceType::ALL {
            let of = self.of(kind);
            let removals = of.ttl.expired(now);
            if removals.is_empty() {
                continue;
            }
            for name in &removals {
                of.held.remove(name);
            }
            warn!(r#type = %kind, names = removals.len(), "resources ran out");
            let version = of.version.clone();
            updates.push(Update {
                removals,
                ..self.update(kind, version)
            });
        }
        updates
    }
}

/// What a server says it cannot give is for an operator to see; the names stay asked for.
fn report(kind: ResourceType, errors: &[ResourceError]) {
    if let Some(first) = errors.first() {
        let name = first.resource_name.as_ref().map_or("", |name| &name.name);
        let reason = first.error_detail.as_ref();
        let reason = reason.map_or("", |status| &status.message);
        let (name, reason) = (shorten(name), shorten(reason));
        warn!(r#type = %kind, errors = errors.len(), name, reason, "the server reports errors");
    }
}

#[cfg(test)]
mod tests;
