//! How long one attempt may take.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::http::timeouts::Timeouts;
use crate::runtime::timer::Deadline;
use crate::upstream::body::Progress;

const PER_TRY: &str = "upstream_per_try_timeout";
pub const PER_TRY_IDLE: &str = "upstream_per_try_idle_timeout";

/// The limits of one attempt until it is answered (`per_try_timeout`, `per_try_idle_timeout`; zero
/// is none).
pub struct TryClock {
    per_try: Duration,
    idle: Duration,
    /// Starts when the request has ended.
    due: Option<Deadline>,
    idle_due: Option<Deadline>,
    seen: u32,
    last: Instant,
}

impl TryClock {
    pub fn new(timeouts: &Timeouts) -> Self {
        Self {
            per_try: timeouts.per_try,
            idle: timeouts.per_try_idle,
            due: None,
            idle_due: None,
            seen: 0,
            last: Instant::now(),
        }
    }

    /// Ready with the detail word of the limit that was reached.
    pub fn poll(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<&'static str> {
        if !self.per_try.is_zero() {
            if progress.request_ended.get() {
                let per_try = self.per_try;
                let due = self.due.get_or_insert_with(|| Deadline::after(per_try));
                if Pin::new(due).poll(cx).is_ready() {
                    return Poll::Ready(PER_TRY);
                }
            } else {
                progress.wake_at_end(cx.waker());
            }
        }
        if self.idle.is_zero() {
            return Poll::Pending;
        }
        let ticks = progress.ticks.get();
        if ticks != self.seen {
            (self.seen, self.last) = (ticks, Instant::now());
        }
        loop {
            let idle = self.idle;
            let due = self.idle_due.get_or_insert_with(|| Deadline::after(idle));
            std::task::ready!(Pin::new(&mut *due).poll(cx));
            match idle
                .checked_sub(self.last.elapsed())
                .filter(|l| !l.is_zero())
            {
                Some(left) => due.reset(left),
                None => return Poll::Ready(PER_TRY_IDLE),
            }
        }
    }
}
