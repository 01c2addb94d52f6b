//! A state-of-the-world response, decoded and applied to a store that already holds what the first
//! half of its resources says.
#![no_main]

use causeway_fuzz::deliver;
use causeway_xds::proto::{DiscoveryResponse, Message};
use causeway_xds::source::Extent;
use causeway_xds::{ResourceStore, ResourceType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(response) = DiscoveryResponse::decode(data) else {
        return;
    };
    let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
        return;
    };
    let mut store = ResourceStore::new();
    let half = response.resources[..response.resources.len() / 2].to_vec();
    let extent = Extent::StateOfTheWorld;
    deliver(&mut store, kind, extent, half, Vec::new());
    deliver(&mut store, kind, extent, response.resources, Vec::new());
});
