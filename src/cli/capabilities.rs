//! `causeway capabilities`: what this build can be told, for programs that write configuration.

use causeway_xds::ResourceType;
use causeway_xds::capabilities::{Capabilities, Fate, find_out};
use serde_json::{Map, Value, json};

use crate::filter::Context;
use crate::filter::registry::Registry;

/// The JSON that is printed.
pub(super) fn document() -> Value {
    let found = find_out(&registry());
    let mut fields: Map<String, Value> = Map::new();
    for ((kind, message), fates) in &found.fields {
        let of_message: Map<String, Value> = fates
            .iter()
            .map(|(field, fate)| (field.clone(), shown(fate)))
            .collect();
        let of_kind = fields.entry(kind.short()).or_insert_with(|| json!({}));
        of_kind[message] = of_message.into();
    }
    json!({
        "version": env!("CAUSEWAY_VERSION"),
        "resource_types": ResourceType::ALL.map(ResourceType::type_url),
        "extensions": {
            "http_filters": Registry::http_filters().collect::<Vec<_>>(),
            "access_loggers": Registry::access_loggers(),
            "others": others(&found),
        },
        "fields": fields,
    })
}

/// Extensions that the program need not know to decode.
fn others(found: &Capabilities) -> Vec<&str> {
    let resource = |name: &str| ResourceType::from_type_url(name).is_some();
    let registered = |name: &str| {
        Registry::http_filters().any(|filter| filter == name)
            || Registry::access_loggers().contains(&name)
    };
    let names = found.extensions.iter().map(String::as_str);
    names.filter(|n| !resource(n) && !registered(n)).collect()
}

fn shown(fate: &Fate) -> Value {
    match fate {
        Fate::Supported => json!("supported"),
        Fate::Ignored => json!("accepted-and-ignored"),
        Fate::Rejected => json!("rejected"),
        Fate::Partly(values) => json!({"supported": values}),
    }
}

fn registry() -> Registry {
    Registry::new(Context {
        any_file: true,
        ..Context::default()
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    const BEGIN: &str = "<!-- begin every field -->\n";
    const END: &str = "<!-- end every field -->\n";

    /// The part between the markers of docs/XDS-SUPPORT.md is what the decoders do.
    /// `UPDATE_GOLDEN=1` writes it anew.
    #[test]
    fn the_support_document_tells_the_fate_of_every_field() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/XDS-SUPPORT.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("the first marker is there");
        let (written, after) = rest.split_once(END).expect("the second marker is there");
        let wanted = tables(&find_out(&registry()));
        if written == wanted {
            return;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
            return;
        }
        let stale = wanted.lines().filter(|l| !written.lines().any(|w| w == *l));
        let stale: Vec<_> = stale.collect();
        panic!(
            "docs/XDS-SUPPORT.md is behind; renew it with UPDATE_GOLDEN=1:\n{}",
            stale.join("\n")
        );
    }

    fn tables(found: &Capabilities) -> String {
        let mut out = String::new();
        let mut heading = None;
        for ((kind, message), fates) in &found.fields {
            if heading != Some(*kind) {
                heading = Some(*kind);
                write!(
                    out,
                    "\n### Fields, by message: {}\n\n| message | supported | some values | without effect | refused |\n|---|---|---|---|---|\n",
                    kind.short().replace('_', " ")
                )
                .unwrap();
            }
            let list = |wanted: fn(&Fate) -> bool| {
                let fields = fates.iter().filter(|(_, fate)| wanted(fate));
                let fields = fields.map(|(field, fate)| match fate {
                    Fate::Partly(values) => format!("`{field}` ({})", values.join(", ")),
                    _ => format!("`{field}`"),
                });
                fields.collect::<Vec<_>>().join(", ")
            };
            writeln!(
                out,
                "| `{message}` | {} | {} | {} | {} |",
                list(|fate| *fate == Fate::Supported),
                list(|fate| matches!(fate, Fate::Partly(_))),
                list(|fate| *fate == Fate::Ignored),
                list(|fate| *fate == Fate::Rejected),
            )
            .unwrap();
        }
        out.push('\n');
        out
    }

    #[test]
    fn the_program_says_what_it_has() {
        let said = document();
        assert_eq!(
            said["fields"]["cluster"]["envoy.config.cluster.v3.Cluster"]["connect_timeout"],
            "supported"
        );
        let filters = said["extensions"]["http_filters"].as_array().unwrap();
        assert!(filters.iter().any(|f| f == "causeway.v1.Access"));
        let others = said["extensions"]["others"].as_array().unwrap();
        let tcp = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
        assert!(others.iter().any(|f| f == tcp));
    }
}
