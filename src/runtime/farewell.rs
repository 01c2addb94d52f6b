//! A last word before a data thread ends.
//!
//! Draining tells connections to end once their work is done. A tunnel's work has no end, so it is
//! still there when the thread goes; whoever can say goodbye in its protocol is given a moment to.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use super::drain::{Begun, Drain};

thread_local! {
    static ENDING: Rc<Ending> = Rc::default();
}

#[derive(Debug, Default)]
struct Ending {
    begun: Drain,
    guests: Cell<usize>,
    /// The last guest has left.
    empty: Notify,
}

/// Somebody who wants to know when the thread ends, and has something to say then. Waited for until
/// it is dropped.
#[derive(Debug)]
pub struct Guest(Rc<Ending>);

impl Guest {
    /// One more on this thread.
    pub fn enter() -> Self {
        let ending = ENDING.with(Rc::clone);
        ending.guests.set(ending.guests.get() + 1);
        Self(ending)
    }

    /// Resolves once the thread is to end. To be polled by one task only, as with [`Drain::begun`].
    pub fn ending(&self) -> Begun {
        self.0.begun.begun()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let left = self.0.guests.get() - 1;
        self.0.guests.set(left);
        if left == 0 {
            self.0.empty.notify_one();
        }
    }
}

/// Tells the guests of this thread that it ends, and waits for them, for `limit` at most.
pub async fn bid(limit: Duration) {
    let ending = ENDING.with(Rc::clone);
    ending.begun.begin();
    let all_gone = async {
        // It may have been empty before, so hearing of it is not enough.
        while ending.guests.get() > 0 {
            ending.empty.notified().await;
        }
    };
    if tokio::time::timeout(limit, all_gone).await.is_err() {
        tracing::debug!(left = ending.guests.get(), "deadline \"farewell\" fired");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn guests_are_told_and_waited_for() {
        let local = tokio::task::LocalSet::new();
        let told = Rc::new(Cell::new(0));
        local
            .run_until(async {
                // Whoever has gone before is nobody to wait for.
                drop(Guest::enter());
                for _ in 0..3 {
                    let (guest, told) = (Guest::enter(), Rc::clone(&told));
                    tokio::task::spawn_local(async move {
                        guest.ending().await;
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        told.set(told.get() + 1);
                    });
                }
                tokio::task::yield_now().await;
                assert_eq!(told.get(), 0);
                let started = tokio::time::Instant::now();
                bid(Duration::from_secs(60)).await;
                assert_eq!(told.get(), 3);
                let waited = started.elapsed();
                assert_eq!(
                    waited,
                    Duration::from_secs(1),
                    "no longer than for the last"
                );
                let stays = Guest::enter();
                bid(Duration::from_secs(60)).await;
                assert_eq!(started.elapsed() - waited, Duration::from_secs(60));
                drop(stays);
            })
            .await;
    }
}
