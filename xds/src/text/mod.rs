//! YAML and JSON <-> messages, as lenient and as strict as Envoy.
//!
//! | step | module |
//! |---|---|
//! | YAML text -> value tree with places | `yaml` |
//! | JSON text -> bytes of the message, when nothing about it is unusual | `stream` |
//! | JSON text, JSON value -> value tree | `node` |
//! | value tree -> bytes of the message | `encode`, `scalar`, `well_known`, `time` |
//! | what is wrong and where | `fault` |
//! | where a field of a message was in its text | `locate` |
//! | message -> JSON | `print` |
//! | text -> values, when the message is not known yet | `untyped` |
//!
//! Beyond proto3 JSON, as in Envoy: enum names in any case, one value where a list is expected,
//! durations and wrappers as maps of their fields, booleans as strings, the booleans and integers
//! of YAML 1.1, aliases, repeated keys (the last counts). Refused, as in Envoy: unknown fields,
//! unknown extension types, a duration without the unit `s`, a number for a string.

mod encode;
mod fault;
mod locate;
mod node;
mod print;
mod scalar;
mod stream;
mod time;
mod untyped;
mod well_known;
mod yaml;

use prost_reflect::MessageDescriptor;
use serde::Deserialize as _;

pub use fault::{TextError, distance};
pub use locate::{Document, Listing, Location, Passage, Tree};
pub use print::{message_to_value, to_value};
pub use untyped::untyped;

use crate::descriptor;
use crate::proto::{Any, Message};
use encode::Encoder;
use node::Node;

/// How strictly to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Leave out what the schema does not know, instead of refusing the text.
    pub allow_unknown_fields: bool,
}

/// Reads a YAML or JSON text as the message of that full name.
///
/// # Errors
///
/// [`TextError`] with line, column and field path when the text is not such a message.
pub fn parse<M: Message + Default>(
    text: &str,
    message_name: &str,
    options: &Options,
) -> Result<M, TextError> {
    let bytes = encode_text(text, &descriptor_of(message_name)?, options)?;
    decode(&bytes, message_name)
}

/// Reads a text and a second one over it: its fields replace, its messages merge, its lists
/// append (merging as of protobuf; Envoy's `--config-yaml`).
///
/// # Errors
///
/// As [`parse`]; the location is that in the text which is at fault.
pub fn parse_merged<M: Message + Default>(
    text: &str,
    over: Option<&str>,
    message_name: &str,
    options: &Options,
) -> Result<M, TextError> {
    let desc = descriptor_of(message_name)?;
    let mut bytes = encode_text(text, &desc, options)?;
    if let Some(over) = over {
        // Messages concatenated on the wire are messages merged.
        bytes.extend(encode_text(over, &desc, options)?);
    }
    decode(&bytes, message_name)
}

/// Reads a text that tells its own type by "@type".
///
/// # Errors
///
/// As [`parse`].
pub fn parse_any(text: &str, options: &Options) -> Result<Any, TextError> {
    parse(text, ANY, options)
}

/// An object with "@type" -> a packed message.
///
/// # Errors
///
/// [`TextError`] without a location.
pub fn any_from_value(value: &serde_json::Value) -> Result<Any, TextError> {
    value_of(value, ANY)
}

/// A JSON value -> the message of that full name.
///
/// # Errors
///
/// [`TextError`] without a location.
pub fn value_of<M: Message + Default>(
    value: &serde_json::Value,
    message_name: &str,
) -> Result<M, TextError> {
    let desc = descriptor_of(message_name)?;
    let node = Node::deserialize(value).map_err(|e| TextError::new(e.to_string()))?;
    let bytes = encode_node(&node, &desc, &Options::default())?;
    decode(&bytes, message_name)
}

const ANY: &str = "google.protobuf.Any";

fn descriptor_of(name: &str) -> Result<MessageDescriptor, TextError> {
    descriptor::message(name)
        .ok_or_else(|| TextError::new(format!("message type {name} is not known")))
}

/// JSON takes a fast road without places, if it can one without a tree. Only when that fails, the text
/// is read a second time as the YAML that it is as well, to tell where the fault is.
fn encode_text(
    text: &str,
    desc: &MessageDescriptor,
    options: &Options,
) -> Result<Vec<u8>, TextError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let by_yaml = || yaml::load(text).and_then(|node| encode_node(&node, desc, options));
    if !text.trim_start().starts_with('{') {
        return by_yaml();
    }
    if let Some(bytes) = stream::encode(text, desc, options) {
        return Ok(bytes);
    }
    match serde_json::from_str::<Node<'_>>(text) {
        Ok(node) => encode_node(&node, desc, options).map_err(|fault| match by_yaml() {
            // The place is all that is wanted of it: it reads some scalars in another way.
            Err(TextError { location, path, .. }) if path == fault.path => {
                TextError { location, ..fault }
            }
            _ => fault,
        }),
        // A flow mapping of YAML, or broken JSON, about which the JSON parser knows more.
        Err(e) => match yaml::load(text) {
            Ok(node) => encode_node(&node, desc, options),
            Err(_) => Err(json_error(&e)),
        },
    }
}

fn json_error(error: &serde_json::Error) -> TextError {
    let cap = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (line, column) = (cap(error.line()), cap(error.column()));
    // The library repeats the place in its text.
    let reason = error.to_string();
    let reason = reason
        .split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned();
    TextError {
        location: Some((line, column)),
        path: String::new(),
        reason,
        hint: None,
    }
}

fn encode_node(
    node: &Node<'_>,
    desc: &MessageDescriptor,
    options: &Options,
) -> Result<Vec<u8>, TextError> {
    let mut bytes = Vec::new();
    Encoder { options }.message(desc, node, &mut bytes)?;
    Ok(bytes)
}

fn decode<M: Message + Default>(bytes: &[u8], name: &str) -> Result<M, TextError> {
    M::decode(bytes).map_err(|e| TextError::new(format!("not a {name}: {e}")))
}

#[cfg(test)]
mod tests;
