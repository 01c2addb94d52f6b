//! What comes from a peer of HTTP, whichever version it speaks.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::http2::{Received, Tunnel};
use super::lent::Lent;
use super::{Heard, Io};

/// The body of a message, as its codec hands it over.
#[derive(Debug)]
pub enum Incoming {
    Http1(hyper::body::Incoming),
    Http2(Received),
}

/// What a codec says of a message that broke off, or of one that could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl WireError {
    /// Whether the peer has seen nothing of the request and said so: it refused the stream, or ended
    /// its connection with a GOAWAY that leaves it out (RFC 9113 section 8.7).
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(error) => {
                error.reason() == Some(h2::Reason::REFUSED_STREAM)
                    || (error.is_go_away() && error.is_remote())
            }
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        let frame =
            match self.get_mut() {
                Self::Http1(body) => ready!(Pin::new(body).poll_frame(cx))
                    .map(|frame| frame.map_err(WireError::Http1)),
                Self::Http2(body) => ready!(Pin::new(body).poll_frame(cx))
                    .map(|frame| frame.map_err(WireError::Http2)),
            };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// There is no tunnel, although there was an answer that opens one.
#[derive(Debug, thiserror::Error)]
pub enum NotSwitched {
    #[error(transparent)]
    Connection(#[from] hyper::Error),
    #[error("the peer has left")]
    Stream,
}

/// The end of a tunnel at an endpoint, once it has switched.
#[derive(Debug)]
pub enum Switching {
    /// A connection of HTTP/1, which its codec still has.
    Connection(OnUpgrade),
    /// A stream of HTTP/2; `None` if it was none of a CONNECT.
    Stream(Option<Tunnel>),
}

impl Switching {
    /// Of an answer that opens a tunnel; what is left of it is its head.
    pub fn of(answer: &mut Response<Incoming>) -> Self {
        match answer.body_mut() {
            Incoming::Http2(body) => Self::Stream(body.take_tunnel()),
            Incoming::Http1(_) => Self::Connection(hyper::upgrade::on(answer)),
        }
    }

    /// The end, and what was read of it already.
    ///
    /// # Errors
    /// [`NotSwitched`]
    pub async fn switched(self) -> Result<(Io, Bytes), NotSwitched> {
        match self {
            Self::Connection(upgrade) => {
                let upgraded = upgrade.await?.downcast::<TokioIo<Heard<Lent<Io>>>>();
                // It is what the codec was given.
                let parts = upgraded.map_err(|_| NotSwitched::Stream)?;
                let lent = parts.io.into_inner().into_inner();
                let io = lent.into_inner().ok_or(NotSwitched::Stream)?;
                Ok((io, parts.read_buf))
            }
            Self::Stream(tunnel) => {
                let tunnel = tunnel.ok_or(NotSwitched::Stream)?;
                Ok((Io::Tunnel(Box::new(tunnel)), Bytes::new()))
            }
        }
    }
}
