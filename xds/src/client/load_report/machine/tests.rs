use super::*;
use crate::client::load_report::EndpointLoad;
use crate::resource::load_assignment::Locality;

const SECOND: Duration = Duration::from_secs(1);

fn counts(issued: u64, succeeded: u64, failed: u64) -> Counts {
    Counts {
        issued,
        succeeded,
        failed,
    }
}

fn endpoint(id: u64, counts: Counts, in_progress: u64) -> EndpointLoad {
    EndpointLoad {
        id,
        address: Address::Socket(([10, 0, 0, 1], 80).into()),
        counts,
        in_progress,
    }
}

fn cluster(name: &str, dropped: u64, endpoints: Vec<EndpointLoad>) -> ClusterLoad {
    ClusterLoad {
        name: name.to_owned(),
        service_name: format!("service of {name}"),
        dropped,
        localities: vec![LocalityLoad {
            locality: Locality {
                region: "r".to_owned(),
                ..Locality::default()
            },
            priority: 1,
            endpoints,
        }],
    }
}

fn wish(clusters: &[&str], seconds: i64) -> LoadStatsResponse {
    LoadStatsResponse {
        clusters: clusters.iter().map(|&name| name.to_owned()).collect(),
        load_reporting_interval: Some(proto::Duration { seconds, nanos: 0 }),
        ..LoadStatsResponse::default()
    }
}

fn reports() -> Reports {
    Reports::new(Node {
        id: "n".to_owned(),
        ..Node::default()
    })
}

/// Of the only locality of a cluster: issued, succeeded, failed, in progress.
fn numbers(stats: &ClusterStats) -> [u64; 4] {
    let locality = &stats.upstream_locality_stats[0];
    [
        locality.total_issued_requests,
        locality.total_successful_requests,
        locality.total_error_requests,
        locality.total_requests_in_progress,
    ]
}

#[test]
fn a_report_has_what_happened_since_the_one_before() {
    let now = Instant::now();
    let mut reports = reports();
    let first = reports.connected();
    assert_eq!(first.node.unwrap().id, "n");
    assert!(first.cluster_stats.is_empty() && reports.due().is_none());

    let load = |dropped, a, b| cluster("c", dropped, vec![endpoint(1, a, 2), endpoint(2, b, 0)]);
    let before = load(7, counts(100, 90, 8), counts(0, 0, 0));
    reports.receive(
        wish(&["c"], 3),
        |of| {
            assert!(of.contains("c") && !of.contains("d"));
            vec![before]
        },
        now,
    );
    assert_eq!(reports.due(), Some(now + 3 * SECOND));

    let later = now + 4 * SECOND;
    let sent = reports.report(&[load(9, counts(105, 93, 9), counts(2, 2, 0))], later);
    assert!(sent.node.is_none());
    let stats = &sent.cluster_stats[0];
    assert_eq!(stats.cluster_name, "c");
    assert_eq!(stats.cluster_service_name, "service of c");
    assert_eq!(stats.total_dropped_requests, 2);
    assert_eq!(stats.load_report_interval.as_ref().unwrap().seconds, 4);
    assert_eq!(numbers(stats), [7, 5, 1, 2]);
    let locality = &stats.upstream_locality_stats[0];
    assert_eq!(locality.priority, 1);
    assert_eq!(locality.locality.as_ref().unwrap().region, "r");
    assert!(locality.upstream_endpoint_stats.is_empty(), "not asked for");
    assert_eq!(reports.due(), Some(later + 3 * SECOND));

    let quiet = cluster("c", 9, vec![endpoint(1, counts(105, 93, 9), 0)]);
    let sent = reports.report(&[quiet], later + SECOND);
    assert!(sent.cluster_stats[0].upstream_locality_stats.is_empty());
    assert_eq!(sent.cluster_stats[0].total_dropped_requests, 0);
}

#[test]
fn endpoints_are_told_apart_when_the_server_asks_for_it() {
    let now = Instant::now();
    let mut reports = reports();
    let wish = LoadStatsResponse {
        send_all_clusters: true,
        report_endpoint_granularity: true,
        ..wish(&[], 1)
    };
    reports.receive(
        wish,
        |of| {
            assert_eq!(*of, Selection::All);
            vec![cluster("c", 0, vec![endpoint(1, counts(5, 5, 0), 0)])]
        },
        now,
    );
    // The second endpoint is a new one at the address of the first: all it has counts.
    let now = now + SECOND;
    let sent = reports.report(
        &[cluster("c", 0, vec![endpoint(2, counts(3, 2, 1), 0)])],
        now,
    );
    let locality = &sent.cluster_stats[0].upstream_locality_stats[0];
    let [one] = &locality.upstream_endpoint_stats[..] else {
        panic!("one endpoint: {locality:?}");
    };
    assert_eq!(one.total_issued_requests, 3);
    assert_eq!(one.total_error_requests, 1);
    assert_eq!(
        one.address,
        Some(message(&Address::Socket(([10, 0, 0, 1], 80).into())))
    );
}

#[test]
fn a_new_stream_loses_nothing() {
    let now = Instant::now();
    let mut reports = reports();
    let load = |issued| {
        vec![cluster(
            "c",
            0,
            vec![endpoint(1, counts(issued, issued, 0), 0)],
        )]
    };
    reports.receive(wish(&["c"], 1), |_| load(10), now);
    reports.connected();
    assert!(reports.selection().is_none() && reports.due().is_none());
    let again = now + 10 * SECOND;
    reports.receive(wish(&["c"], 5), |_| load(14), again);
    let sent = reports.report(&load(15), again + 5 * SECOND);
    assert_eq!(numbers(&sent.cluster_stats[0]), [5, 5, 0, 0]);
    let interval = sent.cluster_stats[0].load_report_interval.as_ref().unwrap();
    assert_eq!(interval.seconds, 15);
}

#[test]
fn a_cluster_that_comes_up_is_told_from_the_next_interval_on() {
    let now = Instant::now();
    let mut reports = reports();
    let load = |issued| cluster("c", 0, vec![endpoint(1, counts(issued, 0, 0), 0)]);
    reports.receive(wish(&["c", "d"], 1), |_| Vec::new(), now);
    let sent = reports.report(&[load(4)], now + SECOND);
    assert!(sent.cluster_stats.is_empty());
    let sent = reports.report(&[load(6)], now + 2 * SECOND);
    assert_eq!(numbers(&sent.cluster_stats[0]), [2, 0, 0, 0]);
    // Gone, and back: begun anew.
    assert!(
        reports
            .report(&[], now + 3 * SECOND)
            .cluster_stats
            .is_empty()
    );
    assert!(
        reports
            .report(&[load(9)], now + 4 * SECOND)
            .cluster_stats
            .is_empty()
    );
}

#[test]
fn intervals_have_bounds() {
    let now = Instant::now();
    let mut reports = reports();
    for (seconds, due) in [
        (0, Some(now + MIN_INTERVAL)),
        (-1, Some(now + MIN_INTERVAL)),
        (i64::MAX, None),
    ] {
        reports.receive(wish(&[], seconds), |_| Vec::new(), now);
        assert_eq!(reports.due(), due, "{seconds}");
    }
}

#[test]
fn a_count_that_began_anew_is_what_it_says() {
    assert_eq!(since(5, 3), 2);
    assert_eq!(since(2, 3), 2);
}
