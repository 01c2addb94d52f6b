//! A management server in the process of the test, over connections in memory. The test plays the
//! server: it sees each stream and says what is sent.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use causeway_xds::client::{Connect, Connecting, Io, Server};
use causeway_xds::proto::DiscoveryResponse;
use causeway_xds::proto::envoy::service::discovery::v3 as discovery;
use causeway_xds::proto::envoy::service::endpoint::v3::endpoint_discovery_service_server as eds;
use causeway_xds::resource::api_source::Metadata;
use discovery::aggregated_discovery_service_server as ads;
use discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, poll_fn};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// Large enough for what is tested, small enough that a flood has to wait.
const BUFFER: usize = 64 << 10;

/// The test's side of a server.
pub struct Double {
    pub server: Server,
    pub dialer: Arc<Dialer>,
    sotw: mpsc::UnboundedReceiver<Call<DiscoveryRequest, DiscoveryResponse>>,
    delta: mpsc::UnboundedReceiver<Call<DeltaDiscoveryRequest, DeltaDiscoveryResponse>>,
    endpoints: mpsc::UnboundedReceiver<Call<DeltaDiscoveryRequest, DeltaDiscoveryResponse>>,
}

/// One stream.
pub struct Call<Q, R> {
    pub metadata: MetadataMap,
    pub requests: Streaming<Q>,
    /// What is sent; the stream ends when this is dropped.
    pub responses: mpsc::Sender<Result<R, Status>>,
}

/// Connects, unless the server is said to be down.
#[derive(Debug)]
pub struct Dialer {
    pub up: AtomicBool,
    /// Connections are taken, and nothing ever comes from them.
    pub dead: AtomicBool,
    /// Those.
    kept: Mutex<Vec<DuplexStream>>,
    /// Connections that were asked for.
    pub dialed: AtomicUsize,
    connections: mpsc::UnboundedSender<io::Result<DuplexStream>>,
}

impl Connect for Dialer {
    fn connect(&self) -> Connecting {
        self.dialed.fetch_add(1, SeqCst);
        let connection = if self.up.load(SeqCst) {
            let (near, far) = tokio::io::duplex(BUFFER);
            if self.dead.load(SeqCst) {
                self.kept.lock().unwrap().push(far);
            } else {
                self.connections.send(Ok(far)).unwrap();
            }
            Ok(Box::new(near) as Box<dyn Io>)
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        };
        Box::pin(std::future::ready(connection))
    }
}

impl Double {
    pub fn start(name: &str) -> Self {
        let (connections, mut incoming) = mpsc::unbounded_channel();
        let (sotw_calls, sotw) = mpsc::unbounded_channel();
        let (delta_calls, delta) = mpsc::unbounded_channel();
        let (endpoint_calls, endpoints) = mpsc::unbounded_channel();
        let service = Service {
            sotw: sotw_calls,
            delta: delta_calls,
            endpoints: endpoint_calls,
        };
        let one = eds::EndpointDiscoveryServiceServer::new(service.clone());
        let all = ads::AggregatedDiscoveryServiceServer::new(service)
            .max_encoding_message_size(usize::MAX);
        let incoming = poll_fn(move |cx| incoming.poll_recv(cx));
        let router = tonic::transport::Server::builder()
            .add_service(all)
            .add_service(one);
        tokio::spawn(router.serve_with_incoming(incoming));
        let dialer = Arc::new(Dialer {
            up: AtomicBool::new(true),
            dead: AtomicBool::new(false),
            kept: Mutex::default(),
            dialed: AtomicUsize::new(0),
            connections,
        });
        let server = Server {
            name: name.into(),
            connect: dialer.clone(),
            authority: "xds.test".to_owned(),
            secure: false,
            metadata: Metadata::default(),
            max_message: 1 << 20,
            keepalive: None,
        };
        Self {
            server,
            dialer,
            sotw,
            delta,
            endpoints,
        }
    }

    pub async fn sotw(&mut self) -> Call<DiscoveryRequest, DiscoveryResponse> {
        self.sotw.recv().await.unwrap()
    }

    pub async fn delta(&mut self) -> Call<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
        self.delta.recv().await.unwrap()
    }

    /// A stream of the service for endpoints alone.
    pub async fn endpoints(&mut self) -> Call<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
        self.endpoints.recv().await.unwrap()
    }
}

impl<Q, R> Call<Q, R> {
    pub async fn next(&mut self) -> Q {
        self.requests.next().await.unwrap().unwrap()
    }

    pub async fn send(&self, response: R) {
        self.responses.send(Ok(response)).await.unwrap();
    }
}

#[derive(Clone)]
struct Service {
    sotw: mpsc::UnboundedSender<Call<DiscoveryRequest, DiscoveryResponse>>,
    delta: mpsc::UnboundedSender<Call<DeltaDiscoveryRequest, DeltaDiscoveryResponse>>,
    endpoints: mpsc::UnboundedSender<Call<DeltaDiscoveryRequest, DeltaDiscoveryResponse>>,
}

type Answer<R> = Result<Response<BoxStream<'static, Result<R, Status>>>, Status>;

fn answer<Q, R: Send + 'static>(
    request: Request<Streaming<Q>>,
    calls: &mpsc::UnboundedSender<Call<Q, R>>,
) -> Answer<R> {
    let (responses, mut sent) = mpsc::channel(1);
    let metadata = request.metadata().clone();
    let requests = request.into_inner();
    let call = Call {
        metadata,
        requests,
        responses,
    };
    let gone = || Status::unavailable("the test is over");
    calls.send(call).map_err(|_| gone())?;
    Ok(Response::new(poll_fn(move |cx| sent.poll_recv(cx)).boxed()))
}

#[tonic::async_trait]
impl ads::AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream =
        BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Answer<DiscoveryResponse> {
        answer(request, &self.sotw)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Answer<DeltaDiscoveryResponse> {
        answer(request, &self.delta)
    }
}

#[tonic::async_trait]
impl eds::EndpointDiscoveryService for Service {
    type StreamEndpointsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaEndpointsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_endpoints(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Answer<DiscoveryResponse> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn delta_endpoints(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Answer<DeltaDiscoveryResponse> {
        answer(request, &self.endpoints)
    }

    async fn fetch_endpoints(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}
