//! Versions, cipher suites and curves: message to typed.

use super::{CipherSuite, Curve, TlsParameters, TlsVersion};
use crate::proto::tls;
use crate::proto::tls::tls_parameters::TlsProtocol;
use crate::reject::Invalid;
use crate::resource::context::{Context, accept, each, enumeration, fault, refuse};

/// BoringSSL's names of the suites that are spoken.
const SUITES: [(&str, CipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::EcdheEcdsaAes128Gcm,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::EcdheRsaAes128Gcm,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::EcdheEcdsaAes256Gcm,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::EcdheRsaAes256Gcm,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::EcdheEcdsaChaCha20,
    ),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::EcdheRsaChaCha20),
];

/// What Envoy speaks besides: without forward secrecy, or with CBC.
const LEFT_OUT: [&str; 9] = [
    "AES128-GCM-SHA256",
    "AES128-SHA",
    "AES256-GCM-SHA384",
    "AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-RSA-AES256-SHA",
];

impl TlsParameters {
    /// Versions below 1.2 are not spoken. Unlike Envoy's, our clients offer 1.3 unless told
    /// otherwise.
    pub(super) fn decode(message: tls::TlsParameters, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let tls::TlsParameters {
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            cipher_suites,
            ecdh_curves,
            signature_algorithms,
            compliance_policies,
        } = message;
        refuse!(signature_algorithms, compliance_policies);

        let version = |value, field: &str, default| match enumeration(value, field)? {
            TlsProtocol::TlsAuto => Ok(default),
            TlsProtocol::TlSv12 => Ok(TlsVersion::V1_2),
            TlsProtocol::TlSv13 => Ok(TlsVersion::V1_3),
            TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => {
                Err(Invalid::at(field, "TLS 1.0 and 1.1 are not supported"))
            }
        };
        const MIN: &str = "tls_minimum_protocol_version";
        let min_version = version(tls_minimum_protocol_version, MIN, TlsVersion::V1_2)?;
        let max_version = version(
            tls_maximum_protocol_version,
            "tls_maximum_protocol_version",
            TlsVersion::V1_3,
        )?;
        if min_version > max_version {
            return Err(Invalid::at(MIN, "is above the maximum"));
        }
        Ok(Self {
            min_version,
            max_version,
            cipher_suites: suites(cipher_suites, ctx)?,
            curves: each("ecdh_curves", ecdh_curves, |name| match &*name {
                "X25519" => Ok(Curve::X25519),
                "P-256" => Ok(Curve::P256),
                "P-384" => Ok(Curve::P384),
                "X25519MLKEM768" => Ok(Curve::X25519MlKem768),
                _ => Err(fault(format!("{name:?} is not supported"))),
            })?,
        })
    }
}

/// The suites of a list, in which those of equal preference stand in brackets: `[A|B]`.
fn suites(names: Vec<String>, ctx: &Context<'_>) -> Result<Vec<CipherSuite>, Invalid> {
    let wanted = !names.is_empty();
    let mut cipher_suites = Vec::new();
    let decoded = each("cipher_suites", names, |entry| {
        let inner = entry
            .strip_prefix('[')
            .and_then(|entry| entry.strip_suffix(']'));
        let mut found = Vec::new();
        for name in inner.unwrap_or(&entry).split('|') {
            if let Some((_, suite)) = SUITES.iter().find(|(known, _)| *known == name) {
                found.push(*suite);
            } else if LEFT_OUT.contains(&name) {
                cipher_suites.push(name.to_owned());
            } else {
                return Err(fault(format!("{name:?} is not supported")));
            }
        }
        Ok(found)
    })?;
    accept!(ctx, "TlsParameters": cipher_suites);
    let suites = decoded.concat();
    if wanted && suites.is_empty() {
        return Err(Invalid::at("cipher_suites", "names none that is supported"));
    }
    Ok(suites)
}
