//! An Aggregated Discovery Service: what a management server is, in its smallest form.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;

use causeway_xds::ResourceType;
use causeway_xds::proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use causeway_xds::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::subscription::{Resources, Subscription};

/// What all clients are told. Versions count up.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub version: u64,
    pub resources: BTreeMap<ResourceType, Resources>,
}

/// What clients say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Connected { node: String, incremental: bool },
    Accepted(ResourceType),
    Refused { kind: ResourceType, why: String },
    Gone,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { node, incremental } => {
                let form = if *incremental {
                    "incremental"
                } else {
                    "state of the world"
                };
                write!(f, "{node} has connected ({form})")
            }
            Self::Accepted(kind) => write!(f, "accepted: {kind}"),
            Self::Refused { kind, why } => write!(f, "refused: {kind}: {why}"),
            Self::Gone => f.write_str("the proxy has gone"),
        }
    }
}

/// Clusters before endpoints, listeners before routes: who is sent parents first asks for their
/// children, and nothing is named before it is there.
const ORDER: [ResourceType; 6] = [
    ResourceType::Secret,
    ResourceType::Cluster,
    ResourceType::LoadAssignment,
    ResourceType::FilterConfig,
    ResourceType::Listener,
    ResourceType::RouteConfiguration,
];

/// A server that listens. It ends when this is dropped.
#[derive(Debug)]
pub struct ManagementServer {
    pub address: SocketAddr,
    world: watch::Sender<World>,
    serving: AbortHandle,
}

impl ManagementServer {
    /// Listens on loopback, and reports what clients say to `said`. Port 0 lets the system choose.
    ///
    /// # Errors
    /// The port is not free.
    pub async fn start(port: u16, said: mpsc::UnboundedSender<Said>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let (world, seen) = watch::channel(World::default());
        let service = AggregatedDiscoveryServiceServer::new(Service { seen, said });
        let serving = tokio::spawn(async move {
            let server = Server::builder().add_service(service);
            // It ends only with its task.
            let _ = server
                .serve_with_incoming(TcpIncoming::from(listener))
                .await;
        });
        Ok(Self {
            address,
            world,
            serving: serving.abort_handle(),
        })
    }

    /// From now on all clients are told this.
    pub fn tell(&self, change: impl FnOnce(&mut World)) {
        self.world.send_modify(change);
    }
}

impl Drop for ManagementServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Service {
    seen: watch::Receiver<World>,
    said: mpsc::UnboundedSender<Said>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.answer(request.into_inner())))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.answer(request.into_inner())))
    }
}

impl Service {
    /// The responses of one stream: something to send is looked for after each request and after
    /// each change, one response at a time.
    fn answer<R: Form>(&self, requests: Streaming<R>) -> Answers<R::Response> {
        let client = Client {
            requests,
            seen: self.seen.clone(),
            said: self.said.clone(),
            subscriptions: BTreeMap::new(),
            nonce: 0,
        };
        Box::pin(stream::unfold(client, |mut client| async move {
            let response = client.next().await?;
            Some((response, client))
        }))
    }
}

/// One stream.
struct Client<R> {
    requests: Streaming<R>,
    seen: watch::Receiver<World>,
    said: mpsc::UnboundedSender<Said>,
    subscriptions: BTreeMap<ResourceType, Subscription>,
    nonce: u64,
}

impl<R: Form> Client<R> {
    async fn next(&mut self) -> Option<Result<R::Response, Status>> {
        loop {
            let world = self.seen.borrow_and_update().clone();
            let due = ORDER.iter().find_map(|kind| {
                let subscription = self.subscriptions.get_mut(kind)?;
                let all = world.resources.get(kind).cloned().unwrap_or_default();
                let response = R::next(subscription, &all, world.version)?;
                Some((*kind, response))
            });
            if let Some((kind, response)) = due {
                self.nonce += 1;
                let (url, nonce) = (kind.type_url(), self.nonce.to_string());
                return Some(Ok(R::addressed(response, url, nonce)));
            }
            tokio::select! {
                changed = self.seen.changed() => changed.ok()?,
                request = self.requests.next() => match request {
                    Some(Ok(request)) => self.take(&request),
                    // Closed by the client, or broken: it will come back.
                    Some(Err(_)) | None => {
                        self.say(Said::Gone);
                        return None;
                    }
                },
            }
        }
    }

    fn take(&mut self, request: &R) {
        let said = request.said();
        if self.subscriptions.is_empty() {
            self.say(Said::Connected {
                node: said.node,
                incremental: R::INCREMENTAL,
            });
        }
        // A type that is not served here is not answered for, as nothing of it exists.
        let Some(kind) = ResourceType::from_type_url(said.type_url) else {
            return;
        };
        request.ask(self.subscriptions.entry(kind).or_default());
        if let Some(why) = said.refused {
            self.say(Said::Refused { kind, why });
        } else if !said.nonce.is_empty() {
            self.say(Said::Accepted(kind));
        }
    }

    /// Nobody has to listen.
    fn say(&self, what: Said) {
        let _ = self.said.send(what);
    }
}

/// What both forms of the protocol have in common.
struct Heard<'r> {
    node: String,
    type_url: &'r str,
    nonce: &'r str,
    refused: Option<String>,
}

/// A form of the protocol, told by its requests.
trait Form: Send + 'static {
    type Response: Send;
    const INCREMENTAL: bool;
    fn said(&self) -> Heard<'_>;
    fn ask(&self, subscription: &mut Subscription);
    fn next(one: &mut Subscription, all: &Resources, version: u64) -> Option<Self::Response>;
    fn addressed(response: Self::Response, type_url: String, nonce: String) -> Self::Response;
}

macro_rules! form {
    ($request:ty, $response:ty, $incremental:literal, $ask:ident, $next:ident) => {
        impl Form for $request {
            type Response = $response;
            const INCREMENTAL: bool = $incremental;

            fn said(&self) -> Heard<'_> {
                Heard {
                    node: self.node.as_ref().map(|n| n.id.clone()).unwrap_or_default(),
                    type_url: &self.type_url,
                    nonce: &self.response_nonce,
                    refused: self.error_detail.as_ref().map(|e| e.message.clone()),
                }
            }

            fn ask(&self, subscription: &mut Subscription) {
                subscription.$ask(self);
            }

            fn next(one: &mut Subscription, all: &Resources, version: u64) -> Option<$response> {
                one.$next(all, version)
            }

            fn addressed(response: $response, type_url: String, nonce: String) -> $response {
                Self::Response {
                    type_url,
                    nonce,
                    ..response
                }
            }
        }
    };
}

form!(DiscoveryRequest, DiscoveryResponse, false, ask, next);
form!(
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    true,
    ask_changes,
    next_changes
);
