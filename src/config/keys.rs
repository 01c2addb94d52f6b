//! Which keys are known, and which one somebody may have meant.

use std::fmt;

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

/// Tables whose keys are checked. Every other table of [`TABLES`] is the legacy worker's and is
/// let be, whatever it holds.
const CHECKED: [(&str, &[&str]); 5] = [
    ("", TABLES),
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
            "drain_time",
        ],
    ),
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
        "proxy_worker.wildcard_domain",
        &["bind_addr", "domain", "advertised_port"],
    ),
];

const TABLES: &[&str] = &[
    "causeway",
    "debug",
    "etcd",
    "logging",
    "otel",
    "permit_hash",
    "profiling",
    "proxy_worker",
    "pyroscope",
    "redis",
    "secrets",
    "service_discovery",
];

const PROXY_WORKER: &[&str] = &[
    "accepted_traffics",
    "aiomonitor_termui_port",
    "aiomonitor_webui_port",
    "announce_addr",
    "api_advertised_addr",
    "api_bind_addr",
    "app_filters",
    "authority",
    "client_pool_cleanup_interval",
    "client_pool_keep_inflight_sessions",
    "coordinator_endpoint",
    "event_loop",
    "filtered_apps_only",
    "frontend_mode",
    "group",
    "heartbeat_period",
    "http2",
    "id",
    "inference_metric_collection_interval",
    "ipc_base_path",
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
    "use_experimental_redis_event_dispatcher",
    "user",
    "verify_coordinator_ssl_certificate",
    "wildcard_domain",
];

/// Each unknown key once, in the order of the file's tables. The text is known to parse.
pub(super) fn unknown(text: &str) -> Vec<UnknownKey> {
    let mut found = Vec::new();
    if let Ok(root) = text.parse::<toml::Table>() {
        collect("", &root, &mut found);
    }
    found
}

fn collect(path: &str, table: &toml::Table, found: &mut Vec<UnknownKey>) {
    let Some((_, known)) = CHECKED.iter().find(|(name, _)| *name == path) else {
        return;
    };
    for (key, value) in table {
        let name = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        if !known.contains(&key.as_str()) {
            let hint = known.iter().copied().find(|k| distance(k, key) <= 2);
            found.push(UnknownKey { name, hint });
        } else if let toml::Value::Table(inner) = value {
            collect(&name, inner, found);
        }
    }
}

/// Edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
