//! The body of a request on its way up.

mod kept;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::Reason;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use self::kept::Reader;
pub use self::kept::{Kept, Piece};
use crate::filter::body::{BodyError, BodySlot, BoxBody, Whole};
use crate::net::http2::Breaks;
use crate::net::{Incoming, WireError};

/// What both directions of a stream note down while they move, for its idle deadline, its access
/// log and its retry decision. One per stream, on one thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Moves with every frame, either way.
    pub ticks: Cell<u32>,
    /// Body bytes from the client.
    pub received: Cell<u64>,
    /// Body bytes to the client.
    pub sent: Cell<u64>,
    /// The client's body has ended. Set by [`Progress::end_request`].
    pub request_ended: Cell<bool>,
    /// What follows the client's body is not passed on.
    pub drop_trailers: Cell<bool>,
    /// Somebody asks when it ended.
    pub timed: Cell<bool>,
    pub request_ended_at: Cell<Option<Instant>>,
    /// Who wants to know of that end: it may be seen by the upstream connection's task, and the route's
    /// timeout starts there.
    on_end: RefCell<Option<Waker>>,
    /// The client's body has broken off.
    pub request_broken: Cell<bool>,
}

impl Progress {
    pub fn end_request(&self) {
        if self.request_ended.replace(true) {
            return;
        }
        if self.timed.get() {
            self.request_ended_at.set(Some(Instant::now()));
        }
        if let Some(waker) = self.on_end.take() {
            waker.wake();
        }
    }

    pub fn wake_at_end(&self, waker: &Waker) {
        *self.on_end.borrow_mut() = Some(waker.clone());
    }

    pub fn tick(&self) {
        self.ticks.set(self.ticks.get().wrapping_add(1));
    }

    /// Takes a frame of the client's body to account; `ended` if it is the last.
    fn note(&self, frame: Option<&Result<Frame<Bytes>, Lost>>, ended: bool) {
        self.tick();
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.received.set(self.received.get() + data.len() as u64);
                }
                if ended {
                    self.end_request();
                }
            }
            Some(Err(_)) => self.request_broken.set(true),
            None => self.end_request(),
        }
    }
}

/// The body of a request as it comes from the client, or as filters have left it. Takes what the
/// client sends to account.
pub enum ClientBody {
    Direct(Incoming, Rc<Progress>),
    Filtered(BoxBody, Rc<Progress>),
}

impl std::fmt::Debug for ClientBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Direct(..) => "Direct",
            Self::Filtered(..) => "Filtered",
        })
    }
}

impl ClientBody {
    pub fn new(inner: Incoming, progress: Rc<Progress>) -> Self {
        progress.request_ended.set(inner.is_end_stream());
        Self::Direct(inner, progress)
    }

    /// One that had come whole, and is there again for another stream, whose `progress` it is.
    pub fn again(pieces: Vec<Piece>, progress: Rc<Progress>) -> Self {
        let body = match pieces.is_empty() {
            true => Whole::default().boxed(),
            false => Box::pin(Kept::whole(pieces).read().map_err(BodyError::new)),
        };
        Self::Filtered(body, progress)
    }

    fn progress(&self) -> &Rc<Progress> {
        match self {
            Self::Direct(_, progress) | Self::Filtered(_, progress) => progress,
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Lost;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        match &mut *self {
            Self::Direct(inner, progress) => {
                let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
                let frame = frame.map(|frame| frame.map_err(Lost::Client));
                progress.note(frame.as_ref(), inner.is_end_stream());
                if progress.drop_trailers.get() && matches!(&frame, Some(Ok(f)) if f.is_trailers())
                {
                    // They are last.
                    return Poll::Ready(None);
                }
                Poll::Ready(frame)
            }
            Self::Filtered(body, progress) => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                if let Some(Err(_)) = &frame {
                    progress.request_broken.set(true);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Lost::Filtered)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(inner, _) => inner.is_end_stream(),
            Self::Filtered(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Direct(inner, _) => inner.size_hint(),
            Self::Filtered(body, _) => body.size_hint(),
        }
    }
}

impl BodySlot for ClientBody {
    fn is_end(&self) -> bool {
        self.is_end_stream()
    }

    fn take(&mut self) -> BoxBody {
        let progress = Rc::clone(self.progress());
        let empty = Self::Filtered(Whole::default().boxed(), progress);
        match std::mem::replace(self, empty) {
            Self::Filtered(body, _) => body,
            direct => Box::pin(direct.map_err(BodyError::new)),
        }
    }

    fn put(&mut self, body: BoxBody) {
        *self = Self::Filtered(body, Rc::clone(self.progress()));
    }
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("client: {0}")]
    Client(#[from] WireError),
    #[error("client: {0}")]
    Filtered(BodyError),
    /// Another attempt sends it now.
    #[error("the request is sent again elsewhere")]
    Superseded,
}

impl Breaks for Lost {
    /// What the client says, unless many take it for an end (RFC 9113 section 8.1).
    fn reason(&self) -> Reason {
        let said = match self {
            Self::Client(WireError::Http2(error)) => error.reason(),
            _ => None,
        };
        said.filter(|said| !matches!(*said, Reason::NO_ERROR | Reason::CANCEL))
            .unwrap_or(Reason::INTERNAL_ERROR)
    }
}

/// Streams the client's body, counting.
#[derive(Debug)]
pub struct RequestBody(Source);

#[derive(Debug)]
enum Source {
    Empty,
    Stream(ClientBody),
    Kept(Reader),
    Boxed(Unsync),
}

impl RequestBody {
    pub fn streaming(inner: ClientBody) -> Self {
        match inner.is_end_stream() {
            true => Self::empty(),
            false => Self(Source::Stream(inner)),
        }
    }

    /// The body of a call of a filter.
    pub fn boxed(body: BoxBody) -> Self {
        Self(Source::Boxed(Unsync(body)))
    }

    fn kept(reader: Reader) -> Self {
        Self(Source::Kept(reader))
    }

    pub fn empty() -> Self {
        Self(Source::Empty)
    }
}

struct Unsync(BoxBody);

impl std::fmt::Debug for Unsync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Boxed")
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Lost;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        match &mut self.0 {
            Source::Empty => Poll::Ready(None),
            Source::Stream(inner) => Pin::new(inner).poll_frame(cx),
            Source::Kept(reader) => reader.poll(cx),
            Source::Boxed(body) => {
                let frame = ready!(body.0.as_mut().poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Lost::Filtered)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty => true,
            Source::Stream(inner) => inner.is_end_stream(),
            Source::Kept(reader) => reader.is_end_stream(),
            Source::Boxed(body) => body.0.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Empty => SizeHint::with_exact(0),
            Source::Stream(inner) => inner.size_hint(),
            Source::Kept(reader) => reader.size_hint(),
            Source::Boxed(body) => body.0.size_hint(),
        }
    }
}
