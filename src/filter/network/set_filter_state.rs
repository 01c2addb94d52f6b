//! `envoy.filters.network.set_filter_state`: texts that are made of a connection and left for what
//! comes after: other filters, routes, logs.
//!
//! Configuration: `envoy.extensions.filters.network.set_filter_state.v3.Config`, of which as much is
//! supported as of the filter of that name for requests. `on_downstream_data` is not waited for: a
//! filter sees none of the bytes, and a server that speaks first is not kept from it.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::network::set_filter_state::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::each;

use super::super::registry::{Context, decode};
use super::super::state_value::StateValue;
use super::{Build, Connection, NetworkFilter, Verdict};

pub const FACTORY: (&str, Build) = (
    "envoy.extensions.filters.network.set_filter_state.v3.Config",
    build,
);

#[derive(Debug)]
struct SetFilterState {
    new: Vec<StateValue>,
    /// Where there was a handshake.
    secured: Vec<StateValue>,
    open: Vec<StateValue>,
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn NetworkFilter>, Invalid> {
    let proto::Config {
        on_new_connection,
        on_downstream_tls_handshake,
        on_downstream_data,
    } = decode(config)?;
    Ok(Arc::new(SetFilterState {
        new: each("on_new_connection", on_new_connection, StateValue::decode)?,
        secured: each(
            "on_downstream_tls_handshake",
            on_downstream_tls_handshake,
            StateValue::decode,
        )?,
        open: each("on_downstream_data", on_downstream_data, StateValue::decode)?,
    }))
}

fn set(values: &[StateValue], connection: &Connection<'_>) {
    for value in values {
        value.set(connection, connection.state);
    }
}

impl NetworkFilter for SetFilterState {
    fn accept(&self, connection: &Connection<'_>) -> Verdict {
        set(&self.new, connection);
        Verdict::Pass
    }

    fn open(&self, connection: &Connection<'_>) -> Verdict {
        if connection.session.is_some() {
            set(&self.secured, connection);
        }
        set(&self.open, connection);
        Verdict::Pass
    }
}
