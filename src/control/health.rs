//! Health checks follow the clusters in use, and what they find out comes back as a change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use causeway_xds::resource::access_log::Sink;
use tokio::task::AbortHandle;

use crate::cluster::Cluster;
use crate::cluster::health_check::{Changes, Checker, Pace, Rounds, Urgency, Watched};
use crate::snapshot::Snapshot;
use crate::telemetry::access_log::{LogFile, LogFiles};
use crate::telemetry::stats::{HealthCheckStats, Stats};
use crate::upstream::endpoint::Finding;

/// The checks that run.
#[derive(Default)]
pub(super) struct Health {
    changes: Arc<Changes>,
    pace: Arc<Pace>,
    rounds: Option<Rounding>,
    clusters: HashMap<Arc<str>, Checked>,
    waiting: BTreeMap<Arc<str>, Instant>,
    files: LogFiles,
}

/// A cluster under check.
struct Checked {
    /// What the tasks were made from.
    cluster: Arc<Cluster>,
    /// By endpoint, one each.
    checks: Box<[(u64, Check)]>,
    /// When balancers last saw a change.
    told: Option<Instant>,
}

/// The check of an endpoint, which ends when this is dropped.
#[expect(dead_code, reason = "held, so that it goes on")]
enum Check {
    Task(Task),
    Round(Arc<Watched>),
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The queue of those in the background, and who works it off.
struct Rounding {
    rounds: Arc<Rounds>,
    #[expect(dead_code, reason = "held, so that it goes on")]
    task: Task,
}

impl Health {
    pub fn changes(&self) -> Arc<Changes> {
        Arc::clone(&self.changes)
    }

    /// Starts and stops checks for the clusters of these names. Needs a runtime.
    pub fn follow(&mut self, names: &[Arc<str>], snapshot: &Snapshot, stats: &Stats) {
        for name in names {
            let cluster = snapshot.clusters.get(name);
            let cluster = cluster.filter(|c| c.model.health_check.is_some());
            match cluster {
                Some(cluster) => self.check(cluster, stats),
                None => {
                    self.waiting.remove(name);
                    if let Some(before) = self.clusters.remove(name) {
                        stats.forget_health_check(before.cluster.model.stat_name());
                    }
                }
            }
        }
    }

    fn check(&mut self, cluster: &Arc<Cluster>, stats: &Stats) {
        let Some(check) = &cluster.model.health_check else {
            return;
        };
        let before = self.clusters.remove(&cluster.name);
        let told = before.as_ref().and_then(|before| before.told);
        let mut kept: HashMap<u64, Check> = match before {
            Some(before) if is_same(&before.cluster, cluster) => {
                before.checks.into_iter().collect()
            }
            _ => HashMap::new(),
        };
        let counts = stats.health_check(cluster.stat_name());
        let events = self.open(&cluster.name, &check.event_logs);
        let check = Arc::clone(check);
        let mut checks = Vec::with_capacity(cluster.endpoints.all().len());
        for endpoint in cluster.endpoints.all() {
            if endpoint.attributes.check.disabled {
                continue;
            }
            let check = kept.remove(&endpoint.uid).unwrap_or_else(|| {
                let checker = Checker {
                    check: Arc::clone(&check),
                    endpoint: Arc::clone(endpoint),
                    transport: Arc::clone(&cluster.transport),
                    stats: Arc::clone(&counts),
                    outlier: cluster.outlier.clone(),
                    changes: Arc::clone(&self.changes),
                    pace: Arc::clone(&self.pace),
                    events: events.clone(),
                };
                self.begin(checker)
            });
            checks.push((endpoint.uid, check));
        }
        let checked = Checked {
            cluster: Arc::clone(cluster),
            checks: checks.into(),
            told,
        };
        gauge(cluster, &counts);
        self.clusters.insert(Arc::clone(&cluster.name), checked);
    }

    fn begin(&mut self, checker: Checker) -> Check {
        if !checker.goes_rounds() {
            return Check::Task(Task(tokio::spawn(checker.run()).abort_handle()));
        }
        let pace = &self.pace;
        let rounding = self.rounds.get_or_insert_with(|| {
            let rounds = Arc::<Rounds>::default();
            let run = Arc::clone(&rounds).run(Arc::clone(pace));
            let task = Task(tokio::spawn(run).abort_handle());
            Rounding { rounds, task }
        });
        Check::Round(rounding.rounds.add(checker))
    }

    /// Checks do not wait for a file that cannot be written; it is said once for each change.
    fn open(&self, cluster: &str, sinks: &[Sink]) -> Box<[Arc<LogFile>]> {
        let opened = sinks.iter().filter_map(|sink| match self.files.open(sink) {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(%cluster, ?sink, %error, "events of health checks are not logged");
                None
            }
        });
        opened.collect()
    }

    /// Which of the changed clusters are to be made new now. Others have changed a moment ago, and
    /// wait until their window has passed.
    pub fn changed(
        &mut self,
        changed: BTreeMap<Arc<str>, Urgency>,
        now: Instant,
        stats: &Stats,
    ) -> Vec<Arc<str>> {
        let mut due = Vec::new();
        for (name, urgency) in changed {
            let Some(checked) = self.clusters.get(&name) else {
                continue;
            };
            let cluster = &checked.cluster;
            gauge(cluster, &stats.health_check(cluster.stat_name()));
            let window = checked.cluster.model.merge_window;
            let open = checked.told.map(|told| told + window);
            match open.filter(|open| urgency == Urgency::Mergeable && *open > now) {
                Some(open) => {
                    self.waiting.entry(name).or_insert(open);
                }
                None => due.push(name),
            }
        }
        self.tell(&due, now);
        due
    }

    /// Those whose window has passed.
    pub fn due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let due = self.waiting.iter().filter(|(_, at)| **at <= now);
        let due: Vec<Arc<str>> = due.map(|(name, _)| Arc::clone(name)).collect();
        self.tell(&due, now);
        due
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    fn tell(&mut self, names: &[Arc<str>], now: Instant) {
        for name in names {
            self.waiting.remove(name);
            if let Some(checked) = self.clusters.get_mut(name) {
                checked.told = Some(now);
            }
        }
    }
}

/// Whether the checks of one do for the other.
fn is_same(a: &Cluster, b: &Cluster) -> bool {
    let checks = |cluster: &Cluster| {
        let all = cluster.endpoints.all().iter();
        all.map(|e| (e.uid, e.attributes.check.clone()))
            .collect::<HashMap<_, _>>()
    };
    let (before, after) = (checks(a), checks(b));
    a.model.health_check == b.model.health_check
        && a.model.outlier == b.model.outlier
        && Arc::ptr_eq(&a.transport, &b.transport)
        && after
            .iter()
            .all(|(uid, check)| before.get(uid).is_none_or(|before| before == check))
}

/// How many are healthy, at once: statistics do not wait for balancers.
fn gauge(cluster: &Cluster, counts: &HealthCheckStats) {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    cluster.gauge_members();
    let found = |finding, holds| {
        let all = cluster.endpoints.all().iter();
        count(all.filter(|e| e.is_found(finding) == holds).count())
    };
    counts.healthy.set(found(Finding::FailedActive, false));
    counts.degraded.set(found(Finding::DegradedActive, true));
}
