//! Outlier detection follows the clusters in use; what it finds out comes back as a change.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::cluster::outlier::{Detector, Report};
use crate::snapshot::Snapshot;
use crate::telemetry::stats::Stats;

/// The clusters with outlier detection.
#[derive(Default)]
pub(super) struct Outliers {
    clusters: HashMap<Arc<str>, Watched>,
    /// When each is looked at again.
    due: BTreeSet<(Instant, Arc<str>)>,
    random: fastrand::Rng,
}

struct Watched {
    cluster: Arc<Cluster>,
    detector: Detector,
    due: Instant,
}

impl Outliers {
    /// Takes up and gives up the clusters of these names. Returns those whose endpoints changed
    /// their health by that.
    pub fn follow(
        &mut self,
        names: &[Arc<str>],
        snapshot: &Snapshot,
        stats: &Stats,
        now: Instant,
    ) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        for name in names {
            let cluster = snapshot.clusters.get(name);
            match cluster.and_then(|c| Some((c, c.outlier.as_ref()?))) {
                Some((cluster, detection)) => {
                    let detection = Arc::clone(detection);
                    let cluster = Arc::clone(cluster);
                    if let Some(watched) = self.clusters.get_mut(name) {
                        watched.detector.detection = detection;
                        watched.detector.follow(&cluster.known_endpoints());
                        watched.cluster = cluster;
                        continue;
                    }
                    let counts = stats.outlier_detection(cluster.model.stat_name());
                    let detector = Detector::new(detection, counts);
                    let due = now + detector.interval().max(Duration::from_millis(1));
                    self.due.insert((due, Arc::clone(name)));
                    let watched = Watched {
                        cluster,
                        detector,
                        due,
                    };
                    self.clusters.insert(Arc::clone(name), watched);
                }
                None => {
                    let Some(mut watched) = self.clusters.remove(name) else {
                        continue;
                    };
                    self.due.remove(&(watched.due, Arc::clone(name)));
                    let known = cluster.map(|cluster| cluster.known_endpoints());
                    if watched
                        .detector
                        .uneject_all(known.as_deref().unwrap_or_default())
                    {
                        changed.push(Arc::clone(name));
                    }
                    stats.forget_outlier_detection(watched.cluster.model.stat_name());
                }
            }
        }
        changed
    }

    /// Endpoints of these clusters are gone, though their configuration is the same.
    pub fn forget_gone(&mut self, names: &[Arc<str>]) {
        for name in names {
            if let Some(watched) = self.clusters.get_mut(name) {
                let known = watched.cluster.known_endpoints();
                watched.detector.follow(&known);
            }
        }
    }

    /// Data threads and health checks have told something. Returns the clusters whose endpoints
    /// changed their health.
    pub fn reported(&mut self, reports: &[Report], now: Instant) -> BTreeSet<Arc<str>> {
        let mut changed = BTreeSet::new();
        for report in reports {
            let Some(watched) = self.clusters.get_mut(&report.cluster) else {
                continue;
            };
            let all = &watched.cluster.known_endpoints();
            let random = &mut self.random;
            if watched
                .detector
                .report(report.endpoint, report.what, all, now, random)
            {
                watched.cluster.gauge_members();
                changed.insert(Arc::clone(&report.cluster));
            }
        }
        changed
    }

    /// Looks at the clusters whose interval is over. Returns those whose endpoints changed their
    /// health.
    pub fn due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        while let Some((_, name)) = self.due.first().filter(|(at, _)| *at <= now) {
            let name = Arc::clone(name);
            self.due.pop_first();
            let Some(watched) = self.clusters.get_mut(&name) else {
                continue;
            };
            let all = &watched.cluster.known_endpoints();
            if watched.detector.tick(all, now, &mut self.random) {
                watched.cluster.gauge_members();
                changed.push(Arc::clone(&name));
            }
            // Overridden by zero, it would be due for ever.
            watched.due = now + watched.detector.interval().max(Duration::from_millis(1));
            self.due.insert((watched.due, name));
        }
        changed
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}
