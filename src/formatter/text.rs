//! A whole text: an entry of a log, the body of an answer.

use causeway_xds::resource::format::FormatString;
use http::header::HeaderValue;

use super::{Facts, JsonTemplate, Template, Wants};

/// What a text is made by.
#[derive(Debug)]
pub enum Text {
    Plain(Template),
    Json(JsonTemplate),
}

impl Text {
    pub fn compile(model: &FormatString) -> Self {
        match model {
            FormatString::Text {
                format, omit_empty, ..
            } => Self::Plain(Template::compile(
                format,
                if *omit_empty { "" } else { "-" },
            )),
            FormatString::Json {
                shape, omit_empty, ..
            } => Self::Json(JsonTemplate::compile(shape, *omit_empty)),
        }
    }

    /// Adds what it needs to have kept.
    pub fn note(&self, wants: &mut Wants) {
        match self {
            Self::Plain(template) => template.note(wants),
            Self::Json(template) => template.note(wants),
        }
    }

    pub fn render(&self, facts: &dyn Facts) -> Vec<u8> {
        match self {
            Self::Plain(template) => template.render(facts),
            Self::Json(template) => template.render(facts),
        }
    }
}

/// The body of an answer of ours.
#[derive(Debug)]
pub struct BodyFormat {
    pub text: Text,
    pub content_type: HeaderValue,
}

impl BodyFormat {
    pub fn compile(model: &FormatString) -> Self {
        let (content_type, usual) = match model {
            FormatString::Text { content_type, .. } => (content_type, "text/plain"),
            FormatString::Json { content_type, .. } => (content_type, "application/json"),
        };
        let usual = HeaderValue::from_static(usual);
        Self {
            text: Text::compile(model),
            content_type: match content_type.is_empty() {
                true => usual,
                // Checked when the resource was decoded.
                false => HeaderValue::from_str(content_type).unwrap_or(usual),
            },
        }
    }
}
