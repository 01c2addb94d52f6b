//! Calls of filters to services of their own: who may pass, what the keys are, how much is left.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use http::header::HOST;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;

use super::body::{BoxBody, Read, Whole, read};

/// The clusters of the configuration in force.
pub trait Calls {
    /// Sends a request to an endpoint of a cluster. `limit` counts until the head of the answer is
    /// there; the caller bounds what follows.
    fn call(
        &self,
        cluster: &str,
        request: Request<BoxBody>,
        limit: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<BoxBody>, CallError>>;

    /// `None`: there is no such cluster.
    fn members(&self, cluster: &str) -> Option<Members>;
}

/// The endpoints of a cluster, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub total: usize,
    pub healthy: usize,
    pub degraded: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("there is no cluster {0:?}")]
    NoCluster(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Unreachable(String),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// gRPC: a status other than OK.
    #[error("status {code}: {message}")]
    Status { code: u32, message: String },
}

/// One call whose answer is wanted whole, within `limit` and of at most `max` bytes.
///
/// # Errors
/// [`CallError`]
pub async fn fetch(
    calls: &dyn Calls,
    cluster: &str,
    request: Request<Bytes>,
    limit: Duration,
    max: u64,
) -> Result<Response<Bytes>, CallError> {
    let request = request.map(|body| Whole::new(body).boxed());
    let whole = async {
        let (head, body) = calls.call(cluster, request, limit).await?.into_parts();
        match read(body, max).await {
            Read::Whole(whole) => Ok(Response::from_parts(head, whole.data)),
            Read::Larger(..) => Err(CallError::TooLarge(max)),
            Read::Broken(error) => Err(CallError::Broken(error.to_string())),
        }
    };
    tokio::time::timeout(limit, whole)
        .await
        .unwrap_or(Err(CallError::Timeout(limit)))
}

/// The largest answer of a gRPC service.
const MAX_MESSAGE: u64 = 4 << 20;

/// One unary call over gRPC. `path` is `/package.Service/Method`; `metadata` goes into the head.
///
/// # Errors
/// [`CallError`]
pub async fn unary<Q, A>(
    calls: &dyn Calls,
    cluster: &str,
    path: &str,
    metadata: &[(http::HeaderName, http::HeaderValue)],
    message: &Q,
    limit: Duration,
) -> Result<A, CallError>
where
    Q: causeway_xds::proto::Message,
    A: causeway_xds::proto::Message + Default,
{
    let mut request = grpc_head(cluster, path, metadata);
    if !limit.is_zero() {
        request = request.header("grpc-timeout", format!("{}m", limit.as_millis()));
    }
    let body = framed(&message.encode_to_vec());
    let request = request
        .body(Whole::new(body).boxed())
        .map_err(|e| CallError::Unreachable(e.to_string()))?;
    let answer = async {
        let (head, mut body) = calls.call(cluster, request, limit).await?.into_parts();
        let mut said = status_of(&head.headers)?;
        if head.status != StatusCode::OK {
            let message = format!("HTTP status {}", head.status.as_u16());
            return Err(CallError::Status { code: 2, message });
        }
        let mut data = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(piece)) => data.extend_from_slice(&piece),
                Ok(Err(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        said |= status_of(trailers)?;
                    }
                }
                Err(error) => return Err(CallError::Broken(error.to_string())),
            }
            if data.len() as u64 > MAX_MESSAGE {
                return Err(CallError::TooLarge(MAX_MESSAGE));
            }
        }
        // A message that came so far may be a part of the truth.
        match said {
            true => unframed(&data),
            false => Err(CallError::Broken("no grpc-status".to_owned())),
        }
    };
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or(Err(CallError::Timeout(limit)))
}

/// The head of a call over gRPC, without its deadline. `metadata` goes into it.
fn grpc_head(
    cluster: &str,
    path: &str,
    metadata: &[(http::HeaderName, http::HeaderValue)],
) -> http::request::Builder {
    let mut request = Request::post(path)
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    if !metadata.iter().any(|(name, _)| *name == HOST) {
        request = request.header(HOST, authority(cluster));
    }
    for (name, value) in metadata {
        request = request.header(name, value);
    }
    request
}

/// Opens a call over gRPC in which both sides send as many messages as they like.
///
/// # Errors
/// [`CallError`]
pub async fn stream(
    calls: &dyn Calls,
    cluster: &str,
    path: &str,
    metadata: &[(http::HeaderName, http::HeaderValue)],
    messages: BoxBody,
    limit: Duration,
) -> Result<Messages, CallError> {
    let request = grpc_head(cluster, path, metadata)
        .body(messages)
        .map_err(|e| CallError::Unreachable(e.to_string()))?;
    let (head, body) = calls.call(cluster, request, limit).await?.into_parts();
    let ended = status_of(&head.headers)?;
    if head.status != StatusCode::OK {
        let message = format!("HTTP status {}", head.status.as_u16());
        return Err(CallError::Status { code: 2, message });
    }
    Ok(Messages {
        body,
        data: BytesMut::new(),
        ended,
    })
}

/// The messages that the other side of a call sends.
pub struct Messages {
    body: BoxBody,
    data: BytesMut,
    /// There was a status.
    ended: bool,
}

impl Messages {
    /// `None`: the other side has ended the call, and nothing is wrong.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn next<A>(&mut self) -> Result<Option<A>, CallError>
    where
        A: causeway_xds::proto::Message + Default,
    {
        loop {
            if let Some(message) = self.message()? {
                let message = A::decode(message);
                return message
                    .map(Some)
                    .map_err(|e| CallError::Broken(e.to_string()));
            }
            match self.body.frame().await {
                None if self.ended => return Ok(None),
                None => return Err(CallError::Broken("no grpc-status".to_owned())),
                Some(Err(error)) => return Err(CallError::Broken(error.to_string())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.data.extend_from_slice(&data),
                    Err(frame) => {
                        if let Some(trailers) = frame.trailers_ref() {
                            self.ended |= status_of(trailers)?;
                        }
                    }
                },
            }
        }
    }

    /// What is there of messages.
    fn message(&mut self) -> Result<Option<Bytes>, CallError> {
        let Some(head) = self.data.first_chunk::<5>() else {
            return Ok(None);
        };
        if head[0] != 0 {
            return Err(CallError::Broken("a compressed message".to_owned()));
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        if u64::from(length) > MAX_MESSAGE {
            return Err(CallError::TooLarge(MAX_MESSAGE));
        }
        let whole = head.len() + length as usize;
        if self.data.len() < whole {
            return Ok(None);
        }
        let mut message = self.data.split_to(whole);
        Ok(Some(message.split_off(5).freeze()))
    }
}

/// Whom a call is for, where configuration does not say: the cluster, if that can be a host.
fn authority(cluster: &str) -> &str {
    match cluster.parse::<http::uri::Authority>() {
        Ok(_) => cluster,
        Err(_) => "localhost",
    }
}

/// A message behind its length ("Length-Prefixed-Message" of gRPC over HTTP/2).
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

fn unframed<A: causeway_xds::proto::Message + Default>(data: &[u8]) -> Result<A, CallError> {
    let broken = |why: &str| CallError::Broken(why.to_owned());
    let (head, message) = data
        .split_first_chunk::<5>()
        .ok_or_else(|| broken("no message"))?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 {
        return Err(broken("a compressed message"));
    }
    let message = message.get(..length).ok_or_else(|| broken("cut short"))?;
    A::decode(message).map_err(|e| CallError::Broken(e.to_string()))
}

/// Whether there is a status.
///
/// # Errors
/// A status other than OK.
fn status_of(headers: &http::HeaderMap) -> Result<bool, CallError> {
    let text = |name: &str| {
        headers
            .get(name)
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
    };
    match text("grpc-status").as_deref() {
        None => Ok(false),
        Some("0") => Ok(true),
        Some(code) => Err(CallError::Status {
            code: code.parse().unwrap_or(2),
            message: text("grpc-message").unwrap_or_default().into_owned(),
        }),
    }
}
