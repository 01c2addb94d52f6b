//! What can become of a token, in Envoy's words.

use http::StatusCode;

/// Why a request is refused, or a token was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Missing,
    NotYetValid,
    Expired,
    BadFormat,
    HeaderBase64,
    HeaderJson,
    HeaderAlg,
    AlgNotSupported,
    HeaderKid,
    PayloadBase64,
    PayloadJson,
    Iss,
    Sub,
    IatNoInteger,
    IatRange,
    NbfNoInteger,
    NbfRange,
    ExpNoInteger,
    ExpRange,
    Jti,
    Aud,
    SignatureBase64,
    UnknownIssuer,
    AudienceNotAllowed,
    VerificationFails,
    NoMatchingKey,
    FetchFailed,
}

impl Status {
    /// The body of the answer.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::BadFormat => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::HeaderAlg => "Jwt header [alg] field is required and must be a string",
            Self::AlgNotSupported => "Jwt header [alg] is not supported",
            Self::HeaderKid => "Jwt header [kid] field is not a string",
            Self::PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::Iss => "Jwt payload [iss] field is not a string",
            Self::Sub => "Jwt payload [sub] field is not a string",
            Self::IatNoInteger => "Jwt payload [iat] field is not an integer",
            Self::IatRange => "Jwt payload [iat] field is not a positive 64 bit integer",
            Self::NbfNoInteger => "Jwt payload [nbf] field is not an integer",
            Self::NbfRange => "Jwt payload [nbf] field is not a positive 64 bit integer",
            Self::ExpNoInteger => "Jwt payload [exp] field is not an integer",
            Self::ExpRange => "Jwt payload [exp] field is not a positive 64 bit integer",
            Self::Jti => "Jwt payload [jti] field is not a string",
            Self::Aud => "Jwt payload [aud] field is not a string or string list",
            Self::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Self::VerificationFails => "Jwt verification fails",
            Self::NoMatchingKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::FetchFailed => "Jwks remote fetch is failed",
        }
    }

    pub const fn http(self) -> StatusCode {
        match self {
            Self::AudienceNotAllowed => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The number that `failed_status_in_metadata` tells.
    pub const fn code(self) -> u8 {
        match self {
            Self::Missing => 1,
            Self::NotYetValid => 2,
            Self::Expired => 3,
            Self::BadFormat => 4,
            Self::HeaderBase64 => 5,
            Self::HeaderJson => 6,
            Self::HeaderAlg => 7,
            Self::AlgNotSupported => 8,
            Self::HeaderKid => 9,
            Self::PayloadBase64 => 10,
            Self::PayloadJson => 11,
            Self::Iss => 12,
            Self::Sub => 13,
            Self::IatNoInteger => 14,
            Self::IatRange => 15,
            Self::NbfNoInteger => 16,
            Self::NbfRange => 17,
            Self::ExpNoInteger => 18,
            Self::ExpRange => 19,
            Self::Jti => 20,
            Self::Aud => 21,
            Self::SignatureBase64 => 22,
            Self::UnknownIssuer => 24,
            Self::AudienceNotAllowed => 25,
            Self::VerificationFails => 26,
            Self::NoMatchingKey => 32,
            Self::FetchFailed => 40,
        }
    }

    /// How much it says about why: what says more is told, and of the same kind the later one.
    pub const fn weight(self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::UnknownIssuer => 1,
            _ => 2,
        }
    }
}
