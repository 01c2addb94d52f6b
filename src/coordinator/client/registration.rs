//! What a worker says of itself when it registers.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::model::{AppMode, FrontendMode, Protocol};

/// The body of `PUT /api/worker`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Registration {
    /// Who this worker is. Nodes of one group say the same.
    pub authority: String,
    /// In traefik mode the inner one.
    pub frontend_mode: FrontendMode,
    pub protocol: Protocol,
    /// What users are sent to.
    pub hostname: String,
    pub tls_listen: bool,
    pub tls_advertised: bool,
    pub api_port: u16,
    pub accepted_traffics: Vec<AppMode>,
    pub filtered_apps_only: bool,
    pub app_filters: Vec<AppFilter>,
    pub traefik_last_used_marker_path: Option<String>,
    /// First and last advertised port; in port mode only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_range: Option<(u16, u16)>,
    /// In wildcard mode only, like the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wildcard_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wildcard_traffic_port: Option<u16>,
}

/// Sessions or services that are meant for this worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppFilter {
    pub key: String,
    pub value: String,
}

/// What of the answer matters here; a newer Coordinator may say more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Registered {
    pub id: Uuid,
    /// How many nodes have registered and not deregistered.
    pub nodes: Option<i64>,
    pub available_slots: Option<i64>,
    pub occupied_slots: Option<i64>,
}
