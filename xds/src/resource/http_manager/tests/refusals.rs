//! What is refused, and by which path.

use super::*;

#[test]
fn a_manager_is_refused_by_path() {
    assert_refused(
        manager,
        with_manager,
        AT,
        &[
            ("stat_prefix: must not be empty", |m| m.stat_prefix.clear()),
            ("codec_type: HTTP3 is not supported yet", |m| {
                m.codec_type = 3
            }),
            ("codec_type: 9 is not a known value", |m| m.codec_type = 9),
            ("route_specifier: must be given", |m| {
                m.route_specifier = None
            }),
            ("scoped_routes: not supported yet", |m| {
                m.route_specifier = Some(RouteSpecifier::ScopedRoutes(Default::default()));
            }),
            ("rds.config_source: must be given", |m| {
                m.route_specifier = Some(RouteSpecifier::Rds(proto::hcm::Rds {
                    route_config_name: "x".into(),
                    config_source: None,
                }));
            }),
            ("rds.route_config_name: must not be empty", |m| {
                m.route_specifier = Some(RouteSpecifier::Rds(proto::hcm::Rds {
                    config_source: same_origin(),
                    ..Default::default()
                }));
            }),
            (
                "proxy_status_config.literal_proxy_name: must be printable ASCII, and not empty",
                |m| {
                    use proto::hcm::http_connection_manager::proxy_status_config::ProxyName;
                    let config = m.proxy_status_config.get_or_insert_default();
                    config.proxy_name = Some(ProxyName::LiteralProxyName("\u{e9}".into()));
                },
            ),
            (
                "scheme_header_transformation.scheme_to_overwrite: \"ftp\" is neither http nor https",
                |m| {
                    use proto::core::scheme_header_transformation::Transformation;
                    let scheme = m.scheme_header_transformation.get_or_insert_default();
                    scheme.transformation = Some(Transformation::SchemeToOverwrite("ftp".into()));
                },
            ),
            (
                "common_http_protocol_options.max_connection_duration_jitter: \
                 101 is not within 0 and 100",
                |m| {
                    let common = m.common_http_protocol_options.get_or_insert_default();
                    common.max_connection_duration_jitter =
                        Some(proto::envoy::r#type::v3::Percent { value: 101.0 });
                },
            ),
            ("http_filters: must end with the router", |m| {
                m.http_filters.clear()
            }),
            ("http_filters[0]: the last filter must be the router", |m| {
                m.http_filters[0] = http_filter("test.Filter");
            }),
            ("http_filters[0]: the router must be last", |m| {
                m.http_filters.push(http_filter("test.Filter"));
            }),
            (
                "http_filters[0].disabled: the router must be enabled",
                |m| {
                    m.http_filters[0].disabled = true;
                },
            ),
            ("http_filters[0].name: must not be empty", |m| {
                m.http_filters[0].name.clear()
            }),
            ("http_filters[0].typed_config.inner: is bad", |m| {
                m.http_filters[0].config_type = Some(
                    proto::hcm::http_filter::ConfigType::TypedConfig(any(ROUTER, b"bad")),
                );
            }),
            (
                "internal_address_config.cidr_ranges[0].address_prefix: \"::1/128\" is not an IP address",
                |m| {
                    let range = proto::core::CidrRange {
                        address_prefix: "::1/128".into(),
                        prefix_len: uint(128),
                    };
                    m.internal_address_config = Some(InternalAddressConfig {
                        cidr_ranges: vec![range],
                        ..Default::default()
                    });
                },
            ),
            ("forward_client_cert_details: 9 is not a known value", |m| {
                m.forward_client_cert_details = 9
            }),
            (
                "set_current_client_cert_details.issuer: not supported yet",
                |m| {
                    m.set_current_client_cert_details
                        .get_or_insert_default()
                        .issuer = true;
                },
            ),
            ("local_reply_config.mappers[0].filter: must be given", |m| {
                m.local_reply_config = Some(proto::hcm::LocalReplyConfig {
                    mappers: vec![Default::default()],
                    ..Default::default()
                });
            }),
            (
                "original_ip_detection_extensions[0].typed_config: extension type \
                 \"type.googleapis.com/x\" is not supported",
                |m| m.original_ip_detection_extensions = vec![extension("x")],
            ),
            (
                "original_ip_detection_extensions[1]: more than one is not supported yet",
                |m| detect(m, &[XffConfig::default(), XffConfig::default()]),
            ),
            (
                "use_remote_address: is given together with original_ip_detection_extensions",
                |m| {
                    detect(m, &[XffConfig::default()]);
                    m.use_remote_address = boolean(true);
                },
            ),
            (
                "xff_num_trusted_hops: is given together with original_ip_detection_extensions",
                |m| {
                    detect(m, &[XffConfig::default()]);
                    m.xff_num_trusted_hops = 1;
                },
            ),
            (
                "original_ip_detection_extensions[0].typed_config.xff_trusted_cidrs: \
                 is given together with xff_num_trusted_hops",
                |m| {
                    let xff_num_trusted_hops = 1;
                    let both = XffConfig {
                        xff_num_trusted_hops,
                        ..trusting(&[("10.0.0.0", 8)])
                    };
                    detect(m, &[both]);
                },
            ),
            (
                "original_ip_detection_extensions[0].typed_config.xff_trusted_cidrs.cidrs[1]\
                 .address_prefix: \"lb.test\" is not an IP address",
                |m| detect(m, &[trusting(&[("10.0.0.0", 8), ("lb.test", 8)])]),
            ),
            (
                "original_ip_detection_extensions[0].typed_config.xff_trusted_cidrs.cidrs[0]\
                 .prefix_len: 33 is too long",
                |m| detect(m, &[trusting(&[("10.0.0.0", 33)])]),
            ),
            ("proxy_100_continue: not supported yet", |m| {
                m.proxy_100_continue = true
            }),
            ("via: contains a control character", |m| {
                m.via = "a\r\nb".into()
            }),
            ("server_name: contains a control character", |m| {
                m.server_name = "\0".into()
            }),
            ("request_timeout: must not be negative", |m| {
                m.request_timeout = seconds(-1)
            }),
            (
                "max_request_headers_kb: 8193 is not within 1 and 8192",
                |m| {
                    m.max_request_headers_kb = uint(8193);
                },
            ),
            (
                "strip_matching_host_port: is given together with strip_any_host_port",
                |m| {
                    m.strip_matching_host_port = true;
                    m.strip_port_mode = Some(StripPortMode::StripAnyHostPort(true));
                },
            ),
            (
                "upgrade_configs[0].upgrade_type: \"connect-udp\" is not supported yet",
                |m| {
                    m.upgrade_configs = vec![upgrade("CONNECT-UDP")];
                },
            ),
            (
                "upgrade_configs[1].upgrade_type: \"websocket\" is given twice",
                |m| {
                    m.upgrade_configs = vec![upgrade("websocket"), upgrade("WEBSOCKET")];
                },
            ),
            ("upgrade_configs[0].filters: not supported yet", |m| {
                m.upgrade_configs = vec![UpgradeConfig {
                    filters: vec![http_filter(ROUTER)],
                    ..upgrade("x")
                }];
            }),
            (
                "access_log[0].filter.filter_specifier: must be given",
                |m| {
                    m.access_log = vec![AccessLog {
                        filter: Some(Default::default()),
                        ..log()
                    }];
                },
            ),
            (
                "access_log[0].typed_config: access logger \"test.Other\" is not supported",
                |m| {
                    m.access_log = vec![AccessLog {
                        config_type: Some(access_log::ConfigType::TypedConfig(any(
                            "test.Other",
                            b"",
                        ))),
                        ..log()
                    }];
                },
            ),
            (
                "request_id_extension.typed_config: extension type \"type.googleapis.com/x\" is not supported",
                |m| {
                    m.request_id_extension = Some(proto::hcm::RequestIdExtension {
                        typed_config: Some(any("x", b"")),
                    });
                },
            ),
        ],
    );
}

fn log() -> AccessLog {
    AccessLog {
        name: "log".into(),
        config_type: Some(access_log::ConfigType::TypedConfig(any(
            "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            b"",
        ))),
        ..Default::default()
    }
}

#[test]
fn protocol_options_are_refused_by_path() {
    fn common(m: &mut proto::HttpConnectionManager) -> &mut proto::core::HttpProtocolOptions {
        m.common_http_protocol_options.get_or_insert_default()
    }
    fn http1(m: &mut proto::HttpConnectionManager) -> &mut proto::core::Http1ProtocolOptions {
        m.http_protocol_options.get_or_insert_default()
    }
    fn http2(m: &mut proto::HttpConnectionManager) -> &mut proto::core::Http2ProtocolOptions {
        m.http2_protocol_options.get_or_insert_default()
    }
    assert_refused(
        manager,
        with_manager,
        AT,
        &[
            (
                "common_http_protocol_options.max_headers_count: 0 is not within 1 and 4294967295",
                |m| {
                    common(m).max_headers_count = uint(0);
                },
            ),
            (
                "http_protocol_options.allow_absolute_url: not supported yet",
                |m| {
                    http1(m).allow_absolute_url = boolean(false);
                },
            ),
            (
                "http_protocol_options.allow_chunked_length: not supported yet",
                |m| {
                    http1(m).allow_chunked_length = true;
                },
            ),
            (
                "http2_protocol_options.connection_keepalive.timeout: must be given",
                |m| {
                    http2(m).connection_keepalive = Some(Default::default());
                },
            ),
            (
                "http2_protocol_options.initial_stream_window_size: \
             65534 is not within 65535 and 2147483647",
                |m| http2(m).initial_stream_window_size = uint(65_534),
            ),
            (
                "http2_protocol_options.max_concurrent_streams: 0 is not within 1 and 2147483647",
                |m| http2(m).max_concurrent_streams = uint(0),
            ),
        ],
    );
}
