//! A stream to a management server, over gRPC.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{future, io};

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryFutureExt as _};
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataKey, BinaryMetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::server::{Connect, Io, Server};
use super::unwrap::shorten;
use crate::type_url::ResourceType;

use super::Scope;

/// In front of what the library says of itself.
const USER_AGENT: &str = concat!("causeway/", env!("CARGO_PKG_VERSION"));

/// A connection to a server failed, or a stream on it ended.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Failure(pub(super) String);

/// Responses as they come. Nothing is read ahead of what the buffers of the connection hold, so
/// that a server which sends more than is taken has to wait.
pub(super) type Inbound<T> = BoxStream<'static, Result<T, Failure>>;

/// Connects to a server.
///
/// # Errors
/// When it cannot be reached, or what is to be sent to it cannot be sent.
pub(super) async fn connect(server: &Server) -> Result<Channel, Failure> {
    let scheme = if server.secure { "https" } else { "http" };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(server.authority.as_str())
        .path_and_query("/")
        .build()
        .map_err(|error| Failure(format!("authority {:?}: {error}", server.authority)))?;
    let mut endpoint = Endpoint::from(uri)
        .user_agent(USER_AGENT)
        .map_err(|error| Failure(chain(&error)))?;
    if let Some(keepalive) = server.keepalive {
        // A server that waits for a change is idle in the sense of HTTP/2 only without a stream.
        endpoint = endpoint
            .http2_keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout)
            .keep_alive_while_idle(true);
    }
    let connector = Connector(Some(server.connect.clone()));
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| Failure(chain(&error)))
}

/// Opens a stream. Requests are taken from `requests`; the stream is open when its first item comes,
/// which for many servers is their first response.
pub(super) fn open<Q, R>(
    channel: Channel,
    server: &Server,
    path: PathAndQuery,
    mut requests: mpsc::Receiver<Q>,
) -> Inbound<R>
where
    Q: prost::Message + Default + Send + Sync + 'static,
    R: prost::Message + Default + Send + 'static,
{
    let metadata = match metadata(server) {
        Ok(metadata) => metadata,
        Err(failure) => return stream::once(future::ready(Err(failure))).boxed(),
    };
    let mut grpc = Grpc::new(channel).max_decoding_message_size(server.max_message);
    let call = async move {
        grpc.ready().await.map_err(|error| Failure(chain(&error)))?;
        let requests = stream::poll_fn(move |cx| requests.poll_recv(cx));
        let mut request = tonic::Request::new(requests);
        *request.metadata_mut() = metadata;
        let codec = tonic_prost::ProstCodec::<Q, R>::default();
        let response = grpc.streaming(request, path, codec).await;
        let responses = response.map_err(|status| failed(&status))?.into_inner();
        Ok(responses.map(move |item| {
            // The connection lasts as long as its last handle.
            let _connection = &grpc;
            item.map_err(|status| failed(&status))
        }))
    };
    call.try_flatten_stream().boxed()
}

/// The method for a scope, `None` where the API has none.
pub(super) fn path(scope: Scope, incremental: bool) -> Option<PathAndQuery> {
    let path = match (scope, incremental) {
        (Scope::Aggregated, false) => {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
        }
        (Scope::Aggregated, true) => {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        }
        (Scope::Only(kind), false) => match kind {
            ResourceType::Secret => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            ResourceType::Cluster => {
                "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"
            }
            ResourceType::LoadAssignment => {
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints"
            }
            ResourceType::FilterConfig => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs"
            }
            ResourceType::Listener => {
                "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners"
            }
            ResourceType::RouteConfiguration => {
                "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes"
            }
            ResourceType::VirtualHost => return None,
        },
        (Scope::Only(kind), true) => match kind {
            ResourceType::Secret => "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
            ResourceType::Cluster => {
                "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"
            }
            ResourceType::LoadAssignment => {
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints"
            }
            ResourceType::FilterConfig => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs"
            }
            ResourceType::Listener => {
                "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners"
            }
            ResourceType::RouteConfiguration => {
                "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes"
            }
            ResourceType::VirtualHost => {
                "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts"
            }
        },
    };
    Some(PathAndQuery::from_static(path))
}

/// A fault names the key alone: the value may be a credential.
fn metadata(server: &Server) -> Result<MetadataMap, Failure> {
    let mut metadata = MetadataMap::new();
    for (name, value) in &server.metadata.0 {
        let name = name.to_ascii_lowercase();
        let fault = || Failure(format!("metadata {name:?} cannot be sent"));
        if name.ends_with("-bin") {
            let key = BinaryMetadataKey::from_bytes(name.as_bytes()).map_err(|_| fault())?;
            metadata.append_bin(key, MetadataValue::from_bytes(value));
        } else {
            let key = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| fault())?;
            let value = MetadataValue::try_from(value.as_slice()).map_err(|_| fault())?;
            metadata.append(key, value);
        }
    }
    Ok(metadata)
}

fn failed(status: &tonic::Status) -> Failure {
    let mut text = format!("{:?}: {}", status.code(), shorten(status.message()));
    if let Some(source) = status.source() {
        text.push_str(&format!(": {}", chain(source)));
    }
    Failure(text)
}

/// An error with what is behind it, which alone tells what happened.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// Connects once: a connection that is lost is the business of whoever opened the stream.
struct Connector(Option<Arc<dyn Connect>>);

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        match self.0.take() {
            Some(connect) => Box::pin(connect.connect().map_ok(TokioIo::new)),
            None => Box::pin(future::ready(Err(io::ErrorKind::NotConnected.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor;

    /// Every method is one of the API, and of the right form.
    #[test]
    fn methods_exist() {
        let scopes = ResourceType::ALL.map(Scope::Only);
        for scope in scopes.into_iter().chain([Scope::Aggregated]) {
            for incremental in [false, true] {
                let Some(path) = path(scope, incremental) else {
                    assert_eq!(scope, Scope::Only(ResourceType::VirtualHost));
                    assert!(!incremental);
                    continue;
                };
                let (service, method) = path.path()[1..].split_once('/').unwrap();
                let service = descriptor::pool().get_service_by_name(service).unwrap();
                let method = service.methods().find(|m| m.name() == method).unwrap();
                assert!(method.is_client_streaming() && method.is_server_streaming());
                let delta = "envoy.service.discovery.v3.DeltaDiscoveryRequest";
                assert_eq!(method.input().full_name() == delta, incremental, "{path}");
                if let Scope::Only(kind) = scope {
                    let options = service.options();
                    let text = format!("{options:?}");
                    assert!(text.contains(kind.message_name()), "{text}");
                }
            }
        }
    }
}
