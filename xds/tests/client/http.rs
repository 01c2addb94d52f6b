//! A management server that is polled. The test sees each poll and says what is answered.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use causeway_xds::client::{Connect, Connecting, Io, Server};
use causeway_xds::resource::api_source::Metadata;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

pub struct Polled {
    pub server: Server,
    pub dialer: Arc<Dialer>,
    polls: mpsc::Receiver<Poll>,
}

pub struct Poll {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
    answer: oneshot::Sender<(u16, String)>,
}

#[derive(Debug)]
pub struct Dialer {
    pub dialed: AtomicUsize,
    polls: mpsc::Sender<Poll>,
}

impl Connect for Dialer {
    fn connect(&self) -> Connecting {
        self.dialed.fetch_add(1, SeqCst);
        if self.polls.is_closed() {
            return Box::pin(std::future::ready(Err(
                io::ErrorKind::ConnectionRefused.into()
            )));
        }
        let (near, far) = tokio::io::duplex(64 << 10);
        let polls = self.polls.clone();
        let service = service_fn(move |request| answer(request, polls.clone()));
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
        tokio::spawn(connection);
        Box::pin(std::future::ready(Ok(Box::new(near) as Box<dyn Io>)))
    }
}

/// Ends the connection when nobody answers.
async fn answer(
    request: Request<Incoming>,
    polls: mpsc::Sender<Poll>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    assert_eq!(head.method, Method::POST);
    let body = body.collect().await.unwrap().to_bytes();
    let (sender, answer) = oneshot::channel();
    let poll = Poll {
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap(),
        answer: sender,
    };
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    polls.send(poll).await.map_err(|_| gone())?;
    let (status, body) = answer.await.map_err(|_| gone())?;
    let response = Response::builder().status(status).body(Full::from(body));
    Ok::<_, Infallible>(response.unwrap()).map_err(|never| match never {})
}

impl Polled {
    pub fn start(name: &str) -> Self {
        let (sender, polls) = mpsc::channel(1);
        let dialer = Arc::new(Dialer {
            dialed: AtomicUsize::new(0),
            polls: sender,
        });
        let server = Server {
            name: name.into(),
            connect: dialer.clone(),
            authority: "rest.test".to_owned(),
            secure: false,
            metadata: Metadata::default(),
            max_message: 1 << 20,
            keepalive: None,
        };
        Self {
            server,
            dialer,
            polls,
        }
    }

    pub async fn next(&mut self) -> Poll {
        self.polls.recv().await.unwrap()
    }

    /// The next poll of a type; what others ask for has not changed.
    pub async fn next_of(&mut self, plural: &str) -> Poll {
        loop {
            let poll = self.next().await;
            if poll.path.ends_with(&format!(":{plural}")) {
                return poll;
            }
            poll.answer(304, "");
        }
    }
}

impl Poll {
    pub fn answer(self, status: u16, body: &str) {
        // Who does not wait any more has no use for it.
        let _ = self.answer.send((status, body.to_owned()));
    }
}
