//! The bytes of one resource: decoded, validated, stored.
#![no_main]

use causeway_fuzz::{deliver, kind_and_rest};
use causeway_xds::ResourceStore;
use causeway_xds::proto::Any;
use causeway_xds::source::Extent;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = kind_and_rest(data) else {
        return;
    };
    let any = Any {
        type_url: kind.type_url(),
        value: rest.to_vec(),
    };
    let mut store = ResourceStore::new();
    deliver(&mut store, kind, Extent::Incremental, vec![any], Vec::new());
});
