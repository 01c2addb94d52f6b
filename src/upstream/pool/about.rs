//! What is told of a connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::net::Io;

/// A connection, for those who tell of it.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Counts the connections of the process to endpoints.
    pub id: u64,
    /// Our end of it; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
}

impl About {
    pub(super) fn new(io: &Io) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            local: io.tcp().and_then(|tcp| tcp.local_addr().ok()),
        }
    }
}
