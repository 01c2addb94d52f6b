//! Checks in the background that wait for their time: entries of one queue, as there may be very many
//! of them, where a task each would take more room than all else that an idle endpoint needs.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Checker, Pace, State};

/// The queue. Whoever holds what [`Rounds::add`] gives keeps the checks of one endpoint going.
#[derive(Debug, Default)]
pub struct Rounds {
    waiting: Mutex<BinaryHeap<Due>>,
    sooner: Notify,
}

/// An endpoint that is checked now and then.
#[derive(Debug)]
pub struct Watched {
    checker: Checker,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Due {
    at: Instant,
    watched: Weak<Watched>,
}

impl Rounds {
    pub fn add(&self, checker: Checker) -> Arc<Watched> {
        let (state, wait) = checker.begin();
        let state = Mutex::new(state);
        let watched = Arc::new(Watched { checker, state });
        self.put(&watched, wait);
        watched
    }

    fn put(&self, watched: &Arc<Watched>, wait: Duration) {
        let at = Instant::now() + wait;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.peek().is_none_or(|first| at < first.at);
        waiting.push(Due {
            at,
            watched: Arc::downgrade(watched),
        });
        if first {
            self.sooner.notify_one();
        }
    }

    /// Makes checks when their time has come, one turn of `pace` after the other, until it is dropped.
    /// One that takes its time holds nobody up.
    pub async fn run(self: Arc<Self>, pace: Arc<Pace>) {
        loop {
            let watched = self.next().await;
            // One that is gone takes no turn.
            if watched.strong_count() == 0 {
                continue;
            }
            pace.turn().await;
            let rounds = Arc::clone(&self);
            tokio::spawn(async move {
                if let Some(watched) = watched.upgrade() {
                    let wait = watched.check().await;
                    rounds.put(&watched, wait);
                }
            });
        }
    }

    /// Waits for the one whose time comes first.
    async fn next(&self) -> Weak<Watched> {
        loop {
            let at = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                match waiting.peek() {
                    Some(first) if first.at <= now => {
                        if let Some(due) = waiting.pop() {
                            return due.watched;
                        }
                        None
                    }
                    first => first.map(|first| first.at),
                }
            };
            let sooner = self.sooner.notified();
            match at {
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = sooner => {}
                },
                None => sooner.await,
            }
        }
    }
}

impl Watched {
    async fn check(&self) -> Duration {
        let mut state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut prober = self.checker.prober();
        let wait = self.checker.check(&mut prober, &mut state).await;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        wait
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The greatest is the one that is due first.
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}
