//! HTTP: from an accepted connection to a response, steps 5b to 16 of a request's life.

pub mod body;
mod clock;
pub mod connection_manager;
mod exchange;
mod forwarded;
mod framing;
mod head;
mod names;
mod observed;
mod path;
mod replay;
mod reply;
mod router;
mod serve_request;
mod strict;
mod unparsed;
mod upgrade;
mod watch;

pub use connection_manager::{Accepted, serve};
