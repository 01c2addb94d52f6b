//! HttpConnectionManager: message to typed.

use std::sync::Arc;

use super::protocol::Common;
use super::{
    ClientCert, Codec, EscapedSlashes, Forwarded, HostRules, Http1Options, HttpManager,
    InternalAddresses, LocalReplies, PathRules, ProxyStatus, RouteSource, SchemeRule, ServerHeader,
    StripPort, Timeouts, early, filters,
};
use crate::proto::core::Http2ProtocolOptions;
use crate::proto::hcm::http_connection_manager::{
    CodecType, InternalAddressConfig, PathWithEscapedSlashesAction, RouteSpecifier,
    ServerHeaderTransformation, StripPortMode,
};
use crate::proto::hcm::{Rds, RequestIdExtension};
use crate::proto::{self, BoolValue};
use crate::reject::Invalid;
use crate::resource::access_log::AccessLog;
use crate::resource::address::network;
use crate::resource::cluster::Http2Options;
use crate::resource::config_source::ConfigSource;
use crate::resource::context::{
    At, Context, accept, duration, each, enumeration, flag, not_empty, number, refuse, required,
    unknown_type,
};
use crate::resource::headers::header_value;
use crate::resource::route::RouteConfiguration;
use crate::type_url::message_name;

const UUID_REQUEST_ID: &str = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig";

impl HttpManager {
    pub(super) const DEFAULT_MAX_HEADERS_COUNT: u32 = 100;
    const DEFAULT_MAX_REQUEST_HEADERS_KB: u32 = 60;
    const DEFAULT_SERVER_NAME: &str = "envoy";

    pub(crate) fn decode(
        message: proto::HttpConnectionManager,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let proto::HttpConnectionManager {
            codec_type,
            stat_prefix,
            http_filters,
            add_user_agent,
            tracing,
            common_http_protocol_options,
            http1_safe_max_connection_duration,
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
            server_name,
            server_header_transformation,
            scheme_header_transformation,
            max_request_headers_kb,
            stream_idle_timeout,
            stream_flush_timeout,
            request_timeout,
            request_headers_timeout,
            drain_timeout,
            drain_timeout_jitter,
            delayed_close_timeout,
            access_log,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            access_log_options,
            use_remote_address,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            internal_address_config,
            skip_xff_append,
            via,
            generate_request_id,
            preserve_external_request_id,
            always_set_request_id_in_response,
            forward_client_cert_details,
            set_current_client_cert_details,
            forward_client_cert_matcher,
            proxy_100_continue,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            upgrade_configs,
            normalize_path,
            merge_slashes,
            path_with_escaped_slashes_action,
            request_id_extension,
            local_reply_config,
            strip_matching_host_port,
            stream_error_on_invalid_http_message,
            path_normalization_options,
            strip_trailing_host_dot,
            proxy_status_config,
            typed_header_validation_config,
            append_x_forwarded_port,
            append_local_overload,
            add_proxy_protocol_connection_state,
            forward_proto_config,
            route_specifier,
            strip_port_mode,
        } = message;
        refuse!(
            forward_client_cert_matcher,
            proxy_100_continue,
            path_normalization_options,
            typed_header_validation_config,
            forward_proto_config,
        );
        accept!(ctx, "HttpConnectionManager":
            tracing,
            http1_safe_max_connection_duration,
            http3_protocol_options,
            stream_flush_timeout,
            drain_timeout_jitter,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            access_log_options,
            add_proxy_protocol_connection_state,
            append_local_overload,
        );
        if let Some(extension) = request_id_extension {
            check_request_id(extension, ctx).at("request_id_extension")?;
        }
        header_value(&server_name).at("server_name")?;
        header_value(&via).at("via")?;

        let common = common_http_protocol_options.unwrap_or_default();
        let Common {
            idle,
            max_stream,
            max_headers_count,
            underscores,
            max_requests,
            max_connection,
            max_connection_jitter,
        } = Common::decode(common, ctx).at("common_http_protocol_options")?;
        let default = Timeouts::default();
        let timeouts = Timeouts {
            idle: idle.unwrap_or(default.idle),
            stream_idle: duration(stream_idle_timeout, "stream_idle_timeout")?
                .unwrap_or(default.stream_idle),
            max_stream_duration: max_stream.unwrap_or(default.max_stream_duration),
            request: duration(request_timeout, "request_timeout")?.unwrap_or(default.request),
            request_headers: duration(request_headers_timeout, "request_headers_timeout")?
                .unwrap_or(default.request_headers),
            delayed_close: duration(delayed_close_timeout, "delayed_close_timeout")?
                .unwrap_or(default.delayed_close),
            drain: duration(drain_timeout, "drain_timeout")?.unwrap_or(default.drain),
            max_connection: max_connection.unwrap_or(default.max_connection),
            max_connection_jitter,
        };
        let max_request_headers_kb =
            number(max_request_headers_kb, "max_request_headers_kb", 1..=8192)?
                .unwrap_or(Self::DEFAULT_MAX_REQUEST_HEADERS_KB);

        Ok(Self {
            stat_prefix: not_empty(stat_prefix, "stat_prefix")?,
            codec: Codec::decode(codec_type)?,
            routes: RouteSource::decode(route_specifier, ctx)?,
            filters: filters::decode(http_filters, ctx)?,
            access_logs: each("access_log", access_log, |log| AccessLog::decode(log, ctx))?,
            local_replies: local_reply_config
                .map_or(Ok(LocalReplies::default()), |c| {
                    LocalReplies::decode(c, ctx)
                })
                .at("local_reply_config")?,
            early_edits: early::decode(early_header_mutation_extensions, ctx)?,
            forwarded: Forwarded {
                use_remote_address: flag(use_remote_address, false),
                xff_num_trusted_hops,
                skip_xff_append,
                map_ipv4: represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
                detection: None,
                append_port: append_x_forwarded_port,
                internal: internal_address_config
                    .map_or(Ok(InternalAddresses::default()), InternalAddresses::decode)
                    .at("internal_address_config")?,
            }
            .detecting(original_ip_detection_extensions)?,
            client_cert: ClientCert::decode(
                forward_client_cert_details,
                set_current_client_cert_details,
            )?,
            path: PathRules {
                normalize: flag(normalize_path, false),
                merge_slashes,
                escaped_slashes: EscapedSlashes::decode(path_with_escaped_slashes_action)?,
            },
            host: HostRules {
                strip_port: StripPort::decode(strip_matching_host_port, strip_port_mode)?,
                strip_trailing_dot: strip_trailing_host_dot,
            },
            underscores,
            http1: http_protocol_options
                .map_or(Ok(Http1Options::default()), |o| {
                    Http1Options::decode(o, ctx)
                })
                .at("http_protocol_options")?,
            resets_malformed: resets_malformed(
                http2_protocol_options.as_ref(),
                stream_error_on_invalid_http_message,
            ),
            http2: http2_protocol_options
                .map_or(Ok(Http2Options::default()), |o| {
                    Http2Options::decode(o, ctx)
                })
                .at("http2_protocol_options")?,
            timeouts,
            max_request_headers_kb,
            max_headers_count,
            max_requests,
            upgrades: filters::decode_upgrades(upgrade_configs)?,
            server_name: match server_name.is_empty() {
                true => Self::DEFAULT_SERVER_NAME.to_owned(),
                false => server_name,
            },
            server_header: ServerHeader::decode(server_header_transformation)?,
            add_user_agent: flag(add_user_agent, false),
            via,
            scheme: scheme_header_transformation
                .map_or(Ok(SchemeRule::Keep), SchemeRule::decode)
                .at("scheme_header_transformation")?,
            proxy_status: proxy_status_config
                .map(ProxyStatus::decode)
                .transpose()
                .at("proxy_status_config")?,
            generate_request_id: flag(generate_request_id, true),
            preserve_external_request_id,
            always_set_request_id_in_response,
        })
    }
}

/// Which of its three spellings counts is as in Envoy.
fn resets_malformed(http2: Option<&Http2ProtocolOptions>, both: Option<BoolValue>) -> bool {
    let own = http2.and_then(|options| options.override_stream_error_on_invalid_http_message);
    #[allow(deprecated, reason = "read as Envoy reads it")]
    let older = || http2.is_some_and(|options| options.stream_error_on_invalid_http_messaging);
    own.or(both).map_or_else(older, |set| set.value)
}

impl InternalAddresses {
    fn decode(message: InternalAddressConfig) -> Result<Self, Invalid> {
        let InternalAddressConfig {
            unix_sockets,
            cidr_ranges,
        } = message;
        Ok(Self {
            unix_sockets,
            networks: each("cidr_ranges", cidr_ranges, network)?,
        })
    }
}

/// The one way of numbering requests that we have is also Envoy's default; its settings are about
/// tracing.
pub(crate) fn check_request_id(
    message: RequestIdExtension,
    ctx: &Context<'_>,
) -> Result<(), Invalid> {
    let RequestIdExtension { typed_config } = message;
    if let Some(any) = &typed_config
        && message_name(&any.type_url) != UUID_REQUEST_ID
    {
        return Err(unknown_type(&any.type_url)).at("typed_config");
    }
    accept!(ctx, "RequestIDExtension": typed_config);
    Ok(())
}

impl Codec {
    fn decode(codec: i32) -> Result<Self, Invalid> {
        match enumeration(codec, "codec_type")? {
            CodecType::Auto => Ok(Self::Auto),
            CodecType::Http1 => Ok(Self::Http1),
            CodecType::Http2 => Ok(Self::Http2),
            CodecType::Http3 => Err(Invalid::at("codec_type", "HTTP3 is not supported yet")),
        }
    }
}

impl RouteSource {
    fn decode(message: Option<RouteSpecifier>, ctx: &Context<'_>) -> Result<Self, Invalid> {
        match required(message, "route_specifier")? {
            RouteSpecifier::RouteConfig(routes) => {
                let routes = RouteConfiguration::decode(routes, ctx).at("route_config")?;
                Ok(Self::Inline(Arc::new(routes)))
            }
            RouteSpecifier::Rds(Rds {
                config_source,
                route_config_name,
            }) => {
                let source = ConfigSource::decode_field(config_source, "config_source", ctx);
                let name = not_empty(route_config_name, "route_config_name");
                Ok(Self::Rds {
                    name: name.at("rds")?,
                    source: source.at("rds")?,
                })
            }
            RouteSpecifier::ScopedRoutes(_) => {
                Err(Invalid::at("scoped_routes", "not supported yet"))
            }
        }
    }
}

impl EscapedSlashes {
    fn decode(action: i32) -> Result<Self, Invalid> {
        use PathWithEscapedSlashesAction as Action;
        Ok(
            match enumeration(action, "path_with_escaped_slashes_action")? {
                Action::ImplementationSpecificDefault | Action::KeepUnchanged => Self::Keep,
                Action::RejectRequest => Self::Reject,
                Action::UnescapeAndRedirect => Self::UnescapeAndRedirect,
                Action::UnescapeAndForward => Self::UnescapeAndForward,
            },
        )
    }
}

impl StripPort {
    fn decode(matching: bool, mode: Option<StripPortMode>) -> Result<Self, Invalid> {
        let any = matches!(mode, Some(StripPortMode::StripAnyHostPort(true)));
        match (matching, any) {
            (false, false) => Ok(Self::Keep),
            (true, false) => Ok(Self::Matching),
            (false, true) => Ok(Self::Any),
            (true, true) => Err(Invalid::at(
                "strip_matching_host_port",
                "is given together with strip_any_host_port",
            )),
        }
    }
}

impl ServerHeader {
    fn decode(transformation: i32) -> Result<Self, Invalid> {
        use ServerHeaderTransformation as Transformation;
        Ok(
            match enumeration(transformation, "server_header_transformation")? {
                Transformation::Overwrite => Self::Overwrite,
                Transformation::AppendIfAbsent => Self::AppendIfAbsent,
                Transformation::PassThrough => Self::PassThrough,
            },
        )
    }
}
