//! Listeners: their addresses, filter chains and access logs.

use std::sync::Arc;

use causeway_xds::ResourceType;
use causeway_xds::extension::TypedExtension;
use causeway_xds::reject::{FieldPath, Invalid, Rejected};
use causeway_xds::resource::access_log::AccessLog;
use causeway_xds::resource::http_manager::{HttpFilterConfig, HttpManager, RouteSource};
use causeway_xds::resource::listener::{
    ConnectionPolicy, FilterChain, ListenerFilterKind, NetworkFilter, TcpCluster,
};
use causeway_xds::resource::tls::TicketKeysRef;
use causeway_xds::resource::{self as model, Address, Resource};

use super::filters::With;
use super::{Compiled, Compiler, Failed, Resources, resource, secrets};
use crate::access_log::Logger;
use crate::filter::Chain;
use crate::filter::http::usage;
use crate::filter::network::{self, NetworkChain};
use crate::filter::registry::{Link, LinkConfig, Registry};
use crate::formatter::Wants;
use crate::local_reply::LocalReplies;
use crate::net::listen::Options;
use crate::route::{Filters, HeaderEdits, RouteTable};
use crate::snapshot::{
    AddedTlvs, Agent, BindAddress, ChainKind, ChainSpec, HttpManagerSpec, ListenerSpec,
    ProxyProtocolStats, ProxyStatus, RouteRef, TcpProxySpec, TcpTarget, Tunneling,
};
use crate::telemetry::activity::Activity;
use crate::telemetry::logging::Sparse;
use crate::tls::ServerTls;

impl Compiler {
    pub(super) fn listener(&mut self, store: &dyn Resources, name: &str, out: &mut Compiled) {
        let Some(Resource::Listener(model)) = resource(store, ResourceType::Listener, name) else {
            self.forget_secret_user(ResourceType::Listener, name);
            self.filter_users.release(name);
            if let Some(gone) = out.snapshot.listeners.remove(name) {
                self.stats.listener_manager.listener_removed.inc();
                self.stats.forget_listener(&listener_stat_name(&gone.model));
            }
            return;
        };
        let users = self.filter_users.release(name);
        match self.listener_spec(store, model, out) {
            Ok(spec) => {
                let before = out
                    .snapshot
                    .listeners
                    .insert(Arc::clone(&spec.name), Arc::new(spec));
                let counted = match before {
                    Some(_) => &self.stats.listener_manager.listener_modified,
                    None => &self.stats.listener_manager.listener_added,
                };
                counted.inc();
            }
            Err(invalid) => {
                self.filter_users.release(name);
                self.filter_users.restore(users);
                out.rejected
                    .push(Rejected::new(ResourceType::Listener, name, invalid));
            }
        }
    }

    fn listener_spec(
        &mut self,
        store: &dyn Resources,
        model: &Arc<model::Listener>,
        out: &mut Compiled,
    ) -> Result<ListenerSpec, Failed> {
        let socket = match model.bind_to_port {
            true => BindAddress::Socket,
            false => BindAddress::Unbound,
        };
        let bind = match &model.address {
            Address::Socket(address) => socket(*address),
            Address::Pipe(path) => BindAddress::Pipe(path.clone()),
            Address::Named { .. } => return Err(Invalid::at("address", "is not an IP address")),
        };
        let stat_name = listener_stat_name(model);
        let mut chains = Vec::with_capacity(model.filter_chains.len());
        let before = out.snapshot.listeners.get(model.name.as_str()).cloned();
        let former = before.as_deref();
        for (i, chain) in model.filter_chains.iter().enumerate() {
            let at = FieldPath::root().field("filter_chains").index(i);
            let place = match chain.name.is_empty() {
                true => i.to_string(),
                false => chain.name.clone(),
            };
            let place = format!("listener/{}/{place}", model.name);
            let former = former.and_then(|former| FormerChain::find(former, chain, i));
            let spec = self.chain(store, model, (chain, former), (&stat_name, place), out);
            chains.push(Arc::new(spec.map_err(|e| e.within(&at))?));
        }
        let default_chain = match &model.default_filter_chain {
            None => None,
            Some(chain) => {
                let at = FieldPath::root().field("default_filter_chain");
                let former = former.and_then(FormerChain::default_of);
                let place = format!("listener/{}/default", model.name);
                let spec = self.chain(store, model, (chain, former), (&stat_name, place), out);
                Some(Arc::new(spec.map_err(|e| e.within(&at))?))
            }
        };
        Ok(ListenerSpec {
            name: Arc::from(model.name.as_str()),
            bind,
            more_binds: model.more_addresses.iter().copied().map(socket).collect(),
            options: Options {
                transparent: model.transparent,
                freebind: model.freebind,
            },
            chains,
            default_chain,
            stats: self.stats.listener(&stat_name),
            filter_stats: model
                .listener_filters
                .iter()
                .map(|filter| match &filter.kind {
                    ListenerFilterKind::ProxyProtocol(rules) => {
                        ProxyProtocolStats::of(&self.stats, &rules.stat_prefix)
                    }
                    _ => ProxyProtocolStats::default(),
                })
                .collect(),
            model: Arc::clone(model),
        })
    }

    fn chain(
        &mut self,
        store: &dyn Resources,
        listener: &model::Listener,
        (chain, former): (&FilterChain, Option<FormerChain<'_>>),
        (stat_name, place): (&str, String),
        out: &mut Compiled,
    ) -> Result<ChainSpec, Failed> {
        let tls = match &chain.tls {
            None => None,
            Some(tls) => {
                let user = (ResourceType::Listener, listener.name.clone());
                self.note_secrets(tls.certificates.iter(), &user);
                if let Some(secret) = &tls.validation_secret {
                    self.note_secret(&secret.name, &user);
                }
                if let Some(TicketKeysRef::Secret(secret)) = &tls.ticket_keys {
                    self.note_secret(&secret.name, &user);
                }
                let tls = ServerTls::build(
                    tls,
                    &secrets(store),
                    self.registry.context().certificates.as_ref(),
                );
                Some(tls.map_err(|e| Invalid::at("transport_socket.typed_config", e.to_string()))?)
            }
        };
        let kind = match &chain.filter {
            NetworkFilter::Tcp(tcp) => ChainKind::Tcp(Arc::new(TcpProxySpec {
                clusters: cumulative(&tcp.clusters),
                idle_timeout: tcp.idle_timeout,
                downstream_idle_timeout: tcp.downstream_idle_timeout,
                upstream_idle_timeout: tcp.upstream_idle_timeout,
                awaits_data: tcp.awaits_data,
                max_duration: tcp.max_duration.unwrap_or_default(),
                max_duration_jitter: tcp.max_duration_jitter,
                max_connect_attempts: tcp.max_connect_attempts,
                backoff: tcp.backoff,
                hash: tcp.hash.clone(),
                log_times: tcp.log_times,
                tlvs: AddedTlvs::compile(&tcp.tlvs, tcp.tlv_merge),
                tunneling: tcp.tunneling.as_ref().map(Tunneling::compile),
                policy: tcp.policy.clone(),
                access_logs: self.access_logs(&tcp.access_logs)?,
                usage: self.usage(&tcp.policy)?,
                stats: self.stats.tcp(&tcp.stat_prefix),
                warnings: Sparse::default(),
            })),
            NetworkFilter::Echo => ChainKind::Echo,
            NetworkFilter::Direct(data) => ChainKind::Direct(data.clone().into()),
            NetworkFilter::Http(http) => {
                let registry = self.registry.at(place);
                let routes = match &http.routes {
                    RouteSource::Inline(config) => {
                        let filters: Arc<dyn Filters> = Arc::new(registry.clone());
                        RouteRef::Inline(Arc::new(RouteTable::compile(config, &filters)))
                    }
                    RouteSource::Rds { name, .. } => RouteRef::Named(Arc::from(name.as_str())),
                };
                let access_logs = self.access_logs(&http.access_logs)?;
                let local_replies = LocalReplies::compile(&http.local_replies);
                let mut wants = Wants::default();
                access_logs
                    .iter()
                    .for_each(|logger| logger.note(&mut wants));
                if let Some(replies) = &local_replies {
                    replies.note(&mut wants);
                }
                let filters = self.filters(store, &listener.name, (http, &registry), out)?;
                wants.merge(&filters.wants);
                ChainKind::Http(Arc::new(HttpManagerSpec {
                    routes,
                    filters,
                    access_logs,
                    local_replies,
                    early_edits: HeaderEdits::of_mutations(&http.early_edits),
                    agent: self.agent(http),
                    proxy_status: self.proxy_status(http),
                    wants,
                    draining: Arc::clone(&self.registry.context().draining),
                    stats: self.stats.http(&http.stat_prefix),
                    listener_stats: self.stats.listener_http(stat_name, &http.stat_prefix),
                    model: HttpManager::clone(http),
                }))
            }
        };
        let context = self.registry.context();
        let network = chain.before.iter().enumerate().map(|(i, filter)| {
            let built = match former.and_then(|former| former.filter(filter)) {
                Some(before) => network::rebuild(filter, context, before),
                None => network::build(filter, context),
            };
            let at = FieldPath::root().field("filters").index(i);
            built.map_err(|e| e.within(&at.field("typed_config")))
        });
        Ok(ChainSpec {
            tls,
            network: NetworkChain::new(network.collect::<Result<_, _>>()?),
            kind,
        })
    }

    fn filters(
        &mut self,
        store: &dyn Resources,
        listener: &str,
        (http, registry): (&HttpManager, &Registry),
        out: &mut Compiled,
    ) -> Result<Chain, Failed> {
        let (stat_prefix, filters) = (&http.stat_prefix, &http.filters);
        let with = With {
            store,
            registry,
            stats: &self.stats,
            stat_prefix,
        };
        let mut links = Vec::with_capacity(filters.len());
        for filter in filters {
            let (name, config) = match &filter.config {
                HttpFilterConfig::Inline(config) => (&config.name, LinkConfig::Configured(config)),
                HttpFilterConfig::Discovered(discovery) => {
                    let slot = self.filter_users.add(listener, discovery, &with, out)?;
                    (&discovery.name, LinkConfig::Changing(slot))
                }
            };
            links.push(Link {
                name,
                disabled: filter.disabled,
                config,
            });
        }
        registry.chain(stat_prefix, links.into_iter())
    }

    fn agent(&self, http: &HttpManager) -> Option<Agent> {
        let context = self.registry.context();
        let wanted = http.add_user_agent.then_some(&context.local_cluster)?;
        Agent::new(wanted, context.node.as_deref())
    }

    fn proxy_status(&self, http: &HttpManager) -> Option<ProxyStatus> {
        let node = self.registry.context().node.as_deref();
        ProxyStatus::compile(http, node.map_or("", |node| &node.id))
    }

    fn usage(&self, policy: &ConnectionPolicy) -> Result<Option<Arc<Activity>>, Failed> {
        if policy.circuit.is_empty() {
            return Ok(None);
        }
        let context = self.registry.context();
        usage::activity(&policy.circuit, &policy.sessions, context)
    }

    fn access_logs(&self, models: &[AccessLog]) -> Result<Vec<Logger>, Failed> {
        let mut loggers = Vec::with_capacity(models.len());
        for (i, model) in models.iter().enumerate() {
            let opened = Logger::open(model, &self.log_files, self.registry.context());
            loggers.extend(opened.map_err(|e| {
                let at = FieldPath::root().field("access_log").index(i);
                Invalid::new(at, format!("{:?}: {e}", model.to))
            })?);
        }
        Ok(loggers)
    }
}

/// A filter chain as it was before its listener changed.
#[derive(Clone, Copy)]
struct FormerChain<'f> {
    model: &'f FilterChain,
    compiled: &'f ChainSpec,
}

impl<'f> FormerChain<'f> {
    /// By its name; without one, by its place.
    fn find(former: &'f ListenerSpec, chain: &FilterChain, place: usize) -> Option<Self> {
        let mut chains = former.model.filter_chains.iter().zip(&former.chains);
        let (model, compiled) = match chain.name.is_empty() {
            true => chains.nth(place).filter(|(model, _)| model.name.is_empty()),
            false => chains.find(|(model, _)| model.name == chain.name),
        }?;
        Some(Self { model, compiled })
    }

    fn default_of(former: &'f ListenerSpec) -> Option<Self> {
        Some(Self {
            model: former.model.default_filter_chain.as_ref()?,
            compiled: former.default_chain.as_deref()?,
        })
    }

    /// The filter of that name and kind.
    fn filter(
        &self,
        filter: &TypedExtension,
    ) -> Option<(&'f TypedExtension, &'f Arc<dyn network::NetworkFilter>)> {
        let mut filters = self
            .model
            .before
            .iter()
            .zip(self.compiled.network.filters());
        filters.find(|(f, _)| f.name == filter.name && f.type_url == filter.type_url)
    }
}

fn cumulative(clusters: &[TcpCluster]) -> Vec<TcpTarget> {
    let mut sum = 0;
    let with_sum = |cluster: &TcpCluster| {
        sum += cluster.weight;
        TcpTarget {
            name: Arc::from(cluster.name.as_str()),
            sum,
            labels: cluster.labels.clone(),
        }
    };
    clusters.iter().map(with_sum).collect()
}

/// Envoy's name of a listener in statistics: its prefix, or its address with `_` for `:`.
fn listener_stat_name(listener: &model::Listener) -> String {
    if listener.stat_prefix.is_empty() {
        listener.address.to_string().replace(':', "_")
    } else {
        listener.stat_prefix.clone()
    }
}
