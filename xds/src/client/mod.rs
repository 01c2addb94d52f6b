//! Management servers as a source of resources.
//!
//! | module | holds |
//! |---|---|
//! | [`server`] | how a management server is reached |
//! | [`status`] | what an operator may know of the connection |
//! | `sotw`, `delta` | the two forms of the protocol, without a connection; `machine` is what they share |
//! | `unwrap` | resources out of what is around them; what spoils a whole response |
//! | `nack` | what a server is told about a response that is refused |
//! | `ttl` | resources that run out |
//! | `choice`, `backoff` | which of several servers, and when |
//! | `stream` | the gRPC side |
//! | `rest` | the REST side, which polls with the state-of-the-world machine |
//! | `run`, `session` | join them with control |
//! | [`load_report`] | what goes the other way: how much the endpoints have to do |

mod backoff;
mod choice;
mod delta;
pub mod load_report;
mod machine;
mod nack;
mod rest;
mod run;
pub mod server;
mod session;
mod sotw;
pub mod status;
mod stream;
#[cfg(test)]
mod testing;
mod ttl;
mod unwrap;

pub use server::{Connect, Connecting, Io, Server};
pub use status::{Status, TypeStatus};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::error;

use crate::proto::core::Node;
use crate::resource::api_source::ApiProtocol;
use crate::source::{Batches, Interest, Interests, Origin, Source};
use crate::type_url::ResourceType;

/// Before the first attempt to connect again.
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// Default of [`Config::backoff_max`]. Envoy goes up to 30 s, which is long for users whose session
/// began while the management server was away.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The largest message taken when the server's configuration does not say, in bytes.
pub const MAX_MESSAGE: usize = 64 << 20;

/// The longest time between two looks whether a server further up in the list is back.
const PROBE_MAX: Duration = Duration::from_secs(60);

/// What a client is made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of all it delivers.
    pub origin: Origin,
    /// Who asks: sent as it is.
    pub node: Node,
    /// Whether only the first message of a stream carries the node.
    pub node_on_first_message_only: bool,
    pub protocol: ApiProtocol,
    pub scope: Scope,
    /// At least one, in the order in which they are tried.
    pub servers: Vec<Server>,
    pub backoff_max: Duration,
}

/// Which types a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them over one stream (the Aggregated Discovery Service).
    Aggregated,
    /// One, over the service of its own.
    Only(ResourceType),
}

/// What every client can do, told to servers in the node (`client_features`).
const FEATURES: [&str; 2] = [
    "xds.config.supports-resource-ttl",
    "xds.config.supports-resource-in-sotw",
];

/// A source that asks management servers for what is put into the [`Interests`], and for nothing
/// before. It keeps what it is asked for over any number of connections.
#[derive(Debug)]
pub struct Client {
    config: Config,
    interests: mpsc::UnboundedReceiver<Interest>,
    status: Arc<Status>,
}

/// Makes a client. Nothing is connected before it runs and something is asked of it.
pub fn client(mut config: Config) -> (Client, Interests, Arc<Status>) {
    let features = &mut config.node.client_features;
    for feature in FEATURES {
        if !features.iter().any(|known| known == feature) {
            features.push(feature.to_owned());
        }
    }
    let (sender, interests) = mpsc::unbounded_channel();
    let status = Arc::new(Status::default());
    let client = Client {
        config,
        interests,
        status: status.clone(),
    };
    (client, sender, status)
}

impl Client {
    async fn follow(self, batches: Batches) {
        let Self {
            config,
            interests,
            status,
        } = self;
        let incremental = config.protocol == ApiProtocol::Incremental;
        let Some(path) = stream::path(config.scope, incremental) else {
            error!(origin = %config.origin, "no such service in the state-of-the-world form");
            return batches.closed().await;
        };
        let (origin, node) = (config.origin.clone(), config.node.clone());
        let once = config.node_on_first_message_only;
        // Either way control is gone afterwards.
        let _gone = match config.protocol {
            ApiProtocol::StateOfTheWorld => {
                let machine = sotw::Sotw::new(origin, node, once);
                let run = run::Run::new(machine, config, status, interests, batches);
                run.stream(path).await
            }
            ApiProtocol::Incremental => {
                let machine = delta::Delta::new(origin, node, once);
                let run = run::Run::new(machine, config, status, interests, batches);
                run.stream(path).await
            }
            ApiProtocol::Rest {
                refresh_delay,
                request_timeout,
            } => {
                // Each poll stands for itself.
                let machine = sotw::Sotw::new(origin, node, false);
                let run = run::Run::new(machine, config, status, interests, batches);
                run.poll(refresh_delay, request_timeout).await
            }
        };
    }
}

impl Source for Client {
    fn origin(&self) -> Origin {
        self.config.origin.clone()
    }

    fn run(self: Box<Self>, batches: Batches) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.follow(batches))
    }
}
