//! What changes something: POST only.

use std::collections::HashMap;

use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use tracing::info;

use super::{AdminCommand, AdminState, reply};
use crate::telemetry::access_log;

type Params = Query<HashMap<String, String>>;

async fn carry_out(state: &AdminState, command: AdminCommand) -> Response {
    info!(?command, "management command");
    match state.commands.send(command).await {
        Ok(()) => reply::text("OK\n"),
        Err(_) => reply::stopped(),
    }
}

/// With `inboundonly` only listeners that are marked as inbound drain. The mark
/// (`traffic_direction`) is not read yet, so that there are none.
pub async fn drain_listeners(State(state): State<AdminState>, params: Params) -> Response {
    if params.contains_key("inboundonly") {
        return reply::text("OK\n");
    }
    carry_out(&state, AdminCommand::DrainListeners).await
}

pub async fn quit(State(state): State<AdminState>) -> Response {
    carry_out(&state, AdminCommand::Quit).await
}

pub async fn healthcheck_fail(State(state): State<AdminState>) -> Response {
    info!("health checks made to fail");
    state.control.readiness.set_draining(true);
    reply::text("OK\n")
}

pub async fn healthcheck_ok(State(state): State<AdminState>) -> Response {
    info!("health checks pass again");
    state.control.readiness.set_draining(false);
    reply::text("OK\n")
}

pub async fn logging(State(state): State<AdminState>, params: Params) -> Response {
    let Some(level) = params.get("level") else {
        let usage = "usage: /logging?level=<trace|debug|info|warning|error|off>\n";
        return reply::refused(StatusCode::BAD_REQUEST, usage);
    };
    let changed = match &state.log_level {
        Some(log) => log.set(level),
        None => Err("logging is not under this port's control".to_owned()),
    };
    match changed {
        Ok(()) => reply::text(format!("level: {level}\n")),
        Err(reason) => reply::refused(StatusCode::BAD_REQUEST, format!("{reason}\n")),
    }
}

pub async fn reopen_logs() -> Response {
    access_log::reopen();
    reply::text("OK\n")
}

/// Sets runtime values, which take effect at once; an empty one removes what was set here before.
pub async fn runtime_modify(State(state): State<AdminState>, params: Params) -> Response {
    if params.is_empty() {
        let usage = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n\
                     use an empty value to remove a previously added override";
        return reply::refused(StatusCode::BAD_REQUEST, usage);
    }
    let Query(values) = params;
    info!(?values, "runtime values changed");
    match state.layers.modify(values) {
        Ok(()) => reply::text("OK\n"),
        Err(reason) => reply::refused(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}
