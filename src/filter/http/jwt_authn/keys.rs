//! Sets of keys (RFC 7517), and whether a token is signed by one of them (RFC 7518, RFC 8037).

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use serde::Deserialize;

use super::status::Status;
use super::token::{BASE64, Token};

/// Bytes of a set of keys at most: a remote one is somebody else's.
pub const MAX_SET: usize = 1 << 20;
/// Keys of a set at most: a token without `kid` is tried with all of them.
const MAX_KEYS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alg {
    Es256,
    Es384,
    Es512,
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    EdDsa,
}

impl Alg {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// Keys of one provider.
#[derive(Debug)]
pub struct Keys(Vec<Key>);

struct Key {
    kid: Option<String>,
    alg: Option<String>,
    material: Material,
}

enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    Ec {
        curve: Alg,
        point: Vec<u8>,
    },
    Secret(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Some are secrets.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("alg", &self.alg)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Written {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Keys {
    /// Keys that cannot be used are left out.
    ///
    /// # Errors
    /// It is no set of keys, or none of its keys can be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let json: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|_| "Jwks is an invalid JSON")?;
        let set: Set =
            serde_json::from_value(json).map_err(|_| "Jwks does not have [keys] field")?;
        let written = set.keys.into_iter().take(MAX_KEYS);
        let keys: Vec<Key> = written.filter_map(Key::parse).collect();
        match keys.is_empty() {
            true => Err("Jwks doesn't have any valid public key"),
            false => Ok(Self(keys)),
        }
    }

    pub fn verify(&self, token: &Token) -> Result<(), Status> {
        let mut any = false;
        for key in &self.0 {
            if let (Some(wanted), Some(kid)) = (&token.kid, &key.kid)
                && wanted != kid
            {
                continue;
            }
            if key
                .alg
                .as_deref()
                .is_some_and(|alg| Alg::named(alg) != Some(token.alg))
            {
                continue;
            }
            any = true;
            if key.material.verifies(token) {
                return Ok(());
            }
        }
        Err(match any {
            true => Status::VerificationFails,
            false => Status::NoMatchingKey,
        })
    }
}

impl Key {
    fn parse(value: serde_json::Value) -> Option<Self> {
        let written: Written = serde_json::from_value(value).ok()?;
        let bytes = |text: &Option<String>| BASE64.decode(text.as_ref()?).ok();
        let some = |text: &Option<String>| bytes(text).filter(|bytes| !bytes.is_empty());
        let alg = written.alg.as_deref();
        let fits = |prefixes: &[&str]| {
            alg.is_none_or(|alg| prefixes.iter().any(|prefix| alg.starts_with(prefix)))
        };
        let material = match written.kty.as_str() {
            "RSA" if fits(&["RS", "PS"]) => Material::Rsa {
                n: some(&written.n)?,
                e: some(&written.e)?,
            },
            "EC" if fits(&["ES"]) => {
                let (curve, size) = match (written.crv.as_deref(), alg) {
                    (Some("P-256"), _) | (None, None | Some("ES256")) => (Alg::Es256, 32),
                    (Some("P-384"), _) | (None, Some("ES384")) => (Alg::Es384, 48),
                    (Some("P-521"), _) | (None, Some("ES512")) => (Alg::Es512, 66),
                    _ => return None,
                };
                let mut point = vec![4];
                for part in [&written.x, &written.y] {
                    let part = some(part)?;
                    point.resize(point.len() + size - part.len().min(size), 0);
                    point.extend(part);
                }
                (point.len() == 1 + 2 * size).then_some(())?;
                Material::Ec { curve, point }
            }
            "oct" if fits(&["HS"]) => Material::Secret(some(&written.k)?),
            "OKP" if fits(&["EdDSA"]) && written.crv.as_deref() == Some("Ed25519") => {
                Material::Ed25519(some(&written.x).filter(|x| x.len() == 32)?)
            }
            _ => return None,
        };
        Some(Self {
            kid: written.kid.filter(|kid| !kid.is_empty()),
            alg: written.alg.filter(|alg| !alg.is_empty()),
            material,
        })
    }
}

impl Material {
    /// The kind of the key decides which algorithms there are, never the token alone.
    fn verifies(&self, token: &Token) -> bool {
        let (signed, signature) = (token.signed(), &token.signature[..]);
        match self {
            Self::Rsa { n, e } => rsa(token.alg).is_some_and(|parameters| {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, signed, signature).is_ok()
            }),
            Self::Ec { curve, point } if *curve == token.alg => {
                ecdsa(token.alg).is_some_and(|algorithm| {
                    let key = UnparsedPublicKey::new(algorithm, point);
                    key.verify(signed, signature).is_ok()
                })
            }
            Self::Ec { .. } => false,
            Self::Secret(secret) => hmac_of(token.alg).is_some_and(|algorithm| {
                let key = hmac::Key::new(algorithm, secret);
                hmac::verify(&key, signed, signature).is_ok()
            }),
            Self::Ed25519(point) => {
                let key = UnparsedPublicKey::new(&ED25519, point);
                token.alg == Alg::EdDsa && key.verify(signed, signature).is_ok()
            }
        }
    }
}

fn rsa(alg: Alg) -> Option<&'static RsaParameters> {
    Some(match alg {
        Alg::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Alg::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Alg::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        Alg::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Alg::Ps384 => &RSA_PSS_2048_8192_SHA384,
        Alg::Ps512 => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn ecdsa(alg: Alg) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match alg {
        Alg::Es256 => &ECDSA_P256_SHA256_FIXED,
        Alg::Es384 => &ECDSA_P384_SHA384_FIXED,
        Alg::Es512 => &ECDSA_P521_SHA512_FIXED,
        _ => return None,
    })
}

fn hmac_of(alg: Alg) -> Option<hmac::Algorithm> {
    Some(match alg {
        Alg::Hs256 => hmac::HMAC_SHA256,
        Alg::Hs384 => hmac::HMAC_SHA384,
        Alg::Hs512 => hmac::HMAC_SHA512,
        _ => return None,
    })
}
