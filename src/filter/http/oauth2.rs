//! `envoy.filters.http.oauth2`: users log in at an authorization server before they come in.
//!
//! Configuration: `envoy.extensions.filters.http.oauth2.v3.OAuth2`, per route `OAuth2PerRoute`. The
//! authorization code flow with PKCE (RFC 6749, RFC 7636). What the server has given is kept in
//! cookies, signed together and each token sealed, so that nodes share nothing but their secret.
//! Nobody passes without a valid login; without the secrets nobody can log in.

mod config;
mod cookies;
mod flow;
mod login;
mod seal;
mod secret;
mod session;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::oauth2::v3 as proto;
use causeway_xds::proto::tls::SdsSecretConfig;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::At;
use http::header::{HeaderName, HeaderValue, SET_COOKIE};

use self::config::Settings;
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use crate::formatter::Wants;
use crate::route::RouteConfig;
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.oauth2.v3.OAuth2",
    name: "envoy.filters.http.oauth2",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.oauth2.v3.OAuth2PerRoute",
        build_per_route,
    )],
};

const STATUS: HeaderName = HeaderName::from_static("x-envoy-oauth-status");
const REASON: HeaderName = HeaderName::from_static("x-envoy-oauth-failure-reason");

#[derive(Debug)]
struct OAuth2 {
    /// Without any of its own, routes have them.
    realm: Option<Realm>,
}

/// One application at one authorization server.
#[derive(Clone, Debug)]
struct Realm {
    settings: Arc<Settings>,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Stats {
    success: Arc<Counter>,
    failure: Arc<Counter>,
    unauthorized: Arc<Counter>,
    passthrough: Arc<Counter>,
    allowed_failed: Arc<Counter>,
    refresh_success: Arc<Counter>,
    refresh_failure: Arc<Counter>,
}

impl Realm {
    fn new(message: proto::OAuth2Config, context: &Context) -> Result<Self, Invalid> {
        let settings = Settings::decode(message, context).at("config")?;
        let prefix = match settings.stat_prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}."),
        };
        let counter = |name: &str| context.counter(&format!("{prefix}{name}"));
        Ok(Self {
            settings: Arc::new(settings),
            stats: Arc::new(Stats {
                success: counter("oauth_success"),
                failure: counter("oauth_failure"),
                unauthorized: counter("oauth_unauthorized_rq"),
                passthrough: counter("oauth_passthrough"),
                allowed_failed: counter("oauth_allow_failed_passthrough"),
                refresh_success: counter("oauth_refreshtoken_success"),
                refresh_failure: counter("oauth_refreshtoken_failure"),
            }),
        })
    }
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::OAuth2 { config } = decode(config)?;
    let realm = config
        .map(|config| Realm::new(config, context))
        .transpose()?;
    Ok(Arc::new(OAuth2 { realm }))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let proto::OAuth2PerRoute { config } = decode(config)?;
    let config = config.ok_or_else(|| Invalid::at("config", "must be given"))?;
    let realm = Realm::new(config, context)?;
    let wants = realm.settings.wants.clone();
    Ok(RouteConfig::new(realm).wanting(wants))
}

/// The secrets that a configuration names, for the filter or for a route.
pub fn secrets(config: &TypedExtension) -> Vec<SdsSecretConfig> {
    use proto::o_auth2_credentials::TokenFormation;
    let config = match config.message_name() {
        name if name == FACTORY.message => decode::<proto::OAuth2>(config)
            .ok()
            .and_then(|message| message.config),
        name if name == FACTORY.per_route[0].0 => decode::<proto::OAuth2PerRoute>(config)
            .ok()
            .and_then(|message| message.config),
        _ => None,
    };
    let Some(credentials) = config.and_then(|config| config.credentials) else {
        return Vec::new();
    };
    let hmac = credentials
        .token_formation
        .map(|TokenFormation::HmacSecret(secret)| secret);
    credentials.token_secret.into_iter().chain(hmac).collect()
}

/// What the client is told, whoever answers.
type SetCookies = Vec<HeaderValue>;

impl HttpFilter for OAuth2 {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        match stream.route_config::<Realm>().or(self.realm.as_ref()) {
            Some(realm) => realm.clone().look_at(stream),
            None => Flow::Continue,
        }
    }

    fn response(&self, answer: &mut Answer<'_>) {
        if let Some(cookies) = answer.kept::<SetCookies>() {
            for cookie in cookies.iter() {
                answer.headers.append(SET_COOKIE, cookie.clone());
            }
        }
    }

    fn wants(&self) -> Wants {
        let realm = self.realm.as_ref();
        realm.map_or(Wants::NONE, |realm| realm.settings.wants.clone())
    }
}
