//! A double of the Coordinator's REST interface: workers register, are counted, and ask what they
//! are to serve. It can answer errors as either generation does, and be told to fail.
//!
//! Shared by tests and by an example program, each of which uses a part.
#![allow(dead_code, reason = "each user of it uses a part")]

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use uuid::Uuid;

const MAX_BODY: usize = 1 << 20;

/// How errors are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// 26.4 and later: with a status.
    Real,
    /// Before: every error has the status line `HTTP/1.1 -1 `, which HTTP does not know.
    MinusOne,
}

/// What a worker can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Register,
    Heartbeat,
    Deregister,
    Circuits,
    Circuit,
    Status,
    Workers,
}

/// A Coordinator that listens. Ends when dropped; [`FakeCoordinator::stop`] and
/// [`FakeCoordinator::restart`] keep what it knows, as a database would.
pub struct FakeCoordinator {
    pub address: SocketAddr,
    style: Style,
    state: Shared,
    serving: Option<JoinHandle<()>>,
}

type Shared = Arc<Mutex<Known>>;

#[derive(Default)]
struct Known {
    secret: String,
    /// By id.
    workers: HashMap<Uuid, Worker>,
    circuits: Vec<Value>,
    failures: VecDeque<StatusCode>,
    calls: HashMap<Call, usize>,
    /// Listings are worked out at once and sent when this is notified.
    hold: Option<Arc<Notify>>,
}

#[derive(Clone)]
struct Worker {
    /// As it registered.
    said: Value,
    nodes: i64,
    beats: u64,
}

impl FakeCoordinator {
    /// Listens on a port that the system chooses.
    pub async fn start(secret: &str, style: Style) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), secret, style).await
    }

    pub async fn start_at(address: SocketAddr, secret: &str, style: Style) -> Self {
        let known = Known {
            secret: secret.to_owned(),
            ..Known::default()
        };
        let mut fake = Self {
            address,
            style,
            state: Arc::new(Mutex::new(known)),
            serving: None,
        };
        fake.restart().await;
        fake
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Refuses connections until it is started again.
    pub async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            serving.await.ok();
        }
    }

    /// Listens again, at the same address.
    pub async fn restart(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.address)
            .await
            .expect("the address of the Coordinator is free");
        self.address = listener.local_addr().expect("a bound address");
        let state = Arc::clone(&self.state);
        self.serving = Some(match self.style {
            Style::Real => tokio::spawn(async move {
                let router = Router::new().fallback(by_axum).with_state(state);
                axum::serve(listener, router).await.ok();
            }),
            Style::MinusOne => tokio::spawn(serve_minus_one(listener, state)),
        });
    }

    /// What workers are told to serve.
    pub fn set_circuits(&self, circuits: &[Value]) {
        self.known().circuits = circuits.to_vec();
    }

    /// The next calls are answered with this status, one for each time it is said.
    pub fn fail_next(&self, count: usize, status: StatusCode) {
        let failures = std::iter::repeat_n(status, count);
        self.known().failures.extend(failures);
    }

    /// Forgets every worker, as after the loss of a database.
    pub fn forget_workers(&self) {
        self.known().workers.clear();
    }

    /// From now on another secret is right.
    pub fn set_secret(&self, secret: &str) {
        self.known().secret = secret.to_owned();
    }

    /// Listings are answered only when the handle is notified, with what was true when they were
    /// asked for.
    pub fn hold_listings(&self) -> Arc<Notify> {
        let hold = Arc::new(Notify::new());
        self.known().hold = Some(Arc::clone(&hold));
        hold
    }

    /// Later listings are answered at once again.
    pub fn release_listings(&self) {
        if let Some(hold) = self.known().hold.take() {
            hold.notify_waiters();
        }
    }

    /// How often something was asked for, failures included.
    pub fn calls(&self, call: Call) -> usize {
        self.known().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many nodes of an authority have registered and not deregistered.
    pub fn nodes(&self, authority: &str) -> i64 {
        let known = self.known();
        let mut workers = known.workers.values();
        workers
            .find(|w| w.said["authority"] == authority)
            .map_or(0, |w| w.nodes)
    }

    /// What an authority said when it last registered.
    pub fn registration(&self, authority: &str) -> Option<Value> {
        let known = self.known();
        let mut workers = known.workers.values();
        let found = workers.find(|w| w.said["authority"] == authority);
        found.map(|w| w.said.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.state)
    }
}

impl Drop for FakeCoordinator {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

fn lock(state: &Shared) -> MutexGuard<'_, Known> {
    state
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The same for both styles: what is asked, and what is answered.
async fn answer(
    state: &Shared,
    method: &Method,
    path: &str,
    token: &str,
    body: &[u8],
) -> (StatusCode, Value) {
    let (result, hold) = {
        let mut known = lock(state);
        let call = Known::call(method, path);
        let hold = known.hold.clone().filter(|_| call == Some(Call::Circuits));
        (known.answer(call, path, token, body), hold)
    };
    if let Some(hold) = hold {
        hold.notified().await;
    }
    result
}

impl Known {
    fn call(method: &Method, path: &str) -> Option<Call> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["status"]) => Some(Call::Status),
            ("GET", ["api", "worker"]) => Some(Call::Workers),
            ("PUT", ["api", "worker"]) => Some(Call::Register),
            ("PATCH", ["api", "worker", _]) => Some(Call::Heartbeat),
            ("DELETE", ["api", "worker", _]) => Some(Call::Deregister),
            ("GET", ["api", "worker", _, "circuits"]) => Some(Call::Circuits),
            ("GET", ["api", "circuit", _]) => Some(Call::Circuit),
            _ => None,
        }
    }

    fn answer(
        &mut self,
        call: Option<Call>,
        path: &str,
        token: &str,
        body: &[u8],
    ) -> (StatusCode, Value) {
        let Some(call) = call else {
            return problem(StatusCode::NOT_FOUND, "url-not-found", "Unknown URL path.");
        };
        *self.calls.entry(call).or_default() += 1;
        if let Some(status) = self.failures.pop_front() {
            return problem(status, "internal-server-error", "Told to fail.");
        }
        if call == Call::Status {
            return (StatusCode::OK, json!({"api_version": "v2"}));
        }
        if token != self.secret {
            let status = StatusCode::UNAUTHORIZED;
            return problem(status, "auth-failed", "Unauthorized access");
        }
        let id = path.split('/').filter_map(|part| part.parse().ok()).next();
        match call {
            Call::Register => self.register(body),
            Call::Workers => {
                let shown = self.workers.iter().map(|(id, worker)| worker.shown(*id));
                (
                    StatusCode::OK,
                    json!({"workers": shown.collect::<Vec<_>>()}),
                )
            }
            Call::Circuit => self.circuit(id),
            _ => self.of_worker(call, id),
        }
    }

    fn register(&mut self, body: &[u8]) -> (StatusCode, Value) {
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        if !said["authority"].is_string() {
            let title = "Input validation error";
            return problem(StatusCode::BAD_REQUEST, "invalid-api-params", title);
        }
        let mut workers = self.workers.iter();
        let known = workers.find(|(_, w)| w.said["authority"] == said["authority"]);
        let id = known.map_or_else(Uuid::new_v4, |(id, _)| *id);
        let worker = self.workers.entry(id).or_insert(Worker {
            said: Value::Null,
            nodes: 0,
            beats: 0,
        });
        worker.said = said;
        // Every time, also for the same process.
        worker.nodes += 1;
        (StatusCode::OK, worker.shown(id))
    }

    fn of_worker(&mut self, call: Call, id: Option<Uuid>) -> (StatusCode, Value) {
        let known = id.and_then(|id| Some((id, self.workers.get_mut(&id)?)));
        let Some((id, worker)) = known else {
            return not_found("worker");
        };
        match call {
            Call::Deregister => {
                worker.nodes -= 1;
                (StatusCode::OK, json!({"success": true}))
            }
            Call::Circuits => (StatusCode::OK, json!({"circuits": self.circuits})),
            _ => {
                worker.beats += 1;
                (StatusCode::OK, worker.shown(id))
            }
        }
    }

    fn circuit(&self, id: Option<Uuid>) -> (StatusCode, Value) {
        let mut circuits = self.circuits.iter();
        match circuits.find(|c| id.is_some_and(|id| c["id"] == id.to_string())) {
            Some(circuit) => (StatusCode::OK, circuit.clone()),
            None => not_found("circuit"),
        }
    }
}

impl Worker {
    fn shown(&self, id: Uuid) -> Value {
        let mut shown = self.said.clone();
        shown["id"] = json!(id);
        shown["nodes"] = json!(self.nodes);
        shown["slots"] = json!([]);
        shown
    }
}

fn not_found(what: &str) -> (StatusCode, Value) {
    let title = format!("E00002: No such {what}.");
    problem(StatusCode::NOT_FOUND, "object-not-found", &title)
}

fn problem(status: StatusCode, kind: &str, title: &str) -> (StatusCode, Value) {
    let document = json!({
        "type": format!("https://api.backend.ai/probs/{kind}"),
        "title": title,
        "error_code": format!("agent_request_{kind}"),
    });
    (status, document)
}

async fn by_axum(State(state): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let token = head.headers.get("x-backendai-token");
    let token = token.and_then(|t| t.to_str().ok()).unwrap_or_default();
    let (status, document) = answer(&state, &head.method, head.uri.path(), token, &body).await;
    let kind = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
    (status, kind, document.to_string()).into_response()
}

/// No server writes that status line on demand, so it is written by hand.
async fn serve_minus_one(listener: TcpListener, state: Shared) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            one_request(stream, &state).await.ok();
        });
    }
}

async fn one_request(mut stream: TcpStream, state: &Shared) -> std::io::Result<()> {
    let mut text = Vec::new();
    let (head, body) = loop {
        let mut space = [0; 4096];
        let read = stream.read(&mut space).await?;
        text.extend_from_slice(&space[..read]);
        let end = text.windows(4).position(|w| w == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&text[..end]).into_owned();
            let length = field(&head, "content-length").parse().unwrap_or(0);
            if text.len() >= end + 4 + length {
                break (head, text.split_off(end + 4));
            }
        }
        if read == 0 || text.len() > MAX_BODY {
            return Ok(());
        }
    };
    let mut line = head.lines().next().unwrap_or_default().split(' ');
    let method = line.next().unwrap_or_default().parse().unwrap_or_default();
    let path = line.next().unwrap_or_default().to_owned();
    let token = field(&head, "x-backendai-token").to_owned();
    let (status, document) = answer(state, &method, &path, &token, &body).await;
    let line = if status.is_success() {
        "HTTP/1.1 200 OK"
    } else {
        "HTTP/1.1 -1 "
    };
    let body = document.to_string();
    let answer = format!(
        "{line}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn field<'h>(head: &'h str, name: &str) -> &'h str {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map_or("", |(_, value)| value.trim())
}
