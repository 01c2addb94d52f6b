//! Asking for the tokens of a session (RFC 6749 sections 4.1.3 and 6).

use std::rc::Rc;

use super::config::{Auth, Settings};
use crate::filter::call::Calls;
use crate::filter::token_endpoint::{Client, Tokens};

/// What is asked for.
pub enum Grant {
    Code {
        code: String,
        verifier: String,
        redirect_uri: String,
    },
    Refresh(String),
}

/// `None`: no tokens.
pub async fn ask(settings: &Settings, calls: Rc<dyn Calls>, grant: Grant) -> Option<Tokens> {
    let secret = match &settings.client_secret {
        None => None,
        // Without its secret the client is nobody.
        Some(secret) => Some(secret.get()?),
    };
    let id = settings.client_id.as_str();
    let client = match (settings.auth, &secret) {
        (Auth::Basic, Some(secret)) => Client::Basic { id, secret },
        (Auth::Body, Some(secret)) => Client::Body { id, secret },
        _ => Client::Named { id },
    };
    let form = match &grant {
        Grant::Code {
            code,
            verifier,
            redirect_uri,
        } => vec![
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ],
        Grant::Refresh(token) => vec![("grant_type", "refresh_token"), ("refresh_token", token)],
    };
    settings.token_endpoint.ask(&*calls, client, &form).await
}
