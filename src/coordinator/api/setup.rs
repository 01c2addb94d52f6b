//! `GET /setup?token=`: the last step of a user's way into an app. The Coordinator has sent the
//! browser here; from here it goes to the app, with the cookie that opens it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::response::Response;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderValue};
use http::{StatusCode, Uri};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::answer::{self, Refusal};
use super::redirect::{self, HostPort, PublicAddresses, Scope};
use super::token::SetupTokens;
use super::{FindCircuit, Found};
use crate::coordinator::model::{AppMode, Circuit, Protocol, Slot};
use crate::coordinator::permit::PermitHasher;
use crate::coordinator::problem;
use crate::coordinator::wire::WireCircuit;
use crate::util::Secret;

/// How long a browser is held back until the app is really there: the Coordinator may send it on
/// before the event that announces the circuit has come to this node.
pub const LIVE_WAIT: Duration = Duration::from_secs(2);
/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(25);
/// For a question to the Coordinator: a person is waiting.
const ASK_WAIT: Duration = Duration::from_secs(10);

/// Knows the circuits of the Coordinator.
pub trait AskCoordinator: Send + Sync {
    /// `GET /api/circuit/{id}`, as it comes.
    fn circuit(&self, id: Uuid) -> BoxFuture<'_, Result<Value, AskError>>;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("the Coordinator knows no such circuit")]
    NotFound,
    /// It cannot be reached, or does not answer as it should. The text is for the log.
    #[error("{0}")]
    Unreachable(String),
}

/// What setup links are answered with.
#[derive(Clone)]
pub struct SetupConfig {
    pub jwt_secret: Secret,
    pub permits: PermitHasher,
    pub addresses: PublicAddresses,
    pub circuits: Arc<dyn FindCircuit>,
    /// `None`: only the circuits of this proxy are known.
    pub coordinator: Option<Arc<dyn AskCoordinator>>,
    /// Usually [`LIVE_WAIT`].
    pub live_wait: Duration,
}

pub struct Setup {
    tokens: SetupTokens,
    config: SetupConfig,
}

/// By which frontend the user wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    Slot,
    Path,
}

/// Where a circuit is, and what opens it.
struct Way {
    url: String,
    cookie: Option<String>,
}

/// What the query asks for.
struct Asked {
    token: String,
    via: Via,
}

impl Setup {
    pub fn new(config: SetupConfig) -> Self {
        Self {
            tokens: SetupTokens::new(&config.jwt_secret),
            config,
        }
    }

    pub async fn answer(&self, uri: &Uri) -> Result<Response, Refusal> {
        let asked = Asked::read(uri)?;
        let claims = self.tokens.check(&asked.token).map_err(|why| {
            let told = format!("E20008: Invalid authorization token ({why})");
            Refusal::of(&problem::TOKEN_INVALID).saying(told)
        })?;
        let deadline = Instant::now() + self.config.live_wait;
        let found = self.find(claims.circuit, deadline).await?;
        let circuit = &*found.circuit;
        let response = self.way_in(circuit, &asked, &claims.redirect)?;
        if !found.live {
            self.until_live(circuit.id, deadline).await;
        }
        Ok(response)
    }

    /// First here: that is quicker, and works while the Coordinator is away.
    async fn find(&self, id: Uuid, deadline: Instant) -> Result<Found, Refusal> {
        let here = timeout_at(deadline, self.config.circuits.find(id)).await;
        if let Ok(Some(found)) = here {
            return Ok(found);
        }
        let Some(coordinator) = &self.config.coordinator else {
            return Err(Refusal::of(&problem::CIRCUIT_UNKNOWN));
        };
        let unreachable = |why: &str| {
            warn!(circuit = %id, %why, "the Coordinator was asked for a circuit in vain");
            Refusal::of(&problem::COORDINATOR_UNREACHABLE)
        };
        let value = match timeout(ASK_WAIT, coordinator.circuit(id)).await {
            Ok(Ok(value)) => value,
            Ok(Err(AskError::NotFound)) => return Err(Refusal::of(&problem::CIRCUIT_UNKNOWN)),
            Ok(Err(AskError::Unreachable(why))) => return Err(unreachable(&why)),
            Err(_) => return Err(unreachable("deadline \"setup\" fired")),
        };
        let circuit = serde_json::from_value::<WireCircuit>(value)
            .map_err(|error| unreachable(&error.to_string()))
            .and_then(|wire| Circuit::try_from(wire).map_err(|f| unreachable(&f.to_string())))?;
        if circuit.id != id {
            return Err(unreachable("it answered with another circuit"));
        }
        Ok(Found {
            circuit: Arc::new(circuit),
            live: false,
        })
    }

    /// The answer for a circuit, whether it is live yet or not.
    fn way_in(&self, circuit: &Circuit, asked: &Asked, to: &str) -> Result<Response, Refusal> {
        if circuit.app_mode == AppMode::Inference {
            return Err(Refusal::of(&problem::INFERENCE_UNSUPPORTED));
        }
        match (circuit.protocol, asked.via) {
            // The Coordinator turns the first into http and the last two into tcp; a push may not.
            (Protocol::Http | Protocol::Preopen, via) => {
                let Way { url, cookie } = self.way(circuit, via, to)?;
                found(&url, cookie)
            }
            (Protocol::Tcp | Protocol::Vnc | Protocol::Rdp, Via::Slot)
                if matches!(circuit.slot, Slot::Port(_)) =>
            {
                let gateway = self.of_slot(circuit)?;
                let client = redirect::desktop_client(&asked.token, &gateway);
                if to.is_empty() {
                    let body = json!({"redirect": client, "redirectURI": client});
                    Ok(no_store(answer::json(StatusCode::OK, &body)))
                } else {
                    found(&client, None)
                }
            }
            // Bytes alone do not say which circuit they are for: a WebSocket does.
            (Protocol::Tcp | Protocol::Vnc | Protocol::Rdp, via) => {
                let Way { url, cookie } = self.way(circuit, via, to)?;
                let url = url.replacen("http", "ws", 1);
                let body = json!({"redirect": url, "redirectURI": url});
                let response = answer::json(StatusCode::OK, &body);
                Ok(no_store(with_cookie(response, cookie)?))
            }
            _ => Err(Refusal::of(&problem::PROTOCOL_UNSUPPORTED)),
        }
    }

    fn way(&self, circuit: &Circuit, via: Via, to: &str) -> Result<Way, Refusal> {
        match via {
            Via::Slot => self.to_slot(circuit, to),
            Via::Path => self.to_path(circuit, to),
        }
    }

    fn to_slot(&self, circuit: &Circuit, to: &str) -> Result<Way, Refusal> {
        let addresses = &self.config.addresses;
        let at = self.of_slot(circuit)?;
        let permit = owner(circuit)?.map(|user| self.config.permits.of_user(user));
        let scope = Scope {
            domain: addresses.cookie_domain(&circuit.slot),
            path: "/",
            https: addresses.https,
        };
        Ok(Way {
            url: redirect::url(addresses.https, &at, &redirect::path_of(to)),
            cookie: permit.map(|permit| redirect::cookie(&permit, scope)),
        })
    }

    fn to_path(&self, circuit: &Circuit, to: &str) -> Result<Way, Refusal> {
        let none = || Refusal::of(&problem::NO_PATH);
        let path = self.config.addresses.path.as_ref().ok_or_else(none)?;
        let app = redirect::app_path(circuit).ok_or_else(none)?;
        let permit = owner(circuit)?.map(|user| self.config.permits.of_circuit(user, circuit.id));
        let scope = Scope {
            domain: None,
            path: &app,
            https: path.https,
        };
        let below = match redirect::path_of(to) {
            none if none.is_empty() => "/".to_owned(),
            below => below,
        };
        Ok(Way {
            url: redirect::url(path.https, &path.at, &format!("{app}{below}")),
            cookie: permit.map(|permit| redirect::cookie(&permit, scope)),
        })
    }

    fn of_slot(&self, circuit: &Circuit) -> Result<HostPort, Refusal> {
        self.config.addresses.of_slot(&circuit.slot).ok_or_else(|| {
            error!(circuit = %circuit.id, slot = %circuit.slot, "no frontend of this worker has it");
            Refusal::of(&problem::MISCONFIGURED)
        })
    }

    /// Whoever is still too early then sees the page of an app that is starting.
    async fn until_live(&self, id: Uuid, deadline: Instant) {
        let looking = async {
            while !self
                .config
                .circuits
                .find(id)
                .await
                .is_some_and(|found| found.live)
            {
                tokio::time::sleep(LOOK).await;
            }
        };
        if timeout_at(deadline, looking).await.is_err() {
            debug!(circuit = %id, "deadline \"circuit live\" fired; the browser goes on");
        }
    }
}

/// Whom the permit is for; nobody needs one for an app that is open to the public.
fn owner(circuit: &Circuit) -> Result<Option<Uuid>, Refusal> {
    if circuit.user_id.is_none() && !circuit.open_to_public {
        error!(circuit = %circuit.id, "a private app without an owner");
        return Err(Refusal::of(&problem::MISCONFIGURED));
    }
    Ok(circuit.user_id)
}

fn found(location: &str, cookie: Option<String>) -> Result<Response, Refusal> {
    let internal = |_| Refusal::of(&problem::INTERNAL);
    let mut response = answer::with_body(StatusCode::FOUND, answer::TEXT, "302: Found");
    let location = HeaderValue::try_from(location).map_err(internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(no_store(with_cookie(response, cookie)?))
}

fn with_cookie(mut response: Response, cookie: Option<String>) -> Result<Response, Refusal> {
    if let Some(cookie) = cookie {
        let cookie = HeaderValue::try_from(cookie);
        let mut cookie = cookie.map_err(|_| Refusal::of(&problem::INTERNAL))?;
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

fn no_store(mut response: Response) -> Response {
    let value = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}

impl Asked {
    fn read(uri: &Uri) -> Result<Self, Refusal> {
        let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
            return Err(invalid("query", "the query cannot be read", "value_error"));
        };
        let get = |name: &str| {
            pairs
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
        };
        let via = match get("via") {
            None | Some("" | "slot") => Via::Slot,
            Some("path") => Via::Path,
            Some(_) => return Err(invalid("via", "Input should be 'path'", "literal_error")),
        };
        match get("token") {
            None | Some("") => Err(invalid("token", "Field required", "missing")),
            Some(token) => Ok(Self {
                token: token.to_owned(),
                via,
            }),
        }
    }
}

fn invalid(field: &str, message: &str, kind: &str) -> Refusal {
    let errors = json!({"errors": [{"type": kind, "loc": [field], "msg": message}]});
    Refusal::of(&problem::BAD_PARAMETERS).with(errors)
}
