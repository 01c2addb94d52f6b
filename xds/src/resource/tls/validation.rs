//! How a server's certificate is to be checked: message to typed.

use std::net::IpAddr;

use super::source::decode_ca;
use super::{SecretRef, SubjectName, SubjectNameKind, Validation};
use crate::proto::tls::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use crate::proto::tls::subject_alt_name_matcher::SanType;
use crate::proto::tls::{self, SubjectAltNameMatcher};
use crate::reject::{FieldPath, Invalid};
use crate::resource::context::{At, Context, accept, each, enumeration, fault, refuse, required};
use crate::resource::matcher::{StringMatcher, StringPattern};

/// Where the validation of a context is written.
pub(super) fn path(message: &ValidationContextType) -> FieldPath {
    #[allow(deprecated, reason = "named so that they can be refused")]
    let field = match message {
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
    FieldPath::root().field(field)
}

/// What is given in place, and the secret to be put over it.
pub(super) fn decode(
    message: ValidationContextType,
    ctx: &Context<'_>,
) -> Result<(Validation, Option<SecretRef>), Invalid> {
    let at = path(&message);
    let decode = || match message {
        ValidationContextType::ValidationContext(context) => {
            let validation = Validation::decode(context, ctx)?;
            validation.check()?;
            Ok((validation, None))
        }
        ValidationContextType::ValidationContextSdsSecretConfig(secret) => {
            Ok((Validation::default(), Some(SecretRef::decode(secret, ctx)?)))
        }
        ValidationContextType::CombinedValidationContext(combined) => combine(combined, ctx),
        _ => Err(fault("not supported yet")),
    };
    decode().map_err(|e| e.within(&at))
}

fn combine(
    message: CombinedCertificateValidationContext,
    ctx: &Context<'_>,
) -> Result<(Validation, Option<SecretRef>), Invalid> {
    #[allow(deprecated, reason = "named so that they can be refused")]
    let CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = message;
    refuse!(
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    );
    const DEFAULT: &str = "default_validation_context";
    const SECRET: &str = "validation_context_sds_secret_config";
    let default = required(default_validation_context, DEFAULT)?;
    let secret = required(validation_context_sds_secret_config, SECRET)?;
    Ok((
        Validation::decode(default, ctx).at(DEFAULT)?,
        Some(SecretRef::decode(secret, ctx).at(SECRET)?),
    ))
}

impl Validation {
    pub(super) fn decode(
        message: tls::CertificateValidationContext,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
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
        Ok(Self {
            trusted_ca: trusted_ca
                .map(|ca| decode_ca(ca, ctx))
                .transpose()
                .at("trusted_ca")?,
            subject_names: each(
                "match_typed_subject_alt_names",
                match_typed_subject_alt_names,
                |name| SubjectName::decode(name, ctx),
            )?,
        })
    }

    /// Names mean nothing in a certificate that anybody may have made.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.trusted_ca.is_none() && !self.subject_names.is_empty() {
            return Err(Invalid::at("trusted_ca", "must be given with names"));
        }
        Ok(())
    }
}

impl SubjectName {
    fn decode(message: SubjectAltNameMatcher, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let SubjectAltNameMatcher {
            san_type,
            matcher,
            oid,
        } = message;
        refuse!(oid);
        let kind = match enumeration(san_type, "san_type")? {
            SanType::Dns => SubjectNameKind::Dns,
            SanType::Uri => SubjectNameKind::Uri,
            SanType::IpAddress => SubjectNameKind::Ip,
            SanType::Unspecified => return Err(Invalid::at("san_type", "must be given")),
            other @ (SanType::Email | SanType::OtherName) => {
                let reason = format!("{} is not supported yet", other.as_str_name());
                return Err(Invalid::at("san_type", reason));
            }
        };
        let matcher = StringMatcher::decode(required(matcher, "matcher")?, ctx).at("matcher")?;
        let is_address = match &matcher.pattern {
            StringPattern::Exact(text) => text.parse::<IpAddr>().is_ok(),
            _ => false,
        };
        if kind == SubjectNameKind::Ip && !is_address {
            return Err(Invalid::at("matcher", "must be an exact IP address"));
        }
        Ok(Self { kind, matcher })
    }
}
