//! How long nothing may be sent to one side of a connection, while the other may still speak
//! (`downstream_idle_timeout`, `upstream_idle_timeout`).

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::runtime::timer::Deadline;

/// One of the two limits.
#[derive(Debug)]
pub struct Silence {
    name: &'static str,
    /// Zero is none.
    limit: Duration,
    last: Cell<Instant>,
}

impl Silence {
    /// `name` is what the limit is called in configuration; a limit of zero is none.
    pub fn new(name: &'static str, limit: Duration) -> Self {
        let last = Cell::new(Instant::now());
        Self { name, limit, last }
    }

    /// Whether it is worth a look, which every message would pay for.
    pub fn is_set(&self) -> bool {
        !self.limit.is_zero()
    }

    /// So many bytes were sent to that side.
    pub fn moved(&self, bytes: u64) {
        if bytes > 0 && self.is_set() {
            self.last.set(Instant::now());
        }
    }

    /// Returns the limit, by its name, once it has passed.
    pub async fn too_long(&self) -> (&'static str, Duration) {
        if !self.is_set() {
            return std::future::pending().await;
        }
        loop {
            match self.limit.checked_sub(self.last.get().elapsed()) {
                Some(left) if !left.is_zero() => Deadline::after(left).await,
                _ => return (self.name, self.limit),
            }
        }
    }
}
