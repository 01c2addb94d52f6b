//! A bootstrap as text: read, validated, its static resources stored.
#![no_main]

use causeway::config::bootstrap::{BootstrapConfig, Overrides};
use causeway_fuzz::deliver;
use causeway_xds::ResourceStore;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match BootstrapConfig::parse("fuzz", text, &Overrides::default()) {
        Ok(config) => {
            let mut store = ResourceStore::new();
            for update in config.static_updates {
                deliver(&mut store, update.kind, update.extent, update.upserts, update.removals);
            }
        }
        // What the user is told.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
