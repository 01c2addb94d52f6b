//! The worker's own HTTP interface, on `api_bind_addr`: what browsers, Prometheus and health checks
//! call. Circuits are pushed elsewhere.
//!
//! | request | answers | in |
//! |---|---|---|
//! | `GET /setup` | the way into an app, with its permit | `setup` |
//! | `GET /`, `/health` | the health object | `health` |
//! | `GET /livez`, `/readyz`, also below `/health` | the same, 503 when it is bad | `health` |
//! | `GET /status`, `/health/status` | version of the interface; what this worker is | `health` |
//! | `GET /metrics` | Prometheus, legacy names first | `metrics` |
//!
//! [`router`] knows no sockets; [`Server`] does. What the answers come from is behind small traits,
//! so that everything here can be asked without a Coordinator, a Redis or a data plane.

mod adapt;
mod answer;
mod exposition;
mod health;
mod legacy;
mod metrics;
mod process;
mod redirect;
mod server;
mod setup;
mod token;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::future::BoxFuture;
use http::request::Parts as RequestHead;
use http::{HeaderMap, Method};
use uuid::Uuid;

use self::answer::{Asked, Refusal};
use super::Circuits;
use super::model::{Circuit, Slot};
use super::problem;

pub use self::adapt::WorkerHealth;
pub use self::exposition::Distribution;
pub use self::health::{Component, Health, Identity, Kernels};
pub use self::legacy::{CountLegacy, FromStats, LegacyCounts, Requests, Tunnels, Upstream};
pub use self::metrics::{MetricsConfig, WriteMetrics};
pub use self::redirect::{HostPort, PathAddress, PublicAddresses, WildcardAddress};
pub use self::server::{Limits, Server};
pub use self::setup::{AskCoordinator, AskError, LIVE_WAIT, SetupConfig};

/// What the interface answers from.
pub struct Parts {
    pub identity: Identity,
    pub health: Arc<dyn Health>,
    pub slots: Arc<dyn CountSlots>,
    pub setup: SetupConfig,
    pub metrics: MetricsConfig,
}

/// Finds circuits of this proxy.
pub trait FindCircuit: Send + Sync {
    fn find(&self, id: Uuid) -> BoxFuture<'_, Option<Found>>;
}

#[derive(Clone, Debug)]
pub struct Found {
    pub circuit: Arc<Circuit>,
    /// Whether traffic reaches it.
    pub live: bool,
}

/// Counts the places that circuits can take.
pub trait CountSlots: Send + Sync {
    fn slots(&self) -> BoxFuture<'_, SlotCount>;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCount {
    pub occupied: usize,
    /// Ports that are left. Subdomains do not run out, and do not count.
    pub available: usize,
}

/// A circuit is in the registry once it is live. While a change is under way, looking waits for it.
impl FindCircuit for Circuits {
    fn find(&self, id: Uuid) -> BoxFuture<'_, Option<Found>> {
        Box::pin(async move {
            let circuit = self.get(id).await?;
            Some(Found {
                circuit,
                live: true,
            })
        })
    }
}

impl CountSlots for Circuits {
    fn slots(&self) -> BoxFuture<'_, SlotCount> {
        Box::pin(async move {
            let (_, circuits) = self.list().await;
            let ports = self.frame.slots.as_ref().map_or(0, |s| s.iter().count());
            let taken = circuits
                .iter()
                .filter(|circuit| matches!(circuit.slot, Slot::Port(_)))
                .count();
            SlotCount {
                occupied: circuits.len(),
                available: ports.saturating_sub(taken),
            }
        })
    }
}

/// The address that a request came from, as [`Server`] attaches it.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// [`Parts`], with what is kept between requests.
struct Api {
    identity: Identity,
    health: Arc<dyn Health>,
    slots: Arc<dyn CountSlots>,
    setup: setup::Setup,
    metrics: metrics::Metrics,
}

/// What is known, and nothing else is: labels of metrics come from here.
const ENDPOINTS: [&str; 10] = [
    "/",
    "/health",
    "/livez",
    "/readyz",
    "/health/livez",
    "/health/readyz",
    "/status",
    "/health/status",
    "/metrics",
    "/setup",
];

/// The whole interface.
pub fn router(parts: Parts) -> Router {
    let api = Api {
        identity: parts.identity,
        health: parts.health,
        slots: parts.slots,
        setup: setup::Setup::new(parts.setup),
        metrics: metrics::Metrics::new(parts.metrics),
    };
    // No routes of axum's: a method may be overridden by a header, which has to be seen first.
    Router::new().fallback(answer).with_state(Arc::new(api))
}

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    let started = Instant::now();
    // No request has a body that means something, and a body cannot be lent across an await.
    let (request, _) = request.into_parts();
    let asked = Asked::of(&request);
    let path = request.uri.path();
    let endpoint = ENDPOINTS.iter().find(|known| **known == path).copied();
    let result = match endpoint {
        None => Err(Refusal::of(&problem::UNKNOWN_PATH).with(path.into())),
        Some(_) if asked.method == Method::OPTIONS => Ok(answer::preflight(&request.headers)),
        Some(endpoint) if asked.method == Method::GET || asked.method == Method::HEAD => {
            api.get(endpoint, &request).await
        }
        Some(_) => Err(Refusal::of(&problem::METHOD_NOT_ALLOWED)),
    };
    let error_code = result.as_ref().err().map(|r| r.situation.error_code);
    let response = answer::finish(result, &asked);
    api.metrics.api.record(metrics::Call {
        method: asked.method_label(),
        endpoint: endpoint.unwrap_or("other"),
        error_code: error_code.unwrap_or_default(),
        status: response.status().as_u16(),
        took: started.elapsed(),
    });
    response
}

impl Api {
    async fn get(
        &self,
        endpoint: &'static str,
        request: &RequestHead,
    ) -> Result<Response, Refusal> {
        match endpoint {
            "/" | "/health" => Ok(health::summary(self)),
            "/livez" | "/health/livez" => Ok(health::livez(self)),
            "/readyz" | "/health/readyz" => Ok(health::readyz(self)),
            "/status" => Ok(health::status()),
            "/health/status" => Ok(health::worker(self).await),
            "/metrics" => self.metrics.answer(request.extensions.get::<Peer>()).await,
            "/setup" => self.setup.answer(&request.uri).await,
            _ => Err(Refusal::of(&problem::UNKNOWN_PATH)),
        }
    }
}

/// One field of a request, if it is there once and is text.
fn field<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
