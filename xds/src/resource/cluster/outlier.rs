//! Outlier detection: endpoints that answer badly are left out for a while.

use std::time::Duration;

use crate::proto::UInt32Value;
use crate::proto::envoy::config::cluster::v3 as cluster;
use crate::reject::Invalid;
use crate::resource::context::{duration, flag, number, refuse, refuse_true};

/// `envoy.config.cluster.v3.OutlierDetection`. Shares are whole percents; the process may override
/// each number by the key of the runtime that Envoy has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Answers of 500 and above, one after the other, that make an outlier. Default 5; 0 is never.
    pub consecutive_5xx: u32,
    /// As above, of 502, 503 and 504. Default 5.
    pub consecutive_gateway_failure: u32,
    /// As above, of failures that are no answers, where those are told apart. Default 5.
    pub consecutive_local_origin_failure: u32,
    /// Failures to connect, resets and timeouts are told apart from answers; otherwise they count as
    /// answers of 503 and 504.
    pub split_local_origin: bool,
    /// Between two looks at rates and at those that are ejected. Default 10 s.
    pub interval: Duration,
    /// How long the first ejection lasts; each further one is longer by as much. Default 30 s.
    pub base_ejection_time: Duration,
    /// The longest ejection. Default 300 s, or the base if that is longer.
    pub max_ejection_time: Duration,
    /// At most so much is added to an ejection at random. Default 0.
    pub max_ejection_time_jitter: Duration,
    /// Share of the endpoints that may be ejected at one time. Default 10.
    pub max_ejection_percent: u32,
    /// The first one is ejected whatever its share is. Default false.
    pub always_eject_one: bool,
    /// An active health check that succeeds ends an ejection. Default true.
    pub uneject_after_check: bool,
    pub enforcing: Enforcing,
    pub success_rate: SuccessRate,
    pub failure_percentage: FailurePercentage,
}

/// In how many of a hundred cases an outlier is ejected, and not only counted (`enforcing_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforcing {
    /// Default 100.
    pub consecutive_5xx: u32,
    /// Default 0.
    pub consecutive_gateway_failure: u32,
    /// Default 100.
    pub consecutive_local_origin_failure: u32,
    /// Default 100.
    pub success_rate: u32,
    /// Default 100.
    pub local_origin_success_rate: u32,
    /// Default 0.
    pub failure_percentage: u32,
    /// Default 0.
    pub local_origin_failure_percentage: u32,
}

/// Endpoints that succeed less often than the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Endpoints with enough requests that it takes. Default 5.
    pub minimum_hosts: u32,
    /// Requests of one interval that are enough. Default 100.
    pub request_volume: u32,
    /// Thousandths of the standard deviation below the mean. Default 1900.
    pub stdev_factor: u32,
}

/// Endpoints that fail often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Default 85.
    pub threshold: u32,
    /// Default 5.
    pub minimum_hosts: u32,
    /// Default 50.
    pub request_volume: u32,
}

impl OutlierDetection {
    pub(super) fn decode(message: cluster::OutlierDetection) -> Result<Self, Invalid> {
        const INTERVAL: Duration = Duration::from_secs(10);
        const BASE_EJECTION: Duration = Duration::from_secs(30);
        const MAX_EJECTION: Duration = Duration::from_secs(300);
        let cluster::OutlierDetection {
            consecutive_5xx,
            interval,
            base_ejection_time,
            max_ejection_percent,
            enforcing_consecutive_5xx,
            enforcing_success_rate,
            success_rate_minimum_hosts,
            success_rate_request_volume,
            success_rate_stdev_factor,
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            split_external_local_origin_errors,
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
            enforcing_local_origin_success_rate,
            failure_percentage_threshold,
            enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin,
            failure_percentage_minimum_hosts,
            failure_percentage_request_volume,
            max_ejection_time,
            max_ejection_time_jitter,
            successful_active_health_check_uneject_host,
            monitors,
            always_eject_one_host,
            detect_degraded_hosts,
        } = message;
        refuse!(monitors);
        refuse_true!(detect_degraded_hosts);
        let or = |given: Option<UInt32Value>, default| given.map_or(default, |v| v.value);
        let base = positive(base_ejection_time, "base_ejection_time")?.unwrap_or(BASE_EJECTION);
        let max = positive(max_ejection_time, "max_ejection_time")?;
        let max = max.unwrap_or(MAX_EJECTION.max(base));
        if max < base {
            let reason = "must not be shorter than base_ejection_time";
            return Err(Invalid::at("max_ejection_time", reason));
        }
        Ok(Self {
            consecutive_5xx: or(consecutive_5xx, 5),
            consecutive_gateway_failure: or(consecutive_gateway_failure, 5),
            consecutive_local_origin_failure: or(consecutive_local_origin_failure, 5),
            split_local_origin: split_external_local_origin_errors,
            interval: positive(interval, "interval")?.unwrap_or(INTERVAL),
            base_ejection_time: base,
            max_ejection_time: max,
            max_ejection_time_jitter: duration(
                max_ejection_time_jitter,
                "max_ejection_time_jitter",
            )?
            .unwrap_or_default(),
            max_ejection_percent: percent(max_ejection_percent, "max_ejection_percent", 10)?,
            always_eject_one: flag(always_eject_one_host, false),
            uneject_after_check: flag(successful_active_health_check_uneject_host, true),
            enforcing: Enforcing {
                consecutive_5xx: percent(
                    enforcing_consecutive_5xx,
                    "enforcing_consecutive_5xx",
                    100,
                )?,
                consecutive_gateway_failure: percent(
                    enforcing_consecutive_gateway_failure,
                    "enforcing_consecutive_gateway_failure",
                    0,
                )?,
                consecutive_local_origin_failure: percent(
                    enforcing_consecutive_local_origin_failure,
                    "enforcing_consecutive_local_origin_failure",
                    100,
                )?,
                success_rate: percent(enforcing_success_rate, "enforcing_success_rate", 100)?,
                local_origin_success_rate: percent(
                    enforcing_local_origin_success_rate,
                    "enforcing_local_origin_success_rate",
                    100,
                )?,
                failure_percentage: percent(
                    enforcing_failure_percentage,
                    "enforcing_failure_percentage",
                    0,
                )?,
                local_origin_failure_percentage: percent(
                    enforcing_failure_percentage_local_origin,
                    "enforcing_failure_percentage_local_origin",
                    0,
                )?,
            },
            success_rate: SuccessRate {
                minimum_hosts: or(success_rate_minimum_hosts, 5),
                request_volume: or(success_rate_request_volume, 100),
                stdev_factor: or(success_rate_stdev_factor, 1900),
            },
            failure_percentage: FailurePercentage {
                threshold: percent(
                    failure_percentage_threshold,
                    "failure_percentage_threshold",
                    85,
                )?,
                minimum_hosts: or(failure_percentage_minimum_hosts, 5),
                request_volume: or(failure_percentage_request_volume, 50),
            },
        })
    }
}

fn percent(value: Option<UInt32Value>, field: &str, default: u32) -> Result<u32, Invalid> {
    Ok(number(value, field, 0..=100)?.unwrap_or(default))
}

fn positive(
    value: Option<crate::proto::Duration>,
    field: &str,
) -> Result<Option<Duration>, Invalid> {
    match duration(value, field)? {
        Some(Duration::ZERO) => Err(Invalid::at(field, "must be greater than zero")),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Duration as Message;

    fn decode(
        change: impl FnOnce(&mut cluster::OutlierDetection),
    ) -> Result<OutlierDetection, String> {
        let mut message = cluster::OutlierDetection::default();
        change(&mut message);
        OutlierDetection::decode(message).map_err(|e| e.to_string())
    }

    fn seconds(seconds: i64) -> Option<Message> {
        Some(Message { seconds, nanos: 0 })
    }

    #[test]
    fn what_is_not_given_is_as_in_envoy() {
        let detection = decode(|_| {}).unwrap();
        assert_eq!(detection.interval, Duration::from_secs(10));
        assert_eq!(detection.max_ejection_time, Duration::from_secs(300));
        assert_eq!(detection.max_ejection_percent, 10);
        assert_eq!(detection.enforcing.consecutive_5xx, 100);
        assert_eq!(detection.enforcing.consecutive_gateway_failure, 0);
        assert_eq!(detection.success_rate.stdev_factor, 1900);
        assert_eq!(detection.failure_percentage.threshold, 85);
        assert!(detection.uneject_after_check && !detection.always_eject_one);
        let long = decode(|m| m.base_ejection_time = seconds(400)).unwrap();
        assert_eq!(long.max_ejection_time, Duration::from_secs(400));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let over = Some(UInt32Value { value: 101 });
        let refused = |change: fn(&mut cluster::OutlierDetection)| decode(change).unwrap_err();
        assert_eq!(
            decode(|m| m.max_ejection_percent = over).unwrap_err(),
            "max_ejection_percent: 101 is not within 0 and 100"
        );
        assert_eq!(
            decode(|m| m.enforcing_success_rate = over).unwrap_err(),
            "enforcing_success_rate: 101 is not within 0 and 100"
        );
        assert_eq!(
            refused(|m| m.interval = seconds(0)),
            "interval: must be greater than zero"
        );
        assert_eq!(
            refused(|m| m.max_ejection_time = seconds(29)),
            "max_ejection_time: must not be shorter than base_ejection_time"
        );
        assert_eq!(
            refused(|m| m.detect_degraded_hosts = Some(crate::proto::BoolValue { value: true })),
            "detect_degraded_hosts: not supported yet"
        );
        assert_eq!(
            refused(|m| m.monitors = vec![Default::default()]),
            "monitors: not supported yet"
        );
    }
}
