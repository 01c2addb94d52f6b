//! What an `OAuth2Config` message asks for.

use std::time::Duration;

use causeway_xds::proto::envoy::extensions::filters::http::oauth2::v3 as proto;
use causeway_xds::proto::envoy::r#type::matcher::v3::{PathMatcher, path_matcher::Rule};
use causeway_xds::proto::route::HeaderMatcher;
use causeway_xds::proto::tls::SdsSecretConfig;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{
    self, At, HttpUri, each, enumeration, fault, flag, not_empty, required,
};
use http::Uri;
use http::header::HeaderName;
use proto::cookie_config::SameSite;
use proto::o_auth2_config::AuthType;
use proto::o_auth2_credentials::{CookieNames, TokenFormation};
use proto::post_logout_redirect_uri::Config as AfterLogout;

use super::secret::Secret;
use crate::filter::registry::Context;
use crate::filter::token_endpoint::TokenEndpoint;
use crate::formatter::{Template, Wants};
use crate::matching::headers::AnyHeader;
use crate::matching::text::Test;

/// Bytes of the secret for signatures at least: with a shorter one anybody can make sessions.
const HMAC_BYTES: usize = 16;

/// The cookies of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookie {
    Bearer,
    Hmac,
    Expires,
    Id,
    Refresh,
    Nonce,
    Verifier,
}

pub const COOKIES: [(Cookie, &str); 7] = [
    (Cookie::Bearer, "BearerToken"),
    (Cookie::Hmac, "OauthHMAC"),
    (Cookie::Expires, "OauthExpires"),
    (Cookie::Id, "IdToken"),
    (Cookie::Refresh, "RefreshToken"),
    (Cookie::Nonce, "OauthNonce"),
    (Cookie::Verifier, "OauthCodeVerifier"),
];

#[derive(Clone, Debug)]
pub struct CookieRule {
    pub name: String,
    /// What follows the value, with its semicolons, except how long it lasts.
    pub attributes: String,
}

/// How the client is known at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    Body,
    Basic,
    Certificate,
}

#[derive(Debug)]
pub struct Settings {
    pub token_endpoint: TokenEndpoint,
    pub authorization_endpoint: String,
    pub end_session_endpoint: Option<String>,
    /// `None`: not said; `Some(None)`: the root of the host.
    pub after_logout: Option<Option<Template>>,
    pub client_id: String,
    pub client_secret: Option<Secret>,
    pub hmac_secret: Secret,
    pub cookies: Vec<CookieRule>,
    pub redirect_uri: Template,
    pub callback: Test,
    pub signout: Test,
    pub forward_bearer: bool,
    pub forward_id: Option<HeaderName>,
    pub preserve_authorization: bool,
    pub pass_through: AnyHeader,
    pub deny_redirect: AnyHeader,
    pub allow_failed: AnyHeader,
    pub scopes: String,
    pub resources: Vec<String>,
    pub auth: Auth,
    pub use_refresh: bool,
    pub default_expires_in: Duration,
    pub refresh_expires_in: Duration,
    pub set_id: bool,
    pub set_access: bool,
    pub set_refresh: bool,
    pub nonce_lasts: Duration,
    pub verifier_lasts: Duration,
    pub seals: bool,
    pub original_base: Option<Template>,
    /// In lower case, `*.` for all below.
    pub allowed_domains: Vec<String>,
    pub stat_prefix: String,
    pub wants: Wants,
}

impl Settings {
    pub fn cookie(&self, which: Cookie) -> &CookieRule {
        &self.cookies[which as usize]
    }

    pub fn decode(message: proto::OAuth2Config, context: &Context) -> Result<Self, Invalid> {
        let proto::OAuth2Config {
            token_endpoint,
            retry_policy,
            authorization_endpoint,
            end_session_endpoint,
            post_logout_redirect_uri,
            credentials,
            redirect_uri,
            redirect_path_matcher,
            signout_path,
            forward_bearer_token,
            forward_id_token,
            preserve_authorization_header,
            pass_through_matcher,
            auth_scopes,
            resources,
            auth_type,
            use_refresh_token,
            default_expires_in,
            deny_redirect_matcher,
            default_refresh_token_expires_in,
            disable_id_token_set_cookie,
            disable_access_token_set_cookie,
            disable_refresh_token_set_cookie,
            cookie_configs,
            stat_prefix,
            csrf_token_expires_in,
            code_verifier_token_expires_in,
            disable_token_encryption,
            allow_failed_matcher,
            original_request_uri,
            allowed_redirect_domains,
            // The cookie lasts as long as the others, whatever the token says.
            use_access_token_expiry_for_id_token_cookie: _,
            private_key_jwt_config,
        } = message;
        refuse!(retry_policy, private_key_jwt_config);
        if preserve_authorization_header && forward_bearer_token {
            let reason = "cannot be true together with forward_bearer_token";
            return Err(Invalid::at("preserve_authorization_header", reason));
        }
        let auth = match enumeration(auth_type, "auth_type")? {
            AuthType::UrlEncodedBody => Auth::Body,
            AuthType::BasicAuth => Auth::Basic,
            AuthType::TlsClientAuth => Auth::Certificate,
            AuthType::PrivateKeyJwt => {
                return Err(Invalid::at(
                    "auth_type",
                    "PRIVATE_KEY_JWT is not supported yet",
                ));
            }
        };
        let token_endpoint = HttpUri::decode(required(token_endpoint, "token_endpoint")?)
            .and_then(TokenEndpoint::new)
            .at("token_endpoint")?;
        let mut wants = Wants::default();
        let mut template = |text: &str| {
            let template = Template::compile(&parts::header_format(text)?, "");
            template.note(&mut wants);
            Ok::<_, Invalid>(template)
        };
        let redirect_uri = not_empty(redirect_uri, "redirect_uri")?;
        let redirect_uri = template(&redirect_uri).at("redirect_uri")?;
        let original_base = match original_request_uri.as_str() {
            "" => None,
            text => Some(template(text).at("original_request_uri")?),
        };
        let after_logout = match post_logout_redirect_uri.and_then(|uri| uri.config) {
            None => Some(None),
            Some(AfterLogout::Disabled(_)) => None,
            Some(AfterLogout::Uri(uri)) => {
                Some(Some(template(&uri).at("post_logout_redirect_uri.uri")?))
            }
        };
        let forward_id = match forward_id_token {
            None => None,
            Some(proto::OAuth2TokenForwarding { header }) => {
                let name = parts::editable_name(header).at("forward_id_token.header")?;
                let both = forward_bearer_token || preserve_authorization_header;
                if name == "authorization" && both {
                    let reason = "is what another field has to say";
                    return Err(Invalid::at("forward_id_token.header", reason));
                }
                let name = name.parse().map_err(|_| fault("is no header name"));
                Some(name.at("forward_id_token.header")?)
            }
        };
        for (text, field) in [
            (&authorization_endpoint, "authorization_endpoint"),
            (&end_session_endpoint, "end_session_endpoint"),
        ] {
            let absolute = |text: &str| {
                let uri = text.parse::<Uri>();
                uri.is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some())
            };
            let optional = field == "end_session_endpoint" && text.is_empty();
            if !optional && !absolute(text) {
                return Err(Invalid::at(field, "is no absolute URI"));
            }
        }
        let length = |message, field: &str, default: u64| {
            let length = parts::duration(message, field)?;
            Ok::<_, Invalid>(length.unwrap_or(Duration::from_secs(default)))
        };
        let credentials = required(credentials, "credentials")?;
        let credentials = Credentials::decode(credentials, cookie_configs, auth, context);
        let credentials = credentials.at("credentials")?;
        let scopes = match auth_scopes.is_empty() {
            true => "user".to_owned(),
            false => auth_scopes.join(" "),
        };
        let domain = |domain: String| {
            let domain = not_empty(domain, "")?;
            Ok(domain.to_ascii_lowercase())
        };
        Ok(Self {
            token_endpoint,
            authorization_endpoint,
            end_session_endpoint: Some(end_session_endpoint).filter(|text| !text.is_empty()),
            after_logout,
            client_id: credentials.client_id,
            client_secret: credentials.client_secret,
            hmac_secret: credentials.hmac_secret,
            cookies: credentials.cookies,
            redirect_uri,
            callback: path(redirect_path_matcher).at("redirect_path_matcher")?,
            signout: path(signout_path).at("signout_path")?,
            forward_bearer: forward_bearer_token,
            forward_id,
            preserve_authorization: preserve_authorization_header,
            pass_through: matchers(pass_through_matcher, "pass_through_matcher")?,
            deny_redirect: matchers(deny_redirect_matcher, "deny_redirect_matcher")?,
            allow_failed: matchers(allow_failed_matcher, "allow_failed_matcher")?,
            scopes,
            resources,
            auth,
            use_refresh: flag(use_refresh_token, true),
            default_expires_in: length(default_expires_in, "default_expires_in", 0)?,
            refresh_expires_in: length(
                default_refresh_token_expires_in,
                "default_refresh_token_expires_in",
                604_800,
            )?,
            set_id: !disable_id_token_set_cookie,
            set_access: !disable_access_token_set_cookie,
            set_refresh: !disable_refresh_token_set_cookie,
            nonce_lasts: length(csrf_token_expires_in, "csrf_token_expires_in", 600)?,
            verifier_lasts: length(
                code_verifier_token_expires_in,
                "code_verifier_token_expires_in",
                600,
            )?,
            seals: !disable_token_encryption,
            original_base,
            allowed_domains: each("allowed_redirect_domains", allowed_redirect_domains, domain)?,
            stat_prefix,
            wants,
        })
    }
}

struct Credentials {
    client_id: String,
    client_secret: Option<Secret>,
    hmac_secret: Secret,
    cookies: Vec<CookieRule>,
}

impl Credentials {
    fn decode(
        message: proto::OAuth2Credentials,
        attributes: Option<proto::CookieConfigs>,
        auth: Auth,
        context: &Context,
    ) -> Result<Self, Invalid> {
        let proto::OAuth2Credentials {
            client_id,
            token_secret,
            cookie_names,
            cookie_domain,
            token_formation,
        } = message;
        let named = |secret: SdsSecretConfig, least: usize| {
            let name = parts::secret_ref(secret)?.name;
            let named = context.secrets.named(&name);
            Ok::<_, Invalid>(Secret::new(name, named, least))
        };
        let client_secret = match (token_secret, auth) {
            (_, Auth::Certificate) => None,
            (secret, _) => {
                let secret = required(secret, "token_secret")?;
                Some(named(secret, 1).at("token_secret")?)
            }
        };
        let TokenFormation::HmacSecret(secret) = required(token_formation, "hmac_secret")?;
        let CookieNames {
            bearer_token,
            oauth_hmac,
            oauth_expires,
            id_token,
            refresh_token,
            oauth_nonce,
            code_verifier,
        } = cookie_names.unwrap_or_default();
        let proto::CookieConfigs {
            bearer_token_cookie_config,
            oauth_hmac_cookie_config,
            oauth_expires_cookie_config,
            id_token_cookie_config,
            refresh_token_cookie_config,
            oauth_nonce_cookie_config,
            code_verifier_cookie_config,
        } = attributes.unwrap_or_default();
        let configured = [
            (bearer_token, bearer_token_cookie_config),
            (oauth_hmac, oauth_hmac_cookie_config),
            (oauth_expires, oauth_expires_cookie_config),
            (id_token, id_token_cookie_config),
            (refresh_token, refresh_token_cookie_config),
            (oauth_nonce, oauth_nonce_cookie_config),
            (code_verifier, code_verifier_cookie_config),
        ];
        if !cookie_part(&cookie_domain) {
            return Err(Invalid::at("cookie_domain", "is no domain"));
        }
        let rules = COOKIES.iter().zip(configured);
        let rules = rules.map(|((_, default), (name, config))| {
            let name = match name.is_empty() {
                true => (*default).to_owned(),
                false => parts::header_name(&name).map(|_| name).at("cookie_names")?,
            };
            let attributes = attributes_of(config.unwrap_or_default(), &cookie_domain)?;
            Ok(CookieRule { name, attributes })
        });
        Ok(Self {
            client_id: not_empty(client_id, "client_id")?,
            client_secret,
            hmac_secret: named(secret, HMAC_BYTES).at("hmac_secret")?,
            cookies: rules.collect::<Result<_, Invalid>>()?,
        })
    }
}

/// What can stand in an attribute of a cookie.
fn cookie_part(text: &str) -> bool {
    let wrong = |byte: u8| byte.is_ascii_control() || b" \",;<>\\".contains(&byte);
    !text.bytes().any(wrong)
}

fn attributes_of(message: proto::CookieConfig, domain: &str) -> Result<String, Invalid> {
    let proto::CookieConfig {
        same_site,
        path,
        partitioned,
    } = message;
    if !cookie_part(&path) || !(path.is_empty() || path.starts_with('/')) {
        return Err(Invalid::at("cookie_configs.path", "is no path"));
    }
    let path = if path.is_empty() { "/" } else { &path };
    let mut text = format!(";path={path};secure;HttpOnly");
    if !domain.is_empty() {
        text.push_str(";domain=");
        text.push_str(domain);
    }
    text.push_str(match enumeration(same_site, "cookie_configs.same_site")? {
        SameSite::Disabled => "",
        SameSite::Strict => ";SameSite=Strict",
        SameSite::Lax => ";SameSite=Lax",
        SameSite::None => ";SameSite=None",
    });
    if partitioned {
        text.push_str(";Partitioned");
    }
    Ok(text)
}

fn path(message: Option<PathMatcher>) -> Result<Test, Invalid> {
    let rule = message.and_then(|message| message.rule);
    let Rule::Path(matcher) = required(rule, "path")?;
    Ok(Test::string(&parts::string_matcher(matcher).at("path")?))
}

fn matchers(list: Vec<HeaderMatcher>, field: &str) -> Result<AnyHeader, Invalid> {
    let list = each(field, list, parts::header_matcher)?;
    Ok(AnyHeader::compile(&list))
}
