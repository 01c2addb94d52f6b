//! Where in a text a field is: for what is only found wrong once the text has become messages.
//!
//! Places are not carried along with messages, which would burden every good resource. The text is
//! kept instead, and read a second time when something in it was refused.

use std::fmt;
use std::sync::Arc;

use super::node::{Node, Place, Value};
use super::yaml;
use crate::type_url::{WRAPPER, message_name};

/// A place in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// What the text is called, where the reader does not know that anyway.
    pub text: Option<Arc<str>>,
    /// From 1, as the column.
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            write!(f, "{text}: ")?;
        }
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A text, or several that were merged in this order, kept to find places in.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    name: Option<Arc<str>>,
    text: String,
}

impl Part {
    fn read(&self) -> Option<Node<'_>> {
        let text = &*self.text;
        yaml::load(text.strip_prefix('\u{feff}').unwrap_or(text)).ok()
    }
}

/// Without the text, which may hold private keys.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.parts.iter().map(|part| &part.name);
        f.debug_list().entries(names).finish()
    }
}

impl Document {
    /// `name` becomes part of every [`Location`].
    pub fn new(name: Option<&str>, text: impl Into<String>) -> Self {
        Self { parts: Vec::new() }.merged(name, text)
    }

    /// With another text merged over it, as [`super::parse_merged`] does.
    #[must_use]
    pub fn merged(mut self, name: Option<&str>, text: impl Into<String>) -> Self {
        self.parts.push(Part {
            name: name.map(Arc::from),
            text: text.into(),
        });
        self
    }

    /// Reads the text; without any nodes if it cannot be read.
    pub fn tree(&self) -> Tree<'_> {
        let nodes: Option<Vec<_>> = self.parts.iter().map(Part::read).collect();
        Tree {
            parts: &self.parts,
            nodes: nodes.unwrap_or_default(),
        }
    }
}

/// A list of resources in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub document: Arc<Document>,
    /// The path of the list.
    pub list: &'static str,
}

impl Listing {
    pub fn new(document: impl Into<Arc<Document>>, list: &'static str) -> Self {
        Self {
            document: document.into(),
            list,
        }
    }
}

/// One resource in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    pub listing: Listing,
    pub index: usize,
}

/// A [`Document`] that was read.
pub struct Tree<'d> {
    parts: &'d [Part],
    /// One for each part, or none at all.
    nodes: Vec<Node<'d>>,
}

/// What a path may stand for: one node of each part at most.
type Spots<'n> = Vec<Spot<'n>>;

#[derive(Clone, Copy)]
struct Spot<'n> {
    part: usize,
    node: &'n Node<'n>,
    /// Of the key, for what has one.
    place: Place,
}

impl Tree<'_> {
    /// The place of the field that `path` names, or of the nearest node around it.
    pub fn locate(&self, path: &str) -> Option<Location> {
        let (spots, _) = walk(self.roots(), path);
        self.location(&spots)
    }

    /// As [`Tree::locate`], for a path inside an element of a list. None if there is no such
    /// element: a place outside of it would mislead.
    pub fn locate_in(&self, list: &str, index: usize, path: &str) -> Option<Location> {
        let (element, whole) = walk(self.roots(), &format!("{list}[{index}]"));
        if !whole {
            return None;
        }
        let element = element.into_iter().map(unwrapped).collect();
        self.location(&walk(element, path).0)
    }

    fn roots(&self) -> Spots<'_> {
        let spot = |(part, node)| Spot {
            part,
            node,
            place: node.place,
        };
        self.nodes.iter().enumerate().map(spot).collect()
    }

    /// Of what was set twice, the later one counts.
    fn location(&self, spots: &[Spot<'_>]) -> Option<Location> {
        spots.last().map(|spot| Location {
            text: self.parts[spot.part].name.clone(),
            line: spot.place.line,
            column: spot.place.column,
        })
    }
}

/// As far down as `path` leads, and whether that is to its end.
fn walk<'n>(mut spots: Spots<'n>, path: &str) -> (Spots<'n>, bool) {
    for step in steps(path) {
        let next = descend(&spots, &step);
        if next.is_empty() {
            return (spots, false);
        }
        spots = next;
    }
    (spots, true)
}

fn descend<'n>(spots: &[Spot<'n>], step: &Step<'_>) -> Spots<'n> {
    match step {
        Step::Index(index) => element(spots, *index).into_iter().collect(),
        Step::Field(name) => entries(spots, |key| is_named(key, name)),
        Step::Key(name) => entries(spots, |key| key == *name),
    }
}

fn entries<'n>(spots: &[Spot<'n>], wanted: impl Fn(&str) -> bool) -> Spots<'n> {
    let entry = |spot: &Spot<'n>| {
        let Value::Map(entries) = &spot.node.value else {
            return None;
        };
        let (key, node) = entries.iter().rev().find(|(key, _)| wanted(&key.text))?;
        Some(Spot {
            part: spot.part,
            node,
            place: key.place,
        })
    };
    spots.iter().filter_map(entry).collect()
}

/// Merging appends lists, null is no element, and one value stands for a list of one.
fn element<'n>(spots: &[Spot<'n>], mut index: usize) -> Option<Spot<'n>> {
    for spot in spots {
        let Value::List(items) = &spot.node.value else {
            if spot.node.value == Value::Null {
                continue;
            }
            if index == 0 {
                return Some(*spot);
            }
            index -= 1;
            continue;
        };
        let mut count = 0;
        for node in items.iter().filter(|item| item.value != Value::Null) {
            if count == index {
                return Some(Spot {
                    part: spot.part,
                    node,
                    place: node.place,
                });
            }
            count += 1;
        }
        index -= count;
    }
    None
}

/// The resource in its wrapper, if it has one: paths begin at the resource.
fn unwrapped(spot: Spot<'_>) -> Spot<'_> {
    let of = |name: &str| entries(&[spot], |key| key == name).pop();
    let is_wrapper = of("@type").is_some_and(
        |t| matches!(&t.node.value, Value::String(url) if message_name(url) == WRAPPER),
    );
    match of("resource") {
        Some(inner) if is_wrapper => inner,
        _ => spot,
    }
}

/// Whether a key means a field: by its name in the schema or by its JSON name.
fn is_named(key: &str, field: &str) -> bool {
    if key == field {
        return true;
    }
    let mut upper = false;
    let mut key = key.chars();
    for c in field.chars() {
        if c == '_' {
            upper = true;
            continue;
        }
        let c = if upper { c.to_ascii_uppercase() } else { c };
        upper = false;
        if key.next() != Some(c) {
            return false;
        }
    }
    key.next().is_none()
}

#[derive(Debug, PartialEq)]
enum Step<'p> {
    Field(&'p str),
    Index(usize),
    Key(&'p str),
}

/// Takes a path apart, up to the first thing in it that is none of a path.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, after) = quoted.split_once("\"]")?;
            rest = after;
            return Some(Step::Key(key));
        }
        if let Some(number) = rest.strip_prefix('[') {
            let (index, after) = number.split_once(']')?;
            rest = after;
            return index.parse().ok().map(Step::Index);
        }
        let name = rest.strip_prefix('.').unwrap_or(rest);
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (field, after) = name.split_at(end);
        rest = after;
        (!field.is_empty()).then_some(Step::Field(field))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
static_resources:
  clusters: {name: single, load_assignment: {endpoints: [{}, null, {priority: 1}]}}
  listeners:
  - name: one
  - name: two
    filterChains:
    - filters:
      - typedConfig:
          "@type": type.googleapis.com/X
          routeConfig:
            virtual_hosts: [{name: v, typed_per_filter_config: {"a.b": {on: 1}}}]
    http2Options: {}
    name: again
"#;

    fn at(tree: &Tree<'_>, path: &str) -> (u32, u32) {
        let location = tree.locate(path).unwrap();
        (location.line, location.column)
    }

    #[test]
    fn the_deepest_node_of_a_path_is_found() {
        let document = Document::new(None, TEXT);
        let tree = document.tree();
        let filter = "static_resources.listeners[1].filter_chains[0].filters[0]";
        let host = format!("{filter}.typed_config.route_config.virtual_hosts[0]");
        for (path, want) in [
            ("static_resources.listeners[0]", (5, 5)),
            ("static_resources.listeners[0].name", (5, 5)),
            // Of a repeated key the last one.
            ("static_resources.listeners[1].name", (14, 5)),
            ("static_resources.listeners[1].http2_options", (13, 5)),
            ("static_resources.listeners[1].address.x", (6, 5)),
            (filter, (9, 9)),
            (&host, (12, 29)),
            (&format!("{host}.name"), (12, 30)),
            (
                &format!("{host}.typed_per_filter_config[\"a.b\"].on"),
                (12, 73),
            ),
            (&format!("{host}.routes[3].match"), (12, 29)),
            // One value for a list; null is no element.
            ("static_resources.clusters[0].name", (3, 14)),
            (
                "static_resources.clusters[0].load_assignment.endpoints[1].priority",
                (3, 69),
            ),
            ("", (2, 1)),
            ("static_resources.listeners[x].name", (4, 3)),
            ("hds_config", (2, 1)),
        ] {
            assert_eq!(at(&tree, path), want, "{path}");
        }
    }

    #[test]
    fn json_has_places_too() {
        let document = Document::new(
            None,
            "\u{feff}{\"resources\": [\n\t{\"name\": 1,\n\t\"b\": {}}]}",
        );
        let tree = document.tree();
        assert_eq!(at(&tree, "resources[0].name"), (2, 3));
        assert_eq!(at(&tree, "resources[0].b.c"), (3, 2));
    }

    #[test]
    fn an_element_that_is_not_there_has_no_place() {
        let document = Document::new(None, "resources: [{name: a}]");
        let tree = document.tree();
        assert!(tree.locate_in("resources", 0, "x.y").is_some());
        assert_eq!(tree.locate_in("resources", 1, "name"), None);
        assert_eq!(Document::new(None, "a: [").tree().locate("a"), None);
    }

    #[test]
    fn a_wrapped_resource_is_looked_into() {
        let text = "resources:\n- '@type': type.googleapis.com/envoy.service.discovery.v3.Resource\n  \
                    name: outer\n  resource:\n    name: inner\n";
        let document = Document::new(Some("x.yaml"), text);
        let found = document.tree().locate_in("resources", 0, "name").unwrap();
        assert_eq!(found.to_string(), "x.yaml: line 5, column 5");
        let found = document.tree().locate_in("resources", 0, "").unwrap();
        assert_eq!(found.line, 4);
    }

    #[test]
    fn merged_texts_append_their_lists_and_the_later_one_counts() {
        let document = Document::new(None, "a:\n  list: [{n: 1}, {n: 2}]\n  one: 1\n  two: 2\n")
            .merged(Some("over"), "a: {list: [{n: 3}], one: 1}");
        let tree = document.tree();
        for (path, want) in [
            ("a.list[1].n", "line 2, column 19"),
            ("a.list[2].n", "over: line 1, column 13"),
            ("a.one", "over: line 1, column 21"),
            ("a.two", "line 4, column 3"),
        ] {
            assert_eq!(tree.locate(path).unwrap().to_string(), want, "{path}");
        }
    }

    #[test]
    fn secrets_do_not_get_into_debug_output() {
        let document = Document::new(Some("x.yaml"), "private_key: hush");
        assert_eq!(format!("{document:?}"), "[Some(\"x.yaml\")]");
    }
}
