//! The groups of statistics, under the names that Envoy gives them.

use std::sync::{LazyLock, OnceLock};

use super::{CircuitBreakers, Codes, Counter, Gauge, Histogram, Value, Visitor};

/// Declares a group of statistics; field names are the names that are shown.
macro_rules! group {
    ($(#[$doc:meta])* $name:ident {
        counters: [$($counter:ident),* $(,)?], gauges: [$($gauge:ident),* $(,)?],
        histograms: [$($histogram:ident),* $(,)?], codes: [$($codes:ident = $prefix:literal $exact:literal),* $(,)?]
        $(, more: [$($more:ident: $type:ty),*])?
    }) => {
        $(#[$doc])*
        // In this order, and with what every request counts at the head of each list: of many
        // clusters each is out of the caches when it is asked, and every line costs.
        #[derive(Debug, Default)]
        #[repr(C)]
        pub struct $name {
            $(pub $codes: Codes,)* $(pub $histogram: Histogram,)*
            $(pub $gauge: Gauge,)* $(pub $counter: Counter,)*
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
            upstream_rq_total, upstream_rq_completed,
            upstream_cx_total, upstream_cx_http1_total, upstream_cx_http2_total,
            upstream_cx_connect_fail, upstream_cx_connect_timeout,
            upstream_cx_connect_attempts_exceeded, upstream_cx_overflow,
            upstream_cx_destroy, upstream_cx_idle_timeout, upstream_cx_max_requests,
            upstream_cx_none_healthy, upstream_cx_protocol_error, upstream_cx_close_notify,
            upstream_cx_rx_bytes_total, upstream_cx_tx_bytes_total,
            upstream_rq_timeout, upstream_rq_rx_reset,
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
        gauges: [upstream_rq_active, upstream_cx_active, upstream_rq_pending_active, upstream_cx_parked,
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
