//! The configuration of a filter, or what a route says to it: the first byte says of which.
#![no_main]

use causeway::filter::network;
use causeway::filter::registry::{Context, FACTORIES};
use causeway_xds::extension::TypedExtension;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, config)) = data.split_first() else {
        return;
    };
    let of = |message: &str| TypedExtension {
        name: "fuzz".into(),
        type_url: format!("type.googleapis.com/{message}"),
        value: config.to_vec().into(),
    };
    let context = Context::default();
    let refused = |error: causeway_xds::reject::Invalid| assert!(!error.to_string().is_empty());
    let mut left = usize::from(*which);
    // Filters, then routes, then filters of connections, so that old inputs mostly keep their meaning.
    if let Some(factory) = FACTORIES.get(left) {
        return (factory.build)(&of(factory.message), &context).map(drop).unwrap_or_else(refused);
    }
    left -= FACTORIES.len();
    let routes = FACTORIES.iter().flat_map(|factory| factory.per_route);
    if let Some((message, build)) = routes.clone().nth(left) {
        return build(&of(message), &context).map(drop).unwrap_or_else(refused);
    }
    left -= routes.count();
    if let Some(message) = network::names().nth(left) {
        network::build(&of(message), &context).map(drop).unwrap_or_else(refused);
    }
});
