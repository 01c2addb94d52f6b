//! The descriptors of all messages, for text forms and dumps.
//!
//! Loading them takes a noticeable time and tens of megabytes, so that it happens at first use:
//! a process that only speaks the binary protocol never pays for it.

use std::io::Read as _;
use std::sync::OnceLock;

use flate2::read::ZlibDecoder;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Compressed by the build script.
static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.zlib"));

static POOL: OnceLock<DescriptorPool> = OnceLock::new();

/// Every message, enum and extension that the program was built with.
pub fn pool() -> &'static DescriptorPool {
    POOL.get_or_init(|| {
        let mut bytes = Vec::new();
        ZlibDecoder::new(DESCRIPTORS)
            .read_to_end(&mut bytes)
            .expect("written by the build script");
        DescriptorPool::decode(bytes.as_slice()).expect("the set that the messages are made from")
    })
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
}
