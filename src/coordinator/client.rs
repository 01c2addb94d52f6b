//! Calls to the Coordinator's REST interface.
//!
//! | module | holds |
//! |---|---|
//! | [`registration`] | what a worker says of itself, and what it is told |
//! | `connect` | the endpoint, and connections to it, with or without TLS |
//! | `status_line` | makes the answers of a 25.x Coordinator readable |
//! | [`error`] | why a call failed |
//!
//! One connection for each call: calls are seconds apart, and a fresh connection cannot have died
//! unseen in between.

mod connect;
pub mod error;
pub mod registration;
mod status_line;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

pub use error::{ClientConfigError, ClientError, Problem};
pub use registration::{AppFilter, Registered, Registration};

use crate::util::Secret;
use connect::Endpoint;
use status_line::StatusLine;

const TOKEN_HEADER: &str = "x-backendai-token";
const REQUEST_ID_HEADER: &str = "x-backendai-requestid";

/// Problem documents and single objects are small.
const MAX_ANSWER: usize = 64 << 10;
/// A listing of more than 200,000 circuits fits.
const MAX_LISTING: usize = 256 << 20;

/// Where the Coordinator is, and how long it may take.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `coordinator_endpoint`: `http` or `https`, a path in front of `/api` if there is one.
    pub endpoint: http::Uri,
    pub api_secret: Secret,
    pub verify_tls: bool,
    /// For the connection with its TLS handshake.
    pub connect_timeout: Duration,
    /// For a whole call, but for a listing.
    pub answer_timeout: Duration,
    /// For a whole listing of circuits.
    pub listing_timeout: Duration,
}

impl ClientConfig {
    pub fn new(endpoint: http::Uri, api_secret: Secret) -> Self {
        Self {
            endpoint,
            api_secret,
            verify_tls: true,
            // As the legacy worker.
            connect_timeout: Duration::from_secs(10),
            // Shorter than the time after which a worker without heartbeats counts as lost, 30 s.
            answer_timeout: Duration::from_secs(15),
            listing_timeout: Duration::from_secs(60),
        }
    }
}

/// A client of one Coordinator. Copies share everything.
#[derive(Clone)]
pub struct CoordinatorClient {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    /// Sensitive, so that it prints as such.
    token: HeaderValue,
    secret: Secret,
    connect_timeout: Duration,
    answer_timeout: Duration,
    listing_timeout: Duration,
}

impl std::fmt::Debug for CoordinatorClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CoordinatorClient({})", self.shared.endpoint)
    }
}

impl CoordinatorClient {
    /// # Errors
    /// The endpoint is no base URL, the secret cannot be sent in a header field, or certificates
    /// are to be checked and there are none to check them with.
    pub fn new(config: ClientConfig) -> Result<Self, ClientConfigError> {
        let endpoint = Endpoint::new(&config.endpoint, config.verify_tls)?;
        let mut token = HeaderValue::from_str(config.api_secret.expose())
            .map_err(|_| ClientConfigError::Secret)?;
        token.set_sensitive(true);
        let shared = Shared {
            endpoint,
            token,
            secret: config.api_secret,
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout,
            listing_timeout: config.listing_timeout,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// `PUT /api/worker`. Not idempotent: every call counts one more node of the authority.
    pub async fn register(&self, registration: &Registration) -> Result<Registered, ClientError> {
        let body = serde_json::to_vec(registration).map_err(ClientError::body)?;
        self.call(Method::PUT, "/api/worker", Some(body.into()))
            .await
    }

    /// `PATCH /api/worker/{id}`: this worker is alive.
    pub async fn heartbeat(&self, worker: Uuid) -> Result<Registered, ClientError> {
        let path = format!("/api/worker/{worker}");
        self.call(Method::PATCH, &path, None).await
    }

    /// `DELETE /api/worker/{id}`: one node less. Circuits stay.
    pub async fn deregister(&self, worker: Uuid) -> Result<(), ClientError> {
        let path = format!("/api/worker/{worker}");
        let _: Value = self.call(Method::DELETE, &path, None).await?;
        Ok(())
    }

    /// `GET /api/worker/{id}/circuits`: what the worker is to serve. Each circuit as it came, so
    /// that one that cannot be read does not spoil the rest.
    pub async fn circuits(&self, worker: Uuid) -> Result<Vec<Value>, ClientError> {
        #[derive(Deserialize)]
        struct Listing {
            circuits: Vec<Value>,
        }
        let path = format!("/api/worker/{worker}/circuits");
        let exchange = self.exchange(Method::GET, &path, None, MAX_LISTING);
        let answer = within("listing", self.shared.listing_timeout, exchange).await?;
        let listing: Listing = serde_json::from_slice(answer.body()).map_err(ClientError::body)?;
        Ok(listing.circuits)
    }

    /// `GET /api/circuit/{id}`.
    pub async fn circuit(&self, id: Uuid) -> Result<Value, ClientError> {
        let path = format!("/api/circuit/{id}");
        self.call(Method::GET, &path, None).await
    }

    /// `GET /status`: whether somebody answers who speaks for the Coordinator.
    pub async fn status(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, "/status", None).await
    }

    /// Asks for something harmless with the secret, and tells the `Date` field of the answer.
    pub async fn probe(&self, path: &str) -> Result<Option<HeaderValue>, ClientError> {
        let exchange = self.exchange(Method::GET, path, None, MAX_LISTING);
        let answer = within("answer", self.shared.answer_timeout, exchange).await?;
        Ok(answer.headers().get(header::DATE).cloned())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, ClientError> {
        let exchange = self.exchange(method, path, body, MAX_ANSWER);
        let answer = within("answer", self.shared.answer_timeout, exchange).await?;
        serde_json::from_slice(answer.body()).map_err(ClientError::body)
    }

    /// One request, one connection; a good answer.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        limit: usize,
    ) -> Result<Response<Bytes>, ClientError> {
        let shared = &self.shared;
        let request = self.request(method, path, body)?;
        let connecting = shared.endpoint.connect();
        let stream = within("connect", shared.connect_timeout, connecting).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(StatusLine::new(stream)))
                .await
                .map_err(ClientError::exchange)?;
        let exchange = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(ClientError::exchange)?;
            self.read(answer, limit).await
        };
        // The connection has to be driven. How it ends is told to the exchange by itself, which
        // may still have bytes to read then.
        let driver = async {
            connection.await.ok();
            std::future::pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            done = exchange => done,
            never = driver => match never {},
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let shared = &self.shared;
        let mut builder = Request::builder()
            .method(method)
            .uri(format!("{}{path}", shared.endpoint.base()))
            .header(header::HOST, shared.endpoint.authority())
            // A 25.x Coordinator answers errors in HTML to those who do not ask for JSON.
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("causeway/", env!("CARGO_PKG_VERSION")),
            )
            .header(TOKEN_HEADER, shared.token.clone())
            .header(REQUEST_ID_HEADER, Uuid::new_v4().to_string());
        if body.is_some() {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        builder
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|e| ClientError::Connect(format!("the request cannot be made: {e}")))
    }

    async fn read(
        &self,
        answer: Response<Incoming>,
        limit: usize,
    ) -> Result<Response<Bytes>, ClientError> {
        let status = answer.status();
        if status.is_success() {
            let (head, body) = answer.into_parts();
            return Ok(Response::from_parts(head, collect(body, limit).await?));
        }
        // A problem that cannot be read is still a problem.
        let text = collect(answer.into_body(), MAX_ANSWER).await;
        let problem = Problem::read(&text.unwrap_or_default(), &self.shared.secret);
        if status.as_u16() == status_line::STAND_IN {
            Err(ClientError::Unparsable { problem })
        } else {
            Err(ClientError::Answer { status, problem })
        }
    }
}

async fn collect(body: Incoming, limit: usize) -> Result<Bytes, ClientError> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ClientError::Body(format!(
            "the answer is longer than {limit} bytes"
        ))),
        Err(error) => Err(ClientError::Body(format!("the answer broke off: {error}"))),
    }
}

async fn within<T>(
    what: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(ClientError::Timeout { what, limit }),
    }
}

#[cfg(test)]
mod tests;
