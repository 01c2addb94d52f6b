//! Connections of HTTP/1.1 that nobody has wanted for a while are parked: the codec goes with its
//! buffers, and the socket stays. Most sessions are idle most of the time, and most of what an idle
//! connection to each of them takes is buffers.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use causeway_xds::resource::headers::HeaderCase;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use super::MAX_RESPONSE_HEAD;
use super::spared::spared;
use crate::net::lent::{Lent, Loan};
use crate::net::{Heard, Io};
use crate::telemetry::stats::Gauge;
use crate::upstream::Transport;
use crate::upstream::body::RequestBody;

/// How long nobody has to want a connection: to bring it back takes a new codec.
pub(super) const PARK: Duration = Duration::from_secs(1);

/// A codec at work. On the heap, so that it is given back while the connection is parked.
pub(super) struct Codec(Pin<Box<dyn Future<Output = hyper::Result<()>>>>);

/// A codec for a connection, and what it is spoken to by.
///
/// # Errors
/// What the codec says.
pub(super) async fn handshake(
    io: Lent<Io>,
    transport: &Transport,
) -> hyper::Result<(http1::SendRequest<RequestBody>, Codec)> {
    let (sender, connection) = http1::Builder::new()
        .max_header_size(transport.max_response_head.unwrap_or(MAX_RESPONSE_HEAD))
        .title_case_headers(transport.header_case == HeaderCase::Proper)
        .preserve_header_case(transport.header_case == HeaderCase::Preserve)
        .handshake(TokioIo::new(Heard::new(io)))
        .await?;
    let serving = Box::pin(spared(connection.with_upgrades()));
    Ok((sender, Codec(serving)))
}

/// A connection, wherever it is: with its codec, or parked.
#[derive(Default)]
struct Place {
    loan: Arc<Loan<Io>>,
    state: RefCell<State>,
}

#[derive(Default)]
enum State {
    /// A codec has it.
    #[default]
    Served,
    /// The codec has been told to go, or is gone: then the connection has come back.
    Parked(Option<Waker>),
    /// Somebody is making a codec for it.
    Resuming(Option<Waker>),
    /// For the task of the connection.
    Resumed(Codec),
    Over,
}

impl Place {
    fn set(&self, state: State) {
        // Outside of the loan: what is dropped may wake others.
        let before = self.state.replace(state);
        if let State::Parked(Some(waker)) | State::Resuming(Some(waker)) = before {
            waker.wake();
        }
    }
}

/// The pool's end: the connection lasts no longer.
pub(super) struct Handle(Rc<Place>);

impl Handle {
    /// The place of a new connection, and the connection for its codec.
    pub(super) fn new(io: Io) -> (Self, Lent<Io>) {
        let place = Rc::<Place>::default();
        let lent = place.loan.lend(io);
        (Self(place), lent)
    }

    /// The end of the task that runs the connection.
    pub(super) fn driver(&self) -> Driver {
        Driver(Rc::clone(&self.0))
    }

    /// To be followed by the end of the codec's sender.
    pub(super) fn park(&self) {
        self.0.loan.recall();
        self.0.set(State::Parked(None));
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(*self.0.state.borrow(), State::Over)
    }

    /// The parked connection, for a new codec. `None` when it is over, or the codec still has it.
    pub(super) fn take(&self) -> Option<Lent<Io>> {
        let mut state = self.0.state.borrow_mut();
        let State::Parked(waker) = &mut *state else {
            return None;
        };
        let io = self.0.loan.back().take()?;
        *state = State::Resuming(waker.take());
        Some(self.0.loan.lend(io))
    }

    /// The codec for what was taken.
    pub(super) fn resume(&self, codec: Codec) {
        self.0.set(State::Resumed(codec));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let parked = !matches!(*self.0.state.borrow(), State::Served | State::Resumed(_));
        if parked {
            self.0.loan.back().take();
            self.0.set(State::Over);
        }
    }
}

/// The end of the task that runs the connection.
pub(super) struct Driver(Rc<Place>);

impl Driver {
    /// Runs the connection until it ends, with a codec or without.
    ///
    /// # Errors
    /// What the codec says.
    pub(super) async fn run(self, mut codec: Codec, transport: &Transport) -> hyper::Result<()> {
        loop {
            codec.0.await?;
            if !matches!(
                *self.0.state.borrow(),
                State::Parked(_) | State::Resuming(_) | State::Resumed(_)
            ) {
                return Ok(());
            }
            let _parked = Counted::new(&transport.stats.upstream_cx_parked);
            match std::future::poll_fn(|cx| self.poll_parked(cx)).await {
                Some(next) => codec = next,
                None => return Ok(()),
            }
        }
    }

    /// Ready when the connection has a codec again, or `None`: its peer has ended it, or says what
    /// nobody has asked for.
    fn poll_parked(&self, cx: &mut Context<'_>) -> Poll<Option<Codec>> {
        let mut state = self.0.state.borrow_mut();
        match &mut *state {
            State::Parked(waker) => {
                let mut back = self.0.loan.back();
                let Some(io) = &mut *back else {
                    return Poll::Ready(None);
                };
                let mut byte = [0];
                let mut byte = ReadBuf::new(&mut byte);
                if Pin::new(io).poll_read(cx, &mut byte).is_ready() {
                    return Poll::Ready(None);
                }
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Resuming(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Resumed(_) => match std::mem::take(&mut *state) {
                State::Resumed(codec) => Poll::Ready(Some(codec)),
                _ => Poll::Ready(None),
            },
            State::Served | State::Over => Poll::Ready(None),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.loan.back().take();
        // Also when the task is cut off: nobody is to wait for it.
        self.0.state.replace(State::Over);
    }
}

/// Counts a connection while it is parked.
struct Counted<'s>(&'s Gauge);

impl<'s> Counted<'s> {
    fn new(gauge: &'s Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
