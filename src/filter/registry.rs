//! Which extensions the program has. A new HTTP filter is one line in [`FACTORIES`].

mod context;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use causeway_xds::extension::{Extensions, TypedExtension};
use causeway_xds::proto::Message;
use causeway_xds::proto::envoy::config::route::v3::FilterConfig;
use causeway_xds::proto::envoy::extensions::filters::http::router::v3::Router;
use causeway_xds::proto::tls::SdsSecretConfig;
use causeway_xds::reject::{FieldPath, Invalid};
use causeway_xds::resource::access_log;
use causeway_xds::resource::api_source::Target;
use causeway_xds::resource::config_source::Place;
use causeway_xds::resource::route::VirtualHost;
use causeway_xds::resource::tls::TlsCertificate;

use crate::route::{Filters, PerRoute, RouteConfig, Word};
use crate::runtime::layers::Layers;
use crate::tls::TlsError;

use super::network;
use super::secrets;
use super::{Chain, HttpFilter, RouterConfig, Slot, http};

pub use context::{Context, KnownServers};

/// Makes a filter from its configuration.
pub type Build = fn(&TypedExtension, &Context) -> Result<Arc<dyn HttpFilter>, Invalid>;
/// Makes what a route says to a filter. Also called, with an empty context, to check.
pub type BuildPerRoute = fn(&TypedExtension, &Context) -> Result<RouteConfig, Invalid>;

/// How a filter is made from its configuration.
#[derive(Debug)]
pub struct Factory {
    /// Message name of the configuration.
    pub message: &'static str,
    /// As Envoy calls the filter, and translated circuits do.
    pub name: &'static str,
    pub build: Build,
    /// Message names of what routes may say to the filter, and what is made of it.
    pub per_route: &'static [(&'static str, BuildPerRoute)],
}

/// A filter on its way into a chain.
#[derive(Debug)]
pub struct Link<'c> {
    /// For which routes speak to it.
    pub name: &'c str,
    /// Off unless a route switches it on.
    pub disabled: bool,
    pub config: LinkConfig<'c>,
}

#[derive(Debug)]
pub enum LinkConfig<'c> {
    Configured(&'c TypedExtension),
    Changing(Arc<Slot>),
}

/// Every HTTP filter except the router, which ends each chain.
pub const FACTORIES: &[Factory] = &[
    http::access::FACTORY,
    http::api_key_auth::FACTORY,
    http::bandwidth_limit::FACTORY,
    http::basic_auth::FACTORY,
    http::buffer::FACTORY,
    http::composite::FACTORY,
    http::compressor::FACTORY,
    http::cors::FACTORY,
    http::credential_injector::FACTORY,
    http::csrf::FACTORY,
    http::custom_response::FACTORY,
    http::decompressor::FACTORY,
    http::error_pages::FACTORY,
    http::ext_authz::FACTORY,
    http::ext_proc::FACTORY,
    http::fault::FACTORY,
    http::forwarded::FACTORY,
    http::grpc_http1_bridge::FACTORY,
    http::grpc_stats::FACTORY,
    http::grpc_web::FACTORY,
    http::header_mutation::FACTORY,
    http::header_to_metadata::FACTORY,
    http::health_check::FACTORY,
    http::jwt_authn::FACTORY,
    http::local_ratelimit::FACTORY,
    #[cfg(feature = "lua")]
    http::lua::FACTORY,
    http::match_delegate::FACTORY,
    http::oauth2::FACTORY,
    http::on_demand::FACTORY,
    http::original_src::FACTORY,
    http::path_prefix::FACTORY,
    http::ratelimit::FACTORY,
    http::rbac::FACTORY,
    http::set_filter_state::FACTORY,
    http::set_metadata::FACTORY,
    http::stateful_session::FACTORY,
    http::usage::FACTORY,
    http::websocket_bridge::FACTORY,
];

/// What routes say to filters that keep what they have counted.
const KEEPING: &[&str] = &[
    "envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "causeway.v1.SharedRateLimit",
];

/// What routes say to filters that is made of its message alone, in no time: no file, no count, no
/// regular expression.
const LIGHT: &[&str] = &[
    "causeway.v1.AccessPerRoute",
    "causeway.v1.ErrorPagesPerRoute",
    "causeway.v1.ForwardedPerRoute",
    "causeway.v1.PathPrefixPerRoute",
    "causeway.v1.UsagePerRoute",
    "causeway.v1.WebSocketBridgePerRoute",
];

/// Around what a route says to any filter.
const WRAPPER: &str = "envoy.config.route.v3.FilterConfig";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// The program's extensions.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    context: Context,
}

impl Registry {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Message names of the HTTP filters there are.
    pub fn http_filters() -> impl Iterator<Item = &'static str> {
        FACTORIES.iter().map(|f| f.message).chain([ROUTER])
    }

    /// Message names of the access loggers there are.
    pub const fn access_loggers() -> &'static [&'static str] {
        &access_log::LOGGERS
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    /// For what stands in this place: a name that nothing else has.
    #[must_use]
    pub fn at(&self, place: String) -> Self {
        Self {
            context: self.context.at(place),
        }
    }

    /// Builds the chain of one connection manager, which counts under `stat_prefix`.
    ///
    /// # Errors
    /// A filter refuses its configuration. Decoding has checked it before, so this is only seen
    /// when something outside (a file) has changed since.
    pub fn chain<'f>(
        &self,
        stat_prefix: &str,
        filters: impl Iterator<Item = Link<'f>>,
    ) -> Result<Chain, Invalid> {
        let mut context = self.scoped(stat_prefix);
        let mut chain = Chain::default();
        let mut names: Vec<&str> = Vec::new();
        for link in filters {
            let others = names.iter().filter(|name| **name == link.name).count();
            names.push(link.name);
            context.place = self.place_of(link.name, others);
            match link.config {
                LinkConfig::Configured(filter) if filter.message_name() == ROUTER => {
                    chain.router = router(filter)?;
                }
                LinkConfig::Configured(filter) => {
                    chain.push(link.name, link.disabled, built(filter, &context)?);
                }
                LinkConfig::Changing(slot) => {
                    chain.push_changing(link.name, link.disabled, slot);
                }
            }
        }
        Ok(chain)
    }

    /// Builds one filter, which is not the router, for a chain that counts under `stat_prefix`.
    ///
    /// # Errors
    /// As [`Self::chain`].
    pub fn filter(
        &self,
        stat_prefix: &str,
        name: &str,
        filter: &TypedExtension,
    ) -> Result<Arc<dyn HttpFilter>, Invalid> {
        let context = self.scoped(stat_prefix).at(self.place_of(name, 0));
        built(filter, &context)
    }

    /// Of a filter, by its name in the chain that stands in the place of this registry, and how many
    /// of that name come before it.
    fn place_of(&self, name: &str, others: usize) -> String {
        match self.context.place.as_str() {
            "" => String::new(),
            chain => format!("{chain}/{name}/{others}"),
        }
    }

    fn scoped(&self, stat_prefix: &str) -> Context {
        Context {
            stat_scope: format!("http.{stat_prefix}."),
            ..self.context.clone()
        }
    }
}

impl Filters for Registry {
    fn per_route(&self, words: &mut dyn Iterator<Item = Word<'_>>) -> PerRoute {
        let mut route = PerRoute::default();
        for word in words {
            let (key, config) = word.said;
            match said(config, &self.context, &word) {
                Ok(Some(Said { disabled, config })) => route.say(key, disabled, config),
                Ok(None) => {}
                // Decoding has checked it; what has changed outside since closes the route.
                Err(_) => {
                    tracing::error!(filter = key, "per-route configuration went bad");
                    return PerRoute::broken();
                }
            }
        }
        route
    }

    fn layers(&self) -> &Layers {
        &self.context.layers
    }

    fn is_light(&self, host: &VirtualHost) -> bool {
        host.is_light(self)
    }
}

/// What one level says to one filter.
struct Said {
    disabled: bool,
    config: Option<RouteConfig>,
}

/// `None`: nobody knows what it means, and it says itself that this does not matter.
/// `whose`: names the place of the level among those of its table.
fn said(
    config: &TypedExtension,
    context: &Context,
    whose: &dyn fmt::Display,
) -> Result<Option<Said>, Invalid> {
    if config.message_name() != WRAPPER {
        let config = per_route(config, context, whose)?;
        return Ok(Some(Said {
            disabled: false,
            config: Some(config),
        }));
    }
    let FilterConfig {
        config: inner,
        is_optional,
        disabled,
    } = decode(config)?;
    let at = FieldPath::root().field("config");
    // Only the switch is turned.
    let inner = inner.filter(|inner| !inner.type_url.is_empty() && !disabled);
    let Some(inner) = inner else {
        return Ok(Some(Said {
            disabled,
            config: None,
        }));
    };
    let inner = TypedExtension::from_any(config.name.as_str(), inner);
    let known = |f: &'static Factory| f.per_route.iter().any(|(m, _)| *m == inner.message_name());
    if is_optional && !factories(context).any(known) {
        return Ok(None);
    }
    let config = per_route(&inner, context, whose).map_err(|invalid| invalid.within(&at))?;
    Ok(Some(Said {
        disabled,
        config: Some(config),
    }))
}

/// The message decides what it is, and not the name that it stands under.
fn per_route(
    config: &TypedExtension,
    context: &Context,
    whose: &dyn fmt::Display,
) -> Result<RouteConfig, Invalid> {
    let all = factories(context).flat_map(|factory| factory.per_route);
    let mut known = all.filter(|(message, _)| *message == config.message_name());
    match known.next() {
        Some((message, build)) if KEEPING.contains(message) && !context.place.is_empty() => {
            let place = format!("{}/{whose}", context.place);
            build(config, &context.at(place))
        }
        Some((_, build)) => build(config, context),
        None => Err(unknown("per-route configuration", config)),
    }
}

/// Ours, and those from outside.
fn factories(context: &Context) -> impl Iterator<Item = &'static Factory> + use<> {
    FACTORIES.iter().chain(context.more)
}

fn factory(filter: &TypedExtension, context: &Context) -> Result<&'static Factory, Invalid> {
    factories(context)
        .find(|f| f.message == filter.message_name())
        .ok_or_else(|| unknown("HTTP filter", filter))
}

/// A filter within another.
pub(super) fn built(
    filter: &TypedExtension,
    context: &Context,
) -> Result<Arc<dyn HttpFilter>, Invalid> {
    (factory(filter, context)?.build)(filter, context)
}

fn unknown(what: &str, extension: &TypedExtension) -> Invalid {
    let kind = extension.message_name();
    Invalid::new(
        FieldPath::root(),
        format!("{what} \"{kind}\" is not supported"),
    )
}

pub(super) fn decode<M: Message + Default>(extension: &TypedExtension) -> Result<M, Invalid> {
    M::decode(&*extension.value).map_err(|e| Invalid::new(FieldPath::root(), e.to_string()))
}

#[expect(deprecated, reason = "every field is looked at, the old ones too")]
fn router(filter: &TypedExtension) -> Result<RouterConfig, Invalid> {
    let at = FieldPath::root();
    let Router {
        dynamic_stats: _,    // always counted
        start_child_span: _, // there are no spans: listed as without effect
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats: _, // counted all the same
        upstream_http_filters,
        reject_connect_request_early_data,
        ..
    } = decode::<Router>(filter)?;
    let refused = [
        (!upstream_log.is_empty(), "upstream_log"),
        (upstream_log_options.is_some(), "upstream_log_options"),
        (!strict_check_headers.is_empty(), "strict_check_headers"),
        (respect_expected_rq_timeout, "respect_expected_rq_timeout"),
        (!upstream_http_filters.is_empty(), "upstream_http_filters"),
        (
            reject_connect_request_early_data.is_some(),
            "reject_connect_request_early_data",
        ),
    ];
    match refused.iter().find(|(set, _)| *set) {
        Some((_, field)) => Err(Invalid::unsupported(at.field(field))),
        None => Ok(RouterConfig {
            suppress_envoy_headers,
        }),
    }
}

impl Extensions for Registry {
    fn is_strict(&self) -> bool {
        self.context.strict
    }

    fn check_file(&self, path: &Path) -> Result<(), Invalid> {
        if self.context.any_file {
            return Ok(());
        }
        let looked = std::fs::metadata(path);
        let told = |e| Invalid::new(FieldPath::root(), format!("{}: {e}", path.display()));
        looked.map(drop).map_err(told)
    }

    fn check_place(&self, place: &Place) -> Result<(), Invalid> {
        let Some(known) = &self.context.servers else {
            return Ok(());
        };
        match place {
            Place::Ads if !known.ads => Err(Invalid::at("ads", "the bootstrap has no ads_config")),
            Place::Api(source) => {
                for server in &source.servers {
                    if let Target::Cluster { name, .. } = &server.target
                        && !known.clusters.contains(name)
                    {
                        let reason = format!("{name:?} is no static cluster with endpoints");
                        return Err(Invalid::at("api_config_source", reason));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_certificate(&self, certificate: &TlsCertificate) -> Result<(), Invalid> {
        match crate::tls::server::certificate(certificate) {
            Err(TlsError::Pem { what, reason }) => Err(Invalid::at(what, reason)),
            // Whether a file can be read is seen when it is.
            _ => Ok(()),
        }
    }

    fn knows_http_filter(&self, message_name: &str) -> bool {
        message_name == ROUTER || factories(&self.context).any(|f| f.message == message_name)
    }

    fn check_http_filter(&self, filter: &TypedExtension) -> Result<(), Invalid> {
        if filter.message_name() == ROUTER {
            return router(filter).map(drop);
        }
        built(filter, &self.context).map(drop)
    }

    fn filter_secrets(&self, config: &TypedExtension) -> Vec<SdsSecretConfig> {
        secrets::named_by(config)
    }

    fn check_network_filter(&self, filter: &TypedExtension) -> Result<(), Invalid> {
        network::build(filter, &self.context).map(drop)
    }

    fn check_per_route(&self, _: &str, config: &TypedExtension) -> Result<(), Invalid> {
        said(config, &self.context, &"").map(drop)
    }

    fn is_light_per_route(&self, config: &TypedExtension) -> bool {
        LIGHT.contains(&config.message_name())
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::resource::api_source::{ApiProtocol, ApiSource, Metadata, ServerRef};

    use super::*;

    #[test]
    fn only_what_the_bootstrap_has_can_be_a_management_server() {
        let api = |name: &str| {
            Place::Api(ApiSource {
                protocol: ApiProtocol::Incremental,
                servers: vec![ServerRef {
                    target: Target::Cluster {
                        name: name.to_owned(),
                        authority: String::new(),
                    },
                    metadata: Metadata::default(),
                    max_message: None,
                }],
                node_on_first_message_only: false,
            })
        };
        let unknown = Registry::default();
        assert!(unknown.check_place(&Place::Ads).is_ok());
        let known = Registry::new(Context {
            servers: Some(Arc::new(KnownServers {
                ads: false,
                clusters: ["there".to_owned()].into(),
            })),
            ..Context::default()
        });
        assert!(known.check_place(&api("there")).is_ok());
        let refused = |place| known.check_place(&place).unwrap_err().to_string();
        assert_eq!(
            refused(api("elsewhere")),
            "api_config_source: \"elsewhere\" is no static cluster with endpoints"
        );
        assert_eq!(refused(Place::Ads), "ads: the bootstrap has no ads_config");
    }
}
