//! `envoy.filters.http.on_demand`: routes and clusters that are fetched when they are asked for. All
//! of them are here already, so there is nothing to do.
//!
//! Configuration: `envoy.extensions.filters.http.on_demand.v3`, without `odcds`.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::on_demand::v3 as proto;
use causeway_xds::reject::Invalid;

use super::super::registry::{Context, decode};
use super::super::{Factory, HttpFilter};
use crate::route::RouteConfig;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    name: "envoy.filters.http.on_demand",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig",
        build_per_route,
    )],
};

#[derive(Debug)]
struct OnDemand;

fn refuse(odcds: Option<proto::OnDemandCds>) -> Result<(), Invalid> {
    match odcds {
        Some(_) => Err(Invalid::at("odcds", "not supported yet")),
        None => Ok(()),
    }
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::OnDemand { odcds } = decode(config)?;
    refuse(odcds)?;
    Ok(Arc::new(OnDemand))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::PerRouteConfig { odcds } = decode(config)?;
    refuse(odcds)?;
    Ok(RouteConfig::new(()))
}

impl HttpFilter for OnDemand {}
