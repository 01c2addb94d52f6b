//! Counters, gauges and histograms under Envoy's names.
//!
//! Handles are resolved once, when a snapshot is compiled, and stored beside what they count; the
//! request path never looks a metric up by name. [`Stats`] owns them by identity (stat prefix,
//! cluster, listener), so that they outlive every snapshot that shows the same identity.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use causeway_xds::client;
use causeway_xds::client::load_report::LoadStatus;

mod circuit_breakers;
mod management;
mod named;

pub use circuit_breakers::{CircuitBreakers, Room};
pub use named::Named;

/// Only ever grows (until an operator resets it).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets, Envoy's defaults (milliseconds for times).
pub const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5,
    1.8e6, 3.6e6,
];

/// Milliseconds, in fixed buckets. There are many of these, and until something is observed they
/// take no room.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Buckets>>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; 20],
    sum: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, value: u64) {
        let buckets = self.0.get_or_init(Box::default);
        let bucket = BUCKETS.partition_point(|bound| *bound < value as f64);
        buckets.counts[bucket].fetch_add(1, Relaxed);
        buckets.sum.fetch_add(value, Relaxed);
    }
    /// Cumulative counts per bound of [`BUCKETS`], then the total count and the sum.
    pub fn cumulative(&self) -> ([u64; 19], u64, u64) {
        let mut counts = [0; 19];
        let mut total = 0;
        let Some(buckets) = self.0.get() else {
            return (counts, 0, 0);
        };
        for (i, bucket) in buckets.counts.iter().enumerate() {
            total += bucket.load(Relaxed);
            if let Some(slot) = counts.get_mut(i) {
                *slot = total;
            }
        }
        (counts, total, buckets.sum.load(Relaxed))
    }
    pub fn reset(&self) {
        if let Some(buckets) = self.0.get() {
            buckets.counts.iter().for_each(|b| b.store(0, Relaxed));
            buckets.sum.store(0, Relaxed);
        }
    }
}

/// Responses by class and, for the codes seen, by exact code.
///
/// Exact codes are kept in a small table that is filled in the order of first sight: a cluster
/// that answers with more than [`Codes::SLOTS`] different codes keeps counting the classes only.
/// Before the first answer there is no table.
#[derive(Debug, Default)]
pub struct Codes {
    classes: [Counter; 5],
    exact: OnceLock<Box<[(AtomicU64, Counter); Self::SLOTS]>>,
}

impl Codes {
    pub const SLOTS: usize = 12;

    pub fn record(&self, status: u16) {
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            class.inc();
        }
        for (code, count) in &**self.exact.get_or_init(Box::default) {
            let seen = code.load(Relaxed);
            let ours = seen == u64::from(status)
                || (seen == 0
                    && match code.compare_exchange(0, u64::from(status), Relaxed, Relaxed) {
                        Ok(_) => true,
                        Err(now) => now == u64::from(status),
                    });
            if ours {
                return count.inc();
            }
        }
    }

    fn visit(&self, prefix: &str, exact: bool, f: &mut Visitor<'_>) {
        for (i, class) in self.classes.iter().enumerate() {
            // Where exact codes are shown, Envoy shows of the classes only those it has seen.
            if exact && class.value() == 0 {
                continue;
            }
            f(&format!("{prefix}{}xx", i + 1), Value::Counter(class));
        }
        let seen = self.exact.get().filter(|_| exact).into_iter();
        let seen = seen.flat_map(|table| table.iter());
        for (code, count) in seen.filter(|(code, _)| code.load(Relaxed) != 0) {
            f(
                &format!("{prefix}{}", code.load(Relaxed)),
                Value::Counter(count),
            );
        }
    }
}

/// One value, as the outputs see it.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Counter(&'a Counter),
    Gauge(&'a Gauge),
    Histogram(&'a Histogram),
}

/// Receives the name below the scope, and the value.
pub type Visitor<'a> = dyn FnMut(&str, Value<'_>) + 'a;

/// Declares a group of statistics; field names are the names that are shown.
macro_rules! group {
    ($(#[$doc:meta])* $name:ident {
        counters: [$($counter:ident),* $(,)?], gauges: [$($gauge:ident),* $(,)?],
        histograms: [$($histogram:ident),* $(,)?], codes: [$($codes:ident = $prefix:literal $exact:literal),* $(,)?]
        $(, more: [$($more:ident: $type:ty),*])?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(pub $counter: Counter,)* $(pub $gauge: Gauge,)*
            $(pub $histogram: Histogram,)* $(pub $codes: Codes,)*
            $($(pub $more: $type,)*)?
        }
        impl $name {
            pub fn visit(&self, f: &mut Visitor<'_>) {
                $(f(stringify!($counter), Value::Counter(&self.$counter));)*
                $(f(stringify!($gauge), Value::Gauge(&self.$gauge));)*
                $(f(stringify!($histogram), Value::Histogram(&self.$histogram));)*
                $(self.$codes.visit($prefix, $exact, f);)*
                $($(self.$more.visit(f);)*)?
            }
        }
    };
}

group! {
    /// `http.<stat_prefix>.`
    HttpStats {
        counters: [
            downstream_cx_total, downstream_cx_http1_total, downstream_cx_http2_total,
            downstream_cx_ssl_total, downstream_cx_destroy, downstream_cx_idle_timeout,
            downstream_cx_protocol_error, downstream_cx_drain_close, downstream_cx_upgrades_total,
            downstream_cx_rx_bytes_total, downstream_cx_tx_bytes_total,
            downstream_rq_total, downstream_rq_completed, downstream_rq_http1_total,
            downstream_rq_http2_total, downstream_rq_idle_timeout, downstream_rq_timeout,
            downstream_rq_header_timeout, downstream_rq_max_duration_reached, downstream_rq_rx_reset, downstream_rq_tx_reset,
            downstream_rq_non_relative_path, downstream_rq_too_large, downstream_rq_ws_on_non_ws_route,
            downstream_rq_rejected_via_ip_detection, no_route, no_cluster, rq_direct_response,
            rq_redirect, rq_total, panics,
            passthrough_internal_redirect_bad_location, passthrough_internal_redirect_no_route,
            passthrough_internal_redirect_predicate, passthrough_internal_redirect_too_many_redirects,
            passthrough_internal_redirect_unsafe_scheme,
        ],
        gauges: [downstream_cx_active, downstream_cx_http1_active, downstream_cx_http2_active,
            downstream_cx_upgrades_active, downstream_cx_parked, downstream_rq_active],
        histograms: [downstream_rq_time, downstream_cx_length_ms],
        codes: [downstream_rq = "downstream_rq_" false]
    }
}

group! {
    /// `cluster.<name>.`, what is there from the start.
    ClusterStats {
        counters: [membership_change, update_attempt, update_success, update_rejected],
        gauges: [membership_total, membership_healthy, membership_degraded, membership_excluded],
        histograms: [],
        codes: [],
        more: [traffic: Lazy, circuit_breakers: CircuitBreakers]
    }
}

/// What traffic comes to has a place from the first request on: most clusters of many are idle.
impl std::ops::Deref for ClusterStats {
    type Target = ClusterTraffic;

    fn deref(&self) -> &ClusterTraffic {
        self.traffic.0.get_or_init(Box::default)
    }
}

/// [`ClusterTraffic`], once there is any.
#[derive(Debug, Default)]
pub struct Lazy(OnceLock<Box<ClusterTraffic>>);

impl Lazy {
    /// For those that only look.
    pub fn seen(&self) -> &ClusterTraffic {
        static NONE: LazyLock<Box<ClusterTraffic>> = LazyLock::new(Box::default);
        self.0.get().unwrap_or(&NONE)
    }

    fn visit(&self, f: &mut Visitor<'_>) {
        self.seen().visit(f);
    }
}

group! {
    /// `cluster.<name>.`, what comes of traffic.
    ClusterTraffic {
        counters: [
            upstream_cx_total, upstream_cx_http1_total, upstream_cx_http2_total,
            upstream_cx_connect_fail, upstream_cx_connect_timeout,
            upstream_cx_connect_attempts_exceeded, upstream_cx_overflow,
            upstream_cx_destroy, upstream_cx_idle_timeout, upstream_cx_max_requests,
            upstream_cx_none_healthy, upstream_cx_protocol_error, upstream_cx_close_notify,
            upstream_cx_rx_bytes_total, upstream_cx_tx_bytes_total,
            upstream_rq_total, upstream_rq_completed, upstream_rq_timeout, upstream_rq_rx_reset,
            upstream_rq_tx_reset, upstream_rq_pending_total, upstream_rq_pending_overflow,
            upstream_rq_queue_timeout,
            upstream_rq_retry, upstream_rq_retry_success, upstream_rq_retry_limit_exceeded,
            upstream_rq_retry_overflow, upstream_rq_retry_backoff_exponential,
            upstream_rq_retry_backoff_ratelimited, retry_or_shadow_abandoned,
            upstream_rq_per_try_timeout, upstream_rq_per_try_idle_timeout, upstream_rq_cancelled,
            upstream_rq_max_duration_reached, upstream_internal_redirect_succeeded_total, upstream_internal_redirect_failed_total,
            original_dst_host_invalid, lb_healthy_panic,
            lb_local_cluster_not_ok, lb_recalculate_zone_structures, lb_zone_cluster_too_small,
            lb_zone_no_capacity_left, lb_zone_routing_all_directly, lb_zone_routing_cross_zone,
            lb_zone_routing_sampled, lb_subsets_selected, lb_subsets_fallback, lb_subsets_fallback_panic,
        ],
        gauges: [upstream_cx_active, upstream_rq_active, upstream_rq_pending_active,
            lb_subsets_active, lb_subsets_single_host_per_subset_duplicate],
        histograms: [upstream_rq_time, upstream_cx_connect_ms],
        codes: [upstream_rq = "upstream_rq_" true, retry_rq = "retry.upstream_rq_" true]
    }
}

group! {
    /// `cluster.<name>.health_check.`
    HealthCheckStats {
        counters: [attempt, success, failure, network_failure],
        gauges: [healthy, degraded],
        histograms: [],
        codes: []
    }
}

group! {
    /// `cluster.<name>.outlier_detection.`
    OutlierStats {
        counters: [
            ejections_total, ejections_overflow, ejections_consecutive_5xx, ejections_success_rate,
            ejections_enforced_total,
            ejections_detected_consecutive_5xx, ejections_enforced_consecutive_5xx,
            ejections_detected_consecutive_gateway_failure,
            ejections_enforced_consecutive_gateway_failure,
            ejections_detected_consecutive_local_origin_failure,
            ejections_enforced_consecutive_local_origin_failure,
            ejections_detected_success_rate, ejections_enforced_success_rate,
            ejections_detected_local_origin_success_rate,
            ejections_enforced_local_origin_success_rate,
            ejections_detected_failure_percentage, ejections_enforced_failure_percentage,
            ejections_detected_local_origin_failure_percentage,
            ejections_enforced_local_origin_failure_percentage,
        ],
        gauges: [ejections_active],
        histograms: [],
        codes: []
    }
}

group! {
    /// `listener.<name or address>.`
    ListenerStats {
        counters: [downstream_cx_total, downstream_cx_destroy, downstream_cx_overflow,
            downstream_global_cx_overflow, downstream_pre_cx_timeout, downstream_listener_filter_error, no_filter_chain_match,
            ssl_handshake, ssl_connection_error],
        gauges: [downstream_cx_active],
        histograms: [downstream_cx_length_ms],
        codes: []
    }
}

group! {
    /// `tcp.<stat_prefix>.`
    TcpStats {
        counters: [downstream_cx_total, downstream_cx_no_route, downstream_cx_tx_bytes_total,
            downstream_cx_rx_bytes_total, downstream_cx_denied, idle_timeout,
            max_downstream_connection_duration],
        gauges: [downstream_cx_rx_bytes_buffered, downstream_cx_tx_bytes_buffered],
        histograms: [],
        codes: []
    }
}

group! {
    /// `acme.<name>.`: a name that certificates are obtained for.
    AcmeStats {
        counters: [orders, order_failures],
        gauges: [certificate_expiry_timestamp_seconds],
        histograms: [],
        codes: []
    }
}

group! {
    /// `listener_manager.`
    ListenerManagerStats {
        counters: [listener_added, listener_modified, listener_removed, listener_create_success,
            listener_create_failure],
        gauges: [total_listeners_active, total_listeners_warming, total_listeners_draining,
            workers_started],
        histograms: [],
        codes: []
    }
}

group! {
    /// `cluster_manager.`
    ClusterManagerStats {
        counters: [cluster_added, cluster_modified, cluster_removed, cluster_updated],
        gauges: [active_clusters, warming_clusters],
        histograms: [],
        codes: []
    }
}

group! {
    /// `extension_config_discovery.http_filter.<name>.`
    FilterConfigStats {
        counters: [config_reload, config_fail, config_conflict],
        gauges: [],
        histograms: [],
        codes: []
    }
}

group! {
    /// `causeway.`: what Envoy has no name for.
    PipelineStats {
        counters: [generations, equal_updates, resources_rejected, deadlines_fired],
        gauges: [generation],
        histograms: [compile_ms],
        codes: []
    }
}

/// Counts of one listener by the HTTP manager behind it: `listener.<l>.http.<stat_prefix>.`
#[derive(Debug, Default)]
pub struct ListenerHttpStats {
    pub codes: Codes,
    pub downstream_rq_completed: Counter,
}

impl ListenerHttpStats {
    pub fn visit(&self, f: &mut Visitor<'_>) {
        f(
            "downstream_rq_completed",
            Value::Counter(&self.downstream_rq_completed),
        );
        self.codes.visit("downstream_rq_", false, f);
    }
}

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
    fn codes_count_class_and_exact_code() {
        let codes = Codes::default();
        for status in [200, 200, 404, 101] {
            codes.record(status);
        }
        let mut seen = BTreeMap::new();
        codes.visit("rq_", true, &mut |name, value| {
            if let Value::Counter(c) = value {
                seen.insert(name.to_owned(), c.value());
            }
        });
        assert_eq!(seen["rq_2xx"], 2);
        assert_eq!(seen["rq_200"], 2);
        assert_eq!(seen["rq_4xx"], 1);
        assert_eq!(seen["rq_1xx"], 1);
        assert!(!seen.contains_key("rq_500"));
    }

    #[test]
    fn a_scope_is_the_same_handle_each_time() {
        let stats = Stats::default();
        stats.cluster("a").upstream_rq_total.inc();
        assert_eq!(stats.cluster("a").upstream_rq_total.value(), 1);
        stats.forget_cluster("a");
        assert_eq!(stats.cluster("a").upstream_rq_total.value(), 0);
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let histogram = Histogram::default();
        histogram.observe(0);
        histogram.observe(7);
        histogram.observe(99_999_999);
        let (counts, total, sum) = histogram.cumulative();
        assert_eq!((counts[0], counts[3], counts[18], total), (1, 2, 2, 3));
        assert_eq!(sum, 100_000_006);
    }
}
