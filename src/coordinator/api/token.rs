//! The token of a setup link.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::util::Secret;

/// Checks the tokens of setup links.
pub struct SetupTokens {
    key: DecodingKey,
    validation: Validation,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SetupClaims {
    pub circuit: Uuid,
    /// Where in the app the user wants to go; may be empty.
    #[serde(default, deserialize_with = "text_or_null")]
    pub redirect: String,
}

fn text_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl SetupTokens {
    pub fn new(jwt_secret: &Secret) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        // A setup link has no end of its own: it works for as long as its circuit is there.
        validation.required_spec_claims.clear();
        Self {
            key: DecodingKey::from_secret(jwt_secret.expose().as_bytes()),
            validation,
        }
    }

    /// # Errors
    /// Why it is not good, in words that give nothing of the token away.
    pub fn check(&self, token: &str) -> Result<SetupClaims, &'static str> {
        match jsonwebtoken::decode::<Value>(token, &self.key, &self.validation) {
            // Signed by the right key, but maybe for something else, such as a model service.
            Ok(token) => serde_json::from_value(token.claims).map_err(|_| "Not a setup token"),
            Err(error) => Err(match error.kind() {
                ErrorKind::ExpiredSignature => "Signature has expired",
                ErrorKind::ImmatureSignature => "The token is not yet valid (nbf)",
                ErrorKind::InvalidSignature => "Signature verification failed",
                ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
                    "The specified alg value is not allowed"
                }
                _ => "Not a valid token",
            }),
        }
    }
}

impl std::fmt::Debug for SetupTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SetupTokens([redacted])")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;

    pub const SECRET: &str = "some_jwt_secret";
    /// As a real Coordinator made it, with an empty redirect.
    pub const VECTOR: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpZCI6IjU4NDlhYmNkLWU2OGYtNDc5\
        My1hNzA0LTI4YmEyMDZhNjJlMSIsInZlcnNpb24iOiJ2MiIsInJlZGlyZWN0IjoiIiwiY2lyY3VpdCI6IjdhYzg3ZmE\
        wLTQ2YjEtNDhjZC05ZDJkLTFiNTBmYTE2YTZkZSJ9.yddz060-s9Uy3AcKOtSYjlRO8VUSuBZpk8Isv8-TFk8";
    pub const VECTOR_CIRCUIT: Uuid = Uuid::from_u128(0x7ac8_7fa0_46b1_48cd_9d2d_1b50_fa16_a6de);

    pub fn signed(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    pub fn token(circuit: Uuid, redirect: &str) -> String {
        let claims = json!({"id": Uuid::from_u128(1), "version": "v2", "redirect": redirect,
                            "circuit": circuit});
        signed(&claims, Algorithm::HS256, SECRET)
    }

    #[test]
    fn a_token_of_the_coordinator_is_read() {
        let tokens = SetupTokens::new(&Secret::new(SECRET));
        let expected = SetupClaims {
            circuit: VECTOR_CIRCUIT,
            redirect: String::new(),
        };
        assert_eq!(tokens.check(VECTOR), Ok(expected));
    }

    #[test]
    fn other_tokens_are_refused_with_the_reason() {
        let tokens = SetupTokens::new(&Secret::new(SECRET));
        let circuit = VECTOR_CIRCUIT;
        let good = json!({"circuit": circuit, "redirect": null});
        let hs256 = |claims: Value| signed(&claims, Algorithm::HS256, SECRET);
        assert_eq!(tokens.check(&hs256(good.clone())).unwrap().redirect, "");
        let none = format!(
            "{}.{}.",
            "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0",
            VECTOR.split('.').nth(1).unwrap()
        );
        for (token, reason) in [
            (
                hs256(json!({"circuit": circuit, "exp": 1})),
                "Signature has expired",
            ),
            (
                hs256(json!({"circuit": circuit, "nbf": 9_999_999_999_u64})),
                "The token is not yet valid (nbf)",
            ),
            (
                signed(&good, Algorithm::HS256, "other"),
                "Signature verification failed",
            ),
            (
                signed(&good, Algorithm::HS512, SECRET),
                "The specified alg value is not allowed",
            ),
            (
                hs256(json!({"id": circuit, "exp": 9_999_999_999_u64})),
                "Not a setup token",
            ),
            (hs256(json!({"circuit": "x"})), "Not a setup token"),
            (
                hs256(json!({"circuit": circuit, "aud": "x"})),
                "Not a valid token",
            ),
            (none, "Not a valid token"),
            (String::new(), "Not a valid token"),
            ("a.b.c".to_owned(), "Not a valid token"),
        ] {
            assert_eq!(tokens.check(&token), Err(reason), "{token}");
        }
        assert!(!format!("{tokens:?}").contains(SECRET));
    }
}
