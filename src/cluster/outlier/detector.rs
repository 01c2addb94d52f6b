//! Who is ejected, and for how long. Synchronous: time and randomness are arguments.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Average, Detection, Event, Keys};
use crate::telemetry::stats::{Counter, OutlierStats};
use crate::upstream::Endpoint;
use crate::upstream::endpoint::Finding;
use crate::upstream::outcomes::{Outcomes, Rate};

/// The ejections of one cluster. When it is dropped nobody is counted as ejected any more.
#[derive(Debug)]
pub struct Detector {
    pub detection: Arc<Detection>,
    stats: Arc<OutlierStats>,
    /// Of those that are or were ejected, by [`Endpoint::identity`].
    ejections: HashMap<u64, Ejection>,
    active: usize,
}

#[derive(Debug)]
struct Ejection {
    /// When it began; nothing if it is over.
    since: Option<Instant>,
    /// How many times the base it lasts. Goes down again with every good interval.
    factor: u32,
    jitter: Duration,
}

/// Why an endpoint is an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    LocalOriginSuccessRate,
    FailurePercentage,
    LocalOriginFailurePercentage,
}

/// Where one kind of rate is found.
struct Kind {
    rate: fn(&Outcomes) -> &Rate,
    average: fn(&Detection) -> &Average,
    success: Reason,
    failure: Reason,
}

const KINDS: [Kind; 2] = [
    Kind {
        rate: |outcomes| &outcomes.external,
        average: |detection| &detection.external,
        success: Reason::SuccessRate,
        failure: Reason::FailurePercentage,
    },
    Kind {
        rate: |outcomes| &outcomes.local_origin,
        average: |detection| &detection.local_origin,
        success: Reason::LocalOriginSuccessRate,
        failure: Reason::LocalOriginFailurePercentage,
    },
];

impl Detector {
    pub fn new(detection: Arc<Detection>, stats: Arc<OutlierStats>) -> Self {
        Self {
            detection,
            stats,
            ejections: HashMap::new(),
            active: 0,
        }
    }

    /// Until the next look at all endpoints.
    pub fn interval(&self) -> Duration {
        self.detection.keys.interval(&self.detection.model)
    }

    /// Forgets endpoints that are gone.
    pub fn follow(&mut self, endpoints: &[Arc<Endpoint>]) {
        if self.ejections.is_empty() {
            return;
        }
        let there: HashSet<u64> = endpoints.iter().map(|e| e.identity()).collect();
        let (active, stats) = (&mut self.active, &self.stats);
        self.ejections.retain(|identity, ejection| {
            let stays = there.contains(identity);
            if !stays && ejection.since.is_some() {
                *active -= 1;
                stats.ejections_active.dec();
            }
            stays
        });
    }

    /// Something was reported of an endpoint. Returns whether its health changed.
    pub fn report(
        &mut self,
        identity: u64,
        what: Event,
        endpoints: &[Arc<Endpoint>],
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> bool {
        // It may be gone by now.
        let Some(endpoint) = endpoints.iter().find(|e| e.identity() == identity) else {
            return false;
        };
        let outcomes = endpoint.outcomes();
        let (reason, count) = match what {
            Event::CheckPassed => return self.uneject(endpoint),
            Event::Consecutive5xx => (Reason::Consecutive5xx, &outcomes.consecutive_5xx),
            Event::ConsecutiveGatewayFailure => (
                Reason::ConsecutiveGatewayFailure,
                &outcomes.consecutive_gateway_failure,
            ),
            Event::ConsecutiveLocalOriginFailure => (
                Reason::ConsecutiveLocalOriginFailure,
                &outcomes.consecutive_local_origin_failure,
            ),
        };
        if endpoint.is_found(Finding::FailedOutlier) {
            return false;
        }
        let changed = self.outlier(endpoint, reason, endpoints.len(), now, random);
        // Further failures in a row are another case.
        count.store(0, std::sync::atomic::Ordering::Relaxed);
        changed
    }

    /// An interval is over. Returns whether somebody's health changed.
    pub fn tick(
        &mut self,
        endpoints: &[Arc<Endpoint>],
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> bool {
        let mut changed = false;
        if !self.ejections.is_empty() {
            for endpoint in endpoints {
                changed |= self.look(endpoint, now);
            }
        }
        for kind in &KINDS {
            changed |= self.rates(kind, endpoints, now, random);
        }
        changed
    }

    /// Ends an ejection that has lasted long enough.
    fn look(&mut self, endpoint: &Endpoint, now: Instant) -> bool {
        let Some(ejection) = self.ejections.get_mut(&endpoint.identity()) else {
            return false;
        };
        let Some(since) = ejection.since else {
            ejection.factor = ejection.factor.saturating_sub(1);
            if ejection.factor == 0 {
                self.ejections.remove(&endpoint.identity());
            }
            return false;
        };
        let (keys, model) = (&self.detection.keys, &self.detection.model);
        let (base, max) = (
            keys.base_ejection_time(model),
            keys.max_ejection_time(model),
        );
        let over = now.saturating_duration_since(since) >= ejection.time(base, max);
        over && self.uneject(endpoint)
    }

    fn uneject(&mut self, endpoint: &Endpoint) -> bool {
        let ejection = self.ejections.get_mut(&endpoint.identity());
        if ejection.and_then(|e| e.since.take()).is_some() {
            self.active -= 1;
            self.stats.ejections_active.dec();
        }
        endpoint.outcomes().forget_consecutive();
        endpoint.diagnosis().returned();
        let changed = endpoint.find(Finding::FailedOutlier, false);
        if changed {
            let cluster = &*self.detection.cluster;
            info!(cluster, %endpoint, "endpoint is no longer ejected");
        }
        changed
    }

    /// Ends all ejections.
    pub fn uneject_all(&mut self, endpoints: &[Arc<Endpoint>]) -> bool {
        let mut changed = false;
        for endpoint in endpoints {
            changed |= self.uneject(endpoint);
        }
        changed
    }

    /// Looks at the rates of the interval that is over.
    fn rates(
        &mut self,
        kind: &Kind,
        endpoints: &[Arc<Endpoint>],
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> bool {
        let detection = Arc::clone(&self.detection);
        let (keys, model) = (&detection.keys, &detection.model);
        let average = (kind.average)(&detection);
        average.mean.set(None);
        average.threshold.set(None);
        let least_for_rate = keys.success_rate_minimum_hosts(model) as usize;
        let least_for_failure = keys.failure_percentage_minimum_hosts(model) as usize;
        let volume_for_rate = u64::from(keys.success_rate_request_volume(model));
        let volume_for_failure = u64::from(keys.failure_percentage_request_volume(model));
        let (mut by_rate, mut by_failure) = (Vec::new(), Vec::new());
        let enough = endpoints.len() >= least_for_rate.min(least_for_failure);
        for endpoint in endpoints {
            let rate = (kind.rate)(endpoint.outcomes());
            let (volume, percent) = rate.take();
            rate.show(None);
            if !enough || volume == 0 || endpoint.is_found(Finding::FailedOutlier) {
                continue;
            }
            if volume >= volume_for_rate.min(volume_for_failure) {
                rate.show(Some(percent));
            }
            if volume >= volume_for_rate {
                by_rate.push((endpoint, percent));
            }
            if volume >= volume_for_failure {
                by_failure.push((endpoint, percent));
            }
        }
        let mut changed = false;
        if !by_rate.is_empty() && by_rate.len() >= least_for_rate {
            let factor = f64::from(keys.success_rate_stdev_factor(model)) / 1000.0;
            let (mean, threshold) = threshold(&by_rate, factor);
            average.mean.set(Some(mean));
            average.threshold.set(Some(threshold));
            for (endpoint, _) in by_rate.iter().filter(|(_, percent)| *percent < threshold) {
                changed |= self.outlier(endpoint, kind.success, endpoints.len(), now, random);
            }
        }
        if !by_failure.is_empty() && by_failure.len() >= least_for_failure {
            let limit = f64::from(keys.failure_percentage_threshold(model));
            for (endpoint, percent) in by_failure {
                let ejected = endpoint.is_found(Finding::FailedOutlier);
                if 100.0 - percent >= limit && !ejected {
                    changed |= self.outlier(endpoint, kind.failure, endpoints.len(), now, random);
                }
            }
        }
        changed
    }

    /// Counts an outlier, and ejects it if that is enforced and there are not too many.
    fn outlier(
        &mut self,
        endpoint: &Endpoint,
        reason: Reason,
        total: usize,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> bool {
        let (keys, model) = (&self.detection.keys, &self.detection.model);
        let (detected, enforced, percent) = reason.counted(&self.stats, keys, &self.detection);
        detected.inc();
        match reason {
            Reason::Consecutive5xx => self.stats.ejections_consecutive_5xx.inc(),
            Reason::SuccessRate => self.stats.ejections_success_rate.inc(),
            _ => {}
        }
        let most = u64::from(keys.max_ejection_percent(model).min(100)) * total as u64;
        let first = model.always_eject_one && self.active == 0;
        if !first && (self.active as u64 + 1) * 100 > most {
            self.stats.ejections_overflow.inc();
            return false;
        }
        if matches!(reason, Reason::Consecutive5xx | Reason::SuccessRate) {
            self.stats.ejections_total.inc();
        }
        if random.u32(..100) >= percent {
            return false;
        }
        enforced.inc();
        self.stats.ejections_enforced_total.inc();
        self.stats.ejections_active.inc();
        self.active += 1;
        let (base, max) = (
            keys.base_ejection_time(model),
            keys.max_ejection_time(model),
        );
        let jitter = keys.max_ejection_time_jitter(model).as_millis();
        let jitter = u64::try_from(jitter).unwrap_or(u64::MAX);
        let ejection = self
            .ejections
            .entry(endpoint.identity())
            .or_insert(Ejection {
                since: None,
                factor: 0,
                jitter: Duration::ZERO,
            });
        ejection.since = Some(now);
        ejection.jitter = Duration::from_millis(random.u64(..=jitter));
        if base.saturating_mul(ejection.factor) < max.saturating_add(base) {
            ejection.factor += 1;
        }
        let time = ejection.time(base, max);
        endpoint.diagnosis().ejected(reason.word(), time);
        let cluster = &*self.detection.cluster;
        warn!(cluster, %endpoint, ?reason, times = ejection.factor, "endpoint is ejected");
        endpoint.find(Finding::FailedOutlier, true)
    }
}

impl Ejection {
    /// How long it lasts from its beginning on.
    fn time(&self, base: Duration, max: Duration) -> Duration {
        let time = base.saturating_mul(self.factor).min(max);
        time.saturating_add(self.jitter)
    }
}

impl Drop for Detector {
    fn drop(&mut self) {
        for _ in 0..self.active {
            self.stats.ejections_active.dec();
        }
    }
}

impl Reason {
    /// As Envoy's log of ejections calls it (`OutlierEjectionType`).
    const fn word(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "CONSECUTIVE_5XX",
            Self::ConsecutiveGatewayFailure => "CONSECUTIVE_GATEWAY_FAILURE",
            Self::ConsecutiveLocalOriginFailure => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
            Self::SuccessRate => "SUCCESS_RATE",
            Self::LocalOriginSuccessRate => "SUCCESS_RATE_LOCAL_ORIGIN",
            Self::FailurePercentage => "FAILURE_PERCENTAGE",
            Self::LocalOriginFailurePercentage => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
        }
    }

    /// What counts it, and in how many of a hundred cases it leads to an ejection.
    fn counted<'s>(
        self,
        stats: &'s OutlierStats,
        keys: &Keys,
        detection: &Detection,
    ) -> (&'s Counter, &'s Counter, u32) {
        let model = &detection.model;
        match self {
            Self::Consecutive5xx => (
                &stats.ejections_detected_consecutive_5xx,
                &stats.ejections_enforced_consecutive_5xx,
                keys.enforcing_consecutive_5xx(model),
            ),
            Self::ConsecutiveGatewayFailure => (
                &stats.ejections_detected_consecutive_gateway_failure,
                &stats.ejections_enforced_consecutive_gateway_failure,
                keys.enforcing_consecutive_gateway_failure(model),
            ),
            Self::ConsecutiveLocalOriginFailure => (
                &stats.ejections_detected_consecutive_local_origin_failure,
                &stats.ejections_enforced_consecutive_local_origin_failure,
                keys.enforcing_consecutive_local_origin_failure(model),
            ),
            Self::SuccessRate => (
                &stats.ejections_detected_success_rate,
                &stats.ejections_enforced_success_rate,
                keys.enforcing_success_rate(model),
            ),
            Self::LocalOriginSuccessRate => (
                &stats.ejections_detected_local_origin_success_rate,
                &stats.ejections_enforced_local_origin_success_rate,
                keys.enforcing_local_origin_success_rate(model),
            ),
            Self::FailurePercentage => (
                &stats.ejections_detected_failure_percentage,
                &stats.ejections_enforced_failure_percentage,
                keys.enforcing_failure_percentage(model),
            ),
            Self::LocalOriginFailurePercentage => (
                &stats.ejections_detected_local_origin_failure_percentage,
                &stats.ejections_enforced_local_origin_failure_percentage,
                keys.enforcing_local_origin_failure_percentage(model),
            ),
        }
    }
}

/// The mean of the rates, and so many standard deviations below it.
#[expect(clippy::cast_precision_loss, reason = "numbers of endpoints")]
fn threshold(rates: &[(&Arc<Endpoint>, f64)], factor: f64) -> (f64, f64) {
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, percent)| percent).sum::<f64>() / count;
    let squares = rates.iter().map(|(_, percent)| (percent - mean).powi(2));
    let deviation = (squares.sum::<f64>() / count).sqrt();
    (mean, mean - factor * deviation)
}
