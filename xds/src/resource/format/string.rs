//! `SubstitutionFormatString`: a format as text, or as the shape of a JSON object.

use super::Format;
use crate::proto::Struct;
use crate::proto::core::substitution_format_string::Format as Kind;
use crate::proto::core::{JsonFormatOptions, SubstitutionFormatString, TypedExtensionConfig};
use crate::proto::google::protobuf::{ListValue, Value, value};
use crate::reject::Invalid;
use crate::resource::context::{At, Context, accept, each, fault, required, unknown_type};
use crate::resource::headers::header_value;
use crate::resource::tls::DataSource;
use crate::type_url::message_name;

/// No format is read from a larger file.
const MAX_FILE: usize = 64 * 1024;
/// How deep JSON may be nested.
const MAX_DEPTH: usize = 32;

/// Formatters that are here without being asked for.
const BUILT_IN: [&str; 2] = [
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
    "envoy.extensions.formatter.metadata.v3.Metadata",
];

/// `envoy.config.core.v3.SubstitutionFormatString`.
#[derive(Clone, Debug, PartialEq)]
pub enum FormatString {
    Text {
        format: Format,
        /// A value that is not there leaves nothing; otherwise `-`.
        omit_empty: bool,
        /// Empty: the usual one.
        content_type: String,
    },
    Json {
        shape: Json,
        /// A value that is not there leaves its key out; otherwise `null`.
        omit_empty: bool,
        content_type: String,
    },
}

/// A JSON value whose texts are formats.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Format(Format),
    List(Vec<Self>),
    /// Sorted by key.
    Object(Vec<(String, Self)>),
}

impl FormatString {
    pub(crate) fn decode(
        message: SubstitutionFormatString,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let SubstitutionFormatString {
            omit_empty_values: omit_empty,
            content_type,
            formatters,
            json_format_options,
            format,
        } = message;
        each("formatters", formatters, built_in)?;
        if let Some(options) = json_format_options {
            #[allow(deprecated, reason = "named so that nothing is skipped")]
            let JsonFormatOptions { sort_properties } = options;
            // They are always sorted.
            accept!(ctx, "JsonFormatOptions": sort_properties);
        }
        header_value(&content_type).at("content_type")?;
        #[allow(deprecated, reason = "still written by control planes")]
        let text = match required(format, "format")? {
            Kind::JsonFormat(shape) => {
                return Ok(Self::Json {
                    shape: Json::decode(shape).at("json_format")?,
                    omit_empty,
                    content_type,
                });
            }
            Kind::TextFormat(text) => Format::parse(&text).at("text_format")?,
            Kind::TextFormatSource(source) => from_source(source).at("text_format_source")?,
        };
        Ok(Self::Text {
            format: text,
            omit_empty,
            content_type,
        })
    }

    /// Plain text, where no message says more.
    pub(crate) fn text(text: &str) -> Result<Self, Invalid> {
        Ok(Self::Text {
            format: Format::parse(text)?,
            omit_empty: false,
            content_type: String::new(),
        })
    }

    /// All formats in it.
    pub fn formats(&self) -> Vec<&Format> {
        let mut all = Vec::new();
        match self {
            Self::Text { format, .. } => all.push(format),
            Self::Json { shape, .. } => shape.collect(&mut all),
        }
        all
    }
}

fn from_source(source: crate::proto::core::DataSource) -> Result<Format, Invalid> {
    let bytes = DataSource::decode(source)?.load(MAX_FILE)?;
    let text = String::from_utf8(bytes).map_err(|_| fault("is not UTF-8"))?;
    Format::parse(&text)
}

fn built_in(message: TypedExtensionConfig) -> Result<(), Invalid> {
    let any = required(message.typed_config, "typed_config")?;
    match BUILT_IN.contains(&message_name(&any.type_url)) {
        true => Ok(()),
        false => Err(unknown_type(&any.type_url)).at("typed_config"),
    }
}

impl Json {
    /// The shape of an object.
    pub(crate) fn decode(message: Struct) -> Result<Self, Invalid> {
        Self::object(message, 0)
    }

    fn object(message: Struct, depth: usize) -> Result<Self, Invalid> {
        if depth > MAX_DEPTH {
            return Err(fault(format!("is nested deeper than {MAX_DEPTH}")));
        }
        let mut fields = Vec::with_capacity(message.fields.len());
        for (key, value) in message.fields {
            let value = Self::value(value, depth + 1).at_key("fields", &key)?;
            fields.push((key, value));
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self::Object(fields))
    }

    fn value(message: Value, depth: usize) -> Result<Self, Invalid> {
        Ok(match message.kind {
            None | Some(value::Kind::NullValue(_)) => Self::Null,
            Some(value::Kind::BoolValue(value)) => Self::Bool(value),
            Some(value::Kind::NumberValue(value)) => Self::Number(value),
            Some(value::Kind::StringValue(text)) => Self::Format(Format::parse(&text)?),
            Some(value::Kind::StructValue(value)) => Self::object(value, depth)?,
            Some(value::Kind::ListValue(ListValue { values })) => {
                if depth > MAX_DEPTH {
                    return Err(fault(format!("is nested deeper than {MAX_DEPTH}")));
                }
                let values = values.into_iter().map(|v| Self::value(v, depth + 1));
                Self::List(values.collect::<Result<_, _>>()?)
            }
        })
    }

    fn collect<'s>(&'s self, all: &mut Vec<&'s Format>) {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => {}
            Self::Format(format) => all.push(format),
            Self::List(values) => values.iter().for_each(|v| v.collect(all)),
            Self::Object(fields) => fields.iter().for_each(|(_, v)| v.collect(all)),
        }
    }
}
