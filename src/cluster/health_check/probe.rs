//! One check of one endpoint.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use causeway_xds::proto::Message;
use causeway_xds::proto::grpc_health::{HealthCheckRequest, HealthCheckResponse};
use causeway_xds::resource::Address;
use causeway_xds::resource::cluster::{HealthCheck, HttpProbe, Probe, TcpProbe};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::Io;
use crate::upstream::connect::{Named, open_uncounted};
use crate::upstream::{Endpoint, Transport};

/// As Envoy calls itself; servers leave such requests out of their logs.
const AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");
/// Of an answer that is read in order to use the connection again, in bytes.
const MAX_BODY: usize = 64 * 1024;

pub struct Passed {
    pub degraded: bool,
}

pub struct Failed {
    /// Nothing came back, in contrast to a bad answer.
    pub network: bool,
    /// Several in a row are needed.
    pub counts: bool,
    pub reason: String,
}

impl Failed {
    pub fn network(reason: impl ToString) -> Self {
        Self {
            network: true,
            counts: true,
            reason: reason.to_string(),
        }
    }

    fn answer(counts: bool, reason: impl ToString) -> Self {
        Self {
            network: false,
            counts,
            reason: reason.to_string(),
        }
    }
}

/// Checks one endpoint, and keeps the connection in between.
pub struct Prober {
    check: Arc<HealthCheck>,
    address: Address,
    /// As the endpoint's.
    hostname: String,
    socket: Option<usize>,
    authority: String,
    connection: Option<Connection>,
}

enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Prober {
    pub fn new(check: &Arc<HealthCheck>, cluster: &str, endpoint: &Endpoint) -> Self {
        let own = &endpoint.attributes.check;
        let mut address = endpoint.attributes.address.clone();
        if let (Address::Socket(socket), Some(port)) = (&mut address, own.port.or(check.port)) {
            *socket = SocketAddr::new(socket.ip(), port);
        }
        let named = match &check.probe {
            Probe::Http(http) => http.host.as_str(),
            Probe::Grpc { authority, .. } => authority.as_str(),
            Probe::Tcp(_) => "",
        };
        let authority = [own.hostname.as_str(), named, cluster];
        let authority = authority.into_iter().find(|name| !name.is_empty());
        Self {
            check: Arc::clone(check),
            address,
            hostname: endpoint.attributes.hostname.clone(),
            socket: endpoint.attributes.socket,
            authority: authority.unwrap_or_default().to_owned(),
            connection: None,
        }
    }

    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Has to be given a deadline.
    pub async fn probe(&mut self, transport: &Transport) -> Result<Passed, Failed> {
        let check = Arc::clone(&self.check);
        match &check.probe {
            Probe::Tcp(tcp) => exchange(tcp, self.connect(transport).await?).await,
            Probe::Http(http) => {
                let request = http_request(http, &self.authority);
                let (head, body) = self.request(request, http.http2, transport).await?;
                let passed = judge(http, head.status, &head.headers)?;
                says(http, body.as_ref()).map(|()| passed)
            }
            Probe::Grpc {
                service, headers, ..
            } => {
                let request = grpc_request(service, headers, &self.authority);
                let (head, body) = self.request(request, true, transport).await?;
                judge_grpc(&head, body.as_ref())
            }
        }
    }

    async fn connect(&self, transport: &Transport) -> Result<Io, Failed> {
        let named = Named {
            address: &self.address,
            hostname: &self.hostname,
        };
        open_uncounted(named, self.socket, transport)
            .await
            .map_err(Failed::network)
    }

    async fn request(
        &mut self,
        request: Request<Full<Bytes>>,
        http2: bool,
        transport: &Transport,
    ) -> Result<(http::response::Parts, Option<Answer>), Failed> {
        let mut connection = match self.connection.take() {
            Some(kept) if kept.is_open() => kept,
            _ => Connection::open(self.connect(transport).await?, http2).await?,
        };
        let (head, body) = connection.send(request).await?.into_parts();
        let limited = Limited::new(body, MAX_BODY).collect().await;
        let answer = limited.ok().map(|body| Answer {
            trailers: body.trailers().cloned(),
            data: body.to_bytes(),
        });
        // What was not read to its end cannot be used again.
        if self.check.reuse_connection && answer.is_some() {
            self.connection = Some(connection);
        }
        Ok((head, answer))
    }
}

struct Answer {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Connection {
    async fn open(io: Io, http2: bool) -> Result<Self, Failed> {
        let io = TokioIo::new(io);
        if http2 {
            let (sender, driver) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .handshake(io)
                .await
                .map_err(Failed::network)?;
            tokio::spawn(async move { driver.await.ok() });
            Ok(Self::Http2(sender))
        } else {
            let (sender, driver) = http1::handshake(io).await.map_err(Failed::network)?;
            tokio::spawn(async move { driver.await.ok() });
            Ok(Self::Http1(sender))
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failed> {
        let sent = match self {
            Self::Http1(sender) => {
                let host = request.uri().authority().map(|a| a.as_str().to_owned());
                if let Some(host) = host.and_then(|host| HeaderValue::try_from(host).ok()) {
                    request.headers_mut().insert(HOST, host);
                }
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
                sender.ready().await.map_err(Failed::network)?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                *request.version_mut() = Version::HTTP_2;
                sender.ready().await.map_err(Failed::network)?;
                sender.send_request(request).await
            }
        };
        sent.map_err(Failed::network)
    }
}

/// Parts that the decoder has checked; what cannot be written all the same makes the check fail.
fn request(
    method: Method,
    authority: &str,
    path: &str,
    headers: &[(String, String)],
    body: Bytes,
) -> Request<Full<Bytes>> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query(path)
        .build();
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri.unwrap_or_default();
    request.headers_mut().insert(USER_AGENT, AGENT);
    for (name, value) in headers {
        let name = http::HeaderName::try_from(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            request.headers_mut().append(name, value);
        }
    }
    request
}

fn http_request(probe: &HttpProbe, authority: &str) -> Request<Full<Bytes>> {
    let method = probe.method.clone();
    let body = Bytes::copy_from_slice(&probe.send);
    request(method, authority, &probe.path, &probe.headers, body)
}

fn judge(probe: &HttpProbe, status: StatusCode, headers: &HeaderMap) -> Result<Passed, Failed> {
    let within =
        |ranges: &[std::ops::Range<u16>]| ranges.iter().any(|r| r.contains(&status.as_u16()));
    if headers.contains_key("x-envoy-immediate-health-check-fail") {
        return Err(Failed::answer(
            false,
            "the endpoint says that it is to be left",
        ));
    }
    if within(&probe.expected) {
        let degraded = headers.contains_key("x-envoy-degraded");
        return Ok(Passed { degraded });
    }
    Err(Failed::answer(
        within(&probe.retriable),
        format!("status {}", status.as_u16()),
    ))
}

/// Whether the body of a good answer has what it has to.
fn says(probe: &HttpProbe, answer: Option<&Answer>) -> Result<(), Failed> {
    if probe.receive.is_empty() {
        return Ok(());
    }
    let body = answer.map_or(&[][..], |answer| &answer.data);
    let seen = &body[..body.len().min(probe.receive_within)];
    match has_all(seen, &probe.receive) {
        true => Ok(()),
        false => Err(Failed::answer(
            true,
            "the answer does not say what is expected",
        )),
    }
}

/// `ServingStatus` of the answer.
const SERVING: i32 = 1;

fn grpc_request(
    service: &str,
    headers: &[(String, String)],
    authority: &str,
) -> Request<Full<Bytes>> {
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let body = [&[0], &length.to_be_bytes()[..], &message].concat();
    let path = "/grpc.health.v1.Health/Check";
    let mut request = request(Method::POST, authority, path, headers, body.into());
    let own = request.headers_mut();
    own.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    own.insert(TE, HeaderValue::from_static("trailers"));
    request
}

fn judge_grpc(head: &http::response::Parts, answer: Option<&Answer>) -> Result<Passed, Failed> {
    let failed = |reason: String| Err(Failed::answer(false, reason));
    if head.status != StatusCode::OK {
        return failed(format!("status {}", head.status.as_u16()));
    }
    let Some(answer) = answer else {
        return failed("the answer is too long or broken off".to_owned());
    };
    let trailers = answer.trailers.as_ref().unwrap_or(&head.headers);
    let status = trailers.get("grpc-status").map(HeaderValue::as_bytes);
    if status != Some(b"0") {
        let status = String::from_utf8_lossy(status.unwrap_or_default()).into_owned();
        return failed(format!("grpc-status {status:?}"));
    }
    let message = answer.data.get(5..).unwrap_or_default();
    match HealthCheckResponse::decode(message) {
        Ok(HealthCheckResponse { status: SERVING }) => Ok(Passed { degraded: false }),
        Ok(HealthCheckResponse { status }) => failed(format!("serving status {status}")),
        Err(error) => failed(error.to_string()),
    }
}

/// Sends, and reads until everything that is expected has come.
async fn exchange(probe: &TcpProbe, mut io: Io) -> Result<Passed, Failed> {
    const PASSED: Result<Passed, Failed> = Ok(Passed { degraded: false });
    if !probe.send.is_empty() {
        io.write_all(&probe.send).await.map_err(Failed::network)?;
    }
    if probe.receive.is_empty() {
        return PASSED;
    }
    let mut seen = Vec::new();
    let mut buffer = vec![0; 4096];
    while !has_all(&seen, &probe.receive) {
        let read = io.read(&mut buffer).await.map_err(Failed::network)?;
        if read == 0 {
            return Err(Failed::network("closed before the expected answer"));
        }
        if seen.len() + read > MAX_BODY {
            return Err(Failed::network("too much came without the expected answer"));
        }
        seen.extend_from_slice(&buffer[..read]);
    }
    PASSED
}

/// Whether all parts are in there in this order.
fn has_all(mut seen: &[u8], parts: &[Vec<u8>]) -> bool {
    parts.iter().all(|part| {
        let at = memchr::memmem::find(seen, part);
        if let Some(at) = at {
            seen = &seen[at + part.len()..];
        }
        at.is_some()
    })
}
