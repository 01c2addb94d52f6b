//! The descriptors of all messages, for text forms and dumps.
//!
//! Loading them takes a noticeable time and tens of megabytes, so that it happens at first use, and
//! they go again when nobody has used them for a while: a process that only speaks the binary
//! protocol never pays for them, and one that has read a file once not for long.

use std::io::Read as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::ZlibDecoder;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Compressed by the build script.
static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.zlib"));

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

struct Loaded {
    pool: DescriptorPool,
    used: Instant,
}

fn loaded() -> MutexGuard<'static, Option<Loaded>> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every message, enum and extension that the program was built with.
pub fn pool() -> DescriptorPool {
    let mut loaded = loaded();
    let Loaded { pool, used } = loaded.get_or_insert_with(|| Loaded {
        pool: load_apart(),
        used: Instant::now(),
    });
    *used = Instant::now();
    pool.clone()
}

/// On a thread of its own, to which the allocator gives memory of its own: what goes all at once later
/// should not lie between things that stay, and keep their pages.
fn load_apart() -> DescriptorPool {
    let thread = thread::Builder::new().name("descriptors".to_owned());
    let loaded = thread.spawn(load).ok().and_then(|load| load.join().ok());
    loaded.unwrap_or_else(load)
}

fn load() -> DescriptorPool {
    let mut bytes = Vec::new();
    ZlibDecoder::new(DESCRIPTORS)
        .read_to_end(&mut bytes)
        .expect("written by the build script");
    DescriptorPool::decode(bytes.as_slice()).expect("the set that the messages are made from")
}

/// Lets go of them if nobody has asked for them for so long. Who still has some keeps them.
pub fn release(unused: Duration) {
    let mut loaded = loaded();
    if loaded.as_ref().is_some_and(|l| l.used.elapsed() >= unused) {
        *loaded = None;
    }
}

/// The descriptor of a message by its full name, `None` when the program does not know it.
pub fn message(name: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_url::ResourceType;

    #[test]
    fn every_resource_type_is_described() {
        for kind in ResourceType::ALL {
            assert!(message(kind.message_name()).is_some(), "{kind}");
        }
        assert!(message("envoy.config.bootstrap.v3.Bootstrap").is_some());
        assert!(message("envoy.service.discovery.v3.DiscoveryResponse").is_some());
        assert!(message("causeway.v1.Access").is_some());
        assert!(message("no.such.Message").is_none());
    }

    #[test]
    fn what_was_let_go_is_loaded_again() {
        let kept = message("causeway.v1.Access").unwrap();
        release(Duration::ZERO);
        assert_eq!(kept.full_name(), "causeway.v1.Access");
        assert!(message("causeway.v1.Access").is_some());
    }
}
