use super::*;
use crate::proto::envoy::r#type::matcher::v3 as matcher;
use crate::proto::tls::subject_alt_name_matcher::SanType;
use crate::proto::{self, core, tls};
use crate::resource::testing::*;
use crate::resource::{Resource, WatchedFiles, listener};
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
    assert_eq!(tls.parameters, TlsParameters::default());
    assert!(!tls.require_client_certificate && !tls.require_sni);
    assert!(tls.stateless_resumption && tls.stateful_resumption);
    assert_eq!(tls.validation, Validation::default());
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
        auto_host_sni: true,
        ..Default::default()
    };
    let tls = upstream_of(resource(&with_upstream(context))).unwrap();
    assert_eq!(tls.sni, "app.test");
    assert!(tls.host_sni && !tls.sni_validation);
    let validation = Validation {
        trusted_ca: Some(DataSource::Inline(CERTIFICATE.into())),
        ..Validation::default()
    };
    assert_eq!(tls.validation, validation);
    assert!(matches!(
        tls.client_certificate,
        Some(CertificateRef::Inline(_))
    ));
}

#[test]
fn a_server_name_that_cannot_be_sent_is_noted() {
    let ignored = |sni: &str| {
        let context = tls::UpstreamTlsContext {
            sni: sni.into(),
            ..Default::default()
        };
        decoded(&with_upstream(context)).ignored
    };
    for sni in ["", "a", "a.80.b"] {
        assert!(ignored(sni).is_empty(), "{sni}");
    }
    for sni in ["b.80", "10.0.0.1", "fd00::1", "b.0x1f"] {
        assert_eq!(ignored(sni), ["UpstreamTlsContext.sni"], "{sni}");
    }
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

fn exact(name: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name.into())),
        ..Default::default()
    }
}

fn named(kind: SanType, name: &str) -> tls::CertificateValidationContext {
    tls::CertificateValidationContext {
        match_typed_subject_alt_names: vec![tls::SubjectAltNameMatcher {
            san_type: kind as i32,
            matcher: Some(exact(name)),
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

#[test]
fn certificates_of_the_program_itself_stand_alone() {
    let selector = |any| {
        Some(core::TypedExtensionConfig {
            name: "s".into(),
            typed_config: Some(any),
        })
    };
    let automatic = any("causeway.v1.AutomaticCertificates", b"");
    let mut context = downstream();
    let common = context.common_tls_context.as_mut().unwrap();
    common.custom_tls_certificate_selector = selector(automatic);
    let both = refusal(&with_downstream(context.clone()));
    assert!(
        both.ends_with("custom_tls_certificate_selector: excludes certificates"),
        "{both}"
    );
    let common = context.common_tls_context.as_mut().unwrap();
    common.tls_certificates.clear();
    let tls = chain_of(resource(&with_downstream(context.clone())))
        .tls
        .unwrap();
    assert!(tls.automatic && tls.certificates.is_empty());
    let common = context.common_tls_context.as_mut().unwrap();
    common.custom_tls_certificate_selector = selector(any("some.Selector", b""));
    assert!(refusal(&with_downstream(context)).contains("custom_tls_certificate_selector"));
}

#[test]
fn ticket_keys_and_watched_files_are_read() {
    use tls::downstream_tls_context::SessionTicketKeysType;
    let mut context = downstream();
    let certificate = &mut context
        .common_tls_context
        .as_mut()
        .unwrap()
        .tls_certificates[0];
    certificate.certificate_chain = Some(core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename("/tls/c.pem".into())),
        ..Default::default()
    });
    certificate.watched_directory = Some(core::WatchedDirectory {
        path: "/tls".into(),
        ..Default::default()
    });
    let key = "k".repeat(80);
    context.session_ticket_keys_type = Some(SessionTicketKeysType::SessionTicketKeys(
        tls::TlsSessionTicketKeys {
            keys: inline(&key).into_iter().collect(),
        },
    ));
    let resource = resource(&with_downstream(context));
    let watched = WatchedFiles {
        directory: "/tls".into(),
        files: vec!["/tls/c.pem".into()],
    };
    assert_eq!(resource.watched_files(), [watched]);
    assert!(!format!("{resource:?}").contains(&key));
    let keys = TicketKeysRef::Inline(vec![DataSource::Inline(key.into_bytes())]);
    assert_eq!(chain_of(resource).tls.unwrap().ticket_keys, Some(keys));
}
