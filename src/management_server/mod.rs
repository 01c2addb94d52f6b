//! Connections to management servers: what an [`ApiSource`] names, as servers that a client of the
//! protocol can connect to.
//!
//! | module | holds |
//! |---|---|
//! | `connector` | one server: its addresses in turn, TLS, deadlines |
//! | `secrets` | certificates by name, from the bootstrap or from files |
//!
//! A server is a cluster of the bootstrap, or an address with credentials. Certificates in files
//! are read again for each connection, so that a renewed one needs no restart.

mod connector;
mod secrets;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::client::server::Keepalive;
use causeway_xds::client::{MAX_MESSAGE, Server};
use causeway_xds::extension::Unchecked;
use causeway_xds::reject::{FieldPath, Invalid, Rejected};
use causeway_xds::resource::api_source::{ApiProtocol, ApiSource, ServerRef, Target, Token};
use causeway_xds::resource::cluster::{Cluster, Discovery, DnsFamily, UpstreamProtocol};
use causeway_xds::resource::dns_resolver::DnsResolver;
use causeway_xds::resource::load_assignment::EndpointHealth;
use causeway_xds::resource::{Address, Resource, decode};
use causeway_xds::source::Update;

use self::connector::{Connector, Security};
use self::secrets::Secrets;
use crate::config::xds::endpoint;
use crate::net::resolve::{Lookup, Resolvers};

/// `connect_timeout` of a server that is no cluster: what a cluster has when it does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a bootstrap's `static_resources` have to say about management servers.
#[derive(Debug, Default)]
pub struct Statics {
    clusters: HashMap<String, Arc<Cluster>>,
    secrets: Arc<Secrets>,
    /// Who is asked for the addresses of servers that are names.
    resolvers: Resolvers,
}

impl Statics {
    /// Who knows the addresses of a cluster's names, and which of them count.
    fn lookup(&self, cluster: &Cluster) -> (Lookup, DnsFamily) {
        match &cluster.discovery {
            Discovery::Dns(dns) => (
                self.resolvers
                    .lookup(dns.resolver.as_ref(), dns.respect_ttl.is_some()),
                dns.family,
            ),
            _ => (self.resolvers.lookup(None, false), DnsFamily::All),
        }
    }

    /// The clusters that can be a management server: those with endpoints of their own.
    pub fn names(&self) -> BTreeSet<String> {
        let own = |cluster: &&Arc<Cluster>| !matches!(cluster.discovery, Discovery::Eds { .. });
        let clusters = self.clusters.values().filter(own);
        clusters.map(|cluster| cluster.name.clone()).collect()
    }

    /// # Errors
    /// A cluster or a secret that is not valid.
    pub fn read(updates: &[Update], resolver: Option<DnsResolver>) -> Result<Self, Rejected> {
        let mut clusters = HashMap::new();
        let mut secrets = Secrets::default();
        for any in updates.iter().flat_map(|update| &update.upserts) {
            // Listeners are not needed, and need more than this to be understood.
            let kind = causeway_xds::ResourceType::from_type_url(&any.type_url);
            if kind == Some(causeway_xds::ResourceType::Listener) {
                continue;
            }
            match decode(any, &Unchecked)? {
                Resource::Cluster(cluster) => {
                    clusters.insert(cluster.name.clone(), cluster);
                }
                Resource::Secret(secret) => secrets.insert(&secret),
                _ => {}
            }
        }
        Ok(Self {
            clusters,
            secrets: Arc::new(secrets),
            resolvers: Resolvers::new(resolver),
        })
    }
}

/// The servers of a source, in its order.
///
/// # Errors
/// A cluster that is not there, or that cannot be connected to without help from a server; by its
/// path below the source.
pub fn servers(source: &ApiSource, statics: &Statics) -> Result<Vec<Server>, Invalid> {
    let rest = matches!(source.protocol, ApiProtocol::Rest { .. });
    let list = if rest {
        "cluster_names"
    } else {
        "grpc_services"
    };
    let alpn = if rest { "http/1.1" } else { "h2" };
    let each = source.servers.iter().enumerate();
    each.map(|(i, server)| {
        let at = FieldPath::root().field(list).index(i);
        one(server, alpn, statics).map_err(|e| e.within(&at))
    })
    .collect()
}

fn one(server: &ServerRef, alpn: &'static str, statics: &Statics) -> Result<Server, Invalid> {
    let here = |reason: String| Invalid::new(FieldPath::root(), reason);
    let mut metadata = server.metadata.clone();
    let max_message = server.max_message.map_or(MAX_MESSAGE, |max| {
        usize::try_from(max).unwrap_or(usize::MAX)
    });
    match &server.target {
        Target::Cluster { name, authority } => {
            let cluster = statics.clusters.get(name);
            let cluster = cluster
                .ok_or_else(|| here(format!("{name:?} is not among static_resources.clusters")))?;
            let wrong = |reason: String| here(format!("cluster {name:?}: {reason}"));
            if !cluster.sockets.is_empty() {
                return Err(wrong(
                    "transport_socket_matches is not supported here".to_owned(),
                ));
            }
            let security = match &cluster.tls {
                None => Security::None,
                Some(tls) => {
                    statics.secrets.check(tls).map_err(wrong)?;
                    Security::Cluster(Arc::clone(cluster), Arc::clone(&statics.secrets))
                }
            };
            let keepalive = match &cluster.http.protocol {
                UpstreamProtocol::Http1 => None,
                UpstreamProtocol::Http2(options) | UpstreamProtocol::Auto(options) => {
                    options.keepalive
                }
            };
            Ok(Server {
                name: Arc::from(name.as_str()),
                authority: match authority.as_str() {
                    "" => name.clone(),
                    authority => authority.to_owned(),
                },
                secure: cluster.tls.is_some(),
                metadata,
                max_message,
                keepalive: keepalive.map(|keepalive| Keepalive {
                    interval: keepalive.interval,
                    timeout: keepalive.timeout,
                }),
                connect: Arc::new(Connector::new(
                    addresses(cluster).map_err(wrong)?,
                    statics.lookup(cluster),
                    cluster.connect_timeout,
                    cluster.tcp_keepalive,
                    security,
                    alpn,
                )),
            })
        }
        Target::Uri { uri, tls, token } => {
            let address = endpoint(uri).map_err(here)?;
            if let Some(Token(token)) = token {
                let value = format!("Bearer {token}").into_bytes();
                metadata.0.push(("authorization".to_owned(), value));
            }
            let authority = match &address {
                Address::Pipe(_) => "localhost".to_owned(),
                address => address.to_string(),
            };
            let security = match tls {
                None => Security::None,
                Some(tls) => Security::Channel(tls.clone()),
            };
            Ok(Server {
                name: Arc::from(uri.as_str()),
                authority,
                secure: tls.is_some(),
                metadata,
                max_message,
                keepalive: None,
                connect: Arc::new(Connector::new(
                    vec![address],
                    (statics.resolvers.lookup(None, false), DnsFamily::All),
                    CONNECT_TIMEOUT,
                    None,
                    security,
                    alpn,
                )),
            })
        }
    }
}

/// Where a cluster is, the best places first.
fn addresses(cluster: &Cluster) -> Result<Vec<Address>, String> {
    let assignment = match &cluster.discovery {
        Discovery::Static(assignment) => assignment,
        Discovery::Dns(dns) => &dns.assignment,
        Discovery::OriginalDst(_) => {
            return Err("of type ORIGINAL_DST is nowhere by itself".to_owned());
        }
        Discovery::Eds { .. } => {
            let reason = "gets its endpoints by EDS, which needs a management server first";
            return Err(reason.to_owned());
        }
    };
    let mut found: Vec<_> = assignment
        .localities
        .iter()
        .flat_map(|locality| locality.endpoints.iter().map(|e| (locality.priority, e)))
        .collect();
    let usable = |health| {
        use EndpointHealth as H;
        matches!(health, H::Unknown | H::Healthy | H::Degraded)
    };
    found.sort_by_key(|(priority, endpoint)| (!usable(endpoint.health), *priority));
    if found.is_empty() {
        return Err("has no endpoint".to_owned());
    }
    Ok(found.into_iter().map(|(_, e)| e.address.clone()).collect())
}

#[cfg(test)]
mod tests;
