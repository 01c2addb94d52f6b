//! Start-up configuration of the worker: one TOML file, validated into [`WorkerConfig`].
//!
//! Only the keys that something reads are here. Every other key of the file is allowed (a file of
//! the legacy worker must keep working as it is); one that nobody knows is named in a warning.

pub mod bootstrap;
mod error;
mod file;
mod keys;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use tracing::warn;

use crate::util::Secret;

pub use error::ConfigError;
pub use keys::UnknownKey;

/// The worker's configuration, validated.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// `secrets.api_secret`: what a caller of the REST shim must present.
    pub api_secret: Secret,
    pub causeway: Causeway,
    /// `None`: no port frontend.
    pub port_proxy: Option<PortProxy>,
    /// `None`: no wildcard frontend.
    pub wildcard_domain: Option<WildcardDomain>,
    /// Keys of the file that mean nothing to us; [`WorkerConfig::load`] has warned about them.
    pub unknown: Vec<UnknownKey>,
}

/// `[causeway]`: what the legacy worker does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Causeway {
    /// Default 127.0.0.1:6040.
    pub management: SocketAddr,
    /// Default 0.0.0.0:5050; `None` when switched off (`false` or `""`).
    pub path_frontend: Option<SocketAddr>,
    /// Whether the path frontend cuts `/<session>/<service>` off. Default true.
    pub strip_prefix: bool,
    /// Whether circuits that are not open to the public are served although nothing checks who
    /// calls. Default false.
    pub allow_unauthenticated: bool,
}

impl Default for Causeway {
    fn default() -> Self {
        Self {
            management: SocketAddr::from(([127, 0, 0, 1], 6040)),
            path_frontend: Some(SocketAddr::from(([0, 0, 0, 0], 5050))),
            strip_prefix: true,
            allow_unauthenticated: false,
        }
    }
}

/// `[proxy_worker.port_proxy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortProxy {
    pub bind_host: IpAddr,
    /// `bind_port_range` written out. May be empty. A 0 lets the system choose.
    pub bind_ports: Vec<u16>,
    /// The first number of `advertised_port_range`, which is as long as the bind range.
    pub advertised_from: Option<u16>,
}

/// `[proxy_worker.wildcard_domain]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WildcardDomain {
    pub bind_addr: SocketAddr,
    /// Lower case, begins with a dot.
    pub domain: String,
    pub advertised_port: Option<u16>,
}

impl WorkerConfig {
    /// Reads and validates a file, and warns about each key that has no meaning.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::unreadable(path, &e))?;
        let config = Self::parse(&text, path)?;
        for key in &config.unknown {
            warn!(key = %key.name, file = %path.display(), hint = ?key.hint, "unknown key ignored");
        }
        Ok(config)
    }

    /// Validates the text of a file; `path` is only for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let at = error::Place { text, path };
        let file: file::File =
            toml::from_str(text).map_err(|e| at.error(e.span(), e.message(), None))?;
        let mut config = file.validate(&at)?;
        config.unknown = keys::unknown(text);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WorkerConfig, String> {
        WorkerConfig::parse(text, Path::new("w.toml")).map_err(|e| e.to_string())
    }

    const FULL: &str = r#"
[redis]
addr = { host = "127.0.0.1", port = 6379 }
[proxy_worker]
coordinator_endpoint = "http://127.0.0.1:10200"
authority = "worker-1"
frontend_mode = "wildcard"
protocol = "http"
[proxy_worker.wildcard_domain]
domain = ".Apps.test"
bind_addr = { host = "127.0.0.1", port = 10205 }
[proxy_worker.port_proxy]
bind_host = "localhost"
bind_port_range = [10210, 10212]
advertised_port_range = [20210, 20212]
[secrets]
api_secret = "hush"
jwt_secret = "hush too"
[causeway]
path_frontend = false
"#;

    #[test]
    fn a_legacy_file_is_read_and_shows_no_secret() {
        let config = parse(FULL).unwrap();
        let wildcard = config.wildcard_domain.as_ref().unwrap();
        assert_eq!(wildcard.domain, ".apps.test");
        assert_eq!(wildcard.bind_addr, "127.0.0.1:10205".parse().unwrap());
        let ports = config.port_proxy.as_ref().unwrap();
        assert_eq!(ports.bind_ports, [10210, 10211, 10212]);
        assert_eq!(ports.advertised_from, Some(20210));
        assert_eq!(config.causeway.path_frontend, None);
        assert_eq!(config.causeway.management.port(), 6040);
        assert!(config.unknown.is_empty(), "{:?}", config.unknown);
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn both_spellings_switch_the_path_frontend_off() {
        for off in ["false", "\"\""] {
            let text = format!("[secrets]\napi_secret=\"s\"\n[causeway]\npath_frontend = {off}\n");
            assert_eq!(parse(&text).unwrap().causeway.path_frontend, None);
        }
        let text = "[secrets]\napi_secret=\"s\"\n[causeway]\npath_frontend = \"127.0.0.1:0\"\n";
        let path = parse(text).unwrap().causeway.path_frontend.unwrap();
        assert_eq!(path.port(), 0);
    }

    #[test]
    fn an_empty_range_is_no_port_mode() {
        let text = "[secrets]\napi_secret=\"s\"\n[proxy_worker.port_proxy]\nbind_host=\"::1\"\n";
        let none = parse(text).unwrap().port_proxy.unwrap();
        assert!(none.bind_ports.is_empty());
        let empty = parse(&format!("{text}bind_port_range = []\n")).unwrap();
        assert!(empty.port_proxy.unwrap().bind_ports.is_empty());
    }

    #[test]
    fn errors_name_the_place_and_what_would_help() {
        for (text, expected) in [
            (
                "[secrets]\napi_secret = 5\n",
                "w.toml:2:14: invalid type: integer `5`",
            ),
            ("[secrets\n", "w.toml:1:9: "),
            ("x = 1\n", "w.toml: secrets.api_secret is required"),
            (
                "[secrets]\napi_secret=\"s\"\n[causeway]\nmanagement = \"6040\"\n",
                "w.toml:4:14: causeway.management: not an address (hint: ",
            ),
            (
                "[secrets]\napi_secret=\"s\"\n[causeway]\npath_frontend = true\n",
                "w.toml:4:17: causeway.path_frontend: not an address",
            ),
            (
                "[secrets]\napi_secret=\"s\"\n[proxy_worker]\ntls_listen = true\n",
                "w.toml:4:14: proxy_worker.tls_listen: not supported yet",
            ),
            (
                "[secrets]\napi_secret=\"s\"\n[proxy_worker.port_proxy]\nbind_host=\"::\"\n\
                 bind_port_range=[9,8]\n",
                "w.toml:5:17: proxy_worker.port_proxy.bind_port_range: ",
            ),
            (
                "[secrets]\napi_secret=\"s\"\n[proxy_worker.port_proxy]\nbind_host=\"::\"\n\
                 bind_port_range=[8,9]\nadvertised_port_range=[1,3]\n",
                "w.toml:6:23: proxy_worker.port_proxy.advertised_port_range: as long as",
            ),
            (
                "[secrets]\napi_secret=\"s\"\n[proxy_worker.wildcard_domain]\n\
                 domain=\"apps.test\"\nbind_addr={host=\"::1\",port=1}\n",
                "w.toml:4:8: proxy_worker.wildcard_domain.domain: begins with a dot",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_the_one_that_was_meant() {
        let config = parse(
            "[secrets]\napi_secret=\"s\"\n[causeway]\nmanagment=\"x\"\n\
             [wat]\nx=1\n[logging]\na=1\n",
        )
        .unwrap();
        let unknown: Vec<_> = config.unknown.iter().map(ToString::to_string).collect();
        assert_eq!(
            unknown,
            ["causeway.managment (did you mean management?)", "wat"]
        );
    }
}
