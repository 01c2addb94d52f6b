//! TCP circuits.

use std::net::SocketAddr;
use std::sync::Arc;

use causeway::telemetry::stats::{ClusterStats, TcpStats};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, listener, tcp};
use crate::support::circuit::circuit;
use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::process::Program;
use crate::support::raw::{End, Raw};
use crate::support::{Hanging, eventually, refusing, tcp_echo, within};

async fn serving(origin: &Origin) -> TestApp {
    let circuit = circuit(1).kernel(origin.address).at_slot(1).protocol("tcp");
    TestApp::serving(&[&circuit]).await
}

#[tokio::test]
async fn bytes_pass_both_ways_unchanged() {
    let origin = tcp_echo().await;
    let app = serving(&origin).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send(b"GET / HTTP/1.1\r\n\x00\xff").await;
    assert_eq!(raw.bytes(18).await, b"GET / HTTP/1.1\r\n\x00\xff");
    let large: Vec<u8> = (0..300_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    raw.send(&large).await;
    assert!(raw.bytes(large.len()).await == large, "changed on the way");
}

#[tokio::test]
async fn many_connections_do_not_mix() {
    let origin = tcp_echo().await;
    let app = serving(&origin).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(Raw::connect(app.slot(1)).await);
    }
    for round in 0..3 {
        for (i, client) in clients.iter_mut().enumerate() {
            client.send(format!("{round:03}{i:05}")).await;
        }
        for (i, client) in clients.iter_mut().enumerate() {
            assert_eq!(
                client.bytes(8).await,
                format!("{round:03}{i:05}").as_bytes()
            );
        }
    }
    drop(clients);
    origin.has_no_connection().await;
}

#[tokio::test]
async fn a_clients_half_close_lets_the_answer_come() {
    let origin = Origin::tcp(|mut stream| async move {
        let mut question = String::new();
        // Returns at the end of the client's side, and only then is there an answer.
        stream.read_to_string(&mut question).await.unwrap();
        let answer = format!("you said: {question}");
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes())
            .await
            .unwrap();
    })
    .await;
    let app = serving(&origin).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("hello").await;
    raw.finish().await;
    let (rest, end) = raw.rest().await;
    assert_eq!((&rest[..], end), (&b"you said: hello"[..], End::Closed));
    origin.has_no_connection().await;
}

#[tokio::test]
async fn an_origins_half_close_lets_the_client_go_on() {
    let (said, heard) = tokio::sync::mpsc::channel(1);
    let origin = Origin::tcp(move |mut stream| {
        let said = said.clone();
        async move {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"greeting")
                .await
                .unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut stream)
                .await
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            said.send(text).await.unwrap();
        }
    })
    .await;
    let mut heard = heard;
    let app = serving(&origin).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    let (rest, end) = raw.rest().await;
    assert_eq!((&rest[..], end), (&b"greeting"[..], End::Closed));
    raw.send("goodbye").await;
    raw.finish().await;
    let heard = crate::support::within("the client's words", heard.recv()).await;
    assert_eq!(heard.as_deref(), Some("goodbye"));
}

#[tokio::test]
async fn an_origin_that_refuses_closes_the_client() {
    let (_socket, address) = refusing();
    let circuit = circuit(1).kernel(address).at_slot(1).protocol("tcp");
    let app = TestApp::serving(&[&circuit]).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.ended().await;
}

#[tokio::test]
async fn a_circuit_without_kernels_closes_the_client() {
    let app = TestApp::serving(&[&circuit(1).at_slot(1).protocol("tcp")]).await;
    Raw::connect(app.slot(1)).await.ended().await;
}

#[tokio::test]
async fn a_reset_of_either_side_ends_the_other() {
    let origin = tcp_echo().await;
    let app = serving(&origin).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("x").await;
    raw.bytes(1).await;
    raw.reset();
    origin.has_no_connection().await;

    let resetting = Origin::tcp(|mut stream| async move {
        let mut one = [0; 1];
        stream.read_exact(&mut one).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let app = serving(&resetting).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("x").await;
    raw.ended().await;
}

#[tokio::test]
async fn a_route_update_leaves_open_connections_of_a_kernel_that_stays() {
    let (origin, other) = (tcp_echo().await, tcp_echo().await);
    let circuit = circuit(1).kernel(origin.address).at_slot(1).protocol("tcp");
    let app = TestApp::serving(&[&circuit]).await;
    let mut raw = Raw::connect(app.slot(1)).await;
    raw.send("a").await;
    raw.bytes(1).await;
    app.set_routes(&circuit, &[origin.address, other.address])
        .await;
    raw.send("b").await;
    assert_eq!(raw.bytes(1).await, b"b");
}

/// A TCP proxy to the cluster `a`, and the statistics of the two.
async fn proxying(more: &Value, to: &Value) -> (TestApp, Arc<TcpStats>, Arc<ClusterStats>) {
    let text = bootstrap(
        &[listener("tcp", &tcp("a", more))],
        std::slice::from_ref(to),
    );
    let app = TestApp::bootstrap(&text.to_string()).await;
    let stats = &app.running.stats;
    let (of_proxy, of_cluster) = (stats.tcp("t"), stats.cluster("a"));
    (app, of_proxy, of_cluster)
}

#[tokio::test]
async fn connections_that_come_to_nothing_are_counted_by_cause() {
    let (_socket, nowhere) = refusing();
    let (app, proxy, refused) = proxying(&json!({}), &cluster("a", nowhere)).await;
    Raw::connect(app.listener("tcp")).await.ended().await;
    assert_eq!(proxy.downstream_cx_total.value(), 1);
    assert_eq!(refused.upstream_cx_connect_fail.value(), 1);
    assert_eq!(refused.upstream_cx_connect_timeout.value(), 0);

    // Takes connections and never shakes hands.
    let silent = Origin::tcp(|mut stream| async move {
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let mut slow = cluster("a", silent.address);
    slow["connect_timeout"] = json!("0.1s");
    slow["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    }});
    let (app, _, late) = proxying(&json!({}), &slow).await;
    Raw::connect(app.listener("tcp")).await.ended().await;
    assert_eq!(late.upstream_cx_connect_timeout.value(), 1);

    let mut empty = cluster("a", nowhere);
    empty["load_assignment"]["endpoints"] = json!([]);
    let (app, _, none) = proxying(&json!({}), &empty).await;
    Raw::connect(app.listener("tcp")).await.ended().await;
    assert_eq!(none.upstream_cx_none_healthy.value(), 1);
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_ends() {
    let origin = tcp_echo().await;
    let idle = json!({"idle_timeout": "0.1s"});
    let (app, proxy, _) = proxying(&idle, &cluster("a", origin.address)).await;
    Raw::connect(app.listener("tcp")).await.ended().await;
    eventually("the timeout is counted", || proxy.idle_timeout.value() == 1).await;
    origin.has_no_connection().await;
}

/// The real program at its usual log level, with a TCP proxy to `to`, and where it listens.
async fn program(to: SocketAddr) -> (Program, SocketAddr) {
    let policy = json!({"name": "causeway.connection", "typed_config": {
        "@type": "type.googleapis.com/causeway.v1.ConnectionPolicy", "log": true,
    }});
    let mut listener = listener("tcp", &policy);
    let filters = listener["filter_chains"][0]["filters"].as_array_mut();
    filters.unwrap().push(tcp("a", &json!({})));
    let mut text = bootstrap(&[listener], &[cluster("a", to)]);
    text["admin"] =
        json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}});
    let mut program = Program::start(&["--config-yaml", &text.to_string()]);
    let management = program.management().await;
    let listeners = get(management, "localhost", "/listeners").await.text();
    let at = listeners
        .trim()
        .trim_start_matches("tcp::")
        .parse()
        .unwrap();
    (program, at)
}

#[tokio::test]
async fn attempts_at_endpoints_that_hang_share_one_deadline() {
    let hanging = [
        Hanging::start().await,
        Hanging::start().await,
        Hanging::start().await,
    ];
    let mut to = cluster("a", hanging[0].address);
    // Far longer than all of them may take.
    to["connect_timeout"] = json!("1000s");
    let endpoints = hanging.each_ref().map(|hanging| {
        let address = json!({"address": "127.0.0.1", "port_value": hanging.address.port()});
        json!({"endpoint": {"address": {"socket_address": address}}})
    });
    to["load_assignment"]["endpoints"] = json!([{"lb_endpoints": endpoints}]);
    let policy = json!({"name": "policy", "typed_config": {
        "@type": "type.googleapis.com/causeway.v1.ConnectionPolicy", "connect_deadline_ms": 300,
    }});
    let mut listener = listener("tcp", &policy);
    let filters = listener["filter_chains"][0]["filters"].as_array_mut();
    filters
        .unwrap()
        .push(tcp("a", &json!({"max_connect_attempts": 3})));
    let app = TestApp::bootstrap(&bootstrap(&[listener], &[to]).to_string()).await;
    within("the end", Raw::connect(app.listener("tcp")).await.ended()).await;
    let stats = app.running.stats.cluster("a");
    assert_eq!(stats.upstream_cx_connect_timeout.value(), 3);
    assert_eq!(stats.upstream_cx_connect_attempts_exceeded.value(), 1);
}

#[tokio::test]
async fn a_failure_is_told_with_its_cause_once_in_a_while() {
    let (_socket, nowhere) = refusing();
    let (mut program, at) = program(nowhere).await;
    for _ in 0..20 {
        Raw::connect(at).await.ended().await;
    }
    let output = program.said("connection closed").await;
    let line = output.lines().find(|l| l.contains("connection closed"));
    let line = line.unwrap_or_default();
    for part in ["WARN", "cluster=a", "UF", &nowhere.to_string(), "connect: "] {
        assert!(line.contains(part), "no {part:?}: {line}");
    }
    let told = program.output().matches("connection closed").count();
    assert!(told < 20, "{}", program.output());
}

#[tokio::test]
async fn each_connection_has_a_line_in_the_log_once_it_has_ended() {
    let origin = tcp_echo().await;
    let (mut program, at) = program(origin.address).await;
    let mut raw = Raw::connect(at).await;
    raw.send("hello").await;
    assert_eq!(raw.bytes(5).await, b"hello");
    assert!(!program.output().contains("connection ended"));
    drop(raw);
    let output = program.said("connection ended").await;
    let line = output.lines().find(|l| l.contains("connection ended"));
    let line = line.unwrap_or_default();
    let endpoint = format!("endpoint={}", origin.address);
    let parts = [
        "INFO",
        "cluster=a",
        "peer=127.0.0.1:",
        &endpoint,
        "received=5",
        "sent=5",
    ];
    for part in parts {
        assert!(line.contains(part), "no {part:?}: {line}");
    }
}

/// A kernel that says who it is to everybody who connects.
async fn saying(name: &'static str) -> Origin {
    Origin::tcp(move |mut stream| async move {
        tokio::io::AsyncWriteExt::write_all(&mut stream, name.as_bytes())
            .await
            .ok();
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await
}

async fn said(at: SocketAddr) -> String {
    let mut raw = Raw::connect(at).await;
    String::from_utf8(raw.bytes(1).await).unwrap()
}

fn lb(fields: &Value) -> Value {
    json!({"filter_metadata": {"envoy.lb": fields}})
}

#[tokio::test]
async fn connections_go_to_the_subset_that_is_asked_for() {
    let (a, b) = (saying("a").await, saying("b").await);
    let endpoint = |origin: &Origin, stage: &str| {
        json!({
            "endpoint": {"address": {"socket_address":
                {"address": "127.0.0.1", "port_value": origin.address.port()}}},
            "metadata": lb(&json!({"stage": stage})),
        })
    };
    let mut to = cluster("a", a.address);
    to["lb_subset_config"] = json!({"subset_selectors": [{"keys": ["stage"]}]});
    to["load_assignment"]["endpoints"] =
        json!([{"lb_endpoints": [endpoint(&a, "old"), endpoint(&b, "new")]}]);
    for (stage, name) in [("old", "a"), ("new", "b")] {
        let asked = json!({"metadata_match": lb(&json!({"stage": stage}))});
        let (app, ..) = proxying(&asked, &to).await;
        for _ in 0..6 {
            assert_eq!(said(app.listener("tcp")).await, name, "{stage}");
        }
    }
}

/// A cluster of them, of which a hash chooses one.
fn ring(origins: &[Origin]) -> Value {
    let endpoints: Vec<Value> = origins
        .iter()
        .map(|origin| {
            json!({"endpoint": {"address": {"socket_address":
                {"address": "127.0.0.1", "port_value": origin.address.port()}}}})
        })
        .collect();
    let mut to = cluster("a", origins[0].address);
    to["lb_policy"] = json!("RING_HASH");
    to["load_assignment"]["endpoints"] = json!([{"lb_endpoints": endpoints}]);
    to
}

#[tokio::test]
async fn one_client_stays_with_one_endpoint_where_its_address_is_hashed() {
    let origins = [saying("a").await, saying("b").await, saying("c").await];
    let to = ring(&origins);
    let hashed = json!({"hash_policy": [{"source_ip": {}}]});
    let (app, ..) = proxying(&hashed, &to).await;
    let first = said(app.listener("tcp")).await;
    for _ in 0..20 {
        assert_eq!(said(app.listener("tcp")).await, first);
    }
    // Without it they are spread: 60 connections that meet one endpoint by chance are none.
    let (app, ..) = proxying(&json!({}), &to).await;
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..60 {
        met.insert(said(app.listener("tcp")).await);
    }
    assert!(met.len() > 1, "{met:?}");
}

#[tokio::test]
async fn what_filters_have_left_of_a_connection_can_be_hashed() {
    let origins = [saying("a").await, saying("b").await, saying("c").await];
    let to = ring(&origins);
    let state = |value: &str| {
        json!({"name": "set", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config",
            "on_new_connection": [{"object_key": "who", "factory_key": "envoy.hashable_string",
                "format_string": {"text_format_source": {"inline_string": value}}}],
        }})
    };
    let hashed = tcp(
        "a",
        &json!({"hash_policy": [{"filter_state": {"key": "who"}}]}),
    );
    let mut listeners = Vec::new();
    for number in 0..12 {
        let mut one = listener(&format!("l{number}"), &state(&format!("client {number}")));
        let filters = one["filter_chains"][0]["filters"].as_array_mut();
        filters.unwrap().push(hashed.clone());
        listeners.push(one);
    }
    let app = TestApp::bootstrap(&bootstrap(&listeners, &[to]).to_string()).await;
    let mut met = std::collections::BTreeSet::new();
    for number in 0..12 {
        let at = app.listener(&format!("l{number}"));
        let first = said(at).await;
        for _ in 0..8 {
            assert_eq!(said(at).await, first);
        }
        met.insert(first);
    }
    assert!(met.len() > 1, "texts that differ lead to several: {met:?}");
}

#[tokio::test]
async fn an_endpoint_can_wait_until_the_client_has_spoken() {
    let origin = tcp_echo().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let more = json!({
        "upstream_connect_mode": "ON_DOWNSTREAM_DATA",
        "max_early_data_bytes": 3,
        "access_log": [{"name": "f", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": file,
            "log_format": {"text_format_source": {"inline_string":
                "%ACCESS_LOG_TYPE% %RESPONSE_FLAGS% %BYTES_RECEIVED%\n"}},
        }}],
        "access_log_options": {"flush_access_log_on_start": true},
        "idle_timeout": "0.4s",
    });
    let (app, proxy, stats) = proxying(&more, &cluster("a", origin.address)).await;
    let lines = || std::fs::read_to_string(&file).unwrap_or_default();
    // One that leaves without a word, and one that stays silent.
    let mut gone = Raw::connect(app.listener("tcp")).await;
    gone.finish().await;
    gone.ended().await;
    let mut silent = Raw::connect(app.listener("tcp")).await;
    silent.ended().await;
    eventually("both are logged", || lines().matches("End").count() == 2).await;
    assert!(lines().contains("TcpConnectionEnd SI 0\n"), "{}", lines());
    assert_eq!(proxy.idle_timeout.value(), 1);
    assert_eq!(stats.upstream_cx_total.value(), 0);
    assert_eq!(origin.connections(), 0);

    let mut raw = Raw::connect(app.listener("tcp")).await;
    raw.send("hello").await;
    assert_eq!(raw.bytes(5).await, b"hello");
    raw.finish().await;
    assert_eq!(raw.rest().await, (Vec::new(), End::Closed));
    let end = "TcpConnectionEnd - 5\n";
    eventually("its line", || lines().ends_with(end)).await;
}

#[tokio::test]
async fn a_side_that_nothing_is_sent_to_may_end_a_connection() {
    // Reads, and never answers.
    let sink = Origin::tcp(|mut stream| async move {
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let limit = json!({"downstream_idle_timeout": "0.3s"});
    let (app, proxy, _) = proxying(&limit, &cluster("a", sink.address)).await;
    let mut raw = Raw::connect(app.listener("tcp")).await;
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
    for _ in 0..1000 {
        pace.tick().await;
        if proxy.idle_timeout.value() == 1 || raw.try_send("x").await.is_err() {
            break;
        }
    }
    assert_eq!(
        proxy.idle_timeout.value(),
        1,
        "what the client says does not count"
    );
    sink.has_no_connection().await;

    // The other direction: an endpoint that speaks, and is never spoken to.
    let talker = Origin::tcp(|mut stream| async move {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
        loop {
            pace.tick().await;
            if tokio::io::AsyncWriteExt::write_all(&mut stream, b"x")
                .await
                .is_err()
            {
                break;
            }
        }
    })
    .await;
    let limit = json!({"upstream_idle_timeout": "0.3s"});
    let (app, proxy, _) = proxying(&limit, &cluster("a", talker.address)).await;
    let mut raw = Raw::connect(app.listener("tcp")).await;
    raw.rest().await;
    assert_eq!(proxy.idle_timeout.value(), 1);
    talker.has_no_connection().await;
}

#[tokio::test]
async fn the_access_log_is_written_when_it_is_asked_to_be() {
    let origin = tcp_echo().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let logged = json!({
        "access_log": [{"name": "f", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": file,
            "log_format": {"text_format_source": {"inline_string":
                "%ACCESS_LOG_TYPE% %BYTES_RECEIVED% %UPSTREAM_HOST%\n"}},
        }}],
        "access_log_options": {
            "flush_access_log_on_start": true,
            "flush_access_log_on_connected": true,
            "access_log_flush_interval": "0.02s",
        },
    });
    let (app, ..) = proxying(&logged, &cluster("a", origin.address)).await;
    let mut raw = Raw::connect(app.listener("tcp")).await;
    raw.send("hello").await;
    assert_eq!(raw.bytes(5).await, b"hello");
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    let periodic = format!("TcpPeriodic 5 {}", origin.address);
    eventually("a line while it is open", || text().contains(&periodic)).await;
    drop(raw);
    let end = format!("TcpConnectionEnd 5 {}\n", origin.address);
    eventually("the last line", || text().ends_with(&end)).await;
    let text = text();
    let first: Vec<&str> = text.lines().take(2).collect();
    let connected = format!("TcpUpstreamConnected 0 {}", origin.address);
    assert_eq!(first, ["TcpConnectionStart 0 -", connected.as_str()]);
}
