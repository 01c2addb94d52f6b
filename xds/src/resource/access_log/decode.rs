//! Access loggers: message to typed.

use super::{AccessLog, Destination, GrpcLog, LogFilter, Sink, grpc};
use crate::proto::core::SubstitutionFormatString;
use crate::proto::envoy::config::accesslog::v3::{AccessLog as Message, access_log::ConfigType};
use crate::proto::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use crate::proto::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use crate::proto::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use crate::proto::{Any, Struct};
use crate::reject::Invalid;
use crate::resource::context::{At, Context, fault, not_empty, required, unpack};
use crate::resource::format::{FormatString, Json};
use crate::type_url::message_name;

pub(super) const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
pub(super) const STDOUT: &str = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
pub(super) const STDERR: &str = "envoy.extensions.access_loggers.stream.v3.StderrAccessLog";

impl AccessLog {
    pub(crate) fn decode(message: Message, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let Message {
            name: _, // only a label
            filter,
            config_type,
        } = message;
        let filter = filter
            .map(|filter| LogFilter::decode(filter, ctx))
            .transpose()
            .at("filter")?;
        let ConfigType::TypedConfig(any) = required(config_type, "typed_config")?;
        let to = destination(&any, ctx).at("typed_config")?;
        Ok(Self { to, filter })
    }
}

fn destination(any: &Any, ctx: &Context<'_>) -> Result<Destination, Invalid> {
    let string = |format: Option<SubstitutionFormatString>| {
        let format = format.map(|format| FormatString::decode(format, ctx));
        format.transpose().at("log_format")
    };
    let lines = |sink, format| Ok(Destination::Lines { sink, format });
    match message_name(&any.type_url) {
        FILE => {
            let FileAccessLog {
                path,
                access_log_format,
            } = unpack(any)?;
            let path = not_empty(path, "path")?;
            lines(Sink::File(path), file_format(access_log_format, ctx)?)
        }
        STDOUT => {
            let StdoutAccessLog { access_log_format } = unpack(any)?;
            let format = access_log_format.map(|f| {
                let stdout_access_log::AccessLogFormat::LogFormat(format) = f;
                format
            });
            lines(Sink::Stdout, string(format)?)
        }
        STDERR => {
            let StderrAccessLog { access_log_format } = unpack(any)?;
            let format = access_log_format.map(|f| {
                let stderr_access_log::AccessLogFormat::LogFormat(format) = f;
                format
            });
            lines(Sink::Stderr, string(format)?)
        }
        grpc::HTTP => Ok(Destination::Grpc(Box::new(GrpcLog::http(any)?))),
        grpc::TCP => Ok(Destination::Grpc(Box::new(GrpcLog::tcp(any)?))),
        other => Err(fault(format!("access logger {other:?} is not supported"))),
    }
}

#[allow(
    deprecated,
    reason = "older spellings of log_format that are still sent"
)]
fn file_format(
    format: Option<AccessLogFormat>,
    ctx: &Context<'_>,
) -> Result<Option<FormatString>, Invalid> {
    let json = |shape: Struct, field| -> Result<_, Invalid> {
        Ok(Some(FormatString::Json {
            shape: Json::decode(shape).at(field)?,
            omit_empty: false,
            content_type: String::new(),
        }))
    };
    match format {
        None => Ok(None),
        Some(AccessLogFormat::Format(text)) if text.is_empty() => Ok(None),
        Some(AccessLogFormat::Format(text)) => FormatString::text(&text).at("format").map(Some),
        Some(AccessLogFormat::JsonFormat(shape)) => json(shape, "json_format"),
        Some(AccessLogFormat::TypedJsonFormat(shape)) => json(shape, "typed_json_format"),
        Some(AccessLogFormat::LogFormat(format)) => {
            FormatString::decode(format, ctx).at("log_format").map(Some)
        }
    }
}
