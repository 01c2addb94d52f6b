//! Reports of load: which clusters are reported to whom, and where the counts are. A reporter runs
//! for each set of management servers that some cluster names, and one for the bootstrap's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use causeway_xds::client;
use causeway_xds::client::load_report::{
    ClusterLoad, Counts, EndpointLoad, Loads, LocalityLoad, Reporter, Selection,
};
use causeway_xds::resource::api_source::ApiSource;
use causeway_xds::resource::cluster::Discovery;
use causeway_xds::source::Origin;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::cluster::Cluster;
use crate::snapshot::Publisher;
use crate::telemetry::stats::Stats;

/// Who is told what the endpoints of a cluster have to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// The management server that resources of this origin come from.
    Giver(Origin),
    Api(ApiSource),
}

/// A cluster that is to be reported.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    pub to: Recipient,
    pub cluster: String,
}

/// The reporters that run.
pub struct Reporters {
    publisher: Publisher,
    stats: Arc<Stats>,
    /// Names of the servers that are told of all clusters.
    all: Option<(Vec<Arc<str>>, AbortHandle)>,
    running: HashMap<Recipient, Running>,
}

#[derive(Debug)]
struct Running {
    clusters: Names,
    task: AbortHandle,
}

/// The clusters that somebody is told of, shared with the reporter.
type Names = Arc<Mutex<BTreeSet<String>>>;

impl Reporters {
    pub fn new(publisher: Publisher, stats: Arc<Stats>) -> Self {
        Self {
            publisher,
            stats,
            all: None,
            running: HashMap::new(),
        }
    }

    /// Reports all clusters from now on.
    pub fn start_all(&mut self, config: client::Config) {
        let servers = names(&config);
        let task = self.spawn(config, None);
        self.all = Some((servers, task));
    }

    /// Reports one more cluster. `config` tells how the recipient is reached, or why it is not.
    pub fn start(
        &mut self,
        report: Report,
        config: impl FnOnce(&Recipient) -> Result<client::Config, String>,
    ) {
        let Report { to, cluster } = report;
        if let Some(running) = self.running.get(&to) {
            lock(&running.clusters).insert(cluster);
            return;
        }
        let config = match config(&to) {
            Ok(config) => config,
            Err(reason) => return warn!(cluster, reason, "the load of a cluster is not reported"),
        };
        if matches!(&self.all, Some((told, _)) if *told == names(&config)) {
            // It is told of this cluster already.
            return;
        }
        let clusters: Names = Arc::new(Mutex::new([cluster].into()));
        let task = self.spawn(config, Some(Arc::clone(&clusters)));
        self.running.insert(to, Running { clusters, task });
    }

    pub fn stop(&mut self, report: &Report) {
        let Some(running) = self.running.get(&report.to) else {
            return;
        };
        let mut clusters = lock(&running.clusters);
        clusters.remove(&report.cluster);
        if clusters.is_empty() {
            info!("load no longer reported");
            running.task.abort();
            drop(clusters);
            self.running.remove(&report.to);
        }
    }

    pub fn stop_everything(&mut self) {
        self.running.drain().for_each(|(_, r)| r.task.abort());
        if let Some((_, task)) = self.all.take() {
            task.abort();
        }
    }

    fn spawn(&self, config: client::Config, only: Option<Names>) -> AbortHandle {
        info!(servers = ?names(&config), "load is reported");
        let publisher = self.publisher.clone();
        let loads = Arc::new(ClusterLoads { publisher, only });
        let reporter = Reporter::new(config, loads, self.stats.load_reporter());
        tokio::spawn(reporter.run()).abort_handle()
    }
}

fn names(config: &client::Config) -> Vec<Arc<str>> {
    config.servers.iter().map(|s| Arc::clone(&s.name)).collect()
}

fn lock(names: &Names) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The counters of the clusters in use.
#[derive(Debug)]
struct ClusterLoads {
    publisher: Publisher,
    /// `None`: all of them.
    only: Option<Names>,
}

impl Loads for ClusterLoads {
    fn loads(&self, of: &Selection) -> Vec<ClusterLoad> {
        let snapshot = self.publisher.current();
        let of_name = |name: &String| snapshot.clusters.get(name.as_str());
        match (&self.only, of) {
            (None, Selection::All) => snapshot.clusters.values().map(|c| load(c)).collect(),
            (None, Selection::Named(names)) => {
                names.iter().filter_map(of_name).map(|c| load(c)).collect()
            }
            (Some(only), of) => {
                let only = lock(only);
                let names = only.iter().filter(|name| of.contains(name));
                names.filter_map(of_name).map(|c| load(c)).collect()
            }
        }
    }
}

fn load(cluster: &Cluster) -> ClusterLoad {
    let mut groups = BTreeMap::<_, Vec<EndpointLoad>>::new();
    for endpoint in cluster.endpoints.all() {
        let stats = &endpoint.stats;
        // In this order, so that no request is seen finished before it is seen issued.
        let (succeeded, failed) = (stats.rq_success.value(), stats.rq_error.value());
        let place = (endpoint.attributes.priority, &*endpoint.attributes.locality);
        groups.entry(place).or_default().push(EndpointLoad {
            id: endpoint.uid,
            address: endpoint.attributes.address.clone(),
            in_progress: u64::try_from(stats.rq_active.value()).unwrap_or(0),
            counts: Counts {
                issued: stats.rq_total.value(),
                succeeded,
                failed,
            },
        });
    }
    let group = |((priority, locality), endpoints): ((u32, &_), _)| LocalityLoad {
        locality: Clone::clone(locality),
        priority,
        endpoints,
    };
    ClusterLoad {
        name: cluster.name.to_string(),
        service_name: match &cluster.model.discovery {
            Discovery::Eds { service_name, .. } if *service_name != *cluster.name => {
                service_name.clone()
            }
            _ => String::new(),
        },
        dropped: cluster.transport.dropped.value(),
        localities: groups.into_iter().map(group).collect(),
    }
}
