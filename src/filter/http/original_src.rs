//! `envoy.filters.http.original_src`: requests go to endpoints from the client's address.
//!
//! Configuration: `envoy.extensions.filters.http.original_src.v3.OriginalSrc`. The client is whom
//! `x-forwarded-for` and the PROXY protocol name, as far as they are believed.

use std::net::SocketAddr;
use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::original_src::v3 as proto;
use causeway_xds::reject::Invalid;

use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, Stream};
use crate::net::Source;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.original_src.v3.OriginalSrc",
    name: "envoy.filters.http.original_src",
    build,
    per_route: &[],
};

#[derive(Debug)]
struct OriginalSrc {
    mark: u32,
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::OriginalSrc { mark } = decode(config)?;
    Ok(Arc::new(OriginalSrc { mark }))
}

impl HttpFilter for OriginalSrc {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let client = SocketAddr::new(stream.client, 0);
        let source = Source::new(client, false, self.mark);
        stream.state().set_source(source);
        Flow::Continue
    }
}
