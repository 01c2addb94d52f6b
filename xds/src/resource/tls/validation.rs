//! How the other side's certificate is to be checked: message to typed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::source::{decode_ca, watched};
use super::{DataSource, SecretRef, Sha256, SubjectName, SubjectNameKind, TrustDomain, Validation};
use crate::proto::core::TypedExtensionConfig;
use crate::proto::tls::certificate_validation_context::TrustChainVerification;
use crate::proto::tls::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use crate::proto::tls::subject_alt_name_matcher::SanType;
use crate::proto::tls::{self, SubjectAltNameMatcher};
use crate::reject::{FieldPath, Invalid};
use crate::resource::context::{
    At, Context, each, enumeration, fault, not_empty, number, refuse, required, unknown_type,
    unpack,
};
use crate::resource::matcher::StringMatcher;
use crate::type_url::message_name;

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
            require_signed_certificate_timestamp,
        );
        let mut subject_names = each(
            "match_typed_subject_alt_names",
            match_typed_subject_alt_names,
            |name| SubjectName::decode(name, ctx),
        )?;
        let untyped = each(
            "match_subject_alt_names",
            match_subject_alt_names,
            |matcher| StringMatcher::decode(matcher, ctx).map(SubjectName::of_any_kind),
        )?;
        subject_names.extend(untyped.into_iter().flatten());
        let trust: TrustChainVerification =
            enumeration(trust_chain_verification, "trust_chain_verification")?;
        Ok(Self {
            trusted_ca: trusted_ca
                .map(|ca| decode_ca(ca, ctx))
                .transpose()
                .at("trusted_ca")?,
            system_roots: system_root_certs.is_some(),
            watched_directory: watched(watched_directory, ctx)?,
            trust_domains: custom_validator_config
                .map(|config| spiffe(config, ctx))
                .transpose()
                .at("custom_validator_config")?
                .unwrap_or_default(),
            subject_names,
            certificate_hashes: each("verify_certificate_hash", verify_certificate_hash, |hash| {
                from_hex(&hash).ok_or_else(|| fault("is no SHA-256 in hexadecimal digits"))
            })?,
            key_hashes: each("verify_certificate_spki", verify_certificate_spki, |hash| {
                let bytes = STANDARD.decode(hash).ok();
                let hash = bytes.and_then(|bytes| bytes.try_into().ok());
                hash.ok_or_else(|| fault("is no SHA-256 in base64"))
            })?,
            revoked: crl
                .map(|crl| {
                    let crl = DataSource::decode(crl)?;
                    crl.check(ctx)?;
                    Ok(crl)
                })
                .transpose()
                .at("crl")?,
            revoked_leaf_only: only_verify_leaf_cert_crl,
            allow_expired: allow_expired_certificate,
            max_depth: number(max_verify_depth, "max_verify_depth", 0..=100)?,
            accept_untrusted: trust == TrustChainVerification::AcceptUntrusted,
            suppress_client_ca_list,
        })
    }

    /// Names mean nothing in a certificate that anybody may have made, and nobody has revoked it.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let authorities = self.trusted_ca.is_some() || self.system_roots;
        let trusted = authorities || !self.trust_domains.is_empty();
        if !trusted && !self.subject_names.is_empty() {
            return Err(Invalid::at("trusted_ca", "must be given with names"));
        }
        for (set, field) in [
            (self.allow_expired, "allow_expired_certificate"),
            (self.max_depth.is_some(), "max_verify_depth"),
        ] {
            if set && !trusted {
                return Err(Invalid::at(
                    "trusted_ca",
                    format!("must be given with {field}"),
                ));
            }
        }
        if !authorities && self.revoked.is_some() {
            return Err(Invalid::at("trusted_ca", "must be given with crl"));
        }
        Ok(())
    }
}

/// The one validator besides the usual one.
fn spiffe(message: TypedExtensionConfig, ctx: &Context<'_>) -> Result<Vec<TrustDomain>, Invalid> {
    const SPIFFE: &str = "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
    let TypedExtensionConfig {
        name: _,
        typed_config,
    } = message;
    let any = required(typed_config, "typed_config")?;
    if message_name(&any.type_url) != SPIFFE {
        return Err(unknown_type(&any.type_url)).at("typed_config");
    }
    let decode = || {
        let tls::SpiffeCertValidatorConfig {
            trust_domains,
            trust_bundles,
        } = unpack(&any)?;
        refuse!(trust_bundles);
        let domains = each("trust_domains", trust_domains, |domain| {
            TrustDomain::decode(domain, ctx)
        })?;
        if domains.is_empty() {
            return Err(Invalid::at("trust_domains", "must not be empty"));
        }
        for (index, domain) in domains.iter().enumerate() {
            if domains[..index].iter().any(|d| d.name == domain.name) {
                let reason = format!("trust domain {:?} is there already", domain.name);
                return Err(Invalid::at(format!("trust_domains[{index}].name"), reason));
            }
        }
        Ok(domains)
    };
    decode().at("typed_config")
}

impl TrustDomain {
    fn decode(
        message: tls::spiffe_cert_validator_config::TrustDomain,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let tls::spiffe_cert_validator_config::TrustDomain {
            name,
            trust_bundle,
            workload_trust_domain,
        } = message;
        refuse!(workload_trust_domain);
        let bundle = required(trust_bundle, "trust_bundle")?;
        Ok(Self {
            name: not_empty(name, "name")?,
            bundle: decode_ca(bundle, ctx).at("trust_bundle")?,
        })
    }
}

/// 32 bytes in hexadecimal digits, with a colon between every two of them or none at all.
fn from_hex(text: &str) -> Option<Sha256> {
    let digits: Vec<u8> = match text.len() {
        64 => text.bytes().collect(),
        95 => {
            let colons = text.bytes().skip(2).step_by(3);
            if !colons.into_iter().all(|b| b == b':') {
                return None;
            }
            let pairs = text.as_bytes().chunks(3);
            pairs.flat_map(|pair| pair[..2].iter().copied()).collect()
        }
        _ => return None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |d: u8| {
            char::from(d)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl SubjectName {
    /// A matcher that does not say what kind of name it is for.
    fn of_any_kind(matcher: StringMatcher) -> Vec<Self> {
        let kinds = [
            SubjectNameKind::Dns,
            SubjectNameKind::Uri,
            SubjectNameKind::Email,
            SubjectNameKind::Ip,
        ];
        let of = |kind| Self {
            kind,
            oid: String::new(),
            matcher: matcher.clone(),
        };
        kinds.into_iter().map(of).collect()
    }

    fn decode(message: SubjectAltNameMatcher, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let SubjectAltNameMatcher {
            san_type,
            matcher,
            oid,
        } = message;
        let kind = match enumeration(san_type, "san_type")? {
            SanType::Dns => SubjectNameKind::Dns,
            SanType::Uri => SubjectNameKind::Uri,
            SanType::IpAddress => SubjectNameKind::Ip,
            SanType::Unspecified => return Err(Invalid::at("san_type", "must be given")),
            SanType::Email => SubjectNameKind::Email,
            SanType::OtherName => SubjectNameKind::Other,
        };
        let is_oid = |part: &str| part.parse::<u64>().is_ok();
        match kind {
            SubjectNameKind::Other if oid.contains('.') && oid.split('.').all(is_oid) => {}
            SubjectNameKind::Other => {
                return Err(Invalid::at(
                    "oid",
                    format!("{oid:?} is no object identifier"),
                ));
            }
            _ => refuse!(oid),
        }
        let matcher = StringMatcher::decode(required(matcher, "matcher")?, ctx).at("matcher")?;
        Ok(Self { kind, oid, matcher })
    }
}
