//! What is kept at the client, and what the upstream sees of it.

use http::header::{AUTHORIZATION, COOKIE, HeaderValue};

use super::config::{COOKIES, Cookie};
use super::flow::now;
use super::seal::Sealer;
use super::session::Session;
use super::{Realm, SetCookies};
use crate::filter::Stream;
use crate::filter::token_endpoint::Tokens;

impl Realm {
    /// What keeps these tokens at the client.
    pub(super) fn cookies(
        &self,
        tokens: &Tokens,
        sealer: &Sealer<'_>,
        host: &[u8],
    ) -> Option<SetCookies> {
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
    pub(super) fn let_in(&self, stream: &mut Stream<'_>, bearer: &str, id: &str) {
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
    pub(super) fn strip(&self, stream: &mut Stream<'_>, shown: &[(&str, &str)]) {
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
}

/// A token that is not kept counts as one that is not there.
fn kept(token: &str, wanted: bool) -> String {
    if wanted {
        token.to_owned()
    } else {
        String::new()
    }
}
