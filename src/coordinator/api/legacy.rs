//! Metrics under the names that dashboards of the Python worker use, with right values.
//!
//! The source of the figures is a snapshot, [`LegacyCounts`], taken at each scrape. A figure that
//! nobody has is left out: a series that is always 0 says that nothing happens.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::exposition::{Distribution, Exposition, Labels};
use crate::coordinator::created::protocol_label;
use crate::coordinator::link::LinkStatus;
use crate::coordinator::model::Circuit;
use crate::coordinator::translate::names;
use crate::coordinator::{Circuits, Created};
use crate::telemetry::stats::{BUCKETS, HttpStats, Stats, Value};

/// Takes the snapshot.
pub trait CountLegacy: Send + Sync {
    fn counts(&self) -> BoxFuture<'_, LegacyCounts>;
}

/// What has been counted since the start of the process.
#[derive(Clone, Debug, Default)]
pub struct LegacyCounts {
    pub upstream: Vec<Upstream>,
    pub http: Requests,
    pub websocket: Tunnels,
    pub tcp: Tunnels,
    /// By the label `protocol`.
    pub circuits_created: Vec<(&'static str, u64)>,
    pub circuits_alive: Vec<(&'static str, u64)>,
    /// Events that were handled, by name.
    pub events: Vec<(&'static str, u64)>,
}

/// Requests to one kernel, as one of its users counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// What counts, such as a cluster. One that vanishes leaves its figures to its remote.
    pub counter: String,
    /// `host:port` of the kernel; `None` if the counter cannot tell its kernels apart.
    pub remote: Option<String>,
    pub sent: u64,
    pub received: u64,
}

/// Requests of clients, WebSockets aside.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    pub received: u64,
    pub answered: u64,
    pub pending: u64,
    /// In seconds.
    pub durations: Option<Distribution>,
}

/// WebSockets, or TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    pub opened: u64,
    pub open: u64,
    /// Both directions together, each byte once; `None` if nobody counts.
    pub bytes: Option<u64>,
}

/// Kernels come and go for as long as the process runs; series for more of them than this would
/// be of no use to anybody.
const MAX_REMOTES: usize = 1000;
const OTHER: &str = "other";

/// Requests by kernel. Kept between scrapes, because a counter must not fall when the circuit that
/// counted goes away.
#[derive(Debug, Default)]
pub struct Remotes {
    totals: BTreeMap<String, (u64, u64)>,
    /// What each counter showed last.
    last: HashMap<String, (u64, u64)>,
}

impl Remotes {
    pub fn add(&mut self, counters: &[Upstream]) {
        let mut seen = HashMap::with_capacity(counters.len());
        for counter in counters {
            let now = (counter.sent, counter.received);
            let before = self.last.get(&counter.counter).copied().unwrap_or_default();
            // Less than before: it began anew.
            let grown = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            let remote = counter.remote.as_deref().unwrap_or(OTHER);
            let known = self.totals.contains_key(remote) || self.totals.len() < MAX_REMOTES;
            let remote = if known { remote } else { OTHER };
            let total = self.totals.entry(remote.to_owned()).or_default();
            total.0 += grown(now.0, before.0);
            total.1 += grown(now.1, before.1);
            seen.insert(counter.counter.clone(), now);
        }
        self.last = seen;
    }
}

const NO_LABELS: Labels<'static> = &[];
/// Clients are not told apart: anybody on the Internet would be a series.
const ANY_CLIENT: Labels<'static> = &[("remote", "")];

pub(super) fn write(out: &mut Exposition, counts: &LegacyCounts, remotes: &Remotes) {
    write_upstream(out, remotes);
    write_http(out, &counts.http);
    write_tunnels(out, "ws", "WebSockets", &counts.websocket);
    write_tunnels(out, "tcp", "TCP connections", &counts.tcp);
    let by_protocol =
        |rows: &[(&'static str, u64)]| -> Vec<([(&'static str, &'static str); 1], u64)> {
            let empty = [([("protocol", "")], 0)];
            let rows = rows
                .iter()
                .map(|(protocol, n)| ([("protocol", *protocol)], *n));
            empty.into_iter().chain(rows).collect()
        };
    let created = by_protocol(&counts.circuits_created);
    out.counter(
        "appproxy_circuits_created",
        "Circuits that were created.",
        created.iter().map(|(labels, n)| (&labels[..], *n)),
    );
    let alive = by_protocol(&counts.circuits_alive);
    out.gauge(
        "appproxy_alive_circuits",
        "Circuits that are in force.",
        alive.iter().map(|(labels, n)| (&labels[..], *n)),
    );
    let events: Vec<_> = counts
        .events
        .iter()
        .map(|(name, n)| ([("event_type", *name)], *n))
        .collect();
    out.counter(
        "backendai_event_count",
        "Events that were handled.",
        events.iter().map(|(labels, n)| (&labels[..], *n)),
    );
}

fn write_upstream(out: &mut Exposition, remotes: &Remotes) {
    let totals = remotes.totals.iter().map(|(r, n)| (r.as_str(), *n));
    let rows: Vec<_> = std::iter::once(("", (0, 0)))
        .chain(totals)
        .map(|(remote, n)| ([("remote", remote)], n))
        .collect();
    out.counter(
        "appproxy_upstream_request_sent_http",
        "Requests that were sent to kernels.",
        rows.iter().map(|(labels, (sent, _))| (&labels[..], *sent)),
    );
    out.counter(
        "appproxy_upstream_response_received_http",
        "Responses that kernels gave.",
        rows.iter()
            .map(|(labels, (_, received))| (&labels[..], *received)),
    );
}

fn write_http(out: &mut Exposition, http: &Requests) {
    out.counter(
        "appproxy_requests_received_http",
        "Requests of clients.",
        [(ANY_CLIENT, http.received)],
    );
    out.counter(
        "appproxy_responses_sent_http",
        "Responses that clients were given.",
        [(ANY_CLIENT, http.answered)],
    );
    out.gauge(
        "appproxy_pending_requests_http",
        "Requests that are under way.",
        [(ANY_CLIENT, http.pending)],
    );
    out.histogram(
        "appproxy_proxy_request_iteration_duration_http",
        "How long requests took, WebSockets included, in seconds.",
        http.durations
            .iter()
            .map(|durations| (ANY_CLIENT, durations)),
    );
}

fn write_tunnels(out: &mut Exposition, kind: &str, what: &str, tunnels: &Tunnels) {
    let one = |value| [(NO_LABELS, value)];
    out.counter(
        &format!("appproxy_connections_established_{kind}"),
        &format!("{what} that were opened."),
        one(tunnels.opened),
    );
    out.counter(
        &format!("appproxy_connections_closed_{kind}"),
        &format!("{what} that have ended."),
        one(tunnels.opened.saturating_sub(tunnels.open)),
    );
    out.gauge(
        &format!("appproxy_pending_connections_{kind}"),
        &format!("{what} that are open."),
        one(tunnels.open),
    );
    out.counter(
        &format!("appproxy_connection_processed_traffics_{kind}"),
        &format!("Bytes that {what} carried, both ways together."),
        tunnels.bytes.map(|bytes| (NO_LABELS, bytes)),
    );
}

/// The snapshot from the statistics of the data plane and the circuits in force.
pub struct FromStats {
    stats: Arc<Stats>,
    circuits: Arc<Circuits>,
    /// `None`: there is no event bus.
    link: Option<LinkStatus>,
    /// For a scrape that comes while a change is under way.
    last: Mutex<Vec<Arc<Circuit>>>,
}

/// A scrape does not wait longer than this for a change of the circuits.
const PATIENCE: Duration = Duration::from_secs(1);

impl FromStats {
    pub fn new(stats: Arc<Stats>, circuits: Arc<Circuits>, link: Option<LinkStatus>) -> Self {
        Self {
            stats,
            circuits,
            link,
            last: Mutex::default(),
        }
    }
}

impl CountLegacy for FromStats {
    fn counts(&self) -> BoxFuture<'_, LegacyCounts> {
        Box::pin(async move {
            let listed = tokio::time::timeout(PATIENCE, self.circuits.list()).await;
            let circuits = {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                if let Ok((_, circuits)) = listed {
                    *last = circuits;
                }
                last.clone()
            };
            let mut counts = count(&self.stats, &circuits, self.circuits.created());
            if let Some(link) = &self.link {
                let counters = link.report().counters;
                counts.events = vec![
                    ("appproxy_circuit_created_event", counters.events_created),
                    (
                        "appproxy_circuit_route_updated_event",
                        counters.events_routes_updated,
                    ),
                    ("appproxy_circuit_removed_event", counters.events_removed),
                ];
            }
            counts
        })
    }
}

fn count(stats: &Stats, circuits: &[Arc<Circuit>], created: &Created) -> LegacyCounts {
    let mut alive = BTreeMap::<&'static str, u64>::new();
    let by_cluster: HashMap<String, &Circuit> = circuits
        .iter()
        .map(|circuit| (names::circuit(circuit.id), &**circuit))
        .collect();
    for circuit in circuits {
        *alive.entry(protocol_label(circuit.protocol)).or_default() += 1;
    }
    let mut upstream = Vec::new();
    let mut tcp_open = 0;
    for (name, cluster) in stats.clusters() {
        let Some(circuit) = by_cluster.get(&name) else {
            continue;
        };
        let traffic = cluster.traffic.seen();
        if circuit.protocol.is_http() {
            upstream.push(Upstream {
                remote: only_kernel(circuit),
                sent: traffic.upstream_rq_total.value(),
                // Each response is timed, and nothing else is.
                received: traffic.upstream_rq_time.cumulative().1,
                counter: name,
            });
        } else {
            tcp_open += positive(traffic.upstream_cx_active.value());
        }
    }
    let (http, websocket) = requests(stats);
    let tcp = stats.tcp_proxies();
    let tcp = Tunnels {
        opened: tcp.iter().map(|(_, t)| t.downstream_cx_total.value()).sum(),
        open: tcp_open,
        bytes: Some(
            tcp.iter()
                .map(|(_, t)| {
                    t.downstream_cx_rx_bytes_total.value() + t.downstream_cx_tx_bytes_total.value()
                })
                .sum(),
        ),
    };
    LegacyCounts {
        upstream,
        http,
        websocket,
        tcp,
        circuits_created: created.counts(),
        circuits_alive: alive.into_iter().collect(),
        events: Vec::new(),
    }
}

/// Statistics are by circuit; that is by kernel only where there is one.
fn only_kernel(circuit: &Circuit) -> Option<String> {
    match &circuit.routes[..] {
        [kernel] => kernel.address.map(|at| at.to_string()),
        _ => None,
    }
}

fn requests(stats: &Stats) -> (Requests, Tunnels) {
    let mut requests = Requests::default();
    let mut tunnels = Tunnels::default();
    let mut durations = Distribution {
        buckets: BUCKETS.iter().map(|ms| (ms / 1000.0, 0)).collect(),
        ..Distribution::default()
    };
    for (prefix, http) in stats.http_managers() {
        if !names::FRONTENDS.contains(&prefix.as_str()) {
            continue;
        }
        tunnels.opened += http.downstream_cx_upgrades_total.value();
        tunnels.open += positive(http.downstream_cx_upgrades_active.value());
        requests.received += http.downstream_rq_total.value();
        requests.pending += positive(http.downstream_rq_active.value());
        requests.answered += answered(&http);
        let (counts, total, ms) = http.downstream_rq_time.cumulative();
        for (bucket, count) in durations.buckets.iter_mut().zip(counts) {
            bucket.1 += count;
        }
        durations.count += total;
        durations.sum += ms as f64 / 1000.0;
    }
    // An upgraded request is under way until its tunnel ends, and counts there.
    requests.received = requests.received.saturating_sub(tunnels.opened);
    requests.pending = requests.pending.saturating_sub(tunnels.open);
    let ended = tunnels.opened.saturating_sub(tunnels.open);
    requests.answered = requests.answered.saturating_sub(ended);
    durations
        .buckets
        .retain(|(bound, _)| LEGACY_BOUNDS.contains(bound));
    requests.durations = Some(durations);
    (requests, tunnels)
}

/// Of the legacy bounds, .075, .75 and 7.5 are missing: the data plane does not count by them.
const LEGACY_BOUNDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

fn answered(http: &HttpStats) -> u64 {
    let mut sum = 0;
    http.visit(&mut |name, value| {
        if let (Some("xx"), Value::Counter(count)) = (name.get(name.len() - 2..), value)
            && name.starts_with("downstream_rq_")
        {
            sum += count.value();
        }
    });
    sum
}

fn positive(gauge: i64) -> u64 {
    u64::try_from(gauge).unwrap_or(0)
}

#[cfg(test)]
mod tests;
