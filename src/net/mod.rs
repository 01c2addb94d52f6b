//! Sockets: one stream type for all transports, and listening sockets. And whom to trust.

pub mod copy;
pub mod descriptors;
pub mod http2;
pub mod listen;
mod own;
pub mod peek;
mod roots;
mod splice;
pub mod stream;
mod unchecked;
pub mod websocket;

pub use own::own_address;
pub use roots::system_roots;
pub use stream::Io;
pub use unchecked::Unchecked;
