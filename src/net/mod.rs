//! Sockets: one stream type for all transports, and listening sockets.

pub mod copy;
pub mod listen;
pub mod stream;

pub use stream::Io;
