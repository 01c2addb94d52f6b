//! HTTP/2 on either side: flow control, bodies, and streams that became tunnels.

mod fields;
mod pings;
mod received;
mod sending;
mod tunnel;

pub use self::fields::{length, strip};
pub use self::pings::Pings;
pub use self::received::{Received, Signal};
pub use self::sending::{Breaks, Sending, Unfinished};
pub use self::tunnel::Tunnel;

/// Largest frame that is taken, in bytes (RFC 9113 section 4.2).
pub const MAX_FRAME: u32 = 16 << 10;
/// What waits for a peer in one stream, in bytes, before more is asked of whoever sends.
pub const SEND_BUFFER: usize = 400 << 10;
/// Streams of one connection that may be reset for what the peer did with them.
pub const MAX_RESETS: usize = 1024;

/// Of one stream, when the configuration gives none, in bytes. It bounds what a peer that does not
/// read makes us hold for one exchange.
const STREAM: u32 = 256 << 10;
/// Of one connection, in bytes: the default, and the least there is.
///
/// The codec ends a connection (`ENHANCE_YOUR_CALM`) on which too many small DATA frames wait to
/// be read, and what it allows is half this window: each waiting frame below 256 bytes costs what
/// it lacks of 256. A stream of small messages that waits for its peer is no attack, so there has to
/// be room for one that filled `STREAM` with messages of a few bytes, or for five with messages of
/// twenty.
const CONNECTION: u32 = 32 << 20;

/// Receive windows of a connection and of each of its streams (RFC 9113 section 5.2), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    pub stream: u32,
    pub connection: u32,
}

impl Windows {
    /// From `initial_stream_window_size` and `initial_connection_window_size`.
    pub fn new(stream: Option<u32>, connection: Option<u32>) -> Self {
        Self {
            stream: stream.unwrap_or(STREAM),
            connection: connection.unwrap_or_default().max(CONNECTION),
        }
    }
}
