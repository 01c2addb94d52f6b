//! Threads and time.

pub mod drain;
pub mod farewell;
pub mod layers;
pub mod threads;
pub mod timer;
