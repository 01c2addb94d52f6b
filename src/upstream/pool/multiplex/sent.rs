//! A request on a stream of HTTP/2.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response};
use http_body::Body as _;
use tokio::task::AbortHandle;

use super::link::{Link, Place};
use crate::net::Incoming;
use crate::net::http2::{Received, Sending, Signal, length, strip};
use crate::upstream::body::RequestBody;
use crate::upstream::pool::SendError;

/// How long what is left of a request may take once its answer is whole.
const GRACE: Duration = Duration::from_secs(1);

/// A request that is on its way, until the head of its answer has come. Dropped before that, it
/// cancels its stream.
pub struct Sent(Result<Stream, Option<SendError>>);

struct Stream {
    link: Rc<Link>,
    answer: ResponseFuture,
    /// The answer has no body (HEAD).
    bare: bool,
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

impl Upload {
    /// What is left goes up whatever becomes of the answer: both may wait for each other. Once the
    /// answer is whole, which the signal tells, there is no hurry and nobody who waits: it has
    /// [`GRACE`], and a place of its own.
    fn detach(mut self, link: &Rc<Link>) -> (AbortHandle, Arc<Signal>) {
        let link = Rc::clone(link);
        let whole = Arc::<Signal>::default();
        let told = Arc::clone(&whole);
        let task = tokio::task::spawn_local(async move {
            let sent = poll_fn(|cx| match self.poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => told.poll(cx).map(|()| false),
            });
            if sent.await {
                return;
            }
            let _place = Place::after(&link);
            let rest = poll_fn(|cx| self.poll(cx));
            if tokio::time::timeout(GRACE, rest).await.is_err() {
                tracing::debug!(limit = ?GRACE, "a request was answered and not taken in time");
            }
        });
        (task.abort_handle(), whole)
    }
}

impl Sent {
    /// Hands a request to the codec. Its stream begins with the next turn of the connection's task.
    pub(super) fn begin(
        link: &Rc<Link>,
        sender: &mut SendRequest<Bytes>,
        request: Request<RequestBody>,
    ) -> Self {
        let (mut head, body) = request.into_parts();
        strip(&mut head.headers, |_| ());
        let connect = head.method == Method::CONNECT;
        let bare = head.method == Method::HEAD;
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
                    link: Rc::clone(link),
                    answer,
                    bare,
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
            let ended = receive.is_end_stream();
            let length = length(&head.headers);
            let body = match ended {
                true => Received::default(),
                false => Received::new(receive, length).lingering(stream.bare),
            };
            match stream.upload.take() {
                Some(upload) => {
                    let (task, whole) = upload.detach(&stream.link);
                    if ended {
                        whole.give();
                    }
                    body.uploading(task, whole)
                }
                None => body,
            }
        };
        Poll::Ready(Ok(Response::from_parts(head, Incoming::Http2(body))))
    }
}
