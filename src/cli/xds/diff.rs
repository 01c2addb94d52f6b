//! `causeway xds diff`: how two sets of resources differ.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use causeway_xds::ResourceType;
use causeway_xds::resource::effective_name;
use causeway_xds::text;
use serde_json::Value;

use crate::cli::validate::resources::Resources;

type Set = BTreeMap<(ResourceType, String), Value>;

/// Prints what the second has otherwise than the first, a line for each resource and each field.
/// Returns whether there is any such thing.
pub(crate) fn run(first: &Path, second: &Path) -> Result<bool> {
    let lines = differences(&read(first)?, &read(second)?);
    for line in &lines {
        println!("{line}");
    }
    Ok(!lines.is_empty())
}

fn read(path: &Path) -> Result<Set> {
    let Some(found) = Resources::read(path)? else {
        bail!("{} holds no resources", path.display());
    };
    if let Some(refused) = found.refused.first() {
        let reason = refused.reason.as_deref().unwrap_or_default();
        bail!("{}: {}: {reason}", path.display(), refused.name);
    }
    let mut set = Set::new();
    for update in found.updates() {
        for any in &update.upserts {
            let name = effective_name(update.kind, any).unwrap_or_default();
            set.insert((update.kind, name), text::to_value(any));
        }
    }
    Ok(set)
}

fn differences(first: &Set, second: &Set) -> Vec<String> {
    let mut keys: Vec<_> = first.keys().chain(second.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut lines = Vec::new();
    for key @ (kind, name) in keys {
        match (first.get(key), second.get(key)) {
            (Some(_), None) => lines.push(format!("- {kind} {name:?}")),
            (None, Some(_)) => lines.push(format!("+ {kind} {name:?}")),
            (Some(old), Some(new)) if old != new => {
                lines.push(format!("~ {kind} {name:?}"));
                fields("", old, new, &mut lines);
            }
            _ => {}
        }
    }
    lines
}

fn fields(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                let (old, new) = (old.get(name), new.get(name));
                let (old, new) = (old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null));
                fields(&path, old, new, lines);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                fields(&format!("{path}[{i}]"), old, new, lines);
            }
        }
        _ if old == new => {}
        _ => lines.push(format!("    {path}: {old} -> {new}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn additions_removals_and_changed_fields_are_told() {
        let of = |entries: &[(&str, Value)]| -> Set {
            let key = |name: &str| (ResourceType::Cluster, name.to_owned());
            entries.iter().map(|(n, v)| (key(n), v.clone())).collect()
        };
        let first = of(&[
            ("a", json!({"x": {"y": [1, 2]}, "same": true})),
            ("b", json!({})),
        ]);
        let second = of(&[
            ("a", json!({"x": {"y": [1, 3]}, "same": true, "new": "n"})),
            ("c", json!({})),
        ]);
        let expected = [
            "~ cluster \"a\"",
            "    new: null -> \"n\"",
            "    x.y[1]: 2 -> 3",
            "- cluster \"b\"",
            "+ cluster \"c\"",
        ];
        assert_eq!(differences(&first, &second), expected);
        assert!(differences(&first, &first).is_empty());
    }
}
