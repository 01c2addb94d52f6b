//! The sources that the process starts with, and waiting for their first word.

use std::time::{Duration, Instant};

use causeway_xds::ResourceType;
use causeway_xds::source::{Origin, Source};
use tracing::info;

use super::Control;
use super::pipeline::Roots;
use super::subscriptions::ServerKey;

/// A source of everything of a type.
pub struct Root {
    pub kind: ResourceType,
    pub from: RootSource,
    /// How long the start waits for it; zero waits for ever.
    pub initial_fetch_timeout: Duration,
}

pub enum RootSource {
    /// One that runs from the start.
    Source(Box<dyn Source>),
    /// Management servers, and the names they are asked for; none asks for all.
    Server(ServerKey, Vec<String>),
}

/// A root that has not spoken yet.
pub(super) struct Awaited {
    pub(super) origin: Origin,
    pub(super) kind: ResourceType,
    pub(super) timeout: Duration,
    /// From the moment it is asked on; a timeout of zero has none.
    pub(super) deadline: Option<Instant>,
}

impl Control {
    /// Asks the roots whose turn it is. Management servers are asked for listeners only once the
    /// first clusters are in use, so that nothing listens before it can be served.
    pub(super) fn ask_roots(&mut self) {
        let waits =
            self.awaits(ResourceType::Cluster) || self.pipeline.waiting(ResourceType::Cluster) > 0;
        let turn =
            |root: &mut Root| root.kind != ResourceType::Listener || root.is_local() || !waits;
        let due: Vec<Root> = self.roots.extract_if(.., turn).collect();
        for root in due {
            for awaited in self.awaited.iter_mut().filter(|a| a.kind == root.kind) {
                let timed = !awaited.timeout.is_zero();
                awaited.deadline = timed.then(|| Instant::now() + awaited.timeout);
            }
            match root.from {
                RootSource::Source(source) => {
                    info!(origin = %source.origin(), "source started");
                    tokio::spawn(source.run(self.sender.clone()));
                }
                RootSource::Server(server, names) => self.sources.ask(&server, root.kind, &names),
            }
        }
    }

    pub(super) fn awaits(&self, kind: ResourceType) -> bool {
        self.awaited.iter().any(|awaited| awaited.kind == kind)
    }

    pub(super) fn note_roots(&mut self) {
        let all = self.awaited.is_empty();
        let local = self.awaited.iter().all(|awaited| {
            awaited.kind == ResourceType::Listener && matches!(awaited.origin, Origin::Xds(_))
        });
        self.pipeline.set_roots(Roots {
            clusters: all || local || !self.gated,
            all: all || !self.gated,
        });
    }
}

impl Root {
    pub(super) fn origin(&self) -> Origin {
        match &self.from {
            RootSource::Source(source) => source.origin(),
            RootSource::Server(server, _) => server.origin(),
        }
    }

    /// Whether it is there at once, and asking it early does no harm.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.from, RootSource::Source(_))
    }
}
