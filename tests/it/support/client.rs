//! HTTP clients that behave: one connection each, HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::within;

pub type Body = BoxBody<Bytes, std::convert::Infallible>;

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error}): {}", self.text()),
        }
    }

    /// The value of a field; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Reads a response to its end.
    ///
    /// # Errors
    /// It broke off.
    pub async fn read(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = response.into_parts();
        let body = within("reading a body", body.collect()).await?;
        Ok(Self {
            status: head.status,
            headers: head.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        })
    }
}

pub fn request(method: &str, host: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
}

pub fn empty() -> Body {
    full("")
}

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// One GET on a connection of its own.
pub async fn get(at: SocketAddr, host: &str, path: &str) -> Reply {
    let request = request("GET", host, path).body(empty()).unwrap();
    Http1::connect(at).await.send_body(request).await
}

/// A connection that is kept open.
pub struct Http1 {
    sender: http1::SendRequest<Body>,
}

impl Http1 {
    pub async fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        // Ends with the connection; how it ended is seen by whoever sent a request.
        tokio::spawn(connection);
        Self { sender }
    }

    /// Sends, and waits for the head of the answer only.
    pub async fn start(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        within("a head", async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        })
        .await
    }

    pub async fn try_send(&mut self, request: Request<Body>) -> Result<Reply, hyper::Error> {
        Reply::read(self.start(request).await?).await
    }

    pub async fn send_body(&mut self, request: Request<Body>) -> Reply {
        self.try_send(request).await.expect("a whole answer")
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Reply {
        self.send_body(request.map(BodyExt::boxed)).await
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Reply {
        self.send_body(request("GET", host, path).body(empty()).unwrap())
            .await
    }

    /// Whether the other side has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// An HTTP/2 connection, prior knowledge.
#[derive(Clone)]
pub struct Http2 {
    sender: http2::SendRequest<Body>,
}

/// Windows of a peer: what it does not read soon waits in the proxy, and however small the frames
/// are, the peer itself does not find them too many.
pub const SMALL_WINDOW: u32 = 65_535;
pub const LARGE_WINDOW: u32 = 1 << 27;

impl Http2 {
    pub async fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(SMALL_WINDOW)
            .initial_connection_window_size(LARGE_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub async fn start(&self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        let mut sender = self.sender.clone();
        within("a head", async {
            sender.ready().await?;
            sender.send_request(request).await
        })
        .await
    }

    pub async fn try_send(&self, request: Request<Body>) -> Result<Reply, hyper::Error> {
        Reply::read(self.start(request).await?).await
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        self.try_send(request).await.expect("a whole answer")
    }

    /// `authority` becomes the pseudo header.
    pub async fn get(&self, authority: &str, path: &str) -> Reply {
        let uri = format!("http://{authority}{path}");
        self.send(Request::builder().uri(uri).body(empty()).unwrap())
            .await
    }
}
