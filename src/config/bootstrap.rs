//! An Envoy bootstrap file.
//!
//! Each field of the message has one of three fates, decided here: it is read, it is taken without
//! effect (one log line names it), or it is refused by its path. The message is taken apart without
//! `..`, so a field that a new version of the message crate adds does not compile until decided.

mod fields;
mod runtime;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::proto::core::Node;
use causeway_xds::proto::{Any, Bootstrap};
use causeway_xds::reject::{Invalid, before};
use causeway_xds::source::{Extent, Origin, Update};
use causeway_xds::text::{self, Document, Listing, Location, Options, TextError};
use causeway_xds::type_url::{self, ResourceType};
use tracing::info;

pub use runtime::{Runtime, RuntimeLayer};

const MESSAGE: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// Where the text comes from that is merged over the file.
const OVER: &str = "--config-yaml";

/// A bootstrap, validated. Resources in it are still messages: they take the same road as those of
/// any other source.
#[derive(Clone, Debug, Default)]
pub struct BootstrapConfig {
    pub node: Node,
    pub admin: Option<SocketAddr>,
    /// `static_resources`, of [`Origin::Static`].
    pub static_updates: Vec<Update>,
    pub lds: Option<PathSource>,
    pub cds: Option<PathSource>,
    pub runtime: Runtime,
    /// Fields that were set and have no effect, sorted.
    pub ignored: Vec<&'static str>,
    /// As it was read, with `node` as it is used; for the config dump.
    pub message: Bootstrap,
}

/// A `path_config_source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSource {
    pub path: PathBuf,
    pub watched_directory: Option<PathBuf>,
    /// How long the start waits for it; zero waits for ever.
    pub initial_fetch_timeout: Duration,
}

/// What the command line says beside the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config-yaml`: merged over the file.
    pub config_yaml: Option<String>,
    /// `--service-node`
    pub service_node: Option<String>,
    /// `--service-cluster`
    pub service_cluster: Option<String>,
    /// `--allow-unknown-static-fields`
    pub allow_unknown_fields: bool,
}

/// Why a bootstrap is not used; the text names file, line, column, path, reason and hint as far as
/// they are known.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {cause}")]
pub struct BootstrapError {
    pub file: String,
    pub cause: Cause,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("cannot read the file: {0}")]
    Read(std::io::Error),
    #[error("line {line}: the file is not UTF-8")]
    NotText { line: usize },
    #[error(transparent)]
    Text(TextError),
    #[error("{}{invalid}", before(location.as_ref()))]
    Invalid {
        location: Option<Location>,
        invalid: Invalid,
    },
}

impl BootstrapConfig {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// [`BootstrapError`]: it cannot be read, is no bootstrap, or asks for what there is not.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, BootstrapError> {
        let failed = |cause| BootstrapError {
            file: path.display().to_string(),
            cause,
        };
        let bytes = std::fs::read(path).map_err(|e| failed(Cause::Read(e)))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
            failed(Cause::NotText { line })
        })?;
        Self::parse(&path.display().to_string(), &text, overrides)
    }

    /// Validates a text; `file` is what errors call it. An empty text is an empty bootstrap, for
    /// `--config-yaml` without a file.
    ///
    /// # Errors
    /// As [`BootstrapConfig::load`].
    pub fn parse(file: &str, text: &str, overrides: &Overrides) -> Result<Self, BootstrapError> {
        let options = Options {
            allow_unknown_fields: overrides.allow_unknown_fields,
        };
        let text = if text.trim().is_empty() { "{}" } else { text };
        let over = overrides.config_yaml.as_deref();
        let failed = |cause| BootstrapError {
            file: file.to_owned(),
            cause,
        };
        let mut message: Bootstrap = text::parse_merged(text, over, MESSAGE, &options)
            .map_err(|e| failed(Cause::Text(e)))?;
        let node = message.node.get_or_insert_default();
        if let Some(id) = &overrides.service_node {
            node.id.clone_from(id);
        }
        if let Some(cluster) = &overrides.service_cluster {
            node.cluster.clone_from(cluster);
        }
        let document = document(file, text, over);
        let mut config = fields::read(message).map_err(|invalid| {
            let location = document.tree().locate(invalid.path.as_str());
            failed(Cause::Invalid { location, invalid })
        })?;
        let document = Arc::new(document);
        for update in &mut config.static_updates {
            let list = list_of(update.kind);
            update.listing = list.map(|list| Listing::new(Arc::clone(&document), list));
        }
        Ok(config)
    }

    /// Logs which fields do nothing; `file` is what they were read from.
    pub fn report(&self, file: &str) {
        if !self.ignored.is_empty() {
            info!(%file, fields = %self.ignored.join(", "), "bootstrap fields without effect");
        }
    }
}

/// Whether a text is meant as an Envoy bootstrap: one of the bootstrap's own keys is at its top
/// level. Told from the keys alone, so that a broken bootstrap is reported as one.
pub fn looks_like_bootstrap(text: &str) -> bool {
    const KEYS: [&str; 9] = [
        "static_resources",
        "staticResources",
        "dynamic_resources",
        "dynamicResources",
        "layered_runtime",
        "layeredRuntime",
        "cluster_manager",
        "node",
        "admin",
    ];
    let text = text.trim_start_matches('\u{feff}');
    let flow = text.trim_start().starts_with('{');
    let top_level = |line: &&str| flow || !line.starts_with([' ', '\t', '#']);
    text.lines().filter(top_level).any(|line| {
        // `{"node": ...` on one line counts by its first key, which is enough of a sign.
        let line = line.trim_start().trim_start_matches('{').trim_start();
        KEYS.iter().any(|key| {
            let rest = line.trim_start_matches(['"', '\'']).strip_prefix(key);
            let rest = rest.map(|r| r.trim_start_matches(['"', '\'']).trim_start());
            rest.is_some_and(|r| r.starts_with(':'))
        })
    })
}

/// What was read, to find places in. Whoever reports one names the file; the other text has to be
/// told from it, unless it stands in place of the file.
fn document(file: &str, text: &str, over: Option<&str>) -> Document {
    let document = Document::new(None, text);
    match over {
        Some(over) => document.merged((file != OVER).then_some(OVER), over),
        None => document,
    }
}

fn list_of(kind: ResourceType) -> Option<&'static str> {
    match kind {
        ResourceType::Secret => Some("static_resources.secrets"),
        ResourceType::Cluster => Some("static_resources.clusters"),
        ResourceType::Listener => Some("static_resources.listeners"),
        _ => None,
    }
}

/// The updates of `static_resources`, one per type that has any.
fn static_updates(resources: [(ResourceType, Vec<Any>); 3]) -> Vec<Update> {
    resources
        .into_iter()
        .filter(|(_, any)| !any.is_empty())
        .map(|(kind, upserts)| Update {
            origin: Origin::Static,
            kind,
            version: String::new(),
            extent: Extent::StateOfTheWorld,
            upserts,
            listing: None,
            removals: Vec::new(),
        })
        .collect()
}

fn pack<M: causeway_xds::proto::Message>(kind: ResourceType, messages: &[M]) -> Vec<Any> {
    let name = kind.message_name();
    messages
        .iter()
        .map(|m| type_url::pack_as(m, name))
        .collect()
}

#[cfg(test)]
mod tests;
