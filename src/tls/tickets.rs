//! Session tickets under keys that are given, so that several proxies take each other's.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use causeway_xds::resource::tls::DataSource;
use rustls::server::ProducesTickets;
use rustls_pki_types::UnixTime;

use super::{TlsError, read};

/// As a key is given: 16 bytes of name, and twice 32 of secret.
const KEY: usize = 80;
const NAME: usize = 16;
/// Seconds that a ticket is good for: a day, as Envoy's. RFC 8446 section 4.6.1 allows a week.
const LIFETIME: u32 = 24 * 3600;
/// Of the time at which a ticket was made, in front of what is sealed.
const TIME: usize = 8;

/// The first key makes tickets, all of them open some.
#[derive(Debug)]
pub(super) struct Tickets(Vec<Key>);

struct Key {
    name: [u8; NAME],
    key: LessSafeKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Tickets {
    /// # Errors
    /// A key cannot be read or has another length than 80 bytes.
    pub(super) fn new(sources: &[DataSource]) -> Result<Self, TlsError> {
        let keys = sources.iter().map(|source| Key::new(&read(source)?));
        keys.collect::<Result<_, _>>().map(Self)
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Result<Self, TlsError> {
        let wrong = |reason: &str| TlsError::Config(format!("session_ticket_keys: {reason}"));
        let bytes: &[u8; KEY] = bytes
            .try_into()
            .map_err(|_| wrong("a key is not 80 bytes long"))?;
        let (name, secret) = bytes.split_at(NAME);
        // Two secrets are given, for a cipher and a code, and one is needed for both at once.
        let (first, second) = secret.split_at(32);
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, first), second);
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| wrong("unusable"))?;
        let name = name.try_into().map_err(|_| wrong("unusable"))?;
        let key = LessSafeKey::new(key);
        Ok(Self { name, key })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.0.is_empty()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    /// `name | nonce | sealed`.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, UnixTime::now().as_secs())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let plain = self.open(ticket)?;
        let (made, session) = plain.split_first_chunk::<TIME>()?;
        // The machines that share the keys need not agree to the second.
        let age = UnixTime::now()
            .as_secs()
            .saturating_sub(u64::from_be_bytes(*made));
        (age <= u64::from(LIFETIME)).then(|| session.to_vec())
    }
}

impl Tickets {
    fn seal(&self, plain: &[u8], now: u64) -> Option<Vec<u8>> {
        let key = self.0.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = [&now.to_be_bytes()[..], plain].concat();
        key.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&key.name),
                &mut sealed,
            )
            .ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.0.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let plain = key
            .key
            .open_in_place(nonce, Aad::from(&key.name), &mut sealed);
        plain.ok().map(|plain| plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> DataSource {
        DataSource::Inline(vec![byte; KEY])
    }

    #[test]
    fn an_old_key_opens_and_the_newest_closes() {
        let old = Tickets::new(&[key(1)]).unwrap();
        let ticket = old.encrypt(b"session").unwrap();
        let rotated = Tickets::new(&[key(2), key(1)]).unwrap();
        assert_eq!(rotated.decrypt(&ticket).unwrap(), b"session");
        let newer = rotated.encrypt(b"session").unwrap();
        assert_eq!(old.decrypt(&newer), None);
        let late = rotated.seal(b"session", UnixTime::now().as_secs() - 90_000);
        assert_eq!(rotated.decrypt(&late.unwrap()), None, "a day is over");
        let mut forged = ticket.clone();
        *forged.last_mut().unwrap() ^= 1;
        for bad in [&forged[..], &ticket[..20], b""] {
            assert_eq!(rotated.decrypt(bad), None);
        }
        let short = Tickets::new(&[DataSource::Inline(vec![1; 79])]).unwrap_err();
        assert!(short.to_string().contains("80 bytes"));
        assert!(!format!("{rotated:?}").contains('1'));
    }
}
