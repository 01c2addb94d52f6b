//! The REST interface for pushes: what a Coordinator, a script or a test calls.
//!
//! | request | does | answers |
//! |---|---|---|
//! | `PUT /v1/circuits` | makes the body the whole set of pushed circuits | 200 |
//! | `POST /v1/circuits` | adds one or several, or updates them | 201 if one is new, else 200 |
//! | `GET /v1/circuits` | lists | 200 |
//! | `GET /v1/circuits/{id}` | shows one | 200, 404 |
//! | `PUT /v1/circuits/{id}/routes` | replaces the kernels of one | 200, 404 |
//! | `DELETE /v1/circuits/{id}` | removes one | 200, 404 |
//! | `GET /openapi.json` | describes all this, also to who has no token | 200 |
//!
//! Circuits of the Coordinator are listed and shown, too, but are not changed from here: a push that
//! wants the id or the place of one is refused with 409, and a full set leaves them out.
//!
//! Every request carries the API secret in `X-BackendAI-Token`. An answer to a change is sent
//! when traffic already follows it. A refused push changes nothing; the reason and the field are
//! in a problem document (RFC 9457).

mod body;
mod openapi;
mod problem;

use std::collections::HashSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use http::{StatusCode, header};
use serde::Serialize;
use uuid::Uuid;

pub use self::openapi::openapi;

use self::body::{Push, Routes, read};
use self::problem::Problem;
use super::model::Circuit;
use super::registry::Owner;
use super::{Applied, Circuits, PushError};
use crate::util::Secret;

/// Carries the API secret, as in calls between the Coordinator and its workers.
pub const TOKEN_HEADER: &str = "x-backendai-token";

const SHIM: Owner = Owner::Shim;

/// The routes of the shim, to be served on the management port.
pub fn router(circuits: Arc<Circuits>, token: Secret) -> Router {
    Router::new()
        .route("/v1/circuits", get(list).put(replace_all).post(announce))
        .route("/v1/circuits/{id}", get(show).delete(remove))
        .route("/v1/circuits/{id}/routes", put(set_routes))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        // On the routes only: a router that this one is merged into keeps its own fallback.
        .route_layer(middleware::from_fn_with_state(Arc::new(token), authorise))
        .route(
            "/openapi.json",
            get(describe).fallback(async || Problem::method_not_allowed()),
        )
        .with_state(circuits)
}

/// Everything of a management port that others than this machine can reach, behind the token; only
/// those who ask for health need none.
pub fn guarded(management: Router, token: Secret) -> Router {
    const OPEN: [&str; 5] = ["/ready", "/livez", "/readyz", "/health", "/status"];
    let token = Arc::new(token);
    management.layer(middleware::from_fn(move |request: Request, next: Next| {
        let token = Arc::clone(&token);
        async move {
            if OPEN.contains(&request.uri().path()) {
                next.run(request).await
            } else {
                authorise(State(token), request, next).await
            }
        }
    }))
}

/// Before the body is read: whoever lacks the token makes us work as little as possible.
async fn authorise(State(token): State<Arc<Secret>>, request: Request, next: Next) -> Response {
    let mut given = request.headers().get_all(TOKEN_HEADER).iter();
    match (given.next(), given.next()) {
        (Some(value), None) if token.matches(value.as_bytes()) => next.run(request).await,
        _ => Problem::unauthorised().into_response(),
    }
}

async fn describe() -> Response {
    json(StatusCode::OK, &openapi())
}

async fn list(State(circuits): State<Arc<Circuits>>) -> Response {
    let (generation, circuits) = circuits.list().await;
    let circuits = circuits.iter().map(AsRef::as_ref).collect();
    json(
        StatusCode::OK,
        &Listing {
            generation,
            changed: None,
            circuits,
        },
    )
}

async fn show(
    State(circuits): State<Arc<Circuits>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = circuit_id(&id)?;
    let circuit = circuits.get(id).await.ok_or(PushError::Unknown(id))?;
    Ok(json(StatusCode::OK, &*circuit))
}

async fn replace_all(
    State(circuits): State<Arc<Circuits>>,
    request: Request,
) -> Result<Response, Problem> {
    let mut push: Push = read(request).await?;
    let mut checked = push.check()?;
    circuits.resolver().resolve(&mut checked).await;
    let result = circuits.replace_all(SHIM, checked, HashSet::new()).await;
    Ok(applied(
        &result.map_err(|e| push.rename(e))?,
        StatusCode::OK,
    ))
}

async fn announce(
    State(circuits): State<Arc<Circuits>>,
    request: Request,
) -> Result<Response, Problem> {
    let mut push: Push = read(request).await?;
    let mut checked = push.check()?;
    circuits.resolver().resolve(&mut checked).await;
    let result = circuits
        .announce(SHIM, checked)
        .await
        .map_err(|e| push.rename(e))?;
    let status = if result.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(applied(&result, status))
}

async fn set_routes(
    State(circuits): State<Arc<Circuits>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let id = circuit_id(&id)?;
    let Routes(routes) = read(request).await?;
    Ok(applied(
        &circuits.set_routes(SHIM, id, routes).await?,
        StatusCode::OK,
    ))
}

async fn remove(
    State(circuits): State<Arc<Circuits>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(applied(
        &circuits.remove(SHIM, circuit_id(&id)?).await?,
        StatusCode::OK,
    ))
}

fn circuit_id(text: &str) -> Result<Uuid, Problem> {
    text.parse()
        .map_err(|_| Problem::bad_request("the circuit id in the path is not a UUID"))
}

#[derive(Serialize)]
struct Listing<'c> {
    generation: u64,
    /// Whether the push led to a new generation; not part of a plain listing.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
    circuits: Vec<&'c Circuit>,
}

fn applied(result: &Applied, status: StatusCode) -> Response {
    let listing = Listing {
        generation: result.generation,
        changed: Some(result.changed),
        circuits: result.circuits.iter().map(AsRef::as_ref).collect(),
    };
    json(status, &listing)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        // Every map key here is a string, so this cannot happen; a panic would still be worse.
        Err(error) => Problem::internal(&error).into_response(),
    }
}

#[cfg(test)]
mod tests;
