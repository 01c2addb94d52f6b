//! The numbers of outlier detection: the runtime's, where it has them.

use std::time::Duration;

use causeway_xds::resource::cluster::OutlierDetection;

use crate::runtime::layers::{Key, Layers};

/// The keys of the process; every cluster has the same.
#[derive(Debug)]
pub struct Keys {
    numbers: [Key; NAMES.len()],
}

/// As Envoy calls them, below `outlier_detection.`
const NAMES: [&str; 21] = [
    "consecutive_5xx",
    "consecutive_gateway_failure",
    "consecutive_local_origin_failure",
    "interval_ms",
    "base_ejection_time_ms",
    "max_ejection_time_ms",
    "max_ejection_time_jitter_ms",
    "max_ejection_percent",
    "enforcing_consecutive_5xx",
    "enforcing_consecutive_gateway_failure",
    "enforcing_consecutive_local_origin_failure",
    "enforcing_success_rate",
    "enforcing_local_origin_success_rate",
    "enforcing_failure_percentage",
    "enforcing_failure_percentage_local_origin",
    "success_rate_minimum_hosts",
    "success_rate_request_volume",
    "success_rate_stdev_factor",
    "failure_percentage_threshold",
    "failure_percentage_minimum_hosts",
    "failure_percentage_request_volume",
];

/// `name: place in NAMES, the configured value`
macro_rules! numbers {
    ($($name:ident: $at:literal, $($field:ident).+;)+) => {$(
        pub fn $name(&self, model: &OutlierDetection) -> u32 {
            self.number($at, model.$($field).+)
        }
    )+};
}

macro_rules! durations {
    ($($name:ident: $at:literal;)+) => {$(
        pub fn $name(&self, model: &OutlierDetection) -> Duration {
            let told = self.numbers[$at].number();
            told.map_or(model.$name, |ms| Duration::from_millis(ms.into()))
        }
    )+};
}

impl Keys {
    pub fn new(layers: &Layers) -> Self {
        Self {
            numbers: NAMES.map(|name| layers.key(&format!("outlier_detection.{name}"))),
        }
    }

    fn number(&self, at: usize, configured: u32) -> u32 {
        self.numbers[at].number().unwrap_or(configured)
    }

    numbers! {
        consecutive_5xx: 0, consecutive_5xx;
        consecutive_gateway_failure: 1, consecutive_gateway_failure;
        consecutive_local_origin_failure: 2, consecutive_local_origin_failure;
        max_ejection_percent: 7, max_ejection_percent;
        enforcing_consecutive_5xx: 8, enforcing.consecutive_5xx;
        enforcing_consecutive_gateway_failure: 9, enforcing.consecutive_gateway_failure;
        enforcing_consecutive_local_origin_failure: 10, enforcing.consecutive_local_origin_failure;
        enforcing_success_rate: 11, enforcing.success_rate;
        enforcing_local_origin_success_rate: 12, enforcing.local_origin_success_rate;
        enforcing_failure_percentage: 13, enforcing.failure_percentage;
        enforcing_local_origin_failure_percentage: 14, enforcing.local_origin_failure_percentage;
        success_rate_minimum_hosts: 15, success_rate.minimum_hosts;
        success_rate_request_volume: 16, success_rate.request_volume;
        success_rate_stdev_factor: 17, success_rate.stdev_factor;
        failure_percentage_threshold: 18, failure_percentage.threshold;
        failure_percentage_minimum_hosts: 19, failure_percentage.minimum_hosts;
        failure_percentage_request_volume: 20, failure_percentage.request_volume;
    }

    durations! {
        interval: 3;
        base_ejection_time: 4;
        max_ejection_time: 5;
        max_ejection_time_jitter: 6;
    }
}
