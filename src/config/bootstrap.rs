//! An Envoy bootstrap file.
//!
//! Each field of the message has one of three fates, decided here: it is read, it is taken without
//! effect (one log line names it), or it is refused by its path. The message is taken apart without
//! `..`, so a field that a new version of the message crate adds does not compile until decided.

mod dynamic;
mod fields;
pub mod grpc;
mod runtime;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use causeway_xds::proto::core::grpc_service::TargetSpecifier;
use causeway_xds::proto::core::grpc_service::google_grpc::call_credentials::CredentialSpecifier;
use causeway_xds::proto::envoy::config::bootstrap::v3::bootstrap::DynamicResources;
use causeway_xds::proto::{self, Any, Bootstrap, Message as _};
use causeway_xds::reject::{Invalid, before};
use causeway_xds::source::{Extent, Origin, Update};
use causeway_xds::text::{self, Document, Listing, Location, Options, TextError};
use causeway_xds::type_url::{self, ResourceType};
use tracing::info;

pub use runtime::{Runtime, RuntimeLayer};

use super::xds::{XdsConfig, XdsOverrides, introduce};

const MESSAGE: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// Where the text comes from that is merged over the file.
const OVER: &str = "--config-yaml";

/// A bootstrap, validated. Resources in it are still messages: they take the same road as those of
/// any other source.
#[derive(Clone, Debug, Default)]
pub struct BootstrapConfig {
    /// `node` and `dynamic_resources`.
    pub xds: XdsConfig,
    pub admin: Option<SocketAddr>,
    /// `static_resources`, of [`Origin::Static`].
    pub static_updates: Vec<Update>,
    pub runtime: Runtime,
    /// The cluster that has the proxies of its kind (`cluster_manager.local_cluster_name`).
    pub local_cluster: Option<String>,
    /// Connections that clients may have at one time (the resource monitor
    /// `downstream_connections` of `overload_manager`).
    pub max_connections: Option<u32>,
    /// Fields that were set and have no effect, sorted.
    pub ignored: Vec<String>,
    /// As it was read, with `node` as it is used and credentials left out; for the config dump.
    pub message: Bootstrap,
}

/// What the command line says beside the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config-yaml`: merged over the file.
    pub config_yaml: Option<String>,
    pub xds: XdsOverrides,
    /// `--grpc-listener`: the addresses that the template of a gRPC bootstrap is filled with.
    pub grpc_listeners: Vec<String>,
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
    #[error("text that protobuf prints is not read; write it as YAML, JSON or binary (.pb)")]
    PrintedText,
    #[error("not a bootstrap in binary form: {0}")]
    Binary(String),
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
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        match suffix {
            Some("pb") => return Self::parse_binary(path, &bytes, overrides),
            Some("pb_text") => return Err(failed(Cause::PrintedText)),
            _ => {}
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
            failed(Cause::NotText { line })
        })?;
        let file = path.display().to_string();
        if grpc::looks_like_grpc(&text) {
            return Self::parse_grpc(&file, &text, overrides);
        }
        Self::parse(&file, &text, overrides)
    }

    /// As [`Self::parse`], for the message itself. Its fields have no lines.
    fn parse_binary(
        path: &Path,
        bytes: &[u8],
        overrides: &Overrides,
    ) -> Result<Self, BootstrapError> {
        let failed = |cause| BootstrapError {
            file: path.display().to_string(),
            cause,
        };
        let decode = |e: &dyn std::fmt::Display| failed(Cause::Binary(e.to_string()));
        let mut message = Bootstrap::decode(bytes).map_err(|e| decode(&e))?;
        if let Some(over) = &overrides.config_yaml {
            let over: Bootstrap = text::parse(over, MESSAGE, &overrides.options())
                .map_err(|e| failed(Cause::Text(e)))?;
            // Encodings one after the other are a merge.
            let over = over.encode_to_vec();
            message.merge(over.as_slice()).map_err(|e| decode(&e))?;
        }
        Self::from_message(message, overrides).map_err(|invalid| {
            failed(Cause::Invalid {
                location: None,
                invalid,
            })
        })
    }

    fn from_message(mut message: Bootstrap, overrides: &Overrides) -> Result<Self, Invalid> {
        let node = message.node.get_or_insert_default();
        overrides.xds.apply_node(node);
        introduce(node);
        let mut config = fields::read(message)?;
        overrides.xds.apply(&mut config.xds);
        redact(&mut config.message);
        Ok(config)
    }

    /// Validates a text; `file` is what errors call it. An empty text is an empty bootstrap, for
    /// `--config-yaml` without a file.
    ///
    /// # Errors
    /// As [`BootstrapConfig::load`].
    pub fn parse(file: &str, text: &str, overrides: &Overrides) -> Result<Self, BootstrapError> {
        let text = if text.trim().is_empty() { "{}" } else { text };
        let over = overrides.config_yaml.as_deref();
        let failed = |cause| BootstrapError {
            file: file.to_owned(),
            cause,
        };
        let message: Bootstrap = text::parse_merged(text, over, MESSAGE, &overrides.options())
            .map_err(|e| failed(Cause::Text(e)))?;
        let document = document(file, text, over);
        let mut config = Self::from_message(message, overrides).map_err(|invalid| {
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

impl Overrides {
    fn options(&self) -> Options {
        Options {
            allow_unknown_fields: self.allow_unknown_fields,
        }
    }
}

/// Takes out what opens a management server to whoever reads it.
fn redact(message: &mut Bootstrap) {
    const INSTEAD: &str = "[redacted]";
    let manager = message.cluster_manager.as_mut();
    let reports = manager.and_then(|manager| manager.load_stats_config.as_mut());
    let mut none = DynamicResources::default();
    let dynamic = message.dynamic_resources.as_mut().unwrap_or(&mut none);
    use proto::core::config_source::ConfigSourceSpecifier::ApiConfigSource;
    let single = [&mut dynamic.lds_config, &mut dynamic.cds_config];
    let single = single.into_iter().filter_map(|source| {
        match source.as_mut()?.config_source_specifier.as_mut()? {
            ApiConfigSource(api) => Some(api),
            _ => None,
        }
    });
    let sources = dynamic.ads_config.iter_mut().chain(single).chain(reports);
    for service in sources.flat_map(|source| &mut source.grpc_services) {
        for header in &mut service.initial_metadata {
            INSTEAD.clone_into(&mut header.value);
            header.raw_value.clear();
        }
        if let Some(TargetSpecifier::GoogleGrpc(target)) = &mut service.target_specifier {
            for credentials in &mut target.call_credentials {
                credentials.credential_specifier =
                    Some(CredentialSpecifier::AccessToken(INSTEAD.to_owned()));
            }
            target.channel_credentials = None;
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
