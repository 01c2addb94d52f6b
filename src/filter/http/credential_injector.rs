//! `envoy.filters.http.credential_injector`: puts a credential of our own into requests.
//!
//! Configuration: `envoy.extensions.filters.http.credential_injector.v3.CredentialInjector`, with a
//! generic credential (a secret as it is) or an access token by the client credentials grant (RFC 6749
//! section 4.4), which all threads share until it is nearly over. Without a credential nothing passes,
//! unless configuration says so.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::core::TypedExtensionConfig;
use causeway_xds::proto::envoy::extensions::filters::http::credential_injector::v3 as proto;
use causeway_xds::proto::envoy::extensions::http::injected_credentials::generic::v3::Generic;
use causeway_xds::proto::envoy::extensions::http::injected_credentials::oauth2::v3 as oauth2;
use causeway_xds::proto::tls::SdsSecretConfig;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{
    self, At, HttpUri, each, enumeration, not_empty, required, unknown_type,
};
use form_urlencoded::{Serializer, byte_serialize};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
};
use http::{Request, StatusCode, Uri};
use oauth2::o_auth2::{AuthType, ClientCredentials, EndpointParameter, FlowType};
use tokio::sync::Semaphore;

use super::super::call::{Calls, fetch};
use super::super::registry::{Context, decode};
use super::super::secrets::NamedSecret;
use super::super::{Factory, Flow, HttpFilter, LocalReply, Stream, Then};
use crate::error::ResponseFlag;
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
    name: "envoy.filters.http.credential_injector",
    build,
    per_route: &[],
};

const GENERIC: &str = "envoy.extensions.http.injected_credentials.generic.v3.Generic";
const OAUTH2: &str = "envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2";
/// Bytes of an answer of a token endpoint at most.
const MAX_ANSWER: u64 = 1 << 20;
/// A token is asked for so long before the last one is over.
const AHEAD: Duration = Duration::from_secs(5);
/// Of a token that does not say how long it is good.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not kept longer, whatever it says.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
struct Injector {
    overwrite: bool,
    without: bool,
    credential: Credential,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Stats {
    injected: Arc<Counter>,
    failed: Arc<Counter>,
    already: Arc<Counter>,
}

#[derive(Debug)]
enum Credential {
    Generic {
        secret: NamedSecret,
        header: HeaderName,
        prefix: String,
    },
    Token(Arc<Endpoint>),
}

/// Who gives access tokens.
struct Endpoint {
    uri: HttpUri,
    host: String,
    path: String,
    scopes: String,
    client_id: String,
    client_secret: NamedSecret,
    basic: bool,
    more: Vec<(String, String)>,
    retry: Duration,
    now: ArcSwapOption<Token>,
    /// One request at a time.
    turn: Semaphore,
}

/// Shows nothing of what it sends or has.
impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("uri", &self.uri)
            .finish_non_exhaustive()
    }
}

struct Token {
    /// `None`: there was none, and it is too early to ask again.
    value: Option<HeaderValue>,
    until: Instant,
    /// What it was asked for with; it is not used any more once that is gone or another.
    secret: Option<Arc<Vec<u8>>>,
}

/// The secrets that a configuration names.
pub fn secrets(config: &TypedExtension) -> Vec<SdsSecretConfig> {
    if config.message_name() != FACTORY.message {
        return Vec::new();
    }
    let message = decode::<proto::CredentialInjector>(config).ok();
    let Some(credential) = message
        .and_then(|m| m.credential)
        .and_then(|c| c.typed_config)
    else {
        return Vec::new();
    };
    let credential = TypedExtension::from_any("", credential);
    let secret = match credential.message_name() {
        GENERIC => decode::<Generic>(&credential)
            .ok()
            .and_then(|m| m.credential),
        OAUTH2 => {
            let flow = decode::<oauth2::OAuth2>(&credential)
                .ok()
                .and_then(|m| m.flow_type);
            flow.and_then(|FlowType::ClientCredentials(client)| client.client_secret)
        }
        _ => None,
    };
    secret.into_iter().collect()
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::CredentialInjector {
        overwrite,
        allow_request_without_credential,
        credential,
    } = decode(config)?;
    let TypedExtensionConfig {
        name: _,
        typed_config,
    } = required(credential, "credential")?;
    let any = required(typed_config, "credential.typed_config")?;
    let config = TypedExtension::from_any("", any);
    let credential = match config.message_name() {
        GENERIC => generic(&config, context),
        OAUTH2 => endpoint(&config, context).map(|e| Credential::Token(Arc::new(e))),
        _ => Err(unknown_type(&config.type_url)),
    };
    let counter = |name: &str| context.counter(&format!("credential_injector.{name}"));
    Ok(Arc::new(Injector {
        overwrite,
        without: allow_request_without_credential,
        credential: credential.at("credential.typed_config")?,
        stats: Arc::new(Stats {
            injected: counter("injected"),
            failed: counter("failed"),
            already: counter("already_exists"),
        }),
    }))
}

fn named(
    secret: Option<SdsSecretConfig>,
    field: &str,
    context: &Context,
) -> Result<NamedSecret, Invalid> {
    let secret = required(secret, field)?;
    let name = parts::secret_ref(secret).at(field)?.name;
    Ok(context.secrets.named(&name))
}

fn generic(config: &TypedExtension, context: &Context) -> Result<Credential, Invalid> {
    let Generic {
        credential,
        header,
        header_value_prefix,
    } = decode(config)?;
    let header = match header.is_empty() {
        true => AUTHORIZATION,
        false => {
            let name = parts::editable_name(header).at("header")?;
            name.parse()
                .map_err(|_| Invalid::at("header", "is no header name"))?
        }
    };
    parts::header_value(header_value_prefix.clone()).at("header_value_prefix")?;
    Ok(Credential::Generic {
        secret: named(credential, "credential", context)?,
        header,
        prefix: header_value_prefix,
    })
}

fn endpoint(config: &TypedExtension, context: &Context) -> Result<Endpoint, Invalid> {
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
    let uri = HttpUri::decode(required(token_endpoint, "token_endpoint")?).at("token_endpoint")?;
    let parsed = uri.uri.parse::<Uri>().ok();
    let host = parsed
        .as_ref()
        .and_then(Uri::authority)
        .map(ToString::to_string);
    let host = host.ok_or_else(|| Invalid::at("token_endpoint.uri", "is no absolute URI"))?;
    let path = parsed.as_ref().and_then(Uri::path_and_query);
    let path = path.map_or("/", |path| path.as_str()).to_owned();
    let retry = parts::duration(token_fetch_retry_interval, "token_fetch_retry_interval")?;
    if retry.is_some_and(|retry| retry < Duration::from_secs(1)) {
        return Err(Invalid::at(
            "token_fetch_retry_interval",
            "is less than 1 s",
        ));
    }
    let parameter = |EndpointParameter { name, value }| Ok((not_empty(name, "name")?, value));
    let inside = || {
        let auth: AuthType = enumeration(auth_type, "auth_type")?;
        let secret = named(client_secret, "client_secret", context)?;
        Ok((not_empty(client_id, "client_id")?, secret, auth))
    };
    let (client_id, client_secret, auth) = inside().at("client_credentials")?;
    Ok(Endpoint {
        uri,
        host,
        path,
        scopes: scopes.join(" "),
        client_id,
        client_secret,
        basic: auth == AuthType::BasicAuth,
        more: each("endpoint_params", endpoint_params, parameter)?,
        retry: retry.unwrap_or(Duration::from_secs(2)),
        now: ArcSwapOption::empty(),
        turn: Semaphore::new(1),
    })
}

impl HttpFilter for Injector {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let header = match &self.credential {
            Credential::Generic { header, .. } => header,
            Credential::Token(_) => &AUTHORIZATION,
        };
        if !self.overwrite && stream.request.headers.contains_key(header) {
            self.stats.already.inc();
            return Flow::Continue;
        }
        match &self.credential {
            Credential::Generic {
                secret,
                header,
                prefix,
            } => {
                let value = secret.get().and_then(|secret| {
                    // A file often ends with a line.
                    let secret = secret.trim_ascii_end();
                    (!secret.is_empty()).then(|| [prefix.as_bytes(), secret].concat())
                });
                let value = value.and_then(|value| HeaderValue::from_bytes(&value).ok());
                inject(&self.stats, self.without, stream, header, value)
            }
            Credential::Token(endpoint) => {
                if let Some(now) = endpoint.now() {
                    let value = now.value.clone();
                    return inject(&self.stats, self.without, stream, &AUTHORIZATION, value);
                }
                let (endpoint, calls) = (Arc::clone(endpoint), stream.calls());
                let (stats, without) = (Arc::clone(&self.stats), self.without);
                Flow::wait(async move {
                    let value = endpoint.fetch(calls).await;
                    Box::new(move |stream: &mut Stream<'_>| {
                        inject(&stats, without, stream, &AUTHORIZATION, value)
                    }) as Then
                })
            }
        }
    }
}

fn inject(
    stats: &Stats,
    without: bool,
    stream: &mut Stream<'_>,
    header: &HeaderName,
    value: Option<HeaderValue>,
) -> Flow {
    match value {
        Some(mut value) => {
            value.set_sensitive(true);
            stream.request.headers.insert(header, value);
            stats.injected.inc();
            Flow::Continue
        }
        None => {
            stats.failed.inc();
            if without {
                return Flow::Continue;
            }
            let reply = LocalReply::new(StatusCode::UNAUTHORIZED, "failed_to_inject_credential");
            let reply = reply.saying("Failed to inject credential.");
            Flow::reply(reply.flagged(ResponseFlag::Unauthorized))
        }
    }
}

#[derive(serde::Deserialize)]
struct Answer {
    access_token: String,
    /// Seconds.
    expires_in: Option<u64>,
}

impl Endpoint {
    fn now(&self) -> Option<Arc<Token>> {
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
    async fn fetch(&self, calls: Rc<dyn Calls>) -> Option<HeaderValue> {
        let wait = self.uri.timeout.saturating_mul(2);
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
        let secret = String::from_utf8(secret.trim_ascii_end().to_vec()).ok()?;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !self.scopes.is_empty() {
            form.append_pair("scope", &self.scopes);
        }
        let mut request = Request::post(self.path.as_str())
            .header(HOST, self.host.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        if self.basic {
            let escaped = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", escaped(&self.client_id), escaped(&secret));
            let mut value =
                HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        } else {
            form.append_pair("client_id", &self.client_id);
            form.append_pair("client_secret", &secret);
        }
        for (name, value) in &self.more {
            form.append_pair(name, value);
        }
        let body = Bytes::from(form.finish());
        let request = request.header(CONTENT_LENGTH, body.len()).body(body).ok()?;
        let HttpUri {
            cluster, timeout, ..
        } = &self.uri;
        let answer = match fetch(calls, cluster, request, *timeout, MAX_ANSWER).await {
            Ok(answer) if answer.status() == StatusCode::OK => answer,
            Ok(answer) => {
                tracing::debug!(cluster, status = answer.status().as_u16(), "no token");
                return None;
            }
            Err(error) => {
                tracing::debug!(cluster, %error, "no token");
                return None;
            }
        };
        let answer: Option<Answer> = serde_json::from_slice(answer.body()).ok();
        let answer = answer.filter(|answer| !answer.access_token.is_empty());
        let Some(answer) = answer else {
            tracing::debug!(cluster, "an answer without a token");
            return None;
        };
        let value = HeaderValue::try_from(format!("Bearer {}", answer.access_token)).ok()?;
        let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
        let life = life.saturating_sub(AHEAD);
        Some((value, life.clamp(Duration::from_secs(1), LONGEST_LIFE)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    use causeway_xds::text;
    use futures_util::future::LocalBoxFuture;
    use http::Response;
    use serde_json::{Value, json};

    use super::*;
    use crate::filter::body::{BoxBody, Whole};
    use crate::filter::call::{CallError, Members};
    use crate::filter::registry::Context;
    use crate::filter::testing::{Nowhere, TestBody, request};

    fn generic() -> Value {
        json!({"name": "generic", "typed_config": {
            "@type": format!("type.googleapis.com/{GENERIC}"),
            "credential": {"name": "key"}, "header_value_prefix": "Basic "}})
    }

    fn made(config: &Value, context: &Context) -> Result<Arc<dyn HttpFilter>, String> {
        let mut config = config.clone();
        config["@type"] = json!(format!("type.googleapis.com/{}", FACTORY.message));
        let any = text::any_from_value(&config).expect("a message");
        let extension = TypedExtension::from_any("x", any);
        build(&extension, context).map_err(|e| e.to_string())
    }

    fn ask(filter: &Arc<dyn HttpFilter>, headers: &[(&str, &str)]) -> (Flow, Option<String>) {
        let (around, mut body) = (Nowhere::default(), TestBody::default());
        let mut parts = request("/", headers);
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        let mut stream = Stream::new(&mut parts, &mut body, client, &around);
        let flow = filter.request(&mut stream);
        let value = parts.headers.get(AUTHORIZATION);
        let value = value.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        (flow, value)
    }

    fn token() -> Value {
        json!({"name": "x", "typed_config": {
            "@type": format!("type.googleapis.com/{OAUTH2}"),
            "client_credentials": {"client_id": "c", "client_secret": {"name": "s"}},
            "token_endpoint": {"uri": "http://a.test/t", "cluster": "a", "timeout": "1s"}}})
    }

    /// A token endpoint that always says the same.
    struct Server {
        answer: String,
        asked: Cell<usize>,
    }

    impl Calls for Server {
        fn call(
            &self,
            _: &str,
            _: Request<BoxBody>,
            _: Duration,
        ) -> LocalBoxFuture<'static, Result<Response<BoxBody>, CallError>> {
            self.asked.set(self.asked.get() + 1);
            let body = Whole::new(Bytes::from(self.answer.clone())).boxed();
            Box::pin(async move { Ok(Response::new(body)) })
        }

        fn members(&self, _: &str) -> Option<Members> {
            None
        }
    }

    struct Case {
        filter: Arc<dyn HttpFilter>,
        context: Context,
        server: Rc<Server>,
    }

    impl Case {
        fn new(answer: &Value) -> Self {
            let context = Context::default();
            context.secrets.set("s", Some(b"one".to_vec()));
            let server = Server {
                answer: answer.to_string(),
                asked: Cell::new(0),
            };
            Self {
                filter: made(&json!({"credential": token()}), &context).unwrap(),
                context,
                server: Rc::new(server),
            }
        }

        /// What the upstream gets, and how often a token has been asked for.
        async fn ask(&self) -> (Option<String>, usize) {
            let calls: Rc<dyn Calls> = self.server.clone();
            let around = Nowhere {
                calls,
                ..Nowhere::default()
            };
            let (mut parts, mut body) = (request("/", &[]), TestBody::default());
            let client = Ipv4Addr::LOCALHOST.into();
            let flow = {
                let mut stream = Stream::new(&mut parts, &mut body, client, &around);
                self.filter.request(&mut stream)
            };
            if let Flow::Wait(wait) = flow {
                let then = wait.await;
                let mut stream = Stream::new(&mut parts, &mut body, client, &around);
                then(&mut stream);
            }
            let value = parts.headers.get(AUTHORIZATION);
            let value = value.map(|v| v.to_str().unwrap().to_owned());
            (value, self.server.asked.get())
        }
    }

    #[tokio::test]
    async fn a_token_may_say_that_it_is_good_for_ever() {
        let case = Case::new(&json!({"access_token": "at", "expires_in": u64::MAX}));
        let bearer = Some("Bearer at".to_owned());
        assert_eq!(case.ask().await, (bearer.clone(), 1));
        assert_eq!(case.ask().await, (bearer, 1));
    }

    #[tokio::test]
    async fn a_token_does_not_outlive_its_secret() {
        let case = Case::new(&json!({"access_token": "at", "expires_in": 600}));
        let bearer = Some("Bearer at".to_owned());
        assert_eq!(case.ask().await, (bearer.clone(), 1));
        for (secret, seen) in [
            (Some("one"), (bearer.clone(), 1)),
            (Some("two"), (bearer.clone(), 2)),
            (None, (None, 2)),
            (Some("two"), (bearer, 3)),
        ] {
            let bytes = secret.map(|secret| secret.as_bytes().to_vec());
            case.context.secrets.set("s", bytes);
            assert_eq!(case.ask().await, seen, "{secret:?}");
        }
    }

    #[tokio::test]
    async fn an_empty_token_is_none() {
        let case = Case::new(&json!({"access_token": ""}));
        assert_eq!(case.ask().await, (None, 1));
    }

    #[test]
    fn nothing_passes_without_a_secret_and_what_comes_is_used_at_once() {
        let context = Context::default();
        let filter = made(&json!({"credential": generic()}), &context).unwrap();
        let (flow, _) = ask(&filter, &[]);
        assert!(matches!(flow, Flow::Reply(r) if r.status == 401));
        context.secrets.set("key", Some(b"dXNlcg==\n".to_vec()));
        assert_eq!(ask(&filter, &[]).1.as_deref(), Some("Basic dXNlcg=="));
        context.secrets.set("key", None);
        assert!(matches!(ask(&filter, &[]).0, Flow::Reply(_)));
        let open = json!({"credential": generic(), "allow_request_without_credential": true});
        let open = made(&open, &context).unwrap();
        let (flow, value) = ask(&open, &[]);
        assert!(matches!(flow, Flow::Continue) && value.is_none());
    }

    #[test]
    fn what_is_there_is_replaced_only_where_that_is_wanted() {
        let context = Context::default();
        context.secrets.set("key", Some(b"k".to_vec()));
        let own = [("authorization", "own")];
        let kept = made(&json!({"credential": generic()}), &context).unwrap();
        assert_eq!(ask(&kept, &own).1.as_deref(), Some("own"));
        let replaced = json!({"credential": generic(), "overwrite": true});
        let replaced = made(&replaced, &context).unwrap();
        assert_eq!(ask(&replaced, &own).1.as_deref(), Some("Basic k"));
    }

    #[test]
    fn a_credential_that_is_none_is_refused_by_its_path() {
        let context = Context::default();
        let refused =
            |credential: Value| made(&json!({ "credential": credential }), &context).unwrap_err();
        let error = refused(json!({"name": "x", "typed_config": {
            "@type": format!("type.googleapis.com/{GENERIC}"), "header": "host",
            "credential": {"name": "key"}}}));
        assert!(
            error.starts_with("credential.typed_config.header:"),
            "{error}"
        );
        let error = refused(json!({"name": "x", "typed_config": {
            "@type": format!("type.googleapis.com/{OAUTH2}"), "client_credentials": {"client_id": "c"},
            "token_endpoint": {"uri": "http://a.test/t", "cluster": "a", "timeout": "1s"}}}));
        assert_eq!(
            error,
            "credential.typed_config.client_credentials.client_secret: must be given"
        );
        assert!(made(&json!({"credential": token()}), &context).is_ok());
    }
}
