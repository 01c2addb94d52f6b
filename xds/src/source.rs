//! What every producer of resources implements, and what it hands over.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::proto::Any;
use crate::reject::Rejected;
use crate::resource::WatchedFiles;
use crate::text::Listing;
use crate::type_url::ResourceType;

/// Who a resource came from. The owner of a name is the only origin that may change it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// `static_resources` of the bootstrap file.
    Static,
    /// A watched file, by path.
    File(Arc<str>),
    /// The Backend.AI Coordinator, by event, listing or the REST shim.
    Coordinator,
    /// The system's resolver, by the load assignment that holds what it said.
    Dns(Arc<str>),
    /// An xDS management server, by the name of its configuration source.
    Xds(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => f.write_str("static"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Coordinator => f.write_str("coordinator"),
            Self::Dns(names) => write!(f, "dns:{names}"),
            Self::Xds(server) => write!(f, "xds:{server}"),
        }
    }
}

/// What the upserts of an [`Update`] say about the resources they do not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Only what is named changes.
    Incremental,
    /// Everything of this type from this origin; what is missing is removed.
    StateOfTheWorld,
}

/// A change of one type from one origin.
#[derive(Clone, Debug)]
pub struct Update {
    pub origin: Origin,
    pub kind: ResourceType,
    /// As the source counts; shown in the config dump. Not compared.
    pub version: String,
    pub extent: Extent,
    pub upserts: Vec<Any>,
    /// Where the upserts were read, in the same order, if that was a text.
    pub listing: Option<Listing>,
    pub removals: Vec<String>,
}

/// Changes that take effect together: one snapshot shows all of them or none.
#[derive(Debug)]
pub struct Batch {
    pub updates: Vec<Update>,
    pub on_rejection: OnRejection,
    /// Files that resources name and that have new content: who names them is used anew.
    pub touched: Vec<WatchedFiles>,
    /// Answered once the outcome is live (or refused).
    pub answer: Option<oneshot::Sender<Outcome>>,
}

/// What one bad resource does to its neighbours in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRejection {
    /// The good ones are applied (gRFC A46; what xDS and files want).
    ApplyOthers,
    /// Nothing is applied (what a REST push wants).
    ApplyNothing,
}

impl Batch {
    /// A batch that nobody waits for.
    pub fn new(updates: Vec<Update>) -> Self {
        Self {
            updates,
            on_rejection: OnRejection::ApplyOthers,
            touched: Vec::new(),
            answer: None,
        }
    }
}

/// What became of a [`Batch`].
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Number of the snapshot that shows the batch; unchanged when nothing changed.
    pub generation: u64,
    /// Whether this batch led to a new snapshot.
    pub changed: bool,
    pub rejected: Vec<Rejected>,
}

/// Where a source puts its batches. Bounded: a source waits when control is behind.
pub type Batches = mpsc::Sender<Batch>;

/// What is asked of a source that delivers what somebody wants and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Everything of a type (a wildcard subscription).
    All(ResourceType),
    /// These names as well as those asked for before.
    Subscribe(ResourceType, Vec<String>),
    /// Nobody refers to these names any more.
    Unsubscribe(ResourceType, Vec<String>),
    /// The resource that refers to this name has changed, and would like to hear again what the
    /// name stands for.
    Refresh(ResourceType, String),
}

impl Interest {
    /// The type that it is about.
    pub fn kind(&self) -> ResourceType {
        match self {
            Self::All(kind)
            | Self::Subscribe(kind, _)
            | Self::Unsubscribe(kind, _)
            | Self::Refresh(kind, _) => *kind,
        }
    }
}

/// Where interest in the resources of a source is put. Never full: there is one entry for each
/// change of what accepted resources refer to.
pub type Interests = mpsc::UnboundedSender<Interest>;

/// A producer of resources.
pub trait Source: Send {
    fn origin(&self) -> Origin;

    /// Produces batches until the receiver is gone. A source that loses its peer keeps trying;
    /// what it delivered before stays in force meanwhile.
    fn run(self: Box<Self>, batches: Batches) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}
