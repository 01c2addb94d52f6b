//! HTTP: from an accepted connection to a response, steps 5b to 16 of a request's life.

mod around;
mod attempts;
pub mod body;
mod client_cert;
mod clock;
mod connect;
pub mod connection_manager;
mod descent;
mod exchange;
pub mod explain;
mod failures;
mod forwarded;
mod framing;
pub mod head;
mod mirror;
mod names;
mod observed;
mod outcome;
pub mod path;
mod replay;
mod reply;
mod request;
mod retry;
mod router;
mod serve_request;
mod strict;
mod timeouts;
mod unparsed;
mod upgrade;
mod view;
mod watch;

pub use connection_manager::{Accepted, serve};
