//! What `causeway demo` shows: small back ends in this process, circuits for them pushed through
//! the REST shim as a Coordinator would, and a banner that says what to try.
//!
//! Everything listens on loopback and on ports that the system chooses.

mod banner;
mod echo;
mod llm;
mod notebook;
mod push;
mod write;
pub mod xds;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::config::{Causeway, PortProxy, WildcardDomain, WorkerConfig};
use crate::util::Secret;

pub use banner::{Addresses, banner};
pub use push::{PushFailed, push};
pub use write::{NotWritten, write};

/// Compute session of the notebook; first path segment of its URL.
pub const NOTEBOOK_SESSION: Uuid = Uuid::from_u128(0x0000_0000_cafe_4000_8000_0000_0000_0001);
/// Model service of the fake LLM.
pub const LLM_SERVICE: Uuid = Uuid::from_u128(0x0000_0000_cafe_4000_8000_0000_0000_0002);
const ECHO_SESSION: Uuid = Uuid::from_u128(0x0000_0000_cafe_4000_8000_0000_0000_0003);

/// The port numbers that the demo's circuits carry: the first and second slot of a worker whose
/// bind ports are chosen by the system (see `coordinator::translate::names::Slots`).
pub const NOTEBOOK_SLOT: u16 = 1;
pub const ECHO_SLOT: u16 = 2;

/// The sample back ends. They stop when this is dropped.
#[derive(Debug)]
pub struct Backends {
    pub notebook: SocketAddr,
    pub llm: SocketAddr,
    pub echo: SocketAddr,
    _running: JoinSet<()>,
}

/// Starts all sample back ends on loopback.
pub async fn start_backends() -> io::Result<Backends> {
    let mut running = JoinSet::new();
    let notebook = serve(notebook::router(), &mut running).await?;
    let llm = serve(llm::router(), &mut running).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let echo = listener.local_addr()?;
    running.spawn(echo::run(listener));
    Ok(Backends {
        notebook,
        llm,
        echo,
        _running: running,
    })
}

async fn serve(app: axum::Router, running: &mut JoinSet<()>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    running.spawn(async move {
        // Accept errors are retried inside; this ends with the task.
        let _ = axum::serve(listener, app).await;
    });
    Ok(address)
}

/// The configuration of the demo's worker: loopback only, every port chosen by the system, and a
/// secret that nobody else has.
pub fn config() -> WorkerConfig {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let any_port = SocketAddr::new(loopback, 0);
    WorkerConfig {
        causeway: Causeway {
            management: any_port,
            path_frontend: Some(any_port),
            ..Causeway::default()
        },
        port_proxy: Some(PortProxy {
            bind_host: loopback,
            // NOTEBOOK_SLOT and ECHO_SLOT.
            bind_ports: vec![0, 0],
            advertised_from: None,
        }),
        wildcard_domain: Some(WildcardDomain {
            bind_addr: any_port,
            // Browsers and curl resolve it to loopback by themselves (RFC 6761 §6.3).
            domain: ".localhost".to_owned(),
            advertised_port: None,
        }),
        ..WorkerConfig::push_only(Secret::new(Uuid::new_v4().to_string()))
    }
}

/// Where the applications listen.
#[derive(Clone, Copy, Debug)]
struct Kernels {
    notebook: SocketAddr,
    llm: SocketAddr,
    echo: SocketAddr,
}

/// The circuits of the demo, as a Coordinator would announce them.
pub fn circuits(backends: &Backends) -> Value {
    let kernels = Kernels {
        notebook: backends.notebook,
        llm: backends.llm,
        echo: backends.echo,
    };
    circuits_at(&kernels, [NOTEBOOK_SLOT, ECHO_SLOT])
}

/// The notebook by subdomain and by port (and by path, as every HTTP app), the model by subdomain,
/// the echo by port. `slots` are the ports of notebook and echo.
fn circuits_at(kernels: &Kernels, slots: [u16; 2]) -> Value {
    let session = |app: &str, session: Uuid, protocol: &str, address: SocketAddr| {
        json!({
            "app": app, "protocol": protocol, "app_mode": "interactive", "open_to_public": true,
            "session_ids": [session],
            "route_info": [kernel(session, protocol, address)],
        })
    };
    let notebook = || session("notebook", NOTEBOOK_SESSION, "http", kernels.notebook);
    json!([
        placed(
            notebook(),
            1,
            &json!({"frontend_mode": "wildcard", "subdomain": "notebook"})
        ),
        placed(
            notebook(),
            2,
            &json!({"frontend_mode": "port", "port": slots[0]})
        ),
        placed(
            json!({
                "app": "llm", "protocol": "http", "app_mode": "inference", "open_to_public": true,
                "endpoint_id": LLM_SERVICE, "runtime_variant": "custom",
                "route_info": [kernel(LLM_SERVICE, "http", kernels.llm)],
            }),
            3,
            &json!({"frontend_mode": "wildcard", "subdomain": "llm"}),
        ),
        placed(
            session("echo", ECHO_SESSION, "tcp", kernels.echo),
            4,
            &json!({"frontend_mode": "port", "port": slots[1]}),
        ),
    ])
}

fn kernel(session: Uuid, protocol: &str, address: SocketAddr) -> Value {
    json!({
        "session_id": session, "kernel_host": address.ip(), "kernel_port": address.port(),
        "protocol": protocol, "traffic_ratio": 1.0,
    })
}

/// Completes a circuit with its id and its place.
fn placed(mut circuit: Value, number: u128, place: &Value) -> Value {
    const FIRST: u128 = 0x0000_0000_c14c_4000_8000_0000_0000_0000;
    circuit["id"] = json!(Uuid::from_u128(FIRST + number));
    for (key, value) in place.as_object().into_iter().flatten() {
        circuit[key] = value.clone();
    }
    circuit
}

#[cfg(test)]
mod tests;
