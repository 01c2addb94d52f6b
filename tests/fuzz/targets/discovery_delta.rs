//! An incremental response, decoded and applied: what is new, then what is gone.
#![no_main]

use causeway_fuzz::deliver;
use causeway_xds::proto::Message;
use causeway_xds::proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use causeway_xds::source::Extent;
use causeway_xds::{ResourceStore, ResourceType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(response) = DeltaDiscoveryResponse::decode(data) else {
        return;
    };
    let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
        return;
    };
    let upserts: Vec<_> = response
        .resources
        .into_iter()
        .filter_map(|wrapped| wrapped.resource)
        .collect();
    let mut store = ResourceStore::new();
    let extent = Extent::Incremental;
    deliver(&mut store, kind, extent, upserts, Vec::new());
    let gone = response.removed_resources;
    deliver(&mut store, kind, extent, Vec::new(), gone);
});
