//! One resource as YAML or JSON: read, validated, stored. Text reaches deeper into validation than
//! bytes do, since a mutation of it is still a message more often.
#![no_main]

use causeway_fuzz::{deliver, kind_and_rest};
use causeway_xds::ResourceStore;
use causeway_xds::source::Extent;
use causeway_xds::text::{self, Options};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = kind_and_rest(data) else {
        return;
    };
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    let Ok(any) = text::parse_any(text, &Options::default()) else {
        return;
    };
    let mut store = ResourceStore::new();
    deliver(&mut store, kind, Extent::Incremental, vec![any], Vec::new());
});
