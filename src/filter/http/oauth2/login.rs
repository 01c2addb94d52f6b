//! A login: from the redirect to the authorization server to the one back, and the session after it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use form_urlencoded::Serializer;
use http::Uri;
use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::config::{Cookie, Settings};
use super::host;
use super::seal::{Sealer, challenge, random};
use crate::filter::Stream;
use crate::formatter::Template;
use crate::matching::headers::cookie_value;

/// What the cookies say of somebody who has logged in.
#[derive(Default)]
pub struct Session {
    pub bearer: String,
    pub id: String,
    pub refresh: String,
    /// Seconds since 1970.
    pub expires: String,
    pub hmac: String,
}

impl Session {
    pub fn read(settings: &Settings, sealer: &Sealer<'_>, headers: &HeaderMap) -> Self {
        let plain = |which| cookie(headers, &settings.cookie(which).name).unwrap_or_default();
        let token = |which| {
            let sealed = plain(which);
            match settings.seals {
                true => {
                    let name = &settings.cookie(which).name;
                    sealer.open(name, &sealed).unwrap_or_default()
                }
                false => sealed,
            }
        };
        Self {
            bearer: token(Cookie::Bearer),
            id: token(Cookie::Id),
            refresh: token(Cookie::Refresh),
            expires: plain(Cookie::Expires),
            hmac: plain(Cookie::Hmac),
        }
    }

    fn parts<'p>(&'p self, host: &'p [u8]) -> [&'p [u8]; 6] {
        [
            b"session",
            host,
            self.expires.as_bytes(),
            self.bearer.as_bytes(),
            self.id.as_bytes(),
            self.refresh.as_bytes(),
        ]
    }

    pub fn sign(&self, sealer: &Sealer<'_>, host: &[u8]) -> String {
        sealer.sign(&self.parts(host))
    }

    /// Whether somebody has logged in here: nothing of a session counts otherwise.
    pub fn is_authentic(&self, sealer: &Sealer<'_>, host: &[u8]) -> bool {
        sealer.verifies(&self.parts(host), &self.hmac)
    }

    /// Whether they may still come in. Whoever keeps no tokens at the client has only the time to go by.
    pub fn is_fresh(&self, settings: &Settings, now: u64) -> bool {
        let fresh = self
            .expires
            .parse::<u64>()
            .is_ok_and(|expires| now < expires);
        let has = !self.bearer.is_empty() || !settings.set_access;
        fresh && has
    }
}

/// A value among all that the client sends.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get_all(COOKIE).iter().find_map(|field| {
        let value = cookie_value(field.as_bytes(), name)?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// The first steps of a login.
pub struct Begun {
    pub location: HeaderValue,
    pub cookies: Vec<HeaderValue>,
}

/// `None`: this is no place to come back to.
pub fn begin(settings: &Settings, sealer: &Sealer<'_>, stream: &Stream<'_>) -> Option<Begun> {
    let original = original(settings, stream)?;
    let redirect_uri = redirect_uri(settings, stream)?;
    let (nonce, verifier) = (random::<16>()?, random::<32>()?);
    let csrf = format!(
        "{nonce}.{}",
        sealer.sign(&[b"login", nonce.as_bytes(), original.as_bytes()])
    );
    let flow = flow_of(&nonce);
    let state = serde_json::json!({"url": original, "csrf_token": csrf}).to_string();
    let mut query = Serializer::new(String::new());
    query
        .append_pair("client_id", &settings.client_id)
        .append_pair("code_challenge", &challenge(&verifier))
        .append_pair("code_challenge_method", "S256")
        .append_pair("redirect_uri", &redirect_uri)
        .append_pair("response_type", "code")
        .append_pair("scope", &settings.scopes)
        .append_pair("state", &URL_SAFE_NO_PAD.encode(state));
    for resource in &settings.resources {
        query.append_pair("resource", resource);
    }
    let location = with_query(&settings.authorization_endpoint, &query.finish());
    let named = |which| format!("{}.{flow}", settings.cookie(which).name);
    let sealed = sealer.seal(&named(Cookie::Verifier), &verifier)?;
    let set = |which, value: &str, lasts: u64| {
        let attributes = &settings.cookie(which).attributes;
        let text = format!("{}={value};Max-Age={lasts}{attributes}", named(which));
        HeaderValue::try_from(text).ok()
    };
    Some(Begun {
        location: HeaderValue::try_from(location).ok()?,
        cookies: vec![
            set(Cookie::Nonce, &csrf, settings.nonce_lasts.as_secs())?,
            set(Cookie::Verifier, &sealed, settings.verifier_lasts.as_secs())?,
        ],
    })
}

/// Tells logins apart that go on at the same time.
fn flow_of(nonce: &str) -> &str {
    nonce.get(..8).unwrap_or(nonce)
}

/// The cookies of a login are of no use any more.
pub fn ended(settings: &Settings, flow: &str) -> Vec<HeaderValue> {
    let gone = |which| {
        let rule = settings.cookie(which);
        let text = format!("{}.{flow}=deleted;Max-Age=0{}", rule.name, rule.attributes);
        HeaderValue::try_from(text).ok()
    };
    let both = [Cookie::Nonce, Cookie::Verifier];
    both.into_iter().filter_map(gone).collect()
}

/// The authorization server has sent somebody back.
pub struct Callback {
    pub code: String,
    pub verifier: String,
    /// Where they wanted to go.
    pub original: HeaderValue,
    pub flow: String,
}

impl Callback {
    /// # Errors
    /// Why it is not believed.
    pub fn read(
        settings: &Settings,
        sealer: &Sealer<'_>,
        stream: &Stream<'_>,
    ) -> Result<Self, &'static str> {
        let query = stream.request.uri.query().unwrap_or_default();
        let (mut code, mut state, mut error) = (None, None, false);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "code" => code = Some(value.into_owned()),
                "state" => state = Some(value.into_owned()),
                "error" => error = true,
                _ => {}
            }
        }
        if error {
            return Err("the authorization server has refused");
        }
        let code = code.filter(|code| !code.is_empty()).ok_or("no code")?;
        let state = URL_SAFE_NO_PAD.decode(state.ok_or("no state")?);
        let state: Option<serde_json::Value> = state
            .ok()
            .and_then(|state| serde_json::from_slice(&state).ok());
        let text = |name: &str| {
            let value = state.as_ref().and_then(|state| state.get(name));
            value
                .and_then(serde_json::Value::as_str)
                .ok_or("a state that is none")
        };
        let (original, csrf) = (text("url")?, text("csrf_token")?);
        let (nonce, signature) = csrf.split_once('.').ok_or("a state that is none")?;
        // It was made here, for this way.
        if !sealer.verifies(
            &[b"login", nonce.as_bytes(), original.as_bytes()],
            signature,
        ) {
            return Err("a state that was not made here");
        }
        // And for this client.
        let flow = flow_of(nonce);
        let named = |which| format!("{}.{flow}", settings.cookie(which).name);
        let headers = &stream.request.headers;
        if cookie(headers, &named(Cookie::Nonce)).as_deref() != Some(csrf) {
            return Err("a login that this client has not begun");
        }
        let name = named(Cookie::Verifier);
        let sealed = cookie(headers, &name).ok_or("no verifier")?;
        let verifier = sealer
            .open(&name, &sealed)
            .ok_or("a verifier that is none")?;
        let uri: Uri = original.parse().map_err(|_| "a way that is none")?;
        if !is_allowed(settings, uri.host().unwrap_or_default()) {
            return Err("a way to where nobody may be sent");
        }
        // Back here is no way.
        if settings.callback.matches(uri.path().as_bytes()) {
            return Err("a way in circles");
        }
        Ok(Self {
            code,
            verifier,
            original: HeaderValue::try_from(original).map_err(|_| "a way that is none")?,
            flow: flow.to_owned(),
        })
    }
}

fn is_allowed(settings: &Settings, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = host.to_ascii_lowercase();
    settings.allowed_domains.is_empty()
        || settings
            .allowed_domains
            .iter()
            .any(|domain| match domain.strip_prefix('*') {
                Some(below) => host.len() > below.len() && host.ends_with(below),
                None => host == *domain,
            })
}

/// An absolute URI of HTTP at a host where users may be sent.
fn absolute(settings: &Settings, text: String) -> Option<String> {
    let uri: Uri = text.parse().ok()?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    let allowed = web && is_allowed(settings, uri.host()?);
    allowed.then_some(text)
}

fn rendered(template: &Template, stream: &Stream<'_>) -> Option<String> {
    let text = stream.with_facts(|facts| template.render(facts))?;
    String::from_utf8(text.to_vec()).ok()
}

pub fn redirect_uri(settings: &Settings, stream: &Stream<'_>) -> Option<String> {
    absolute(settings, rendered(&settings.redirect_uri, stream)?)
}

fn base(stream: &Stream<'_>) -> Option<String> {
    let scheme = stream.request.headers.get("x-forwarded-proto");
    let scheme = match scheme.map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ => ["http", "https"][usize::from(stream.tls)],
    };
    let host = std::str::from_utf8(host(stream)).ok()?;
    Some(format!("{scheme}://{host}"))
}

/// Where somebody wanted to go.
fn original(settings: &Settings, stream: &Stream<'_>) -> Option<String> {
    let base = match &settings.original_base {
        Some(template) => rendered(template, stream)?,
        None => base(stream)?,
    };
    let path = stream
        .request
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str());
    absolute(settings, format!("{}{path}", base.trim_end_matches('/')))
}

/// Where somebody goes who has signed out.
pub fn after_logout(settings: &Settings, stream: &Stream<'_>) -> Option<HeaderValue> {
    let root = format!("{}/", base(stream)?);
    let Some(endpoint) = &settings.end_session_endpoint else {
        return HeaderValue::try_from(root).ok();
    };
    let mut query = Serializer::new(String::new());
    query.append_pair("client_id", &settings.client_id);
    if let Some(secret) = settings.hmac_secret.get() {
        let session = Session::read(settings, &Sealer(&secret), &stream.request.headers);
        if !session.id.is_empty() {
            query.append_pair("id_token_hint", &session.id);
        }
    }
    match &settings.after_logout {
        None => {}
        Some(None) => {
            query.append_pair("post_logout_redirect_uri", &root);
        }
        Some(Some(template)) => {
            let uri = rendered(template, stream)?;
            query.append_pair("post_logout_redirect_uri", &uri);
        }
    }
    HeaderValue::try_from(with_query(endpoint, &query.finish())).ok()
}

fn with_query(uri: &str, query: &str) -> String {
    let joint = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{joint}{query}")
}
