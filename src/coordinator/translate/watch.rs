//! How kernels are watched: by a cheap check now and then, and by what becomes of connections.
//!
//! No user may be worse off for it. A kernel counts as healthy until a check has failed; one that is
//! alone gets its requests whatever checks say; and what is relayed as bytes is never checked, since
//! its servers take note of who connects and says nothing: sshd logs a line each time, and a VNC
//! server shuts a host out after a handful of them, which would be this worker with all its users.

use std::time::Duration;

use causeway_xds::proto::Cluster;
use causeway_xds::proto::core::HealthCheck;
use causeway_xds::proto::core::health_check::{HealthChecker, TcpHealthCheck};
use causeway_xds::proto::envoy::config::cluster::v3::OutlierDetection;
use causeway_xds::proto::envoy::config::cluster::v3::cluster::CommonLbConfig;
use causeway_xds::proto::envoy::r#type::v3::Percent;
use causeway_xds::proto::google::protobuf::value;

use super::cluster::own_metadata;
use super::listener::{duration, uint32};
use crate::config::Causeway;

/// What is done to notice that a kernel is gone. By default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelWatch {
    /// Between two checks of a kernel that is one of several; `None`: no checks.
    pub check_period: Option<Duration>,
    /// Whether one that cannot be connected to is left out for a while.
    pub ejection: bool,
}

/// Nobody takes over from a kernel that is alone, so that a check only tells the operator: one in so
/// many periods does. The same for circuits that were never used.
const SELDOM: u32 = 10;
/// A second look after a surprise comes sooner, by this factor.
const SOON: u32 = 10;
/// One check, from connecting to connected.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Failed connections in a row.
const FAILURES: u32 = 3;
/// The first time that a kernel is left out; longer after that.
const EJECTION: Duration = Duration::from_secs(10);
const MAX_EJECTION: Duration = Duration::from_secs(60);

impl From<&Causeway> for KernelWatch {
    fn from(config: &Causeway) -> Self {
        let period = config.kernel_check_period;
        Self {
            check_period: (!period.is_zero()).then_some(period),
            ejection: config.kernel_ejection,
        }
    }
}

impl KernelWatch {
    /// Writes it into the cluster of a circuit with so many kernels.
    pub(super) fn apply(self, cluster: &mut Cluster, http: bool, kernels: usize) {
        let several = kernels > 1;
        if let Some(period) = self.check_period.filter(|_| http && kernels > 0) {
            cluster.health_checks = vec![check(period, several)];
            cluster.metadata = Some(own_metadata(
                "background_checks",
                value::Kind::BoolValue(true),
            ));
        }
        if !several || self == Self::default() {
            return;
        }
        if self.ejection {
            cluster.outlier_detection = Some(ejection());
        }
        // Failing to be connected to is no matter of degree: those that can be are enough reason not
        // to ask the others, as long as there is one.
        cluster.common_lb_config = Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 1.0 }),
            ..CommonLbConfig::default()
        });
    }
}

fn check(period: Duration, several: bool) -> HealthCheck {
    let seldom = period.saturating_mul(SELDOM);
    let usual = if several { period } else { seldom };
    let soon = usual / SOON;
    HealthCheck {
        timeout: Some(duration(TIMEOUT)),
        interval: Some(duration(usual)),
        healthy_edge_interval: Some(duration(soon)),
        unhealthy_edge_interval: Some(duration(soon)),
        // Before the first connection: only who is healthy can wait.
        no_traffic_interval: Some(duration(usual)),
        no_traffic_healthy_interval: Some(duration(seldom)),
        // All circuits may come at one moment, and must not be checked at one.
        initial_jitter: Some(duration(usual)),
        interval_jitter_percent: 10,
        unhealthy_threshold: Some(uint32(2)),
        healthy_threshold: Some(uint32(1)),
        health_checker: Some(HealthChecker::TcpHealthCheck(TcpHealthCheck::default())),
        ..HealthCheck::default()
    }
}

/// Only for what happens before an answer: an application that answers 500 is there, and what is wrong
/// with it is wrong with its replicas, too.
fn ejection() -> OutlierDetection {
    OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: Some(uint32(FAILURES)),
        enforcing_consecutive_local_origin_failure: Some(uint32(100)),
        enforcing_consecutive_5xx: Some(uint32(0)),
        enforcing_consecutive_gateway_failure: Some(uint32(0)),
        enforcing_success_rate: Some(uint32(0)),
        enforcing_local_origin_success_rate: Some(uint32(0)),
        base_ejection_time: Some(duration(EJECTION)),
        max_ejection_time: Some(duration(MAX_EJECTION)),
        // Of two kernels one, never both.
        max_ejection_percent: Some(uint32(50)),
        ..OutlierDetection::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCH: KernelWatch = KernelWatch {
        check_period: Some(Duration::from_secs(30)),
        ejection: true,
    };

    fn made(watch: KernelWatch, http: bool, kernels: usize) -> Cluster {
        let mut cluster = Cluster::default();
        watch.apply(&mut cluster, http, kernels);
        cluster
    }

    fn interval(cluster: &Cluster) -> Option<i64> {
        let check = cluster.health_checks.first()?;
        Some(check.interval.as_ref()?.seconds)
    }

    #[test]
    fn one_of_several_is_checked_more_often_than_one_that_is_alone() {
        let (alone, several) = (made(WATCH, true, 1), made(WATCH, true, 2));
        assert_eq!(
            (interval(&alone), interval(&several)),
            (Some(300), Some(30))
        );
        let unused = |cluster: &Cluster| {
            let check = &cluster.health_checks[0];
            let seconds = |d: &Option<causeway_xds::proto::Duration>| d.as_ref().unwrap().seconds;
            (
                seconds(&check.no_traffic_interval),
                seconds(&check.no_traffic_healthy_interval),
            )
        };
        assert_eq!((unused(&alone), unused(&several)), ((300, 300), (30, 300)));
        assert!(alone.outlier_detection.is_none() && several.outlier_detection.is_some());
        // With nobody else it gets its requests whatever is found: by panic, at the default.
        assert!(alone.common_lb_config.is_none() && several.common_lb_config.is_some());
        assert_eq!(made(WATCH, true, 0), Cluster::default());
    }

    #[test]
    fn what_is_relayed_as_bytes_is_only_judged_by_its_connections() {
        assert_eq!(made(WATCH, false, 1), Cluster::default());
        let several = made(WATCH, false, 2);
        assert!(several.health_checks.is_empty() && several.metadata.is_none());
        assert!(several.outlier_detection.is_some());
    }

    #[test]
    fn each_can_be_switched_off() {
        let checks = KernelWatch {
            ejection: false,
            ..WATCH
        };
        assert!(made(checks, true, 2).outlier_detection.is_none());
        let ejection = KernelWatch {
            check_period: None,
            ..WATCH
        };
        assert!(made(ejection, true, 2).health_checks.is_empty());
        assert_eq!(made(KernelWatch::default(), true, 2), Cluster::default());
    }
}
