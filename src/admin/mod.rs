//! The management port: health, statistics, dumps, and the few commands an operator has.
//!
//! | module | answers |
//! |---|---|
//! | `health` | `/ready`, `/livez`, `/readyz`, `/health`, `/status`, `/server_info` |
//! | [`stats`] | `/stats`, `/stats/prometheus`, `/reset_counters` |
//! | [`metrics`] | `/metrics`, under our own names |
//! | `dump` | `/config_dump` |
//! | `explain` | `/explain`: what would happen to a request |
//! | [`router`] | `/acme`: certificates that the program gets by itself |
//! | `clusters` | `/clusters`, `/listeners` |
//! | `csds` | the same over gRPC |
//! | `command` | everything that changes something, POST only |
//!
//! Paths, names and forms are Envoy's where Envoy has them. Whoever reaches this port may read
//! everything but secrets, so it belongs on loopback.

mod clusters;
mod command;
mod csds;
mod dump;
mod explain;
mod family;
mod health;
mod mask;
pub mod metrics;
mod reply;
pub mod stats;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use causeway_xds::proto::core::Node;
use tokio::sync::mpsc;

use crate::acme;
use crate::config::bootstrap::{BootstrapConfig, Runtime};
use crate::control::ControlHandle;
use crate::runtime::layers::Layers;
use crate::snapshot::Publisher;
use crate::telemetry::logging::LogLevel;
use crate::telemetry::stats::Stats;

/// What the operator wants of the rest of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// Stop accepting; let connections end by themselves.
    DrainListeners,
    /// End the process.
    Quit,
}

/// Where a listener is really bound, by its name: its configuration may say port 0.
pub type AddressOf = Arc<dyn Fn(&str) -> Vec<SocketAddr> + Send + Sync>;

/// What the management port answers from.
pub struct Parts {
    pub stats: Arc<Stats>,
    pub publisher: Publisher,
    pub control: ControlHandle,
    pub addresses: AddressOf,
    /// `None` where logging is not ours to change.
    pub log_level: Option<LogLevel>,
    pub commands: mpsc::Sender<AdminCommand>,
    /// `None` in worker mode.
    pub bootstrap: Option<BootstrapConfig>,
    /// Certificates that are obtained automatically; `None` where none are.
    pub acme: Option<acme::Status>,
    /// What overrides configuration.
    pub layers: Arc<Layers>,
    /// Data threads.
    pub concurrency: usize,
    /// Options as given, by name.
    pub command_line: Vec<(String, String)>,
}

/// [`Parts`], shared by all requests.
#[derive(Clone)]
pub struct AdminState {
    parts: Arc<Parts>,
    started: Instant,
}

impl AdminState {
    /// Uptime counts from here.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            started: Instant::now(),
        }
    }

    fn node(&self) -> Node {
        let bootstrap = self.parts.bootstrap.as_ref();
        bootstrap.map(|b| b.xds.node.clone()).unwrap_or_default()
    }

    fn runtime(&self) -> Runtime {
        self.parts.layers.current()
    }
}

impl Deref for AdminState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// Version, as every output shows it.
pub const VERSION: &str = match option_env!("CAUSEWAY_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Path, method and one line of help of everything the port answers.
const HELP: &[(&str, &str)] = &[
    ("/", "this page"),
    (
        "/acme",
        "certificates that are obtained automatically, as JSON",
    ),
    ("/clusters", "clusters and their endpoints (?format=json)"),
    (
        "/config_dump",
        "resources (?resource= ?mask= ?name_regex= ?include_eds)",
    ),
    (
        "/drain_listeners (POST)",
        "stop accepting (?graceful ?inboundonly)",
    ),
    (
        "/explain",
        "what would happen to a request (?url= &method= &header=name:value &client_ip= &listener= &format=json)",
    ),
    (
        "/health",
        "health as a JSON object; also /livez and /readyz",
    ),
    ("/healthcheck/fail (POST)", "make health checks fail"),
    ("/healthcheck/ok (POST)", "make health checks pass again"),
    ("/help", "this page"),
    ("/listeners", "listeners and their addresses (?format=json)"),
    ("/logging (POST)", "change the log level (?level=)"),
    ("/metrics", "metrics for Prometheus, under Causeway's names"),
    ("/quitquitquit (POST)", "end the process"),
    ("/ready", "LIVE once traffic is served"),
    (
        "/reopen_logs (POST)",
        "open the files of access logs anew, once they have been moved away",
    ),
    ("/reset_counters (POST)", "set every counter to zero"),
    ("/runtime", "runtime values and their layers"),
    (
        "/runtime_modify (POST)",
        "change runtime values of the admin layer (?key=value)",
    ),
    ("/server_info", "version, state, uptime"),
    (
        "/stats",
        "statistics (?filter= ?usedonly ?format=json|prometheus)",
    ),
    (
        "/stats/prometheus",
        "statistics for Prometheus, under Envoy's names",
    ),
    ("/status", "version of the worker interface"),
];

/// Everything the management port answers. More routes may be merged into it.
pub fn router(state: AdminState) -> Router {
    let stats = Arc::clone(&state.stats);
    Router::new()
        .route("/", get(help))
        .route("/help", get(help))
        .route("/ready", get(health::ready))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/status", get(health::status))
        .route("/server_info", get(health::server_info))
        .route("/runtime", get(health::runtime))
        .route("/runtime_modify", post(command::runtime_modify))
        .route("/stats", get(stats::stats))
        .route("/stats/prometheus", get(stats::prometheus))
        .route("/reset_counters", post(stats::reset_counters))
        .route("/metrics", get(metrics::metrics))
        .route("/config_dump", get(dump::config_dump))
        .route("/explain", get(explain::explain))
        .route("/acme", get(acme_names))
        .route("/clusters", get(clusters::clusters))
        .route("/listeners", get(clusters::listeners))
        .route("/logging", post(command::logging))
        .route("/reopen_logs", post(command::reopen_logs))
        .route("/drain_listeners", post(command::drain_listeners))
        .route("/quitquitquit", post(command::quit))
        .route("/healthcheck/fail", post(command::healthcheck_fail))
        .route("/healthcheck/ok", post(command::healthcheck_ok))
        .route_service(csds::PATH, csds::server(state.clone()))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(stats, count))
        .with_state(state)
}

async fn acme_names(State(state): State<AdminState>) -> Response {
    let names = state.acme.as_ref().map(acme::Status::shown);
    let names = names.unwrap_or_else(|| serde_json::Value::Array(Vec::new()));
    reply::json_pretty(&serde_json::json!({ "names": names }))
}

/// Counts under `http.admin.`, where Envoy counts its own port.
async fn count(State(stats): State<Arc<Stats>>, request: Request, next: Next) -> Response {
    let http = stats.http("admin");
    http.downstream_rq_total.inc();
    http.downstream_rq_http1_total.inc();
    let response = next.run(request).await;
    http.downstream_rq_completed.inc();
    http.downstream_rq.record(response.status().as_u16());
    response
}

async fn method_not_allowed() -> Response {
    reply::refused(http::StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

async fn not_found() -> Response {
    let text = format!("invalid path. admin commands are:\n{}", help_text());
    reply::refused(http::StatusCode::NOT_FOUND, text)
}

async fn help() -> Response {
    reply::text(format!("admin commands are:\n{}", help_text()))
}

fn help_text() -> String {
    let line = |(path, help): &(&str, &str)| format!("  {path}: {help}\n");
    HELP.iter().map(line).collect()
}

#[cfg(test)]
mod tests;
