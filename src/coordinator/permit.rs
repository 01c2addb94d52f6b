//! Permits: what opens an interactive app to its owner, in a cookie.
//!
//! Nothing is stored. A permit is computed from the key that all workers of an installation share,
//! so it stays valid over restarts and on every node.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use crate::util::Secret;

/// Name of the cookie that carries a permit.
pub const COOKIE: &str = "appproxy_permit";

/// `permit_hash.digest_mod`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digest {
    Sha224,
    #[default]
    Sha256,
    Sha384,
    Sha512,
}

impl Digest {
    fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::Sha224 => hmac::HMAC_SHA224,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

/// Makes permits.
#[derive(Clone)]
pub struct PermitHasher {
    key: hmac::Key,
    digest: Digest,
}

impl PermitHasher {
    /// `secret` is `permit_hash.secret`; its UTF-8 bytes are the key.
    pub fn new(secret: &Secret, digest: Digest) -> Self {
        Self {
            key: hmac::Key::new(digest.algorithm(), secret.expose().as_bytes()),
            digest,
        }
    }

    /// Opens every interactive app of a user: what the port and wildcard frontends ask for.
    pub fn of_user(&self, user: Uuid) -> Secret {
        self.permit(&user.hyphenated().to_string())
    }

    /// Opens one circuit. All apps of the path frontend are of one origin, so that each can have
    /// the browser send a request to another; a permit that fits only its own keeps them apart.
    pub fn of_circuit(&self, user: Uuid, circuit: Uuid) -> Secret {
        self.permit(&format!("{}/{}", user.hyphenated(), circuit.hyphenated()))
    }

    fn permit(&self, message: &str) -> Secret {
        let tag = hmac::sign(&self.key, message.as_bytes());
        Secret::new(STANDARD.encode(hex(tag.as_ref())))
    }
}

/// Base64 is over the text of the digest, not over its bytes: that is how permits have always been.
fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

impl fmt::Debug for PermitHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PermitHasher")
            .field("key", &"[redacted]")
            .field("digest", &self.digest)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Uuid = Uuid::from_u128(0xf38d_ea23_50fa_42a0_b5ae_338f_5f46_93f4);

    fn hasher(digest: Digest) -> PermitHasher {
        PermitHasher::new(&Secret::new("some_permit_hash_secret"), digest)
    }

    #[test]
    fn permits_are_those_of_the_other_workers() {
        for (digest, expected) in [
            (
                Digest::Sha224,
                "Y2Y1NzM2ZmExN2Q0NzliN2Y2M2JlMGExYWQwM2Q4NTQ3YTU0MmI1NDM4ZDIxY2NmNWRmZTQ5NzY=",
            ),
            (
                Digest::Sha256,
                "MWI4ZWU5YjhmNzNjMmNiMTI4MDJkYTk2N2E4ZjAxYjUzODcyZjkwMjkyMTA5M2M5MmE1ZDdjZTVjMmY1\
                 ZTk3OA==",
            ),
            (
                Digest::Sha384,
                "OTg5MTlmMmUyMTU1YzBmNmMyNGYwYTRmZDU2YjQyZGNmZTUzNTM2NTFkZTE4NjNhOTZhY2JiZDJmZDNm\
                 NDY1NjFjNzMzNDFlYWFhNGFjYzkyY2M0NTJiYjg3Yzc5M2Q0",
            ),
            (
                Digest::Sha512,
                "MGE5YTliZjYxOTI4MDllYzQzZmJiNWZkMTA3YTQyMzdlMDljYThiYjIyNGNiODI0ZTNjMTVlYjhmMDdk\
                 MzUwNzhkMWI2Mzc2OWY0MjVlMGIwOWQ5ZjE0ODJhYjFhZmM2ODdmMmRiZDY1ZTQ2ODg1ZjMyMjVjYzk0\
                 ZjE1MjY5NzM=",
            ),
        ] {
            assert_eq!(hasher(digest).of_user(USER).expose(), expected);
        }
    }

    #[test]
    fn a_permit_of_one_circuit_is_of_no_other() {
        let hasher = hasher(Digest::Sha256);
        let permits = [
            hasher.of_user(USER),
            hasher.of_circuit(USER, Uuid::from_u128(1)),
            hasher.of_circuit(USER, Uuid::from_u128(2)),
            hasher.of_circuit(Uuid::from_u128(3), Uuid::from_u128(1)),
        ];
        for (i, permit) in permits.iter().enumerate() {
            for other in &permits[i + 1..] {
                assert_ne!(permit, other);
            }
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let hasher = hasher(Digest::Sha512);
        assert_eq!(
            format!("{hasher:?}"),
            "PermitHasher { key: \"[redacted]\", digest: Sha512 }"
        );
        assert_eq!(format!("{:?}", hasher.of_user(USER)), "[redacted]");
    }
}
