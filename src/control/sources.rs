//! The sources that resources in use refer to: a task for each file and each set of host
//! names, a client for each set of management servers, shared by all who refer to them, and stopped when nobody does.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use causeway_xds::ResourceType;
use causeway_xds::client;
use causeway_xds::file::{FileSource, TouchSource};
use causeway_xds::resource::api_source::{ApiSource, Target};
use causeway_xds::source::{Batches, Extent, Interest, Interests, Origin, Source, Update};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::dns::DnsSource;
use super::load::{Recipient, Reporters};
use super::subscriptions::{ADS, Change, Local, Named, ServerKey, Signal};
use crate::net::resolve::Resolvers;
use crate::snapshot::Publisher;
use crate::telemetry::stats::Stats;

/// Makes clients of management servers from what resources say of them.
pub trait Servers: Send {
    /// The aggregated stream.
    ///
    /// # Errors
    /// Why there is none.
    fn ads(&self, origin: Origin) -> Result<client::Config, String>;

    /// A stream of its own.
    ///
    /// # Errors
    /// Why there cannot be one: a cluster that the bootstrap does not have.
    fn api(
        &self,
        source: &ApiSource,
        kind: ResourceType,
        origin: Origin,
    ) -> Result<client::Config, String>;
}

const NONE: &str = "no management server is configured";

/// For a process that was not told of any.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServers;

impl Servers for NoServers {
    fn ads(&self, _: Origin) -> Result<client::Config, String> {
        Err(NONE.to_owned())
    }

    fn api(&self, _: &ApiSource, _: ResourceType, _: Origin) -> Result<client::Config, String> {
        Err(NONE.to_owned())
    }
}

pub struct Sources {
    servers: Box<dyn Servers>,
    resolvers: Resolvers,
    stats: Arc<Stats>,
    batches: Batches,
    local: HashMap<Local, AbortHandle>,
    clients: HashMap<ServerKey, Client>,
    reporters: Reporters,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("local", &self.local.keys())
            .field("clients", &self.clients.keys())
            .finish_non_exhaustive()
    }
}

struct Client {
    origin: Origin,
    interests: Interests,
    task: AbortHandle,
    /// Names asked for, and one for a wildcard. At none a stream of its own ends.
    uses: usize,
}

impl Sources {
    pub fn new(
        servers: Box<dyn Servers>,
        resolvers: Resolvers,
        stats: Arc<Stats>,
        batches: Batches,
        publisher: Publisher,
    ) -> Self {
        Self {
            reporters: Reporters::new(publisher, Arc::clone(&stats)),
            servers,
            resolvers,
            stats,
            batches,
            local: HashMap::new(),
            clients: HashMap::new(),
        }
    }

    /// Asks for everything of a type, or for these names if there are any.
    pub fn ask(&mut self, server: &ServerKey, kind: ResourceType, names: &[String]) {
        if let Some(client) = self.client(server) {
            client.uses += names.len().max(1);
            let interest = match names {
                [] => Interest::All(kind),
                names => Interest::Subscribe(kind, names.to_vec()),
            };
            tell(client, interest);
        }
    }

    /// Starts what is new and stops what nobody refers to. Returns the updates that take back what
    /// only a stopped source could change.
    pub fn carry_out(&mut self, changes: Vec<Change>) -> Vec<Update> {
        let mut updates = Vec::new();
        // Names of one type go into one message, as there may be thousands.
        let mut names: Vec<(ServerKey, ResourceType, bool, Vec<String>)> = Vec::new();
        let mut add = |named: Named, start: bool| {
            let group = names
                .iter_mut()
                .find(|g| g.0 == named.server && g.1 == named.kind && g.2 == start);
            match group {
                Some(group) => group.3.push(named.name),
                None => names.push((named.server, named.kind, start, vec![named.name])),
            }
        };
        let mut refresh = Vec::new();
        for change in changes {
            match change {
                Change::Start(Signal::Local(key)) => self.start_local(key),
                Change::Stop(Signal::Local(key)) => updates.extend(self.stop_local(&key)),
                Change::Start(Signal::Named(named)) => add(named, true),
                Change::Stop(Signal::Named(named)) => add(named, false),
                Change::Start(Signal::Report(report)) => {
                    let (servers, clients) = (&*self.servers, &self.clients);
                    let config = |to: &_| recipient(servers, clients, to);
                    self.reporters.start(report, config);
                }
                Change::Stop(Signal::Report(report)) => self.reporters.stop(&report),
                Change::Refresh(named) => refresh.push(named),
            }
        }
        for (server, kind, start, names) in names {
            if start {
                self.ask(&server, kind, &names);
            } else {
                updates.extend(self.unsubscribe(&server, kind, names));
            }
        }
        for named in refresh {
            if let Some(client) = self.clients.get(&named.server) {
                tell(client, Interest::Refresh(named.kind, named.name));
            }
        }
        updates
    }

    /// Reports the load of all clusters to these servers.
    pub fn report_all(&mut self, to: &ApiSource) {
        match load_config(&*self.servers, to) {
            Ok(config) => self.reporters.start_all(config),
            Err(reason) => warn!(reason, "load is not reported"),
        }
    }

    /// Counts that a type did not come in time.
    pub fn note_timeout(&self, origin: &Origin, kind: ResourceType) {
        let name = origin.to_string();
        let clients = self.stats.management();
        if let Some((_, status)) = clients.iter().find(|(origin, _)| *origin == name) {
            status.of(kind).init_fetch_timeout.fetch_add(1, Relaxed);
        }
    }

    pub fn stop_all(&mut self) {
        self.local.values().for_each(AbortHandle::abort);
        self.clients.values().for_each(|c| c.task.abort());
        self.local.clear();
        self.clients.clear();
        self.reporters.stop_everything();
    }

    fn start_local(&mut self, key: Local) {
        let source = key.source(&self.resolvers);
        info!(origin = %source.origin(), "source started");
        let task = tokio::spawn(source.run(self.batches.clone()));
        self.local.insert(key, task.abort_handle());
    }

    fn stop_local(&mut self, key: &Local) -> Option<Update> {
        self.local.remove(key)?.abort();
        let origin = key.origin();
        info!(%origin, "source no longer followed");
        let kind = key.kind();
        let mut others = self.local.keys();
        let shared = others.any(|k| k.kind() == kind && k.origin() == origin);
        (!shared).then(|| Update {
            extent: Extent::StateOfTheWorld,
            ..nothing(origin, kind)
        })
    }

    fn unsubscribe(
        &mut self,
        server: &ServerKey,
        kind: ResourceType,
        names: Vec<String>,
    ) -> Option<Update> {
        let client = self.clients.get_mut(server)?;
        client.uses = client.uses.saturating_sub(names.len());
        let update = Update {
            removals: names.clone(),
            ..nothing(client.origin.clone(), kind)
        };
        tell(client, Interest::Unsubscribe(kind, names));
        if client.uses == 0 && *server != ServerKey::Ads {
            info!(origin = %client.origin, "management server no longer asked");
            client.task.abort();
            self.stats.forget_management(&client.origin.to_string());
            self.clients.remove(server);
        }
        Some(update)
    }

    /// The client of a set of servers, started if it is the first to be asked.
    fn client(&mut self, key: &ServerKey) -> Option<&mut Client> {
        if !self.clients.contains_key(key) {
            let client = self.start_client(key)?;
            self.clients.insert(key.clone(), client);
        }
        self.clients.get_mut(key)
    }

    fn start_client(&self, key: &ServerKey) -> Option<Client> {
        let origin = key.origin();
        let config = match config(&*self.servers, key) {
            Ok(config) => config,
            Err(reason) => {
                warn!(%origin, reason, "management server cannot be asked");
                return None;
            }
        };
        info!(%origin, "source started");
        let (client, interests, status) = client::client(config);
        self.stats.note_management(origin.to_string(), status);
        let task = tokio::spawn(Box::new(client).run(self.batches.clone()));
        Some(Client {
            origin,
            interests,
            task: task.abort_handle(),
            uses: 0,
        })
    }
}

fn config(servers: &dyn Servers, key: &ServerKey) -> Result<client::Config, String> {
    match key {
        ServerKey::Ads => servers.ads(key.origin()),
        ServerKey::Api(kind, source) => servers.api(source, *kind, key.origin()),
    }
}

/// How a server is reached that is to be told of load.
fn recipient(
    servers: &dyn Servers,
    clients: &HashMap<ServerKey, Client>,
    to: &Recipient,
) -> Result<client::Config, String> {
    match to {
        Recipient::Api(source) => load_config(servers, source),
        Recipient::Giver(origin) if *origin == ServerKey::Ads.origin() => {
            config(servers, &ServerKey::Ads)
        }
        Recipient::Giver(origin) => {
            let giver = clients.iter().find(|(_, client)| client.origin == *origin);
            let none = || format!("{origin}, where it comes from, is no management server");
            config(servers, giver.ok_or_else(none)?.0)
        }
    }
}

/// Of what is asked of a server only how it is reached counts.
fn load_config(servers: &dyn Servers, source: &ApiSource) -> Result<client::Config, String> {
    let origin = Origin::Xds("load reports".into());
    servers.api(source, ResourceType::Cluster, origin)
}

impl Local {
    fn kind(&self) -> ResourceType {
        match self {
            Self::File { kind, .. } => *kind,
            Self::Dns(_) => ResourceType::LoadAssignment,
            Self::Files(_) => ResourceType::Secret,
        }
    }

    /// Whose the resources are that come from there.
    fn origin(&self) -> Origin {
        match self {
            Self::File { .. } | Self::Files(_) => self.source(&Resolvers::default()).origin(),
            Self::Dns(dns) => super::dns::origin(dns),
        }
    }

    fn source(&self, resolvers: &Resolvers) -> Box<dyn Source> {
        match self {
            Self::File {
                path,
                watched_directory,
                kind,
            } => Box::new(FileSource::new(
                path.clone(),
                watched_directory.clone(),
                *kind,
            )),
            Self::Dns(dns) => {
                let lookup = resolvers.lookup(dns.resolver.as_ref(), dns.respect_ttl.is_some());
                Box::new(DnsSource::new(Arc::clone(dns), lookup))
            }
            Self::Files(files) => Box::new(TouchSource(files.clone())),
        }
    }
}

impl ServerKey {
    /// Whose the resources are that come from there.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Ads => Origin::Xds(ADS.into()),
            Self::Api(kind, source) => {
                let names = source.servers.iter().map(|server| match &server.target {
                    Target::Cluster { name, .. } => name.as_str(),
                    Target::Uri { uri, .. } => uri.as_str(),
                });
                let names: Vec<&str> = names.collect();
                Origin::Xds(format!("{kind}:{}", names.join(",")).into())
            }
        }
    }
}

fn tell(client: &Client, interest: Interest) {
    if client.interests.send(interest).is_err() {
        warn!(origin = %client.origin, "the client of a management server has ended");
    }
}

/// An update that says nothing.
pub fn nothing(origin: Origin, kind: ResourceType) -> Update {
    Update {
        origin,
        kind,
        version: String::new(),
        extent: Extent::Incremental,
        upserts: Vec::new(),
        listing: None,
        removals: Vec::new(),
    }
}
