//! The protocol options of a connection manager.

use std::time::Duration;

use super::{Http1Options, HttpManager, Underscores};
use crate::proto::core::http_protocol_options::HeadersWithUnderscoresAction;
use crate::proto::core::{Http1ProtocolOptions, HttpProtocolOptions};
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, accept, duration, enumeration, flag, number, percent, refuse,
};
use crate::resource::headers::{HeaderCase, header_value};

/// What a connection manager reads from `common_http_protocol_options`.
pub(super) struct Common {
    pub idle: Option<Duration>,
    pub max_stream: Option<Duration>,
    pub max_headers_count: u32,
    pub underscores: Underscores,
    pub max_requests: Option<u32>,
    pub max_connection: Option<Duration>,
    /// Percent of it.
    pub max_connection_jitter: f64,
}

impl Common {
    pub(super) fn decode(message: HttpProtocolOptions, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = message;
        // A limit for what an upstream sends; Envoy reads it in the cluster only.
        accept!(ctx, "HttpProtocolOptions": max_response_headers_kb);
        const UNDERSCORES: &str = "headers_with_underscores_action";
        Ok(Self {
            idle: duration(idle_timeout, "idle_timeout")?,
            max_stream: duration(max_stream_duration, "max_stream_duration")?,
            max_connection: duration(max_connection_duration, "max_connection_duration")?,
            max_connection_jitter: percent(
                max_connection_duration_jitter,
                "max_connection_duration_jitter",
            )?
            .unwrap_or_default(),
            // Zero is no limit.
            max_requests: max_requests_per_connection
                .map(|v| v.value)
                .filter(|max| *max > 0),
            max_headers_count: number(max_headers_count, "max_headers_count", 1..=u32::MAX)?
                .unwrap_or(HttpManager::DEFAULT_MAX_HEADERS_COUNT),
            underscores: match enumeration(headers_with_underscores_action, UNDERSCORES)? {
                HeadersWithUnderscoresAction::Allow => Underscores::Allow,
                HeadersWithUnderscoresAction::RejectRequest => Underscores::RejectRequest,
                HeadersWithUnderscoresAction::DropHeader => Underscores::DropHeader,
            },
        })
    }
}

impl Http1Options {
    pub(super) fn decode(
        message: Http1ProtocolOptions,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
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
        if !flag(allow_absolute_url, true) {
            return Err(Invalid::at("allow_absolute_url", "not supported yet"));
        }
        accept!(ctx, "Http1ProtocolOptions":
            enable_trailers,
            override_stream_error_on_invalid_http_message,
            use_balsa_parser,
        );
        header_value(&default_host_for_http_10).at("default_host_for_http_10")?;
        Ok(Self {
            accept_http_10,
            default_host_for_http_10,
            allow_custom_methods,
            header_case: HeaderCase::decode(header_key_format)?,
        })
    }
}
