//! Which keys are known, and which one somebody may have meant.

use std::fmt;

use causeway_xds::text::distance;

use super::legacy::WITHOUT_EFFECT;

/// A key that means nothing to this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// With the tables it is in.
    pub name: String,
    /// A known key that looks like it.
    pub hint: Option<&'static str>,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.hint {
            Some(hint) => write!(f, " (did you mean {hint}?)"),
            None => Ok(()),
        }
    }
}

/// Tables whose keys are read, with those keys. [`WITHOUT_EFFECT`] has the others that are known.
const READ: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "causeway",
            "logging",
            "permit_hash",
            "proxy_worker",
            "redis",
            "secrets",
            "service_discovery",
            "xds",
        ],
    ),
    (
        "causeway",
        &[
            "management",
            "path_frontend",
            "path_tls_cert",
            "path_tls_privkey",
            "strip_prefix",
            "allow_unauthenticated",
            "relist_period",
            "traefik_poll_period",
            "coordinator_timeout",
            "usage_period",
            "state_file",
            "bus",
            "ports_at_start",
            "kernel_check_period",
            "kernel_ejection",
            "dns_servers",
            "max_connections",
            "tcp_idle_timeout",
            "tcp_log",
            "tcp_websocket_origins",
            "drain_time",
            "policies",
            "acme",
        ],
    ),
    (
        "causeway.policies",
        &[
            "app",
            "mode",
            "user",
            "endpoint",
            "rate_limit",
            "compression",
            "cors",
            "authorizer",
            "connections",
            "sticky",
        ],
    ),
    (
        "causeway.policies.connections",
        &["max", "queue", "queue_timeout"],
    ),
    (
        "causeway.policies.rate_limit",
        &["requests", "per", "burst"],
    ),
    (
        "causeway.policies.cors",
        &[
            "origins",
            "methods",
            "headers",
            "exposed",
            "max_age",
            "credentials",
        ],
    ),
    (
        "causeway.policies.authorizer",
        &[
            "address",
            "path",
            "timeout",
            "headers",
            "upstream_headers",
            "fail_open",
        ],
    ),
    (
        "causeway.acme",
        &[
            "accept_terms",
            "directory",
            "staging",
            "ca",
            "contact",
            "cache",
            "challenge",
            "domains",
            "circuits",
            "orders_per_hour",
            "hook",
            "rfc2136",
            "propagation",
            "eab_key_id",
            "eab_hmac_key",
        ],
    ),
    (
        "causeway.acme.rfc2136",
        &["server", "zone", "key_name", "key", "algorithm"],
    ),
    ("logging", &["level", "drivers", "console", "file"]),
    ("logging.console", &["colored", "format"]),
    (
        "logging.file",
        &[
            "path",
            "filename",
            "backup-count",
            "rotation-size",
            "format",
        ],
    ),
    ("permit_hash", &["secret", "digest_mod"]),
    ("proxy_worker", PROXY_WORKER),
    (
        "proxy_worker.port_proxy",
        &[
            "bind_host",
            "advertised_host",
            "bind_port_range",
            "advertised_port_range",
        ],
    ),
    (
        "proxy_worker.traefik",
        &[
            "api_port",
            "frontend_mode",
            "last_used_time_marker_directory",
            "port_proxy",
            "wildcard_domain",
        ],
    ),
    (
        "proxy_worker.traefik.port_proxy",
        &["advertised_host", "port_range"],
    ),
    (
        "proxy_worker.traefik.wildcard_domain",
        &["domain", "advertised_port", "tls_advertised"],
    ),
    (
        "proxy_worker.wildcard_domain",
        &["bind_addr", "domain", "advertised_port"],
    ),
    (
        "redis",
        &[
            "addr",
            "sentinel",
            "service_name",
            "password",
            "sentinel_password",
        ],
    ),
    ("secrets", &["api_secret", "jwt_secret"]),
    (
        "service_discovery",
        &[
            "type",
            "instance-id",
            "service-group",
            "display-name",
            "extra-labels",
            "endpoints",
        ],
    ),
    (
        "xds",
        &[
            "servers",
            "node-id",
            "cluster",
            "zone",
            "protocol",
            "max-backoff",
            "initial-fetch-timeout",
            "config-cache",
            "config-cache-secrets",
            "max-deletion-percent",
        ],
    ),
    (
        "xds.servers",
        &[
            "url",
            "ca",
            "cert",
            "key",
            "server-name",
            "token",
            "token-file",
        ],
    ),
];

const PROXY_WORKER: &[&str] = &[
    "accepted_traffics",
    "announce_addr",
    "api_advertised_addr",
    "api_bind_addr",
    "app_filters",
    "authority",
    "coordinator_endpoint",
    "filtered_apps_only",
    "frontend_mode",
    "group",
    "heartbeat_period",
    "id",
    "inference_metric_collection_interval",
    "metric_access_allowed_hosts",
    "pid_file",
    "port_proxy",
    "protocol",
    "tls_advertised",
    "tls_cert",
    "tls_listen",
    "tls_privkey",
    "traefik",
    "trusted_proxies",
    "user",
    "verify_coordinator_ssl_certificate",
    "wildcard_domain",
];

/// Each unknown key once, in the order of the file's tables.
pub(super) fn unknown(root: &toml::Table) -> Vec<UnknownKey> {
    let mut found = Vec::new();
    collect("", root, &mut found);
    found
}

fn collect(path: &str, table: &toml::Table, found: &mut Vec<UnknownKey>) {
    let Some((_, read)) = READ.iter().find(|(name, _)| *name == path) else {
        return;
    };
    for (key, value) in table {
        let name = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        if WITHOUT_EFFECT.contains(&name.as_str()) {
            continue;
        }
        if !read.contains(&key.as_str()) {
            let hint = read.iter().copied().find(|k| distance(k, key) <= 2);
            found.push(UnknownKey { name, hint });
        } else {
            match value {
                toml::Value::Table(inner) => collect(&name, inner, found),
                toml::Value::Array(list) => {
                    for inner in list.iter().filter_map(toml::Value::as_table) {
                        collect(&name, inner, found);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Every key that is read, with its tables: what the example file and the manual must name.
#[cfg(test)]
pub(super) fn read() -> impl Iterator<Item = String> {
    READ.iter()
        .filter(|(table, _)| !table.is_empty())
        .flat_map(|(table, keys)| keys.iter().map(move |key| format!("{table}.{key}")))
}
