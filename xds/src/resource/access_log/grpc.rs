//! Access loggers that send entries to a service: message to typed.

use std::time::Duration;

use crate::proto::Any;
use crate::proto::core::ApiVersion;
use crate::proto::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use crate::reject::Invalid;
use crate::resource::context::{
    At, duration, each, enumeration, not_empty, refuse, required, unpack,
};
use crate::resource::headers::header_name;
use crate::resource::parts::GrpcService;

pub(super) const HTTP: &str = "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig";
pub(super) const TCP: &str = "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig";

/// `HttpGrpcAccessLogConfig` and `TcpGrpcAccessLogConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcLog {
    pub kind: EntryKind,
    pub service: GrpcService,
    /// What the service knows the log by.
    pub name: String,
    /// How long entries are collected. Default 1 s.
    pub flush_interval: Duration,
    /// Bytes after which entries are not collected any longer; zero sends each at once. Default
    /// 16 KiB.
    pub buffer_size: u32,
    /// Fields of requests that are told beside the usual ones, in lower case; likewise below.
    pub request_headers: Vec<String>,
    pub response_headers: Vec<String>,
    pub response_trailers: Vec<String>,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Request,
    Connection,
}

impl GrpcLog {
    pub(super) fn http(any: &Any) -> Result<Self, Invalid> {
        let HttpGrpcAccessLogConfig {
            common_config,
            additional_request_headers_to_log,
            additional_response_headers_to_log,
            additional_response_trailers_to_log,
        } = unpack(any)?;
        let names = |field, names| each(field, names, |name: String| header_name(&name));
        Ok(Self {
            kind: EntryKind::Request,
            request_headers: names(
                "additional_request_headers_to_log",
                additional_request_headers_to_log,
            )?,
            response_headers: names(
                "additional_response_headers_to_log",
                additional_response_headers_to_log,
            )?,
            response_trailers: names(
                "additional_response_trailers_to_log",
                additional_response_trailers_to_log,
            )?,
            ..Self::common(common_config)?
        })
    }

    pub(super) fn tcp(any: &Any) -> Result<Self, Invalid> {
        let TcpGrpcAccessLogConfig { common_config } = unpack(any)?;
        Self::common(common_config)
    }

    fn common(message: Option<CommonGrpcAccessLogConfig>) -> Result<Self, Invalid> {
        const FIELD: &str = "common_config";
        Self::decode_common(required(message, FIELD)?).at(FIELD)
    }

    fn decode_common(message: CommonGrpcAccessLogConfig) -> Result<Self, Invalid> {
        const INTERVAL: &str = "buffer_flush_interval";
        const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
        const DEFAULT_SIZE: u32 = 16 * 1024;
        let CommonGrpcAccessLogConfig {
            log_name,
            grpc_service,
            transport_api_version,
            buffer_flush_interval,
            buffer_size_bytes,
            filter_state_objects_to_log,
            grpc_stream_retry_policy,
            custom_tags,
        } = message;
        refuse!(
            filter_state_objects_to_log,
            grpc_stream_retry_policy,
            custom_tags,
        );
        #[allow(deprecated, reason = "named so that it is refused")]
        match enumeration(transport_api_version, "transport_api_version")? {
            ApiVersion::V3 | ApiVersion::Auto => {}
            ApiVersion::V2 => {
                return Err(Invalid::at("transport_api_version", "V2 is not supported"));
            }
        }
        let flush_interval = duration(buffer_flush_interval, INTERVAL)?;
        if flush_interval.is_some_and(|interval| interval.is_zero()) {
            return Err(Invalid::at(INTERVAL, "must be greater than zero"));
        }
        let service = required(grpc_service, "grpc_service")?;
        Ok(Self {
            kind: EntryKind::Connection,
            service: GrpcService::decode(service).at("grpc_service")?,
            name: not_empty(log_name, "log_name")?,
            flush_interval: flush_interval.unwrap_or(DEFAULT_INTERVAL),
            buffer_size: buffer_size_bytes.map_or(DEFAULT_SIZE, |size| size.value),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            response_trailers: Vec::new(),
        })
    }
}
