//! JSON text -> bytes of a message, in one pass and without a value tree in between.
//!
//! A file with the routes of a hundred thousand hosts is read again for every change of one of them:
//! most of the time and nearly all of the memory that this took went into the tree. Messages and lists
//! of messages are written as they are read; what is inside of a field of another kind becomes a small
//! tree, for the [`Encoder`] to write. What a field of a name is, is found out once.
//!
//! Anything unusual is left to the way by the tree, faults most of all: that one can tell them well.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{
    Deserialize as _, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};

use super::Options;
use super::encode::{Encoder, delimited, find, takes_null};
use super::node::{Key, Node, Value};
use super::scalar::Scalar;
use super::well_known::{WellKnown, with_prefix};
use crate::descriptor;
use crate::type_url::message_name;

/// The bytes of the message that a JSON text holds; `None` when they are to be had in the other way,
/// or not at all.
pub(super) fn encode(text: &str, desc: &MessageDescriptor, options: &Options) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let known = Known {
        encoder: Encoder { options },
        tables: RefCell::default(),
    };
    let message = Message {
        known: &known,
        shape: known.shape(desc)?,
        out: &mut out,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(message).ok()?;
    json.end().ok()?;
    Some(out)
}

/// What was found out about types of messages.
struct Known<'o> {
    encoder: Encoder<'o>,
    /// By full name.
    tables: RefCell<HashMap<String, Rc<Table>>>,
}

/// The fields of a type that were met so far. They are few.
struct Table {
    desc: MessageDescriptor,
    fields: RefCell<Vec<(Box<str>, Rc<Field>)>>,
}

struct Field {
    desc: FieldDescriptor,
    number: u32,
    /// The position of the group of which only one may be set.
    oneof: Option<usize>,
    takes_null: bool,
    /// Of a message that is written as it is read.
    message: Option<MessageDescriptor>,
    shape: OnceCell<Shape>,
}

#[derive(Clone)]
enum Shape {
    Plain(Rc<Table>),
    Any,
}

impl Known<'_> {
    fn table(&self, desc: &MessageDescriptor) -> Rc<Table> {
        let mut tables = self.tables.borrow_mut();
        if let Some(table) = tables.get(desc.full_name()) {
            return Rc::clone(table);
        }
        let table = Rc::new(Table {
            desc: desc.clone(),
            fields: RefCell::default(),
        });
        tables.insert(desc.full_name().to_owned(), Rc::clone(&table));
        table
    }

    fn shape(&self, desc: &MessageDescriptor) -> Option<Shape> {
        match WellKnown::of(desc) {
            None => Some(Shape::Plain(self.table(desc))),
            Some(WellKnown::Any) => Some(Shape::Any),
            Some(_) => None,
        }
    }
}

impl Table {
    fn field(&self, name: &str) -> Option<Rc<Field>> {
        let mut fields = self.fields.borrow_mut();
        if let Some((_, field)) = fields.iter().find(|(known, _)| **known == *name) {
            return Some(Rc::clone(field));
        }
        let field = Rc::new(Field::of(find(&self.desc, name)?));
        fields.push((name.into(), Rc::clone(&field)));
        Some(field)
    }
}

impl Field {
    fn of(desc: FieldDescriptor) -> Self {
        let streamed = |message: &MessageDescriptor| {
            let kind = WellKnown::of(message);
            !desc.is_map() && !desc.is_group() && matches!(kind, None | Some(WellKnown::Any))
        };
        let message = match desc.kind() {
            Kind::Message(message) => Some(message).filter(streamed),
            _ => None,
        };
        Self {
            number: desc.number(),
            oneof: desc.containing_oneof().and_then(|oneof| {
                let mut all = oneof.parent_message().oneofs();
                all.position(|other| other == oneof)
            }),
            takes_null: takes_null(&desc),
            message,
            shape: OnceCell::new(),
            desc,
        }
    }

    fn shape(&self, known: &Known<'_>) -> Option<Shape> {
        let message = self.message.as_ref()?;
        if let Some(shape) = self.shape.get() {
            return Some(shape.clone());
        }
        let shape = known.shape(message)?;
        Some(self.shape.get_or_init(|| shape).clone())
    }
}

/// For the other way to find.
fn unusual<E: Error>() -> E {
    E::custom("unusual")
}

/// The content of a message.
struct Message<'s> {
    known: &'s Known<'s>,
    shape: Shape,
    out: &'s mut Vec<u8>,
}

impl Message<'_> {
    fn fields<'de, A: MapAccess<'de>>(self, table: &Table, mut map: A) -> Result<(), A::Error> {
        let Self { known, out, .. } = self;
        let start = out.len();
        // Numbers of fields, and where each begins.
        let mut parts: Vec<(u32, usize)> = Vec::new();
        let mut oneofs: Vec<usize> = Vec::new();
        while let Some(Key { text, .. }) = map.next_key()? {
            let field = table.field(&text).ok_or_else(unusual)?;
            let twice = parts.iter().any(|(number, _)| *number == field.number);
            if twice || field.oneof.is_some_and(|oneof| oneofs.contains(&oneof)) {
                return Err(unusual());
            }
            oneofs.extend(field.oneof);
            parts.push((field.number, out.len()));
            map.next_value_seed(Content {
                known,
                field: &field,
                out: &mut *out,
            })?;
        }
        if !parts.is_sorted() {
            sort(&mut parts, start, out);
        }
        Ok(())
    }

    /// The type comes first, as it does when a machine has written the text.
    fn any<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { known, out, .. } = self;
        match map.next_key::<Key<'de>>()? {
            None => return Ok(()),
            Some(key) if key.text == "@type" => {}
            Some(_) => return Err(unusual()),
        }
        let Value::String(url) = map.next_value::<Node<'de>>()?.value else {
            return Err(unusual());
        };
        let desc = descriptor::message(message_name(&url)).ok_or_else(unusual)?;
        let Some(Shape::Plain(table)) = known.shape(&desc) else {
            return Err(unusual());
        };
        Scalar::Bytes(with_prefix(&url).into_bytes().into()).write_field(1, out);
        let before = out.len();
        delimited(2, out, |out| {
            let shape = Shape::Any;
            Message { known, shape, out }.fields(&table, map)
        })?;
        if out.len() == before + 2 {
            out.truncate(before); // an empty value is the default
        }
        Ok(())
    }
}

/// Brings fields into the order of their numbers.
fn sort(parts: &mut [(u32, usize)], start: usize, out: &mut Vec<u8>) {
    let ends = parts.iter().skip(1).map(|(_, begin)| *begin);
    let ends: Vec<usize> = ends.chain([out.len()]).collect();
    let mut ranges: Vec<_> = parts.iter().zip(ends).collect();
    ranges.sort_by_key(|((number, _), _)| *number);
    let mut sorted = Vec::with_capacity(out.len() - start);
    for ((_, begin), end) in ranges {
        sorted.extend_from_slice(&out[*begin..end]);
    }
    out.truncate(start);
    out.extend_from_slice(&sorted);
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        match self.shape.clone() {
            Shape::Plain(table) => self.fields(&table, map),
            Shape::Any => self.any(map),
        }
    }
}

/// What a field holds.
struct Content<'s> {
    known: &'s Known<'s>,
    field: &'s Field,
    out: &'s mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self { known, field, out } = self;
        if let Some(shape) = field.shape(known) {
            let messages = Messages {
                known,
                shape,
                number: field.number,
                is_list: field.desc.is_list(),
                out,
            };
            return messages.deserialize(deserializer);
        }
        let node = Node::deserialize(deserializer)?;
        if node.value == Value::Null && !field.takes_null {
            return Ok(());
        }
        let written = known.encoder.field(&field.desc, &node, out);
        written.map_err(|_| unusual())
    }
}

/// A message or a list of them.
struct Messages<'s> {
    known: &'s Known<'s>,
    shape: Shape,
    number: u32,
    is_list: bool,
    out: &'s mut Vec<u8>,
}

impl<'de> Visitor<'de> for Messages<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    /// Not set, or an element that is left out.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Self { known, shape, .. } = self;
        delimited(self.number, self.out, |out| {
            Message { known, shape, out }.visit_map(map)
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { known, number, .. } = self;
        if !self.is_list {
            return Err(unusual());
        }
        loop {
            let element = Messages {
                known,
                shape: self.shape.clone(),
                number,
                is_list: false,
                out: &mut *self.out,
            };
            if list.next_element_seed(element)?.is_none() {
                return Ok(());
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Messages<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";

    fn by_tree(text: &str, desc: &MessageDescriptor, options: &Options) -> Option<Vec<u8>> {
        let node: Node<'_> = serde_json::from_str(text).ok()?;
        let mut out = Vec::new();
        Encoder { options }.message(desc, &node, &mut out).ok()?;
        Some(out)
    }

    fn both(text: &str) -> [Option<Vec<u8>>; 2] {
        let desc = descriptor::message(RESPONSE).unwrap();
        let options = Options::default();
        [
            encode(text, &desc, &options),
            by_tree(text, &desc, &options),
        ]
    }

    fn routes(rest: &str) -> String {
        format!(
            r#"{{"version_info": "1", "resources": [
                {{"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", {rest}}}]}}"#
        )
    }

    #[test]
    fn bytes_are_those_of_the_other_way() {
        for rest in [
            r#""name": "r""#,
            r#""virtual_hosts": [
                {"domains": ["a", "b"], "name": "v", "routes": [
                    {"route": {"timeout": "1.5s", "cluster": "c"}, "match": {"prefix": "/"}},
                    {"redirect": {"httpsRedirect": true}, "match": {"path": "/x"}, "name": null}
                ]},
                {"name": "w", "domains": "*", "require_tls": "ALL", "metadata": {
                    "filter_metadata": {"b": {"x": [1, "y", null]}, "a": {}}}}
              ], "name": "r", "ignore_port_in_host_matching": "true""#,
            r#""name": "r", "virtual_hosts": {"name": "alone", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "direct_response": {"status": 200,
                    "body": {"inline_string": "\u00fc\n"}}, "typed_per_filter_config": {
                    "f": {"@type": "type.googleapis.com/envoy.config.core.v3.Address",
                        "socket_address": {"port_value": 1, "address": "1.1.1.1"}}}}]}"#,
            r#""validate_clusters": {"value": false}, "name": "r", "virtual_hosts": null"#,
        ] {
            let [streamed, tree] = both(&routes(rest));
            assert!(streamed.is_some(), "{rest}");
            assert_eq!(streamed, tree, "{rest}");
        }
        let [streamed, tree] = both(r#"{"resources": [{}, null], "nonce": ""}"#);
        assert_eq!(streamed, tree);
    }

    #[test]
    fn what_is_unusual_is_left_to_the_other_way() {
        for (rest, fine) in [
            // The last of a repeated key counts.
            (r#""name": "r", "name": "s""#, true),
            (r#""name": "r", "virtual_hosts": [3]"#, false),
            (r#""name": "r", "nobody": 1"#, false),
            (
                r#""virtual_hosts": [{"routes": [{"match": {"path": "a", "prefix": "b"}}]}]"#,
                false,
            ),
        ] {
            let [streamed, tree] = both(&routes(rest));
            assert!(streamed.is_none(), "{rest}");
            assert_eq!(tree.is_some(), fine, "{rest}");
        }
        let late = r#"{"resources": [{"name": "r",
            "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"}]}"#;
        assert!(matches!(both(late), [None, Some(_)]));
        assert!(matches!(both("{} x"), [None, None]));
    }
}
