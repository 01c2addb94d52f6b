//! `envoy.filters.network.set_filter_state`: accepted as long as it sets nothing.
//!
//! Configuration: `envoy.extensions.filters.network.set_filter_state.v3.Config`.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::network::set_filter_state::v3 as proto;
use causeway_xds::reject::Invalid;

use super::super::registry::{Context, decode};
use super::{Build, NetworkFilter};

pub const FACTORY: (&str, Build) = (
    "envoy.extensions.filters.network.set_filter_state.v3.Config",
    build,
);

#[derive(Debug)]
struct SetFilterState;

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn NetworkFilter>, Invalid> {
    let proto::Config {
        on_new_connection,
        on_downstream_tls_handshake,
        on_downstream_data,
    } = decode(config)?;
    for (given, field) in [
        (!on_new_connection.is_empty(), "on_new_connection"),
        (
            !on_downstream_tls_handshake.is_empty(),
            "on_downstream_tls_handshake",
        ),
        (!on_downstream_data.is_empty(), "on_downstream_data"),
    ] {
        if given {
            return Err(Invalid::at(field, "not supported yet"));
        }
    }
    Ok(Arc::new(SetFilterState))
}

impl NetworkFilter for SetFilterState {}
