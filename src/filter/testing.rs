//! What the tests of filters share: a chain of one filter, and requests for it.

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::Message;
use causeway_xds::reject::Invalid;
use http::Request;
use http::request::Parts;

use super::registry::Link;
use super::{Chain, Flow, PerRoute, Registry, Stream};
use crate::error::Failure;

pub fn extension(message: &str, config: &impl Message) -> TypedExtension {
    TypedExtension {
        name: "x".into(),
        type_url: format!("type.googleapis.com/{message}"),
        value: config.encode_to_vec().into(),
    }
}

pub fn chain(message: &str, config: &impl Message) -> Result<Chain, Invalid> {
    let filter = extension(message, config);
    Registry::default().chain([Link::Configured(&filter)].into_iter())
}

/// What a route says to the filter of this name; checked, as it is when it is decoded.
pub fn per_route(filter: &str, message: &str, config: &impl Message) -> Result<PerRoute, Invalid> {
    use causeway_xds::extension::Extensions as _;
    let config = extension(message, config);
    Registry::default().check_per_route(filter, &config)?;
    Ok(Registry::default().per_route([(filter.to_owned(), config)].iter()))
}

pub fn request(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("well formed").into_parts().0
}

/// Runs the chain for a client of a connection in clear text.
pub fn run(chain: &Chain, parts: &mut Parts, route: &PerRoute) -> Result<(), Box<Failure>> {
    let mut held = None;
    let stream = Stream::new(
        parts,
        std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
        80,
        false,
        &mut held,
    );
    match chain.request(stream, route) {
        Flow::Continue => Ok(()),
        Flow::Fail(failure) => Err(failure),
        Flow::Reply(_) => panic!("no reply of its own"),
    }
}
