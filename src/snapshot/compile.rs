//! Store -> snapshot, with work in proportion to the change.

mod cluster;
mod filters;
mod listener;
mod routes;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use causeway_xds::ResourceType;
use causeway_xds::reject::{Invalid, Rejected};
use causeway_xds::resource::Resource;
use causeway_xds::resource::tls::{CertificateRef, SecretValue};
use causeway_xds::store::{Changes, ResourceStore};

use self::filters::{FilterUsers, With};
use super::Snapshot;
use crate::cluster::{Home, outlier};
use crate::filter::Registry;
use crate::telemetry::access_log::LogFiles;
use crate::telemetry::stats::Stats;
use crate::upstream::Settings;

/// Compiles snapshots one after the other, and remembers who refers to what.
pub struct Compiler {
    stats: Arc<Stats>,
    log_files: LogFiles,
    registry: Registry,
    /// Clusters by the load assignment they use, where that has not their own name.
    eds_users: HashMap<String, BTreeSet<String>>,
    /// Listeners and clusters by the secret they use.
    secret_users: HashMap<String, BTreeSet<(ResourceType, String)>>,
    filter_users: FilterUsers,
    /// Those of clusters that were made of late.
    settings: VecDeque<Weak<Settings>>,
    outlier_keys: Arc<outlier::Keys>,
    reports: outlier::Reports,
    /// Where the proxy is among those of its kind, if it is to know.
    home: Option<Home>,
    /// Until somebody takes it.
    reported: Option<outlier::Received>,
}

/// What a compilation led to.
#[derive(Debug, Default)]
pub struct Compiled {
    pub snapshot: Snapshot,
    pub retired: Vec<Retired>,
    /// Valid resources that cannot be used all the same: a certificate file that is not there.
    /// Their earlier version stays in use.
    pub rejected: Vec<Rejected>,
    /// Clusters whose endpoints control has to look after that are new, changed or gone.
    pub checked: Vec<Arc<str>>,
}

/// Endpoints that no cluster has any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    pub endpoints: Vec<u64>,
    /// The circuit is gone: what still runs to them is ended.
    pub cut: bool,
}

/// What there is to compile from: the store, or a view of it that holds something back.
pub trait Resources {
    fn resource(&self, kind: ResourceType, name: &str) -> Option<&Resource>;

    /// Everything of a kind, in no particular order.
    fn all(&self, kind: ResourceType) -> Box<dyn Iterator<Item = &Resource> + '_>;
}

impl Resources for ResourceStore {
    fn resource(&self, kind: ResourceType, name: &str) -> Option<&Resource> {
        self.get(kind, name)
    }

    fn all(&self, kind: ResourceType) -> Box<dyn Iterator<Item = &Resource> + '_> {
        Box::new(self.iter(kind).map(|(_, resource)| resource))
    }
}

type Failed = Invalid;

impl Compiler {
    pub fn new(stats: Arc<Stats>, registry: Registry) -> Self {
        let (reports, reported) = outlier::reports();
        Self {
            outlier_keys: Arc::new(outlier::Keys::new(&registry.context().layers)),
            reports,
            reported: Some(reported),
            stats,
            log_files: LogFiles::default(),
            registry,
            home: None,
            eds_users: HashMap::new(),
            secret_users: HashMap::new(),
            filter_users: FilterUsers::default(),
            settings: VecDeque::new(),
        }
    }

    /// Lets requests stay in the zone of this proxy.
    #[must_use]
    pub fn at_home(self, home: Option<Home>) -> Self {
        Self { home, ..self }
    }

    /// Where data threads report outliers; there once.
    pub fn take_reports(&mut self) -> Option<outlier::Received> {
        self.reported.take()
    }

    /// The snapshot after `previous`. `changes` names everything in `store` that is not as
    /// `previous` shows it; the generation is the caller's to count.
    pub fn compile(
        &mut self,
        store: &dyn Resources,
        changes: &Changes,
        previous: &Snapshot,
    ) -> Compiled {
        let mut out = Compiled {
            snapshot: previous.clone(),
            ..Compiled::default()
        };
        let mut todo: BTreeMap<ResourceType, BTreeSet<&str>> = BTreeMap::new();
        for (kind, name) in changes
            .added
            .iter()
            .chain(&changes.changed)
            .chain(&changes.removed)
        {
            todo.entry(*kind).or_default().insert(name);
        }
        let take = |kind: ResourceType, todo: &mut BTreeMap<_, _>| -> BTreeSet<&str> {
            todo.remove(&kind).unwrap_or_default()
        };
        let secrets = take(ResourceType::Secret, &mut todo);
        for name in &secrets {
            filters::pass_on(&self.registry, store, name);
        }
        let users: Vec<(ResourceType, String)> = secrets
            .iter()
            .filter_map(|name| self.secret_users.get(*name))
            .flatten()
            .cloned()
            .collect();
        let named = |wanted: ResourceType| {
            users
                .iter()
                .filter(move |(kind, _)| *kind == wanted)
                .map(|(_, name)| name.clone())
        };

        let mut clusters: BTreeSet<String> = named(ResourceType::Cluster).collect();
        let rebuilt = clusters.clone();
        clusters.extend(
            take(ResourceType::Cluster, &mut todo)
                .iter()
                .map(|n| (*n).to_owned()),
        );
        for assignment in take(ResourceType::LoadAssignment, &mut todo) {
            let named = cluster::uses(store, assignment).then(|| assignment.to_owned());
            let others = self.eds_users.get(assignment).into_iter().flatten();
            clusters.extend(named.into_iter().chain(others.cloned()));
        }
        // Removals first, here and for listeners: what comes may take over a name in statistics.
        let goes = |kind, name: &&String| store.resource(kind, name).is_none();
        let (gone, kept): (Vec<&String>, Vec<&String>) = clusters
            .iter()
            .partition(|n| goes(ResourceType::Cluster, n));
        for name in gone.into_iter().chain(kept) {
            self.cluster(store, name, rebuilt.contains(name), &mut out);
        }
        if self.is_home(&clusters) {
            self.follow_home(store, &mut out.snapshot);
        }

        let hosts = take(ResourceType::VirtualHost, &mut todo);
        self.routes(
            store,
            take(ResourceType::RouteConfiguration, &mut todo),
            &hosts,
            &mut out,
        );

        let with = With {
            store,
            registry: &self.registry,
            stats: &self.stats,
            stat_prefix: "",
        };
        for name in take(ResourceType::FilterConfig, &mut todo) {
            self.filter_users.changed(name, &with, &mut out);
        }

        let mut listeners: BTreeSet<String> = named(ResourceType::Listener).collect();
        listeners.extend(
            take(ResourceType::Listener, &mut todo)
                .iter()
                .map(|n| (*n).to_owned()),
        );
        let (gone, kept): (Vec<&String>, Vec<&String>) = listeners
            .iter()
            .partition(|n| goes(ResourceType::Listener, n));
        for name in gone.into_iter().chain(kept) {
            self.listener(store, name, &mut out);
        }
        let active = i64::try_from(out.snapshot.clusters.len()).unwrap_or(i64::MAX);
        self.stats.cluster_manager.active_clusters.set(active);
        out
    }

    fn forget_secret_user(&mut self, kind: ResourceType, name: &str) {
        let user = (kind, name.to_owned());
        self.secret_users.retain(|_, users| {
            users.remove(&user);
            !users.is_empty()
        });
    }

    fn note_secrets<'c>(
        &mut self,
        references: impl Iterator<Item = &'c CertificateRef>,
        user: &(ResourceType, String),
    ) {
        for reference in references {
            if let CertificateRef::Secret { name, .. } = reference {
                self.note_secret(name, user);
            }
        }
    }

    fn note_secret(&mut self, name: &str, user: &(ResourceType, String)) {
        let users = self.secret_users.entry(name.to_owned()).or_default();
        users.insert(user.clone());
    }
}

fn resource<'s>(store: &'s dyn Resources, kind: ResourceType, name: &str) -> Option<&'s Resource> {
    store.resource(kind, name)
}

fn secrets(store: &dyn Resources) -> impl Fn(&str) -> Option<SecretValue> + '_ {
    |name| match resource(store, ResourceType::Secret, name)? {
        Resource::Secret(secret) => Some(secret.value.clone()),
        _ => None,
    }
}
