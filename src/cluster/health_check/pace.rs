//! Checks in the background take turns, so that any number of endpoints costs little.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Between two checks of this kind, of all endpoints together. A connection that is opened and closed
/// again takes some 100 microseconds: fifty in a second are half a percent of a core.
const GAP: Duration = Duration::from_millis(20);

/// Whose turn it is, for the whole process.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Waits until the next check may be made. Who comes first is first, and one that is given up
    /// meanwhile leaves no gap: that is why the lock is held while the time passes.
    pub async fn turn(&self) {
        let mut last = self.0.lock().await;
        if let Some(last) = *last {
            sleep_until(last + GAP).await;
        }
        *last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_apart_and_those_that_are_given_up_take_no_time() {
        let (pace, started) = (Arc::new(Pace::default()), Instant::now());
        pace.turn().await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        let waiting = |n: u32| {
            let pace = Arc::clone(&pace);
            tokio::spawn(async move {
                pace.turn().await;
                n
            })
        };
        let tasks: Vec<_> = (0..10).map(waiting).collect();
        tokio::task::yield_now().await;
        tasks[..8].iter().for_each(tokio::task::JoinHandle::abort);
        for (n, task) in (8..).zip(tasks.into_iter().skip(8)) {
            assert_eq!(task.await.unwrap(), n);
        }
        // Timers go by whole milliseconds.
        let took = started.elapsed();
        assert!(took >= 2 * GAP && took < 3 * GAP, "{took:?}");
        // Nothing is saved up while nobody wants a turn.
        tokio::time::advance(Duration::from_secs(60)).await;
        let resumed = Instant::now();
        pace.turn().await;
        pace.turn().await;
        assert!(resumed.elapsed() >= GAP);
    }
}
