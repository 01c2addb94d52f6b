//! Configuration of an HTTP filter that is a resource of its own, and where it is named.

use super::config_source::ConfigSource;
use super::context::{At, Context, accept, fault, not_empty, required, unknown_type};
use super::decode::resource_name;
use super::tls::SecretRef;
use crate::extension::TypedExtension;
use crate::proto::core::{self, ExtensionConfigSource};
use crate::proto::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use crate::proto::envoy::extensions::filters::http::ext_proc::v3::ExternalProcessor;
use crate::proto::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as GrpcStats;
use crate::proto::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtProvider,
};
use crate::proto::envoy::extensions::filters::http::oauth2::v3::{OAuth2, OAuth2Config};
use crate::proto::envoy::extensions::filters::http::router::v3::Router;
use crate::proto::{Any, Message};
use crate::reject::Invalid;
use crate::type_url::message_name;

/// `envoy.config.core.v3.TypedExtensionConfig`, as an Extension Config Discovery Service sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterConfig {
    pub name: String,
    pub config: TypedExtension,
    /// That the configuration names.
    pub secrets: Vec<SecretRef>,
}

/// `envoy.config.core.v3.ExtensionConfigSource`: a filter whose configuration is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterDiscovery {
    /// Of the filter, and of the resource.
    pub name: String,
    pub source: ConfigSource,
    /// In force until there is a configuration (`default_config`).
    pub default: Option<TypedExtension>,
    /// Whether the listener goes into use before there is one
    /// (`apply_default_config_without_warming`).
    pub without_warming: bool,
    /// Message names of what the configuration may be (`type_urls`); at least one.
    pub types: Vec<String>,
}

impl FilterConfig {
    pub(crate) fn decode(
        message: core::TypedExtensionConfig,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let core::TypedExtensionConfig { name, typed_config } = message;
        let name = not_empty(name, "name")?;
        let any = required(typed_config, "typed_config")?;
        let config = TypedExtension::from_any(&*name, any);
        ctx.extensions
            .check_http_filter(&config)
            .at("typed_config")?;
        note_ignored(&config, ctx);
        ctx.note_secrets(&config).at("typed_config")?;
        Ok(Self {
            name,
            config,
            secrets: ctx.take_secrets(),
        })
    }
}

impl FilterDiscovery {
    pub(super) fn decode(
        name: String,
        message: ExtensionConfigSource,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let ExtensionConfigSource {
            config_source,
            default_config,
            apply_default_config_without_warming,
            type_urls,
        } = message;
        if type_urls.is_empty() {
            return Err(Invalid::at("type_urls", "must have at least one"));
        }
        let types = type_urls.iter().enumerate().map(|(i, url)| {
            let name = message_name(url);
            let known = ctx.extensions.knows_http_filter(name);
            let fault = match known {
                true if name == ROUTER => Err(fault("the router cannot be discovered")),
                true => Ok(name.to_owned()),
                false => Err(unknown_type(url)),
            };
            fault.at_index("type_urls", i)
        });
        let mut discovery = Self {
            source: ConfigSource::decode_field(config_source, "config_source", ctx)?,
            default: None,
            without_warming: apply_default_config_without_warming,
            types: types.collect::<Result<_, _>>()?,
            name,
        };
        if let Some(any) = default_config {
            let config = TypedExtension::from_any(&*discovery.name, any);
            discovery.check_type(&config).at("default_config")?;
            ctx.extensions
                .check_http_filter(&config)
                .and_then(|()| ctx.note_secrets(&config))
                .at("default_config")?;
            discovery.default = Some(config);
        }
        if discovery.without_warming && discovery.default.is_none() {
            let reason = "there is no `default_config` to apply";
            return Err(Invalid::at("apply_default_config_without_warming", reason));
        }
        Ok(discovery)
    }

    /// # Errors
    /// The configuration is not of a type that this filter may have.
    pub fn check_type(&self, config: &TypedExtension) -> Result<(), Invalid> {
        let found = config.message_name();
        if self.types.iter().any(|name| name == found) {
            return Ok(());
        }
        let expected = self.types.join(", ");
        Err(fault(format!("is a {found}, expected {expected}")))
    }
}

/// Remembers what of the configuration of an HTTP filter has no effect. What it means otherwise is the
/// program's to know; but which fields nobody reads belongs into the one table.
#[expect(deprecated, reason = "an old field without effect is one all the same")]
pub(super) fn note_ignored(config: &TypedExtension, ctx: &Context<'_>) {
    fn of<M: Message + Default>(config: &TypedExtension) -> M {
        // Whether it is one was looked at before.
        M::decode(&*config.value).unwrap_or_default()
    }
    let name = config.message_name();
    match name.strip_prefix("envoy.extensions.filters.http.") {
        Some("ext_authz.v3.ExtAuthz") => {
            let ExtAuthz {
                filter_metadata,
                emit_filter_state_stats,
                ..
            } = of(config);
            accept!(ctx, "ExtAuthz": emit_filter_state_stats, filter_metadata);
        }
        Some("ext_proc.v3.ExternalProcessor") => {
            let ExternalProcessor {
                filter_metadata, ..
            } = of(config);
            accept!(ctx, "ExternalProcessor": filter_metadata);
        }
        Some("grpc_stats.v3.FilterConfig") => {
            let GrpcStats {
                emit_filter_state, ..
            } = of(config);
            accept!(ctx, "GrpcStats": emit_filter_state);
        }
        Some("jwt_authn.v3.JwtAuthentication") => {
            let JwtAuthentication { providers, .. } = of(config);
            for JwtProvider {
                jwt_cache_config, ..
            } in providers.into_values()
            {
                accept!(ctx, "JwtProvider": jwt_cache_config);
            }
        }
        Some("oauth2.v3.OAuth2") => {
            let OAuth2 { config } = of(config);
            let OAuth2Config {
                use_access_token_expiry_for_id_token_cookie,
                ..
            } = config.unwrap_or_default();
            accept!(ctx, "OAuth2Config": use_access_token_expiry_for_id_token_cookie);
        }
        Some("router.v3.Router") => {
            let Router {
                start_child_span, ..
            } = of(config);
            accept!(ctx, "Router": start_child_span);
        }
        _ => {}
    }
}

/// Whether a filter only observes, and can be left out. Some come in a `TypedStruct`, whose first
/// field is the type of what is in it.
pub(super) fn observes(config: &Any) -> bool {
    const OBSERVERS: [&str; 2] = [
        "stats.PluginConfig",
        "envoy.extensions.filters.http.tap.v3.Tap",
    ];
    const WRAPPERS: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];
    let name = message_name(&config.type_url);
    match WRAPPERS.contains(&name) {
        true => {
            resource_name(config).is_some_and(|inner| OBSERVERS.contains(&message_name(&inner)))
        }
        false => OBSERVERS.contains(&name),
    }
}

/// It ends each chain, and is not configured from elsewhere.
pub(super) const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
