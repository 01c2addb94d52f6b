//! YAML text -> value tree, reading plain scalars as Envoy's YAML library does: `yes` and `on` are
//! booleans, `0x1F` and `010` are numbers, and a number with a point keeps its text, so that a
//! string field may have it.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::TextError;
use super::node::{Key, Node, Place, Value};

/// How many values aliases may add to a document: enough for any real file, too few for a bomb.
const MAX_ALIASED: usize = 1_000_000;

/// How deep values may nest, aliases included; what handles them later goes down as deep.
const MAX_DEPTH: usize = 128;

/// Reads the first document of a text; an empty text is null.
pub fn load(text: &str) -> Result<Node<'_>, TextError> {
    let options = granit_parser::options! { emit_comments: false };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut loader = Loader {
        parser,
        anchors: HashMap::new(),
        aliased: 0,
        depth: 0,
    };
    loop {
        let (event, span) = loader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(..) => {}
            Event::StreamEnd | Event::DocumentEnd => {
                return Ok(Node {
                    value: Value::Null,
                    place: place(span.start),
                });
            }
            other => return loader.node(other, span).map(|tagged| tagged.node),
        }
    }
}

struct Loader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node<'t>>,
    aliased: usize,
    depth: usize,
}

struct Tagged<'t> {
    node: Node<'t>,
    /// Envoy leaves out a mapping entry whose value has the tag `!ignore`: a place for anchors.
    ignored: bool,
}

impl<'t> Loader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), TextError> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(scan_error(&error)),
            None => Ok((Event::StreamEnd, Span::empty(Marker::default()))),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Tagged<'t>, TextError> {
        let place = place(span.start);
        let (value, anchor, tag) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (scalar(text, style, tag.as_deref()), anchor, tag)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.descend(1, place)?;
                let value = self.list()?;
                self.depth -= 1;
                (value, anchor, tag)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.descend(1, place)?;
                let value = self.map()?;
                self.depth -= 1;
                (value, anchor, tag)
            }
            Event::Alias(anchor) => {
                let node = self.alias(anchor, place)?;
                return Ok(Tagged {
                    node,
                    ignored: false,
                });
            }
            _ => return Err(TextError::at(place, "expected a value")),
        };
        let node = Node { value, place };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let ignored = tag.is_some_and(|tag| tag.handle() == "!" && tag.suffix() == "ignore");
        Ok(Tagged { node, ignored })
    }

    fn descend(&mut self, levels: usize, place: Place) -> Result<(), TextError> {
        self.depth += levels;
        if self.depth > MAX_DEPTH {
            return Err(TextError::at(place, "nested too deeply"));
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Value<'t>, TextError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::List(items));
            }
            items.push(self.node(event, span)?.node);
        }
    }

    fn map(&mut self) -> Result<Value<'t>, TextError> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key_place = place(span.start);
            let text = match event {
                Event::MappingEnd => return Ok(Value::Map(entries)),
                Event::Scalar(text, style, anchor, tag) => {
                    if anchor != 0 {
                        let value = scalar(text.clone(), style, tag.as_deref());
                        self.anchors.insert(
                            anchor,
                            Node {
                                value,
                                place: key_place,
                            },
                        );
                    }
                    text
                }
                Event::Alias(anchor) => match self.alias(anchor, key_place)?.value {
                    Value::String(text) => text,
                    other => return Err(bad_key(key_place, &other)),
                },
                Event::SequenceStart(..) => return Err(bad_key(key_place, &Value::List(vec![]))),
                _ => return Err(bad_key(key_place, &Value::Map(vec![]))),
            };
            let (event, span) = self.next()?;
            let Tagged { node, ignored } = self.node(event, span)?;
            if !ignored {
                entries.push((
                    Key {
                        text,
                        place: key_place,
                    },
                    node,
                ));
            }
        }
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<Node<'t>, TextError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(TextError::at(
                place,
                "an alias inside the value that it stands for",
            ));
        };
        let (size, depth) = measure(node);
        self.aliased += size;
        if self.aliased > MAX_ALIASED {
            return Err(TextError::at(place, "aliases make the document too large"));
        }
        let node = node.clone();
        self.descend(depth, place)?;
        self.depth -= depth;
        Ok(node)
    }
}

fn bad_key(place: Place, value: &Value<'_>) -> TextError {
    TextError::at(
        place,
        format!("a key must be a string, not {}", value.kind()),
    )
}

/// How many values there are in one, and how deep they nest.
fn measure(node: &Node<'_>) -> (usize, usize) {
    let children: &mut dyn Iterator<Item = &Node<'_>> = match &node.value {
        Value::List(items) => &mut items.iter(),
        Value::Map(entries) => &mut entries.iter().map(|(_, value)| value),
        _ => return (1, 0),
    };
    let (size, depth) = children
        .map(measure)
        .fold((0, 0), |(size, depth), (s, d)| (size + s, depth.max(d)));
    (size + 1, depth + 1)
}

fn scalar<'t>(text: Cow<'t, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value<'t> {
    let core = tag.and_then(Tag::core_suffix);
    if style != ScalarStyle::Plain || core == Some("str") {
        return Value::String(text);
    }
    if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    if let Some(value) = boolean(&text) {
        return Value::Bool(value);
    }
    match integer(&text) {
        // Larger ones stay a string, which a 64-bit field reads as well (and so does Envoy).
        Some(value) if i32::try_from(value).is_ok() => Value::Int(value),
        Some(value) => Value::String(value.to_string().into()),
        None => Value::String(text),
    }
}

/// The booleans of YAML 1.1, in the three spellings of each that its library knows.
pub fn boolean(text: &str) -> Option<bool> {
    let first = text.chars().next()?;
    let rest = text.get(first.len_utf8()..)?;
    let lower_rest = rest.chars().all(|c| c.is_ascii_lowercase());
    let upper = text.chars().all(|c| c.is_ascii_uppercase());
    if !(lower_rest || upper) {
        return None;
    }
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "on" => Some(true),
        "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        (16, hex)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, digits)
    } else {
        (10, digits)
    };
    // The parser of the standard library takes a sign of its own.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

fn place(marker: Marker) -> Place {
    Place {
        line: cap(marker.line()),
        column: cap(marker.col() + 1),
    }
}

fn cap(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn scan_error(error: &ScanError) -> TextError {
    TextError::at(place(*error.marker()), error.info())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Value<'_> {
        scalar(text.into(), ScalarStyle::Plain, None)
    }

    #[test]
    fn plain_scalars_mean_what_they_mean_to_envoy() {
        assert_eq!(plain("yes"), Value::Bool(true));
        assert_eq!(plain("OFF"), Value::Bool(false));
        assert_eq!(plain("tRue"), Value::String("tRue".into()));
        assert_eq!(plain("0x8000"), Value::Int(0x8000));
        assert_eq!(plain("-5"), Value::Int(-5));
        assert_eq!(plain("010"), Value::Int(8));
        assert_eq!(plain("089"), Value::String("089".into()));
        assert_eq!(plain("32_768"), Value::String("32_768".into()));
        assert_eq!(plain("4294967296"), Value::String("4294967296".into()));
        assert_eq!(plain("1.20"), Value::String("1.20".into()));
        assert_eq!(plain("--1"), Value::String("--1".into()));
        assert_eq!(plain("~"), Value::Null);
        assert_eq!(
            scalar("yes".into(), ScalarStyle::DoubleQuoted, None),
            Value::String("yes".into())
        );
    }

    #[test]
    fn aliases_are_expanded_and_bounded() {
        let node = load("a: &x {b: 1}\nc: *x\nd: !ignore {e: 1}\n").unwrap();
        let Value::Map(entries) = node.value else {
            panic!("not a map")
        };
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].1.value, entries[1].1.value);

        let mut bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for i in 1..12 {
            let items = vec![format!("*a{}", i - 1); 8].join(", ");
            bomb += &format!("a{i}: &a{i} [{items}]\n");
        }
        assert!(load(&bomb).unwrap_err().reason.contains("too large"));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(load(&nested(MAX_DEPTH)).is_ok());
        assert!(
            load(&nested(MAX_DEPTH + 1))
                .unwrap_err()
                .reason
                .contains("too deeply")
        );
        let inner = nested(100);
        let text = format!("a: &a {inner}\nb: {}*a{}", "[".repeat(100), "]".repeat(100));
        assert!(load(&text).unwrap_err().reason.contains("too deeply"));
    }

    #[test]
    fn faults_have_a_place() {
        let error = load("a: [1, 2\nb: 3\n").unwrap_err();
        assert_eq!(error.location.map(|l| l.0), Some(2), "{error}");
        assert!(
            load("? [a]\n: 1\n")
                .unwrap_err()
                .reason
                .contains("a key must be a string")
        );
        assert_eq!(load("").unwrap().value, Value::Null);
    }
}
