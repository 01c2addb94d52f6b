//! What holds for every filter: wrong configuration is refused and never panics, and each filter is
//! documented.

use causeway_xds::extension::TypedExtension;

use super::network;
use super::registry::{Context, FACTORIES};

fn extension(message: &str, value: Vec<u8>) -> TypedExtension {
    TypedExtension {
        name: "x".into(),
        type_url: format!("type.googleapis.com/{message}"),
        value: value.into(),
    }
}

/// Bytes that look like a message now and then: short fields with small tags and lengths.
fn random(state: &mut u64) -> Vec<u8> {
    let mut next = |bound: u64| {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (*state >> 33) % bound
    };
    let mut bytes = Vec::new();
    for _ in 0..next(8) {
        let tag = 1 + next(15);
        match next(3) {
            0 => bytes.extend([(tag << 3) as u8, next(128) as u8]),
            _ => {
                let length = next(12);
                bytes.extend([(tag << 3 | 2) as u8, length as u8]);
                bytes.extend((0..length).map(|_| next(256) as u8));
            }
        }
    }
    bytes
}

#[test]
fn no_configuration_makes_a_filter_panic() {
    let mut state = 11;
    let context = Context::default();
    let mut taken = 0;
    for _ in 0..400 {
        for factory in FACTORIES {
            let config = extension(factory.message, random(&mut state));
            taken += usize::from((factory.build)(&config, &context).is_ok());
            for (message, build) in factory.per_route {
                let config = extension(message, random(&mut state));
                taken += usize::from(build(&config, &context).is_ok());
            }
        }
        for message in network::names() {
            let config = extension(message, random(&mut state));
            taken += usize::from(network::build(&config, &context).is_ok());
        }
    }
    assert!(taken > 0, "some of it is configuration");
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let context = Context::default();
    for factory in FACTORIES {
        // A field that is longer than what follows.
        let config = extension(factory.message, vec![0x0a, 0x7f, 0x00]);
        assert!(
            (factory.build)(&config, &context).is_err(),
            "{}",
            factory.message
        );
    }
}

/// They run code or need data that the program does not bring; where a listener says that such a filter
/// is optional, it is left out.
#[test]
fn filters_that_are_not_there_are_refused_by_name() {
    use causeway_xds::extension::Extensions as _;
    let registry = super::Registry::default();
    for message in [
        "cache.v3.CacheConfig",
        "dynamic_modules.v3.DynamicModuleFilter",
        "geoip.v3.Geoip",
        "golang.v3alpha.Config",
        #[cfg(not(feature = "lua"))]
        "lua.v3.Lua",
        "wasm.v3.Wasm",
    ] {
        let message = format!("envoy.extensions.filters.http.{message}");
        assert!(!registry.knows_http_filter(&message));
        let refused = registry.check_http_filter(&extension(&message, Vec::new()));
        let reason = format!("HTTP filter \"{message}\" is not supported");
        assert_eq!(refused.unwrap_err().to_string(), reason);
    }
}

#[test]
fn each_filter_has_a_section_in_the_documentation() {
    let read = |name: &str| {
        let path = format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    let docs = read("FILTERS.md") + &read("ENVOY-FILTERS.md");
    let of_network = network::names();
    for message in FACTORIES.iter().map(|f| f.message).chain(of_network) {
        assert!(docs.contains(message), "{message} is not documented");
    }
}
