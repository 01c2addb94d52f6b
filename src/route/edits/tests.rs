use causeway_xds::resource::format::{Fact, Format, Part};
use causeway_xds::resource::headers::EditLists;

use super::*;
use crate::formatter::{Key, Value as Found};

/// Knows one header of the request, `x`.
struct Double(HeaderMap);

impl Facts for Double {
    fn request(&self, key: &Key) -> Found<'_> {
        match key {
            Key::Field(name) => Found::header(self.0.get(name)),
            _ => Found::Missing,
        }
    }
    fn fact(&self, _: Fact) -> Found<'_> {
        Found::Missing
    }
    fn start(&self) -> std::time::SystemTime {
        std::time::SystemTime::UNIX_EPOCH
    }
    fn point(&self, _: causeway_xds::resource::format::Point) -> Option<std::time::Duration> {
        None
    }
}

fn edit(name: &str, value: &str, action: AppendAction) -> HeaderEdit {
    let parts = match value.strip_prefix('%') {
        Some(header) => vec![Part::Command {
            operator: causeway_xds::resource::format::Operator::RequestHeader(
                causeway_xds::resource::format::HeaderChoice {
                    name: header.into(),
                    or: String::new(),
                },
            ),
            max: None,
        }],
        None => vec![Part::Text(value.into())],
    };
    HeaderEdit {
        name: name.into(),
        value: Format(parts),
        action,
        keep_empty: false,
    }
}

fn level(edits: Vec<HeaderEdit>) -> Model {
    Model::from(EditLists {
        response_add: edits,
        ..EditLists::default()
    })
}

fn applied(levels: &[Level], headers: &mut HeaderMap) {
    for level in levels {
        if !level.apply_plain(headers) {
            let facts = Double(headers.clone());
            level.evaluate(headers, &facts).apply(headers);
        }
    }
}

fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    let all = headers.get_all(name).iter();
    all.map(|v| v.to_str().unwrap()).collect()
}

#[test]
fn levels_apply_route_first_and_the_last_overwrite_wins() {
    let route = level(vec![edit("x", "route", AppendAction::OverwriteOrAdd)]);
    let host = level(vec![edit("x", "host", AppendAction::OverwriteOrAdd)]);
    let config = level(vec![edit("x", "config", AppendAction::AppendOrAdd)]);
    let of = |most_specific| {
        let levels = [&route, &host, &config].into_iter();
        let edits = HeaderEdits::compile(levels, most_specific);
        let mut headers = HeaderMap::new();
        applied(edits.response_levels(), &mut headers);
        values(&headers, "x").join(",")
    };
    assert_eq!(of(false), "host,config");
    assert_eq!(of(true), "route");
}

#[test]
fn a_later_level_removes_what_an_earlier_one_added() {
    let route = level(vec![edit("x", "route", AppendAction::AppendOrAdd)]);
    let host = Model::from(EditLists {
        response_remove: vec!["x".into()],
        ..EditLists::default()
    });
    let edits = HeaderEdits::compile([&route, &host].into_iter(), false);
    let mut headers = HeaderMap::new();
    applied(edits.response_levels(), &mut headers);
    assert!(headers.is_empty());
}

#[test]
fn the_edits_of_a_level_see_what_was_there_before_it() {
    use AppendAction as A;
    let both = level(vec![
        edit("x", "added", A::AppendOrAdd),
        edit("x", "first", A::OverwriteOrAdd),
        edit("y", "%x", A::OverwriteOrAdd),
        edit("z", "%none", A::OverwriteOrAdd),
        edit("w", "new", A::AddIfAbsent),
        edit("w", "newer", A::AddIfAbsent),
        edit("v", "no", A::OverwriteIfExists),
    ]);
    let edits = HeaderEdits::compile([&both].into_iter(), false);
    let mut headers = HeaderMap::new();
    headers.insert("x", HeaderValue::from_static("old"));
    headers.insert("z", HeaderValue::from_static("kept"));
    applied(edits.response_levels(), &mut headers);
    assert_eq!(values(&headers, "x"), ["first", "added"]);
    assert_eq!(values(&headers, "y"), ["old"]);
    assert_eq!(
        values(&headers, "z"),
        ["kept"],
        "an empty value changes nothing"
    );
    assert_eq!(values(&headers, "w"), ["new", "newer"]);
    assert_eq!(headers.get("v"), None);
}
