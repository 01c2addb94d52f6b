//! How many circuits have been created, by protocol.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::model::Protocol;

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Created([AtomicU64; LABELS.len()]);

const LABELS: [&str; 4] = ["HTTP", "TCP", "HTTP2", "GRPC"];

impl Created {
    pub fn note(&self, protocol: Protocol) {
        let label = protocol_label(protocol);
        if let Some(at) = LABELS.iter().position(|known| *known == label) {
            self.0[at].fetch_add(1, Relaxed);
        }
    }

    /// By label; those of which there was none are left out.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Relaxed));
        LABELS
            .into_iter()
            .zip(counts)
            .filter(|(_, n)| *n > 0)
            .collect()
    }
}

/// The protocol as metrics have always named it.
pub const fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http | Protocol::Preopen => "HTTP",
        Protocol::Tcp | Protocol::Vnc | Protocol::Rdp => "TCP",
        Protocol::H2 => "HTTP2",
        Protocol::Grpc => "GRPC",
    }
}
