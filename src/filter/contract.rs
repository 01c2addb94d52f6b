//! What every filter owes, whatever it does.

use causeway_xds::extension::{Extensions as _, TypedExtension};

use super::Registry;
use super::registry::FACTORIES;

fn extension(message: &str, value: Vec<u8>) -> TypedExtension {
    TypedExtension {
        name: "x".into(),
        type_url: format!("type.googleapis.com/{message}"),
        value: value.into(),
    }
}

/// Bytes that are often a message: a field, its kind, and something in it.
fn random_bytes(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(..6) {
        bytes.push(random.u8(1..24) << 3 | if random.bool() { 2 } else { random.u8(..6) });
        let inner: Vec<u8> = (0..random.usize(..12)).map(|_| random.u8(..)).collect();
        bytes.push(inner.len() as u8);
        bytes.extend(inner);
    }
    bytes
}

#[test]
fn no_bytes_make_a_filter_panic() {
    let registry = Registry::default();
    let mut random = fastrand::Rng::with_seed(7);
    for factory in FACTORIES {
        for _ in 0..500 {
            let filter = extension(factory.message, random_bytes(&mut random));
            let _ = registry.check_http_filter(&filter);
            for (message, _) in factory.per_route {
                let config = extension(message, random_bytes(&mut random));
                let _ = registry.check_per_route(factory.name, &config);
            }
        }
    }
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let registry = Registry::default();
    for factory in FACTORIES {
        // Field 1 with a length that its bytes do not have.
        let cut = vec![0x0a, 0x05, 0x01];
        let filter = extension(factory.message, cut.clone());
        let refused = registry.check_http_filter(&filter);
        assert!(refused.is_err(), "{}", factory.message);
        for (message, _) in factory.per_route {
            let config = extension(message, cut.clone());
            let refused = registry.check_per_route(factory.name, &config);
            assert!(refused.is_err(), "{message}");
        }
    }
}
