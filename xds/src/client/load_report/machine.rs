//! The protocol of load reports. Messages and time go in, messages come out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{ClusterLoad, Counts, LocalityLoad, MIN_INTERVAL, Selection};
use crate::proto;
use crate::proto::core::{self, Node, address, socket_address::PortSpecifier};
use crate::proto::endpoint::{ClusterStats, UpstreamEndpointStats, UpstreamLocalityStats};
use crate::proto::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use crate::resource::Address;

/// What is to be reported, and what was.
#[derive(Debug)]
pub(super) struct Reports {
    node: Node,
    /// What the server of this stream wants; `None` before it has said so.
    order: Option<Order>,
    tracked: HashMap<String, Tracked>,
    /// When the next report is due.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Order {
    clusters: Selection,
    interval: Duration,
    each_endpoint: bool,
}

/// The counts of a cluster that were reported last, or at which counting began.
#[derive(Debug)]
struct Tracked {
    since: Instant,
    dropped: u64,
    endpoints: HashMap<u64, Counts>,
}

impl Reports {
    pub(super) fn new(node: Node) -> Self {
        Self {
            node,
            order: None,
            tracked: HashMap::new(),
            due: None,
        }
    }

    /// A new stream. Returns its first message, which says who reports. What was counted meanwhile is
    /// part of the first report about a cluster that the server wants again.
    pub(super) fn connected(&mut self) -> LoadStatsRequest {
        self.order = None;
        self.due = None;
        LoadStatsRequest {
            node: Some(self.node.clone()),
            cluster_stats: Vec::new(),
        }
    }

    /// Takes what the server wants. `loads` gives the clusters of a selection.
    pub(super) fn receive(
        &mut self,
        response: LoadStatsResponse,
        loads: impl FnOnce(&Selection) -> Vec<ClusterLoad>,
        now: Instant,
    ) {
        let LoadStatsResponse {
            clusters,
            send_all_clusters,
            load_reporting_interval,
            report_endpoint_granularity,
        } = response;
        let clusters = match send_all_clusters {
            true => Selection::All,
            false => Selection::Named(clusters.into_iter().collect()),
        };
        let interval = load_reporting_interval.and_then(|d| {
            let (seconds, nanos) = (u64::try_from(d.seconds), u32::try_from(d.nanos));
            Some(Duration::new(seconds.ok()?, nanos.ok()?))
        });
        let order = Order {
            clusters,
            interval: interval.unwrap_or_default().max(MIN_INTERVAL),
            each_endpoint: report_endpoint_granularity,
        };
        let loads = loads(&order.clusters);
        self.order = Some(order);
        self.begin(&loads, now);
    }

    /// What is to be looked at for the next report; `None` when none is wanted.
    pub(super) fn selection(&self) -> Option<&Selection> {
        self.order.as_ref().map(|order| &order.clusters)
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What happened since the last report. A cluster that came up in between is part of the next.
    pub(super) fn report(&mut self, loads: &[ClusterLoad], now: Instant) -> LoadStatsRequest {
        let each = self.order.as_ref().is_some_and(|order| order.each_endpoint);
        let tell =
            |load: &ClusterLoad| Some(self.tracked.get_mut(&load.name)?.tell(load, each, now));
        let cluster_stats = loads.iter().filter_map(tell).collect();
        self.begin(loads, now);
        LoadStatsRequest {
            node: None,
            cluster_stats,
        }
    }

    /// Starts an interval: what is new counts from now on, what is gone is forgotten.
    fn begin(&mut self, loads: &[ClusterLoad], now: Instant) {
        let mut before = std::mem::take(&mut self.tracked);
        let tracked = loads.iter().map(|load| {
            let known = before.remove(&load.name);
            let tracked = known.unwrap_or_else(|| Tracked::from_now(load, now));
            (load.name.clone(), tracked)
        });
        self.tracked = tracked.collect();
        // An interval beyond the end of time is none.
        let next = |order: &Order| now.checked_add(order.interval);
        self.due = self.order.as_ref().and_then(next);
    }
}

impl Tracked {
    fn from_now(load: &ClusterLoad, now: Instant) -> Self {
        Self {
            since: now,
            dropped: load.dropped,
            endpoints: counts(load),
        }
    }

    fn tell(&mut self, load: &ClusterLoad, each_endpoint: bool, now: Instant) -> ClusterStats {
        let told = |locality| self.locality(locality, each_endpoint);
        let stats = ClusterStats {
            cluster_name: load.name.clone(),
            cluster_service_name: load.service_name.clone(),
            upstream_locality_stats: load.localities.iter().filter_map(told).collect(),
            total_dropped_requests: since(load.dropped, self.dropped),
            dropped_requests: Vec::new(),
            load_report_interval: Some(duration(now.saturating_duration_since(self.since))),
        };
        *self = Self::from_now(load, now);
        stats
    }

    /// Nothing where nothing happened.
    fn locality(&self, load: &LocalityLoad, each_endpoint: bool) -> Option<UpstreamLocalityStats> {
        let mut stats = UpstreamLocalityStats {
            locality: Some(core::Locality {
                region: load.locality.region.clone(),
                zone: load.locality.zone.clone(),
                sub_zone: load.locality.sub_zone.clone(),
            }),
            priority: load.priority,
            ..UpstreamLocalityStats::default()
        };
        let mut any = false;
        for endpoint in &load.endpoints {
            let told = self
                .endpoints
                .get(&endpoint.id)
                .copied()
                .unwrap_or_default();
            let issued = since(endpoint.counts.issued, told.issued);
            let succeeded = since(endpoint.counts.succeeded, told.succeeded);
            let failed = since(endpoint.counts.failed, told.failed);
            let in_progress = endpoint.in_progress;
            if issued == 0 && succeeded == 0 && failed == 0 && in_progress == 0 {
                continue;
            }
            any = true;
            stats.total_issued_requests += issued;
            stats.total_successful_requests += succeeded;
            stats.total_error_requests += failed;
            stats.total_requests_in_progress += in_progress;
            if each_endpoint {
                stats.upstream_endpoint_stats.push(UpstreamEndpointStats {
                    address: Some(message(&endpoint.address)),
                    total_issued_requests: issued,
                    total_successful_requests: succeeded,
                    total_error_requests: failed,
                    total_requests_in_progress: in_progress,
                    ..UpstreamEndpointStats::default()
                });
            }
        }
        any.then_some(stats)
    }
}

/// A count that has become less began anew.
const fn since(now: u64, told: u64) -> u64 {
    match now.checked_sub(told) {
        Some(more) => more,
        None => now,
    }
}

fn duration(time: Duration) -> proto::Duration {
    proto::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
    }
}

fn counts(load: &ClusterLoad) -> HashMap<u64, Counts> {
    let endpoints = load.localities.iter().flat_map(|l| &l.endpoints);
    endpoints.map(|e| (e.id, e.counts)).collect()
}

fn message(address: &Address) -> core::Address {
    let socket = |address: String, port: u16| {
        address::Address::SocketAddress(core::SocketAddress {
            address,
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..core::SocketAddress::default()
        })
    };
    let address = match address {
        Address::Socket(at) => socket(at.ip().to_string(), at.port()),
        Address::Named { host, port } => socket(host.clone(), *port),
        Address::Pipe(path) => address::Address::Pipe(core::Pipe {
            path: path.display().to_string(),
            mode: 0,
        }),
    };
    core::Address {
        address: Some(address),
    }
}

#[cfg(test)]
mod tests;
