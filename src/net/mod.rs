//! Sockets: one stream type for all transports, and listening sockets. The addresses of names. And
//! whom to trust.

pub mod body;
pub mod copy;
pub mod descriptors;
mod heard;
pub mod http2;
mod incoming;
pub mod lent;
pub mod listen;
mod own;
pub mod peek;
pub mod resolve;
mod roots;
pub mod source;
mod splice;
pub mod stream;
mod unchecked;
pub mod websocket;

pub use heard::Heard;
pub use incoming::{Incoming, NotSwitched, Switching, WireError};
pub use own::own_address;
pub use roots::system_roots;
pub use source::Source;
pub use stream::Io;
pub use unchecked::Unchecked;
