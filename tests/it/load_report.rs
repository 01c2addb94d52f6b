//! Reports of load, to a management server on loopback that the test plays.

use std::net::SocketAddr;
use std::pin::Pin;

use causeway_xds::ResourceType;
use causeway_xds::proto::Any;
use causeway_xds::proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use causeway_xds::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use causeway_xds::proto::endpoint::ClusterStats;
use causeway_xds::proto::envoy::service::load_stats::v3::load_reporting_service_server::{
    LoadReportingService, LoadReportingServiceServer,
};
use causeway_xds::proto::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use causeway_xds::proto::{Duration, core};
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::support::app::TestApp;
use crate::support::bootstrap::{assignment, cluster, http, http2_cluster, listener, routes};
use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::{eventually, within};

/// A server of both services. It ends when dropped.
struct Double {
    address: SocketAddr,
    streams: mpsc::UnboundedReceiver<Reports>,
    _serving: JoinSet<()>,
}

/// A stream of reports.
struct Reports {
    requests: Streaming<LoadStatsRequest>,
    /// The stream ends when this is dropped.
    responses: mpsc::UnboundedSender<Result<LoadStatsResponse, Status>>,
}

#[derive(Clone)]
struct Service {
    clusters: Vec<Any>,
    streams: mpsc::UnboundedSender<Reports>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn received<T: Send + 'static>(
    mut from: mpsc::UnboundedReceiver<T>,
) -> Pin<Box<dyn Stream<Item = T> + Send>> {
    Box::pin(stream::poll_fn(move |cx| from.poll_recv(cx)))
}

#[tonic::async_trait]
impl LoadReportingService for Service {
    type StreamLoadStatsStream = Answers<LoadStatsResponse>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let (responses, sent) = mpsc::unbounded_channel();
        let requests = request.into_inner();
        let stream = Reports {
            requests,
            responses,
        };
        self.streams
            .send(stream)
            .map_err(|_| Status::cancelled("the test is over"))?;
        Ok(Response::new(received(sent)))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    /// Gives clusters to who asks for the first time, and nothing else.
    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let clusters = self.clusters.clone();
        let answers = request.into_inner().filter_map(move |request| {
            let kind = ResourceType::Cluster;
            let asks =
                request.is_ok_and(|r| r.type_url == kind.type_url() && r.response_nonce.is_empty());
            let answer = asks.then(|| DiscoveryResponse {
                version_info: "1".into(),
                nonce: "1".into(),
                type_url: kind.type_url(),
                resources: clusters.clone(),
                ..DiscoveryResponse::default()
            });
            std::future::ready(answer.map(Ok))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("not in this form"))
    }
}

impl Double {
    async fn start(clusters: &[Value]) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let packed = |value: &Value| {
            let mut value = value.clone();
            value["@type"] = ResourceType::Cluster.type_url().into();
            causeway_xds::text::parse_any(&value.to_string(), &Default::default()).unwrap()
        };
        let (sender, streams) = mpsc::unbounded_channel();
        let service = Service {
            clusters: clusters.iter().map(packed).collect(),
            streams: sender,
        };
        let server = Server::builder()
            .add_service(LoadReportingServiceServer::new(service.clone()))
            .add_service(AggregatedDiscoveryServiceServer::new(service))
            .serve_with_incoming(TcpIncoming::from(socket));
        let mut serving = JoinSet::new();
        serving.spawn(async move { server.await.unwrap() });
        Self {
            address,
            streams,
            _serving: serving,
        }
    }

    /// The next stream, and its first message.
    async fn stream(&mut self) -> (Reports, LoadStatsRequest) {
        let mut stream = within("a stream", self.streams.recv()).await.unwrap();
        let first = stream.next().await;
        (stream, first)
    }
}

impl Reports {
    async fn next(&mut self) -> LoadStatsRequest {
        within("a report", self.requests.next())
            .await
            .unwrap()
            .unwrap()
    }

    fn ask(&self, wish: LoadStatsResponse) {
        self.responses.send(Ok(wish)).unwrap();
    }

    /// Adds up reports of one cluster until its numbers are these: issued, succeeded, failed. What was
    /// dropped comes back with the last one of them.
    async fn until(&mut self, name: &str, numbers: [u64; 3]) -> (u64, ClusterStats) {
        let (mut sum, mut dropped) = ([0; 3], 0);
        loop {
            let report = self.next().await;
            let Some(stats) = report
                .cluster_stats
                .into_iter()
                .find(|s| s.cluster_name == name)
            else {
                continue;
            };
            for locality in &stats.upstream_locality_stats {
                sum[0] += locality.total_issued_requests;
                sum[1] += locality.total_successful_requests;
                sum[2] += locality.total_error_requests;
            }
            dropped += stats.total_dropped_requests;
            assert!(
                sum.iter().zip(numbers).all(|(is, end)| *is <= end),
                "{sum:?}"
            );
            if sum == numbers {
                return (dropped, stats);
            }
        }
    }
}

const SOON: Duration = Duration {
    seconds: 0,
    nanos: 100_000_000,
};

fn wish(clusters: &[&str], interval: Duration) -> LoadStatsResponse {
    LoadStatsResponse {
        clusters: clusters.iter().map(|&name| name.into()).collect(),
        load_reporting_interval: Some(interval),
        ..LoadStatsResponse::default()
    }
}

fn api(cluster: &str) -> Value {
    json!({
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster}}],
    })
}

/// `/<cluster>/...` goes to that cluster.
fn by_path(clusters: &[&str]) -> Value {
    let route =
        |name: &&str| json!({"match": {"prefix": format!("/{name}/")}, "route": {"cluster": name}});
    let all: Vec<Value> = clusters.iter().map(route).collect();
    listener("web", &http(&json!({"route_config": routes(&json!(all))})))
}

fn node() -> Value {
    json!({"id": "reporter", "cluster": "tests"})
}

/// Answers with the status that the path ends with.
async fn statuses() -> Origin {
    Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let status = head.target.rsplit('/').next().unwrap().parse().unwrap();
            conn.reply(status, &[], "").await;
        }
    })
    .await
}

#[tokio::test]
async fn what_endpoints_have_to_do_is_told_as_the_server_asks() {
    let mut double = Double::start(&[]).await;
    let (origin, held) = (statuses().await, Origin::held("done").await);
    let mut app = cluster("app", origin.address);
    app["load_assignment"]["endpoints"][0]["locality"] =
        json!({"region": "r", "zone": "z", "sub_zone": "s"});
    let mut full = cluster("full", origin.address);
    full["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0}]});
    let text = json!({
        "node": node(),
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "cluster_manager": {"load_stats_config": api("lrs")},
        "static_resources": {
            "listeners": [by_path(&["app", "full", "slow"])],
            "clusters": [http2_cluster("lrs", double.address), app, full, cluster("slow", held.address)],
        },
    });
    let proxy = TestApp::bootstrap(&text.to_string()).await;
    let web = proxy.listener("web");

    let (mut stream, first) = double.stream().await;
    let node = first.node.unwrap();
    assert_eq!(node.id, "reporter");
    let feature = "envoy.lrs.supports_send_all_clusters";
    assert!(node.client_features.iter().any(|f| f == feature));
    assert!(first.cluster_stats.is_empty());

    // Before anybody asks, nothing counts.
    get(web, "x", "/app/200").await;
    // No report of this interval is waited for.
    let hour = Duration {
        seconds: 3600,
        nanos: 0,
    };
    stream.ask(wish(&["app", "full", "nowhere"], hour));
    let requests = || {
        proxy
            .running
            .stats
            .load_reporter()
            .requests
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    eventually("the wish to be known", || requests() == 1).await;
    for status in [200, 404, 500, 503] {
        assert_eq!(
            get(web, "x", &format!("/app/{status}")).await.status,
            status
        );
    }
    assert_eq!(get(web, "x", "/full/200").await.status, 503);
    let waiting = tokio::spawn(async move { get(web, "x", "/slow/").await.text() });
    held.has_requests(1).await;

    // Another interval begins, and nothing of the one before is lost.
    stream.ask(LoadStatsResponse {
        report_endpoint_granularity: true,
        ..wish(&["app", "full"], SOON)
    });
    let report = stream.next().await;
    assert!(
        report.node.is_none(),
        "only the first message says who reports"
    );
    let of = |name: &str| {
        report
            .cluster_stats
            .iter()
            .find(|s| s.cluster_name == name)
            .unwrap()
    };
    assert_eq!(report.cluster_stats.len(), 2, "{report:?}");
    assert_eq!(of("full").total_dropped_requests, 1);
    assert!(of("full").upstream_locality_stats.is_empty());
    let [locality] = &of("app").upstream_locality_stats[..] else {
        panic!("one locality: {report:?}");
    };
    let place = core::Locality {
        region: "r".into(),
        zone: "z".into(),
        sub_zone: "s".into(),
    };
    assert_eq!(locality.locality, Some(place));
    let numbers = [
        locality.total_issued_requests,
        locality.total_successful_requests,
        locality.total_error_requests,
        locality.total_requests_in_progress,
    ];
    assert_eq!(numbers, [4, 2, 2, 0]);
    assert_eq!(locality.upstream_endpoint_stats[0].total_error_requests, 2);

    // All of them, the one with a request that runs among them.
    stream.ask(LoadStatsResponse {
        send_all_clusters: true,
        ..wish(&[], SOON)
    });
    let slow = loop {
        let report = stream.next().await;
        let stats = report
            .cluster_stats
            .into_iter()
            .find(|s| s.cluster_name == "slow");
        if let Some(stats) = stats {
            break stats;
        }
    };
    assert_eq!(
        slow.upstream_locality_stats[0].total_requests_in_progress,
        1
    );
    held.release(1);
    assert_eq!(waiting.await.unwrap(), "done");
    stream.until("slow", [0, 1, 0]).await;

    // A stream that ends is opened again, and what happened meanwhile is told.
    drop(stream);
    assert_eq!(get(web, "x", "/app/200").await.status, 200);
    let (mut stream, first) = double.stream().await;
    assert!(first.node.is_some() && first.cluster_stats.is_empty());
    stream.ask(wish(&["app"], SOON));
    stream.until("app", [1, 1, 0]).await;

    let stats = proxy.admin("/stats?filter=load_reporter").await.text();
    assert!(stats.contains("load_reporter.retries: 1"), "{stats}");
    assert!(stats.contains("load_reporter.requests: 4"), "{stats}");
    proxy.shutdown().await;
}

#[tokio::test]
async fn a_cluster_is_told_of_to_the_server_that_gave_it() {
    let origin = statuses().await;
    let mut given = json!({
        "name": "given",
        "type": "STATIC",
        "load_assignment": assignment("given", origin.address),
        "lrs_server": {"self": {}},
    });
    let silent = cluster("silent", origin.address);
    let mut double = Double::start(&[given.clone(), silent]).await;
    given["name"] = "static".into();
    given["lrs_server"] = json!({"ads": {}});
    let text = json!({
        "node": node(),
        "dynamic_resources": {"ads_config": api("xds"), "cds_config": {"ads": {}}},
        "static_resources": {
            "listeners": [by_path(&["given", "silent", "static"])],
            "clusters": [http2_cluster("xds", double.address), given],
        },
    });
    let proxy = TestApp::bootstrap(&text.to_string()).await;
    let (mut stream, _) = double.stream().await;
    stream.ask(LoadStatsResponse {
        send_all_clusters: true,
        ..wish(&[], SOON)
    });
    loop {
        let report = stream.next().await;
        let mut names: Vec<_> = report
            .cluster_stats
            .into_iter()
            .map(|s| s.cluster_name)
            .collect();
        names.sort();
        if names == ["given", "static"] {
            break;
        }
        assert!(names.len() < 2, "{names:?}");
    }
    let web = proxy.listener("web");
    for path in ["/given/200", "/silent/200", "/static/500"] {
        get(web, "x", path).await;
    }
    let (dropped, _) = stream.until("given", [1, 1, 0]).await;
    assert_eq!(dropped, 0);
    assert!(double.streams.try_recv().is_err(), "one stream for both");
    proxy.shutdown().await;
}

#[tokio::test]
async fn load_is_reported_to_servers_that_the_bootstrap_has() {
    let text = json!({
        "node": node(),
        "cluster_manager": {"load_stats_config": api("nowhere")},
    });
    let refused = TestApp::try_bootstrap(&text.to_string())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        refused.contains("cluster_manager.load_stats_config.grpc_services[0]"),
        "{refused}"
    );
}
