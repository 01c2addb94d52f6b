//! One stream of a connection of HTTP/2: a request, and its answer.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::oneshot;

use crate::http::body::Body;
use crate::http::connection_manager::Connection;
use crate::http::date;
use crate::http::serve_request::{self, Refused};
use crate::http::upgrade::Downstream;
use crate::net::Incoming;
use crate::net::http2::{Received, Sending, Signal, Tunnel, length, strip};

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
            true => body.telling(Arc::clone(wanted.insert(Arc::new(Signal::default())))),
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
            let mut sending = Sending::new(stream);
            if let Err(broken) = poll_fn(|cx| sending.poll(&mut body, Body::poll_stalled, cx)).await
            {
                tracing::debug!(%broken, "an answer broke off");
            }
        }
        Err(error) => refused(&mut respond, &error),
    }
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

/// An origin's answer has a date (RFC 9110 section 6.6.1), and no answer over HTTP/2 what describes a
/// connection.
fn complete(headers: &mut HeaderMap) {
    let mut dated = false;
    strip(headers, |name| dated |= name == DATE);
    if !dated {
        headers.insert(DATE, date::now());
    }
}
