//! A push through the REST shim, as a Coordinator makes one.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::coordinator::shim::TOKEN_HEADER;
use crate::util::Secret;

/// Why a push did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum PushFailed {
    #[error("the management port cannot be reached")]
    Connect(#[from] std::io::Error),
    #[error("no complete answer")]
    Exchange(#[from] hyper::Error),
    #[error("the token cannot be sent in a header")]
    Token(#[from] http::Error),
    #[error("refused with {0}: {1}")]
    Refused(StatusCode, String),
    #[error("an answer that is not JSON")]
    Answer(#[from] serde_json::Error),
}

/// Makes `circuits` the whole set of the worker whose management port this is; returns the
/// worker's answer once the circuits are live.
pub async fn push(
    management: SocketAddr,
    token: &Secret,
    circuits: &Value,
) -> Result<Value, PushFailed> {
    let stream = TcpStream::connect(management).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(Method::PUT)
        .uri("/v1/circuits")
        .header(header::HOST, management.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .header(TOKEN_HEADER, token.expose())
        .body(Full::<Bytes>::from(circuits.to_string()))?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((status, body))
    };
    // One request: what drives the connection lives exactly as long as the exchange.
    let (status, body) = tokio::select! {
        done = exchange => done?,
        ended = connection => {
            ended?;
            let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(PushFailed::Connect(error));
        }
    };
    if status.is_success() {
        Ok(serde_json::from_slice(&body)?)
    } else {
        Err(PushFailed::Refused(
            status,
            String::from_utf8_lossy(&body).into_owned(),
        ))
    }
}
