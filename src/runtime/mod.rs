//! Threads and time.

pub mod timer;
