//! The Client Status Discovery Service: what `/config_dump` shows, as gRPC on the same port
//! (`envoy.service.status.v3.ClientStatusDiscoveryService`).

use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use causeway_xds::ResourceType;
use causeway_xds::proto::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use causeway_xds::proto::envoy::service::status::v3 as proto;
use causeway_xds::proto::google::protobuf::Timestamp;
use causeway_xds::source::Origin;
use causeway_xds::text;
use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::AdminState;
use crate::control::{Pipeline, ResourceStatus};
use proto::client_config::GenericXdsConfig;
use proto::client_status_discovery_service_server as service;

/// Path of the service, for the router of the port.
pub const PATH: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/{method}";

pub type Server = service::ClientStatusDiscoveryServiceServer<ClientStatus>;

#[derive(Clone)]
pub struct ClientStatus {
    state: AdminState,
}

pub fn server(state: AdminState) -> Server {
    Server::new(ClientStatus { state })
}

#[tonic::async_trait]
impl service::ClientStatusDiscoveryService for ClientStatus {
    type StreamClientStatusStream =
        Pin<Box<dyn Stream<Item = Result<proto::ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<proto::ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let this = self.clone();
        let answers = request.into_inner().then(move |request| {
            let this = this.clone();
            async move { this.answer(request?).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<proto::ClientStatusRequest>,
    ) -> Result<Response<proto::ClientStatusResponse>, Status> {
        self.answer(request.into_inner()).await.map(Response::new)
    }
}

impl ClientStatus {
    async fn answer(
        &self,
        request: proto::ClientStatusRequest,
    ) -> Result<proto::ClientStatusResponse, Status> {
        if !request.node_matchers.is_empty() {
            // They choose among the clients of a management server; here there is one.
            return Err(Status::invalid_argument("node_matchers are not supported"));
        }
        let look = |pipeline: &Pipeline| {
            ResourceType::ALL.map(|kind| (pipeline.resources(kind), pipeline.requested(kind)))
        };
        let all = self.state.control.query(look).await;
        let all = all.map_err(|_| Status::unavailable("the process is ending"))?;
        let contents = !request.exclude_resource_contents;
        let made = tokio::task::spawn_blocking(move || configs(all, contents)).await;
        let generic_xds_configs = made.map_err(|_| Status::internal("the answer failed"))?;
        #[allow(deprecated, reason = "the message has an older form of the same")]
        let config = proto::ClientConfig {
            node: Some(self.state.node()),
            xds_config: Vec::new(),
            generic_xds_configs,
            client_scope: String::new(),
        };
        Ok(proto::ClientStatusResponse {
            config: vec![config],
        })
    }
}

type Known = (Vec<ResourceStatus>, Vec<(String, bool)>);

fn configs(all: [Known; ResourceType::ALL.len()], contents: bool) -> Vec<GenericXdsConfig> {
    let mut configs = Vec::new();
    for (kind, (known, requested)) in ResourceType::ALL.into_iter().zip(all) {
        configs.extend(known.iter().map(|status| config(status, contents)));
        configs.extend(requested.into_iter().map(|(name, absent)| {
            let status = match absent {
                true => ClientResourceStatus::DoesNotExist,
                false => ClientResourceStatus::Requested,
            };
            GenericXdsConfig {
                type_url: kind.type_url(),
                name,
                client_status: status as i32,
                ..Default::default()
            }
        }));
    }
    configs
}

fn config(status: &ResourceStatus, contents: bool) -> GenericXdsConfig {
    let accepted = status.accepted.as_ref();
    // Through the printed form, which has the secrets taken out. What cannot be read back from that
    // is left out.
    let content = accepted.filter(|_| contents);
    let content =
        content.and_then(|a| text::any_from_value(&text::to_value(&a.message.any())).ok());
    let client_status = match status.rejected {
        Some(_) => ClientResourceStatus::Nacked,
        None => ClientResourceStatus::Acked,
    };
    GenericXdsConfig {
        type_url: status.kind.type_url(),
        name: status.name.clone(),
        version_info: accepted.map(|a| a.version.to_string()).unwrap_or_default(),
        xds_config: content,
        last_updated: accepted.map(|a| at(a.since)),
        client_status: client_status as i32,
        error_state: status.rejected.as_ref().map(|rejected| UpdateFailureState {
            failed_configuration: None,
            last_update_attempt: Some(at(rejected.at)),
            details: rejected.details.clone(),
            version_info: rejected.version.clone(),
        }),
        is_static_resource: accepted.is_some_and(|a| a.origin == Origin::Static),
        ..Default::default()
    }
}

fn at(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
