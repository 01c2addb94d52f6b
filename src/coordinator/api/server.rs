//! The socket of the worker's interface: connections, with or without TLS, none of which can hold
//! on to anything for ever.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls_acme::acme::ACME_TLS_ALPN_NAME;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::Peer;

/// What a connection may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, and between two requests.
    pub keep_alive: Duration,
    /// A connection older than this takes no further request.
    pub age: Duration,
    /// Open at one time; others wait in the system's queue.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            keep_alive: Duration::from_secs(30),
            age: Duration::from_secs(300),
            connections: 1024,
        }
    }
}

/// After [`Limits::age`], and when the process is to end: for the answer under way.
const LAST_ANSWER: Duration = Duration::from_secs(15);
/// After an error that is not of one connection: out of file descriptors, out of memory.
const BREATH: Duration = Duration::from_millis(100);

/// A socket that is served.
pub struct Server {
    pub listener: TcpListener,
    /// `None`: plain text.
    pub tls: Option<Arc<ServerConfig>>,
    pub limits: Limits,
}

impl Server {
    /// # Errors
    /// The address is in use, not ours, or not permitted.
    pub fn bind(at: SocketAddr, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let socket = crate::net::listen::bind(at, 1, Default::default())?.swap_remove(0);
        Ok(Self {
            listener: TcpListener::from_std(socket)?,
            tls,
            limits: Limits::default(),
        })
    }

    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until told to stop, or until whoever could tell is gone. Connections finish the
    /// answer they are at.
    pub async fn run(self, router: Router, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let tls = self.tls.map(TlsAcceptor::from);
        loop {
            let accepting = async {
                // A place first: what is accepted and then left alone would look served.
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                both = accepting => both,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = Connection {
                        peer,
                        router: router.clone(),
                        limits: self.limits,
                        stop: stop.clone(),
                    };
                    let tls = tls.clone();
                    tokio::spawn(async move {
                        connection.serve(stream, tls).await;
                        drop(place);
                    });
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    warn!(%error, "the worker's interface cannot accept connections");
                    sleep(BREATH).await;
                }
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

struct Connection {
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // Answers are small and written at once; waiting for more to send only delays them.
        stream.set_nodelay(true).ok();
        let Some(tls) = tls else {
            return self.http(stream).await;
        };
        let peer = self.peer;
        match timeout(self.limits.handshake, tls.accept(stream)).await {
            // A certificate authority has seen what it came for (RFC 8737 section 3).
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS_ALPN_NAME) => {}
            Ok(Ok(stream)) => self.http(stream).await,
            Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => debug!(%peer, "deadline \"handshake\" fired"),
        }
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut self, stream: S) {
        let router = self.router.layer(Extension(Peer(self.peer)));
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.keep_alive)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let mut serving = pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = async {
                tokio::select! {
                    () = sleep(self.limits.age) => {}
                    _ = self.stop.wait_for(|stop| *stop) => {}
                }
            } => {
                serving.as_mut().graceful_shutdown();
                match timeout(LAST_ANSWER, serving).await {
                    Ok(ended) => ended,
                    Err(_) => return debug!(peer = %self.peer, "deadline \"last answer\" fired"),
                }
            }
        };
        if let Err(error) = ended {
            debug!(peer = %self.peer, %error, "connection to the worker's interface broke off");
        }
    }
}
