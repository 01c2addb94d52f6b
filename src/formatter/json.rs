//! JSON whose values are formats.

use causeway_xds::resource::format::Json;
use causeway_xds::resource::metadata::MetadataValue;

use super::MAX_TEXT;
use super::facts::{Facts, Value};
use super::template::Template;
use super::wants::Wants;

/// An object, ready to be filled.
#[derive(Clone, Debug)]
pub struct JsonTemplate {
    root: Node,
    /// A value that is missing leaves its key out, instead of `null`.
    omit_empty: bool,
}

#[derive(Clone, Debug)]
enum Node {
    /// As it is written.
    Fixed(Box<str>),
    Template(Template),
    List(Vec<Self>),
    /// With the keys as they are written, the comma before them and the colon behind.
    Object(Vec<(Box<str>, Self)>),
}

impl Node {
    fn compile(model: &Json, missing: &'static str) -> Self {
        match model {
            Json::Null => Self::Fixed("null".into()),
            Json::Bool(value) => Self::Fixed(value.to_string().into()),
            Json::Number(value) => Self::Fixed(number(*value).into()),
            Json::Format(format) => match format.literal() {
                Some(text) => Self::Fixed(quoted(text.as_bytes()).into()),
                None => Self::Template(Template::compile(format, missing)),
            },
            Json::List(values) => {
                Self::List(values.iter().map(|v| Self::compile(v, missing)).collect())
            }
            Json::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| {
                    let key = format!(",{}:", quoted(key.as_bytes()));
                    (key.into(), Self::compile(value, missing))
                });
                Self::Object(fields.collect())
            }
        }
    }

    fn note(&self, wants: &mut Wants) {
        match self {
            Self::Fixed(_) => {}
            Self::Template(template) => template.note(wants),
            Self::List(values) => values.iter().for_each(|v| v.note(wants)),
            Self::Object(fields) => fields.iter().for_each(|(_, v)| v.note(wants)),
        }
    }
}

impl JsonTemplate {
    pub fn compile(model: &Json, omit_empty: bool) -> Self {
        Self {
            root: Node::compile(model, if omit_empty { "" } else { "-" }),
            omit_empty,
        }
    }

    /// Adds what it needs to have kept.
    pub fn note(&self, wants: &mut Wants) {
        self.root.note(wants);
    }

    /// One line, its end included.
    pub fn render(&self, facts: &dyn Facts) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        self.write(&self.root, facts, &mut out);
        out.push(b'\n');
        out
    }

    /// Whether there was anything to write.
    fn write(&self, node: &Node, facts: &dyn Facts, out: &mut Vec<u8>) -> bool {
        match node {
            Node::Fixed(text) => out.extend_from_slice(text.as_bytes()),
            Node::Template(template) => match template.single(facts) {
                // What does not fit any more is told as not there: the line stays JSON.
                _ if out.len() > MAX_TEXT => out.extend_from_slice(b"null"),
                Some(Value::Missing) if self.omit_empty => return false,
                Some(value) => write_value(&value, out),
                None => write_quoted(&template.render(facts), out),
            },
            Node::List(values) => {
                out.push(b'[');
                let mut first = true;
                for value in values {
                    let from = out.len();
                    if !first {
                        out.push(b',');
                    }
                    match self.write(value, facts, out) {
                        true => first = false,
                        false => out.truncate(from),
                    }
                }
                out.push(b']');
            }
            Node::Object(fields) => {
                out.push(b'{');
                let mut first = true;
                for (key, value) in fields {
                    let from = out.len();
                    out.extend_from_slice(&key.as_bytes()[usize::from(first)..]);
                    match self.write(value, facts, out) {
                        true => first = false,
                        false => out.truncate(from),
                    }
                }
                out.push(b'}');
            }
        }
        true
    }
}

fn write_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Missing => out.extend_from_slice(b"null"),
        Value::Text(text) => write_quoted(text.as_bytes(), out),
        Value::Bytes(bytes) => write_quoted(bytes, out),
        Value::Kept(value) => write_quoted(value.as_bytes(), out),
        Value::Number(_) => value.write(out),
        Value::Address(_) | Value::Ip(_) => {
            out.push(b'"');
            value.write(out);
            out.push(b'"');
        }
        Value::Metadata(value) => write_metadata(value, out),
    }
}

/// A whole number has no point, as JavaScript has it.
fn number(value: f64) -> String {
    if value.is_finite() {
        value.to_string()
    } else {
        "null".to_owned()
    }
}

fn quoted(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_quoted(text, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// Stands for itself in a JSON string.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..0x7f) && byte != b'"' && byte != b'\\'
}

/// How many bytes stand for themselves before the first that does not.
fn plain_prefix(bytes: &[u8]) -> usize {
    // Sixteen at a time without a branch for each, which the compiler makes a few instructions of.
    let whole = bytes
        .chunks_exact(16)
        .take_while(|chunk| chunk.iter().fold(true, |all, b| all & is_plain(*b)))
        .count();
    let rest = &bytes[whole * 16..];
    whole * 16
        + rest
            .iter()
            .position(|b| !is_plain(*b))
            .unwrap_or(rest.len())
}

/// A JSON string. Bytes that are no UTF-8 become the replacement character.
pub(super) fn write_quoted(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    // Nearly every value is plain, and copied as a whole.
    let (plain, bytes) = bytes.split_at(plain_prefix(bytes));
    out.extend_from_slice(plain);
    for chunk in bytes.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..0x20 | 0x7f => {
                    out.extend_from_slice(b"\\u00");
                    out.push(HEX[usize::from(byte >> 4)]);
                    out.push(HEX[usize::from(byte & 15)]);
                }
                byte => out.push(byte),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

/// As text: a string as it is, everything else as JSON.
pub(super) fn write_metadata_text(value: &MetadataValue, out: &mut Vec<u8>) {
    match value {
        MetadataValue::Text(text) => out.extend_from_slice(text.as_bytes()),
        other => write_metadata(other, out),
    }
}

fn write_metadata(value: &MetadataValue, out: &mut Vec<u8>) {
    match value {
        MetadataValue::Null => out.extend_from_slice(b"null"),
        MetadataValue::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
        MetadataValue::Number(value) => out.extend_from_slice(number(*value).as_bytes()),
        MetadataValue::Text(text) => write_quoted(text.as_bytes(), out),
        MetadataValue::List(values) => {
            out.push(b'[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_metadata(value, out);
            }
            out.push(b']');
        }
        MetadataValue::Object(fields) => {
            out.push(b'{');
            for (i, (key, value)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_quoted(key.as_bytes(), out);
                out.push(b':');
                write_metadata(value, out);
            }
            out.push(b'}');
        }
    }
}
