//! Asking the token endpoint (RFC 6749 sections 4.1.3 and 6).

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use form_urlencoded::{Serializer, byte_serialize};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, StatusCode};
use serde::Deserialize;

use super::config::{Auth, Settings};
use crate::filter::call::{Calls, fetch};

/// Bytes of an answer at most.
const MAX_ANSWER: u64 = 1 << 20;

/// What is asked for.
pub enum Grant {
    Code {
        code: String,
        verifier: String,
        redirect_uri: String,
    },
    Refresh(String),
}

/// What came of it.
#[derive(Deserialize)]
pub struct Tokens {
    pub access_token: String,
    #[serde(default)]
    pub id_token: String,
    #[serde(default)]
    pub refresh_token: String,
    /// Seconds.
    pub expires_in: Option<u64>,
}

/// `None`: no tokens; why is in the log, without anything of what was sent.
pub async fn ask(settings: &Settings, calls: Rc<dyn Calls>, grant: Grant) -> Option<Tokens> {
    let request = request(settings, grant)?;
    let cluster = &settings.token_cluster;
    let answer = fetch(
        &*calls,
        cluster,
        request,
        settings.token_timeout,
        MAX_ANSWER,
    )
    .await;
    let answer = match answer {
        Ok(answer) if answer.status() == StatusCode::OK => answer,
        Ok(answer) => {
            let status = answer.status().as_u16();
            tracing::debug!(cluster, status, "no tokens");
            return None;
        }
        Err(error) => {
            tracing::debug!(cluster, %error, "no tokens");
            return None;
        }
    };
    let tokens: Option<Tokens> = serde_json::from_slice(answer.body()).ok();
    let tokens = tokens.filter(|tokens| !tokens.access_token.is_empty());
    if tokens.is_none() {
        tracing::debug!(cluster, "an answer without a token");
    }
    tokens
}

fn request(settings: &Settings, grant: Grant) -> Option<Request<Bytes>> {
    let mut form = Serializer::new(String::new());
    match &grant {
        Grant::Code {
            code,
            verifier,
            redirect_uri,
        } => {
            form.append_pair("grant_type", "authorization_code");
            form.append_pair("code", code);
            form.append_pair("redirect_uri", redirect_uri);
            form.append_pair("code_verifier", verifier);
        }
        Grant::Refresh(token) => {
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("refresh_token", token);
        }
    }
    let mut request = Request::post(settings.token_path.as_str())
        .header(HOST, settings.token_host.as_str())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json");
    let secret = match &settings.client_secret {
        None => None,
        // Without its secret the client is nobody. A file often ends with a line.
        Some(secret) => Some(String::from_utf8(secret.get()?.trim_ascii_end().to_vec()).ok()?),
    };
    match (settings.auth, secret) {
        (Auth::Basic, Some(secret)) => {
            let escaped = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", escaped(&settings.client_id), escaped(&secret));
            let value = format!("Basic {}", STANDARD.encode(pair));
            let mut value = HeaderValue::try_from(value).ok()?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        (Auth::Body, Some(secret)) => {
            form.append_pair("client_id", &settings.client_id);
            form.append_pair("client_secret", &secret);
        }
        _ => {
            form.append_pair("client_id", &settings.client_id);
        }
    }
    let body = Bytes::from(form.finish());
    request.header(CONTENT_LENGTH, body.len()).body(body).ok()
}
