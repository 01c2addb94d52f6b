//! Access logs that a service gets over gRPC.

use bytes::Bytes;
use causeway_xds::proto::Message as _;
use causeway_xds::proto::envoy::data::accesslog::v3 as data;
use causeway_xds::proto::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use causeway_xds::proto::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, http2_cluster, listener, tcp, to};
use crate::support::client::{Http1, full, request};
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{eventually, refusing, tcp_echo, within};

/// What a service was sent: where to, and what.
type Sent = (http::request::Parts, StreamAccessLogsMessage);

/// Takes one message of each stream, and answers at its end.
async fn service() -> (Origin, mpsc::UnboundedReceiver<Sent>) {
    let (tell, told) = mpsc::unbounded_channel();
    let origin = Origin::tcp(move |stream| {
        let tell = tell.clone();
        async move {
            serve(stream, &tell).await;
        }
    })
    .await;
    (origin, told)
}

async fn serve(stream: TcpStream, tell: &mpsc::UnboundedSender<Sent>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let tell = tell.clone();
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut all = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                all.extend_from_slice(&data);
            }
            let message = StreamAccessLogsMessage::decode(&all[5..]).unwrap();
            tell.send((head, message)).unwrap();
            let head = http::Response::builder().header("content-type", "application/grpc");
            let mut answer = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            answer
                .send_data(Bytes::from_static(&[0; 5]), false)
                .unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            answer.send_trailers(trailers).unwrap();
        });
    }
}

fn log(kind: &str, interval: &str, more: &Value) -> Value {
    let mut config = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.{kind}GrpcAccessLogConfig"),
        "common_config": {
            "log_name": "requests",
            "transport_api_version": "V3",
            "buffer_flush_interval": interval,
            "grpc_service": {
                "envoy_grpc": {"cluster_name": "logs"},
                "initial_metadata": [{"key": "x-tenant", "value": "t"}],
            },
        },
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!([{"name": "grpc", "typed_config": config}])
}

fn counter(app: &TestApp, name: &str) -> u64 {
    use causeway::telemetry::stats::Value;
    let mut found = 0;
    let name = format!("access_logs.grpc_access_log.{name}");
    app.running.stats.visit(&mut |known, value| {
        if let (true, Value::Counter(counter)) = (known == name, value) {
            found = counter.value();
        }
    });
    found
}

#[tokio::test]
async fn requests_reach_a_service_of_logs_together() {
    let (logs, mut told) = service().await;
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.content(&head).await;
            conn.reply(201, &[("x-kind", "made")], "four").await;
        }
    })
    .await;
    let more = json!({
        "additional_request_headers_to_log": ["x-who", "x-none"],
        "additional_response_headers_to_log": ["X-Kind"],
    });
    let manager = http(&json!({
        "route_config": to("a"),
        "access_log": log("Http", "0.5s", &more),
    }));
    let clusters = [
        cluster("a", origin.address),
        http2_cluster("logs", logs.address),
    ];
    let text = bootstrap(&[listener("web", &manager)], &clusters);
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut client = Http1::connect(app.listener("web")).await;
    for path in ["/one?q=1", "/two"] {
        let post = request("POST", "h.test", path)
            .header("user-agent", "it")
            .header("x-who", "me")
            .body(full("seven b"))
            .unwrap();
        assert_eq!(client.send_body(post).await.status, 201);
    }
    let mut entries: Vec<data::HttpAccessLogEntry> = Vec::new();
    // They come together, unless the machine was away for half a second between them.
    while entries.len() < 2 {
        let (head, message) = within("a message", told.recv()).await.unwrap();
        assert_eq!(
            head.uri.path(),
            "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
        );
        assert_eq!(head.headers["x-tenant"], "t");
        let identifier = message.identifier.unwrap();
        assert_eq!(identifier.log_name, "requests");
        assert_eq!(identifier.node.unwrap().user_agent_name, "causeway");
        let Some(LogEntries::HttpLogs(logs)) = message.log_entries else {
            panic!("no entries of requests")
        };
        entries.extend(logs.log_entry);
    }
    let [one, two] = &entries[..] else { panic!() };
    let (asked, answer) = (
        one.request.as_ref().unwrap(),
        one.response.as_ref().unwrap(),
    );
    assert_eq!(asked.request_method().as_str_name(), "POST");
    assert_eq!((&*asked.authority, &*asked.path), ("h.test", "/one?q=1"));
    assert_eq!((&*asked.scheme, &*asked.user_agent), ("http", "it"));
    assert_eq!(asked.request_headers["x-who"], "me");
    assert!(!asked.request_headers.contains_key("x-none"));
    assert_eq!(
        (asked.request_body_bytes, answer.response_body_bytes),
        (7, 4)
    );
    assert_eq!(answer.response_code.unwrap().value, 201);
    assert_eq!(answer.response_headers["x-kind"], "made");
    assert_eq!(answer.response_code_details, "via_upstream");
    let common = one.common_properties.as_ref().unwrap();
    assert_eq!(common.upstream_cluster, "a");
    assert_eq!(common.upstream_request_attempt_count, 1);
    assert_eq!(common.access_log_type(), data::AccessLogType::DownstreamEnd);
    for known in [
        &common.downstream_remote_address,
        &common.downstream_local_address,
        &common.upstream_remote_address,
        &common.upstream_local_address,
    ] {
        assert!(known.is_some(), "{common:?}");
    }
    assert!(common.start_time.is_some() && common.time_to_last_downstream_tx_byte.is_some());
    assert_eq!(two.request.as_ref().unwrap().path, "/two");
    eventually("both are counted", || counter(&app, "logs_written") == 2).await;
    assert_eq!(counter(&app, "logs_dropped"), 0);
}

#[tokio::test]
async fn connections_reach_a_service_of_logs() {
    let (logs, mut told) = service().await;
    let echo = tcp_echo().await;
    let proxy = tcp("a", &json!({"access_log": log("Tcp", "0.05s", &json!({}))}));
    let clusters = [
        cluster("a", echo.address),
        http2_cluster("logs", logs.address),
    ];
    let text = bootstrap(&[listener("web", &proxy)], &clusters);
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut client = Raw::connect(app.listener("web")).await;
    client.send("five!").await;
    client.bytes(5).await;
    client.finish().await;
    client.ended().await;
    let (_, message) = within("a message", told.recv()).await.unwrap();
    let Some(LogEntries::TcpLogs(logs)) = message.log_entries else {
        panic!("no entries of connections")
    };
    let [entry] = &logs.log_entry[..] else {
        panic!()
    };
    let moved = entry.connection_properties.unwrap();
    assert_eq!((moved.received_bytes, moved.sent_bytes), (5, 5));
    let common = entry.common_properties.as_ref().unwrap();
    assert_eq!(common.upstream_cluster, "a");
    assert!(common.upstream_local_address.is_some());
    assert_eq!(
        common.access_log_type(),
        data::AccessLogType::TcpConnectionEnd
    );
}

#[tokio::test]
async fn a_service_that_is_away_holds_up_nobody() {
    let (_held, away) = refusing();
    let origin = Origin::fixed("in").await;
    let manager = http(&json!({
        "route_config": to("a"),
        "access_log": log("Http", "0.01s", &json!({})),
    }));
    let clusters = [cluster("a", origin.address), http2_cluster("logs", away)];
    let text = bootstrap(&[listener("web", &manager)], &clusters);
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut client = Http1::connect(app.listener("web")).await;
    for _ in 0..3 {
        assert_eq!(client.get("h", "/").await.text(), "in");
    }
    eventually("they are given up", || counter(&app, "logs_dropped") == 3).await;
    assert_eq!(counter(&app, "logs_written"), 0);
}
