//! A management server that is polled, with JSON over HTTP/1.1 (`ApiConfigSource.REST`).
//!
//! One poll at a time, each with the response of the one before it applied. There is no stream to
//! acknowledge on: the next poll of a type says which version was taken, or what was wrong.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::PROBE_MAX;
use super::machine::Machine as _;
use super::run::{Gone, Run};
use super::server::Server;
use super::sotw::Sotw;
use super::stream::{Failure, chain};
use super::unwrap::{V2, is_v2, shorten};
use crate::proto::DiscoveryResponse;
use crate::proto::envoy::service::discovery::v3::DiscoveryRequest;
use crate::text::{self, Options};
use crate::type_url::ResourceType;

const REQUEST: &str = "envoy.service.discovery.v3.DiscoveryRequest";
const RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";

/// What a poll brought.
#[derive(Debug)]
enum Polled {
    New(Bytes),
    /// 304, which servers send when they know the version.
    Unchanged,
    /// 404, which some servers send when they have no resource of the type.
    Nothing,
}

impl Run<Sotw> {
    /// Polls until control is gone.
    pub(super) async fn poll(
        mut self,
        refresh_delay: Duration,
        request_timeout: Duration,
    ) -> Result<(), Gone> {
        let mut next = [None; ResourceType::ALL.len()];
        let mut told = [const { Vec::new() }; ResourceType::ALL.len()];
        let mut connection = None;
        let mut looked = Instant::now();
        self.machine.connected(false);
        loop {
            let (kind, at) = match self.earliest(&next) {
                None => {
                    self.background().await?;
                    continue;
                }
                Some(poll) => poll,
            };
            if at > Instant::now() {
                tokio::select! {
                    biased;
                    // It may be that something else is to be asked now.
                    event = self.background() => event?,
                    () = sleep_until(at) => {}
                }
                continue;
            }
            if self.choice.at() > 0 && looked.elapsed() >= PROBE_MAX {
                looked = Instant::now();
                // The next one is tried at once if this one is still of no use.
                self.choice.back(0);
                connection = None;
                self.machine.connected(self.choice.is_other());
            }
            let told = &mut told[kind as usize];
            let result = self.once(kind, told, request_timeout, &mut connection);
            let result = result.await?;
            let wait = match result {
                Ok(()) => {
                    self.succeeded();
                    // So that the proxies of a fleet do not keep in step.
                    refresh_delay.mul_f64(self.rng.f64().mul_add(0.2, 0.9))
                }
                Err(Failure(reason)) => {
                    connection = None;
                    let server = self.choice.at();
                    let wait = self.failed(&reason, &[kind]);
                    if self.choice.at() != server {
                        self.machine.connected(self.choice.is_other());
                    }
                    wait.unwrap_or_default().min(refresh_delay)
                }
            };
            next[kind as usize] = Some(Instant::now() + wait);
        }
    }

    /// The type to be polled first, and when. Changes of what is wanted do not wait.
    fn earliest(
        &self,
        next: &[Option<Instant>; ResourceType::ALL.len()],
    ) -> Option<(ResourceType, Instant)> {
        let wanted = self.machine.wanted().into_iter();
        let polls = wanted.filter(|kind| path(*kind).is_some()).map(|kind| {
            let changed = self.failures == 0 && self.machine.asks(kind);
            let at = next[kind as usize].filter(|_| !changed);
            (kind, at.unwrap_or_else(Instant::now))
        });
        polls.min_by_key(|(_, at)| *at)
    }

    /// One poll and what follows from it. `told` are the names for which the last version was sent.
    ///
    /// Servers make a version of all that they have, and send of it what is asked for. So a version
    /// says nothing of a name that is asked for the first time, and a server that is told of it would
    /// answer that there is nothing new.
    async fn once(
        &mut self,
        kind: ResourceType,
        told: &mut Vec<String>,
        deadline: Duration,
        connection: &mut Option<SendRequest<Full<Bytes>>>,
    ) -> Result<Result<(), Failure>, Gone> {
        let server = self.config.servers[self.choice.at()].clone();
        self.status.set_server(&server.name);
        let request = self.machine.build(kind, true);
        let mut request = self.count(request);
        let names = request.resource_names.clone();
        if names.iter().any(|name| !told.contains(name)) {
            request.version_info.clear();
        }
        let exchange = timeout(deadline, exchange(&server, kind, request, connection));
        let polled = match self.during(exchange).await? {
            Err(_) => return Ok(Err(Failure("no response within the timeout".to_owned()))),
            Ok(Err(failure)) => return Ok(Err(failure)),
            Ok(Ok(polled)) => polled,
        };
        let response = match polled {
            Polled::Unchanged => return Ok(Ok(())),
            // A server that had some and now says it has none may be the wrong one (gateways
            // answer 404 for services that are down): what is in force stays, as in Envoy.
            Polled::Nothing if self.machine.has(kind) => return Ok(Ok(())),
            Polled::Nothing => DiscoveryResponse::default(),
            Polled::New(body) => {
                *told = names;
                // Takes longer than a task may block its thread.
                let parsed = task::spawn_blocking(move || parse(&body));
                match self
                    .during(parsed)
                    .await?
                    .map_err(|e| e.to_string())
                    .flatten()
                {
                    Ok(response) => response,
                    Err(reason) => {
                        let answered = self.machine.refuse(kind, &reason);
                        self.answered(answered);
                        return Ok(Ok(()));
                    }
                }
            }
        };
        if let Err(reason) = is_of(kind, &response) {
            let answered = self.machine.refuse(kind, &reason);
            self.answered(answered);
            return Ok(Ok(()));
        }
        let response = DiscoveryResponse {
            type_url: kind.type_url(),
            ..response
        };
        self.receive(response);
        while self.is_busy() {
            self.background().await?;
        }
        Ok(Ok(()))
    }
}

/// A response over REST need not name its type: the path does.
fn is_of(kind: ResourceType, response: &DiscoveryResponse) -> Result<(), String> {
    let url = &response.type_url;
    if url.is_empty() || ResourceType::from_type_url(url) == Some(kind) {
        return Ok(());
    }
    let hint = if is_v2(url) { V2 } else { "" };
    Err(format!("is of type {:?}{hint}", shorten(url)))
}

fn parse(body: &[u8]) -> Result<DiscoveryResponse, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the response is not UTF-8".to_owned())?;
    // As over gRPC, where a newer server may send fields that are not known here.
    let options = Options {
        allow_unknown_fields: true,
    };
    text::parse(text, RESPONSE, &options).map_err(|error| error.to_string())
}

/// Sends a request over the connection there is, or a new one.
async fn exchange(
    server: &Server,
    kind: ResourceType,
    request: DiscoveryRequest,
    connection: &mut Option<SendRequest<Full<Bytes>>>,
) -> Result<Polled, Failure> {
    // The first use loads the descriptors, which takes longer than a task may block its thread.
    let json = task::spawn_blocking(move || text::message_to_value(&request, REQUEST).to_string());
    let json = json.await.map_err(|error| Failure(error.to_string()))?;
    let request = build(server, kind, json.into())?;
    if let Some(mut reused) = connection.take()
        && reused.ready().await.is_ok()
    {
        match send(server, &mut reused, request.clone()).await {
            Ok(polled) => {
                *connection = Some(reused);
                return Ok(polled);
            }
            // A server may close what was idle at the very moment it is used.
            Err(Failure(reason)) => debug!(server = %server.name, reason, "connection lost"),
        }
    }
    let mut fresh = connect(server).await?;
    let polled = send(server, &mut fresh, request).await?;
    *connection = Some(fresh);
    Ok(polled)
}

async fn connect(server: &Server) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let io = server.connect.connect().await;
    let io = io.map_err(|error| Failure(chain(&error)))?;
    let (sender, connection) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| Failure(chain(&error)))?;
    // It ends with its last handle.
    task::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "connection to a management server");
        }
    });
    Ok(sender)
}

fn build(
    server: &Server,
    kind: ResourceType,
    json: Bytes,
) -> Result<Request<Full<Bytes>>, Failure> {
    let path = path(kind).ok_or_else(|| Failure("has no REST form".to_owned()))?;
    let fault = |error: &dyn std::error::Error| Failure(chain(error));
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, server.authority.as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Full::new(json))
        .map_err(|error| fault(&error))?;
    metadata(server, request.headers_mut())?;
    Ok(request)
}

/// A fault names the key alone: the value may be a credential.
fn metadata(server: &Server, headers: &mut HeaderMap) -> Result<(), Failure> {
    for (name, value) in &server.metadata.0 {
        let fault = |_| Failure(format!("metadata {name:?} cannot be sent"));
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| fault(()))?;
        let value = if key.as_str().ends_with("-bin") {
            HeaderValue::from_str(&STANDARD_NO_PAD.encode(value))
        } else {
            HeaderValue::from_bytes(value)
        };
        let mut value = value.map_err(|_| fault(()))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(())
}

async fn send(
    server: &Server,
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Polled, Failure> {
    let response = connection.send_request(request).await;
    let (head, body) = response
        .map_err(|error| Failure(chain(&error)))?
        .into_parts();
    // Read to its end whatever it is, so that the connection can be used again.
    let body = Limited::new(body, server.max_message).collect().await;
    let body = body.map_err(|error| Failure(format!("body: {error}")))?;
    match head.status {
        StatusCode::OK => Ok(Polled::New(body.to_bytes())),
        StatusCode::NOT_MODIFIED => Ok(Polled::Unchanged),
        StatusCode::NOT_FOUND => Ok(Polled::Nothing),
        status => Err(Failure(format!("status {status}"))),
    }
}

/// Virtual hosts have no REST form.
const fn path(kind: ResourceType) -> Option<&'static str> {
    match kind {
        ResourceType::Secret => Some("/v3/discovery:secrets"),
        ResourceType::Cluster => Some("/v3/discovery:clusters"),
        ResourceType::LoadAssignment => Some("/v3/discovery:endpoints"),
        ResourceType::FilterConfig => Some("/v3/discovery:extension_configs"),
        ResourceType::Listener => Some("/v3/discovery:listeners"),
        ResourceType::RouteConfiguration => Some("/v3/discovery:routes"),
        ResourceType::VirtualHost => None,
    }
}
