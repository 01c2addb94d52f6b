//! The client of management servers against a server in the process. Time is paused: what takes
//! minutes passes as soon as nobody has anything to do.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "client/double.rs"]
mod double;
#[path = "client/http.rs"]
mod http;
#[path = "client/rest.rs"]
mod rest;
#[path = "client/stream.rs"]
mod stream;

use std::sync::Arc;
use std::time::Duration;

use causeway_xds::client::{BACKOFF_MAX, Config, Scope, Server, Status, client};
use causeway_xds::proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use causeway_xds::proto::{Any, Cluster, DiscoveryResponse, core};
use causeway_xds::reject::{Invalid, Rejected};
use causeway_xds::resource::api_source::ApiProtocol;
use causeway_xds::source::{Batch, Interest, Interests, Origin, Outcome, Source as _, Update};
use causeway_xds::type_url::{ResourceType, pack};
use tokio::sync::mpsc;

use double::Double;

/// The test's side of control.
struct Control {
    batches: mpsc::Receiver<Batch>,
    interests: Interests,
    status: Arc<Status>,
    task: tokio::task::JoinHandle<()>,
}

impl Control {
    fn start(protocol: ApiProtocol, servers: &[&Double]) -> Self {
        Self::with(
            protocol,
            servers.iter().map(|double| double.server.clone()).collect(),
        )
    }

    fn with(protocol: ApiProtocol, servers: Vec<Server>) -> Self {
        Self::of(Scope::Aggregated, protocol, servers)
    }

    fn of(scope: Scope, protocol: ApiProtocol, servers: Vec<Server>) -> Self {
        let (client, interests, status) = client(Config {
            origin: Origin::Xds("ads".into()),
            node: core::Node {
                id: "n1".to_owned(),
                ..core::Node::default()
            },
            node_on_first_message_only: true,
            protocol,
            scope,
            servers,
            backoff_max: BACKOFF_MAX,
        });
        let (sender, batches) = mpsc::channel(1);
        let task = tokio::spawn(Box::new(client).run(sender));
        Self {
            batches,
            interests,
            status,
            task,
        }
    }

    fn all(&self, kind: ResourceType) {
        self.interests.send(Interest::All(kind)).unwrap();
    }

    fn subscribe(&self, kind: ResourceType, names: &[&str]) {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        self.interests
            .send(Interest::Subscribe(kind, names))
            .unwrap();
    }

    fn unsubscribe(&self, kind: ResourceType, names: &[&str]) {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        self.interests
            .send(Interest::Unsubscribe(kind, names))
            .unwrap();
    }

    /// The next update, and the end by which it is answered.
    async fn update(&mut self) -> (Update, tokio::sync::oneshot::Sender<Outcome>) {
        let mut batch = self.batches.recv().await.unwrap();
        assert_eq!(batch.updates.len(), 1);
        (batch.updates.remove(0), batch.answer.unwrap())
    }

    /// Takes the next update as it is.
    async fn accept(&mut self) -> Update {
        let (update, answer) = self.update().await;
        answer.send(Outcome::default()).unwrap();
        update
    }

    /// Takes the next update but for one resource.
    async fn refuse(&mut self, name: &str, reason: &'static str) -> Update {
        let (update, answer) = self.update().await;
        let rejected = vec![Rejected::new(
            update.kind,
            name,
            Invalid::at("type", reason),
        )];
        answer
            .send(Outcome {
                rejected,
                ..Outcome::default()
            })
            .unwrap();
        update
    }

    /// Goes, which ends the client.
    async fn stop(self) {
        drop(self.batches);
        self.task.await.unwrap();
    }
}

fn cluster(name: &str) -> Any {
    pack(&Cluster {
        name: name.to_owned(),
        ..Cluster::default()
    })
}

fn endpoints(name: &str) -> Any {
    pack(&causeway_xds::proto::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        ..Default::default()
    })
}

fn sotw(kind: ResourceType, version: &str, nonce: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_owned(),
        resources,
        type_url: kind.type_url(),
        nonce: nonce.to_owned(),
        ..DiscoveryResponse::default()
    }
}

fn delta(
    kind: ResourceType,
    nonce: &str,
    resources: &[(&str, &str, Any)],
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    let resource = |(name, version, any): &(&str, &str, Any)| Resource {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        resource: Some(any.clone()),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        system_version_info: format!("of {nonce}"),
        resources: resources.iter().map(resource).collect(),
        type_url: kind.type_url(),
        removed_resources: removed.iter().map(|&name| name.to_owned()).collect(),
        nonce: nonce.to_owned(),
        ..DeltaDiscoveryResponse::default()
    }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
