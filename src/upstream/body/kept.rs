//! Bodies that can be sent more than once.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{ClientBody, Lost, RequestBody};

/// A part of a body that is kept.
#[derive(Clone, Debug)]
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        let data = frame.data_ref().cloned().map(Self::Data);
        data.or_else(|| frame.trailers_ref().cloned().map(Self::Trailers))
    }

    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data.clone()),
            Self::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Trailers(_) => 0,
        }
    }
}

/// What is done with a body once all of it is there.
type WhenWhole = Box<dyn FnOnce(Vec<Piece>)>;

/// A body that can be sent more than once, as long as it does not get too large.
#[derive(Clone, Debug)]
pub struct Kept(Rc<Shared>);

struct Shared {
    /// `None` once it has ended.
    incoming: RefCell<Option<ClientBody>>,
    pieces: RefCell<Vec<Piece>>,
    size: Cell<u64>,
    limit: u64,
    /// Too large: what is there is not the beginning any more.
    given_up: Cell<bool>,
    /// Nobody will want it again.
    released: Cell<bool>,
    /// Which reader is the last; those before it must stop.
    readers: Cell<u32>,
    /// Whoever reads, so that it notices that it must stop.
    waker: RefCell<Option<Waker>>,
    whole: RefCell<Option<WhenWhole>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    shared: Rc<Shared>,
    number: u32,
    next: usize,
}

impl Kept {
    /// Keeps up to `limit` bytes of a body that has not ended.
    pub fn new(incoming: ClientBody, limit: u64) -> Self {
        Self::build(Some(incoming), Vec::new(), limit)
    }

    /// A body that is there already.
    pub fn whole(pieces: Vec<Piece>) -> Self {
        Self::build(None, pieces, u64::MAX)
    }

    fn build(incoming: Option<ClientBody>, pieces: Vec<Piece>, limit: u64) -> Self {
        Self(Rc::new(Shared {
            incoming: RefCell::new(incoming),
            pieces: RefCell::new(pieces),
            size: Cell::new(0),
            limit,
            given_up: Cell::new(false),
            released: Cell::new(false),
            readers: Cell::new(0),
            waker: RefCell::new(None),
            whole: RefCell::new(None),
        }))
    }

    /// Calls `then` when the body has ended, unless it was too large.
    pub fn when_whole(&self, then: impl FnOnce(Vec<Piece>) + 'static) {
        *self.0.whole.borrow_mut() = Some(Box::new(then));
    }

    /// The body from its beginning. Whoever had it before gets an error.
    pub fn read(&self) -> RequestBody {
        let number = self.0.readers.get() + 1;
        self.0.readers.set(number);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
        RequestBody::kept(Reader {
            shared: Rc::clone(&self.0),
            number,
            next: 0,
        })
    }

    /// It is not sent again: what comes from now on is not kept, unless all of it is waited for.
    pub fn release(&self) {
        self.0.released.set(self.0.whole.borrow().is_none());
    }

    /// All of it; `None` when it has not ended, or was too large.
    pub fn all(&self) -> Option<Vec<Piece>> {
        let ended = self.0.incoming.borrow().is_none();
        (ended && !self.0.given_up.get()).then(|| self.0.pieces.borrow().clone())
    }

    /// Whether it is too large to be sent again.
    pub fn is_given_up(&self) -> bool {
        self.0.given_up.get()
    }
}

impl Shared {
    /// The next frame of the client, which is kept.
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        let mut incoming = self.incoming.borrow_mut();
        let Some(inner) = incoming.as_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        let ended = frame.is_none() || inner.is_end_stream();
        if let Some(Ok(frame)) = &frame {
            self.keep(frame);
        }
        if ended {
            *incoming = None;
            drop(incoming);
            let then = self.whole.borrow_mut().take();
            if let Some(then) = then.filter(|_| !self.given_up.get()) {
                then(self.pieces.borrow().clone());
            }
        }
        Poll::Ready(frame)
    }

    /// Called by a reader that has read what was kept before.
    fn keep(&self, frame: &Frame<Bytes>) {
        if self.released.get() {
            return self.pieces.borrow_mut().clear();
        }
        let Some(piece) = Piece::of(frame).filter(|_| !self.given_up.get()) else {
            return;
        };
        let size = self.size.get() + piece.len();
        self.size.set(size);
        if size > self.limit {
            self.given_up.set(true);
            self.pieces.borrow_mut().clear();
            *self.whole.borrow_mut() = None;
        } else {
            self.pieces.borrow_mut().push(piece);
        }
    }
}

impl Reader {
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        let shared = &self.shared;
        if shared.readers.get() != self.number {
            return Poll::Ready(Some(Err(Lost::Superseded)));
        }
        *shared.waker.borrow_mut() = Some(cx.waker().clone());
        let kept = shared.pieces.borrow().get(self.next).map(Piece::frame);
        if let Some(frame) = kept {
            self.next += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = ready!(shared.poll_next(cx));
        // What has just come was put behind what was there.
        self.next = shared.pieces.borrow().len();
        Poll::Ready(frame)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let incoming = self.shared.incoming.borrow();
        self.next >= self.shared.pieces.borrow().len()
            && incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let pieces = self.shared.pieces.borrow();
        let left: u64 = pieces.iter().skip(self.next).map(Piece::len).sum();
        let incoming = self.shared.incoming.borrow();
        let rest = incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(left + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(left + upper);
        }
        hint
    }
}
