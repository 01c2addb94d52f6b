mod csds;

use causeway_xds::ResourceType;
use causeway_xds::source::{Extent, OnRejection, Origin, Update};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::bootstrap::{BootstrapConfig, Overrides};
use crate::control::sources::NoServers;
use crate::control::{BindFailure, Control, Reconcile, Start};
use crate::snapshot::{Retired, Snapshot};

struct NoSockets;

impl Reconcile for NoSockets {
    fn reconcile(&mut self, _: &Snapshot, _: &Snapshot, _: &[Retired]) -> Vec<BindFailure> {
        Vec::new()
    }
}

const BOOTSTRAP: &str = r#"
node: {id: n1, cluster: c1}
static_resources:
  clusters:
  - {name: b, type: STATIC}
  - name: a
    type: STATIC
    load_assignment:
      cluster_name: a
      endpoints: [{lb_endpoints: [{load_balancing_weight: 3, endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 81}}}}]}]
  listeners:
  - name: main
    address: {socket_address: {address: 127.0.0.1, port_value: 82}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          route_config:
            name: local
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: a}}]}]
          http_filters:
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  secrets:
  - name: s
    tls_certificate: {certificate_chain: {inline_string: $CHAIN}, private_key: {inline_string: $KEY}}
layered_runtime: {layers: [{name: base, static_layer: {my: {key: 0}}}, {name: adm, admin_layer: {}}]}
"#;

struct Port {
    address: std::net::SocketAddr,
    stats: Arc<Stats>,
    control: ControlHandle,
    commands: mpsc::Receiver<AdminCommand>,
}

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

async fn port() -> Port {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let quoted = |pem: String| Value::from(pem).to_string();
    let text = BOOTSTRAP
        .replace("$CHAIN", &quoted(made.cert.pem()))
        .replace("$KEY", &quoted(made.signing_key.serialize_pem()));
    let config = BootstrapConfig::parse("b", &text, &Overrides::default()).unwrap();
    let stats = Arc::<Stats>::default();
    let publisher = Publisher::default();
    let (mut control, handle) = Control::new(Start {
        registry: Default::default(),
        stats: Arc::clone(&stats),
        publisher: publisher.clone(),
        reconcile: Box::new(NoSockets),
        roots: vec![],
        servers: Box::new(NoServers),
        resolver: None,
        load_reports: None,
        home: None,
        gated: true,
        deletions: Default::default(),
        cache: None,
    });
    let outcome = control.begin(config.static_updates.clone());
    assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
    tokio::spawn(control.run(std::future::pending()));
    let (send, commands) = mpsc::channel(4);
    let state = AdminState::new(Parts {
        stats: Arc::clone(&stats),
        publisher,
        control: handle.clone(),
        addresses: Arc::new(|_| Vec::new()),
        acme: None,
        log_level: None,
        commands: send,
        layers: Arc::new(Layers::new(config.runtime.clone())),
        bootstrap: Some(config),
        concurrency: 1,
        command_line: vec![("--log-level".to_owned(), "info".to_owned())],
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(state)).await });
    Port {
        address,
        stats,
        control: handle,
        commands,
    }
}

impl Port {
    async fn ask(&self, method: &str, target: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{method} {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let content_type = lines.find_map(|l| l.strip_prefix("content-type: "));
        Answer {
            status: status.parse().unwrap(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target).await
    }
}

const TEXT: &str = "text/plain; charset=UTF-8";

#[tokio::test]
async fn health_in_all_its_spellings() {
    let port = port().await;
    let ready = port.get("/ready").await;
    assert_eq!(
        (ready.status, &*ready.body, &*ready.content_type),
        (200, "LIVE\n", TEXT)
    );
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(port.get(path).await.json()["status"], "healthy", "{path}");
    }
    assert_eq!(port.get("/status").await.body, r#"{"api_version":"v2"}"#);
    let info = port.get("/server_info").await.json();
    assert_eq!(
        (&info["state"], &info["node"]["id"]),
        (&Value::from("LIVE"), &Value::from("n1"))
    );
    assert_eq!(info["command_line_options"]["concurrency"], 1);
    assert_eq!(info["command_line_options"]["log_level"], "info");

    assert_eq!(port.ask("POST", "/healthcheck/fail").await.body, "OK\n");
    let ready = port.get("/ready").await;
    assert_eq!((ready.status, &*ready.body), (503, "DRAINING\n"));
    assert_eq!(port.get("/readyz").await.status, 503);
    assert_eq!(port.get("/livez").await.status, 200);
    port.ask("POST", "/healthcheck/ok").await;
    assert_eq!(port.get("/ready").await.status, 200);
}

#[tokio::test]
async fn what_changes_something_is_post_only() {
    let mut port = port().await;
    for path in [
        "/quitquitquit",
        "/logging",
        "/drain_listeners",
        "/reset_counters",
        "/reopen_logs",
        "/healthcheck/fail",
    ] {
        let answer = port.get(path).await;
        assert_eq!(
            (answer.status, &*answer.body),
            (405, "Method Not Allowed"),
            "{path}"
        );
    }
    assert!(port.commands.try_recv().is_err());
    assert_eq!(
        port.ask("POST", "/drain_listeners?inboundonly").await.body,
        "OK\n"
    );
    assert!(port.commands.try_recv().is_err());
    assert_eq!(port.ask("POST", "/drain_listeners").await.body, "OK\n");
    assert_eq!(port.commands.try_recv(), Ok(AdminCommand::DrainListeners));
    assert_eq!(port.ask("POST", "/quitquitquit").await.body, "OK\n");
    assert_eq!(port.commands.try_recv(), Ok(AdminCommand::Quit));
    assert_eq!(port.ask("POST", "/logging?level=debug").await.status, 400);
    assert_eq!(port.ask("POST", "/reopen_logs").await.body, "OK\n");
    let unknown = port.get("/nope").await;
    assert_eq!((unknown.status, &*unknown.content_type), (404, TEXT));
    assert!(port.get("/help").await.body.contains("/config_dump"));
}

#[tokio::test]
async fn statistics_have_envoys_names_and_forms() {
    let port = port().await;
    let cluster = port.stats.cluster("a");
    cluster.upstream_rq.record(200);
    cluster.upstream_rq.record(503);
    let text = port
        .get("/stats?filter=^cluster\\.a\\.upstream_rq_(2|5)xx$")
        .await;
    assert_eq!(
        text.body,
        "cluster.a.upstream_rq_2xx: 1\ncluster.a.upstream_rq_5xx: 1\n"
    );
    let json = port
        .get("/stats?format=json&filter=^cluster\\.a\\.membership_total$")
        .await;
    assert_eq!(json.content_type, "application/json");
    assert_eq!(
        json.body,
        r#"{"stats":[{"name":"cluster.a.membership_total","value":1}]}"#
    );
    let server = port.get("/stats?filter=^server\\.(live|state)$").await;
    assert_eq!(server.body, "server.live: 1\nserver.state: 0\n");
    let used = port
        .get("/stats?usedonly&filter=^cluster\\.a\\.upstream_rq_")
        .await;
    assert!(!used.body.contains(": 0\n"), "{}", used.body);
    assert_eq!(port.get("/stats?filter=(").await.status, 400);

    let prometheus = port.get("/stats/prometheus").await;
    assert_eq!(prometheus.content_type, TEXT);
    for want in [
        "# TYPE envoy_cluster_upstream_rq counter\n",
        "envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"a\"} 1\n",
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"a\"} 1\n",
        "envoy_cluster_membership_total{envoy_cluster_name=\"a\"} 1\n",
        "# TYPE envoy_http_downstream_rq_time histogram\n",
        "envoy_http_downstream_rq_xx{envoy_response_code_class=\"5\",envoy_http_conn_manager_prefix=\"edge\"} 0\n",
        "envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"admin\"} 6\n",
        "envoy_server_live{} 1\n",
    ] {
        assert!(
            prometheus.body.contains(want),
            "{want} in\n{}",
            prometheus.body
        );
    }
    assert!(port.get("/metrics").await.body.ends_with("# EOF\n"));
    assert_eq!(port.ask("POST", "/reset_counters").await.body, "OK\n");
    assert_eq!(cluster.upstream_rq_total.value(), 0);
    assert_eq!(cluster.membership_total.value(), 1);
}

#[tokio::test]
async fn clusters_and_listeners_as_text_and_json() {
    let port = port().await;
    let text = port.get("/clusters").await.body;
    for want in [
        "a::observability_name::a\na::default_priority::max_connections::1024\n",
        "a::added_via_api::false\na::127.0.0.1:81::cx_active::0\n",
        "a::127.0.0.1:81::weight::3\n",
        "a::127.0.0.1:81::health_flags::healthy\n",
    ] {
        assert!(text.contains(want), "{want} in\n{text}");
    }
    let json = port.get("/clusters?format=json").await.json();
    let a = &json["cluster_statuses"][0];
    assert_eq!(a["name"], "a");
    let host = &a["host_statuses"][0];
    assert_eq!(host["address"]["socket_address"]["port_value"], 81);
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    assert_eq!(host["weight"], 3);
    assert_eq!(port.get("/listeners").await.body, "main::127.0.0.1:82\n");
    let json = port.get("/listeners?format=json").await.json();
    let listener = &json["listener_statuses"][0];
    assert_eq!(
        listener["local_address"]["socket_address"]["port_value"],
        82
    );
}

fn types(dump: &Value) -> Vec<&str> {
    let configs = dump["configs"].as_array().unwrap().iter();
    configs
        .map(|c| c["@type"].as_str().unwrap().rsplit('.').next().unwrap())
        .collect()
}

#[tokio::test]
async fn the_config_dump_has_envoys_shape_and_no_secrets() {
    let port = port().await;
    let answer = port.get("/config_dump?include_eds").await;
    assert_eq!(answer.content_type, "application/json");
    assert!(!answer.body.contains("PRIVATE KEY") && answer.body.contains("[redacted]"));
    let dump = answer.json();
    assert_eq!(
        types(&dump),
        [
            "BootstrapConfigDump",
            "ClustersConfigDump",
            "EndpointsConfigDump",
            "ListenersConfigDump",
            "ScopedRoutesConfigDump",
            "RoutesConfigDump",
            "SecretsConfigDump",
        ]
    );
    let configs = &dump["configs"];
    assert_eq!(configs[0]["bootstrap"]["node"]["id"], "n1");
    assert_eq!(configs[1]["static_clusters"][1]["cluster"]["name"], "b");
    assert_eq!(configs[1]["static_clusters"][1]["origin"], "static");
    assert_eq!(
        configs[3]["static_listeners"][0]["listener"]["name"],
        "main"
    );
    assert_eq!(
        configs[5]["static_route_configs"][0]["route_config"]["name"],
        "local"
    );

    let dump = port
        .get("/config_dump?resource=static_clusters")
        .await
        .json();
    assert_eq!(types(&dump), ["StaticCluster", "StaticCluster"]);
    let dump = port
        .get("/config_dump?resource=static_clusters&name_regex=^a$&mask=cluster.name")
        .await;
    let dump = dump.json();
    assert_eq!(dump["configs"].as_array().unwrap().len(), 1);
    assert_eq!(dump["configs"][0]["cluster"]["name"], "a");
    assert!(dump["configs"][0].get("last_updated").is_none());
    let dump = port.get("/config_dump?mask=bootstrap.node.id").await.json();
    assert_eq!(
        dump["configs"][0]["bootstrap"]["node"],
        serde_json::json!({"id": "n1"})
    );
    assert_eq!(port.get("/config_dump?resource=nothing").await.status, 404);
    assert_eq!(port.get("/config_dump?name_regex=(").await.status, 400);
}

#[tokio::test]
async fn the_config_dump_tells_waiting_and_refused_apart() {
    let port = port().await;
    let cluster = |yaml: &str| {
        let url = ResourceType::Cluster.type_url();
        let text = format!("{{\"@type\": {url}, {yaml}}}");
        causeway_xds::text::parse_any(&text, &Default::default()).unwrap()
    };
    let update = Update {
        origin: Origin::Xds("x".into()),
        kind: ResourceType::Cluster,
        version: "7".to_owned(),
        extent: Extent::Incremental,
        upserts: vec![
            cluster("name: live, type: STATIC"),
            cluster("name: waits, type: EDS, eds_cluster_config: {eds_config: {self: {}}}"),
            cluster("name: bad, type: STATIC, connect_timeout: -1s"),
        ],
        listing: None,
        removals: vec![],
    };
    let applied = port
        .control
        .apply(vec![update], OnRejection::ApplyOthers)
        .await;
    assert_eq!(applied.unwrap().rejected.len(), 1);
    let dump = port.get("/config_dump").await.json();
    let clusters = &dump["configs"][1];
    let active = clusters["dynamic_active_clusters"].as_array().unwrap();
    let named = |name: &str| active.iter().find(|c| c["name"] == name).unwrap();
    assert_eq!(named("live")["version_info"], "7");
    assert_eq!(named("live")["origin"], "xds:x");
    assert_eq!(named("live")["active_since"], 2);
    let details = named("bad")["error_state"]["details"].as_str().unwrap();
    assert!(details.starts_with("connect_timeout"), "{details}");
    let waits = &clusters["dynamic_warming_clusters"][0];
    assert_eq!(waits["cluster"]["name"], "waits");
    assert_eq!(
        waits["warming_for"],
        serde_json::json!(["endpoints \"waits\""])
    );
}

#[tokio::test]
async fn runtime_values_by_layer() {
    let port = port().await;
    let runtime = port.get("/runtime").await.json();
    assert_eq!(runtime["layers"], serde_json::json!(["base", "adm"]));
    assert_eq!(
        runtime["entries"]["my.key"],
        serde_json::json!({"final_value": "0", "layer_values": ["0", ""]})
    );
    assert_eq!(
        port.ask("POST", "/runtime_modify?my.key=7").await.body,
        "OK\n"
    );
    let runtime = port.get("/runtime").await.json();
    assert_eq!(
        runtime["entries"]["my.key"],
        serde_json::json!({"final_value": "7", "layer_values": ["0", "7"]})
    );
}
