//! Filters whose configuration comes from a management server, while their listener serves.

use std::future::ready;
use std::net::SocketAddr;
use std::pin::Pin;

use causeway::demo::xds::server::{ManagementServer, Said};
use causeway::demo::xds::subscription::Versioned;
use causeway_xds::ResourceType;
use causeway_xds::proto::Any;
use causeway_xds::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use causeway_xds::proto::envoy::service::extension::v3::extension_config_discovery_service_server::{
    ExtensionConfigDiscoveryService, ExtensionConfigDiscoveryServiceServer,
};
use futures_util::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::support::app::TestApp;
use crate::support::bootstrap::{cluster, http, http2_cluster, listener, to};
use crate::support::client::{Http1, Reply};
use crate::support::origin::Origin;
use crate::support::{eventually, within};

const FORWARDED: &str = "type.googleapis.com/causeway.v1.Forwarded";

fn forwarded(proto: &str) -> Value {
    json!({"@type": FORWARDED, "proto": proto})
}

/// The filter `far`.
fn resource(config: &Value) -> Any {
    let kind = ResourceType::FilterConfig.type_url();
    let message = json!({"@type": kind, "name": "far", "typed_config": config});
    causeway_xds::text::any_from_value(&message).unwrap()
}

/// Says what the filter `far` is from now on.
fn tell(server: &ManagementServer, config: &Value) {
    let kind = ResourceType::FilterConfig;
    let any = resource(config);
    server.tell(|world| {
        world.version += 1;
        let version = world.version;
        let all = world.resources.entry(kind).or_default();
        all.insert("far".to_owned(), Versioned { version, any });
    });
}

/// A listener whose first filter comes from the server; `more` is merged into its source.
fn bootstrap(server: SocketAddr, delta: bool, origin: &Origin, more: &Value) -> String {
    let mut far = json!({"config_source": {"ads": {}}, "type_urls": [FORWARDED]});
    for (key, value) in more.as_object().unwrap() {
        far[key] = value.clone();
    }
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager = http(&json!({
        "route_config": to("app"),
        "http_filters": [
            {"name": "far", "config_discovery": far},
            {"name": "router", "typed_config": {"@type": router}},
        ],
    }));
    let ads = json!({
        "api_type": if delta { "DELTA_GRPC" } else { "GRPC" },
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
    });
    json!({
        "node": {"id": "n", "cluster": "c"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {"ads_config": ads},
        "static_resources": {
            "listeners": [listener("web", &manager)],
            "clusters": [cluster("app", origin.address), http2_cluster("xds", server)],
        },
    })
    .to_string()
}

/// What the origin saw of the filter.
fn proto(reply: &Reply) -> String {
    let fields = reply.json()["headers"].clone();
    let all: Vec<(String, String)> = serde_json::from_value(fields).unwrap();
    let found = all
        .into_iter()
        .find(|(name, _)| name == "x-forwarded-proto");
    found.map_or_else(String::new, |(_, value)| value)
}

async fn until(client: &mut Http1, what: &str, is: impl Fn(&Reply) -> bool) {
    let asked = async {
        loop {
            if is(&client.get("x", "/").await) {
                return;
            }
        }
    };
    within(what, asked).await;
}

async fn refusal(said: &mut mpsc::UnboundedReceiver<Said>) -> String {
    let heard = async {
        loop {
            if let Said::Refused { kind, why } = said.recv().await.unwrap() {
                assert_eq!(kind, ResourceType::FilterConfig);
                return why;
            }
        }
    };
    within("a refusal", heard).await
}

#[tokio::test]
async fn a_filter_changes_under_a_connection() {
    for delta in [false, true] {
        let (sender, mut said) = mpsc::unbounded_channel();
        let server = ManagementServer::start(0, sender).await.unwrap();
        tell(&server, &forwarded("https"));
        let origin = Origin::echo().await;
        let text = bootstrap(server.address, delta, &origin, &json!({}));
        let app = TestApp::bootstrap(&text).await;
        let open = || app.running.addresses.of("web").is_some();
        eventually("the filter is there, and the listener open", open).await;
        let mut client = Http1::connect(app.listener("web")).await;
        assert_eq!(proto(&client.get("x", "/").await), "https");

        tell(&server, &forwarded("http"));
        until(&mut client, "the change", |reply| proto(reply) == "http").await;

        // Of another type, and wrong in itself: what was there stays.
        tell(
            &server,
            &json!({"@type": "type.googleapis.com/causeway.v1.PathPrefix"}),
        );
        let why = refusal(&mut said).await;
        assert!(
            why.contains("is a causeway.v1.PathPrefix, expected causeway.v1.Forwarded"),
            "{why}"
        );
        tell(&server, &forwarded("gopher"));
        let why = refusal(&mut said).await;
        assert!(why.contains("far") && why.contains("proto"), "{why}");
        assert_eq!(proto(&client.get("x", "/").await), "http");
        tell(&server, &forwarded("https"));
        until(&mut client, "the next", |reply| proto(reply) == "https").await;

        let stats = app.admin("/stats?filter=extension_config").await.text();
        let far = "extension_config_discovery.http_filter.far";
        for wanted in ["config_reload: 3", "config_fail: 2", "config_conflict: 0"] {
            assert!(stats.contains(&format!("{far}.{wanted}")), "{stats}");
        }
        let dump = app.admin("/config_dump").await.text();
        assert!(dump.contains("EcdsConfigDump"), "{dump}");
        assert_eq!(origin.connections(), 1);
        app.shutdown().await;
    }
}

#[tokio::test]
async fn without_a_configuration_there_is_the_default_or_a_failure() {
    let (sender, _said) = mpsc::unbounded_channel();
    let server = ManagementServer::start(0, sender).await.unwrap();
    let origin = Origin::echo().await;

    // The server says that there is none.
    let text = bootstrap(server.address, true, &origin, &json!({}));
    let app = TestApp::bootstrap(&text).await;
    let open = || app.running.addresses.of("web").is_some();
    eventually("the listener opens without", open).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let reply = client.get("x", "/").await;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (500, ""));
    assert!(origin.requests().is_empty());
    tell(&server, &forwarded("https"));
    until(&mut client, "the filter", |reply| reply.status == 200).await;

    // And takes it back.
    server.tell(|world| {
        world.version += 1;
        world.resources.clear();
    });
    until(&mut client, "the end of it", |reply| reply.status == 500).await;
    app.shutdown().await;

    let more = json!({
        "default_config": forwarded("http"),
        "apply_default_config_without_warming": true,
    });
    let text = bootstrap(server.address, false, &origin, &more);
    let app = TestApp::bootstrap(&text).await;
    let open = || app.running.addresses.of("web").is_some();
    eventually("the listener opens with the default", open).await;
    let mut client = Http1::connect(app.listener("web")).await;
    assert_eq!(proto(&client.get("x", "/").await), "http");
    tell(&server, &forwarded("https"));
    until(&mut client, "its own", |reply| proto(reply) == "https").await;
    app.shutdown().await;
}

#[tokio::test]
async fn a_filter_is_followed_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("filters.json");
    // Replaced as it should be done: written beside, then moved over.
    let write = |proto: &str| {
        let kind = ResourceType::FilterConfig.type_url();
        let far = json!({"@type": kind, "name": "far", "typed_config": forwarded(proto)});
        let beside = directory.path().join("beside");
        std::fs::write(&beside, json!({"resources": [far]}).to_string()).unwrap();
        std::fs::rename(&beside, &path).unwrap();
    };
    write("https");
    let origin = Origin::echo().await;
    let more = json!({"config_source": {"path_config_source": {"path": path}}});
    let text = bootstrap(origin.address, false, &origin, &more);
    let app = TestApp::bootstrap(&text).await;
    let open = || app.running.addresses.of("web").is_some();
    eventually("the listener opens with the file", open).await;
    let mut client = Http1::connect(app.listener("web")).await;
    assert_eq!(proto(&client.get("x", "/").await), "https");
    write("http");
    until(&mut client, "the change", |reply| proto(reply) == "http").await;
    app.shutdown().await;
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A server of the one type, that has one resource for whoever asks.
struct Alone(Any);

#[tonic::async_trait]
impl ExtensionConfigDiscoveryService for Alone {
    type StreamExtensionConfigsStream = Answers<DiscoveryResponse>;
    type DeltaExtensionConfigsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_extension_configs(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamExtensionConfigsStream>, Status> {
        let resource = self.0.clone();
        let answers = request.into_inner().filter_map(move |request| {
            let first = request.is_ok_and(|r| {
                assert_eq!(r.resource_names, ["far"]);
                r.response_nonce.is_empty()
            });
            let answer = first.then(|| DiscoveryResponse {
                version_info: "1".into(),
                nonce: "1".into(),
                type_url: ResourceType::FilterConfig.type_url(),
                resources: vec![resource.clone()],
                ..DiscoveryResponse::default()
            });
            ready(answer.map(Ok))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn delta_extension_configs(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaExtensionConfigsStream>, Status> {
        Err(Status::unimplemented("not in this form"))
    }

    async fn fetch_extension_configs(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("not in this form"))
    }
}

#[tokio::test]
async fn a_filter_comes_over_a_stream_of_its_own() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = Server::builder()
        .add_service(ExtensionConfigDiscoveryServiceServer::new(Alone(resource(
            &forwarded("https"),
        ))))
        .serve_with_incoming(TcpIncoming::from(socket));
    let serving = tokio::spawn(serving);
    let origin = Origin::echo().await;
    let api = json!({
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
    });
    let more = json!({"config_source": {"api_config_source": api}});
    let text = bootstrap(address, false, &origin, &more);
    let app = TestApp::bootstrap(&text).await;
    let open = || app.running.addresses.of("web").is_some();
    eventually("the filter is there, and the listener open", open).await;
    let mut client = Http1::connect(app.listener("web")).await;
    assert_eq!(proto(&client.get("x", "/").await), "https");
    app.shutdown().await;
    serving.abort();
}
