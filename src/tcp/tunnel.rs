//! Tunnels to endpoints: the bytes of a connection travel in a CONNECT (RFC 9110 section 9.3.6, and
//! RFC 9113 section 8.5 over HTTP/2), or as the bodies of a POST and of its answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;

use super::log::Log;
use crate::error::{Failure, ResponseFlag};
use crate::filter::body::BodyError;
use crate::http::suit;
use crate::net::body::{self, BodyStream, Trailers};
use crate::net::{Io, Switching};
use crate::snapshot::Tunneling;
use crate::snapshot::tunneling::{RESPONSE_HEADERS, fields};
use crate::upstream::body::RequestBody;
use crate::upstream::pool::{self, About, Lease};
use crate::upstream::{ConnectError, Endpoint, Protocol, Transport, Via};

/// How long an endpoint may take to open a tunnel, beyond what the cluster allows for a connection:
/// it has to connect as well.
const ANSWER: Duration = Duration::from_secs(15);

/// A tunnel that is open.
pub struct Tunnel {
    pub io: Io,
    /// What was read of it already.
    pub early: Bytes,
    /// Where the trailers of the answer will be, if they are wanted.
    pub trailers: Option<Trailers>,
    pub about: About,
    /// Counts its connection, and has to live as long as the tunnel.
    pub lease: Lease,
}

/// Why there is none.
pub enum Refused {
    Unconnected(ConnectError),
    /// The endpoint does not want to, or it said nothing in time.
    Unopened(Failure),
    /// There is no such place to ask for.
    Nowhere(Failure),
}

impl Refused {
    /// Whether another endpoint may do better.
    pub fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Unconnected(error) => error.is_of_endpoint(),
            Self::Unopened(_) => true,
            Self::Nowhere(_) => false,
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unconnected(error) => error.into(),
            Refused::Unopened(failure) | Refused::Nowhere(failure) => failure,
        }
    }
}

/// Opens a tunnel through an endpoint.
///
/// # Errors
/// See [`Refused`].
pub async fn open(
    tunneling: &Tunneling,
    endpoint: &Arc<Endpoint>,
    transport: &Arc<Transport>,
    via: Option<&Rc<Via>>,
    log: &Log,
) -> Result<Tunnel, Refused> {
    let failed = |details: &'static str, cause: String| {
        let (status, flag) = (
            StatusCode::SERVICE_UNAVAILABLE,
            ResponseFlag::UpstreamConnectFailure,
        );
        Failure::local(status, flag, details).because(cause)
    };
    let mut head = tunneling.request(log, log.state()).map_err(|host| {
        let cause = format!("tunneling_config.hostname came to {host:?}");
        Refused::Nowhere(failed("tunnel_host_invalid", cause))
    })?;
    // Over HTTP/1 a tunnel has a connection to itself, so that an idle one gains nothing but the
    // doubt whether it still stands.
    let fresh = matches!(transport.protocol, Protocol::Http1);
    let mut lease = pool::checkout(endpoint, transport, via, fresh)
        .await
        .map_err(Refused::Unconnected)?;
    suit(&mut head, lease.is_http2());
    let (body, sender) = match tunneling.is_post() {
        true => {
            let (sender, written) = body::written();
            let written = Box::pin(written.map_err(BodyError::new));
            (RequestBody::boxed(written), Some(sender))
        }
        false => (RequestBody::empty(), None),
    };
    let sent = lease.send(Request::from_parts(head, body));
    let limit = transport.connect_timeout.max(ANSWER);
    let answer = async {
        let mut response = sent.await.map_err(|error| {
            let cause = format!("{endpoint}: {}", error.error);
            failed("tunnel_broken", cause)
        })?;
        let status = response.status();
        if tunneling.keeps_headers {
            let told = fields(Some(status), response.headers());
            log.state().set_object(RESPONSE_HEADERS, told);
        }
        // Over HTTP/2 there is one answer that opens a tunnel; over HTTP/1 any success does.
        let opened = match lease.is_http2() {
            true => status == StatusCode::OK,
            false => status.is_success(),
        };
        if !opened {
            return Err(failed("tunnel_refused", format!("{endpoint}: {status}")));
        }
        if let Some(sender) = sender {
            let trailers = tunneling.keeps_trailers.then(Trailers::default);
            let incoming = response.into_body();
            let stream = BodyStream::new(sender, incoming, trailers.clone());
            return Ok((Io::Body(Box::new(stream)), Bytes::new(), trailers));
        }
        let switched = Switching::of(&mut response).switched().await;
        let broken = |error| failed("tunnel_broken", format!("{endpoint}: {error}"));
        let (io, early) = switched.map_err(broken)?;
        Ok((io, early, None))
    };
    let (io, early, trailers) = match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(Refused::Unopened)?,
        Err(_) => {
            let cause = format!("{endpoint}: tunnel_answer ({limit:?}) fired");
            return Err(Refused::Unopened(failed("tunnel_timeout", cause)));
        }
    };
    let about = lease.about();
    Ok(Tunnel {
        io,
        early,
        trailers,
        about,
        lease,
    })
}
