use super::*;
use crate::coordinator::model::Protocol;
use crate::coordinator::testing::circuit;

fn upstream(counter: &str, remote: Option<&str>, sent: u64, received: u64) -> Upstream {
    Upstream {
        counter: counter.to_owned(),
        remote: remote.map(str::to_owned),
        sent,
        received,
    }
}

fn text(counts: &LegacyCounts) -> String {
    let mut remotes = Remotes::default();
    remotes.add(&counts.upstream);
    let mut out = Exposition::default();
    write(&mut out, counts, &remotes);
    out.into_text()
}

#[test]
fn counters_of_a_kernel_never_fall() {
    let mut remotes = Remotes::default();
    remotes.add(&[
        upstream("a", Some("k:1"), 5, 4),
        upstream("b", Some("k:1"), 1, 1),
    ]);
    remotes.add(&[upstream("a", Some("k:1"), 7, 7)]);
    assert_eq!(remotes.totals["k:1"], (8, 8), "what b counted is kept");
    remotes.add(&[
        upstream("a", Some("k:1"), 2, 1),
        upstream("b", Some("k:1"), 1, 1),
    ]);
    assert_eq!(
        remotes.totals["k:1"],
        (11, 10),
        "a began anew, and so did b"
    );
    remotes.add(&[upstream("a", Some("k:2"), 3, 1)]);
    assert_eq!(remotes.totals["k:2"], (1, 0), "a moved to another kernel");
}

#[test]
fn there_are_only_so_many_remotes() {
    let mut remotes = Remotes::default();
    let many: Vec<Upstream> = (0..MAX_REMOTES + 5)
        .map(|i| upstream(&i.to_string(), Some(&format!("k:{i}")), 1, 1))
        .collect();
    remotes.add(&many);
    assert_eq!(remotes.totals.len(), MAX_REMOTES + 1);
    assert_eq!(remotes.totals[OTHER], (5, 5));
}

#[test]
fn names_are_those_of_the_python_worker() {
    let counts = LegacyCounts {
        upstream: vec![
            upstream("a", Some("10.0.0.1:8001"), 3, 2),
            upstream("b", None, 1, 1),
        ],
        http: Requests {
            received: 9,
            answered: 8,
            pending: 1,
            durations: Some(Distribution {
                buckets: vec![(0.005, 7)],
                count: 8,
                sum: 1.5,
            }),
        },
        websocket: Tunnels {
            opened: 4,
            open: 1,
            bytes: None,
        },
        tcp: Tunnels {
            opened: 2,
            open: 2,
            bytes: Some(77),
        },
        circuits_created: vec![("HTTP", 6)],
        circuits_alive: vec![("TCP", 1)],
        events: vec![("appproxy_circuit_created_event", 6)],
    };
    let text = text(&counts);
    for line in [
        "appproxy_upstream_request_sent_http_total{remote=\"\"} 0",
        "appproxy_upstream_request_sent_http_total{remote=\"10.0.0.1:8001\"} 3",
        "appproxy_upstream_request_sent_http_total{remote=\"other\"} 1",
        "appproxy_upstream_response_received_http_total{remote=\"10.0.0.1:8001\"} 2",
        "appproxy_requests_received_http_total{remote=\"\"} 9",
        "appproxy_responses_sent_http_total{remote=\"\"} 8",
        "appproxy_pending_requests_http{remote=\"\"} 1",
        "# TYPE appproxy_proxy_request_iteration_duration_http histogram",
        "appproxy_proxy_request_iteration_duration_http_bucket{remote=\"\",le=\"0.005\"} 7",
        "appproxy_proxy_request_iteration_duration_http_count{remote=\"\"} 8",
        "appproxy_connections_established_ws_total 4",
        "appproxy_connections_closed_ws_total 3",
        "appproxy_pending_connections_ws 1",
        "appproxy_connections_established_tcp_total 2",
        "appproxy_connections_closed_tcp_total 0",
        "appproxy_pending_connections_tcp 2",
        "appproxy_connection_processed_traffics_tcp_total 77",
        "appproxy_circuits_created_total{protocol=\"\"} 0",
        "appproxy_circuits_created_total{protocol=\"HTTP\"} 6",
        "appproxy_alive_circuits{protocol=\"TCP\"} 1",
        "backendai_event_count_total{event_type=\"appproxy_circuit_created_event\"} 6",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    assert!(
        !text.contains("processed_traffics_ws"),
        "nobody counts those bytes"
    );
}

#[test]
fn figures_come_from_the_statistics_of_the_frontends() {
    let stats = Stats::default();
    let mut shared = circuit(1, "a");
    shared.routes.push(shared.routes[0].clone());
    let lone = circuit(2, "b");
    let mut tcp = circuit(3, "c");
    tcp.protocol = Protocol::Tcp;
    for (number, circuit) in [&shared, &lone, &tcp].into_iter().enumerate() {
        let cluster = stats.cluster(names::circuit(circuit.id));
        for _ in 0..=number {
            cluster.upstream_rq_total.inc();
            cluster.upstream_cx_active.inc();
        }
        cluster.upstream_rq_time.observe(1);
    }
    stats.cluster("not/ours").upstream_rq_total.inc();
    stats.http("admin").downstream_rq_total.add(99);
    for (prefix, ms) in [("slot", 4), ("path", 70), ("wildcard", 900)] {
        let http = stats.http(prefix);
        http.downstream_rq_total.add(3);
        http.downstream_rq_active.inc();
        http.downstream_rq.record(200);
        http.downstream_rq.record(404);
        http.downstream_rq_time.observe(ms);
    }
    // One of the requests under way has become a WebSocket.
    stats.http("slot").downstream_cx_upgrades_total.inc();
    stats.http("slot").downstream_cx_upgrades_active.inc();
    let proxy = stats.tcp("slot");
    proxy.downstream_cx_total.add(5);
    proxy.downstream_cx_rx_bytes_total.add(10);
    proxy.downstream_cx_tx_bytes_total.add(20);

    let created = Created::default();
    created.note(Protocol::Http);
    let circuits = [shared, lone, tcp].map(Arc::new);
    let counts = count(&stats, &circuits, &created);
    assert_eq!(
        counts.upstream,
        [
            upstream(&names::circuit(circuits[0].id), None, 1, 1),
            upstream(&names::circuit(circuits[1].id), Some("10.0.0.1:8002"), 2, 1),
        ]
    );
    let http = &counts.http;
    assert_eq!((http.received, http.answered, http.pending), (8, 6, 2));
    let durations = http.durations.as_ref().unwrap();
    assert_eq!(durations.buckets.len(), LEGACY_BOUNDS.len());
    assert_eq!(durations.buckets[0], (0.005, 1));
    assert_eq!(durations.buckets[4], (0.1, 2));
    assert_eq!(durations.buckets[7], (1.0, 3));
    assert_eq!((durations.count, durations.sum), (3, 0.974));
    assert_eq!((counts.websocket.opened, counts.websocket.open), (1, 1));
    let tcp = Tunnels {
        opened: 5,
        open: 3,
        bytes: Some(30),
    };
    assert_eq!(counts.tcp, tcp);
    assert_eq!(counts.circuits_alive, [("HTTP", 2), ("TCP", 1)]);
    assert!(counts.circuits_created.contains(&("HTTP", 1)));
}
