//! Threads and time.

pub mod drain;
pub mod threads;
pub mod timer;
