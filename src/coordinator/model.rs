//! What the Coordinator announces, validated: [`Circuit`] and its [`KernelRoute`]s.
//!
//! The JSON form is in [`super::wire`]; nothing here can be built from JSON that breaks a rule.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// One app of one compute session or model service, made reachable.
#[derive(Clone, Debug, PartialEq)]
pub struct Circuit {
    pub id: Uuid,
    /// Name of the app, or of the model service. May be empty.
    pub app: String,
    pub protocol: Protocol,
    pub worker: Option<Uuid>,
    pub app_mode: AppMode,
    /// `frontend_mode` with the key that belongs to it.
    pub slot: Slot,
    /// `None` for none. Apart, as are the dates: there may be very many circuits, and few have any.
    pub envs: Option<Box<Map<String, Value>>>,
    pub arguments: Option<String>,
    pub open_to_public: bool,
    pub allowed_client_ips: Option<String>,
    pub user_id: Option<Uuid>,
    /// The model service, for [`AppMode::Inference`].
    pub endpoint_id: Option<Uuid>,
    pub runtime_variant: Option<String>,
    pub routes: Vec<KernelRoute>,
    pub session_ids: Vec<Uuid>,
    /// As received: a date in events, a number in tokens.
    pub created_at: Option<Box<Value>>,
    pub updated_at: Option<Box<Value>>,
}

impl Circuit {
    /// The sessions that a use of this circuit keeps alive: its own, and those of its kernels, which
    /// for a model service are all there is.
    pub fn sessions(&self) -> Vec<Uuid> {
        let mut all = self.session_ids.clone();
        for id in self.routes.iter().filter_map(|route| route.session_id) {
            if !all.contains(&id) {
                all.push(id);
            }
        }
        all
    }

    /// The first path segments under which the path frontend serves this circuit: its sessions,
    /// and its model service. None for an app without a name. One that does not speak HTTP is
    /// reached there through a WebSocket.
    pub fn path_segments(&self) -> impl Iterator<Item = Uuid> + '_ {
        let service = match self.app_mode {
            AppMode::Inference => self.endpoint_id,
            AppMode::Interactive => None,
        };
        let reachable = !self.app.is_empty();
        self.session_ids
            .iter()
            .copied()
            .chain(service)
            .filter(move |_| reachable)
    }
}

/// A port or subdomain that a circuit occupies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// The *advertised* port.
    Port(u16),
    /// One DNS label, lower case, without the domain.
    Subdomain(String),
}

impl Slot {
    pub const fn mode(&self) -> FrontendMode {
        match self {
            Self::Port(_) => FrontendMode::Port,
            Self::Subdomain(_) => FrontendMode::Wildcard,
        }
    }

    /// The field of a circuit that holds the key.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Port(_) => "port",
            Self::Subdomain(_) => "subdomain",
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port}"),
            Self::Subdomain(label) => write!(f, "subdomain {label}"),
        }
    }
}

/// One kernel (Backend.AI says "route"): where the app listens and its share of the traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelRoute {
    pub route_id: Option<Uuid>,
    pub session_id: Option<Uuid>,
    pub session_name: Option<String>,
    /// As received: an address, a name, or nothing for this machine.
    pub kernel_host: Option<String>,
    pub kernel_port: u16,
    /// What the two mean. `None` while a name leads nowhere: the kernel takes no traffic then.
    pub address: Option<SocketAddr>,
    pub protocol: Protocol,
    /// Finite, at least 0.
    pub traffic_ratio: f64,
}

impl KernelRoute {
    /// What tells this kernel from an earlier one at the same address.
    pub fn identity(&self) -> Option<Uuid> {
        self.route_id.or(self.session_id)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppMode {
    Interactive,
    Inference,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontendMode {
    Port,
    Wildcard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Grpc,
    H2,
    Tcp,
    Preopen,
    Vnc,
    Rdp,
}

impl Protocol {
    /// Whether circuits of this protocol are routed by request, not by connection. (The
    /// Coordinator turns `preopen` into `http`, `vnc` and `rdp` into `tcp` before we see them; a
    /// direct push may not.)
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Tcp | Self::Vnc | Self::Rdp)
    }

    /// Whether the kernel speaks HTTP/2 with prior knowledge.
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::H2 | Self::Grpc)
    }
}
