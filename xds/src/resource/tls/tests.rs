use super::*;
use crate::proto::envoy::r#type::matcher::v3 as matcher;
use crate::proto::tls::subject_alt_name_matcher::SanType;
use crate::proto::{self, core, tls};
use crate::resource::testing::*;
use crate::resource::{Resource, listener};
use crate::type_url::{ResourceType, pack};

const AT: &str = "filter_chains[0].transport_socket.typed_config";

fn common() -> tls::CommonTlsContext {
    tls::CommonTlsContext {
        tls_certificates: vec![certificate()],
        ..Default::default()
    }
}

fn downstream() -> tls::DownstreamTlsContext {
    tls::DownstreamTlsContext {
        common_tls_context: Some(common()),
        ..Default::default()
    }
}

fn with_downstream(context: tls::DownstreamTlsContext) -> proto::Listener {
    let mut message = listener();
    message.filter_chains[0].transport_socket = transport_socket(pack(&context));
    message.filter_chains[0].transport_socket_connect_timeout = seconds(3);
    message
}

fn with_upstream(context: tls::UpstreamTlsContext) -> proto::Cluster {
    proto::Cluster {
        transport_socket: transport_socket(pack(&context)),
        ..cluster()
    }
}

fn upstream_of(resource: Resource) -> Option<UpstreamTls> {
    let Resource::Cluster(cluster) = resource else {
        panic!()
    };
    cluster.tls.clone()
}

fn chain_of(resource: Resource) -> listener::FilterChain {
    let Resource::Listener(listener) = resource else {
        panic!()
    };
    listener.filter_chains[0].clone()
}

fn secret() -> tls::Secret {
    tls::Secret {
        name: "cert".into(),
        r#type: Some(tls::secret::Type::TlsCertificate(certificate())),
    }
}

#[test]
fn a_downstream_context_is_read() {
    let mut context = downstream();
    let common = context.common_tls_context.as_mut().unwrap();
    common.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
    common.tls_certificate_sds_secret_configs = vec![tls::SdsSecretConfig {
        name: "other".into(),
        sds_config: same_origin(),
    }];
    let resource = resource(&with_downstream(context));

    let references = resource.references();
    assert_eq!(
        (references[0].kind, references[0].name.as_str()),
        (ResourceType::Secret, "other")
    );
    let tls = chain_of(resource).tls.unwrap();
    assert_eq!(tls.alpn, ["h2", "http/1.1"]);
    assert_eq!(
        (tls.min_version, tls.max_version),
        (TlsVersion::V1_2, TlsVersion::V1_3)
    );
    assert_eq!(tls.handshake_timeout, Some(Duration::from_secs(3)));
    assert_eq!(tls.certificates.len(), 2);
}

#[test]
fn raw_buffer_is_no_tls() {
    let raw = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    let mut message = listener();
    message.filter_chains[0].transport_socket = transport_socket(any(raw, b""));
    assert_eq!(chain_of(resource(&message)).tls, None);
    let message = proto::Cluster {
        transport_socket: transport_socket(any(raw, b"")),
        ..cluster()
    };
    assert_eq!(upstream_of(resource(&message)), None);
}

#[test]
fn an_upstream_context_is_read() {
    let tls = upstream_of(resource(&with_upstream(tls::UpstreamTlsContext::default()))).unwrap();
    assert_eq!(tls.validation, Validation::default());
    assert_eq!(tls.client_certificate, None);

    let mut common = common();
    common.validation_context_type = Some(
        tls::common_tls_context::ValidationContextType::ValidationContext(
            tls::CertificateValidationContext {
                trusted_ca: inline(CERTIFICATE),
                ..Default::default()
            },
        ),
    );
    let context = tls::UpstreamTlsContext {
        sni: "app.test".into(),
        common_tls_context: Some(common),
        ..Default::default()
    };
    let tls = upstream_of(resource(&with_upstream(context))).unwrap();
    assert_eq!(tls.sni, "app.test");
    let validation = Validation {
        trusted_ca: Some(DataSource::Inline(CERTIFICATE.into())),
        subject_names: vec![],
    };
    assert_eq!(tls.validation, validation);
    assert!(matches!(
        tls.client_certificate,
        Some(CertificateRef::Inline(_))
    ));
}

#[test]
fn keys_are_never_shown() {
    let shown = format!("{:?}", resource(&secret()));
    assert!(
        shown.contains("[redacted]") && !shown.contains("PRIVATE"),
        "{shown}"
    );

    let mut message = secret();
    let Some(tls::secret::Type::TlsCertificate(certificate)) = &mut message.r#type else {
        panic!()
    };
    certificate.private_key = inline("hunter2");
    let text = refusal(&message);
    assert_eq!(
        text,
        "tls_certificate.private_key: holds no PEM private key"
    );
}

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
            ("require_client_certificate: not supported yet", |c| {
                c.require_client_certificate = boolean(true);
            }),
            ("require_sni: not supported yet", |c| {
                c.require_sni = boolean(true)
            }),
            ("ocsp_staple_policy: not supported yet", |c| {
                c.ocsp_staple_policy = 2
            }),
            ("session_ticket_keys: not supported yet", |c| {
                c.session_ticket_keys_type = Some(
                    tls::downstream_tls_context::SessionTicketKeysType::SessionTicketKeys(
                        Default::default(),
                    ),
                );
            }),
            (
                "common_tls_context.validation_context: not supported yet",
                |c| {
                    common(c).validation_context_type = Some(
                        tls::common_tls_context::ValidationContextType::ValidationContext(
                            Default::default(),
                        ),
                    );
                },
            ),
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
                "common_tls_context.tls_params.cipher_suites: not supported yet",
                |c| {
                    params(c).cipher_suites = vec!["x".into()];
                },
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
            ("auto_host_sni: not supported yet", |c| {
                c.auto_host_sni = true
            }),
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
                "common_tls_context.validation_context.match_typed_subject_alt_names[0].san_type: \
             EMAIL is not supported yet",
                |c| validation(c, named(SanType::Email, "a@b")),
            ),
            (
                "common_tls_context.validation_context.match_typed_subject_alt_names[0].matcher: \
             must be an exact IP address",
                |c| validation(c, named(SanType::IpAddress, "a")),
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
                "common_tls_context.validation_context.trust_chain_verification: not supported yet",
                |c| {
                    validation(
                        c,
                        tls::CertificateValidationContext {
                            trust_chain_verification: 1,
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
            ("generic_secret: not supported yet", |s| {
                s.r#type = Some(tls::secret::Type::GenericSecret(Default::default()));
            }),
            ("validation_context.crl: not supported yet", |s| {
                let context = tls::CertificateValidationContext {
                    crl: inline("x"),
                    ..Default::default()
                };
                s.r#type = Some(tls::secret::Type::ValidationContext(context));
            }),
        ],
    );
}

fn named(kind: SanType, name: &str) -> tls::CertificateValidationContext {
    let pattern = matcher::string_matcher::MatchPattern::Exact(name.into());
    tls::CertificateValidationContext {
        match_typed_subject_alt_names: vec![tls::SubjectAltNameMatcher {
            san_type: kind as i32,
            matcher: Some(matcher::StringMatcher {
                match_pattern: Some(pattern),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
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
