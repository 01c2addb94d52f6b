//! Whose certificates are taken.

use super::*;

#[test]
#[allow(deprecated, reason = "still sent")]
fn certificates_of_clients_are_asked_for_and_checked() {
    let pairs = "ab:".repeat(31) + "ab";
    let mut context = downstream();
    context.require_client_certificate = boolean(true);
    context.require_sni = boolean(true);
    context.disable_stateful_session_resumption = true;
    let common = context.common_tls_context.as_mut().unwrap();
    let params = common.tls_params.get_or_insert_default();
    params.cipher_suites = vec!["[ECDHE-RSA-AES128-GCM-SHA256|AES128-SHA]".into()];
    params.ecdh_curves = vec!["P-384".into(), "X25519".into()];
    common.validation_context_type = Some(
        tls::common_tls_context::ValidationContextType::ValidationContext(
            tls::CertificateValidationContext {
                trusted_ca: inline(CERTIFICATE),
                verify_certificate_hash: vec!["AB".repeat(32), pairs],
                verify_certificate_spki: vec![
                    "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=".into(),
                ],
                match_subject_alt_names: vec![exact("192.0.2.1"), exact("a.test")],
                trust_chain_verification: 1,
                suppress_client_ca_list: true,
                ..Default::default()
            },
        ),
    );
    let decoded = decoded(&with_downstream(context));
    assert_eq!(decoded.ignored, ["TlsParameters.cipher_suites"]);
    let tls = chain_of(decoded.resource).tls.unwrap();
    assert!(tls.require_client_certificate && tls.require_sni);
    assert!(tls.stateless_resumption && !tls.stateful_resumption);
    assert_eq!(
        tls.parameters.cipher_suites,
        [CipherSuite::EcdheRsaAes128Gcm]
    );
    assert_eq!(tls.parameters.curves, [Curve::P384, Curve::X25519]);
    let validation = tls.validation;
    assert_eq!(validation.certificate_hashes, [[0xab; 32]; 2]);
    assert_eq!(validation.key_hashes, [[0xab; 32]]);
    assert!(validation.accept_untrusted && validation.suppress_client_ca_list);
    let kinds: Vec<_> = validation.subject_names.iter().map(|n| n.kind).collect();
    use SubjectNameKind::{Dns, Email, Ip, Uri};
    assert_eq!(kinds, [Dns, Uri, Email, Ip, Dns, Uri, Email, Ip]);
}

#[test]
fn a_validation_can_be_a_secret() {
    use tls::common_tls_context::ValidationContextType as Type;
    let secret_config = tls::SdsSecretConfig {
        name: "ca".into(),
        sds_config: None,
    };
    let cluster = |kind| {
        let mut context = tls::UpstreamTlsContext::default();
        let common = context.common_tls_context.get_or_insert_default();
        common.validation_context_type = Some(kind);
        resource(&with_upstream(context))
    };
    let alone = cluster(Type::ValidationContextSdsSecretConfig(
        secret_config.clone(),
    ));
    let references = alone.references();
    assert_eq!(
        (references[0].kind, references[0].name.as_str()),
        (ResourceType::Secret, "ca")
    );
    let alone = upstream_of(alone).unwrap();
    assert_eq!(alone.validation, Validation::default());

    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(named(SanType::Uri, "spiffe://a/b")),
        validation_context_sds_secret_config: Some(secret_config),
        ..Default::default()
    };
    let combined = upstream_of(cluster(Type::CombinedValidationContext(combined))).unwrap();
    assert_eq!(combined.validation_secret, alone.validation_secret);

    let mut message = secret();
    message.r#type = Some(tls::secret::Type::ValidationContext(
        tls::CertificateValidationContext {
            trusted_ca: inline(CERTIFICATE),
            ..named(SanType::Dns, "a.test")
        },
    ));
    let Resource::Secret(secret) = resource(&message) else {
        panic!()
    };
    let SecretValue::Validation(over) = &secret.value else {
        panic!()
    };
    let merged = combined.validation.merged(over);
    assert!(merged.trusted_ca.is_some());
    let kinds: Vec<_> = merged.subject_names.iter().map(|n| n.kind).collect();
    assert_eq!(kinds, [SubjectNameKind::Uri, SubjectNameKind::Dns]);
}

#[test]
fn trust_domains_have_names_of_their_own() {
    use proto::Message as _;
    let domain = |name: &str| tls::spiffe_cert_validator_config::TrustDomain {
        name: name.into(),
        trust_bundle: inline(CERTIFICATE),
        ..Default::default()
    };
    let of = |config: &tls::SpiffeCertValidatorConfig| {
        let mut message = secret();
        let config = crate::proto::core::TypedExtensionConfig {
            name: "spiffe".into(),
            typed_config: Some(any(
                "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                &config.encode_to_vec(),
            )),
        };
        message.r#type = Some(tls::secret::Type::ValidationContext(
            tls::CertificateValidationContext {
                custom_validator_config: Some(config),
                ..named(SanType::Uri, "spiffe://a/b")
            },
        ));
        message
    };
    let config = |domains: Vec<tls::spiffe_cert_validator_config::TrustDomain>| {
        tls::SpiffeCertValidatorConfig {
            trust_domains: domains,
            ..Default::default()
        }
    };
    let Resource::Secret(found) = resource(&of(&config(vec![domain("a"), domain("b")]))) else {
        panic!()
    };
    let SecretValue::Validation(over) = &found.value else {
        panic!()
    };
    let names = |validation: &Validation| -> Vec<String> {
        let domains = validation.trust_domains.iter();
        domains.map(|domain| domain.name.clone()).collect()
    };
    assert_eq!(names(&Validation::default().merged(over)), ["a", "b"]);

    let at = "validation_context.custom_validator_config.typed_config";
    for (config, reason) in [
        (config(vec![]), "trust_domains: must not be empty"),
        (
            config(vec![domain("")]),
            "trust_domains[0].name: must not be empty",
        ),
        (
            config(vec![domain("a"), domain("a")]),
            "trust_domains[1].name: trust domain \"a\" is there already",
        ),
        (
            tls::SpiffeCertValidatorConfig {
                trust_bundles: inline("x"),
                ..config(vec![domain("a")])
            },
            "trust_bundles: not supported yet",
        ),
    ] {
        assert_eq!(refusal(&of(&config)), format!("{at}.{reason}"));
    }
}
