//! Clusters and their endpoints. What is known of an endpoint stays while it is the same one.

use std::sync::{Arc, Weak};

use causeway_xds::reject::{Invalid, Rejected};
use causeway_xds::resource::cluster::{Discovery, UpstreamProtocol};
use causeway_xds::resource::tls::UpstreamTls;
use causeway_xds::resource::{self as model, Resource};
use causeway_xds::store::is_reserved;
use causeway_xds::{FieldPath, ResourceType};

use super::{Compiled, Compiler, Failed, Resources, Retired, resource, secrets};
use crate::cluster::outlier::Detection;
use crate::cluster::{Checks, Cluster, EndpointSet, Former, OriginalDst, Peers, Recipe, stat_name};
use crate::route::hash::Hashing;
use crate::snapshot::Snapshot;
use crate::telemetry::stats::Counter;
use crate::tls::{ClientTls, PerRequest};
use crate::upstream::{Endpoint, Limits, Protocol, Settings, Transport, via};

/// How many different settings are looked through for those of the next cluster. The options that go with
/// them are shared by the store in the same way.
const RECENT: usize = 8;

impl Compiler {
    pub(super) fn cluster(
        &mut self,
        store: &dyn Resources,
        name: &str,
        rebuild: bool,
        out: &mut Compiled,
    ) {
        let before = out.snapshot.clusters.get(name).cloned();
        let Some(Resource::Cluster(model)) = resource(store, ResourceType::Cluster, name) else {
            self.forget_secret_user(ResourceType::Cluster, name);
            if let Some(before) = before {
                self.forget_cluster(&before, out);
            }
            return;
        };
        if let Some(service_name) = assignment_of(&model.discovery).filter(|s| *s != name) {
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
        let same_transport = |before: &Cluster| Arc::ptr_eq(&before.transport, &transport);
        let reconnect = before.as_ref().is_some_and(|b| !same_transport(b));
        let none = EndpointSet::default();
        let old_set = before.as_ref().map_or(&none, |b| &*b.endpoints);
        let peers = self.peers(name, &out.snapshot);
        let endpoints = endpoint_set(store, model, reconnect, peers.as_ref(), old_set);
        endpoints.count_zones(&transport.stats);
        let mut former = Vec::new();
        if let Some(before) = &before {
            let mut gone = before.endpoints.gone(&endpoints);
            if let Some(known) = &before.original_dst
                && (reconnect || original_dst_of(&before.model) != original_dst_of(model))
            {
                gone.extend(known.all());
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
        let original_dst = original_dst(&name, model, reconnect, before.as_deref());
        let cluster = Cluster {
            outlier,
            original_dst,
            name: Arc::clone(&name),
            transport,
            endpoints: Arc::new(endpoints),
            former,
            hashes: model.balancing.policy.hashes(),
            overrides: model.balancing.override_host.is_some(),
            hashing: match &*model.http.hash_policy {
                [] => None,
                policies => Some(Arc::new(Hashing::compile(policies))),
            },
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
            let peers = self.peers(name, &snapshot);
            renew(store, name, peers.as_ref(), &mut snapshot);
        }
        if self.is_home(names) {
            self.follow_home(store, &mut snapshot);
        }
        snapshot
    }

    /// Whether the cluster of proxies is among these.
    pub(super) fn is_home<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> bool {
        let home = self.home.as_ref();
        home.is_some_and(|home| names.into_iter().any(|n| n.as_ref() == &*home.cluster))
    }

    /// The proxies have changed, and so the shares of zones in every other cluster.
    pub(super) fn follow_home(&self, store: &dyn Resources, snapshot: &mut Snapshot) {
        let Some(home) = &self.home else { return };
        let peers = snapshot.clusters.get(&home.cluster);
        let peers = peers.map(|cluster| home.peers(&cluster.endpoints));
        let by_zone = |cluster: &Cluster| {
            let balancing = &cluster.model.balancing;
            cluster.name != home.cluster && !balancing.by_locality && !balancing.policy.hashes()
        };
        let clusters = snapshot.clusters.values().filter(|c| by_zone(c));
        let names: Vec<Arc<str>> = clusters.map(|c| Arc::clone(&c.name)).collect();
        for name in &names {
            renew(store, name, peers.as_ref(), snapshot);
        }
    }

    /// The proxies that zones of this cluster are compared with.
    fn peers(&self, cluster: &str, snapshot: &Snapshot) -> Option<Peers> {
        let home = self
            .home
            .as_ref()
            .filter(|home| *home.cluster != *cluster)?;
        let peers = snapshot.clusters.get(&home.cluster)?;
        Some(home.peers(&peers.endpoints))
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
        let settings = self.settings(store, model)?;
        let limits = Limits::default();
        limits.set(&model.limits);
        let high_limits = Limits::default();
        high_limits.set(&model.high_limits);
        let cluster: Arc<str> = Arc::from(model.name.as_str());
        Ok(Transport {
            stats: self.stats.cluster(stat_name(&cluster, model)),
            cluster,
            settings,
            limits,
            high_limits,
            dropped: Counter::default(),
        })
    }

    /// Those of another cluster with the same options, if it can be.
    fn settings(
        &mut self,
        store: &dyn Resources,
        model: &model::Cluster,
    ) -> Result<Arc<Settings>, Failed> {
        // Who uses a secret is noted for each cluster.
        let secured = model.tls_contexts().next().is_some();
        if !secured {
            let mut known = self.settings.iter().filter_map(Weak::upgrade);
            if let Some(same) = known.find(|known| Arc::ptr_eq(&known.options, &model.options)) {
                return Ok(same);
            }
        }
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
        let auto_sni = model.http.auto_sni.clone().filter(|_| secured);
        let settings = Arc::new(Settings {
            options: Arc::clone(&model.options),
            protocol,
            varies: auto_sni.is_some() || model.proxy_protocol.is_some(),
            auto_sni,
            tls,
            sockets,
            proxy_protocol: model.proxy_protocol.clone(),
            connect_timeout: model.connect_timeout,
            queue_timeout: model.queue_timeout,
            tcp_keepalive: model.tcp_keepalive,
            happy_eyeballs: model.happy_eyeballs,
            preconnect: model.preconnect,
            source_addresses: model.source_addresses.clone(),
            idle_timeout: match (&model.proxy_protocol, model.http.idle_timeout) {
                (None, timeout) => timeout,
                (Some(_), timeout) if timeout.is_zero() => via::SHORT_IDLE,
                (Some(_), timeout) => timeout.min(via::SHORT_IDLE),
            },
            max_requests: model.http.max_requests_per_connection,
            max_connection_duration: model.http.max_connection_duration,
            max_stream_duration: model.http.max_stream_duration,
            max_response_head: model
                .http
                .max_response_headers_kb
                .map(|kb| kb as usize * 1024),
            header_case: model.http.header_case,
        });
        if !secured {
            self.settings.truncate(RECENT - 1);
            self.settings.push_front(Arc::downgrade(&settings));
        }
        Ok(settings)
    }
}

/// Makes a cluster's set of endpoints anew, from what is known of them now.
fn renew(store: &dyn Resources, name: &Arc<str>, peers: Option<&Peers>, snapshot: &mut Snapshot) {
    let Some(before) = snapshot.clusters.get(name) else {
        return;
    };
    let endpoints = endpoint_set(store, &before.model, false, peers, &before.endpoints);
    // What was added or left out meanwhile waits for its own change.
    if endpoints.is_of(&before.endpoints) {
        endpoints.count_zones(&before.transport.stats);
        let cluster = Arc::new(before.with_endpoints(endpoints));
        snapshot.clusters.insert(Arc::clone(name), cluster);
    }
}

/// A cluster's endpoints, as far as they are known; those that were there before stay the same.
fn endpoint_set(
    store: &dyn Resources,
    cluster: &model::Cluster,
    reconnect: bool,
    peers: Option<&Peers>,
    before: &EndpointSet,
) -> EndpointSet {
    let recipe = Recipe {
        balancing: &cluster.balancing,
        sockets: &cluster.sockets,
        checks: Checks::from(cluster),
        reconnect,
        peers,
    };
    let build = |a: &model::LoadAssignment| EndpointSet::build(a, &recipe, before);
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

/// Whether the cluster of this name has its endpoints in the load assignment of the same name.
pub(super) fn uses(store: &dyn Resources, name: &str) -> bool {
    match resource(store, ResourceType::Cluster, name) {
        Some(Resource::Cluster(model)) => assignment_of(&model.discovery) == Some(name),
        _ => false,
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
    reconnect: bool,
    before: Option<&Cluster>,
) -> Option<Arc<OriginalDst>> {
    let wanted = original_dst_of(model)?;
    match before.and_then(|before| before.original_dst.as_ref()) {
        Some(before) if !reconnect && before.model == *wanted => Some(Arc::clone(before)),
        Some(before) => Some(Arc::new(before.reconnected(wanted.clone()))),
        None => Some(Arc::new(OriginalDst::new(Arc::clone(name), wanted.clone()))),
    }
}

/// Whether control has to look after its endpoints.
fn is_watched(model: &model::Cluster) -> bool {
    model.health_check.is_some() || model.outlier.is_some() || original_dst_of(model).is_some()
}

/// Whether connections made for `a` may be used for `b`.
fn same_transport(a: &model::Cluster, b: &model::Cluster) -> bool {
    let same_options = || {
        a.tls == b.tls
            && a.sockets == b.sockets
            && a.proxy_protocol == b.proxy_protocol
            && a.http == b.http
            && a.connect_timeout == b.connect_timeout
            && a.queue_timeout == b.queue_timeout
            && a.tcp_keepalive == b.tcp_keepalive
            && a.happy_eyeballs == b.happy_eyeballs
            && a.preconnect == b.preconnect
            && a.source_addresses == b.source_addresses
    };
    a.alt_stat_name == b.alt_stat_name && (Arc::ptr_eq(&a.options, &b.options) || same_options())
}
