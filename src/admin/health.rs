//! How the process is.

use axum::extract::State;
use axum::response::Response;
use causeway_xds::text;
use http::StatusCode;
use serde_json::{Value, json};

use super::{AdminState, VERSION, reply};
use crate::config::bootstrap::Runtime;
use crate::control;

pub async fn ready(State(state): State<AdminState>) -> Response {
    let now = state.control.readiness.state();
    let text = format!("{}\n", now.name());
    if now == control::State::Live {
        reply::text(text)
    } else {
        reply::refused(StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

/// The process answers, so it lives, whatever it waits for.
pub async fn livez(State(state): State<AdminState>) -> Response {
    reply::json(&object(&state, true))
}

pub async fn readyz(State(state): State<AdminState>) -> Response {
    by_readiness(&state)
}

pub async fn health(State(state): State<AdminState>) -> Response {
    by_readiness(&state)
}

fn by_readiness(state: &AdminState) -> Response {
    let ready = state.control.readiness.state() == control::State::Live;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    reply::json_with(status, &object(state, ready))
}

fn object(state: &AdminState, well: bool) -> Value {
    let snapshot = state.publisher.current();
    json!({
        "status": if well { "healthy" } else { "error" },
        "version": VERSION,
        "component": "appproxy-worker",
        "state": state.control.readiness.state().name(),
        "generation": snapshot.generation,
        "listeners": snapshot.listeners.len(),
        "clusters": snapshot.clusters.len(),
        "uptime_seconds": state.started.elapsed().as_secs(),
    })
}

/// What the legacy worker answers, and clients check.
pub async fn status() -> Response {
    reply::json(&json!({"api_version": "v2"}))
}

pub async fn server_info(State(state): State<AdminState>) -> Response {
    let node = state.node();
    let mut options = serde_json::Map::new();
    options.insert("concurrency".to_owned(), json!(state.concurrency));
    for (option, value) in &state.command_line {
        let option = option.trim_start_matches('-').replace('-', "_");
        options.entry(option).or_insert_with(|| json!(value));
    }
    let uptime = format!("{}s", state.started.elapsed().as_secs());
    reply::json_pretty(&json!({
        "version": format!("causeway/{VERSION}"),
        "state": state.control.readiness.state().name(),
        "hot_restart_version": "disabled",
        "hot_restart_initializing": false,
        "command_line_options": options,
        "node": text::message_to_value(&node, "envoy.config.core.v3.Node"),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
    }))
}

pub async fn runtime(State(state): State<AdminState>) -> Response {
    reply::json_pretty(&runtime_value(&state.runtime()))
}

fn runtime_value(runtime: &Runtime) -> Value {
    let layers: Vec<&str> = runtime.layers.iter().map(|l| l.name.as_str()).collect();
    let entry = |(key, value): (String, String)| {
        let by_layer = runtime.layers.iter().map(|layer| layer.values.get(&key));
        let by_layer: Vec<&str> = by_layer.map(|v| v.map_or("", String::as_str)).collect();
        let shown = json!({"final_value": value, "layer_values": by_layer});
        (key, shown)
    };
    let entries: serde_json::Map<_, _> = runtime.flattened().into_iter().map(entry).collect();
    json!({"layers": layers, "entries": entries})
}
