//! What clients of management servers count, under Envoy's names where there are such.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use causeway_xds::ResourceType;
use causeway_xds::client::load_report::LoadStatus;
use causeway_xds::client::{Status, TypeStatus};

use super::{Counter, Gauge, Value, Visitor};

/// `xds.<origin>.` for each client and type; `control_plane.`, `cluster_manager.cds.` and
/// `listener_manager.lds.` as Envoy has them, of whichever clients ask for these types.
pub fn visit(clients: &[(String, Arc<Status>)], f: &mut Visitor<'_>) {
    if clients.is_empty() {
        return;
    }
    let connected = clients.iter().all(|(_, status)| status.is_connected());
    gauge("control_plane.connected_state", i64::from(connected), f);
    for (origin, status) in clients {
        let scope = format!("xds.{}", origin.trim_start_matches("xds:"));
        let connected = i64::from(status.is_connected());
        gauge(&format!("{scope}.connected_state"), connected, f);
        for kind in ResourceType::ALL {
            let counts = status.of(kind);
            if counts.update_attempt.load(Relaxed) == 0 {
                continue;
            }
            one(&format!("{scope}.{kind}"), counts, f);
            match kind {
                ResourceType::Cluster => one("cluster_manager.cds", counts, f),
                ResourceType::Listener => one("listener_manager.lds", counts, f),
                _ => {}
            }
        }
    }
}

/// `load_reporter.`
pub fn visit_load_reporter(status: &LoadStatus, f: &mut Visitor<'_>) {
    let counters = [
        ("requests", &status.requests),
        ("responses", &status.responses),
        ("errors", &status.errors),
        ("retries", &status.retries),
    ];
    for (name, count) in counters {
        let counter = Counter::default();
        counter.add(count.load(Relaxed));
        f(&format!("load_reporter.{name}"), Value::Counter(&counter));
    }
}

fn one(scope: &str, counts: &TypeStatus, f: &mut Visitor<'_>) {
    let counters = [
        ("update_attempt", &counts.update_attempt),
        ("update_success", &counts.update_success),
        ("update_rejected", &counts.update_rejected),
        ("update_failure", &counts.update_failure),
        ("init_fetch_timeout", &counts.init_fetch_timeout),
        ("bytes", &counts.bytes),
    ];
    for (name, count) in counters {
        let counter = Counter::default();
        counter.add(count.load(Relaxed));
        f(&format!("{scope}.{name}"), Value::Counter(&counter));
    }
    let updated = counts.updated_at.load(Relaxed);
    gauge(&format!("{scope}.update_time"), updated, f);
    gauge(&format!("{scope}.version"), hash(&counts.version()), f);
}

fn gauge(name: &str, value: i64, f: &mut Visitor<'_>) {
    let gauge = Gauge::default();
    gauge.set(value);
    f(name, Value::Gauge(&gauge));
}

/// A number that changes with the version, as a gauge can show no text (FNV-1a).
fn hash(version: &str) -> i64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = version.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    // Kept within what a double can count, since that is what readers of metrics use.
    i64::try_from(hash >> 11).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_client_and_type_that_was_asked_is_shown() {
        let status = Arc::<Status>::default();
        status.set_connected(true);
        let clusters = status.of(ResourceType::Cluster);
        clusters.update_attempt.fetch_add(2, Relaxed);
        clusters.update_success.fetch_add(1, Relaxed);
        let mut seen = BTreeMap::new();
        visit(&[("xds:ads".to_owned(), status)], &mut |name, value| {
            let value = match value {
                Value::Counter(c) => i64::try_from(c.value()).unwrap(),
                Value::Gauge(g) => g.value(),
                Value::Histogram(_) => unreachable!("there is none"),
            };
            seen.insert(name.to_owned(), value);
        });
        assert_eq!(seen["control_plane.connected_state"], 1);
        assert_eq!(seen["xds.ads.cluster.update_attempt"], 2);
        assert_eq!(seen["cluster_manager.cds.update_success"], 1);
        assert!(!seen.keys().any(|name| name.contains("lds")), "{seen:?}");
    }
}
