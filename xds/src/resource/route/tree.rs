//! `VirtualHost.matcher`: message to typed.

use std::ops::Range;

use super::Route;
use crate::proto::xds::r#type::matcher::v3::Matcher;
use crate::proto::{Any, route};
use crate::reject::Invalid;
use crate::resource::context::{Context, each, unknown_type, unpack};
use crate::resource::matcher::tree::{Input, Tree};
use crate::type_url::message_name;

/// Decodes a tree whose actions are routes, which are put behind those that are there.
pub(super) fn decode(
    message: Matcher,
    routes: &mut Vec<Route>,
    ctx: &Context<'_>,
) -> Result<Tree<Range<usize>>, Invalid> {
    // Envoy takes no other inputs of a request or a connection here either.
    let allowed = |input: &Input| matches!(input, Input::RequestHeader(_));
    Tree::decode(message, allowed, |action| {
        let from = routes.len();
        routes.extend(list(&action, ctx)?);
        Ok(from..routes.len())
    })
}

fn list(action: &Any, ctx: &Context<'_>) -> Result<Vec<Route>, Invalid> {
    match message_name(&action.type_url) {
        "envoy.config.route.v3.Route" => Ok(vec![Route::decode(unpack(action)?, ctx)?]),
        "envoy.config.route.v3.RouteList" => {
            let route::RouteList { routes } = unpack(action)?;
            each("routes", routes, |route| Route::decode(route, ctx))
        }
        _ => Err(unknown_type(&action.type_url)),
    }
}
