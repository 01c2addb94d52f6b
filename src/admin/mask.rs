//! Field masks over JSON: `bootstrap.node.id,last_updated`.

use serde_json::{Map, Value};

/// What of `value` the mask names. Lists are looked into, "@type" always stays.
pub fn apply(mask: &str, value: &Value) -> Value {
    let paths: Vec<Vec<&str>> = mask
        .split(',')
        .map(|path| path.trim().split('.').collect())
        .collect();
    let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
    keep(&paths, value)
}

fn keep(paths: &[&[&str]], value: &Value) -> Value {
    // A path that ends here wants all of it.
    if paths.iter().any(|path| path.is_empty()) {
        return value.clone();
    }
    match value {
        Value::Array(items) => items.iter().map(|item| keep(paths, item)).collect(),
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (name, field) in fields {
                let below: Vec<&[&str]> = paths
                    .iter()
                    .filter(|path| path.first() == Some(&name.as_str()))
                    .map(|path| &path[1..])
                    .collect();
                if name == "@type" {
                    kept.insert(name.clone(), field.clone());
                } else if !below.is_empty() {
                    kept.insert(name.clone(), keep(&below, field));
                }
            }
            Value::Object(kept)
        }
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mask_keeps_what_it_names() {
        let value = json!({"@type": "t", "a": {"b": 1, "c": [{"d": 2, "e": 3}]}, "f": 4});
        assert_eq!(
            apply("a.c.d, f", &value),
            json!({"@type": "t", "a": {"c": [{"d": 2}]}, "f": 4})
        );
        assert_eq!(apply("a", &value), json!({"@type": "t", "a": value["a"]}));
        assert_eq!(apply("", &value), json!({"@type": "t"}));
    }
}
