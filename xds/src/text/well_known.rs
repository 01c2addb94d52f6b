//! Messages with a text form of their own.

use prost_reflect::MessageDescriptor;

use super::encode::{Encoder, delimited, sorted};
use super::fault::{Fault, nearest};
use super::node::{Node, Value};
use super::scalar::{Scalar, expected, scalar};
use super::time;
use crate::descriptor;
use crate::type_url::{PREFIX, message_name};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WellKnown {
    Any,
    Duration,
    Timestamp,
    FieldMask,
    Struct,
    Value,
    ListValue,
    Wrapper,
}

impl WellKnown {
    pub fn of(desc: &MessageDescriptor) -> Option<Self> {
        Some(match desc.full_name().strip_prefix("google.protobuf.")? {
            "Any" => Self::Any,
            "Duration" => Self::Duration,
            "Timestamp" => Self::Timestamp,
            "FieldMask" => Self::FieldMask,
            "Struct" => Self::Struct,
            "Value" => Self::Value,
            "ListValue" => Self::ListValue,
            "BoolValue" | "BytesValue" | "DoubleValue" | "FloatValue" | "Int32Value"
            | "Int64Value" | "StringValue" | "UInt32Value" | "UInt64Value" => Self::Wrapper,
            _ => return None,
        })
    }
}

pub(super) fn encode(
    encoder: &Encoder<'_>,
    known: WellKnown,
    desc: &MessageDescriptor,
    node: &Node<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    match (known, &node.value) {
        (WellKnown::Any, _) => any(encoder, node, out),
        (WellKnown::Struct, _) => structure(node, out),
        (WellKnown::Value, _) => value(node, out),
        (WellKnown::ListValue, _) => list(node, out),
        (_, Value::Map(_) | Value::Null) => encoder.plain_message(desc, node, out),
        (WellKnown::Duration, _) => time::duration(node, out),
        (WellKnown::Timestamp, _) => time::timestamp(node, out),
        (WellKnown::FieldMask, _) => field_mask(node, out),
        (WellKnown::Wrapper, _) => {
            if let Some(field) = desc.get_field(1) {
                let value = scalar(&field.kind(), node)?;
                if !value.is_default() {
                    value.write_field(1, out);
                }
            }
            Ok(())
        }
    }
}

fn any(encoder: &Encoder<'_>, node: &Node<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let Value::Map(entries) = &node.value else {
        return Err(expected("a map with \"@type\"", node));
    };
    if entries.is_empty() {
        return Ok(());
    }
    let Some((_, type_url)) = entries.iter().rev().find(|(k, _)| k.text == "@type") else {
        return Err(Fault::new(node.place, "\"@type\" is missing"));
    };
    let Value::String(url) = &type_url.value else {
        return Err(expected("a type URL", type_url).within("@type"));
    };
    let name = message_name(url);
    let Some(desc) = descriptor::message(name) else {
        let pool = descriptor::pool();
        let names = pool.all_messages().filter(|m| !m.is_map_entry());
        let names: Vec<_> = names.map(|m| m.full_name().to_owned()).collect();
        return Err(Fault::new(
            type_url.place,
            format!("extension type {name} is not known"),
        )
        .hint(nearest(name, names.iter()))
        .within("@type"));
    };

    Scalar::Bytes(with_prefix(url).into_bytes().into()).write_field(1, out);
    let before = out.len();
    delimited(2, out, |out| {
        if WellKnown::of(&desc).is_none() {
            return encoder.fields(&desc, entries, Some("@type"), out);
        }
        for (key, inner) in entries {
            match &*key.text {
                "@type" => {}
                "value" => {
                    encoder
                        .message(&desc, inner, out)
                        .map_err(|e| e.within("value"))?;
                }
                other => {
                    let reason = format!("unknown field \"{other}\"");
                    return Err(Fault::new(key.place, reason)
                        .hint(Some(format!("{name} stands under \"value\"")))
                        .within(other));
                }
            }
        }
        Ok(())
    })?;
    if out.len() == before + 2 {
        out.truncate(before); // an empty value is the default
    }
    Ok(())
}

/// A type URL; where there is only the name of a type, the usual one.
pub(super) fn with_prefix(url: &str) -> String {
    let prefix = if url.contains('/') { "" } else { PREFIX };
    format!("{prefix}{url}")
}

fn structure(node: &Node<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let Value::Map(entries) = &node.value else {
        return if node.value == Value::Null {
            Ok(())
        } else {
            Err(expected("a map", node))
        };
    };
    for (key, inner) in sorted(entries) {
        delimited(1, out, |out| {
            Scalar::Bytes(key.text.as_bytes().into()).write_field(1, out);
            delimited(2, out, |out| value(inner, out)).map_err(|e| e.within_key(&key.text))
        })?;
    }
    Ok(())
}

fn list(node: &Node<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let Value::List(items) = &node.value else {
        return Err(expected("a list", node));
    };
    for (i, item) in items.iter().enumerate() {
        delimited(1, out, |out| value(item, out)).map_err(|e| e.within_index(i))?;
    }
    Ok(())
}

/// Members of the oneof of `google.protobuf.Value`, by number.
#[allow(clippy::cast_precision_loss)] // a number is a double there
fn value(node: &Node<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    match &node.value {
        Value::Null => Scalar::Varint(0).write_field(1, out),
        Value::Int(v) => Scalar::Fixed64((*v as f64).to_bits()).write_field(2, out),
        Value::Float(v) => Scalar::Fixed64(v.to_bits()).write_field(2, out),
        Value::String(v) => Scalar::Bytes(v.as_bytes().into()).write_field(3, out),
        Value::Bool(v) => Scalar::Varint(u64::from(*v)).write_field(4, out),
        Value::Map(_) => return delimited(5, out, |out| structure(node, out)),
        Value::List(_) => return delimited(6, out, |out| list(node, out)),
    }
    Ok(())
}

fn field_mask(node: &Node<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let Value::String(text) = &node.value else {
        return Err(expected("field paths", node));
    };
    for path in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let mut snake = String::with_capacity(path.len() + 4);
        for c in path.chars() {
            if c.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        }
        Scalar::Bytes(snake.into_bytes().into()).write_field(1, out);
    }
    Ok(())
}
