//! Start-up configuration of the worker: one TOML file, validated into [`WorkerConfig`].
//!
//! A file of the legacy worker keeps working as it is. Each of its keys is either read or listed
//! as one without effect, and named once in the log; one that nobody knows is named in a warning.

mod address;
pub mod bootstrap;
mod coordinator;
mod discovery;
mod error;
mod file;
mod frontend;
mod keys;
mod logging;
mod proxy_worker;
mod redis;
mod worker;

use std::path::Path;

use tracing::warn;

pub use coordinator::{
    AppFilter, CoordinatorConfig, FrontendMode, HostPort, ServiceDiscovery, ServiceEndpoint,
    Traefik, TraefikFrontend, Traffic, WorkerProtocol,
};
pub use error::ConfigError;
pub use keys::UnknownKey;
pub use logging::{ConsoleLog, FileLog, LogFormat, Logging};
pub use redis::{Redis, RedisServer};
pub use worker::{
    Access, Account, Causeway, DigestMod, PermitHash, PortProxy, Process, Tls, TlsFiles,
    WildcardDomain, WorkerConfig,
};

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
                "w.toml:4:14: proxy_worker.tls_cert is required for TLS",
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
