//! The session of somebody who has logged in, as cookies keep it.

use http::header::{COOKIE, HeaderMap};

use super::config::{Cookie, Settings};
use super::seal::Sealer;
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
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get_all(COOKIE).iter().find_map(|field| {
        let value = cookie_value(field.as_bytes(), name)?;
        String::from_utf8(value.to_vec()).ok()
    })
}
