//! Header edits (`HeaderValueOption` and the remove lists).

use std::ops::Deref;

use super::context::{
    At, Context, each, enumeration, fault, refuse, required, unknown_type, unpack,
};
use super::format::Format;
use super::matcher::StringMatcher;
use crate::proto::core::header_value_option::HeaderAppendAction;
use crate::proto::core::http1_protocol_options::HeaderKeyFormat;
use crate::proto::core::http1_protocol_options::header_key_format::HeaderFormat;
use crate::proto::core::{HeaderValue, HeaderValueOption, TypedExtensionConfig};
use crate::proto::envoy::config::common::mutation_rules::v3 as mutation;
use crate::proto::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use crate::reject::Invalid;
use crate::type_url::message_name;

/// What happens when the header is there already (`HeaderAppendAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendAction {
    #[default]
    AppendOrAdd,
    AddIfAbsent,
    OverwriteOrAdd,
    OverwriteIfExists,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Lower case.
    pub name: String,
    pub value: Format,
    pub action: AppendAction,
    /// Whether a value that came out empty is kept (`keep_empty_value`).
    pub keep_empty: bool,
}

/// `envoy.config.common.mutation_rules.v3.HeaderMutation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderMutation {
    Edit(HeaderEdit),
    /// Lower case.
    Remove(String),
    /// All whose names match, in lower case; never `host`, which a request is routed by.
    RemoveMatching(StringMatcher),
}

/// The edits that one level (route, virtual host, route configuration) makes.
///
/// There are as many of these as there are routes and virtual hosts, and most of them are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits(Option<Box<EditLists>>);

/// What [`HeaderEdits`] consist of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditLists {
    pub request_add: Vec<HeaderEdit>,
    /// Lower case.
    pub request_remove: Vec<String>,
    pub response_add: Vec<HeaderEdit>,
    /// Lower case.
    pub response_remove: Vec<String>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl From<EditLists> for HeaderEdits {
    fn from(lists: EditLists) -> Self {
        Self((lists != EditLists::default()).then(|| Box::new(lists)))
    }
}

impl Deref for HeaderEdits {
    type Target = EditLists;

    fn deref(&self) -> &EditLists {
        static NONE: EditLists = EditLists {
            request_add: Vec::new(),
            request_remove: Vec::new(),
            response_add: Vec::new(),
            response_remove: Vec::new(),
        };
        self.0.as_deref().unwrap_or(&NONE)
    }
}

/// The four fields that every level of a route configuration has.
pub(crate) struct EditFields {
    pub request_headers_to_add: Vec<HeaderValueOption>,
    pub request_headers_to_remove: Vec<String>,
    pub response_headers_to_add: Vec<HeaderValueOption>,
    pub response_headers_to_remove: Vec<String>,
}

impl HeaderEdits {
    pub(crate) fn decode(fields: EditFields) -> Result<Self, Invalid> {
        let EditFields {
            request_headers_to_add: request_add,
            request_headers_to_remove: request_remove,
            response_headers_to_add: response_add,
            response_headers_to_remove: response_remove,
        } = fields;
        let lists = EditLists {
            request_add: additions(request_add, "request_headers_to_add")?,
            request_remove: each("request_headers_to_remove", request_remove, editable_name)?,
            response_add: additions(response_add, "response_headers_to_add")?,
            response_remove: each("response_headers_to_remove", response_remove, editable_name)?,
        };
        Ok(lists.into())
    }
}

pub(crate) fn additions(
    options: Vec<HeaderValueOption>,
    field: &str,
) -> Result<Vec<HeaderEdit>, Invalid> {
    // The limit that the message definition states.
    const MAX: usize = 1000;
    if options.len() > MAX {
        return Err(Invalid::at(field, format!("more than {MAX} headers")));
    }
    each(field, options, HeaderEdit::decode)
}

impl HeaderEdit {
    pub(crate) fn decode(message: HeaderValueOption) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "`append` is still written by control planes")]
        let HeaderValueOption {
            header,
            append,
            append_action,
            keep_empty_value,
        } = message;
        let HeaderValue {
            key,
            value,
            raw_value,
        } = required(header, "header")?;

        let action = AppendAction::decode(append.map(|v| v.value), append_action)?;
        let refuse_raw = || -> Result<(), Invalid> {
            refuse!(raw_value);
            Ok(())
        };
        refuse_raw().at("header")?;
        Ok(Self {
            name: editable_name(key).at("header.key")?,
            value: value_format(&value).at("header.value")?,
            action,
            keep_empty: keep_empty_value,
        })
    }
}

impl HeaderMutation {
    pub(crate) fn decode(
        message: mutation::HeaderMutation,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        use mutation::header_mutation::{Action, RemoveOnMatch};
        Ok(match required(message.action, "action")? {
            Action::Remove(name) => Self::Remove(editable_name(name).at("remove")?),
            Action::Append(option) => Self::Edit(HeaderEdit::decode(option).at("append")?),
            Action::RemoveOnMatch(RemoveOnMatch { key_matcher }) => {
                let decode = || {
                    let matcher = required(key_matcher, "key_matcher")?;
                    StringMatcher::decode(matcher, ctx).at("key_matcher")
                };
                Self::RemoveMatching(decode().at("remove_on_match")?)
            }
        })
    }
}

impl AppendAction {
    fn decode(append: Option<bool>, action: i32) -> Result<Self, Invalid> {
        let action = enumeration(action, "append_action")?;
        match (append, action) {
            (Some(true) | None, HeaderAppendAction::AppendIfExistsOrAdd) => Ok(Self::AppendOrAdd),
            (Some(false), HeaderAppendAction::AppendIfExistsOrAdd) => Ok(Self::OverwriteOrAdd),
            (Some(_), _) => Err(Invalid::at(
                "append",
                "is given together with append_action",
            )),
            (None, HeaderAppendAction::AddIfAbsent) => Ok(Self::AddIfAbsent),
            (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Ok(Self::OverwriteOrAdd),
            (None, HeaderAppendAction::OverwriteIfExists) => Ok(Self::OverwriteIfExists),
        }
    }
}

/// A header name in lower case (RFC 9110 section 5.1: a token).
pub(crate) fn header_name(name: &str) -> Result<String, Invalid> {
    const MAX: usize = 16_384;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match name {
        "" => Err(fault("must not be empty")),
        _ if name.len() > MAX => Err(fault("is too long for a header name")),
        _ if !name.bytes().all(token) => Err(fault(format!("{name:?} is not a header name"))),
        _ => Ok(name.to_ascii_lowercase()),
    }
}

/// As [`header_name`], or a pseudo header.
pub(crate) fn header_or_pseudo_name(name: &str) -> Result<String, Invalid> {
    match name.strip_prefix(':') {
        Some(rest) => header_name(rest).map(|rest| format!(":{rest}")),
        None => header_name(name),
    }
}

/// The name of a header that may be edited: pseudo headers and `host` are what the request is
/// routed by, and have fields of their own for a rewrite.
pub(crate) fn editable_name(name: String) -> Result<String, Invalid> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(fault(format!("{name:?} may not be changed as a header")));
    }
    header_name(&name)
}

/// How names of fields are written in HTTP/1, where some old clients and servers want capitals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    #[default]
    Lower,
    /// `proper_case_words`
    Proper,
    /// As whoever is at the other end of this connection wrote them, all the way to the other side
    /// of the proxy (`preserve_case`). Names that are added here are in lower case.
    Preserve,
}

impl HeaderCase {
    pub(crate) fn decode(format: Option<HeaderKeyFormat>) -> Result<Self, Invalid> {
        let Some(HeaderKeyFormat { header_format }) = format else {
            return Ok(Self::Lower);
        };
        let decode = || match required(header_format, "header_format")? {
            HeaderFormat::ProperCaseWords(_) => Ok(Self::Proper),
            HeaderFormat::StatefulFormatter(formatter) => {
                preserve_case(formatter).at("stateful_formatter")
            }
        };
        decode().at("header_key_format")
    }
}

fn preserve_case(formatter: TypedExtensionConfig) -> Result<HeaderCase, Invalid> {
    const PRESERVE: &str =
        "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig";
    let TypedExtensionConfig {
        name: _,
        typed_config,
    } = formatter;
    let any = required(typed_config, "typed_config")?;
    if message_name(&any.type_url) != PRESERVE {
        return Err(unknown_type(&any.type_url)).at("typed_config");
    }
    let decode = || {
        let PreserveCaseFormatterConfig {
            forward_reason_phrase,
            formatter_type_on_envoy_headers,
        } = unpack(&any)?;
        refuse!(forward_reason_phrase, formatter_type_on_envoy_headers);
        Ok(HeaderCase::Preserve)
    };
    decode().at("typed_config")
}

/// Refuses what cannot be sent as a header value (RFC 9110 section 5.5).
pub(crate) fn header_value(value: &str) -> Result<(), Invalid> {
    const MAX: usize = 16_384;
    if value.len() > MAX {
        return Err(fault("is too long for a header value"));
    }
    if value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err(fault("contains a control character"));
    }
    Ok(())
}

fn value_format(value: &str) -> Result<Format, Invalid> {
    header_value(value)?;
    Format::parse(value)
}
