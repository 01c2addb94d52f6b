//! Reads resources from files: a folder, a set of all types, a `DiscoveryResponse`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use causeway_xds::proto::{Any, DiscoveryResponse, Message as _};
use causeway_xds::resource::resource_name;
use causeway_xds::source::{Extent, Origin, Update};
use causeway_xds::text;
use causeway_xds::type_url::{PREFIX, ResourceType, message_name};
use serde_json::Value;

use super::Verdict;

/// The lists of a set of resources, with the message they hold. In the order of the store's kinds,
/// then those that no kind is for.
const LISTS: &[(&str, &str)] = &[
    (
        "secrets",
        "envoy.extensions.transport_sockets.tls.v3.Secret",
    ),
    ("clusters", "envoy.config.cluster.v3.Cluster"),
    (
        "endpoints",
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
    ),
    ("listeners", "envoy.config.listener.v3.Listener"),
    ("routes", "envoy.config.route.v3.RouteConfiguration"),
    ("virtual_hosts", "envoy.config.route.v3.VirtualHost"),
    (
        "scoped_routes",
        "envoy.config.route.v3.ScopedRouteConfiguration",
    ),
    ("runtimes", "envoy.service.runtime.v3.Runtime"),
    (
        "extension_configs",
        "envoy.config.core.v3.TypedExtensionConfig",
    ),
];

/// Key for a time to live that a test control plane adds; no field of any resource.
const TTL: &str = "__ttl";

/// What files hold.
#[derive(Debug, Default)]
pub(in crate::cli) struct Resources {
    by_kind: BTreeMap<ResourceType, Vec<Any>>,
    /// What never becomes a resource: text that is no such message, types that nobody knows.
    pub refused: Vec<Verdict>,
}

impl Resources {
    /// Reads a folder (every file of a known suffix in it), a file, or `-` for standard input.
    /// `None` for a file that holds something else, a bootstrap for example.
    pub fn read(target: &Path) -> Result<Option<Self>> {
        if target.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            let mut found = Self::default();
            return match found.add_text("-", &text, None)? {
                true => Ok(Some(found)),
                false => bail!("standard input holds no resources"),
            };
        }
        if target.is_dir() {
            return Self::folder(target).map(Some);
        }
        let mut found = Self::default();
        Ok(found.add_file(target)?.then_some(found))
    }

    fn folder(folder: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read {}", folder.display());
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(unreadable)? {
            paths.push(entry.with_context(unreadable)?.path());
        }
        paths.sort();
        let mut found = Self::default();
        let mut any = false;
        for path in paths {
            let suffix = path
                .extension()
                .and_then(|e| e.to_str())
                .unwrap_or_default();
            if path.is_file() && ["yaml", "yml", "json", "pb"].contains(&suffix) {
                any |= found.add_file(&path)?;
            }
        }
        match any {
            true => Ok(found),
            false => bail!("{} holds no resources", folder.display()),
        }
    }

    /// Whether there were resources in it.
    fn add_file(&mut self, path: &Path) -> Result<bool> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        if path.extension().is_some_and(|e| e == "pb") {
            return Ok(self.add_binary(&bytes));
        }
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return Ok(false);
        };
        let stem = path.file_stem().and_then(|s| s.to_str());
        self.add_text(&path.display().to_string(), text, stem)
    }

    /// A bootstrap has messages where a response has resources, so that one is never the other.
    fn add_binary(&mut self, bytes: &[u8]) -> bool {
        let Ok(response) = DiscoveryResponse::decode(bytes) else {
            return false;
        };
        let packed = |any: &Any| any.type_url.starts_with(PREFIX);
        if response.resources.is_empty() || !response.resources.iter().all(packed) {
            return false;
        }
        response.resources.into_iter().for_each(|any| self.add(any));
        true
    }

    fn add_text(&mut self, file: &str, text: &str, stem: Option<&str>) -> Result<bool> {
        // What is no YAML either may be the worker's TOML: its reader says what is wrong.
        let value = match text::untyped(text) {
            Ok(value) => value,
            Err(_) if stem.is_some() => return Ok(false),
            Err(error) => return Err(anyhow!("{file}: {error}")),
        };
        match value {
            Value::Object(map) if map.contains_key("resources") => {
                self.add_list("", map.get("resources"));
                Ok(true)
            }
            Value::Object(map) if LISTS.iter().any(|(list, _)| map.contains_key(*list)) => {
                let known = |key: &str| LISTS.iter().any(|(list, _)| *list == key);
                if let Some(other) = map.keys().find(|key| !known(key)) {
                    bail!("{file}: {other:?} is no list of resources");
                }
                for (list, message) in LISTS {
                    self.add_list(message, map.get(*list));
                }
                Ok(true)
            }
            // One file for each type, named after its list.
            list @ Value::Array(_) => match LISTS.iter().find(|(list, _)| stem == Some(*list)) {
                Some((_, message)) => {
                    self.add_list(message, Some(&list));
                    Ok(true)
                }
                None => Ok(false),
            },
            _ => Ok(false),
        }
    }

    fn add_list(&mut self, message: &str, list: Option<&Value>) {
        let items = match list {
            None | Some(Value::Null) => return,
            Some(Value::Array(items)) => items.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        for item in items {
            let mut item = item.clone();
            let mut name = String::new();
            let mut kind = message.to_owned();
            if let Value::Object(map) = &mut item {
                map.shift_remove(TTL);
                let named = ["name", "cluster_name", "clusterName"];
                let text = named.iter().find_map(|key| map.get(*key)?.as_str());
                name = text.unwrap_or_default().to_owned();
                let own = map.get("@type").and_then(Value::as_str);
                match own {
                    Some(own) => kind = message_name(own).to_owned(),
                    None => {
                        map.insert("@type".into(), format!("{PREFIX}{message}").into());
                    }
                }
            }
            match text::any_from_value(&item) {
                Ok(any) => self.add(any),
                Err(fault) => self.refused.push(Verdict {
                    kind: short(&kind),
                    name,
                    path: fault.path.clone(),
                    reason: Some(fault.reason),
                    ignored: Vec::new(),
                }),
            }
        }
    }

    fn add(&mut self, any: Any) {
        match ResourceType::from_type_url(&any.type_url) {
            Some(kind) => self.by_kind.entry(kind).or_default().push(any),
            None => self.refused.push(Verdict {
                kind: short(message_name(&any.type_url)),
                name: resource_name(&any).unwrap_or_default(),
                path: String::new(),
                reason: Some("resources of this type are not supported".to_owned()),
                ignored: Vec::new(),
            }),
        }
    }

    /// As a source would deliver them.
    pub fn updates(self) -> Vec<Update> {
        let update = |(kind, upserts)| Update {
            origin: Origin::File("validate".into()),
            kind,
            version: String::new(),
            extent: Extent::Incremental,
            upserts,
            listing: None,
            removals: Vec::new(),
        };
        self.by_kind.into_iter().map(update).collect()
    }
}

/// What messages call a kind of resource; the name of the message itself for one that is no kind.
fn short(message: &str) -> String {
    match ResourceType::from_type_url(message) {
        Some(kind) => kind.short().to_owned(),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, stem: Option<&str>) -> Option<(Vec<String>, Vec<String>)> {
        let mut found = Resources::default();
        if !found.add_text("f", text, stem).unwrap() {
            return None;
        }
        let refused = found.refused.iter();
        let refused = refused.map(|v| format!("{} {} {}", v.kind, v.name, v.path));
        let refused = refused.collect();
        let named = |update: Update| {
            let kind = update.kind;
            let names = update.upserts.into_iter();
            names.map(move |any| format!("{kind} {}", resource_name(&any).unwrap()))
        };
        Some((
            found.updates().into_iter().flat_map(named).collect(),
            refused,
        ))
    }

    #[test]
    fn the_content_tells_what_a_file_holds() {
        let lists = "clusters: [{name: a}, {name: b, __ttl: 2}]\nruntimes: [{name: r}]\n";
        let (taken, refused) = read(lists, Some("snapshot")).unwrap();
        assert_eq!(taken, ["cluster a", "cluster b"]);
        assert_eq!(refused, ["envoy.service.runtime.v3.Runtime r "]);

        let response = r#"{"resources": [
            {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c"}]}"#;
        assert_eq!(read(response, None).unwrap().0, ["cluster c"]);
        assert_eq!(
            read("- name: l\n", Some("listeners")).unwrap().0,
            ["listener l"]
        );

        let (taken, refused) = read("clusters: {name: c, typ: EDS}\n", None).unwrap();
        assert!(taken.is_empty());
        assert_eq!(refused, ["cluster c typ"]);

        for other in [
            "static_resources: {clusters: []}\n",
            "[proxy_worker]\nid = 1\n",
        ] {
            assert_eq!(read(other, Some("f")), None, "{other}");
        }
    }
}
