//! One stream of a connection of HTTP/2: a request, and its answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::oneshot;

use crate::http::body::{Body, BodyError};
use crate::http::connection_manager::Connection;
use crate::http::date;
use crate::http::serve_request::{self, Refused};
use crate::http::upgrade::Downstream;
use crate::net::http2::{Received, Tunnel, Wanted};
use crate::upstream::body::Incoming;

/// Serves a stream to its end. Whatever ends it before its answer is whole lets go of all it has,
/// and so of the endpoint's connection: the client's reset, or the end of its connection.
pub async fn serve(
    connection: Rc<Connection>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (parts, receive) = request.into_parts();
    let mut tunnel = None;
    let mut wanted = None;
    let mut downstream = None;
    let body = if parts.method == Method::CONNECT {
        if length(&parts.headers).is_some_and(|length| length > 0) {
            // What follows is no body (RFC 9110 section 9.3.6).
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
        let (tell, told) = oneshot::channel();
        tunnel = Some((tell, receive));
        downstream = Some(Downstream::Stream(told));
        Received::default()
    } else if receive.is_end_stream() {
        // Most requests: no more is asked of the stream, each time under its lock.
        Received::default()
    } else {
        let body = Received::new(receive, length(&parts.headers));
        match waits(&parts.headers) {
            true => body.telling(Rc::clone(wanted.insert(Rc::new(Wanted::default())))),
            false => body,
        }
    };
    let answer = {
        let body = Incoming::Http2(body);
        let connection = Rc::clone(&connection);
        // Given back when there is an answer, whose body may last for long.
        let mut handling = Box::pin(serve_request::handle(connection, parts, body, downstream));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = handling.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            if wanted.as_ref().is_some_and(|w| w.poll(cx).is_ready()) {
                wanted = None;
                let mut go_on = Response::new(());
                *go_on.status_mut() = StatusCode::CONTINUE;
                // It fails only for a stream that is gone, which is seen in a moment.
                respond.send_informational(go_on).ok();
            }
            respond.poll_reset(cx).map(|_| None)
        })
        .await
    };
    let response = match answer {
        None => return tracing::debug!("the client has left a stream"),
        Some(Ok(response)) => response,
        Some(Err(Refused::Reset)) => return respond.send_reset(Reason::INTERNAL_ERROR),
        Some(Err(Refused::Malformed)) => {
            connection.malformed();
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
    };
    let (mut head, mut body) = response.into_parts();
    complete(&mut head.headers);
    if head.status.is_success()
        && let Some((tell, receive)) = tunnel
    {
        // There is none (RFC 9110 section 9.3.6).
        head.headers.remove(CONTENT_LENGTH);
        let nobody = tell.is_closed();
        match respond.send_response(Response::from_parts(head, ()), nobody) {
            Ok(send) if !nobody => {
                tell.send(Tunnel::new(send, receive)).ok();
            }
            Ok(_) => {}
            Err(error) => refused(&mut respond, &error),
        }
        return;
    }
    let ended = body.is_end_stream();
    if !ended
        && let Some(length) = body.size_hint().exact()
        && !head.headers.contains_key(CONTENT_LENGTH)
    {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    match respond.send_response(Response::from_parts(head, ()), ended) {
        Ok(_) if ended => {}
        Ok(stream) => {
            let mut sending = Sending {
                stream,
                waiting: None,
            };
            if let Err(broken) = poll_fn(|cx| sending.poll(&mut body, cx)).await {
                tracing::debug!(%broken, "an answer broke off");
            }
        }
        Err(error) => refused(&mut respond, &error),
    }
}

/// What a head says of its body; the codec has seen to it that it says one thing.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a client wants to be told to go on before it sends a body.
fn waits(headers: &HeaderMap) -> bool {
    let expect = headers.get(EXPECT);
    expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The codec does not take the head of an answer, or the stream is gone.
fn refused(respond: &mut SendResponse<Bytes>, error: &h2::Error) {
    tracing::debug!(%error, "an answer could not be sent");
    respond.send_reset(Reason::INTERNAL_ERROR);
}

/// What describes a connection has no place in HTTP/2 (RFC 9113 section 8.2.2), and an origin's
/// answer has a date (RFC 9110 section 6.6.1).
fn complete(headers: &mut HeaderMap) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    // In one pass: hardly any answer has one of them, and each lookup hashes a name.
    let (mut of_connection, mut dated) = (false, false);
    for name in headers.keys() {
        match name.as_str().len() {
            2 => of_connection |= name == TE,
            4 => dated |= name == DATE,
            7 => of_connection |= name == UPGRADE,
            10 => of_connection |= name == CONNECTION || name == KEEP_ALIVE,
            16 => of_connection |= name == PROXY_CONNECTION,
            17 => of_connection |= name == TRANSFER_ENCODING,
            _ => {}
        }
    }
    if of_connection {
        for name in [
            TE,
            UPGRADE,
            CONNECTION,
            KEEP_ALIVE,
            PROXY_CONNECTION,
            TRANSFER_ENCODING,
        ] {
            headers.remove(name);
        }
    }
    if !dated {
        headers.insert(DATE, date::now());
    }
}

/// Why a body did not get to its end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("reset by the client")]
    Reset,
    #[error("{0}")]
    Codec(#[from] h2::Error),
    #[error("{0}")]
    Body(BodyError),
    #[error("the client has taken nothing for too long")]
    Stalled,
}

/// Sends a body as fast as the client takes it.
struct Sending {
    stream: SendStream<Bytes>,
    /// What the client has no room for yet, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl Sending {
    fn poll(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if let Some((data, last)) = self.waiting.take() {
                if !data.is_empty() && self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => self.waiting = Some((data, last)),
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                        Poll::Ready(None) => return Poll::Ready(Err(Broken::Reset)),
                        Poll::Pending => {
                            self.waiting = Some((data, last));
                            ready!(body.poll_stalled(cx));
                            self.stream.send_reset(Reason::CANCEL);
                            return Poll::Ready(Err(Broken::Stalled));
                        }
                    }
                    continue;
                }
                self.stream.send_data(data, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(Ok(_)) => Poll::Ready(Err(Broken::Reset)),
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                        Poll::Pending => Poll::Pending,
                    };
                }
                Poll::Ready(None) => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => {
                    // Never an end that could be taken for one.
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(Broken::Body(error)));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if !data.is_empty() {
                            // As little as will do, and only now: what is asked for is kept from
                            // other streams. The codec asks for the rest once it has the data.
                            self.stream.reserve_capacity(1);
                        }
                        self.waiting = Some((data, body.is_end_stream()));
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            // No more data: others may have the room.
                            self.stream.reserve_capacity(0);
                            self.stream.send_trailers(trailers)?;
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
            }
        }
    }
}
