//! Deadlines that cost little.
//!
//! Nearly every deadline of a proxy is far away and never fires. Far ones are kept in a list per
//! thread that is looked through twice a second; near ones, where half a second would show, use
//! the runtime's timer wheel.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Deadlines at least this far away are rounded up to the next sweep.
pub const FAR: Duration = Duration::from_secs(10);
/// How often a data thread looks through its far deadlines.
pub const SWEEP: Duration = Duration::from_millis(500);

struct Far {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// Whether this thread sweeps; without a sweeper every deadline is a near one.
    swept: bool,
}

struct Entry {
    at: Instant,
    /// Found by the sweeper to be over, so that polling need not read the clock.
    due: bool,
    waker: Option<Waker>,
}

thread_local! {
    static FAR_DEADLINES: RefCell<Far> =
        const { RefCell::new(Far { entries: Vec::new(), free: Vec::new(), swept: false }) };
}

/// Wakes what is due. Runs on a data thread until it is dropped.
pub async fn sweep_forever() {
    FAR_DEADLINES.with_borrow_mut(|far| far.swept = true);
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let due: Vec<Waker> = FAR_DEADLINES.with_borrow_mut(|far| {
            let entries = far.entries.iter_mut().flatten();
            let due = entries.filter(|entry| !entry.due && entry.at <= now);
            due.filter_map(|entry| {
                entry.due = true;
                entry.waker.take()
            })
            .collect()
        });
        due.into_iter().for_each(Waker::wake);
    }
}

/// Resolves once its time has come. Can be moved while it runs.
pub struct Deadline(Kind);

enum Kind {
    Never,
    Near(Pin<Box<Sleep>>),
    Far(usize),
}

impl Deadline {
    /// After `after`; zero means never.
    pub fn after(after: Duration) -> Self {
        if after.is_zero() {
            return Self::never();
        }
        let far = after >= FAR;
        let slot = FAR_DEADLINES.with_borrow_mut(|list| {
            (far && list.swept).then(|| list.insert(Instant::now() + after))
        });
        match slot {
            Some(slot) => Self(Kind::Far(slot)),
            None => Self(Kind::Near(Box::pin(tokio::time::sleep(after)))),
        }
    }

    /// After at least `after`, and up to [`SWEEP`] later: the cheapest there is, for what need not
    /// be on time. Zero is not never here.
    pub fn roughly(after: Duration) -> Self {
        let slot = FAR_DEADLINES
            .with_borrow_mut(|list| list.swept.then(|| list.insert(Instant::now() + after)));
        match slot {
            Some(slot) => Self(Kind::Far(slot)),
            None => Self(Kind::Near(Box::pin(tokio::time::sleep(after)))),
        }
    }

    pub const fn never() -> Self {
        Self(Kind::Never)
    }

    /// Starts over, as [`Deadline::roughly`].
    pub fn reset_roughly(&mut self, after: Duration) {
        match &mut self.0 {
            Kind::Far(slot) => restart(*slot, after),
            _ => *self = Self::roughly(after),
        }
    }

    /// Starts over.
    pub fn reset(&mut self, after: Duration) {
        match &mut self.0 {
            Kind::Far(slot) if after >= FAR => restart(*slot, after),
            Kind::Near(sleep) if !after.is_zero() && after < FAR => {
                sleep.as_mut().reset(tokio::time::Instant::now() + after);
            }
            _ => *self = Self::after(after),
        }
    }
}

fn restart(slot: usize, after: Duration) {
    let at = Instant::now() + after;
    FAR_DEADLINES.with_borrow_mut(|far| {
        if let Some(Some(entry)) = far.entries.get_mut(slot) {
            entry.at = at;
            entry.due = false;
        }
    });
}

impl Far {
    fn insert(&mut self, at: Instant) -> usize {
        let entry = Some(Entry {
            at,
            due: false,
            waker: None,
        });
        match self.free.pop() {
            Some(slot) => {
                self.entries[slot] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        }
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Kind::Never => Poll::Pending,
            Kind::Near(sleep) => sleep.as_mut().poll(cx),
            Kind::Far(slot) => FAR_DEADLINES.with_borrow_mut(|far| {
                let Some(Some(entry)) = far.entries.get_mut(*slot) else {
                    return Poll::Ready(());
                };
                if entry.due {
                    return Poll::Ready(());
                }
                match &mut entry.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    empty => *empty = Some(cx.waker().clone()),
                }
                Poll::Pending
            }),
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Kind::Far(slot) = self.0 {
            // At thread exit the list may be gone already.
            FAR_DEADLINES
                .try_with(|far| {
                    if let Ok(mut far) = far.try_borrow_mut() {
                        far.entries[slot] = None;
                        far.free.push(slot);
                    }
                })
                .ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn near_deadlines_fire_and_zero_never_does() {
        Deadline::after(Duration::from_millis(5)).await;
        let never = tokio::time::timeout(Duration::from_millis(20), Deadline::never()).await;
        assert!(never.is_err());
        assert!(matches!(Deadline::after(Duration::ZERO).0, Kind::Never));
    }

    #[tokio::test]
    async fn far_deadlines_use_the_list_and_give_their_slot_back() {
        FAR_DEADLINES.with_borrow_mut(|far| far.swept = true);
        let first = Deadline::after(FAR);
        assert!(matches!(first.0, Kind::Far(0)));
        drop(first);
        let mut second = Deadline::after(FAR);
        assert!(matches!(second.0, Kind::Far(0)), "the slot is used again");
        FAR_DEADLINES.with_borrow_mut(|far| {
            if let Some(Some(entry)) = far.entries.get_mut(0) {
                entry.due = true;
            }
        });
        (&mut second).await;
    }
}
