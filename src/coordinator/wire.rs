//! Circuits as JSON: read with validation, written in the same shape.
//!
//! Fields that a newer Coordinator adds are ignored. Optional fields that
//! are missing or null are taken as not given.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Fault;
use super::model::{AppMode, Circuit, FrontendMode, KernelRoute, Protocol, Slot};
use super::resolve::Host;

/// A circuit as received, not yet checked. `Circuit::try_from` checks it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct WireCircuit {
    id: Uuid,
    app: Option<String>,
    protocol: Protocol,
    worker: Option<Uuid>,
    app_mode: AppMode,
    frontend_mode: FrontendMode,
    envs: Option<Map<String, Value>>,
    arguments: Option<String>,
    #[serde(default)]
    open_to_public: bool,
    allowed_client_ips: Option<String>,
    // Wider than a port, so that what is out of range is refused by its path.
    port: Option<i64>,
    subdomain: Option<String>,
    user_id: Option<Uuid>,
    endpoint_id: Option<Uuid>,
    runtime_variant: Option<String>,
    route_info: Option<Vec<WireRoute>>,
    session_ids: Option<Vec<Uuid>>,
    created_at: Option<Box<Value>>,
    updated_at: Option<Box<Value>>,
}

/// A kernel route as received. Kebab-case spellings are legal on input only.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct WireRoute {
    #[serde(alias = "route-id")]
    route_id: Option<Uuid>,
    #[serde(alias = "session-id")]
    session_id: Option<Uuid>,
    #[serde(alias = "session-name")]
    session_name: Option<String>,
    #[serde(alias = "kernel-host")]
    kernel_host: Option<String>,
    #[serde(alias = "kernel-port")]
    kernel_port: Option<i64>,
    protocol: Option<Protocol>,
    #[serde(alias = "traffic-ratio")]
    traffic_ratio: Option<f64>,
}

impl TryFrom<WireCircuit> for Circuit {
    type Error = Fault;

    fn try_from(wire: WireCircuit) -> Result<Self, Fault> {
        let slot = match wire.frontend_mode {
            FrontendMode::Port => Slot::Port(match wire.port {
                Some(number) => port("port", number)?,
                None => return Err(Fault::at("port", "required when frontend_mode is port")),
            }),
            FrontendMode::Wildcard => Slot::Subdomain(match wire.subdomain {
                Some(label) => subdomain(&label)?,
                None => {
                    return Err(Fault::at(
                        "subdomain",
                        "required when frontend_mode is wildcard",
                    ));
                }
            }),
        };
        let routes = kernel_routes(wire.route_info.unwrap_or_default(), wire.protocol)?;
        Ok(Self {
            id: wire.id,
            app: wire.app.unwrap_or_default(),
            protocol: wire.protocol,
            worker: wire.worker,
            app_mode: wire.app_mode,
            slot,
            envs: wire.envs.filter(|envs| !envs.is_empty()).map(Box::new),
            arguments: wire.arguments,
            open_to_public: wire.open_to_public,
            allowed_client_ips: wire.allowed_client_ips,
            user_id: wire.user_id,
            endpoint_id: wire.endpoint_id,
            runtime_variant: wire.runtime_variant,
            routes,
            session_ids: wire
                .session_ids
                .unwrap_or_default()
                .into_boxed_slice()
                .into(),
            created_at: wire.created_at,
            updated_at: wire.updated_at,
        })
    }
}

/// Checks the routes of a circuit that speaks `protocol`; faults name `route_info[i].field`.
pub fn kernel_routes(
    routes: Vec<WireRoute>,
    protocol: Protocol,
) -> Result<Vec<KernelRoute>, Fault> {
    let checked = routes.into_iter().enumerate().map(|(i, route)| {
        let within = |f: Fault| f.within(&format!("route_info[{i}]"));
        route.check(protocol).map_err(within)
    });
    // Kept for as long as the circuit: no room for more than there are.
    let checked: Result<Box<[KernelRoute]>, Fault> = checked.collect();
    checked.map(Vec::from)
}

impl WireRoute {
    pub fn kernel_host(&self) -> Option<&str> {
        self.kernel_host.as_deref()
    }

    fn check(self, protocol: Protocol) -> Result<KernelRoute, Fault> {
        let Some(kernel_port) = self.kernel_port else {
            return Err(Fault::at("kernel_port", "required"));
        };
        let kernel_port = port("kernel_port", kernel_port)?;
        let address = match Host::read(self.kernel_host.as_deref()) {
            Some(Host::Address(ip)) => Some(SocketAddr::new(ip, kernel_port)),
            // To be looked up by whoever installs it.
            Some(Host::Name(_)) => None,
            None => {
                let reason = "must be an IP address or a host name";
                return Err(Fault::at("kernel_host", reason));
            }
        };
        let traffic_ratio = self.traffic_ratio.unwrap_or(1.0);
        if !traffic_ratio.is_finite() || traffic_ratio < 0.0 {
            return Err(Fault::at("traffic_ratio", "must be a number >= 0"));
        }
        Ok(KernelRoute {
            route_id: self.route_id,
            session_id: self.session_id,
            session_name: self.session_name,
            kernel_host: self.kernel_host,
            kernel_port,
            address,
            protocol: self.protocol.unwrap_or(protocol),
            traffic_ratio,
        })
    }
}

fn port(field: &'static str, number: i64) -> Result<u16, Fault> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Fault::at(field, "must be 1..=65535")),
    }
}

/// One DNS label (RFC 1123 §2.1, length by RFC 1035 §2.3.4), lower-cased.
fn subdomain(label: &str) -> Result<String, Fault> {
    let lower = label.to_ascii_lowercase();
    let plain = lower
        .bytes()
        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let edges = lower.starts_with('-') || lower.ends_with('-');
    if plain && !edges && (1..=63).contains(&lower.len()) {
        Ok(lower)
    } else {
        let reason = "must be one DNS label: letters, digits and inner hyphens, at most 63";
        Err(Fault::at("subdomain", reason))
    }
}

impl From<&Circuit> for WireCircuit {
    fn from(circuit: &Circuit) -> Self {
        let (port, subdomain) = match &circuit.slot {
            Slot::Port(port) => (Some(i64::from(*port)), None),
            Slot::Subdomain(label) => (None, Some(label.clone())),
        };
        Self {
            id: circuit.id,
            app: Some(circuit.app.clone()),
            protocol: circuit.protocol,
            worker: circuit.worker,
            app_mode: circuit.app_mode,
            frontend_mode: circuit.slot.mode(),
            envs: Some(circuit.envs.as_deref().cloned().unwrap_or_default()),
            arguments: circuit.arguments.clone(),
            open_to_public: circuit.open_to_public,
            allowed_client_ips: circuit.allowed_client_ips.clone(),
            port,
            subdomain,
            user_id: circuit.user_id,
            endpoint_id: circuit.endpoint_id,
            runtime_variant: circuit.runtime_variant.clone(),
            route_info: Some(circuit.routes.iter().map(WireRoute::from).collect()),
            session_ids: Some(circuit.session_ids.clone()),
            created_at: circuit.created_at.clone(),
            updated_at: circuit.updated_at.clone(),
        }
    }
}

impl From<&KernelRoute> for WireRoute {
    fn from(route: &KernelRoute) -> Self {
        Self {
            route_id: route.route_id,
            session_id: route.session_id,
            session_name: route.session_name.clone(),
            kernel_host: route.kernel_host.clone(),
            kernel_port: Some(i64::from(route.kernel_port)),
            protocol: Some(route.protocol),
            traffic_ratio: Some(route.traffic_ratio),
        }
    }
}

impl Serialize for Circuit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireCircuit::from(self).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Circuit, String> {
        let wire: WireCircuit = serde_json::from_value(value).map_err(|e| e.to_string())?;
        Circuit::try_from(wire).map_err(|f| f.to_string())
    }

    fn announced() -> Value {
        json!({
            "id": "7c8356fe-e727-4548-9f26-2e4031fe30d1", "app": "jupyter", "protocol": "http",
            "worker": null, "app_mode": "interactive", "frontend_mode": "wildcard", "envs": {},
            "arguments": null, "open_to_public": true, "allowed_client_ips": null, "port": null,
            "subdomain": "App-X", "user_id": "f38dea23-50fa-42a0-b5ae-338f5f4693f4",
            "endpoint_id": null, "runtime_variant": null,
            "route_info": [{
                "route_id": null, "session_id": "aaaaaaaa-0000-4000-8000-000000000001",
                "session_name": null, "kernel_host": "10.0.3.7", "kernel_port": 8888,
                "protocol": "http", "traffic_ratio": 1.0,
            }],
            "session_ids": ["aaaaaaaa-0000-4000-8000-000000000001"],
            "created_at": "2026-08-01T00:00:00.000001Z", "updated_at": null,
        })
    }

    #[test]
    fn what_was_read_is_written_in_the_same_shape() {
        let mut expected = announced();
        let circuit = read(expected.clone()).unwrap();
        expected["subdomain"] = json!("app-x");
        assert_eq!(serde_json::to_value(&circuit).unwrap(), expected);
        assert_eq!(read(expected).unwrap(), circuit);
    }

    #[test]
    fn unknown_fields_and_old_spellings_are_accepted() {
        let mut value = announced();
        value["invented_later"] = json!([1]);
        value["route_info"] = json!([{"kernel-host": "", "kernel-port": 80, "traffic-ratio": 0,
                                      "health_status": "healthy"}]);
        let circuit = read(value).unwrap();
        let here = "127.0.0.1:80".parse().unwrap();
        assert_eq!(circuit.routes[0].address, Some(here));
        assert_eq!(circuit.routes[0].traffic_ratio, 0.0);
    }

    #[test]
    fn a_name_is_kept_and_looked_up_later() {
        let mut value = announced();
        value["subdomain"] = json!("app-x");
        value["route_info"][0]["kernel_host"] = json!("Node7.example.org");
        let circuit = read(value.clone()).unwrap();
        assert_eq!(circuit.routes[0].address, None);
        assert_eq!(serde_json::to_value(&circuit).unwrap(), value);
    }

    #[test]
    fn faults_name_the_field() {
        for (path, value, expected) in [
            (
                "/route_info/0/kernel_port",
                json!(0),
                "route_info[0].kernel_port: must be 1..=65535",
            ),
            (
                "/route_info/0/kernel_port",
                json!(65_536),
                "route_info[0].kernel_port: must be",
            ),
            (
                "/route_info/0/kernel_port",
                json!(null),
                "route_info[0].kernel_port: required",
            ),
            (
                "/route_info/0/traffic_ratio",
                json!(-0.1),
                "route_info[0].traffic_ratio: must be",
            ),
            (
                "/route_info/0/kernel_host",
                json!("10.0.3.777"),
                "route_info[0].kernel_host: must be an",
            ),
            ("/subdomain", json!(null), "subdomain: required when"),
            (
                "/subdomain",
                json!("a.b"),
                "subdomain: must be one DNS label",
            ),
            (
                "/subdomain",
                json!("-a"),
                "subdomain: must be one DNS label",
            ),
            ("/frontend_mode", json!("port"), "port: required when"),
            ("/protocol", json!("ftp"), "unknown variant `ftp`"),
        ] {
            let mut circuit = announced();
            *circuit.pointer_mut(path).unwrap() = value;
            let error = read(circuit).unwrap_err();
            assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
        }
    }
}
