//! Keys that are accepted and change nothing here: of the legacy worker's ways that this program
//! does not have, and of parts that a given file does not use.

use super::WorkerConfig;
use super::coordinator::FrontendMode;

/// Never read, each with what it stands for. Of a table nothing inside is looked at.
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    // Decided by the command line alone, there as here.
    "debug",
    // Reached by the Coordinator only.
    "etcd",
    "logging.graylog",
    "logging.logstash",
    // Levels of Python modules.
    "logging.pkg-ns",
    // Export of traces.
    "otel",
    "profiling",
    // Pools are per endpoint and close idle connections by themselves; nothing in flight is cut.
    "proxy_worker.client_pool_cleanup_interval",
    "proxy_worker.client_pool_keep_inflight_sessions",
    // Python's event loop and its monitor.
    "proxy_worker.aiomonitor_termui_port",
    "proxy_worker.aiomonitor_webui_port",
    "proxy_worker.event_loop",
    // HTTP/2 is spoken here without a helper program.
    "proxy_worker.http2",
    // Sockets between Python's log processes.
    "proxy_worker.ipc_base_path",
    "proxy_worker.use_experimental_redis_event_dispatcher",
    "pyroscope",
    // The legacy client does not use it either.
    "redis.redis_helper_config",
];

/// Read only for a Coordinator; the first that is missing says why the others do nothing.
const FOR_A_COORDINATOR: &[&str] = &[
    "proxy_worker.accepted_traffics",
    "proxy_worker.announce_addr",
    "proxy_worker.api_advertised_addr",
    "proxy_worker.api_bind_addr",
    "proxy_worker.app_filters",
    "proxy_worker.authority",
    "proxy_worker.filtered_apps_only",
    "proxy_worker.frontend_mode",
    "proxy_worker.heartbeat_period",
    "proxy_worker.id",
    "proxy_worker.inference_metric_collection_interval",
    "proxy_worker.metric_access_allowed_hosts",
    "proxy_worker.port_proxy.advertised_host",
    "proxy_worker.protocol",
    "proxy_worker.traefik",
    "proxy_worker.verify_coordinator_ssl_certificate",
    "redis",
    "service_discovery",
];

/// The keys of this file that do nothing, in the order of the tables above.
pub(super) fn without_effect(root: &toml::Table, config: &WorkerConfig) -> Vec<String> {
    let unused: &[&str] = match config.coordinator.as_ref().map(|c| &c.frontend_mode) {
        None => FOR_A_COORDINATOR,
        Some(FrontendMode::Port { .. }) => {
            &["proxy_worker.wildcard_domain", "proxy_worker.traefik"]
        }
        Some(FrontendMode::Wildcard) => &["proxy_worker.port_proxy", "proxy_worker.traefik"],
        Some(FrontendMode::Traefik(_)) => {
            &["proxy_worker.port_proxy", "proxy_worker.wildcard_domain"]
        }
    };
    let mut found: Vec<String> = WITHOUT_EFFECT
        .iter()
        .chain(unused)
        .filter(|key| is_in(root, key))
        .map(|key| (*key).to_owned())
        .collect();
    // What is inside a table that does nothing needs no mention of its own.
    let tables = found.clone();
    found.retain(|key| {
        let inside = |table: &String| key.starts_with(&format!("{table}."));
        !tables.iter().any(inside)
    });
    if config.access.is_none() {
        let halves = ["secrets.jwt_secret", "permit_hash"];
        found.extend(
            halves
                .iter()
                .filter(|key| is_in(root, key))
                .map(ToString::to_string),
        );
    }
    if config.tls.listen.is_none() {
        let pair = ["proxy_worker.tls_cert", "proxy_worker.tls_privkey"];
        found.extend(
            pair.iter()
                .filter(|key| is_in(root, key))
                .map(ToString::to_string),
        );
    }
    let drivers = root
        .get("logging")
        .and_then(|logging| logging.get("drivers"));
    for driver in drivers
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
    {
        if let Some(name @ ("graylog" | "logstash")) = driver.as_str() {
            found.push(format!("logging.drivers \"{name}\""));
        }
    }
    found
}

/// Whether the file has this key.
fn is_in(root: &toml::Table, key: &str) -> bool {
    let mut table = root;
    let mut names = key.split('.').peekable();
    while let Some(name) = names.next() {
        match table.get(name) {
            None => return false,
            Some(_) if names.peek().is_none() => return true,
            Some(toml::Value::Table(inner)) => table = inner,
            Some(_) => return false,
        }
    }
    false
}
