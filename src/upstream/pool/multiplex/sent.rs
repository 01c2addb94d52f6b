//! A request on a stream of HTTP/2.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response};
use http_body::Body as _;

use crate::net::Incoming;
use crate::net::http2::{Received, Sending, length, strip};
use crate::upstream::body::RequestBody;
use crate::upstream::pool::SendError;

/// A request that is on its way, until the head of its answer has come. Dropped before that, it
/// cancels its stream.
pub struct Sent(Result<Stream, Option<SendError>>);

struct Stream {
    answer: ResponseFuture,
    /// What is left of the body.
    upload: Option<Upload>,
    /// Of a CONNECT: our half, for the tunnel.
    half: Option<SendStream<Bytes>>,
}

struct Upload {
    sending: Sending,
    body: RequestBody,
}

impl Upload {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A peer that takes nothing is found out by the deadlines of the exchange.
        let stalled = |_: &mut RequestBody, _: &mut Context<'_>| Poll::Pending;
        let sent = ready!(self.sending.poll(&mut self.body, stalled, cx));
        if let Err(error) = sent {
            // Whoever waits for the answer hears of it.
            tracing::debug!(%error, "a request broke off");
        }
        Poll::Ready(())
    }
}

impl Sent {
    /// Hands a request to the codec. Its stream begins with the next turn of the connection's task.
    pub(super) fn begin(sender: &mut SendRequest<Bytes>, request: Request<RequestBody>) -> Self {
        let (mut head, body) = request.into_parts();
        strip(&mut head.headers, |_| ());
        let connect = head.method == Method::CONNECT;
        let ended = !connect && body.is_end_stream();
        if let Some(length) = body.size_hint().exact()
            && (length > 0 || means_something(&head.method))
        {
            let told = head.headers.entry(CONTENT_LENGTH);
            told.or_insert_with(|| HeaderValue::from(length));
        }
        match sender.send_request(Request::from_parts(head, ()), ended) {
            Ok((answer, stream)) => {
                let (upload, half) = match (connect, ended) {
                    (true, _) => (None, Some(stream)),
                    (false, true) => (None, None),
                    (false, false) => {
                        let sending = Sending::new(stream);
                        (Some(Upload { sending, body }), None)
                    }
                };
                Self(Ok(Stream {
                    answer,
                    upload,
                    half,
                }))
            }
            Err(error) => Self::failed(SendError {
                error: error.into(),
                unsent: None,
            }),
        }
    }

    /// One that came to nothing.
    pub(super) fn failed(error: SendError) -> Self {
        Self(Err(Some(error)))
    }
}

/// Whether a body is what a request of that method is about (RFC 9110 section 9.3), so that its
/// absence is worth a word.
fn means_something(method: &Method) -> bool {
    let plain = [Method::GET, Method::HEAD, Method::DELETE, Method::CONNECT];
    !plain.contains(method)
}

impl Future for Sent {
    type Output = Result<Response<Incoming>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = match &mut self.0 {
            Ok(stream) => stream,
            Err(error) => {
                return match error.take() {
                    Some(error) => Poll::Ready(Err(error)),
                    // Polled again after its end.
                    None => Poll::Pending,
                };
            }
        };
        if let Some(upload) = &mut stream.upload
            && upload.poll(cx).is_ready()
        {
            stream.upload = None;
        }
        let answer = ready!(Pin::new(&mut stream.answer).poll(cx)).map_err(|error| SendError {
            error: error.into(),
            unsent: None,
        })?;
        let (head, receive) = answer.into_parts();
        let body = if let Some(half) = stream.half.take() {
            // What follows an answer that opens a tunnel is no body, whatever its head says.
            let refused = !head.status.is_success();
            let length = length(&head.headers).filter(|_| refused);
            Received::new(receive, length).answering(half)
        } else {
            // What is left goes up whatever becomes of the answer: both may wait for each other.
            let upload = stream.upload.take().map(|mut upload| {
                let sending = tokio::task::spawn_local(poll_fn(move |cx| upload.poll(cx)));
                sending.abort_handle()
            });
            match (receive.is_end_stream(), upload) {
                (true, _) => Received::default(),
                (false, None) => Received::new(receive, length(&head.headers)),
                (false, Some(upload)) => {
                    Received::new(receive, length(&head.headers)).uploading(upload)
                }
            }
        };
        Poll::Ready(Ok(Response::from_parts(head, Incoming::Http2(body))))
    }
}
