//! How the worker is.

use std::time::SystemTime;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Api, answer};
use crate::util::time::timestamp;

/// What this worker is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub version: String,
    pub authority: String,
    /// `port` or `wildcard`: what was registered.
    pub frontend_mode: String,
    pub protocol: String,
}

/// Knows how the parts are.
pub trait Health: Send + Sync {
    /// Whether traffic is served: configuration is in force, and the process is not ending.
    fn ready(&self) -> bool;
    /// The last checks of what the worker depends on.
    fn components(&self) -> Vec<Component>;
    /// How the kernels of all circuits are.
    fn kernels(&self) -> Kernels;
}

/// Kernels of all circuits, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernels {
    pub total: usize,
    /// Those that requests may go to without need.
    pub healthy: usize,
    /// Their last checks failed.
    pub failed_checks: usize,
    /// They are left out for a while.
    pub ejected: usize,
}

/// The last check of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Such as `redis`.
    pub service_group: &'static str,
    /// Such as `live`.
    pub component_id: &'static str,
    pub healthy: bool,
    /// `None` before the first check.
    pub checked_at: Option<SystemTime>,
    pub error: Option<String>,
}

/// For people and dashboards: always 200, whatever it says.
pub(super) fn summary(api: &Api) -> Response {
    let components = api.health.components();
    let status = ok_or(&components, "degraded");
    answer::json(StatusCode::OK, &object(api, status, &components))
}

/// 503 from here makes a supervisor start the process again. That would cut every connection and
/// mend neither Redis nor the Coordinator, so nothing but an answer is needed to be alive.
pub(super) fn livez(api: &Api) -> Response {
    summary(api)
}

pub(super) fn readyz(api: &Api) -> Response {
    let components = api.health.components();
    let status = if api.health.ready() {
        ok_or(&components, "error")
    } else {
        "error"
    };
    let code = if status == "ok" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    answer::json(code, &object(api, status, &components))
}

fn ok_or(components: &[Component], otherwise: &'static str) -> &'static str {
    if all_healthy(components) {
        "ok"
    } else {
        otherwise
    }
}

fn all_healthy(components: &[Component]) -> bool {
    components.iter().all(|component| component.healthy)
}

fn object(api: &Api, status: &str, components: &[Component]) -> Value {
    let checks: Vec<Value> = components
        .iter()
        .map(|component| {
            json!({
                "service_group": component.service_group,
                "component_id": component.component_id,
                "is_healthy": component.healthy,
                "last_checked_at": component.checked_at.map(timestamp),
                "error_message": component.error,
            })
        })
        .collect();
    json!({
        "status": status,
        "version": api.identity.version,
        "component": "appproxy-worker",
        "connectivity": {
            "overall_healthy": all_healthy(components),
            "connectivity_checks": checks,
            "timestamp": timestamp(SystemTime::now()),
        },
    })
}

/// Clients look here for the version of the interface.
pub fn status() -> Response {
    answer::json(StatusCode::OK, &json!({"api_version": "v2"}))
}

pub(super) async fn worker(api: &Api) -> Response {
    let slots = api.slots.slots().await;
    let (identity, kernels) = (&api.identity, api.health.kernels());
    answer::json(
        StatusCode::OK,
        &json!({
            "version": identity.version,
            "authority": identity.authority,
            // The name is of old; the value is the frontend mode.
            "app_mode": identity.frontend_mode,
            "protocol": identity.protocol,
            "occupied_slots": slots.occupied,
            "available_slots": slots.available,
            "kernels": {
                "total": kernels.total,
                "healthy": kernels.healthy,
                "failed_checks": kernels.failed_checks,
                "ejected": kernels.ejected,
            },
        }),
    )
}
