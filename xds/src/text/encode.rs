//! Value tree -> bytes of a message, guided by its descriptor.
//!
//! The wire format is written directly instead of by way of a dynamic message: one pass, no second
//! tree, and every fault is found where path and place are known. The result is as `prost` would
//! write it (fields by number, implicit defaults left out), so that equal resources have equal
//! bytes whatever their text looked like.

use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::Options;
use super::fault::{Fault, nearest};
use super::node::{Key, Node, Value};
use super::scalar::{Scalar, scalar};
use super::well_known::{self, WellKnown};

type Entry<'n> = (Key<'n>, Node<'n>);

pub(super) struct Encoder<'o> {
    pub options: &'o Options,
}

impl Encoder<'_> {
    pub fn message(
        &self,
        desc: &MessageDescriptor,
        node: &Node<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if let Some(known) = WellKnown::of(desc) {
            return well_known::encode(self, known, desc, node, out);
        }
        self.plain_message(desc, node, out)
    }

    /// A message as a map of its fields, also for one that has a text form of its own: Envoy takes
    /// `{seconds: 1}` for a duration and `{value: 3}` for a wrapper.
    pub fn plain_message(
        &self,
        desc: &MessageDescriptor,
        node: &Node<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        match &node.value {
            Value::Map(entries) => self.fields(desc, entries, None, out),
            Value::Null => Ok(()),
            other => {
                let reason = format!("expected a map ({}), found {}", desc.name(), other.kind());
                Err(Fault::new(node.place, reason))
            }
        }
    }

    /// The fields of a message; `except` is a key that is none (`@type` inside an `Any`).
    pub fn fields(
        &self,
        desc: &MessageDescriptor,
        entries: &[Entry<'_>],
        except: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let mut fields = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            if except == Some(&*key.text) {
                continue;
            }
            match find(desc, &key.text) {
                // Null is "not set", except where null is a value.
                Some(field) if node.value == Value::Null && !takes_null(&field) => {}
                Some(field) => fields.push((field, key, node)),
                None if self.options.allow_unknown_fields => {}
                None => return Err(unknown(desc, key)),
            }
        }
        // Stable, so that of a repeated key the last one is the one that counts, as in Envoy.
        fields.sort_by_key(|(field, ..)| field.number());
        one_per_oneof(&fields)?;
        for (i, (field, _, node)) in fields.iter().enumerate() {
            let overridden = fields
                .get(i + 1)
                .is_some_and(|(f, ..)| f.number() == field.number());
            if !overridden {
                self.field(field, node, out)
                    .map_err(|e| e.within(field.name()))?;
            }
        }
        Ok(())
    }

    pub fn field(
        &self,
        field: &FieldDescriptor,
        node: &Node<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if field.is_map() {
            return self.map(field, node, out);
        }
        let kind = field.kind();
        if !field.is_list() {
            return self.one(field, &kind, node, !field.supports_presence(), out);
        }
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            // Envoy takes the one element where a list is expected.
            _ => return self.one(field, &kind, node, false, out),
        };
        let mut items = items
            .iter()
            .enumerate()
            .filter(|(_, item)| item.value != Value::Null || takes_null(field))
            .peekable();
        if field.is_packed() && items.peek().is_some() {
            return delimited(field.number(), out, |out| {
                items.try_for_each(|(i, item)| {
                    scalar(&kind, item)
                        .map(|s| s.write(out))
                        .map_err(|e| e.within_index(i))
                })
            });
        }
        items.try_for_each(|(i, item)| {
            self.one(field, &kind, item, false, out)
                .map_err(|e| e.within_index(i))
        })
    }

    fn one(
        &self,
        field: &FieldDescriptor,
        kind: &Kind,
        node: &Node<'_>,
        skip_default: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if let Kind::Message(desc) = kind {
            if field.is_group() {
                return Err(Fault::new(node.place, "groups have no text form"));
            }
            return delimited(field.number(), out, |out| self.message(desc, node, out));
        }
        let value = scalar(kind, node)?;
        if !(skip_default && value.is_default()) {
            value.write_field(field.number(), out);
        }
        Ok(())
    }

    fn map(
        &self,
        field: &FieldDescriptor,
        node: &Node<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Value::Map(entries) = &node.value else {
            let reason = format!("expected a map, found {}", node.value.kind());
            return Err(Fault::new(node.place, reason));
        };
        let Kind::Message(entry) = field.kind() else {
            return Ok(());
        };
        let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let (key_kind, value_kind) = (key_field.kind(), value_field.kind());
        for (key, value) in sorted(entries) {
            if value.value == Value::Null && !takes_null(&value_field) {
                continue;
            }
            let key_node = Node {
                value: Value::String(key.text.clone()),
                place: key.place,
            };
            delimited(field.number(), out, |out| {
                scalar(&key_kind, &key_node)?.write_field(key_field.number(), out);
                self.one(&value_field, &value_kind, value, false, out)
            })
            .map_err(|e| e.within_key(&key.text))?;
        }
        Ok(())
    }
}

/// Writes a length-delimited field. The length is known only afterwards; it is written behind the
/// content and rotated to its front, which costs less than a buffer per message.
pub(super) fn delimited<E>(
    number: u32,
    out: &mut Vec<u8>,
    content: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    encode_key(number, WireType::LengthDelimited, out);
    let start = out.len();
    content(out)?;
    let end = out.len();
    encode_varint((end - start) as u64, out);
    let width = out.len() - end;
    out[start..].rotate_right(width);
    Ok(())
}

/// The entries of a map by key, of a repeated key the last one: a map has no order, its bytes have.
pub(super) fn sorted<'e, 'n>(entries: &'e [Entry<'n>]) -> Vec<&'e Entry<'n>> {
    let mut sorted: Vec<_> = entries.iter().rev().collect();
    sorted.sort_by(|a, b| a.0.text.cmp(&b.0.text));
    sorted.dedup_by(|a, b| a.0.text == b.0.text);
    sorted
}

/// A field by the name in the schema or by its JSON name; both are in use in real files.
pub(super) fn find(desc: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    desc.get_field_by_name(key)
        .or_else(|| desc.get_field_by_json_name(key))
}

fn unknown(desc: &MessageDescriptor, key: &Key<'_>) -> Fault {
    let fields: Vec<_> = desc.fields().collect();
    Fault::new(key.place, format!("unknown field \"{}\"", key.text))
        .hint(nearest(&key.text, fields.iter().map(FieldDescriptor::name)))
        .within(&key.text)
}

pub(super) fn takes_null(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(desc) => WellKnown::of(&desc) == Some(WellKnown::Value),
        Kind::Enum(desc) => desc.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

/// The last of two members would win silently in the binary form.
fn one_per_oneof(fields: &[(FieldDescriptor, &Key<'_>, &Node<'_>)]) -> Result<(), Fault> {
    let mut seen: Vec<(prost_reflect::OneofDescriptor, &FieldDescriptor)> = Vec::new();
    for (field, key, _) in fields {
        let Some(oneof) = field.containing_oneof() else {
            continue;
        };
        match seen.iter().find(|(o, _)| *o == oneof) {
            Some((_, other)) if other.number() != field.number() => {
                let reason = format!(
                    "\"{}\" and \"{}\" exclude each other (oneof {})",
                    other.name(),
                    field.name(),
                    oneof.name()
                );
                return Err(Fault::new(key.place, reason));
            }
            Some(_) => {}
            None => seen.push((oneof, field)),
        }
    }
    Ok(())
}

impl Scalar<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Varint(v) => encode_varint(*v, out),
            Self::Fixed32(v) => out.extend_from_slice(&v.to_le_bytes()),
            Self::Fixed64(v) => out.extend_from_slice(&v.to_le_bytes()),
            Self::Bytes(v) => {
                encode_varint(v.len() as u64, out);
                out.extend_from_slice(v);
            }
        }
    }

    pub fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        let wire_type = match self {
            Self::Varint(_) => WireType::Varint,
            Self::Fixed32(_) => WireType::ThirtyTwoBit,
            Self::Fixed64(_) => WireType::SixtyFourBit,
            Self::Bytes(_) => WireType::LengthDelimited,
        };
        encode_key(number, wire_type, out);
        self.write(out);
    }
}
