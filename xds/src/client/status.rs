//! What an operator may know of a client, readable at any time.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::type_url::ResourceType;

/// Shared and cheap to read.
#[derive(Debug, Default)]
pub struct Status {
    connected: AtomicBool,
    /// The name of the server in use or tried last.
    server: Mutex<String>,
    types: [TypeStatus; ResourceType::ALL.len()],
}

/// Of one type. Counters under Envoy's names.
#[derive(Debug, Default)]
pub struct TypeStatus {
    pub update_attempt: AtomicU64,
    pub update_success: AtomicU64,
    pub update_rejected: AtomicU64,
    pub update_failure: AtomicU64,
    pub init_fetch_timeout: AtomicU64,
    /// Of responses, as they were received.
    pub bytes: AtomicU64,
    /// Unix time of the last response that was taken, in milliseconds; 0 for none yet.
    pub updated_at: AtomicI64,
    version: Mutex<String>,
}

impl Status {
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Relaxed);
    }

    pub fn server(&self) -> String {
        lock(&self.server).clone()
    }

    pub fn set_server(&self, name: &str) {
        name.clone_into(&mut lock(&self.server));
    }

    pub fn of(&self, kind: ResourceType) -> &TypeStatus {
        &self.types[kind as usize]
    }
}

impl TypeStatus {
    /// The last version that was taken; empty for none yet.
    pub fn version(&self) -> String {
        lock(&self.version).clone()
    }

    pub fn set_version(&self, version: &str) {
        version.clone_into(&mut lock(&self.version));
    }
}

fn lock(text: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}
