//! Counters, gauges and histograms under Envoy's names.
//!
//! Handles are resolved once, when a snapshot is compiled, and stored beside what they count; the
//! request path never looks a metric up by name. [`Stats`] owns them by identity (stat prefix,
//! cluster, listener), so that they outlive every snapshot that shows the same identity.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use causeway_xds::client;
use causeway_xds::client::load_report::LoadStatus;

mod circuit_breakers;
mod groups;
mod management;
mod metric;
mod named;

pub use circuit_breakers::{CircuitBreakers, Room};
pub use groups::*;
pub use metric::{BUCKETS, Codes, Counter, Gauge, Histogram, Value, Visitor};
pub use named::Named;

/// Names are shared with what they are of, where that is many.
type Scopes<T> = Mutex<BTreeMap<Arc<str>, Arc<T>>>;

/// All statistics of the process.
#[derive(Debug, Default)]
pub struct Stats {
    http: Scopes<HttpStats>,
    clusters: Scopes<ClusterStats>,
    health_checks: Scopes<HealthCheckStats>,
    outliers: Scopes<OutlierStats>,
    listeners: Scopes<ListenerStats>,
    listener_http: Scopes<ListenerHttpStats>,
    tcp: Scopes<TcpStats>,
    acme: Scopes<AcmeStats>,
    filter_configs: Scopes<FilterConfigStats>,
    /// Of filters, by the beginning of their names up to a dot.
    named: Scopes<Named>,
    /// Clients of management servers, by origin.
    management: Scopes<client::Status>,
    /// Of all reporters of load together; Envoy has one. Shown once there is one.
    load_reporter: OnceLock<Arc<LoadStatus>>,
    pub listener_manager: ListenerManagerStats,
    pub cluster_manager: ClusterManagerStats,
    pub pipeline: PipelineStats,
}

fn handle<T: Default>(scopes: &Scopes<T>, name: impl AsRef<str> + Into<Arc<str>>) -> Arc<T> {
    let mut scopes = scopes.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = scopes.get(name.as_ref()) {
        return Arc::clone(found);
    }
    let made = Arc::<T>::default();
    scopes.insert(name.into(), Arc::clone(&made));
    made
}

fn forget<T>(scopes: &Scopes<T>, name: &str) {
    scopes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(name);
}

fn copy<T>(scopes: &Scopes<T>) -> Vec<(String, Arc<T>)> {
    let scopes = scopes.lock().unwrap_or_else(PoisonError::into_inner);
    scopes
        .iter()
        .map(|(name, stats)| (name.to_string(), Arc::clone(stats)))
        .collect()
}

impl Stats {
    pub fn http(&self, stat_prefix: &str) -> Arc<HttpStats> {
        handle(&self.http, stat_prefix)
    }
    pub fn cluster(&self, name: impl AsRef<str> + Into<Arc<str>>) -> Arc<ClusterStats> {
        handle(&self.clusters, name)
    }
    pub fn health_check(&self, cluster: impl AsRef<str> + Into<Arc<str>>) -> Arc<HealthCheckStats> {
        handle(&self.health_checks, cluster)
    }
    pub fn forget_health_check(&self, cluster: &str) {
        forget(&self.health_checks, cluster);
    }
    pub fn outlier_detection(&self, cluster: &str) -> Arc<OutlierStats> {
        handle(&self.outliers, format!("{cluster}.outlier_detection"))
    }
    pub fn forget_outlier_detection(&self, cluster: &str) {
        forget(&self.outliers, &format!("{cluster}.outlier_detection"));
    }
    pub fn listener(&self, name: &str) -> Arc<ListenerStats> {
        handle(&self.listeners, name)
    }
    pub fn listener_http(&self, listener: &str, stat_prefix: &str) -> Arc<ListenerHttpStats> {
        handle(
            &self.listener_http,
            format!("{listener}.http.{stat_prefix}"),
        )
    }
    pub fn tcp(&self, stat_prefix: &str) -> Arc<TcpStats> {
        handle(&self.tcp, stat_prefix)
    }
    pub fn acme(&self, name: &str) -> Arc<AcmeStats> {
        handle(&self.acme, name)
    }
    pub fn forget_acme(&self, name: &str) {
        forget(&self.acme, name);
    }
    pub fn acme_names(&self) -> Vec<(String, Arc<AcmeStats>)> {
        copy(&self.acme)
    }
    /// Statistics of a scope, which is shown in front of their names and ends with a dot.
    pub fn named(&self, scope: &str) -> Arc<Named> {
        handle(&self.named, scope)
    }
    pub fn filter_config(&self, name: &str) -> Arc<FilterConfigStats> {
        handle(&self.filter_configs, name)
    }
    /// Counts only for what a filter uses.
    pub fn filter_config_refused(&self, name: &str) {
        let scopes = self.filter_configs.lock();
        let scopes = scopes.unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = scopes.get(name) {
            stats.config_fail.inc();
        }
    }
    pub fn forget_filter_config(&self, name: &str) {
        forget(&self.filter_configs, name);
    }
    pub fn forget_cluster(&self, name: &str) {
        forget(&self.clusters, name);
    }
    pub fn forget_listener(&self, name: &str) {
        forget(&self.listeners, name);
    }

    pub fn note_management(&self, origin: String, status: Arc<client::Status>) {
        let scopes = self.management.lock();
        let mut scopes = scopes.unwrap_or_else(PoisonError::into_inner);
        scopes.insert(origin.into(), status);
    }
    pub fn forget_management(&self, origin: &str) {
        forget(&self.management, origin);
    }
    pub fn management(&self) -> Vec<(String, Arc<client::Status>)> {
        copy(&self.management)
    }

    /// `load_reporter.`
    pub fn load_reporter(&self) -> Arc<LoadStatus> {
        Arc::clone(self.load_reporter.get_or_init(Arc::default))
    }

    /// Copies of the handles of all clusters, for outputs that label by name.
    pub fn clusters(&self) -> Vec<(String, Arc<ClusterStats>)> {
        copy(&self.clusters)
    }
    pub fn http_managers(&self) -> Vec<(String, Arc<HttpStats>)> {
        copy(&self.http)
    }
    pub fn listeners(&self) -> Vec<(String, Arc<ListenerStats>)> {
        copy(&self.listeners)
    }
    pub fn listener_http_managers(&self) -> Vec<(String, Arc<ListenerHttpStats>)> {
        copy(&self.listener_http)
    }
    pub fn tcp_proxies(&self) -> Vec<(String, Arc<TcpStats>)> {
        copy(&self.tcp)
    }

    /// Every statistic with its full dotted name, in no particular order.
    pub fn visit(&self, f: &mut Visitor<'_>) {
        fn scoped<T>(
            kind: &str,
            all: Vec<(String, Arc<T>)>,
            visit: fn(&T, &mut Visitor<'_>),
            f: &mut Visitor<'_>,
        ) {
            for (name, stats) in all {
                visit(&stats, &mut |stat, value| {
                    f(&format!("{kind}.{name}.{stat}"), value)
                });
            }
        }
        scoped("http", self.http_managers(), HttpStats::visit, f);
        scoped("cluster", self.clusters(), ClusterStats::visit, f);
        for (cluster, stats) in copy(&self.health_checks) {
            stats.visit(&mut |stat, value| {
                f(&format!("cluster.{cluster}.health_check.{stat}"), value);
            });
        }
        scoped("cluster", copy(&self.outliers), OutlierStats::visit, f);
        scoped("listener", self.listeners(), ListenerStats::visit, f);
        scoped("tcp", self.tcp_proxies(), TcpStats::visit, f);
        scoped("acme", self.acme_names(), AcmeStats::visit, f);
        scoped(
            "listener",
            self.listener_http_managers(),
            ListenerHttpStats::visit,
            f,
        );
        scoped(
            "extension_config_discovery.http_filter",
            copy(&self.filter_configs),
            FilterConfigStats::visit,
            f,
        );
        for (scope, named) in copy(&self.named) {
            named.visit(&mut |stat, value| f(&format!("{scope}{stat}"), value));
        }
        self.listener_manager
            .visit(&mut |n, v| f(&format!("listener_manager.{n}"), v));
        self.cluster_manager
            .visit(&mut |n, v| f(&format!("cluster_manager.{n}"), v));
        self.pipeline
            .visit(&mut |n, v| f(&format!("causeway.{n}"), v));
        management::visit(&self.management(), f);
        if let Some(status) = self.load_reporter.get() {
            management::visit_load_reporter(status, f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_the_same_handle_each_time() {
        let stats = Stats::default();
        stats.cluster("a").upstream_rq_total.inc();
        assert_eq!(stats.cluster("a").upstream_rq_total.value(), 1);
        stats.forget_cluster("a");
        assert_eq!(stats.cluster("a").upstream_rq_total.value(), 0);
    }
}
