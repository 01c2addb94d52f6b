//! What the TLS contexts of both directions share.

use super::{CertificateRef, SecretRef, TlsCertificate, TlsVersion};
use crate::proto::tls::common_tls_context::ValidationContextType;
use crate::proto::tls::tls_parameters::TlsProtocol;
use crate::proto::tls::{self, CommonTlsContext};
use crate::reject::Invalid;
use crate::resource::config_source::ConfigSource;
use crate::resource::context::{At, Context, accept, each, enumeration, fault, not_empty, refuse};

pub(super) struct Common {
    pub certificates: Vec<CertificateRef>,
    pub alpn: Vec<String>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    pub validation: Option<ValidationContextType>,
}

impl Common {
    pub(super) fn decode(message: CommonTlsContext, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that they can be refused")]
        let CommonTlsContext {
            tls_params,
            tls_certificates,
            tls_certificate_sds_secret_configs,
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            alpn_protocols,
            custom_handshaker,
            key_log,
            validation_context_type,
        } = message;
        refuse!(
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            custom_handshaker,
        );
        accept!(ctx, "CommonTlsContext": key_log);

        let mut certificates = each("tls_certificates", tls_certificates, |certificate| {
            TlsCertificate::decode(certificate, ctx).map(CertificateRef::Inline)
        })?;
        certificates.extend(each(
            "tls_certificate_sds_secret_configs",
            tls_certificate_sds_secret_configs,
            |secret| {
                let SecretRef { name, source } = SecretRef::decode(secret, ctx)?;
                Ok(CertificateRef::Secret { name, source })
            },
        )?);
        let alpn = each("alpn_protocols", alpn_protocols, |protocol| {
            // RFC 7301 section 3.1: one to 255 bytes.
            match protocol.len() {
                1..=255 => Ok(protocol),
                n => Err(fault(format!("is {n} bytes long"))),
            }
        })?;
        let (min_version, max_version) =
            decode_versions(tls_params.unwrap_or_default()).at("tls_params")?;
        Ok(Self {
            certificates,
            alpn,
            min_version,
            max_version,
            validation: validation_context_type,
        })
    }
}

impl SecretRef {
    pub(super) fn decode(
        message: tls::SdsSecretConfig,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let tls::SdsSecretConfig { name, sds_config } = message;
        let source = sds_config
            .map(|source| ConfigSource::decode(source, ctx))
            .transpose();
        Ok(Self {
            name: not_empty(name, "name")?,
            source: source.at("sds_config")?,
        })
    }
}

/// Versions below 1.2 are not spoken. Unlike Envoy's, our clients offer 1.3 unless told otherwise.
fn decode_versions(message: tls::TlsParameters) -> Result<(TlsVersion, TlsVersion), Invalid> {
    let tls::TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = message;
    refuse!(
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies
    );

    let version = |value, field: &str, default| match enumeration(value, field)? {
        TlsProtocol::TlsAuto => Ok(default),
        TlsProtocol::TlSv12 => Ok(TlsVersion::V1_2),
        TlsProtocol::TlSv13 => Ok(TlsVersion::V1_3),
        TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => {
            Err(Invalid::at(field, "TLS 1.0 and 1.1 are not supported"))
        }
    };
    const MIN: &str = "tls_minimum_protocol_version";
    let min = version(tls_minimum_protocol_version, MIN, TlsVersion::V1_2)?;
    let max = version(
        tls_maximum_protocol_version,
        "tls_maximum_protocol_version",
        TlsVersion::V1_3,
    )?;
    if min > max {
        return Err(Invalid::at(MIN, "is above the maximum"));
    }
    Ok((min, max))
}
