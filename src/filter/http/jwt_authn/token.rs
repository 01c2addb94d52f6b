//! A token taken apart (RFC 7519, RFC 7515 section 7.1). Nothing of it is trusted yet.

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use causeway_xds::resource::metadata::MetadataValue;
use serde_json::{Map, Value};

use super::keys::Alg;
use super::status::Status;

/// Base64 for URLs, with or without padding.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug)]
pub struct Token {
    text: String,
    /// Length of `header.payload` in `text`.
    signed: usize,
    /// Length of the header in `text`.
    header_end: usize,
    pub header: Map<String, Value>,
    pub payload: Map<String, Value>,
    pub signature: Vec<u8>,
    pub alg: Alg,
    pub kid: Option<String>,
    /// Empty where there is none.
    pub issuer: String,
    pub subject: String,
    pub audiences: Vec<String>,
    /// Seconds since 1970.
    not_before: Option<u64>,
    expires: Option<u64>,
}

impl Token {
    pub fn parse(text: String) -> Result<Self, Status> {
        let mut parts = text.split('.');
        let (Some(header64), Some(payload64), Some(signature64), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Status::BadFormat);
        };
        if [header64, payload64, signature64].contains(&"") {
            return Err(Status::BadFormat);
        }
        let header = object(header64, Status::HeaderBase64, Status::HeaderJson)?;
        let alg = header.get("alg").and_then(Value::as_str);
        let alg = Alg::named(alg.ok_or(Status::HeaderAlg)?).ok_or(Status::AlgNotSupported)?;
        let kid = string(&header, "kid", Status::HeaderKid)?;
        let payload = object(payload64, Status::PayloadBase64, Status::PayloadJson)?;
        let issuer = string(&payload, "iss", Status::Iss)?.unwrap_or_default();
        let subject = string(&payload, "sub", Status::Sub)?.unwrap_or_default();
        seconds(&payload, "iat", Status::IatNoInteger, Status::IatRange)?;
        let not_before = seconds(&payload, "nbf", Status::NbfNoInteger, Status::NbfRange)?;
        let expires = seconds(&payload, "exp", Status::ExpNoInteger, Status::ExpRange)?;
        string(&payload, "jti", Status::Jti)?;
        let audiences = audiences(payload.get("aud"))?;
        let signature = decoded(signature64).ok_or(Status::SignatureBase64)?;
        Ok(Self {
            signed: header64.len() + 1 + payload64.len(),
            header_end: header64.len(),
            header,
            payload,
            signature,
            alg,
            kid,
            issuer,
            subject,
            audiences,
            not_before,
            expires,
            text,
        })
    }

    /// What the signature is over.
    pub fn signed(&self) -> &[u8] {
        &self.text.as_bytes()[..self.signed]
    }

    /// As it is in the token.
    pub fn payload64(&self) -> &str {
        &self.text[self.header_end + 1..self.signed]
    }

    /// `skew` in seconds.
    pub fn check_time(&self, now: u64, skew: u64) -> Result<(), Status> {
        if self
            .not_before
            .is_some_and(|at| at > now.saturating_add(skew))
        {
            return Err(Status::NotYetValid);
        }
        // Zero is as good as none, as in Envoy.
        let expires = self.expires.filter(|at| *at > 0);
        if expires.is_some_and(|at| now > at.saturating_add(skew)) {
            return Err(Status::Expired);
        }
        Ok(())
    }

    /// Whether it ends, and no later than so many seconds from now.
    pub fn check_lifetime(&self, now: u64, must_end: bool, max: Option<u64>) -> bool {
        match (self.expires.filter(|at| *at > 0), max) {
            (None, max) => !must_end && max.is_none(),
            (Some(at), Some(max)) => at <= now.saturating_add(max),
            (Some(_), None) => true,
        }
    }
}

/// White space is skipped, as in Envoy.
fn decoded(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().any(|b| b.is_ascii_whitespace()) {
        return BASE64.decode(text).ok();
    }
    let text: String = text.split_ascii_whitespace().collect();
    BASE64.decode(text).ok()
}

fn object(text: &str, base64: Status, json: Status) -> Result<Map<String, Value>, Status> {
    let bytes = decoded(text).ok_or(base64)?;
    serde_json::from_slice(&bytes).map_err(|_| json)
}

fn string(of: &Map<String, Value>, name: &str, fault: Status) -> Result<Option<String>, Status> {
    match of.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(fault),
    }
}

fn seconds(
    of: &Map<String, Value>,
    name: &str,
    no_integer: Status,
    range: Status,
) -> Result<Option<u64>, Status> {
    let Some(value) = of.get(name) else {
        return Ok(None);
    };
    let number = value.as_f64().ok_or(no_integer)?;
    match value.as_u64() {
        Some(whole) => Ok(Some(whole)),
        // Half a second is none.
        None if (0.0..9e18).contains(&number) => Ok(Some(number as u64)),
        None => Err(range),
    }
}

fn audiences(value: Option<&Value>) -> Result<Vec<String>, Status> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(Status::Aud);
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(text).collect(),
        Some(one) => text(one).map(|one| vec![one]),
    }
}

/// JSON as metadata.
pub fn metadata(value: &Value) -> MetadataValue {
    match value {
        Value::Null => MetadataValue::Null,
        Value::Bool(value) => MetadataValue::Bool(*value),
        Value::Number(number) => MetadataValue::Number(number.as_f64().unwrap_or(0.0)),
        Value::String(text) => MetadataValue::Text(text.clone()),
        Value::Array(list) => MetadataValue::List(list.iter().map(metadata).collect()),
        Value::Object(fields) => object_metadata(fields),
    }
}

pub fn object_metadata(fields: &Map<String, Value>) -> MetadataValue {
    let fields = fields.iter();
    let mut fields: Vec<_> = fields.map(|(k, v)| (k.clone(), metadata(v))).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    MetadataValue::Object(fields)
}
