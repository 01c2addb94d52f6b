//! Circuits for the tests of this module.

use serde_json::json;
use uuid::Uuid;

use super::model::Circuit;
use super::wire::WireCircuit;

/// A public HTTP circuit on a subdomain, with one kernel.
pub(crate) fn circuit(number: u8, subdomain: &str) -> Circuit {
    let id = Uuid::from_u128(0xC1_0000 + u128::from(number));
    let wire: WireCircuit = serde_json::from_value(json!({
        "id": id, "app": "jupyter", "protocol": "http", "app_mode": "interactive",
        "frontend_mode": "wildcard", "subdomain": subdomain, "open_to_public": true,
        "session_ids": [Uuid::from_u128(0x5E_0000 + u128::from(number))],
        "route_info": [{"kernel_host": "10.0.0.1", "kernel_port": 8000 + u16::from(number)}],
    }))
    .expect("well formed");
    Circuit::try_from(wire).expect("valid")
}
