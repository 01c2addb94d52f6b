//! TLS contexts: message to typed.

use super::source::decode_ca;
use super::{
    CertificateRef, DataSource, DownstreamTls, Secret, SecretValue, TlsCertificate, TlsVersion,
    UpstreamTls,
};
use crate::proto::core::{TransportSocket, transport_socket};
use crate::proto::tls::common_tls_context::ValidationContextType;
use crate::proto::tls::downstream_tls_context::SessionTicketKeysType;
use crate::proto::tls::tls_parameters::TlsProtocol;
use crate::proto::tls::{self, CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext, secret};
use crate::proto::{self, Any};
use crate::reject::Invalid;
use crate::resource::config_source::ConfigSource;
use crate::resource::context::{
    At, Context, accept, each, enumeration, not_empty, refuse, refuse_true, required, unknown_type,
    unpack,
};
use crate::type_url::message_name;

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// The TLS of a transport socket; none for plain text.
fn of_socket<M: proto::Message + Default>(
    message: TransportSocket,
    tls_type: &str,
) -> Result<Option<M>, Invalid> {
    let TransportSocket {
        name: _,
        config_type,
    } = message;
    let any: Any = match required(config_type, "typed_config")? {
        transport_socket::ConfigType::TypedConfig(any) => any,
    };
    match message_name(&any.type_url) {
        RAW_BUFFER => Ok(None),
        name if name == tls_type => unpack(&any).at("typed_config").map(Some),
        _ => Err(unknown_type(&any.type_url)).at("typed_config"),
    }
}

impl DownstreamTls {
    pub(crate) fn from_socket(
        socket: Option<TransportSocket>,
        ctx: &Context<'_>,
    ) -> Result<Option<Self>, Invalid> {
        let Some(socket) = socket else {
            return Ok(None);
        };
        let tls = of_socket(socket, DOWNSTREAM)?;
        tls.map(|message| Self::decode(message, ctx))
            .transpose()
            .at("typed_config")
    }

    fn decode(message: DownstreamTlsContext, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            disable_stateful_session_resumption,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = message;
        refuse_true!(require_client_certificate, require_sni);
        refuse!(ocsp_staple_policy);
        accept!(ctx, "DownstreamTlsContext":
            disable_stateful_session_resumption,
            session_timeout,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
        );
        match session_ticket_keys_type {
            None => {}
            // No tickets are given out, so there is nothing to switch off.
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(
                disable_stateless_session_resumption,
            )) => {
                accept!(ctx, "DownstreamTlsContext": disable_stateless_session_resumption);
            }
            Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
                return Err(Invalid::at("session_ticket_keys", "not supported yet"));
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
                return Err(Invalid::at(
                    "session_ticket_keys_sds_secret_config",
                    "not supported yet",
                ));
            }
        }

        let common = required(common_tls_context, "common_tls_context")?;
        let common = Common::decode(common, ctx).at("common_tls_context")?;
        if let Some(validation) = common.validation {
            // It would check certificates of clients that send one.
            return Err(Invalid::unsupported(validation.path())).at("common_tls_context");
        }
        if common.certificates.is_empty() {
            return Err(Invalid::at("common_tls_context", "names no certificate"));
        }
        Ok(Self {
            certificates: common.certificates,
            alpn: common.alpn,
            min_version: common.min_version,
            max_version: common.max_version,
            handshake_timeout: None,
        })
    }
}

impl UpstreamTls {
    pub(crate) fn from_socket(
        socket: Option<TransportSocket>,
        ctx: &Context<'_>,
    ) -> Result<Option<Self>, Invalid> {
        let Some(socket) = socket else {
            return Ok(None);
        };
        let tls = of_socket(socket, UPSTREAM)?;
        tls.map(|message| Self::decode(message, ctx))
            .transpose()
            .at("typed_config")
    }

    fn decode(message: UpstreamTlsContext, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            allow_renegotiation,
            max_session_keys,
            enforce_rsa_key_usage,
        } = message;
        refuse!(auto_host_sni, auto_sni_san_validation);
        accept!(ctx, "UpstreamTlsContext":
            allow_renegotiation,
            max_session_keys,
            enforce_rsa_key_usage,
        );
        const MAX_SNI: usize = 255;
        if sni.len() > MAX_SNI {
            return Err(Invalid::at(
                "sni",
                format!("is longer than {MAX_SNI} bytes"),
            ));
        }

        let common = common_tls_context.unwrap_or_default();
        let common = Common::decode(common, ctx).at("common_tls_context")?;
        let mut certificates = common.certificates.into_iter();
        let client_certificate = certificates.next();
        if certificates.next().is_some() {
            return Err(Invalid::at(
                "common_tls_context",
                "more than one client certificate",
            ));
        }
        Ok(Self {
            sni,
            alpn: common.alpn,
            trusted_ca: common
                .validation
                .map_or(Ok(None), |v| v.trusted_ca(ctx))
                .at("common_tls_context")?,
            client_certificate,
            min_version: common.min_version,
            max_version: common.max_version,
        })
    }
}

/// What both directions share.
struct Common {
    certificates: Vec<CertificateRef>,
    alpn: Vec<String>,
    min_version: TlsVersion,
    max_version: TlsVersion,
    validation: Option<Validation>,
}

impl Common {
    fn decode(message: CommonTlsContext, ctx: &Context<'_>) -> Result<Self, Invalid> {
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
            TlsCertificate::decode(certificate).map(CertificateRef::Inline)
        })?;
        certificates.extend(each(
            "tls_certificate_sds_secret_configs",
            tls_certificate_sds_secret_configs,
            |secret| decode_secret_ref(secret, ctx),
        )?);
        let alpn = each("alpn_protocols", alpn_protocols, |protocol| {
            // RFC 7301 section 3.1: one to 255 bytes.
            match protocol.len() {
                1..=255 => Ok(protocol),
                n => Err(crate::resource::context::fault(format!(
                    "is {n} bytes long"
                ))),
            }
        })?;
        let (min_version, max_version) =
            decode_versions(tls_params.unwrap_or_default()).at("tls_params")?;
        Ok(Self {
            certificates,
            alpn,
            min_version,
            max_version,
            validation: validation_context_type.map(Validation),
        })
    }
}

fn decode_secret_ref(
    message: tls::SdsSecretConfig,
    ctx: &Context<'_>,
) -> Result<CertificateRef, Invalid> {
    let tls::SdsSecretConfig { name, sds_config } = message;
    let source = sds_config
        .map(|source| ConfigSource::decode(source, ctx))
        .transpose();
    Ok(CertificateRef::Secret {
        name: not_empty(name, "name")?,
        source: source.at("sds_config")?,
    })
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

/// How the peer's certificate is to be checked; only a client takes one.
struct Validation(ValidationContextType);

impl Validation {
    fn path(&self) -> crate::reject::FieldPath {
        #[allow(deprecated, reason = "named so that they can be refused")]
        let field = match self.0 {
            ValidationContextType::ValidationContext(_) => "validation_context",
            ValidationContextType::ValidationContextSdsSecretConfig(_) => {
                "validation_context_sds_secret_config"
            }
            ValidationContextType::CombinedValidationContext(_) => "combined_validation_context",
            ValidationContextType::ValidationContextCertificateProvider(_) => {
                "validation_context_certificate_provider"
            }
            ValidationContextType::ValidationContextCertificateProviderInstance(_) => {
                "validation_context_certificate_provider_instance"
            }
        };
        crate::reject::FieldPath::root().field(field)
    }

    fn trusted_ca(self, ctx: &Context<'_>) -> Result<Option<DataSource>, Invalid> {
        let path = self.path();
        match self.0 {
            ValidationContextType::ValidationContext(context) => {
                decode_validation(context, ctx).map_err(|e| e.within(&path))
            }
            _ => Err(Invalid::unsupported(path)),
        }
    }
}

fn decode_validation(
    message: tls::CertificateValidationContext,
    ctx: &Context<'_>,
) -> Result<Option<DataSource>, Invalid> {
    #[allow(deprecated, reason = "named so that they can be refused")]
    let tls::CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list,
    } = message;
    refuse!(
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
    );
    accept!(ctx, "CertificateValidationContext": suppress_client_ca_list);
    trusted_ca.map(decode_ca).transpose().at("trusted_ca")
}

impl Secret {
    pub(crate) fn decode(message: tls::Secret, _: &Context<'_>) -> Result<Self, Invalid> {
        let tls::Secret { name, r#type } = message;
        let unsupported = |field| Err(Invalid::at(field, "not supported yet"));
        let value = match r#type {
            None => return Err(Invalid::at("type", "must be given")),
            Some(secret::Type::TlsCertificate(certificate)) => {
                SecretValue::Certificate(TlsCertificate::decode(certificate).at("tls_certificate")?)
            }
            Some(secret::Type::SessionTicketKeys(_)) => return unsupported("session_ticket_keys"),
            Some(secret::Type::ValidationContext(_)) => return unsupported("validation_context"),
            Some(secret::Type::GenericSecret(_)) => return unsupported("generic_secret"),
        };
        Ok(Self {
            name: not_empty(name, "name")?,
            value,
        })
    }
}
