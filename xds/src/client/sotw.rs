//! The state-of-the-world form: every request repeats all names, and every response is all there is
//! to them.

use std::collections::BTreeSet;
use std::time::Instant;

use tracing::warn;

use crate::proto::core::Node;
use crate::proto::envoy::service::discovery::v3::DiscoveryRequest;
use crate::proto::{Any, DiscoveryResponse};
use crate::source::{Extent, Interest, Origin, Outcome, Update};
use crate::type_url::ResourceType;

use super::machine::{
    Answered, Awaited, AwaitedEntry, Machine, Outgoing, Queue, Received, Reply, Strays, WILDCARD,
};
use super::ttl::Ttl;
use super::unwrap::{self, Entry};

/// A client of the state-of-the-world form.
#[derive(Debug)]
pub(super) struct Sotw {
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
    /// The last version that was taken.
    version: String,
    /// What the server has sent of it and has not taken back.
    held: BTreeSet<String>,
    ttl: Ttl,
    // Of the stream:
    /// The newest nonce.
    nonce: String,
    /// The names of the last request; `None` before the first one.
    sent: Option<BTreeSet<String>>,
    /// Whether a request has named something, after which an empty list asks for nothing.
    explicit: bool,
    /// Names that were given up and taken again since the last request. The server has to see both.
    gap: BTreeSet<String>,
    refresh: bool,
    reply: Option<Reply>,
}

impl Type {
    fn wanted(&self) -> bool {
        self.all || !self.names.is_empty()
    }

    /// The names to ask for. An empty list at the beginning is the older form of `*`, and the one
    /// that all servers understand.
    fn list(&self) -> BTreeSet<String> {
        let wildcard = self.all && (self.explicit || !self.names.is_empty());
        let names = self.names.iter().filter(|name| !self.gap.contains(*name));
        let wildcard = wildcard.then(|| WILDCARD.to_owned());
        wildcard.into_iter().chain(names.cloned()).collect()
    }

    fn changed(&self) -> bool {
        match &self.sent {
            None => self.wanted(),
            Some(sent) => !self.gap.is_empty() || *sent != self.list(),
        }
    }
}

impl Sotw {
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

    fn node(&mut self) -> Option<Node> {
        let first = !std::mem::replace(&mut self.node_sent, true);
        (first || !self.node_once).then(|| self.node.clone())
    }

    fn update(&self, kind: ResourceType, version: String, extent: Extent) -> Update {
        Update {
            origin: self.origin.clone(),
            kind,
            version,
            extent,
            upserts: Vec::new(),
            listing: None,
            removals: Vec::new(),
        }
    }

    /// The request of a type as things are, if one is due.
    pub(super) fn request(&mut self, kind: ResourceType) -> Option<Outgoing<DiscoveryRequest>> {
        let of = self.of(kind);
        let changed = of.changed();
        let asks = changed || of.refresh;
        if !asks && of.reply.is_none() {
            return None;
        }
        Some(self.build(kind, asks))
    }

    /// The request of a type, due or not.
    pub(super) fn build(&mut self, kind: ResourceType, asks: bool) -> Outgoing<DiscoveryRequest> {
        let node = self.node();
        let of = self.of(kind);
        let list = of.list();
        of.explicit |= !list.is_empty();
        of.sent = Some(list.clone());
        of.refresh = false;
        let error = of.reply.take().and_then(|reply| reply.error);
        let message = DiscoveryRequest {
            version_info: of.version.clone(),
            node,
            resource_names: list.into_iter().collect(),
            type_url: kind.type_url(),
            response_nonce: of.nonce.clone(),
            error_detail: error,
            ..DiscoveryRequest::default()
        };
        if !std::mem::take(&mut of.gap).is_empty() {
            self.queue.push(kind);
        }
        Outgoing {
            kind: Some(kind),
            asks,
            message,
        }
    }

    /// Whether there is something to ask that was not asked before.
    pub(super) fn asks(&self, kind: ResourceType) -> bool {
        let of = &self.types[kind as usize];
        of.changed() || of.refresh
    }

    /// Whether the server has sent something of this type that is still there.
    pub(super) fn has(&self, kind: ResourceType) -> bool {
        !self.types[kind as usize].held.is_empty()
    }

    /// Refuses a response that is none.
    pub(super) fn refuse(&mut self, kind: ResourceType, reason: &str) -> Answered {
        let nonce = self.of(kind).nonce.clone();
        let (reply, answered) = Reply::refusal(Some(kind), nonce, reason);
        self.reply(kind, reply);
        answered
    }

    fn deliver(
        &mut self,
        kind: ResourceType,
        response: DiscoveryResponse,
        entries: Vec<Entry>,
        now: Instant,
    ) -> Received {
        let DiscoveryResponse {
            version_info: version,
            nonce,
            ..
        } = response;
        let total = entries.len();
        let of = self.of(kind);
        // Of these two types a response says what there is; of the others it says something about
        // the resources it names (xDS protocol, "How the client specifies what to return").
        let world = matches!(kind, ResourceType::Listener | ResourceType::Cluster);
        // Late answers to names that nobody wants any more are no fault of the server.
        let (all, names) = (of.all, &of.names);
        let mut entries = entries;
        entries.retain(|entry| all || names.contains(&entry.name));
        let mut upserts: Vec<Any> = Vec::new();
        let mut awaited = Vec::new();
        let mut beats = Vec::new();
        for Entry {
            name,
            own_name,
            version,
            ttl,
            body,
        } in entries
        {
            if let Some(body) = body {
                upserts.push(body);
                awaited.push(AwaitedEntry {
                    name,
                    own_name,
                    version,
                    ttl,
                });
            } else if of.held.contains(&name) {
                of.ttl.set(&name, ttl, now);
                beats.push(name);
            }
        }
        let only_beats = upserts.is_empty() && !beats.is_empty();
        if only_beats || (upserts.is_empty() && !world) {
            of.version.clone_from(&version);
            return Received::Answered(self.answer(kind, nonce, version, total));
        }
        let named: BTreeSet<String> = awaited.iter().map(|entry| &entry.name).cloned().collect();
        let mut removals = Vec::new();
        if world {
            let beats: BTreeSet<String> = beats.iter().cloned().collect();
            let kept = |name: &&String| named.contains(*name) || beats.contains(*name);
            removals.extend(of.held.iter().filter(|name| !kept(name)).cloned());
            for name in &removals {
                of.held.remove(name);
                of.ttl.remove(name);
            }
        }
        of.held.extend(named);
        // A heartbeat says that its resource stays, but does not bring it.
        let extent = if world && beats.is_empty() {
            removals.clear();
            Extent::StateOfTheWorld
        } else {
            Extent::Incremental
        };
        let mut update = self.update(kind, version.clone(), extent);
        update.upserts = upserts;
        update.removals = removals;
        self.awaited = Some(Awaited {
            kind,
            nonce,
            version,
            total,
            entries: awaited,
            removed: Vec::new(),
            at: now,
        });
        Received::Deliver(update)
    }

    fn answer(
        &mut self,
        kind: ResourceType,
        nonce: String,
        version: String,
        total: usize,
    ) -> Answered {
        let (reply, answered) = Reply::to(kind, nonce, version, total, &[]);
        self.reply(kind, reply);
        answered
    }

    fn reply(&mut self, kind: ResourceType, reply: Reply) {
        self.of(kind).reply = Some(reply);
        self.queue.push(kind);
    }
}

impl Machine for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn interest(&mut self, interest: Interest) {
        let kind = interest.kind();
        let of = self.of(kind);
        match interest {
            Interest::All(_) => of.all = true,
            Interest::Subscribe(_, names) => {
                for name in names {
                    let told = of.sent.as_ref().is_some_and(|sent| sent.contains(&name));
                    if of.names.insert(name.clone()) && told {
                        of.gap.insert(name);
                    }
                }
            }
            Interest::Unsubscribe(_, names) => {
                for name in names {
                    of.names.remove(&name);
                    of.gap.remove(&name);
                    if !of.all {
                        of.held.remove(&name);
                        of.ttl.remove(&name);
                    }
                }
            }
            // There is nothing to ask again before it was asked for.
            Interest::Refresh(_, name) => {
                of.refresh |= of.sent.is_some() && (of.all || of.names.contains(&name));
            }
        }
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
            of.nonce.clear();
            of.sent = None;
            of.explicit = false;
            of.gap.clear();
            of.refresh = false;
            of.reply = None;
            if other_server {
                of.version.clear();
            }
        }
        for kind in self.wanted() {
            self.queue.push(kind);
        }
    }

    fn label(response: &DiscoveryResponse) -> (&str, &str) {
        (&response.type_url, &response.nonce)
    }

    fn receive(&mut self, mut response: DiscoveryResponse, now: Instant) -> Received {
        let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
            return self.strays.receive(response.type_url, response.nonce);
        };
        let of = self.of(kind);
        if of.sent.is_none() {
            return Received::Ignored;
        }
        of.nonce.clone_from(&response.nonce);
        let resources = std::mem::take(&mut response.resources);
        match unwrap::sotw(kind, resources) {
            Ok(entries) => self.deliver(kind, response, entries, now),
            Err(reason) => {
                let (reply, answered) = Reply::refusal(Some(kind), response.nonce, &reason);
                self.reply(kind, reply);
                Received::Answered(answered)
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) -> Option<Answered> {
        let awaited = self.awaited.take()?;
        let kind = awaited.kind;
        let of = self.of(kind);
        for entry in awaited.accepted(&outcome.rejected) {
            // Given up meanwhile, perhaps.
            if of.held.contains(&entry.name) {
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

    fn next(&mut self) -> Option<Outgoing<DiscoveryRequest>> {
        if let Some((type_url, reply)) = self.strays.pop() {
            let message = DiscoveryRequest {
                node: self.node(),
                type_url,
                response_nonce: reply.nonce,
                error_detail: reply.error,
                ..DiscoveryRequest::default()
            };
            return Some(Outgoing {
                kind: None,
                asks: false,
                message,
            });
        }
        // While a response of a type is not answered, a request of that type could name neither
        // its nonce (with the old version that would refuse it) nor the one before.
        let busy = self.awaited.as_ref().map(|awaited| awaited.kind);
        while let Some(kind) = self.queue.pop(|kind| Some(kind) != busy) {
            if let Some(request) = self.request(kind) {
                return Some(request);
            }
        }
        None
    }

    fn backlog(&self) -> usize {
        let replies = self.types.iter().filter(|of| of.reply.is_some());
        self.strays.len() + replies.count()
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
                ..self.update(kind, version, Extent::Incremental)
            });
        }
        updates
    }
}

#[cfg(test)]
mod tests;
