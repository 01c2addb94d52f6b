//! Management servers: who asks them, for what, and how. The same value whichever file said so: an
//! Envoy bootstrap, a gRPC bootstrap or the worker's TOML.

mod table;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use causeway_xds::client::BACKOFF_MAX;
use causeway_xds::proto::core::node::UserAgentVersionType;
use causeway_xds::proto::core::{BuildVersion, Node};
use causeway_xds::proto::envoy::r#type::v3::SemanticVersion;
use causeway_xds::proto::google::protobuf::value::Kind;
use causeway_xds::proto::{Struct, google};
use causeway_xds::reject::{FieldPath, Invalid};
use causeway_xds::resource::api_source::{ApiSource, Target};
use causeway_xds::resource::config_source::{ConfigSource, Place};
use causeway_xds::resource::dns_resolver::DnsResolver;

pub(super) use table::XdsTable;
pub use target::endpoint;

/// What this program calls itself towards a management server.
const USER_AGENT: &str = "causeway";

/// Where clusters and listeners come from, and who asks for them.
#[derive(Clone, Debug, PartialEq)]
pub struct XdsConfig {
    /// As it is sent: with the name and version of this program.
    pub node: Node,
    /// The aggregated stream. There whenever [`Place::Ads`] is named below.
    pub ads: Option<ApiSource>,
    /// `None`: no clusters but those of other sources.
    pub cds: Option<ConfigSource>,
    /// `None`: no listeners but those of other sources.
    pub lds: Option<ConfigSource>,
    /// Who is told of the load of all clusters, static ones included. `None`: nobody, but for
    /// clusters that name somebody themselves.
    pub load_reports: Option<ApiSource>,
    /// The listeners to ask for by name; empty asks for all there are.
    pub listener_names: Vec<String>,
    /// Whom names are asked of where a cluster does not say (`typed_dns_resolver_config` of the
    /// bootstrap). `None`: the system.
    pub resolver: Option<DnsResolver>,
    /// Whether listeners and clusters that a server stops naming stay in force (gRFC A53).
    pub ignore_resource_deletion: bool,
    /// A push that would delete more than this share of all listeners or clusters, in percent,
    /// waits until a second one says the same. `None`: every push is carried out.
    pub max_deletion_percent: Option<u8>,
    /// The longest wait between two attempts to connect. Default 5 s.
    pub backoff_max: Duration,
    /// A directory that keeps the last state, for a start while no server answers. `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// Whether `Secret` resources are kept there, too.
    pub cache_secrets: bool,
}

impl Default for XdsConfig {
    fn default() -> Self {
        Self {
            node: Node::default(),
            ads: None,
            cds: None,
            lds: None,
            load_reports: None,
            listener_names: Vec::new(),
            resolver: None,
            ignore_resource_deletion: false,
            max_deletion_percent: None,
            backoff_max: BACKOFF_MAX,
            cache: None,
            cache_secrets: false,
        }
    }
}

impl XdsConfig {
    /// Whether any configuration comes from a management server.
    pub fn has_server(&self) -> bool {
        let remote = |source: &Option<ConfigSource>| {
            let place = source.as_ref().map(|source| &source.place);
            matches!(place, Some(Place::Ads | Place::Api(_)))
        };
        self.ads.is_some() || remote(&self.cds) || remote(&self.lds)
    }

    /// The aggregated stream, the streams of single types, and that of load reports.
    pub fn api_sources(&self) -> impl Iterator<Item = &ApiSource> {
        let single = [&self.cds, &self.lds].into_iter().filter_map(api_of);
        self.ads.iter().chain(single).chain(&self.load_reports)
    }
}

fn api_of(source: &Option<ConfigSource>) -> Option<&ApiSource> {
    match &source.as_ref()?.place {
        Place::Api(api) => Some(api),
        _ => None,
    }
}

/// What the command line says beside a file, whichever kind it is.
#[derive(Clone, Debug, Default)]
pub struct XdsOverrides {
    /// `--service-node`
    pub service_node: Option<String>,
    /// `--service-cluster`
    pub service_cluster: Option<String>,
    /// `--service-zone`
    pub service_zone: Option<String>,
    /// `--config-cache`
    pub cache: Option<PathBuf>,
    /// `--config-cache-secrets`
    pub cache_secrets: bool,
    /// `--max-backoff-s`
    pub backoff_max: Option<Duration>,
    /// `--max-deletion-percent`; 0 for no limit.
    pub max_deletion_percent: Option<u8>,
}

impl XdsOverrides {
    pub fn apply(&self, xds: &mut XdsConfig) {
        self.apply_node(&mut xds.node);
        if let Some(cache) = &self.cache {
            xds.cache = Some(cache.clone());
        }
        xds.cache_secrets |= self.cache_secrets;
        if let Some(longest) = self.backoff_max {
            xds.backoff_max = longest;
        }
        if let Some(percent) = self.max_deletion_percent {
            xds.max_deletion_percent = deletion_limit(percent);
        }
    }

    pub(super) fn apply_node(&self, node: &mut Node) {
        if let Some(id) = &self.service_node {
            node.id.clone_from(id);
        }
        if let Some(cluster) = &self.service_cluster {
            node.cluster.clone_from(cluster);
        }
        if let Some(zone) = &self.service_zone {
            node.locality.get_or_insert_default().zone.clone_from(zone);
        }
    }
}

/// 0 says that there is no limit.
fn deletion_limit(percent: u8) -> Option<u8> {
    (percent > 0).then_some(percent)
}

/// Puts the name and version of this program into a node, whatever the file had there: a server
/// that tells proxies apart must not take this one for another.
pub fn introduce(node: &mut Node) {
    let mut numbers = env!("CAUSEWAY_VERSION")
        .split(['.', '-', '+'])
        .map_while(|part| part.parse().ok());
    let mut number = || numbers.next().unwrap_or_default();
    let version = SemanticVersion {
        major_number: number(),
        minor_number: number(),
        patch: number(),
    };
    let fact = |name: &str, text: &str| {
        let value = google::protobuf::Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        (name.to_owned(), value)
    };
    let facts = [
        fact("build.type", env!("CAUSEWAY_PROFILE")),
        fact("revision.sha", env!("CAUSEWAY_COMMIT")),
    ];
    USER_AGENT.clone_into(&mut node.user_agent_name);
    node.user_agent_version_type =
        Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
            version: Some(version),
            metadata: Some(Struct {
                fields: facts.into_iter().collect(),
            }),
        }));
}

/// Checks what a decoder cannot: targets are addresses, and clusters are known and have endpoints
/// without a management server. `eds_of` tells of a cluster whether its endpoints come from one.
///
/// # Errors
/// What is wrong, by its path below the source.
pub(super) fn check_targets(
    source: &ApiSource,
    eds_of: &dyn Fn(&str) -> Option<bool>,
) -> Result<(), Invalid> {
    use causeway_xds::resource::api_source::ApiProtocol;
    let root = FieldPath::root();
    for (i, server) in source.servers.iter().enumerate() {
        let service = root.field("grpc_services").index(i);
        match &server.target {
            Target::Cluster { name, .. } => {
                let at = match source.protocol {
                    ApiProtocol::Rest { .. } => root.field("cluster_names").index(i),
                    _ => service.field("envoy_grpc.cluster_name"),
                };
                let reason = match eds_of(name) {
                    Some(false) => continue,
                    None => format!("{name:?} is not among static_resources.clusters"),
                    Some(true) => format!(
                        "{name:?} gets its endpoints by EDS, which needs a management server first"
                    ),
                };
                return Err(Invalid::new(at, reason));
            }
            Target::Uri { uri, .. } => {
                endpoint(uri).map_err(|reason| {
                    Invalid::new(service.field("google_grpc.target_uri"), reason)
                })?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
