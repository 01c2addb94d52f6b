mod refusals;
mod validation;

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
