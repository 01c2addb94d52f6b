//! Threads and time.

pub mod threads;
pub mod timer;
