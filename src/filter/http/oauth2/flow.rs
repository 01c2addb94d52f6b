//! What becomes of a request: in with a valid login, to the authorization server without one.

use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use super::config::{COOKIES, Cookie};
use super::login::{self, Callback, Refused};
use super::seal::Sealer;
use super::session::Session;
use super::tokens::{Grant, ask};
use super::{REASON, Realm, STATUS, SetCookies};
use crate::error::ResponseFlag;
use crate::filter::token_endpoint::Tokens;
use crate::filter::{Flow, LocalReply, Stream, Then};
use crate::matching::headers::RequestHead;

impl Realm {
    pub(super) fn look_at(self, stream: &mut Stream<'_>) -> Flow {
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

pub(super) fn host<'s>(stream: &'s Stream<'_>) -> &'s [u8] {
    let host = stream.request.headers.get(http::header::HOST);
    host.map_or(b"", HeaderValue::as_bytes)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
