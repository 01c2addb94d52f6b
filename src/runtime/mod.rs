//! Threads and time.

pub mod drain;
pub mod layers;
pub mod threads;
pub mod timer;
