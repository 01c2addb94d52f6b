//! A text as plain values, for whoever finds out from its keys what it holds.

use serde_json::{Map, Number, Value as Json};

use super::node::{Node, Value};
use super::{TextError, json_error, yaml};

/// Reads YAML or JSON without a message to guide it. Comments, anchors and places are gone after.
///
/// # Errors
///
/// [`TextError`] with line and column when the text is neither.
pub fn untyped(text: &str) -> Result<Json, TextError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with(['{', '[']) {
        return match serde_json::from_str(text) {
            Ok(value) => Ok(value),
            // A flow mapping of YAML, or broken JSON, about which the JSON parser knows more.
            Err(error) => yaml::load(text).map_or(Err(json_error(&error)), |node| Ok(plain(node))),
        };
    }
    yaml::load(text).map(plain)
}

fn plain(node: Node<'_>) -> Json {
    match node.value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::Bool(flag),
        Value::Int(number) => Json::Number(number.into()),
        Value::Float(number) => Number::from_f64(number).map_or(Json::Null, Json::Number),
        Value::String(text) => Json::String(text.into_owned()),
        Value::List(items) => Json::Array(items.into_iter().map(plain).collect()),
        Value::Map(entries) => Json::Object(
            entries
                .into_iter()
                .map(|(key, value)| (key.text.into_owned(), plain(value)))
                .collect::<Map<_, _>>(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_give_the_same_values() {
        let yaml = untyped("a: [1, x, true]\nb: {c: null}\n").unwrap();
        let json = untyped(r#"{"a": [1, "x", true], "b": {"c": null}}"#).unwrap();
        assert_eq!(yaml, json);
        assert_eq!(untyped("{a: 1}").unwrap(), serde_json::json!({"a": 1}));
        assert_eq!(untyped("{\"a\": 1").unwrap_err().location, Some((1, 7)));
    }
}
