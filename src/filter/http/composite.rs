//! `envoy.filters.http.composite`: the filter that a tree of matchers says, or none.
//!
//! Configuration: `envoy.extensions.filters.http.composite.v3.Composite`, with a tree of its own or within
//! an `ExtensionWithMatcher` ([`super::match_delegate`]); the tree ends in `ExecuteFilterAction`.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::composite::v3 as proto;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::At;

use super::super::registry::{Context, decode};
use super::super::{Factory, HttpFilter};
use super::match_delegate::{Choice, Chosen, of_route};
use crate::route::RouteConfig;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.composite.v3.Composite",
    name: "envoy.filters.http.composite",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.composite.v3.CompositePerRoute",
        build_per_route,
    )],
};

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let choice = choice(decode(config)?, context)?;
    Ok(Arc::new(Chosen::new(choice, None)))
}

/// The tree of its own, if there is one.
pub fn choice(message: proto::Composite, context: &Context) -> Result<Option<Choice>, Invalid> {
    let proto::Composite {
        named_filter_chains,
        matcher,
    } = message;
    refuse!(named_filter_chains);
    let choice = matcher.map(|tree| Choice::decode(tree, context));
    choice.transpose().at("matcher")
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let proto::CompositePerRoute { matcher } = decode(config)?;
    of_route(matcher, "matcher", context)
}
