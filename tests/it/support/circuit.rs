//! Circuits as a Coordinator announces them.

use std::net::SocketAddr;

use serde_json::{Value, json};
use uuid::Uuid;

use super::app::DOMAIN;

#[derive(Clone, Debug)]
pub struct Circuit {
    pub id: Uuid,
    /// First path segment on the path frontend.
    pub session: Uuid,
    pub value: Value,
}

/// An HTTP circuit by subdomain `c<number>` of the app `app`, without kernels.
pub fn circuit(number: u32) -> Circuit {
    let id = Uuid::from_u128(0xc1c1_0000_0000_4000_8000_0000_0000_0000 + u128::from(number));
    let session = Uuid::from_u128(0x5e55_0000_0000_4000_8000_0000_0000_0000 + u128::from(number));
    let value = json!({
        "id": id, "app": "app", "protocol": "http", "app_mode": "interactive",
        "frontend_mode": "wildcard", "subdomain": format!("c{number}"), "open_to_public": true,
        "session_ids": [session], "route_info": [],
    });
    Circuit { id, session, value }
}

impl Circuit {
    pub fn kernels(mut self, origins: &[SocketAddr]) -> Self {
        let route = |at: &SocketAddr| {
            json!({
                "session_id": self.session, "kernel_host": at.ip(), "kernel_port": at.port(),
                "protocol": self.value["protocol"], "traffic_ratio": 1.0,
            })
        };
        self.value["route_info"] = origins.iter().map(route).collect();
        self
    }

    pub fn kernel(self, origin: SocketAddr) -> Self {
        self.kernels(&[origin])
    }

    /// Reached by port slot instead of subdomain.
    pub fn at_slot(mut self, slot: u16) -> Self {
        self.value["frontend_mode"] = json!("port");
        self.value["port"] = json!(slot);
        self.value["subdomain"] = Value::Null;
        self
    }

    pub fn protocol(mut self, protocol: &str) -> Self {
        self.value["protocol"] = json!(protocol);
        for route in self.value["route_info"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            route["protocol"] = json!(protocol);
        }
        self
    }

    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.value[field] = value;
        self
    }

    pub fn slot(&self) -> Option<u16> {
        self.value["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
    }

    /// What users write into `Host`.
    pub fn host(&self) -> String {
        match self.value["subdomain"].as_str() {
            Some(label) => format!("{label}.{DOMAIN}"),
            None => "localhost".to_owned(),
        }
    }

    /// Where the path frontend has it, without a slash at the end.
    pub fn prefix(&self) -> String {
        format!(
            "/{}/{}",
            self.session,
            self.value["app"].as_str().unwrap_or_default()
        )
    }
}
