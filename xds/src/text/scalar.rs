//! One value -> one scalar field: what each kind of field takes, and what it does not.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{EnumDescriptor, Kind};

use super::fault::{Fault, nearest};
use super::node::{Node, Value};
use super::yaml::boolean;

/// A scalar as it stands on the wire.
pub(super) enum Scalar<'n> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(Cow<'n, [u8]>),
}

impl Scalar<'_> {
    pub fn is_default(&self) -> bool {
        match self {
            Self::Varint(v) | Self::Fixed64(v) => *v == 0,
            Self::Fixed32(v) => *v == 0,
            Self::Bytes(v) => v.is_empty(),
        }
    }
}

// Sign extension and reinterpretation are what the wire format prescribes.
#[allow(clippy::cast_sign_loss)]
pub(super) fn scalar<'n>(kind: &Kind, node: &'n Node<'_>) -> Result<Scalar<'n>, Fault> {
    Ok(match kind {
        Kind::String => Scalar::Bytes(Cow::Borrowed(string(node)?.as_bytes())),
        Kind::Bytes => Scalar::Bytes(Cow::Owned(base64(node)?)),
        Kind::Bool => Scalar::Varint(u64::from(bool(node)?)),
        Kind::Enum(desc) => Scalar::Varint(i64::from(enumeration(desc, node)?) as u64),
        Kind::Uint32 => Scalar::Varint(u64::from(integer::<u32>(node)?)),
        Kind::Uint64 => Scalar::Varint(integer(node)?),
        Kind::Int32 => Scalar::Varint(i64::from(integer::<i32>(node)?) as u64),
        Kind::Int64 => Scalar::Varint(integer::<i64>(node)? as u64),
        Kind::Sint32 => {
            let v = integer::<i32>(node)?;
            Scalar::Varint(u64::from(((v << 1) ^ (v >> 31)) as u32))
        }
        Kind::Sint64 => {
            let v = integer::<i64>(node)?;
            Scalar::Varint(((v << 1) ^ (v >> 63)) as u64)
        }
        Kind::Fixed32 => Scalar::Fixed32(integer(node)?),
        Kind::Sfixed32 => Scalar::Fixed32(integer::<i32>(node)? as u32),
        Kind::Fixed64 => Scalar::Fixed64(integer(node)?),
        Kind::Sfixed64 => Scalar::Fixed64(integer::<i64>(node)? as u64),
        Kind::Double => Scalar::Fixed64(float(node)?.to_bits()),
        Kind::Float => Scalar::Fixed32(narrow(float(node)?, node)?.to_bits()),
        Kind::Message(_) => return Err(expected("a scalar", node)),
    })
}

pub(super) fn expected(what: &str, node: &Node<'_>) -> Fault {
    Fault::new(
        node.place,
        format!("expected {what}, found {}", node.value.kind()),
    )
}

/// Only strings: a number or a boolean would lose how it was written (`1.10`, `no`).
fn string<'n>(node: &'n Node<'_>) -> Result<&'n str, Fault> {
    match &node.value {
        Value::String(text) => Ok(text),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            Err(expected("a string", node).hint(Some("put it in quotes".to_owned())))
        }
        _ => Err(expected("a string", node)),
    }
}

fn base64(node: &Node<'_>) -> Result<Vec<u8>, Fault> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, CONFIG);
    let text = string(node)?;
    let engine = if text.contains(['-', '_']) {
        &URL_SAFE
    } else {
        &STANDARD
    };
    engine
        .decode(text)
        .map_err(|e| Fault::new(node.place, format!("invalid base64: {e}")))
}

fn bool(node: &Node<'_>) -> Result<bool, Fault> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) => {
            boolean(text).ok_or_else(|| Fault::new(node.place, format!("not a boolean: {text:?}")))
        }
        _ => Err(expected("a boolean", node)),
    }
}

fn integer<T: TryFrom<i128>>(node: &Node<'_>) -> Result<T, Fault> {
    let value = match &node.value {
        Value::Int(value) => i128::from(*value),
        Value::Float(value) => whole(*value, node)?,
        Value::String(text) => match (text.parse::<i128>(), text.parse::<f64>()) {
            (Ok(value), _) => value,
            (_, Ok(value)) if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
                whole(value, node)?
            }
            _ => return Err(Fault::new(node.place, format!("not a number: {text:?}"))),
        },
        _ => return Err(expected("a number", node)),
    };
    T::try_from(value).map_err(|_| Fault::new(node.place, format!("{value} is out of range")))
}

#[allow(clippy::cast_possible_truncation)] // bounded just above
fn whole(value: f64, node: &Node<'_>) -> Result<i128, Fault> {
    if value.fract() != 0.0 {
        return Err(Fault::new(
            node.place,
            format!("expected a whole number, found {value}"),
        ));
    }
    if value.abs() > 1e20 {
        return Err(Fault::new(node.place, format!("{value} is out of range")));
    }
    Ok(value as i128)
}

#[allow(clippy::cast_precision_loss)] // a float field is asked for
fn float(node: &Node<'_>) -> Result<f64, Fault> {
    match &node.value {
        Value::Int(value) => Ok(*value as f64),
        Value::Float(value) => Ok(*value),
        Value::String(text) => match text.as_ref() {
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            "NaN" => Ok(f64::NAN),
            _ => text
                .parse()
                .ok()
                .filter(|v: &f64| v.is_finite())
                .ok_or_else(|| Fault::new(node.place, format!("not a number: {text:?}"))),
        },
        _ => Err(expected("a number", node)),
    }
}

#[allow(clippy::cast_possible_truncation)] // range checked
fn narrow(value: f64, node: &Node<'_>) -> Result<f32, Fault> {
    if value.is_finite() && value.abs() > f64::from(f32::MAX) {
        return Err(Fault::new(node.place, format!("{value} is out of range")));
    }
    Ok(value as f32)
}

fn enumeration(desc: &EnumDescriptor, node: &Node<'_>) -> Result<i32, Fault> {
    let text = match &node.value {
        Value::String(text) => text,
        // The only enum whose value is null is the one with nothing but null.
        Value::Null => return Ok(0),
        Value::Bool(_) => {
            return Err(expected("a name", node).hint(Some("put it in quotes".to_owned())));
        }
        _ => return integer(node),
    };
    if let Some(value) = desc.get_value_by_name(text) {
        return Ok(value.number());
    }
    let loose = text.replace('-', "_");
    let values: Vec<_> = desc.values().collect();
    match values
        .iter()
        .find(|v| v.name().eq_ignore_ascii_case(&loose))
    {
        Some(value) => Ok(value.number()),
        None => Err(Fault::new(
            node.place,
            format!("{text:?} is not one of {}", desc.name()),
        )
        .hint(nearest(text, values.iter().map(|v| v.name())))),
    }
}
