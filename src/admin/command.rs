//! What changes something: POST only.

use std::collections::HashMap;

use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use tracing::info;

use super::{AdminCommand, AdminState, reply};

type Params = Query<HashMap<String, String>>;

fn carry_out(state: &AdminState, command: AdminCommand) -> Response {
    info!(?command, "management command");
    (state.commands)(command);
    reply::text("OK\n")
}

pub async fn drain_listeners(State(state): State<AdminState>, params: Params) -> Response {
    let command = AdminCommand::DrainListeners {
        inbound_only: params.contains_key("inboundonly"),
        graceful: params.contains_key("graceful"),
    };
    carry_out(&state, command)
}

pub async fn quit(State(state): State<AdminState>) -> Response {
    carry_out(&state, AdminCommand::Quit)
}

pub async fn healthcheck_fail(State(state): State<AdminState>) -> Response {
    state.control.readiness.set_draining(true);
    carry_out(&state, AdminCommand::FailHealthChecks(true))
}

pub async fn healthcheck_ok(State(state): State<AdminState>) -> Response {
    state.control.readiness.set_draining(false);
    carry_out(&state, AdminCommand::FailHealthChecks(false))
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
