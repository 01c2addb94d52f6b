//! A format string, ready to be filled.

mod operator;

use std::borrow::Cow;

use causeway_xds::resource::format::{Format, Part as Model};

use super::MAX_TEXT;
use super::facts::{Facts, Value};
use super::wants::Wants;
use operator::Op;

#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
    /// What a value that is missing leaves.
    missing: &'static str,
    /// The text has values between quotation marks, so that no value may have any.
    quoted: bool,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Box<str>),
    Command { operator: Op, max: usize },
}

impl Template {
    /// `missing` stands for a value that is not there: `-` in logs, nothing in headers.
    pub fn compile(format: &Format, missing: &'static str) -> Self {
        let parts = format.0.iter().map(|part| match part {
            Model::Text(text) => Part::Text(text.as_str().into()),
            Model::Command { operator, max } => Part::Command {
                operator: Op::compile(operator),
                max: max.unwrap_or(usize::MAX),
            },
        });
        Self {
            parts: parts.collect(),
            missing,
            quoted: false,
        }
    }

    /// For a text that has values between quotation marks: those in a value become `_`.
    #[must_use]
    pub fn quoted(mut self) -> Self {
        self.quoted = true;
        self
    }

    /// Adds what it needs to have kept.
    pub fn note(&self, wants: &mut Wants) {
        for part in &self.parts {
            if let Part::Command { operator, .. } = part {
                operator.note(wants);
            }
        }
    }

    /// The text, no longer than [`MAX_TEXT`].
    pub fn render(&self, facts: &dyn Facts) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.render_into(facts, &mut out);
        out
    }

    /// As [`Template::render`], behind what is there.
    pub fn render_into(&self, facts: &dyn Facts, out: &mut Vec<u8>) {
        let limit = out.len() + MAX_TEXT;
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Command { operator, max } => {
                    let from = out.len();
                    write(&operator.value(facts), *max, self.missing, out);
                    if self.quoted {
                        out[from..].iter_mut().for_each(unquote);
                    }
                }
            }
            if out.len() > limit {
                out.truncate(limit);
                return;
            }
        }
    }

    /// The value, of a template that is nothing but one command; JSON keeps its type.
    pub(super) fn single<'f>(&'f self, facts: &'f dyn Facts) -> Option<Value<'f>> {
        match &self.parts[..] {
            [Part::Command { operator, max }] => Some(shorten(operator.value(facts), *max)),
            _ => None,
        }
    }
}

fn unquote(byte: &mut u8) {
    if *byte == b'"' {
        *byte = b'_';
    }
}

fn shorten(value: Value<'_>, max: usize) -> Value<'_> {
    if max == usize::MAX {
        return value;
    }
    match value {
        Value::Text(text) if text.len() > max => {
            let cut = text.floor_char_boundary(max);
            Value::Text(Cow::Owned(text[..cut].to_owned()))
        }
        // Numbers and metadata keep their type.
        other @ (Value::Missing | Value::Text(_) | Value::Number(_) | Value::Metadata(_)) => other,
        other => {
            let mut out = Vec::new();
            other.write(&mut out);
            match out.len() > max {
                true => Value::Bytes(out[..max].to_vec().into()),
                false => other,
            }
        }
    }
}

fn write(value: &Value<'_>, max: usize, missing: &str, out: &mut Vec<u8>) {
    let from = out.len();
    match value {
        Value::Missing => return out.extend_from_slice(missing.as_bytes()),
        value => value.write(out),
    }
    out.truncate(from.saturating_add(max).min(out.len()));
}
