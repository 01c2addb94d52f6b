//! `envoy.filters.http.oauth2`: users log in at an authorization server before they come in.
//!
//! Configuration: `envoy.extensions.filters.http.oauth2.v3.OAuth2`, per route `OAuth2PerRoute`. The
//! authorization code flow with PKCE (RFC 6749, RFC 7636). What the server has given is kept in
//! cookies, signed together and each token sealed, so that nodes share nothing but their secret.
//! Nobody passes without a valid login; without the secrets nobody can log in.

mod config;
mod login;
mod seal;
mod secret;
mod session;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::oauth2::v3 as proto;
use causeway_xds::proto::tls::SdsSecretConfig;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::At;
use http::StatusCode;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use self::config::{COOKIES, Cookie, Settings};
use self::login::{Callback, Refused};
use self::seal::Sealer;
use self::session::Session;
use self::tokens::{Grant, ask};
use super::super::registry::{Context, decode};
use super::super::token_endpoint::Tokens;
use super::super::{Answer, Factory, Flow, HttpFilter, LocalReply, Stream, Then};
use crate::error::ResponseFlag;
use crate::formatter::Wants;
use crate::matching::headers::RequestHead;
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

impl Realm {
    fn look_at(self, stream: &mut Stream<'_>) -> Flow {
        let settings = &self.settings;
        let passes = settings.pass_through.matches(&RequestHead(stream.request));
        // What the filter tells the upstream nobody else may, not even who passes.
        let headers = &mut stream.request.headers;
        headers.remove(STATUS);
        headers.remove(REASON);
        // Who passes may have a credential of another kind.
        let own = |header: &HeaderName| !passes || *header != AUTHORIZATION;
        if let Some(header) = settings.forward_id.as_ref().filter(|header| own(header)) {
            headers.remove(header);
        }
        if passes {
            self.stats.passthrough.inc();
            return Flow::Continue;
        }
        if !settings.preserve_authorization {
            headers.remove(AUTHORIZATION);
        }
        let Some(secret) = settings.hmac_secret.get() else {
            return self.unauthorized("the secret for signatures is not there");
        };
        let sealer = Sealer(&secret);
        let path = stream.request.uri.path().as_bytes().to_vec();
        if settings.signout.matches(&path) {
            return self.sign_out(stream);
        }
        let session = Session::read(settings, &sealer, &stream.request.headers);
        let callback = settings.callback.matches(&path);
        let authentic = session.is_authentic(&sealer, host(stream));
        if authentic && session.is_fresh(settings, now()) {
            self.stats.success.inc();
            if callback {
                return match Callback::read(settings, &sealer, stream, now()) {
                    Ok(callback) => self.back_at(callback.original, &callback.flow, Vec::new()),
                    Err(refused) => self.not_believed(refused),
                };
            }
            self.let_in(stream, &session.bearer, &session.id);
            return Flow::Continue;
        }
        let calls = stream.calls();
        if callback {
            let callback = match Callback::read(settings, &sealer, stream, now()) {
                Ok(callback) => callback,
                Err(refused) => return self.not_believed(refused),
            };
            let Some(redirect_uri) = login::redirect_uri(settings, stream) else {
                return self.unauthorized("the redirect URI is not allowed");
            };
            let grant = Grant::Code {
                code: callback.code,
                verifier: callback.verifier,
                redirect_uri,
            };
            let (original, flow) = (callback.original, callback.flow);
            return Flow::wait(async move {
                let tokens = ask(&self.settings, calls, grant).await;
                Box::new(move |stream: &mut Stream<'_>| {
                    self.logged_in(stream, tokens, original, &flow)
                }) as Then
            });
        }
        if authentic && settings.use_refresh && !session.refresh.is_empty() {
            let grant = Grant::Refresh(session.refresh.clone());
            return Flow::wait(async move {
                let tokens = ask(&self.settings, calls, grant).await;
                Box::new(move |stream: &mut Stream<'_>| self.refreshed(stream, tokens, &session))
                    as Then
            });
        }
        self.log_in(stream, &sealer)
    }

    /// Nobody has logged in.
    fn log_in(&self, stream: &mut Stream<'_>, sealer: &Sealer<'_>) -> Flow {
        let settings = &self.settings;
        let matches = |matcher: &crate::matching::headers::AnyHeader| {
            matcher.matches(&RequestHead(stream.request))
        };
        if matches(&settings.allow_failed) {
            self.stats.allowed_failed.inc();
            self.strip(stream, &[]);
            let headers = &mut stream.request.headers;
            headers.insert(STATUS, HeaderValue::from_static("failed"));
            headers.insert(REASON, HeaderValue::from_static("no_valid_login"));
            return Flow::Continue;
        }
        if matches(&settings.deny_redirect) {
            return self.unauthorized("no valid login");
        }
        self.stats.unauthorized.inc();
        match login::begin(settings, sealer, stream, now()) {
            Some(begun) => {
                let mut reply = redirect(begun.location);
                for cookie in begun.cookies {
                    reply.headers.append(SET_COOKIE, cookie);
                }
                Flow::reply(reply)
            }
            None => self.unauthorized("a login cannot be begun for this host"),
        }
    }

    /// The token endpoint has answered, or has not.
    fn logged_in(
        &self,
        stream: &mut Stream<'_>,
        tokens: Option<Tokens>,
        original: HeaderValue,
        flow: &str,
    ) -> Flow {
        let settings = &self.settings;
        let refused = |reason| {
            let flow = Some(flow.to_owned());
            self.not_believed(Refused { reason, flow })
        };
        let (Some(tokens), Some(secret)) = (tokens, settings.hmac_secret.get()) else {
            return refused("no tokens");
        };
        let Some(cookies) = self.cookies(&tokens, &Sealer(&secret), host(stream)) else {
            return refused("tokens that cannot be kept");
        };
        self.stats.success.inc();
        self.back_at(original, flow, cookies)
    }

    /// A login has come to its end, and the client is where it wanted to go.
    fn back_at(&self, original: HeaderValue, flow: &str, cookies: SetCookies) -> Flow {
        let mut reply = redirect(original);
        let ended = login::ended(&self.settings, flow);
        for cookie in cookies.into_iter().chain(ended) {
            reply.headers.append(SET_COOKIE, cookie);
        }
        Flow::reply(reply)
    }

    /// A login has come to nothing. What it kept at the client is of no use any more.
    fn not_believed(&self, refused: Refused) -> Flow {
        let Refused { reason, flow } = refused;
        let mut reply = self.refusal(reason);
        for cookie in flow
            .iter()
            .flat_map(|flow| login::ended(&self.settings, flow))
        {
            reply.headers.append(SET_COOKIE, cookie);
        }
        Flow::reply(reply)
    }

    fn refreshed(
        &self,
        stream: &mut Stream<'_>,
        tokens: Option<Tokens>,
        session: &Session,
    ) -> Flow {
        let Some(secret) = self.settings.hmac_secret.get() else {
            return self.unauthorized("the secret for signatures is not there");
        };
        let sealer = Sealer(&secret);
        let cookies = tokens.and_then(|mut tokens| {
            // Who gives no new ones leaves the old ones good.
            if tokens.refresh_token.is_empty() {
                tokens.refresh_token.clone_from(&session.refresh);
            }
            if tokens.id_token.is_empty() {
                tokens.id_token.clone_from(&session.id);
            }
            let cookies = self.cookies(&tokens, &sealer, host(stream))?;
            Some((cookies, tokens))
        });
        match cookies {
            Some((cookies, tokens)) => {
                self.stats.refresh_success.inc();
                stream.keep(cookies);
                self.let_in(stream, &tokens.access_token, &tokens.id_token);
                Flow::Continue
            }
            None => {
                self.stats.refresh_failure.inc();
                self.log_in(stream, &sealer)
            }
        }
    }

    /// What keeps these tokens at the client.
    fn cookies(&self, tokens: &Tokens, sealer: &Sealer<'_>, host: &[u8]) -> Option<SetCookies> {
        let settings = &self.settings;
        let lasts = match tokens.expires_in {
            Some(seconds) => seconds,
            None => settings.default_expires_in.as_secs(),
        };
        // How long it is good must be known.
        let expires = now().checked_add(lasts).filter(|_| lasts > 0)?;
        let refresh = match settings.use_refresh {
            true => tokens.refresh_token.as_str(),
            false => "",
        };
        let session = Session {
            bearer: kept(&tokens.access_token, settings.set_access),
            id: kept(&tokens.id_token, settings.set_id),
            refresh: kept(refresh, settings.set_refresh),
            expires: expires.to_string(),
            hmac: String::new(),
        };
        let refresh_lasts = settings.refresh_expires_in.as_secs();
        let mut cookies = Vec::new();
        let mut put = |which: Cookie, value: &str, lasts: u64| {
            let rule = settings.cookie(which);
            let text = format!("{}={value};Max-Age={lasts}{}", rule.name, rule.attributes);
            cookies.push(HeaderValue::try_from(text).ok()?);
            Some(())
        };
        // All are signed together, so all last as long as the last of them is needed.
        let longest = match session.refresh.is_empty() {
            true => lasts,
            false => lasts.max(refresh_lasts),
        };
        put(Cookie::Hmac, &session.sign(sealer, host), longest)?;
        put(Cookie::Expires, &session.expires, longest)?;
        for (which, token) in [
            (Cookie::Bearer, &session.bearer),
            (Cookie::Id, &session.id),
            (Cookie::Refresh, &session.refresh),
        ] {
            if !token.is_empty() {
                let name = &settings.cookie(which).name;
                let value = match settings.seals {
                    true => sealer.seal(name, token)?,
                    false => token.clone(),
                };
                put(which, &value, longest)?;
            }
        }
        Some(cookies)
    }

    /// A request of somebody who has logged in.
    fn let_in(&self, stream: &mut Stream<'_>, bearer: &str, id: &str) {
        let settings = &self.settings;
        let name = |which| settings.cookie(which).name.as_str();
        let shown = match settings.forward_bearer {
            true => vec![(name(Cookie::Bearer), bearer), (name(Cookie::Id), id)],
            false => Vec::new(),
        };
        self.strip(stream, &shown);
        let headers = &mut stream.request.headers;
        if settings.forward_bearer
            && !bearer.is_empty()
            && let Ok(mut value) = HeaderValue::try_from(format!("Bearer {bearer}"))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if let Some(header) = settings.forward_id.as_ref().filter(|_| !id.is_empty()) {
            let value = match *header == AUTHORIZATION {
                true => HeaderValue::try_from(format!("Bearer {id}")),
                false => HeaderValue::try_from(id),
            };
            if let Ok(mut value) = value {
                value.set_sensitive(true);
                headers.insert(header, value);
            }
        }
    }

    /// Takes the filter's own cookies from a request, and puts these into it.
    fn strip(&self, stream: &mut Stream<'_>, shown: &[(&str, &str)]) {
        let headers = &mut stream.request.headers;
        let own = |pair: &[u8]| {
            let end = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            let name = &pair[..end];
            COOKIES.iter().any(|(which, _)| {
                let known = self.settings.cookie(*which).name.as_bytes();
                // Those of a login have its number after a dot.
                name.strip_prefix(known)
                    .is_some_and(|rest| rest.is_empty() || rest[0] == b'.')
            })
        };
        let mut left: Vec<Vec<u8>> = Vec::new();
        for field in headers.get_all(COOKIE) {
            let pairs = field.as_bytes().split(|b| *b == b';');
            let pairs = pairs.map(<[u8]>::trim_ascii);
            left.extend(
                pairs
                    .filter(|pair| !pair.is_empty() && !own(pair))
                    .map(<[u8]>::to_vec),
            );
        }
        let shown = shown.iter().filter(|(_, token)| !token.is_empty());
        left.extend(shown.map(|(name, token)| format!("{name}={token}").into_bytes()));
        headers.remove(COOKIE);
        if let Ok(value) = HeaderValue::from_bytes(&left.join(&b"; "[..]))
            && !left.is_empty()
        {
            headers.insert(COOKIE, value);
        }
    }

    fn sign_out(&self, stream: &mut Stream<'_>) -> Flow {
        let settings = &self.settings;
        let Some(location) = login::after_logout(settings, stream) else {
            return self.unauthorized("there is nowhere to go");
        };
        let mut reply = redirect(location);
        let begun = login::logins(settings, &stream.request.headers);
        for flow in begun.iter().take(login::MAX_ENDED) {
            for cookie in login::ended(settings, flow) {
                reply.headers.append(SET_COOKIE, cookie);
            }
        }
        for (which, _) in COOKIES {
            if !matches!(which, Cookie::Nonce | Cookie::Verifier) {
                let rule = settings.cookie(which);
                let text = format!("{}=deleted;Max-Age=0{}", rule.name, rule.attributes);
                if let Ok(cookie) = HeaderValue::try_from(text) {
                    reply.headers.append(SET_COOKIE, cookie);
                }
            }
        }
        Flow::reply(reply)
    }

    fn unauthorized(&self, reason: &'static str) -> Flow {
        Flow::reply(self.refusal(reason))
    }

    fn refusal(&self, reason: &'static str) -> LocalReply {
        self.stats.failure.inc();
        tracing::debug!(reason, "not let in");
        let reply = LocalReply::new(StatusCode::UNAUTHORIZED, "oauth_unauthorized");
        let reply = reply.saying("OAuth flow failed.");
        reply.flagged(ResponseFlag::Unauthorized)
    }
}

/// A token that is not kept counts as one that is not there.
fn kept(token: &str, wanted: bool) -> String {
    if wanted {
        token.to_owned()
    } else {
        String::new()
    }
}

fn redirect(location: HeaderValue) -> LocalReply {
    let mut reply = LocalReply::new(StatusCode::FOUND, "oauth_redirect");
    let mut headers = HeaderMap::new();
    headers.insert(http::header::LOCATION, location);
    // What is said to one is said to nobody else.
    let never = HeaderValue::from_static("no-store");
    headers.insert(http::header::CACHE_CONTROL, never);
    reply.headers = headers;
    reply
}

fn host<'s>(stream: &'s Stream<'_>) -> &'s [u8] {
    let host = stream.request.headers.get(http::header::HOST);
    host.map_or(b"", HeaderValue::as_bytes)
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
