//! What is refused, and by which path.

use super::*;

#[test]
fn a_downstream_context_is_refused_by_path() {
    fn common(context: &mut tls::DownstreamTlsContext) -> &mut tls::CommonTlsContext {
        context.common_tls_context.as_mut().unwrap()
    }
    fn params(context: &mut tls::DownstreamTlsContext) -> &mut tls::TlsParameters {
        common(context).tls_params.get_or_insert_default()
    }
    assert_refused(
        downstream,
        with_downstream,
        AT,
        &[
            ("common_tls_context: must be given", |c| {
                c.common_tls_context = None
            }),
            ("common_tls_context: names no certificate", |c| {
                common(c).tls_certificates.clear()
            }),
            (
                "ocsp_staple_policy: only LENIENT_STAPLING is supported",
                |c| c.ocsp_staple_policy = 2,
            ),
            ("session_ticket_keys.keys: must not be empty", |c| {
                c.session_ticket_keys_type = Some(
                    tls::downstream_tls_context::SessionTicketKeysType::SessionTicketKeys(
                        Default::default(),
                    ),
                );
            }),
            (
                "common_tls_context.alpn_protocols[0]: is 0 bytes long",
                |c| {
                    common(c).alpn_protocols = vec![String::new()];
                },
            ),
            (
                "common_tls_context.tls_certificate_sds_secret_configs[0].name: must not be empty",
                |c| {
                    common(c).tls_certificate_sds_secret_configs = vec![Default::default()];
                },
            ),
            (
                "common_tls_context.tls_certificates[0].private_key: must be given",
                |c| {
                    common(c).tls_certificates[0].private_key = None;
                },
            ),
            (
                "common_tls_context.tls_certificates[0].certificate_chain: holds no PEM certificate",
                |c| {
                    common(c).tls_certificates[0].certificate_chain = inline("x");
                },
            ),
            (
                "common_tls_context.tls_certificates[0].ocsp_staple: is no response of OCSP",
                |c| common(c).tls_certificates[0].ocsp_staple = inline("x"),
            ),
            (
                "common_tls_context.tls_certificates[0].watched_directory.path: must not be empty",
                |c| common(c).tls_certificates[0].watched_directory = Some(Default::default()),
            ),
            (
                "common_tls_context.tls_certificates[0].pkcs12: not supported yet",
                |c| {
                    common(c).tls_certificates[0].pkcs12 = inline("x");
                },
            ),
            (
                "common_tls_context.tls_certificates[0].private_key.environment_variable: \
             \"CAUSEWAY_NOT_SET\" is not set",
                |c| {
                    common(c).tls_certificates[0].private_key = Some(core::DataSource {
                        specifier: Some(core::data_source::Specifier::EnvironmentVariable(
                            "CAUSEWAY_NOT_SET".into(),
                        )),
                        ..Default::default()
                    });
                },
            ),
            (
                "common_tls_context.tls_certificates[0].private_key.environment_variable: \"a=b\" is not set",
                |c| {
                    common(c).tls_certificates[0].private_key = Some(core::DataSource {
                        specifier: Some(core::data_source::Specifier::EnvironmentVariable(
                            "a=b".into(),
                        )),
                        ..Default::default()
                    });
                },
            ),
            (
                "common_tls_context.tls_params.cipher_suites[1]: \"x\" is not supported",
                |c| {
                    params(c).cipher_suites = vec![
                        "ECDHE-RSA-AES128-GCM-SHA256".into(),
                        "[AES128-SHA|x]".into(),
                    ];
                },
            ),
            (
                "common_tls_context.tls_params.cipher_suites: names none that is supported",
                |c| params(c).cipher_suites = vec!["AES128-SHA".into()],
            ),
            (
                "common_tls_context.tls_params.ecdh_curves[0]: \"P-521\" is not supported",
                |c| params(c).ecdh_curves = vec!["P-521".into()],
            ),
            (
                "common_tls_context.tls_params.tls_minimum_protocol_version: \
             TLS 1.0 and 1.1 are not supported",
                |c| params(c).tls_minimum_protocol_version = 1,
            ),
            (
                "common_tls_context.tls_params.tls_minimum_protocol_version: is above the maximum",
                |c| {
                    params(c).tls_minimum_protocol_version = 4;
                    params(c).tls_maximum_protocol_version = 3;
                },
            ),
        ],
    );
}

#[test]
fn an_upstream_context_is_refused_by_path() {
    use tls::common_tls_context::ValidationContextType as Type;
    fn validation(c: &mut tls::UpstreamTlsContext, context: tls::CertificateValidationContext) {
        c.common_tls_context
            .get_or_insert_default()
            .validation_context_type = Some(Type::ValidationContext(context));
    }
    assert_refused(
        Default::default,
        with_upstream,
        "transport_socket.typed_config",
        &[
            ("sni: is longer than 255 bytes", |c| c.sni = "a".repeat(256)),
            (
                "common_tls_context: more than one client certificate",
                |c| {
                    c.common_tls_context
                        .get_or_insert_default()
                        .tls_certificates = vec![certificate(), certificate()];
                },
            ),
            (
                "common_tls_context.validation_context.match_typed_subject_alt_names[0].san_type: \
             must be given",
                |c| {
                    validation(
                        c,
                        tls::CertificateValidationContext {
                            match_typed_subject_alt_names: vec![Default::default()],
                            ..Default::default()
                        },
                    );
                },
            ),
            (
                "common_tls_context.validation_context.match_typed_subject_alt_names[0].oid: \
             \"\" is no object identifier",
                |c| validation(c, named(SanType::OtherName, "a@b")),
            ),
            (
                "common_tls_context.validation_context.trusted_ca: must be given with names",
                |c| validation(c, named(SanType::Dns, "a")),
            ),
            (
                "common_tls_context.combined_validation_context.default_validation_context: \
             must be given",
                |c| {
                    c.common_tls_context
                        .get_or_insert_default()
                        .validation_context_type =
                        Some(Type::CombinedValidationContext(Default::default()));
                },
            ),
            (
                "common_tls_context.validation_context.verify_certificate_hash[0]: \
             is no SHA-256 in hexadecimal digits",
                |c| {
                    validation(
                        c,
                        tls::CertificateValidationContext {
                            verify_certificate_hash: vec!["ab".repeat(31) + "zz"],
                            ..Default::default()
                        },
                    );
                },
            ),
            (
                "common_tls_context.validation_context.verify_certificate_spki[0]: \
             is no SHA-256 in base64",
                |c| {
                    validation(
                        c,
                        tls::CertificateValidationContext {
                            verify_certificate_spki: vec!["YWJj".into()],
                            ..Default::default()
                        },
                    );
                },
            ),
            (
                "common_tls_context.validation_context.trusted_ca: must be given with crl",
                |c| {
                    validation(
                        c,
                        tls::CertificateValidationContext {
                            crl: inline("x"),
                            ..Default::default()
                        },
                    );
                },
            ),
            (
                "common_tls_context.validation_context.trusted_ca: holds no PEM certificate",
                |c| {
                    validation(
                        c,
                        tls::CertificateValidationContext {
                            trusted_ca: inline("x"),
                            ..Default::default()
                        },
                    );
                },
            ),
            (
                "common_tls_context.validation_context_sds_secret_config.name: must not be empty",
                |c| {
                    c.common_tls_context
                        .get_or_insert_default()
                        .validation_context_type =
                        Some(Type::ValidationContextSdsSecretConfig(Default::default()));
                },
            ),
        ],
    );
}

#[test]
fn a_secret_is_refused_by_path() {
    assert_refused(
        secret,
        |s| s,
        "",
        &[
            ("name: must not be empty", |s| s.name.clear()),
            ("type: must be given", |s| s.r#type = None),
            ("generic_secret.secret: must be given", |s| {
                s.r#type = Some(tls::secret::Type::GenericSecret(Default::default()));
            }),
            (
                "validation_context.max_verify_depth: 101 is not within 0 and 100",
                |s| {
                    let context = tls::CertificateValidationContext {
                        max_verify_depth: uint(101),
                        ..Default::default()
                    };
                    s.r#type = Some(tls::secret::Type::ValidationContext(context));
                },
            ),
        ],
    );
}
