//! What the TLS contexts of both directions share.

use super::{CertificateRef, SecretRef, TlsCertificate, TlsParameters, Validation, validation};
use crate::proto::causeway::v1::AutomaticCertificates;
use crate::proto::core::TypedExtensionConfig;
use crate::proto::tls::{self, CommonTlsContext};
use crate::reject::Invalid;
use crate::resource::config_source::ConfigSource;
use crate::resource::context::{
    At, Context, accept, each, fault, not_empty, refuse, required, unknown_type, unpack,
};
use crate::type_url::message_name;

pub(super) struct Common {
    pub certificates: Vec<CertificateRef>,
    /// See [`super::DownstreamTls::automatic`].
    pub automatic: bool,
    pub alpn: Vec<String>,
    pub parameters: TlsParameters,
    pub validation: (Validation, Option<SecretRef>),
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
        let automatic = selector(custom_tls_certificate_selector)?;
        if automatic && !certificates.is_empty() {
            return Err(Invalid::at(SELECTOR, "excludes certificates"));
        }
        let alpn = each("alpn_protocols", alpn_protocols, |protocol| {
            // RFC 7301 section 3.1: one to 255 bytes.
            match protocol.len() {
                1..=255 => Ok(protocol),
                n => Err(fault(format!("is {n} bytes long"))),
            }
        })?;
        let parameters = TlsParameters::decode(tls_params.unwrap_or_default(), ctx);
        Ok(Self {
            certificates,
            automatic,
            alpn,
            parameters: parameters.at("tls_params")?,
            validation: validation_context_type
                .map(|message| validation::decode(message, ctx))
                .transpose()?
                .unwrap_or_default(),
        })
    }
}

const SELECTOR: &str = "custom_tls_certificate_selector";
const AUTOMATIC: &str = "causeway.v1.AutomaticCertificates";

/// Whether certificates are those that the program gets by itself: the one selector there is.
fn selector(message: Option<TypedExtensionConfig>) -> Result<bool, Invalid> {
    let Some(TypedExtensionConfig {
        name: _,
        typed_config,
    }) = message
    else {
        return Ok(false);
    };
    let any = required(typed_config, "typed_config").at(SELECTOR)?;
    match message_name(&any.type_url) {
        AUTOMATIC => {
            let AutomaticCertificates {} = unpack(&any).at("typed_config").at(SELECTOR)?;
            Ok(true)
        }
        _ => Err(unknown_type(&any.type_url))
            .at("typed_config")
            .at(SELECTOR),
    }
}

impl SecretRef {
    pub(crate) fn decode(
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
