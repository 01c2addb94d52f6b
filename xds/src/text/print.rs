//! Message -> JSON, for dumps: names as in the schema, defaults left out, every `Any` expanded,
//! secrets redacted.

use std::collections::HashSet;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Field,
};
use serde_json::{Map, Value, json};

use super::well_known::WellKnown;
use crate::descriptor;
use crate::proto::{Any, Message};
use crate::type_url::message_name;

const REDACTED: &str = "[redacted]";

/// The option with which the schema marks a secret.
const SENSITIVE: &str = "udpa.annotations.sensitive";

/// An `Any` as an object with "@type". A type that the program does not know, or bytes that are
/// not of that type, come out as base64 under "value".
pub fn to_value(any: &Any) -> Value {
    any_parts(&any.type_url, &any.value, Redact::Marked)
}

/// A message of the given full name. Null when there is no such message, which a caller that
/// names the type of its own argument cannot meet.
pub fn message_to_value<M: Message>(message: &M, name: &str) -> Value {
    descriptor::message(name)
        .and_then(|desc| DynamicMessage::decode(desc, message.encode_to_vec().as_slice()).ok())
        .map_or(Value::Null, |m| print(&m, Redact::Marked))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Redact {
    /// Only the fields that are marked.
    Marked,
    /// Everything below a marked field.
    All,
}

fn any_parts(type_url: &str, value: &[u8], redact: Redact) -> Value {
    let mut object = Map::new();
    if type_url.is_empty() && value.is_empty() {
        return Value::Object(object);
    }
    object.insert("@type".to_owned(), json!(type_url));
    let message = descriptor::message(message_name(type_url))
        .and_then(|desc| DynamicMessage::decode(desc, value).ok());
    match message {
        None if redact == Redact::All => {
            object.insert("value".to_owned(), json!(REDACTED));
        }
        None => {
            object.insert("value".to_owned(), json!(STANDARD.encode(value)));
        }
        Some(message) if WellKnown::of(&descriptor_of(&message)).is_some() => {
            object.insert("value".to_owned(), print(&message, redact));
        }
        Some(message) => fields(&message, redact, &mut object),
    }
    Value::Object(object)
}

fn descriptor_of(message: &DynamicMessage) -> MessageDescriptor {
    prost_reflect::ReflectMessage::descriptor(message)
}

fn print(message: &DynamicMessage, redact: Redact) -> Value {
    match WellKnown::of(&descriptor_of(message)) {
        None => {
            let mut object = Map::new();
            fields(message, redact, &mut object);
            Value::Object(object)
        }
        Some(WellKnown::Any) => {
            let url = message.get_field_by_name("type_url");
            let value = message.get_field_by_name("value");
            let url = url.as_ref().and_then(|f| f.as_str()).unwrap_or_default();
            let value = value.as_ref().and_then(|f| f.as_bytes());
            any_parts(url, value.map_or(&[], |b| b), redact)
        }
        Some(_) if redact == Redact::All => json!(REDACTED),
        // The library knows these forms; a time out of range has none.
        Some(_) => serde_json::to_value(message).unwrap_or(Value::Null),
    }
}

fn fields(message: &DynamicMessage, redact: Redact, object: &mut Map<String, Value>) {
    for (field, value) in message.fields() {
        if redact == Redact::All && reference(&field) {
            object.insert(
                field.name().to_owned(),
                one(&field.kind(), value, Redact::Marked),
            );
            continue;
        }
        let redact = if sensitive(&field) {
            Redact::All
        } else {
            redact
        };
        object.insert(field.name().to_owned(), any_field(&field, value, redact));
    }
}

/// Says where a secret is and not what it is, which is what a reader of a dump wants to know.
fn reference(field: &FieldDescriptor) -> bool {
    field.parent_message().full_name() == "envoy.config.core.v3.DataSource"
        && matches!(field.name(), "filename" | "environment_variable")
}

fn any_field(field: &FieldDescriptor, value: &Field, redact: Redact) -> Value {
    let kind = field.kind();
    match value {
        Field::List(items) => items.iter().map(|item| one(&kind, item, redact)).collect(),
        Field::Map(entries) => {
            let Kind::Message(entry) = kind else {
                return Value::Null;
            };
            let kind = entry.map_entry_value_field().kind();
            let mut entries: Vec<_> = entries
                .iter()
                .map(|(k, v)| (key(k), one(&kind, v, redact)))
                .collect();
            // A dump is compared with the one before; a hash map has no order.
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        single => one(&kind, single, redact),
    }
}

fn key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(k) => k.to_string(),
        MapKey::I32(k) => k.to_string(),
        MapKey::I64(k) => k.to_string(),
        MapKey::U32(k) => k.to_string(),
        MapKey::U64(k) => k.to_string(),
        MapKey::String(k) => k.clone(),
    }
}

fn one(kind: &Kind, value: &Field, redact: Redact) -> Value {
    match value {
        Field::Message(message) => print(message, redact),
        Field::String(_) | Field::Bytes(_) if redact == Redact::All => json!(REDACTED),
        Field::String(v) => json!(v),
        Field::Bytes(v) => json!(STANDARD.encode(v)),
        Field::Bool(v) => json!(v),
        Field::I32(v) => json!(v),
        Field::U32(v) => json!(v),
        // As proto3 JSON has them: a reader with doubles for numbers would round them.
        Field::I64(v) => json!(v.to_string()),
        Field::U64(v) => json!(v.to_string()),
        Field::F32(v) => float(f64::from(*v), v.to_string()),
        Field::F64(v) => float(*v, v.to_string()),
        Field::EnumNumber(number) => match kind {
            Kind::Enum(desc) => desc
                .get_value(*number)
                .map_or_else(|| json!(number), |v| json!(v.name())),
            _ => json!(number),
        },
        Field::List(_) | Field::Map(_) => Value::Null,
    }
}

/// By way of the shortest text, so that 0.1 stays 0.1 when it was a 32-bit number.
fn float(value: f64, text: String) -> Value {
    match value {
        v if v.is_nan() => json!("NaN"),
        f64::INFINITY => json!("Infinity"),
        f64::NEG_INFINITY => json!("-Infinity"),
        v => json!(text.parse::<f64>().unwrap_or(v)),
    }
}

fn sensitive(field: &FieldDescriptor) -> bool {
    static NAMES: OnceLock<HashSet<String>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let pool = descriptor::pool();
        let Some(option) = pool.get_extension_by_name(SENSITIVE) else {
            return HashSet::new();
        };
        let fields = pool
            .all_messages()
            .flat_map(|m| m.fields().collect::<Vec<_>>());
        let marked = fields
            .filter(|f| f.options().get_extension(&option).as_bool() == Some(true))
            .map(|f| f.full_name().to_owned());
        marked.collect()
    });
    names.contains(field.full_name())
}
