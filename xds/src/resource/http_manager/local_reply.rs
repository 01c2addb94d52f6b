//! `local_reply_config`: message to typed.

use super::{LocalReplies, LocalReplyMapper};
use crate::proto::hcm::{LocalReplyConfig, ResponseMapper};
use crate::reject::Invalid;
use crate::resource::access_log::LogFilter;
use crate::resource::context::{At, Context, each, fault, number, required};
use crate::resource::format::FormatString;
use crate::resource::headers::additions;
use crate::resource::tls::DataSource;

/// No body is read from a larger file.
const MAX_BODY: usize = 1024 * 1024;

impl LocalReplies {
    pub(super) fn decode(message: LocalReplyConfig, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let LocalReplyConfig {
            mappers,
            body_format,
        } = message;
        Ok(Self {
            mappers: each("mappers", mappers, |m| LocalReplyMapper::decode(m, ctx))?,
            format: body_format
                .map(|format| FormatString::decode(format, ctx))
                .transpose()
                .at("body_format")?,
        })
    }
}

impl LocalReplyMapper {
    fn decode(message: ResponseMapper, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let ResponseMapper {
            filter,
            status_code,
            body,
            body_format_override,
            headers_to_add,
        } = message;
        let filter = required(filter, "filter")?;
        let body = body.map(|body| {
            let bytes = DataSource::decode(body)?.load(MAX_BODY)?;
            String::from_utf8(bytes).map_err(|_| fault("is not UTF-8"))
        });
        let status = number(status_code, "status_code", 200..=599)?;
        Ok(Self {
            filter: LogFilter::decode(filter, ctx).at("filter")?,
            status: status.and_then(|status| u16::try_from(status).ok()),
            body: body.transpose().at("body")?,
            format: body_format_override
                .map(|format| FormatString::decode(format, ctx))
                .transpose()
                .at("body_format_override")?,
            add: additions(headers_to_add, "headers_to_add")?,
        })
    }
}
