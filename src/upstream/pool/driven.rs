//! A connection of HTTP/1 that two may move on: its own task, and the request that asks on it.
//!
//! A connection needs a task of its own to notice its end while it waits in the pool, and to go on
//! with bodies. Until the head of a response is there, though, nobody but the request waits for it: then
//! the request moves the connection on itself, and two changes of tasks are spared, which are a tenth of
//! what a small request costs. The codec knows one waker all its life; whom it wakes changes.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held::Off) };
}

/// What becomes of the wakes of codecs on this thread.
enum Held {
    /// They wake.
    Off,
    /// They wait for a verdict; none has come.
    On,
    Woken(Arc<Wakes>),
}

/// Where the wakes of one connection go.
#[derive(Debug, Default)]
struct Wakes {
    /// A request moves the connection on.
    driven: AtomicBool,
    request: AtomicWaker,
    task: AtomicWaker,
}

impl Wakes {
    fn pass_on(&self) {
        match self.driven.load(Relaxed) {
            true => self.request.wake(),
            false => self.task.wake(),
        }
    }
}

/// The codec's.
impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match HELD.replace(Held::Off) {
            Held::Off => self.pass_on(),
            Held::On => HELD.set(Held::Woken(Arc::clone(self))),
            Held::Woken(before) => {
                if !Arc::ptr_eq(&before, self) {
                    before.pass_on();
                }
                HELD.set(Held::Woken(Arc::clone(self)));
            }
        }
    }
}

/// Of whoever waits for the head of a response.
struct Answered(Arc<Wakes>);

impl Wake for Answered {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.pass_on();
    }
}

/// Keeps wakes from arriving. Lets go of what it holds up, also when a panic ends it: a wake that is
/// lost would hang a connection.
struct HeldUp {
    /// A body that a codec sends may come from another connection.
    before: Held,
}

impl HeldUp {
    fn begin() -> Self {
        let before = HELD.replace(Held::On);
        Self { before }
    }

    /// Wakes nobody; says whether somebody was to be woken.
    fn forget(self) -> bool {
        matches!(HELD.replace(Held::On), Held::Woken(_))
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut self.before, Held::Off);
        if let Held::Woken(wakes) = HELD.replace(before) {
            wakes.wake_by_ref();
        }
    }
}

struct Shared {
    codec: RefCell<Codec>,
    wakes: Arc<Wakes>,
    /// The codec's: [`Wakes`].
    waker: Waker,
    /// [`Answered`].
    answered: Waker,
}

enum Codec {
    Running(Pin<Box<dyn Future<Output = hyper::Result<()>>>>),
    Ended(hyper::Result<()>),
}

impl Shared {
    fn poll(&self) -> Poll<()> {
        let mut codec = self.codec.borrow_mut();
        if let Codec::Running(running) = &mut *codec {
            let result = ready!(running.as_mut().poll(&mut Context::from_waker(&self.waker)));
            *codec = Codec::Ended(result);
        }
        Poll::Ready(())
    }

    fn is_running(&self) -> bool {
        matches!(*self.codec.borrow(), Codec::Running(_))
    }

    /// How it ended. What still runs is cut off.
    fn end(&self) -> hyper::Result<()> {
        let codec = self.codec.replace(Codec::Ended(Ok(())));
        match codec {
            Codec::Running(_) => Ok(()),
            Codec::Ended(result) => result,
        }
    }
}

/// The connection's task. Its end is that of the connection.
pub(super) struct Task(Rc<Shared>);

impl Future for Task {
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = &self.0;
        shared.wakes.task.register(cx.waker());
        if shared.wakes.driven.load(Relaxed) && shared.is_running() {
            // Whoever moves the connection on is awake, or will be.
            return Poll::Pending;
        }
        ready!(shared.poll());
        Poll::Ready(shared.end())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Cut off, maybe in the middle of a request, which learns of it.
        self.0.end().ok();
    }
}

/// A connection that requests can move on.
pub(super) struct Driven(Rc<Shared>);

/// The task of a connection, and what those need who ask on it.
pub(super) fn drive(codec: impl Future<Output = hyper::Result<()>> + 'static) -> (Task, Driven) {
    let wakes = Arc::<Wakes>::default();
    let shared = Rc::new(Shared {
        codec: RefCell::new(Codec::Running(Box::pin(codec))),
        waker: Waker::from(Arc::clone(&wakes)),
        answered: Waker::from(Arc::new(Answered(Arc::clone(&wakes)))),
        wakes,
    });
    (Task(Rc::clone(&shared)), Driven(shared))
}

impl Driven {
    /// Moves the connection on until there is an answer to what `send` sends.
    pub(super) fn ask<F: Future>(&self, send: impl FnOnce() -> F) -> Asking<F> {
        self.0.wakes.driven.store(true, Relaxed);
        let turns = Turns(Some(Rc::clone(&self.0)));
        let held_up = HeldUp::begin();
        let answer = send();
        // The codec is about to have a turn.
        held_up.forget();
        Asking { turns, answer }
    }
}

/// The right to move a connection on; given back when there is an answer, or nobody waits for one.
struct Turns(Option<Rc<Shared>>);

impl Turns {
    fn give_back(&mut self, task_is_needed: bool) {
        if let Some(shared) = self.0.take() {
            shared.wakes.driven.store(false, Relaxed);
            if task_is_needed {
                shared.wakes.task.wake();
            }
        }
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.give_back(true);
    }
}

pin_project! {
    /// A request that waits for the head of its response.
    pub(super) struct Asking<F> {
        turns: Turns,
        #[pin]
        answer: F,
    }
}

impl<F: Future> Future for Asking<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(shared) = &this.turns.0 else {
            return this.answer.poll(cx);
        };
        let held_up = HeldUp::begin();
        let ended = shared.poll().is_ready();
        let another_turn = held_up.forget();
        let answer = this.answer.poll(&mut Context::from_waker(&shared.answered));
        if answer.is_ready() {
            // What the codec waits for wakes the task from now on.
            this.turns.give_back(ended || another_turn);
        } else {
            shared.wakes.request.register(cx.waker());
            if another_turn {
                cx.waker().wake_by_ref();
            }
        }
        answer
    }
}

/// The next frame of an upstream's body. Who reads the connection is not woken when it was the last:
/// it has seen the end of the response when it handed the piece over. (hyper wakes it whenever a piece is
/// taken, so that it reads the next one.)
pub fn poll_frame(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let held_up = HeldUp::begin();
    let frame = Pin::new(&mut *body).poll_frame(cx);
    if body.is_end_stream() {
        held_up.forget();
    }
    frame
}

#[cfg(test)]
mod tests;
