//! Sockets: one stream type for all transports, and listening sockets.

pub mod copy;
pub mod listen;
pub mod stream;
mod unchecked;

pub use stream::Io;
pub use unchecked::Unchecked;
