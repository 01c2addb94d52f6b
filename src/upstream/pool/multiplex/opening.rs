//! Connections that are being opened, and who waits for them.

use tokio::sync::oneshot;

use crate::upstream::connect::ConnectError;
use crate::upstream::pool::{Pool, with_known_pool, with_pool};

/// A connection that is being opened, until it is known how many streams it takes.
pub(in crate::upstream::pool) struct Opened {
    number: u64,
    /// Whoever opens it takes one of its places.
    taken: bool,
    /// There is no connection yet.
    pub(super) coming: bool,
    waiting: Vec<oneshot::Sender<ConnectError>>,
}

impl Opened {
    /// Those that wait for a place on it.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// Wakes those who wait for a connection: once it is known how many of them it takes, or when it
/// came to nothing.
pub(super) struct Opening {
    endpoint: u64,
    number: u64,
}

impl Drop for Opening {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// How many requests find a place on a new connection, as far as it is known what the endpoint takes.
/// `max_requests`: all that it may serve; zero is no limit.
fn places(pool: &Pool, max_requests: u32) -> usize {
    let streams = pool.streams_each.unwrap_or(usize::MAX);
    match max_requests {
        0 => streams,
        most => streams.min(most as usize),
    }
}

impl Opening {
    /// `taken`: whoever opens it takes one of its places. What is opened for nobody is counted by
    /// `Pool::ahead` until it is there.
    pub(super) fn begin(endpoint: u64, pool: &mut Pool, taken: bool) -> Self {
        pool.next_task += 1;
        let number = pool.next_task;
        pool.openings.push(Opened {
            number,
            taken,
            coming: taken,
            waiting: Vec::new(),
        });
        Self { endpoint, number }
    }

    /// Waits for a connection that will have a place left, as far as it is known what endpoints of
    /// this kind take; nothing if there is none.
    pub(super) fn await_one(
        pool: &mut Pool,
        max_requests: u32,
    ) -> Option<oneshot::Receiver<ConnectError>> {
        let places = places(pool, max_requests);
        pool.openings.iter_mut().find_map(|opening| {
            opening.waiting.retain(|waiting| !waiting.is_closed());
            let taken = opening.waiting.len() + usize::from(opening.taken);
            (taken < places).then(|| opening.join())
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The connection is there.
    pub(super) fn connected(&self) {
        with(self.endpoint, self.number, |opened| opened.coming = false);
    }

    fn end(&self) -> Option<Opened> {
        with_known_pool(self.endpoint, |pool| {
            let mut all = pool.openings.iter();
            let index = all.position(|opened| opened.number == self.number)?;
            Some(pool.openings.swap_remove(index))
        })
        .flatten()
    }

    /// All who wait fail alike: one by one, each would wait for its own attempt.
    pub(super) fn failed(self, error: &ConnectError) {
        for waiting in self.end().into_iter().flat_map(|opened| opened.waiting) {
            // Who has left needs no answer.
            waiting.send(error.clone()).ok();
        }
    }
}

/// Waits until it is known what that connection takes; nothing if it is.
pub(super) fn join(endpoint: u64, number: u64) -> Option<oneshot::Receiver<ConnectError>> {
    with(endpoint, number, Opened::join)
}

fn with<R>(endpoint: u64, number: u64, f: impl FnOnce(&mut Opened) -> R) -> Option<R> {
    with_pool(endpoint, |pool| {
        let mut all = pool.openings.iter_mut();
        all.find(|opened| opened.number == number).map(f)
    })
}

impl Opened {
    fn join(&mut self) -> oneshot::Receiver<ConnectError> {
        let (done, opened) = oneshot::channel();
        self.waiting.push(done);
        opened
    }
}
