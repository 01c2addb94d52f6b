//! Origins: what stands behind the proxy, and misbehaves on request.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::eventually;

const LOOPBACK: &str = "127.0.0.1:0";

/// Listens on loopback, serves each connection with one behaviour, and remembers what came. Ends
/// with all its connections when dropped.
pub struct Origin {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    _accepting: JoinSet<()>,
}

/// What an origin has seen.
#[derive(Default)]
pub struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Head>>,
    gate: Gate,
}

struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

/// The head of a request as it came.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub method: String,
    pub target: String,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a field; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, v)| v)
    }

    pub fn count(&self, name: &str) -> usize {
        self.headers.iter().filter(|(n, _)| n == name).count()
    }
}

/// Body and trailers of a request.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub data: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// Counts a connection as open.
struct Open(Arc<Seen>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

impl Origin {
    /// Serves connections as they are.
    pub async fn tcp<F, Served>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        Self::start(LOOPBACK, move |stream, _| serve(stream)).await
    }

    /// As [`Self::tcp`], on the loopback address of IPv6.
    pub async fn tcp_v6<F, Served>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        Self::start("[::1]:0", move |stream, _| serve(stream)).await
    }

    /// Serves connections that begin with a request.
    pub async fn http<F, Served>(serve: F) -> Self
    where
        F: Fn(Conn) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        Self::start(LOOPBACK, move |stream, seen| {
            serve(Conn {
                stream,
                seen,
                buffer: Vec::new(),
            })
        })
        .await
    }

    async fn start<F, Served>(at: &str, serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<Seen>) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let mut accepting = JoinSet::new();
        let shared = Arc::clone(&seen);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                shared.connections.fetch_add(1, SeqCst);
                shared.open.fetch_add(1, SeqCst);
                let open = Open(Arc::clone(&shared));
                let served = serve(stream, Arc::clone(&shared));
                connections.spawn(async move {
                    served.await;
                    drop(open);
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            seen,
            _accepting: accepting,
        }
    }

    /// Answers every request with `text`.
    pub async fn fixed(text: &'static str) -> Self {
        Self::http(move |mut conn| async move {
            while let Some(head) = conn.request().await {
                conn.content(&head).await;
                conn.reply(200, &[], text).await;
            }
        })
        .await
    }

    /// Answers every request with what it was, as JSON.
    pub async fn echo() -> Self {
        Self::http(|mut conn| async move {
            while let Some(head) = conn.request().await {
                let Some(content) = conn.content(&head).await else {
                    return;
                };
                let answer = json!({
                    "method": head.method, "target": head.target, "headers": head.headers,
                    "body": String::from_utf8_lossy(&content.data), "trailers": content.trailers,
                });
                conn.reply(
                    200,
                    &[("content-type", "application/json")],
                    &answer.to_string(),
                )
                .await;
            }
        })
        .await
    }

    /// Answers a request with `text` once [`Origin::release`] lets it.
    pub async fn held(text: &'static str) -> Self {
        Self::http(move |mut conn| async move {
            while let Some(head) = conn.request().await {
                conn.content(&head).await;
                // Looks at the connection meanwhile: a peer that leaves ends the wait.
                let seen = Arc::clone(&conn.seen);
                tokio::select! {
                    permit = seen.gate.0.acquire() => permit.unwrap().forget(),
                    () = conn.left() => return,
                }
                conn.reply(200, &[], text).await;
            }
        })
        .await
    }

    /// Sends `bytes` in answer to each request and closes.
    pub async fn once(bytes: &'static [u8]) -> Self {
        Self::http(move |mut conn| async move {
            if let Some(head) = conn.request().await {
                conn.content(&head).await;
                conn.send(bytes).await;
            }
        })
        .await
    }

    /// Lets `count` held requests go on.
    pub fn release(&self, count: usize) {
        self.seen.gate.0.add_permits(count);
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }

    pub fn requests(&self) -> Vec<Head> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.seen.requests.lock().unwrap().clear();
    }

    #[track_caller]
    pub fn has_requests(&self, count: usize) -> impl Future<Output = ()> + '_ {
        eventually("requests at the origin", move || {
            self.seen.requests.lock().unwrap().len() >= count
        })
    }

    #[track_caller]
    pub fn has_no_connection(&self) -> impl Future<Output = ()> + '_ {
        eventually("all connections of the origin closed", || self.open() == 0)
    }
}

/// A connection at the origin. `None` and silence when the peer is gone.
pub struct Conn {
    pub stream: TcpStream,
    seen: Arc<Seen>,
    buffer: Vec<u8>,
}

impl Conn {
    async fn fill(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(1..) => Some(()),
            _ => None,
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill().await?;
        }
    }

    async fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(':')?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The head of the next request.
    pub async fn request(&mut self) -> Option<Head> {
        let line = self.line().await?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let head = Head {
            method,
            target,
            headers: self.fields().await?,
        };
        self.seen.requests.lock().unwrap().push(head.clone());
        Some(head)
    }

    /// The body that belongs to `head`; `None` when it broke off.
    pub async fn content(&mut self, head: &Head) -> Option<Content> {
        let mut content = Content::default();
        if head.header("transfer-encoding") == "chunked" {
            loop {
                let size = usize::from_str_radix(&self.line().await?, 16).ok()?;
                if size == 0 {
                    content.trailers = self.fields().await?;
                    return Some(content);
                }
                while self.buffer.len() < size + 2 {
                    self.fill().await?;
                }
                content.data.extend(self.buffer.drain(..size));
                self.buffer.drain(..2);
            }
        }
        let length: usize = head.header("content-length").parse().unwrap_or(0);
        while self.buffer.len() < length {
            self.fill().await?;
        }
        content.data = self.buffer.drain(..length).collect();
        Some(content)
    }

    /// Answers with a length. Errors are left to whoever reads next.
    pub async fn reply(&mut self, status: u16, headers: &[(&str, &str)], body: &str) {
        let mut text = format!(
            "HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        self.send(format!("{text}\r\n{body}")).await;
    }

    /// A peer that is gone does not matter here: the next read says so.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Resolves once the peer has gone. What it sends meanwhile is kept.
    pub async fn left(&mut self) {
        while self.fill().await.is_some() {}
    }

    /// Bytes that came and were not read, for protocols that follow a request.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.buffer)
    }
}
