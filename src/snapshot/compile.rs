//! Store -> snapshot, with work in proportion to the change.

mod filters;
mod listener;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use causeway_xds::reject::{Invalid, Rejected};
use causeway_xds::resource::cluster::{Discovery, UpstreamProtocol};
use causeway_xds::resource::parts;
use causeway_xds::resource::tls::{CertificateRef, SecretValue, UpstreamTls};
use causeway_xds::resource::{self as model, Resource};
use causeway_xds::store::{Changes, ResourceStore, is_reserved};
use causeway_xds::{FieldPath, ResourceType};

use self::filters::{FilterUsers, With};
use super::Snapshot;
use crate::cluster::outlier::{self, Detection};
use crate::cluster::{Cluster, EndpointSet, Former, OriginalDst};
use crate::filter::Registry;
use crate::route::{RouteTable, VirtualHost};
use crate::telemetry::access_log::LogFiles;
use crate::telemetry::stats::{Counter, Stats};
use crate::tls::{ClientTls, PerRequest};
use crate::upstream::{Endpoint, Limits, Protocol, Transport, via};

/// Compiles snapshots one after the other, and remembers who refers to what.
pub struct Compiler {
    stats: Arc<Stats>,
    log_files: LogFiles,
    registry: Registry,
    /// Clusters by the load assignment they use.
    eds_users: HashMap<String, BTreeSet<String>>,
    /// Listeners and clusters by the secret they use.
    secret_users: HashMap<String, BTreeSet<(ResourceType, String)>>,
    /// Virtual hosts that are resources of their own, by route configuration.
    virtual_hosts: HashMap<String, BTreeSet<String>>,
    filter_users: FilterUsers,
    outlier_keys: Arc<outlier::Keys>,
    reports: outlier::Reports,
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
}

impl Resources for ResourceStore {
    fn resource(&self, kind: ResourceType, name: &str) -> Option<&Resource> {
        self.get(kind, name)
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
            eds_users: HashMap::new(),
            secret_users: HashMap::new(),
            virtual_hosts: HashMap::new(),
            filter_users: FilterUsers::default(),
        }
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
            self.pass_on(store, name);
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
            clusters.extend(
                self.eds_users
                    .get(assignment)
                    .into_iter()
                    .flatten()
                    .cloned(),
            );
        }
        // Removals first, here and for listeners: what comes may take over a name in statistics.
        let goes = |kind, name: &&String| store.resource(kind, name).is_none();
        let (gone, kept): (Vec<&String>, Vec<&String>) = clusters
            .iter()
            .partition(|n| goes(ResourceType::Cluster, n));
        for name in gone.into_iter().chain(kept) {
            self.cluster(store, name, rebuilt.contains(name), &mut out);
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

    // ---- clusters

    fn cluster(&mut self, store: &dyn Resources, name: &str, rebuild: bool, out: &mut Compiled) {
        let before = out.snapshot.clusters.get(name).cloned();
        let Some(Resource::Cluster(model)) = resource(store, ResourceType::Cluster, name) else {
            self.forget_secret_user(ResourceType::Cluster, name);
            if let Some(before) = before {
                self.forget_cluster(&before, out);
            }
            return;
        };
        if let Some(service_name) = assignment_of(&model.discovery) {
            let users = self.eds_users.entry(service_name.to_owned()).or_default();
            users.insert(name.to_owned());
        }
        let transport = match &before {
            Some(before) if !rebuild && same_transport(&before.model, model) => {
                before.transport.limits.set(&model.limits);
                before.transport.high_limits.set(&model.high_limits);
                Arc::clone(&before.transport)
            }
            _ => match self.transport(store, model) {
                Ok(transport) => {
                    let transport = Arc::new(transport);
                    transport.stats.circuit_breakers.ask(&transport);
                    transport
                }
                Err(invalid) => {
                    return out
                        .rejected
                        .push(Rejected::new(ResourceType::Cluster, name, invalid));
                }
            },
        };
        if let Some(before) = &before
            && assignment_of(&before.model.discovery) != assignment_of(&model.discovery)
        {
            self.forget_assignment(name, &before.model.discovery);
        }
        let same = before
            .as_ref()
            .filter(|b| Arc::ptr_eq(&b.transport, &transport));
        let none = EndpointSet::default();
        let old_set = same.map_or(&none, |b| &*b.endpoints);
        let endpoints = endpoint_set(store, model, old_set);
        let mut former = Vec::new();
        if let Some(before) = &before {
            let mut gone = before.endpoints.gone(&endpoints);
            if let Some(before) = &before.original_dst
                && same.is_none_or(|same| original_dst_of(&same.model) != original_dst_of(model))
            {
                gone.extend(before.all());
            }
            former.extend(before.former.iter().filter(|f| f.is_used()).cloned());
            former.extend(gone.iter().map(|endpoint| Former::from(&**endpoint)));
            retire(&gone, &[], false, out);
            self.stats.cluster_manager.cluster_modified.inc();
        } else {
            self.stats.cluster_manager.cluster_added.inc();
        }
        transport.stats.membership_change.inc();
        let name: Arc<str> = Arc::clone(&transport.cluster);
        let outlier = self.outlier(&name, model, before.as_deref());
        let original_dst = original_dst(&name, model, same);
        let cluster = Cluster {
            outlier,
            original_dst,
            name: Arc::clone(&name),
            transport,
            endpoints: Arc::new(endpoints),
            former,
            model: Arc::clone(model),
        };
        cluster.gauge_members();
        if is_watched(&cluster.model) || before.is_some_and(|before| is_watched(&before.model)) {
            out.checked.push(Arc::clone(&name));
        }
        out.snapshot.clusters.insert(name, Arc::new(cluster));
    }

    /// The same as before while its configuration is.
    fn outlier(
        &self,
        name: &Arc<str>,
        model: &model::Cluster,
        before: Option<&Cluster>,
    ) -> Option<Arc<Detection>> {
        let wanted = model.outlier.as_ref()?;
        match before.and_then(|before| before.outlier.as_ref()) {
            Some(before) if before.model == *wanted => Some(Arc::clone(before)),
            _ => Some(Arc::new(Detection::new(
                Arc::clone(name),
                wanted.clone(),
                Arc::clone(&self.outlier_keys),
                self.reports.clone(),
            ))),
        }
    }

    /// The snapshot after `previous`, with the endpoints of these clusters as they are known to be now.
    pub fn refresh(
        &self,
        store: &dyn Resources,
        names: &[Arc<str>],
        previous: &Snapshot,
    ) -> Snapshot {
        let mut snapshot = previous.clone();
        for name in names {
            let Some(before) = snapshot.clusters.get(name) else {
                continue;
            };
            let endpoints = endpoint_set(store, &before.model, &before.endpoints);
            // What was added or left out meanwhile waits for its own change.
            if endpoints.is_of(&before.endpoints) {
                let cluster = before.with_endpoints(endpoints);
                snapshot
                    .clusters
                    .insert(Arc::clone(name), Arc::new(cluster));
            }
        }
        snapshot
    }

    fn forget_assignment(&mut self, name: &str, discovery: &Discovery) {
        if let Some(service_name) = assignment_of(discovery)
            && let Some(users) = self.eds_users.get_mut(service_name)
        {
            users.remove(name);
            if users.is_empty() {
                self.eds_users.remove(service_name);
            }
        }
    }

    fn forget_cluster(&mut self, cluster: &Cluster, out: &mut Compiled) {
        self.forget_assignment(&cluster.name, &cluster.model.discovery);
        // The end of a circuit is the end of what its users have open. Other clusters come and go by
        // the rules of xDS: what is under way finishes.
        let cut = is_reserved(&cluster.name);
        retire(&cluster.known_endpoints(), &cluster.former, cut, out);
        out.snapshot.clusters.remove(&*cluster.name);
        if is_watched(&cluster.model) {
            out.checked.push(Arc::clone(&cluster.name));
        }
        self.stats.cluster_manager.cluster_removed.inc();
        self.stats.forget_cluster(cluster.model.stat_name());
    }

    fn transport(
        &mut self,
        store: &dyn Resources,
        model: &model::Cluster,
    ) -> Result<Transport, Failed> {
        let (protocol, alpn) = match &model.http.protocol {
            UpstreamProtocol::Http1 => (Protocol::Http1, &["http/1.1"][..]),
            UpstreamProtocol::Http2(options) => (Protocol::Http2(options.clone()), &["h2"][..]),
            UpstreamProtocol::Auto(options) => {
                (Protocol::Auto(options.clone()), &["h2", "http/1.1"][..])
            }
        };
        let alpn: Vec<String> = alpn.iter().map(|p| (*p).to_owned()).collect();
        let per_request = PerRequest {
            server_name: model.http.auto_sni.is_some(),
            validation: model.http.auto_san_validation,
        };
        let mut build = |tls: Option<&UpstreamTls>, at: FieldPath| {
            let Some(tls) = tls else { return Ok(None) };
            let user = (ResourceType::Cluster, model.name.clone());
            self.note_secrets(tls.client_certificate.iter(), &user);
            if let Some(secret) = &tls.validation_secret {
                self.note_secret(&secret.name, &user);
            }
            let tls = ClientTls::build(tls, &alpn, per_request, &secrets(store));
            let at = at.field("transport_socket").field("typed_config");
            tls.map(Some).map_err(|e| Invalid::new(at, e.to_string()))
        };
        let tls = build(model.tls.as_ref(), FieldPath::root())?;
        let mut sockets = Vec::new();
        for (index, socket) in model.sockets.iter().enumerate() {
            let at = FieldPath::root().field("transport_socket_matches");
            sockets.push(build(socket.tls.as_ref(), at.index(index))?);
        }
        let secured = model.tls_contexts().next().is_some();
        let limits = Arc::new(Limits::default());
        limits.set(&model.limits);
        let high_limits = Arc::new(Limits::default());
        high_limits.set(&model.high_limits);
        Ok(Transport {
            cluster: Arc::from(model.name.as_str()),
            protocol,
            auto_sni: model.http.auto_sni.clone().filter(|_| secured),
            tls,
            sockets,
            proxy_protocol: model.proxy_protocol,
            connect_timeout: model.connect_timeout,
            tcp_keepalive: model.tcp_keepalive,
            source_addresses: model.source_addresses.clone(),
            idle_timeout: match (model.proxy_protocol, model.http.idle_timeout) {
                (None, timeout) => timeout,
                (Some(_), timeout) if timeout.is_zero() => via::SHORT_IDLE,
                (Some(_), timeout) => timeout.min(via::SHORT_IDLE),
            },
            max_requests: model.http.max_requests_per_connection,
            max_connection_duration: model.http.max_connection_duration,
            max_response_head: model
                .http
                .max_response_headers_kb
                .map(|kb| kb as usize * 1024),
            header_case: model.http.header_case,
            stats: self.stats.cluster(model.stat_name()),
            limits,
            high_limits,
            dropped: Counter::default(),
        })
    }

    // ---- routes

    fn routes(
        &mut self,
        store: &dyn Resources,
        configs: BTreeSet<&str>,
        hosts: &BTreeSet<&str>,
        out: &mut Compiled,
    ) {
        let mut by_config: HashMap<&str, Vec<&str>> = HashMap::new();
        for name in hosts {
            let Some((config, _)) = name.rsplit_once('/') else {
                continue;
            };
            let known = self.virtual_hosts.entry(config.to_owned()).or_default();
            if store.resource(ResourceType::VirtualHost, name).is_some() {
                known.insert((*name).to_owned());
            } else {
                known.remove(*name);
            }
            if !configs.contains(config) {
                by_config.entry(config).or_default().push(name);
            }
        }
        for name in configs {
            let Some(Resource::RouteConfiguration(config)) =
                resource(store, ResourceType::RouteConfiguration, name)
            else {
                out.snapshot.routes.remove(name);
                continue;
            };
            let mut table = RouteTable::compile(config, &self.registry);
            if config.vhds.is_some() {
                for host in self.virtual_hosts.get(name).into_iter().flatten() {
                    apply_host(store, &mut table, config, &self.registry, host);
                }
            }
            out.snapshot
                .routes
                .insert(Arc::clone(&table.name), Arc::new(table));
        }
        for (config_name, hosts) in by_config {
            let (Some(Resource::RouteConfiguration(config)), Some(table)) = (
                resource(store, ResourceType::RouteConfiguration, config_name),
                out.snapshot.routes.get(config_name),
            ) else {
                continue;
            };
            if config.vhds.is_none() {
                continue;
            }
            let mut table = RouteTable::clone(table);
            for host in hosts {
                apply_host(store, &mut table, config, &self.registry, host);
            }
            out.snapshot
                .routes
                .insert(Arc::clone(&table.name), Arc::new(table));
        }
    }

    /// What filters need of a secret they look up by themselves.
    fn pass_on(&self, store: &dyn Resources, name: &str) {
        /// Bytes of a secret at most.
        const MAX: usize = 1 << 16;
        let value = match resource(store, ResourceType::Secret, name) {
            Some(Resource::Secret(secret)) => match &secret.value {
                SecretValue::Generic(source) => parts::source(source, MAX)
                    .inspect_err(
                        |error| tracing::warn!(name, %error, "a secret that cannot be read"),
                    )
                    .ok(),
                _ => None,
            },
            _ => None,
        };
        self.registry.context().secrets.set(name, value);
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

/// A cluster's endpoints, as far as they are known; those that were there before stay the same.
fn endpoint_set(
    store: &dyn Resources,
    cluster: &model::Cluster,
    before: &EndpointSet,
) -> EndpointSet {
    let checked = cluster.health_check.is_some();
    let build = |a: &model::LoadAssignment| {
        EndpointSet::build(a, &cluster.balancing, &cluster.sockets, checked, before)
    };
    match &cluster.discovery {
        Discovery::Static(assignment) => return build(assignment),
        Discovery::OriginalDst(_) => return EndpointSet::default(),
        Discovery::Eds { .. } | Discovery::Dns(_) => {}
    }
    let name = assignment_of(&cluster.discovery).unwrap_or_default();
    match resource(store, ResourceType::LoadAssignment, name) {
        Some(Resource::LoadAssignment(assignment)) => build(assignment),
        _ => build(&model::LoadAssignment::empty(name)),
    }
}

/// The load assignment that holds a cluster's endpoints, if it is a resource of its own.
fn assignment_of(discovery: &Discovery) -> Option<&str> {
    match discovery {
        Discovery::Static(_) | Discovery::OriginalDst(_) => None,
        Discovery::Eds { service_name, .. } => Some(service_name),
        Discovery::Dns(dns) => Some(&dns.resource),
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

fn apply_host(
    store: &dyn Resources,
    table: &mut RouteTable,
    config: &model::RouteConfiguration,
    registry: &Registry,
    name: &str,
) {
    match resource(store, ResourceType::VirtualHost, name) {
        Some(Resource::VirtualHost { host, .. }) => {
            table.insert(VirtualHost::compile(host, config, registry));
        }
        _ => table.remove(name),
    }
}

fn retire(endpoints: &[Arc<Endpoint>], former: &[Former], cut: bool, out: &mut Compiled) {
    endpoints.iter().for_each(|endpoint| endpoint.retire(cut));
    let former = former.iter().map(|f| f.uid);
    let endpoints: Vec<u64> = endpoints.iter().map(|e| e.uid).chain(former).collect();
    if !endpoints.is_empty() {
        out.retired.push(Retired { endpoints, cut });
    }
}

fn original_dst_of(model: &model::Cluster) -> Option<&model::cluster::OriginalDst> {
    match &model.discovery {
        Discovery::OriginalDst(original_dst) => Some(original_dst),
        _ => None,
    }
}

/// The same as before while its configuration and that of its connections is.
fn original_dst(
    name: &Arc<str>,
    model: &model::Cluster,
    before: Option<&Arc<Cluster>>,
) -> Option<Arc<OriginalDst>> {
    let wanted = original_dst_of(model)?;
    match before.and_then(|before| before.original_dst.as_ref()) {
        Some(before) if before.model == *wanted => Some(Arc::clone(before)),
        _ => Some(Arc::new(OriginalDst::new(Arc::clone(name), wanted.clone()))),
    }
}

/// Whether control has to look after its endpoints.
fn is_watched(model: &model::Cluster) -> bool {
    model.health_check.is_some() || model.outlier.is_some() || original_dst_of(model).is_some()
}

/// Whether connections made for `a` may be used for `b`.
fn same_transport(a: &model::Cluster, b: &model::Cluster) -> bool {
    a.tls == b.tls
        && a.sockets == b.sockets
        && a.proxy_protocol == b.proxy_protocol
        && a.http == b.http
        && a.connect_timeout == b.connect_timeout
        && a.tcp_keepalive == b.tcp_keepalive
        && a.source_addresses == b.source_addresses
        && a.alt_stat_name == b.alt_stat_name
}
