//! Telling the connections of one thread that they are to end.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Begins once and stays begun. Every connection looks at it each time it is polled, so looking
/// costs a load and no lock; that is what sets it apart from a cancellation token.
#[derive(Clone, Debug, Default)]
pub struct Drain(Rc<State>);

#[derive(Debug, Default)]
struct State {
    begun: Cell<bool>,
    waiting: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Drain {
    pub fn begin(&self) {
        self.0.begun.set(true);
        let waiting = std::mem::take(&mut *self.0.waiting.borrow_mut());
        waiting.wakers.into_iter().flatten().for_each(Waker::wake);
    }

    pub fn has_begun(&self) -> bool {
        self.0.begun.get()
    }

    /// Resolves once draining has begun. To be polled by one task only: it is that task's waker
    /// that is kept, from the first poll on.
    pub fn begun(&self) -> Begun {
        Begun {
            drain: self.clone(),
            slot: None,
        }
    }
}

/// See [`Drain::begun`].
#[derive(Debug)]
pub struct Begun {
    drain: Drain,
    slot: Option<usize>,
}

impl Future for Begun {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.has_begun() {
            return Poll::Ready(());
        }
        if self.slot.is_none() {
            let slot = {
                let mut slots = self.drain.0.waiting.borrow_mut();
                let waker = Some(cx.waker().clone());
                match slots.free.pop() {
                    Some(slot) => {
                        slots.wakers[slot] = waker;
                        slot
                    }
                    None => {
                        slots.wakers.push(waker);
                        slots.wakers.len() - 1
                    }
                }
            };
            self.slot = Some(slot);
        }
        Poll::Pending
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Once draining has begun the slots are gone.
        if let (Some(slot), false) = (self.slot, self.drain.has_begun()) {
            let mut slots = self.drain.0.waiting.borrow_mut();
            slots.wakers[slot] = None;
            slots.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_wait_are_woken_and_latecomers_do_not_wait() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let drain = Drain::default();
                drop(drain.begun());
                let gone = drain.begun();
                let waiting = tokio::task::spawn_local(drain.begun());
                tokio::task::yield_now().await;
                drop(gone);
                assert!(!waiting.is_finished());
                drain.begin();
                waiting.await.unwrap();
                drain.begun().await;
            })
            .await;
    }
}
