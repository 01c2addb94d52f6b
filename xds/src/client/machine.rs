//! What the two forms of the protocol have in common: the parts of a client that know no
//! connection. Messages and time go in, messages come out.

use std::collections::VecDeque;
use std::time::Instant;

use crate::proto::google::rpc;
use crate::reject::Rejected;
use crate::source::{Interest, Outcome, Update};
use crate::type_url::ResourceType;

use super::nack;
use super::unwrap::{V2, is_v2, shorten};

/// One form of the protocol.
pub(super) trait Machine: Send {
    type Request: prost::Message + Default + Send + Sync + 'static;
    type Response: prost::Message + Default + Send + 'static;

    /// Takes a change of what is asked for.
    fn interest(&mut self, interest: Interest);

    /// The types of which something is asked for, in the order of their first request.
    fn wanted(&self) -> Vec<ResourceType>;

    /// A new stream: nothing of the last one counts, and all that is wanted is due again.
    /// `other_server`: the versions that were taken mean nothing to this one.
    fn connected(&mut self, other_server: bool);

    /// The type and the nonce of a response.
    fn label(response: &Self::Response) -> (&str, &str);

    /// Takes a response. Not to be called before the outcome of the one before it.
    fn receive(&mut self, response: Self::Response, now: Instant) -> Received;

    /// What became of the update that was delivered last.
    fn outcome(&mut self, outcome: &Outcome) -> Option<Answered>;

    /// The next request, if there is one to be sent.
    fn next(&mut self) -> Option<Outgoing<Self::Request>>;

    /// How many responses are answered without the answer being sent.
    fn backlog(&self) -> usize;

    /// When a resource runs out.
    fn deadline(&self) -> Option<Instant>;

    /// Removals of what has run out.
    fn expire(&mut self, now: Instant) -> Vec<Update>;
}

/// What a response leads to.
#[derive(Debug)]
pub(super) enum Received {
    /// It is to be applied.
    Deliver(Update),
    /// There is nothing to apply: it is answered already.
    Answered(Answered),
    /// Nobody asked, and nobody answers.
    Ignored,
}

/// How a response is answered.
#[derive(Debug, PartialEq)]
pub(super) struct Answered {
    /// `None` for a type that is not known.
    pub(super) kind: Option<ResourceType>,
    /// The version that was taken, or why none was.
    pub(super) result: Result<String, String>,
}

/// A request on its way.
#[derive(Debug, PartialEq)]
pub(super) struct Outgoing<T> {
    pub(super) kind: Option<ResourceType>,
    /// Whether an answer is expected, as it is not to a mere acknowledgement.
    pub(super) asks: bool,
    pub(super) message: T,
}

/// The name that stands for everything.
pub(super) const WILDCARD: &str = "*";

/// The answer to a response that is not sent yet: the nonce it names, and what was wrong.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) nonce: String,
    pub(super) error: Option<rpc::Status>,
}

impl Reply {
    /// The answer to a response of which these resources were refused, and what is told about it.
    pub(super) fn to(
        kind: ResourceType,
        nonce: String,
        version: String,
        total: usize,
        rejected: &[Rejected],
    ) -> (Self, Answered) {
        let error = (!rejected.is_empty()).then(|| nack::some(kind, total, rejected));
        let result = match &error {
            Some(status) => Err(status.message.clone()),
            None => Ok(version),
        };
        let kind = Some(kind);
        (Self { nonce, error }, Answered { kind, result })
    }

    /// The answer to a response that was refused in whole.
    pub(super) fn refusal(
        kind: Option<ResourceType>,
        nonce: String,
        reason: &str,
    ) -> (Self, Answered) {
        let status = nack::whole(kind, reason);
        let result = Err(status.message.clone());
        let error = Some(status);
        (Self { nonce, error }, Answered { kind, result })
    }
}

/// Types about which there is something to send, in the order in which it came up.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<ResourceType>);

impl Queue {
    pub(super) fn push(&mut self, kind: ResourceType) {
        if !self.0.contains(&kind) {
            self.0.push_back(kind);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The first one that is ready.
    pub(super) fn pop(&mut self, ready: impl Fn(ResourceType) -> bool) -> Option<ResourceType> {
        let at = self.0.iter().position(|kind| ready(*kind))?;
        self.0.remove(at)
    }
}

/// Refusals of types that are not known, to be sent. Bounded, as a server can send them faster
/// than it takes their answers.
#[derive(Debug, Default)]
pub(super) struct Strays(VecDeque<(String, Reply)>);

impl Strays {
    const MOST: usize = 8;

    /// Takes a response of a type that the store does not hold. Types of version 2 are answered,
    /// so that an operator sees what is wrong; others are nobody's business.
    pub(super) fn receive(&mut self, type_url: String, nonce: String) -> Received {
        if !is_v2(&type_url) {
            return Received::Ignored;
        }
        let reason = format!("type {:?}{V2}", shorten(&type_url));
        let (reply, answered) = Reply::refusal(None, nonce, &reason);
        if self.0.len() < Self::MOST {
            self.0.push_back((type_url, reply));
        }
        Received::Answered(answered)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn pop(&mut self) -> Option<(String, Reply)> {
        self.0.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A delivered update whose outcome is awaited.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) kind: ResourceType,
    pub(super) nonce: String,
    pub(super) version: String,
    /// How many resources the response had.
    pub(super) total: usize,
    pub(super) entries: Vec<AwaitedEntry>,
    pub(super) removed: Vec<String>,
    /// When it was received.
    pub(super) at: Instant,
}

#[derive(Debug)]
pub(super) struct AwaitedEntry {
    pub(super) name: String,
    pub(super) own_name: String,
    pub(super) version: String,
    pub(super) ttl: Option<std::time::Duration>,
}

impl Awaited {
    /// Those that were taken.
    pub(super) fn accepted<'a>(
        &'a self,
        rejected: &'a [Rejected],
    ) -> impl Iterator<Item = &'a AwaitedEntry> {
        let refused: std::collections::HashSet<&str> =
            rejected.iter().map(|fault| &*fault.name).collect();
        // A name that is not told may be any of them.
        let unnamed = refused.contains("");
        self.entries
            .iter()
            .filter(move |entry| !unnamed && !refused.contains(&*entry.own_name))
    }
}
