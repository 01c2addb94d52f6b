//! Start-up configuration of the worker: one TOML file, validated into [`WorkerConfig`].
//!
//! A file of the legacy worker keeps working as it is. Each of its keys is either read or listed
//! as one without effect, and named once in the log; one that nobody knows is named in a warning.

mod acme;
mod address;
pub mod bootstrap;
mod coordinator;
mod discovery;
mod error;
mod file;
mod frontend;
mod keys;
mod legacy;
mod logging;
mod policies;
mod proxy_worker;
mod redis;
pub mod search;
mod worker;
pub mod xds;

use std::path::Path;

use tracing::{info, warn};

pub use acme::{Acme, AcmeChallenge, DnsSolver, Eab, Rfc2136, TsigAlgorithm};
pub use coordinator::{
    AppFilter, CoordinatorConfig, FrontendMode, HostPort, ServiceDiscovery, ServiceEndpoint,
    Traefik, TraefikFrontend, Traffic, WorkerProtocol,
};
pub use error::ConfigError;
pub use keys::UnknownKey;
pub use logging::{ConsoleLog, FileLog, LogFormat, Logging};
pub use policies::{Authorizer, Coding, Connections, Cors, Policy, RateLimit};
pub use redis::{Redis, RedisServer};
pub use worker::{
    Access, Account, Causeway, Certificates, DigestMod, PermitHash, PortProxy, Process, Tls,
    TlsFiles, WildcardDomain, WorkerConfig,
};

impl WorkerConfig {
    /// Reads and validates a file. What it ignores is told by [`Self::report`], because the log
    /// cannot begin before the file has said where it goes.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::unreadable(path, &e))?;
        Self::parse(&text, path)
    }

    /// Validates the text of a file; `path` is only for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let at = error::Place { text, path };
        let wrong = |e: toml::de::Error| at.error(e.span(), e.message(), None);
        let file: file::File = toml::from_str(text).map_err(wrong)?;
        let mut config = file.validate(&at)?;
        let root: toml::Table = toml::from_str(text).map_err(wrong)?;
        config.unknown = keys::unknown(&root);
        config.without_effect = legacy::without_effect(&root, &config);
        Ok(config)
    }

    /// Logs which keys of the file are ignored.
    pub fn report(&self) {
        for key in &self.unknown {
            warn!(key = %key.name, hint = ?key.hint, "unknown key ignored");
        }
        if !self.without_effect.is_empty() {
            info!(keys = %self.without_effect.join(", "), "keys without effect here");
        }
    }
}

/// A file of the worker with every key, to begin from.
pub const EXAMPLE: &str = include_str!("example.toml");

#[cfg(test)]
mod tests;
