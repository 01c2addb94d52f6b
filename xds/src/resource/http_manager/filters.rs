//! The chain of HTTP filters, and the upgrades that pass it.

use super::{HttpFilter, HttpFilterConfig};
use crate::extension::TypedExtension;
use crate::proto::hcm::{self, http_filter};
use crate::reject::Invalid;
use crate::resource::context::{At, Context, accept, not_empty, refuse, required};
use crate::resource::filter_config::{FilterDiscovery, ROUTER, note_ignored, observes};
use crate::resource::route::Upgrade;

const FIELD: &str = "http_filters";

/// The filters in order. The router answers the request, so it is last and nowhere else.
pub(super) fn decode(
    messages: Vec<hcm::HttpFilter>,
    ctx: &Context<'_>,
) -> Result<Vec<HttpFilter>, Invalid> {
    let Some(last) = messages.len().checked_sub(1) else {
        return Err(Invalid::at(FIELD, "must end with the router"));
    };
    let mut filters = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let Some(filter) = HttpFilter::decode(message, ctx).at_index(FIELD, index)? else {
            continue;
        };
        if filter.is_router() && index != last {
            return Err(Invalid::at(
                format!("{FIELD}[{index}]"),
                "the router must be last",
            ));
        }
        filters.push(filter);
    }
    match filters.last() {
        Some(filter) if filter.is_router() && filter.disabled => Err(Invalid::at(
            format!("{FIELD}[{last}].disabled"),
            "the router must be enabled",
        )),
        Some(filter) if filter.is_router() => Ok(filters),
        _ => Err(Invalid::at(
            format!("{FIELD}[{last}]"),
            "the last filter must be the router",
        )),
    }
}

impl HttpFilter {
    /// Nothing for an unknown filter that is optional.
    fn decode(message: hcm::HttpFilter, ctx: &Context<'_>) -> Result<Option<Self>, Invalid> {
        let hcm::HttpFilter {
            name,
            is_optional,
            disabled,
            config_type,
        } = message;
        let name = not_empty(name, "name")?;
        let any = match required(config_type, "typed_config")? {
            http_filter::ConfigType::TypedConfig(any) => any,
            http_filter::ConfigType::ConfigDiscovery(discovery) => {
                let discovery = FilterDiscovery::decode(name, discovery, ctx);
                return Ok(Some(Self {
                    config: HttpFilterConfig::Discovered(discovery.at("config_discovery")?),
                    disabled,
                }));
            }
        };
        if observes(&any) {
            let observing_filter = true;
            accept!(ctx, "HttpFilter": observing_filter);
            return Ok(None);
        }
        let config = TypedExtension::from_any(name, any);
        if is_optional && !ctx.extensions.knows_http_filter(config.message_name()) {
            let unknown_optional_filter = true;
            accept!(ctx, "HttpFilter": unknown_optional_filter);
            return Ok(None);
        }
        ctx.extensions
            .check_http_filter(&config)
            .and_then(|()| ctx.note_secrets(&config))
            .at("typed_config")?;
        note_ignored(&config, ctx);
        let config = HttpFilterConfig::Inline(config);
        Ok(Some(Self { config, disabled }))
    }

    fn is_router(&self) -> bool {
        matches!(&self.config, HttpFilterConfig::Inline(c) if c.message_name() == ROUTER)
    }
}

/// The `upgrade_configs` of a connection manager.
pub(super) fn decode_upgrades(
    messages: Vec<hcm::http_connection_manager::UpgradeConfig>,
) -> Result<Vec<Upgrade>, Invalid> {
    Upgrade::decode_all(messages, |message| {
        let hcm::http_connection_manager::UpgradeConfig {
            upgrade_type,
            filters,
            enabled,
        } = message;
        refuse!(filters);
        Upgrade::decode(upgrade_type, enabled)
    })
}
