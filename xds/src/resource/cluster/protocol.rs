//! How HTTP is spoken: `HttpProtocolOptions`, and the older fields of the cluster it replaces.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{AutoSni, Http2Keepalive, Http2Options, UpstreamHttp, UpstreamProtocol};
use crate::proto::core::{
    self, Http1ProtocolOptions, Http2ProtocolOptions, UpstreamHttpProtocolOptions,
};
use crate::proto::upstream_http::HttpProtocolOptions;
use crate::proto::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use crate::proto::upstream_http::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions,
};
use crate::proto::{Any, UInt32Value};
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, accept, duration, number, refuse, refuse_true, required, unknown_type, unpack,
};
use crate::resource::headers::HeaderCase;
use crate::resource::route::HashPolicy;
use crate::type_url::message_name;

const TYPED: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

impl Default for UpstreamHttp {
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::Http1,
            auto_sni: None,
            auto_san_validation: false,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            max_requests_per_connection: 0,
            max_response_headers_kb: None,
            header_case: HeaderCase::Lower,
            max_connection_duration: Duration::ZERO,
            max_stream_duration: Duration::ZERO,
            hash_policy: Vec::new(),
        }
    }
}

/// The fields of the cluster that are about HTTP.
pub(super) struct HttpFields {
    pub typed: HashMap<String, Any>,
    pub max_requests_per_connection: Option<UInt32Value>,
    pub upstream_http_protocol_options: Option<UpstreamHttpProtocolOptions>,
    pub common_http_protocol_options: Option<core::HttpProtocolOptions>,
    pub http_protocol_options: Option<Http1ProtocolOptions>,
    pub http2_protocol_options: Option<Http2ProtocolOptions>,
}

impl UpstreamHttp {
    pub(super) fn decode(fields: HttpFields, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let HttpFields {
            typed,
            max_requests_per_connection,
            upstream_http_protocol_options,
            common_http_protocol_options,
            http_protocol_options,
            http2_protocol_options,
        } = fields;
        if let Some(options) = take_typed(typed)? {
            // Two places that could contradict each other.
            refuse!(
                upstream_http_protocol_options,
                common_http_protocol_options,
                http_protocol_options,
                http2_protocol_options,
            );
            let typed = Self::typed(options, ctx);
            let mut http = typed.at_key("typed_extension_protocol_options", TYPED)?;
            // The older field counts where the newer one does not say.
            if let (0, Some(max)) = (
                http.max_requests_per_connection,
                max_requests_per_connection,
            ) {
                http.max_requests_per_connection = max.value;
            }
            return Ok(http);
        }

        let mut http = Self::default();
        http.upstream(upstream_http_protocol_options)?;
        if let Some(common) = common_http_protocol_options {
            http.common(common, ctx)
                .at("common_http_protocol_options")?;
        }
        if let Some(max) = max_requests_per_connection {
            http.max_requests_per_connection = max.value;
        }
        if let Some(options) = http_protocol_options {
            http.header_case = check_http1(options, ctx).at("http_protocol_options")?;
        }
        if let Some(options) = http2_protocol_options {
            let options =
                Http2Options::decode_upstream(options, ctx).at("http2_protocol_options")?;
            http.protocol = UpstreamProtocol::Http2(options);
        }
        Ok(http)
    }

    fn typed(message: HttpProtocolOptions, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
            upstream_protocol_options,
        } = message;
        refuse!(
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            retry_policy,
        );
        let mut http = Self {
            hash_policy: HashPolicy::decode_all(hash_policy, ctx)?,
            ..Self::default()
        };
        http.upstream(upstream_http_protocol_options)?;
        if let Some(common) = common_http_protocol_options {
            http.common(common, ctx)
                .at("common_http_protocol_options")?;
        }
        http.protocol = match required(upstream_protocol_options, "upstream_protocol_options")? {
            UpstreamProtocolOptions::ExplicitHttpConfig(config) => {
                http.explicit(config, ctx).at("explicit_http_config")?
            }
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(_) => {
                return Err(Invalid::at(
                    "use_downstream_protocol_config",
                    "not supported yet",
                ));
            }
            UpstreamProtocolOptions::AutoConfig(config) => {
                UpstreamProtocol::auto(config, ctx).at("auto_config")?
            }
        };
        Ok(http)
    }

    fn upstream(&mut self, message: Option<UpstreamHttpProtocolOptions>) -> Result<(), Invalid> {
        const FIELD: &str = "upstream_http_protocol_options";
        let UpstreamHttpProtocolOptions {
            auto_sni,
            auto_san_validation,
            override_auto_sni_header,
        } = message.unwrap_or_default();
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if !override_auto_sni_header.bytes().all(token) {
            let at = format!("{FIELD}.override_auto_sni_header");
            return Err(Invalid::at(at, "is no name of a header"));
        }
        self.auto_sni = auto_sni.then(|| AutoSni {
            header: override_auto_sni_header.to_ascii_lowercase(),
        });
        self.auto_san_validation = auto_san_validation;
        Ok(())
    }

    fn common(
        &mut self,
        message: core::HttpProtocolOptions,
        ctx: &Context<'_>,
    ) -> Result<(), Invalid> {
        let core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = message;
        const STREAM: &str = "max_stream_duration";
        self.max_stream_duration = duration(max_stream_duration, STREAM)?.unwrap_or_default();
        const CONNECTION: &str = "max_connection_duration";
        self.max_connection_duration =
            duration(max_connection_duration, CONNECTION)?.unwrap_or_default();
        accept!(ctx, "Cluster.HttpProtocolOptions":
            max_connection_duration_jitter,
            max_headers_count,
            headers_with_underscores_action,
        );
        const KIB: &str = "max_response_headers_kb";
        self.max_response_headers_kb = number(max_response_headers_kb, KIB, 1..=8192)?;
        if let Some(timeout) = duration(idle_timeout, "idle_timeout")? {
            self.idle_timeout = timeout;
        }
        if let Some(max) = max_requests_per_connection {
            self.max_requests_per_connection = max.value;
        }
        Ok(())
    }
}

/// The one extension we know. Its key is its type name; under another one Envoy looks for another
/// extension.
fn take_typed(typed: HashMap<String, Any>) -> Result<Option<HttpProtocolOptions>, Invalid> {
    const FIELD: &str = "typed_extension_protocol_options";
    let mut sorted: Vec<_> = typed.into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut options = None;
    for (key, any) in sorted {
        if message_name(&any.type_url) != TYPED || key != TYPED {
            return Err(unknown_type(&any.type_url)).at_key(FIELD, &key);
        }
        options = Some(unpack(&any).at_key(FIELD, &key)?);
    }
    Ok(options)
}

impl UpstreamProtocol {
    fn auto(message: AutoHttpConfig, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let AutoHttpConfig {
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
            alternate_protocols_cache_options,
        } = message;
        refuse!(http3_protocol_options, alternate_protocols_cache_options);
        if let Some(options) = http_protocol_options {
            check_http1(options, ctx).at("http_protocol_options")?;
        }
        let options = http2_protocol_options.unwrap_or_default();
        Http2Options::decode_upstream(options, ctx)
            .at("http2_protocol_options")
            .map(Self::Auto)
    }
}

impl UpstreamHttp {
    fn explicit(
        &mut self,
        message: ExplicitHttpConfig,
        ctx: &Context<'_>,
    ) -> Result<UpstreamProtocol, Invalid> {
        let ExplicitHttpConfig { protocol_config } = message;
        match required(protocol_config, "protocol_config")? {
            ProtocolConfig::HttpProtocolOptions(options) => {
                self.header_case = check_http1(options, ctx).at("http_protocol_options")?;
                Ok(UpstreamProtocol::Http1)
            }
            ProtocolConfig::Http2ProtocolOptions(options) => {
                Http2Options::decode_upstream(options, ctx)
                    .at("http2_protocol_options")
                    .map(UpstreamProtocol::Http2)
            }
            ProtocolConfig::Http3ProtocolOptions(_) => {
                Err(Invalid::at("http3_protocol_options", "not supported yet"))
            }
        }
    }
}

/// Whether names of fields are sent with capitals.
fn check_http1(message: Http1ProtocolOptions, ctx: &Context<'_>) -> Result<HeaderCase, Invalid> {
    #[allow(deprecated, reason = "named so that nothing is skipped")]
    let Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = message;
    refuse!(
        allow_chunked_length,
        send_fully_qualified_url,
        ignore_http_11_upgrade,
    );
    accept!(ctx, "Cluster.Http1ProtocolOptions":
        enable_trailers,
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        override_stream_error_on_invalid_http_message,
        use_balsa_parser,
        allow_custom_methods,
    );
    HeaderCase::decode(header_key_format)
}

impl Http2Options {
    /// The bounds that the message definition states (RFC 9113 section 6.5.2).
    const STREAMS: RangeInclusive<u32> = 1..=0x7fff_ffff;

    /// As [`Self::decode`], for connections to endpoints.
    fn decode_upstream(
        mut message: Http2ProtocolOptions,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let max_concurrent_streams = message.max_concurrent_streams.take();
        number(
            max_concurrent_streams,
            "max_concurrent_streams",
            Self::STREAMS,
        )?;
        let override_stream_error_on_invalid_http_message =
            message.override_stream_error_on_invalid_http_message.take();
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let stream_error_on_invalid_http_messaging =
            std::mem::take(&mut message.stream_error_on_invalid_http_messaging);
        accept!(ctx, "Cluster.Http2ProtocolOptions":
            max_concurrent_streams,
            override_stream_error_on_invalid_http_message,
            stream_error_on_invalid_http_messaging,
        );
        Self::decode(message, ctx)
    }

    /// What a connection does with malformed requests, the connection manager reads.
    pub(crate) fn decode(
        message: Http2ProtocolOptions,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let Http2ProtocolOptions {
            hpack_table_size,
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_connect,
            allow_metadata,
            max_outbound_frames,
            max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            stream_error_on_invalid_http_messaging: _,
            override_stream_error_on_invalid_http_message: _,
            custom_settings_parameters,
            connection_keepalive,
            use_oghttp2_codec,
            max_metadata_size,
            enable_huffman_encoding,
            max_header_field_size_kb,
            disallow_obs_text,
            stream_reset_burst,
            stream_reset_rate,
        } = message;
        refuse!(allow_metadata, custom_settings_parameters);
        refuse_true!(disallow_obs_text);
        accept!(ctx, "Http2ProtocolOptions":
            hpack_table_size,
            max_outbound_frames,
            max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            use_oghttp2_codec,
            max_metadata_size,
            enable_huffman_encoding,
            max_header_field_size_kb,
            stream_reset_burst,
            stream_reset_rate,
        );

        const WINDOW: RangeInclusive<u32> = 65_535..=0x7fff_ffff;
        let [streams, stream_window, connection_window] = [
            (
                "max_concurrent_streams",
                max_concurrent_streams,
                Self::STREAMS,
            ),
            (
                "initial_stream_window_size",
                initial_stream_window_size,
                WINDOW,
            ),
            (
                "initial_connection_window_size",
                initial_connection_window_size,
                WINDOW,
            ),
        ]
        .map(|(field, value, bounds)| number(value, field, bounds));
        let keepalive = connection_keepalive
            .map(|message| Http2Keepalive::decode(message, ctx))
            .transpose()
            .at("connection_keepalive")?;
        Ok(Self {
            max_concurrent_streams: streams?,
            initial_stream_window_size: stream_window?,
            initial_connection_window_size: connection_window?,
            allow_connect,
            keepalive: keepalive.flatten(),
        })
    }
}

impl Http2Keepalive {
    /// Nothing, when pings are sent only on connections that were idle.
    fn decode(
        message: core::KeepaliveSettings,
        ctx: &Context<'_>,
    ) -> Result<Option<Self>, Invalid> {
        let core::KeepaliveSettings {
            interval,
            timeout,
            interval_jitter,
            connection_idle_interval,
        } = message;
        accept!(ctx, "KeepaliveSettings": interval_jitter, connection_idle_interval);
        const SHORTEST: Duration = Duration::from_millis(1);
        let bounded = |value, field: &str| match duration(value, field)? {
            Some(short) if short < SHORTEST => Err(Invalid::at(field, "is less than 1 ms")),
            other => Ok(other),
        };
        let timeout = required(bounded(timeout, "timeout")?, "timeout")?;
        Ok(bounded(interval, "interval")?.map(|interval| Self { interval, timeout }))
    }
}
