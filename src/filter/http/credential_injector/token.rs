//! Access tokens by the client credentials grant (RFC 6749 section 4.4), which all threads share.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::http::injected_credentials::oauth2::v3 as oauth2;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, HttpUri, each, enumeration, not_empty, required};
use http::header::HeaderValue;
use oauth2::o_auth2::{AuthType, ClientCredentials, EndpointParameter, FlowType};
use tokio::sync::Semaphore;

use super::named;
use crate::filter::call::Calls;
use crate::filter::registry::{Context, decode};
use crate::filter::secrets::NamedSecret;
use crate::filter::token_endpoint::{Client, TokenEndpoint};

/// A token is asked for so long before the last one is over.
const AHEAD: Duration = Duration::from_secs(5);
/// Of a token that does not say how long it is good.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not kept longer, whatever it says.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Who gives access tokens, and the one that it gave last.
pub struct Source {
    endpoint: TokenEndpoint,
    client_id: String,
    client_secret: NamedSecret,
    basic: bool,
    /// What is asked for, beside the grant.
    form: Vec<(String, String)>,
    retry: Duration,
    now: ArcSwapOption<Token>,
    /// One request at a time.
    turn: Semaphore,
}

/// Shows nothing of what it sends or has.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

pub struct Token {
    /// `None`: there was none, and it is too early to ask again.
    pub value: Option<HeaderValue>,
    until: Instant,
    /// What it was asked for with; it is not used any more once that is gone or another.
    secret: Option<Arc<Vec<u8>>>,
}

impl Source {
    pub fn decode(config: &TypedExtension, context: &Context) -> Result<Self, Invalid> {
        let oauth2::OAuth2 {
            token_endpoint,
            scopes,
            flow_type,
            token_fetch_retry_interval,
            endpoint_params,
        } = decode(config)?;
        let FlowType::ClientCredentials(client) = required(flow_type, "client_credentials")?;
        let ClientCredentials {
            client_id,
            client_secret,
            auth_type,
        } = client;
        let endpoint = HttpUri::decode(required(token_endpoint, "token_endpoint")?)
            .and_then(TokenEndpoint::new)
            .at("token_endpoint")?;
        let retry = parts::duration(token_fetch_retry_interval, "token_fetch_retry_interval")?;
        if retry.is_some_and(|retry| retry < Duration::from_secs(1)) {
            let field = "token_fetch_retry_interval";
            return Err(Invalid::at(field, "is less than 1 s"));
        }
        let parameter = |EndpointParameter { name, value }| Ok((not_empty(name, "name")?, value));
        let inside = || {
            let auth: AuthType = enumeration(auth_type, "auth_type")?;
            let secret = named(client_secret, "client_secret", context)?;
            Ok((not_empty(client_id, "client_id")?, secret, auth))
        };
        let (client_id, client_secret, auth) = inside().at("client_credentials")?;
        let mut form = each("endpoint_params", endpoint_params, parameter)?;
        if !scopes.is_empty() {
            form.insert(0, ("scope".to_owned(), scopes.join(" ")));
        }
        Ok(Self {
            endpoint,
            client_id,
            client_secret,
            basic: auth == AuthType::BasicAuth,
            form,
            retry: retry.unwrap_or(Duration::from_secs(2)),
            now: ArcSwapOption::empty(),
            turn: Semaphore::new(1),
        })
    }

    /// The token that is in use, if it still may be.
    pub fn now(&self) -> Option<Arc<Token>> {
        let token = self.now.load_full()?;
        let same = match (&token.secret, self.client_secret.get()) {
            // The same may have come again.
            (Some(then), Some(now)) => {
                Arc::ptr_eq(then, &now) || verify_slices_are_equal(then, &now).is_ok()
            }
            (None, None) => true,
            _ => false,
        };
        (same && Instant::now() < token.until).then_some(token)
    }

    /// Asks, or waits for who does.
    pub async fn fetch(&self, calls: Rc<dyn Calls>) -> Option<HeaderValue> {
        let wait = self.endpoint.timeout.saturating_mul(2);
        let turn = tokio::time::timeout(wait, self.turn.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return None };
        if let Some(now) = self.now() {
            return now.value.clone();
        }
        let secret = self.client_secret.get();
        let answer = match &secret {
            Some(secret) => self.ask(&*calls, secret).await,
            None => None,
        };
        let (value, life) = match answer {
            Some((value, life)) => (Some(value), life),
            None => (None, self.retry),
        };
        let until = Instant::now() + life;
        let token = Arc::new(Token {
            value: value.clone(),
            until,
            secret,
        });
        self.now.store(Some(token));
        value
    }

    async fn ask(&self, calls: &dyn Calls, secret: &[u8]) -> Option<(HeaderValue, Duration)> {
        let id = self.client_id.as_str();
        let client = match self.basic {
            true => Client::Basic { id, secret },
            false => Client::Body { id, secret },
        };
        let mut form = vec![("grant_type", "client_credentials")];
        let more = self.form.iter();
        form.extend(more.map(|(name, value)| (name.as_str(), value.as_str())));
        let tokens = self.endpoint.ask(calls, client, &form).await?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", tokens.access_token)).ok()?;
        value.set_sensitive(true);
        let life = tokens.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
        let life = life.saturating_sub(AHEAD);
        Some((value, life.clamp(Duration::from_secs(1), LONGEST_LIFE)))
    }
}
