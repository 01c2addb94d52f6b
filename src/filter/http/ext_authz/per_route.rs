//! What routes say about external authorization.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::ext_authz::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, required};
use proto::ext_authz_per_route::Override;

use super::config::{BodyRule, Service};
use crate::filter::registry::{Context, decode};
use crate::formatter::Wants;
use crate::route::RouteConfig;

/// What a route says.
#[derive(Debug)]
pub enum PerRoute {
    Disabled,
    Settings {
        /// Sorted.
        context: Vec<(String, String)>,
        /// `Some(None)`: no body is read.
        body: Option<Option<BodyRule>>,
        service: Option<Arc<Service>>,
    },
}

pub fn build(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::ExtAuthzPerRoute { r#override } = decode(config)?;
    let settings = match required(r#override, "override")? {
        Override::Disabled(true) => return Ok(RouteConfig::new(PerRoute::Disabled)),
        Override::Disabled(false) => {
            return Err(Invalid::at("disabled", "must be true if it is given"));
        }
        Override::CheckSettings(settings) => settings,
    };
    let (settings, wants) = check_settings(settings).at("check_settings")?;
    Ok(RouteConfig::new(settings).wanting(wants))
}

fn check_settings(message: proto::CheckSettings) -> Result<(PerRoute, Wants), Invalid> {
    let proto::CheckSettings {
        context_extensions,
        disable_request_body_buffering,
        with_request_body,
        emit_client_span: _, // there are no spans
        service_override,
    } = message;
    let body = match (disable_request_body_buffering, with_request_body) {
        (true, Some(_)) => {
            let reason = "may not be given together with disable_request_body_buffering";
            return Err(Invalid::at("with_request_body", reason));
        }
        (true, None) => Some(None),
        (false, None) => None,
        (false, Some(rule)) => Some(Some(BodyRule::decode(rule).at("with_request_body")?)),
    };
    let service = service_override.map(Service::overriding).transpose()?;
    let wants = service.as_ref().map(Service::wants).unwrap_or_default();
    let mut context: Vec<_> = context_extensions.into_iter().collect();
    context.sort();
    let settings = PerRoute::Settings {
        context,
        body,
        service: service.map(Arc::new),
    };
    Ok((settings, wants))
}
