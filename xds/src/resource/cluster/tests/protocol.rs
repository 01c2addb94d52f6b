//! What is spoken with endpoints.

use super::*;

#[test]
fn the_protocol_is_read_from_either_place() {
    use crate::proto::route::route_action::hash_policy::{self, PolicySpecifier};
    use crate::resource::route::HashBy;
    let mut options = http2_options();
    options.common_http_protocol_options = Some(core::HttpProtocolOptions {
        idle_timeout: seconds(0),
        max_requests_per_connection: uint(8),
        max_connection_duration: seconds(5),
        max_stream_duration: seconds(6),
        ..Default::default()
    });
    let by_address = crate::proto::route::route_action::HashPolicy {
        policy_specifier: Some(PolicySpecifier::ConnectionProperties(
            hash_policy::ConnectionProperties { source_ip: true },
        )),
        terminal: false,
    };
    options.hash_policy = vec![by_address];
    let http = typed(&with_http(options)).http.clone();
    assert_eq!(http.hash_policy[0].by, HashBy::SourceIp);
    assert_eq!(
        http.protocol,
        UpstreamProtocol::Http2(Http2Options::default())
    );
    assert_eq!(
        (http.idle_timeout, http.max_requests_per_connection),
        (Duration::ZERO, 8)
    );
    assert_eq!(http.max_connection_duration, Duration::from_secs(5));
    assert_eq!(http.max_stream_duration, Duration::from_secs(6));

    let mut message = with_http(http2_options());
    #[allow(deprecated, reason = "the older place is the subject")]
    {
        message.max_requests_per_connection = uint(3);
    }
    assert_eq!(typed(&message).http.max_requests_per_connection, 3);

    let mut message = cluster();
    #[allow(deprecated, reason = "the older place is the subject")]
    {
        message.http2_protocol_options = Some(Default::default());
    }
    assert_eq!(
        typed(&message).http.protocol,
        UpstreamProtocol::Http2(Http2Options::default())
    );
}

#[test]
fn names_protocols_and_clients_can_go_with_the_request() {
    use crate::proto::envoy::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;
    let mut options = http2_options();
    options.upstream_http_protocol_options = Some(core::UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: true,
        override_auto_sni_header: "X-Name".into(),
    });
    options.upstream_protocol_options = Some(upstream::UpstreamProtocolOptions::AutoConfig(
        Default::default(),
    ));
    let mut message = with_http(options);
    let without_tls = "transport_socket: must be TLS with auto_config";
    assert_eq!(refusal(&message), without_tls);

    let tls = transport_socket(pack(&crate::proto::UpstreamTlsContext::default()));
    let outer = |version, inner| {
        let config = core::ProxyProtocolConfig {
            version,
            pass_through_tlvs: Some(Default::default()),
            added_tlvs: vec![core::TlvEntry {
                r#type: 2,
                value: b"own".to_vec(),
                format_string: None,
            }],
        };
        transport_socket(pack(&proxy_protocol::ProxyProtocolUpstreamTransport {
            config: Some(config),
            transport_socket: inner,
            ..Default::default()
        }))
    };
    message.transport_socket = outer(1, tls.clone());
    let Resource::Cluster(cluster) = resource(&message) else {
        panic!()
    };
    assert!(cluster.tls.is_some());
    let spoken = cluster.proxy_protocol.as_ref().unwrap();
    assert_eq!(spoken.version, ProxyProtocolVersion::V2);
    let tlv = |kind| Tlv {
        kind,
        value: b"client's".to_vec(),
    };
    assert!(spoken.passes(&tlv(1)) && !spoken.passes(&tlv(2)));
    assert!(matches!(cluster.http.protocol, UpstreamProtocol::Auto(_)));
    assert!(cluster.http.auto_san_validation);
    let header = cluster.http.auto_sni.as_ref().map(|sni| &*sni.header);
    assert_eq!(header, Some("x-name"));

    let at = "transport_socket.typed_config";
    message.transport_socket = outer(9, tls);
    assert_eq!(
        refusal(&message),
        format!("{at}.config.version: 9 is not a known value")
    );
    message.transport_socket = outer(0, None);
    assert_eq!(
        refusal(&message),
        format!("{at}.transport_socket: must be given")
    );
}

#[test]
fn http_options_are_refused_by_path() {
    let at = format!("typed_extension_protocol_options[\"{HTTP}\"]");
    assert_refused(
        http2_options,
        with_http,
        &at,
        &[
            ("upstream_protocol_options: must be given", |o| {
                o.upstream_protocol_options = None
            }),
            (
                "auto_config.http3_protocol_options: not supported yet",
                |o| {
                    o.upstream_protocol_options = Some(
                        upstream::UpstreamProtocolOptions::AutoConfig(upstream::AutoHttpConfig {
                            http3_protocol_options: Some(Default::default()),
                            ..Default::default()
                        }),
                    );
                },
            ),
            ("use_downstream_protocol_config: not supported yet", |o| {
                o.upstream_protocol_options = Some(
                    upstream::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
                        Default::default(),
                    ),
                );
            }),
            ("explicit_http_config.protocol_config: must be given", |o| {
                o.upstream_protocol_options = Some(
                    upstream::UpstreamProtocolOptions::ExplicitHttpConfig(Default::default()),
                );
            }),
            (
                "explicit_http_config.http3_protocol_options: not supported yet",
                |o| {
                    *o = explicit(
                        upstream::explicit_http_config::ProtocolConfig::Http3ProtocolOptions(
                            Default::default(),
                        ),
                    );
                },
            ),
            (
                "explicit_http_config.http_protocol_options.allow_chunked_length: not supported yet",
                |o| {
                    *o = explicit(
                        upstream::explicit_http_config::ProtocolConfig::HttpProtocolOptions(
                            core::Http1ProtocolOptions {
                                allow_chunked_length: true,
                                ..Default::default()
                            },
                        ),
                    );
                },
            ),
            (
                "upstream_http_protocol_options.override_auto_sni_header: is no name of a header",
                |o| {
                    o.upstream_http_protocol_options = Some(core::UpstreamHttpProtocolOptions {
                        override_auto_sni_header: "a b".into(),
                        ..Default::default()
                    });
                },
            ),
            (
                "common_http_protocol_options.max_stream_duration: must not be negative",
                |o| {
                    o.common_http_protocol_options = Some(core::HttpProtocolOptions {
                        max_stream_duration: seconds(-1),
                        ..Default::default()
                    });
                },
            ),
        ],
    );
}

#[test]
fn streams_to_an_endpoint_are_bounded_by_the_endpoint() {
    use upstream::explicit_http_config::ProtocolConfig;
    let options = core::Http2ProtocolOptions {
        max_concurrent_streams: uint(7),
        ..Default::default()
    };
    let message = with_http(explicit(ProtocolConfig::Http2ProtocolOptions(options)));
    assert_eq!(
        decoded(&message).ignored,
        ["Cluster.Http2ProtocolOptions.max_concurrent_streams"]
    );
    let options = Http2Options::default();
    assert_eq!(
        typed(&message).http.protocol,
        UpstreamProtocol::Http2(options)
    );
}

#[test]
fn pings_of_a_connection_are_read() {
    use upstream::explicit_http_config::ProtocolConfig;
    let with = |interval, timeout| {
        let options = core::Http2ProtocolOptions {
            connection_keepalive: Some(core::KeepaliveSettings {
                interval,
                timeout,
                interval_jitter: Some(Default::default()),
                ..Default::default()
            }),
            ..Default::default()
        };
        with_http(explicit(ProtocolConfig::Http2ProtocolOptions(options)))
    };
    let keepalive = |message| match &typed(message).http.protocol {
        UpstreamProtocol::Http2(options) | UpstreamProtocol::Auto(options) => options.keepalive,
        UpstreamProtocol::Http1 => panic!(),
    };
    let expected = Http2Keepalive {
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
    };
    let message = with(seconds(30), seconds(5));
    assert_eq!(keepalive(&message), Some(expected));
    assert_eq!(
        decoded(&message).ignored,
        ["KeepaliveSettings.interval_jitter"]
    );
    assert_eq!(keepalive(&with(None, seconds(5))), None);
    let at = "explicit_http_config.http2_protocol_options.connection_keepalive";
    for (message, want) in [
        (with(seconds(30), None), "timeout: must be given"),
        (with(seconds(0), seconds(1)), "interval: is less than 1 ms"),
    ] {
        let error = refusal(&message);
        assert!(error.ends_with(&format!("{at}.{want}")), "{error}");
    }
}
