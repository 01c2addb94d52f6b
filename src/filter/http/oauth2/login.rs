//! A login: from the redirect to the authorization server to the one back.
//!
//! It has a number, which stands behind the names of its cookies, so that several may go on at the same
//! time. The state that goes there and back says until when it may end, signed.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use form_urlencoded::Serializer;
use http::Uri;
use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::config::{Cookie, Settings};
use super::flow::host;
use super::seal::{Sealer, challenge, random};
use super::session::{Session, cookie};
use crate::filter::Stream;
use crate::formatter::Template;

/// Logins of one client that may go on at the same time; the oldest make way for another.
const MAX_LOGINS: usize = 8;
/// Logins whose cookies are taken back by one answer, at most.
pub const MAX_ENDED: usize = 16;
/// Characters of the number of a login.
const FLOW: usize = 8;

/// The first steps of a login.
pub struct Begun {
    pub location: HeaderValue,
    pub cookies: Vec<HeaderValue>,
}

/// `None`: this is no place to come back to.
pub fn begin(
    settings: &Settings,
    sealer: &Sealer<'_>,
    stream: &Stream<'_>,
    now: u64,
) -> Option<Begun> {
    let original = original(settings, stream)?;
    let redirect_uri = redirect_uri(settings, stream)?;
    let (nonce, verifier) = (random::<16>()?, random::<32>()?);
    let lasts = settings.nonce_lasts.min(settings.verifier_lasts).as_secs();
    let until = now.saturating_add(lasts).to_string();
    let signature = sealer.sign(&signed(&nonce, &until, &original));
    let csrf = format!("{nonce}.{until}.{signature}");
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
    let sealed = sealer.seal(&named(settings, Cookie::Verifier, flow), &verifier)?;
    let set = |which, value: &str, lasts: u64| {
        let attributes = &settings.cookie(which).attributes;
        let name = named(settings, which, flow);
        HeaderValue::try_from(format!("{name}={value};Max-Age={lasts}{attributes}")).ok()
    };
    let mut cookies = vec![
        set(Cookie::Nonce, &csrf, settings.nonce_lasts.as_secs())?,
        set(Cookie::Verifier, &sealed, settings.verifier_lasts.as_secs())?,
    ];
    let others = logins(settings, &stream.request.headers);
    let excess = others.len().saturating_sub(MAX_LOGINS - 1);
    for flow in others.iter().take(excess.min(MAX_ENDED)) {
        cookies.extend(ended(settings, flow));
    }
    Some(Begun {
        location: HeaderValue::try_from(location).ok()?,
        cookies,
    })
}

fn signed<'p>(nonce: &'p str, until: &'p str, original: &'p str) -> [&'p [u8]; 4] {
    [
        b"login",
        nonce.as_bytes(),
        until.as_bytes(),
        original.as_bytes(),
    ]
}

/// The number of a login.
fn flow_of(nonce: &str) -> &str {
    nonce.get(..FLOW).unwrap_or(nonce)
}

fn named(settings: &Settings, which: Cookie, flow: &str) -> String {
    format!("{}.{flow}", settings.cookie(which).name)
}

/// The numbers of the logins that a client says it has begun, the oldest first. What is no number, as we
/// make them, is left out, so that nothing of it gets into an answer.
pub fn logins(settings: &Settings, headers: &HeaderMap) -> Vec<String> {
    let number = |name: &[u8], which| {
        let own = settings.cookie(which).name.as_bytes();
        let flow = name.strip_prefix(own)?.strip_prefix(b".")?;
        let ours = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let flow = Some(flow).filter(|flow| flow.len() == FLOW && flow.iter().all(ours))?;
        String::from_utf8(flow.to_vec()).ok()
    };
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let fields = headers.get_all(COOKIE).iter();
    for pair in fields.flat_map(|field| field.as_bytes().split(|b| *b == b';')) {
        let mut halves = pair.splitn(2, |b| *b == b'=').map(<[u8]>::trim_ascii);
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
            continue;
        };
        if let Some(flow) = number(name, Cookie::Nonce) {
            let value = std::str::from_utf8(value).unwrap_or_default();
            let until = value.split('.').nth(1).and_then(|until| until.parse().ok());
            found.insert(flow, until.unwrap_or(0));
        } else if let Some(flow) = number(name, Cookie::Verifier) {
            found.entry(flow).or_insert(0);
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(_, until)| *until);
    found.into_iter().map(|(flow, _)| flow).collect()
}

/// The cookies of a login are of no use any more.
pub fn ended(settings: &Settings, flow: &str) -> Vec<HeaderValue> {
    let gone = |which| {
        let (name, rule) = (named(settings, which, flow), settings.cookie(which));
        HeaderValue::try_from(format!("{name}=deleted;Max-Age=0{}", rule.attributes)).ok()
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

/// Why a callback is not believed.
pub struct Refused {
    pub reason: &'static str,
    /// The login that ends with it, if it is one of this client.
    pub flow: Option<String>,
}

impl From<&'static str> for Refused {
    fn from(reason: &'static str) -> Self {
        Self { reason, flow: None }
    }
}

impl Callback {
    /// `now`: seconds since 1970.
    ///
    /// # Errors
    /// It is not believed.
    pub fn read(
        settings: &Settings,
        sealer: &Sealer<'_>,
        stream: &Stream<'_>,
        now: u64,
    ) -> Result<Self, Refused> {
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
        let mut parts = csrf.split('.');
        let (Some(nonce), Some(until), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("a state that is none".into());
        };
        // It was made here, for this way.
        if !sealer.verifies(&signed(nonce, until, original), signature) {
            return Err("a state that was not made here".into());
        }
        // And for this client.
        let flow = flow_of(nonce);
        let headers = &stream.request.headers;
        if cookie(headers, &named(settings, Cookie::Nonce, flow)).as_deref() != Some(csrf) {
            return Err("a login that this client has not begun".into());
        }
        let finish = || {
            if until.parse::<u64>().map_or(true, |until| until <= now) {
                return Err("a login that has taken too long");
            }
            if error {
                return Err("the authorization server has refused");
            }
            let code = code.filter(|code| !code.is_empty()).ok_or("no code")?;
            let name = named(settings, Cookie::Verifier, flow);
            let sealed = cookie(headers, &name).ok_or("no verifier")?;
            let verifier = sealer.open(&name, &sealed);
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
                verifier: verifier.ok_or("a verifier that is none")?,
                original: HeaderValue::try_from(original).map_err(|_| "a way that is none")?,
                flow: flow.to_owned(),
            })
        };
        finish().map_err(|reason| Refused {
            reason,
            flow: Some(flow.to_owned()),
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
