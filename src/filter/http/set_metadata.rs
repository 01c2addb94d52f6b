//! `envoy.filters.http.set_metadata`: dynamic metadata that is the same for all requests.
//!
//! Configuration: `envoy.extensions.filters.http.set_metadata.v3.Config`. What is there already is
//! added to, objects within objects and lists at their end, where `allow_overwrite` says so; else a
//! namespace that somebody has used stays as it is.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::set_metadata::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::{self, each, not_empty, required};

use super::super::registry::{Context, decode};
use super::super::{Factory, Flow, HttpFilter, Stream, StreamState};
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.set_metadata.v3.Config",
    name: "envoy.filters.http.set_metadata",
    build,
    per_route: &[],
};

#[derive(Debug)]
struct SetMetadata {
    entries: Vec<Entry>,
    denied: Arc<Counter>,
}

#[derive(Debug)]
struct Entry {
    namespace: String,
    fields: Vec<(String, MetadataValue)>,
    overwrite: bool,
}

impl Entry {
    fn of(namespace: String, value: MetadataValue, overwrite: bool) -> Self {
        let fields = match value {
            MetadataValue::Object(fields) => fields,
            _ => Vec::new(),
        };
        Self {
            namespace,
            fields,
            overwrite,
        }
    }

    fn decode(message: proto::Metadata) -> Result<Self, Invalid> {
        let proto::Metadata {
            metadata_namespace,
            allow_overwrite,
            value,
            typed_value,
        } = message;
        if typed_value.is_some() {
            return Err(Invalid::at("typed_value", "not supported yet"));
        }
        let namespace = not_empty(metadata_namespace, "metadata_namespace")?;
        let value = parts::metadata_value(required(value, "value")?);
        Ok(Self::of(namespace, value, allow_overwrite))
    }

    /// Whether it may.
    fn set(&self, state: &StreamState) -> bool {
        let there = state.metadata(&self.namespace);
        if there.is_some() && !self.overwrite {
            return false;
        }
        for (key, value) in &self.fields {
            let old = there
                .as_ref()
                .and_then(|v| v.get(std::slice::from_ref(key)));
            let value = match old {
                Some(old) => merged(old, value),
                None => value.clone(),
            };
            state.set_metadata(&self.namespace, key, value);
        }
        true
    }
}

fn merged(old: &MetadataValue, new: &MetadataValue) -> MetadataValue {
    match (old, new) {
        (MetadataValue::Object(old), MetadataValue::Object(new)) => {
            let mut fields = old.clone();
            for (key, value) in new {
                match fields.iter_mut().find(|(name, _)| name == key) {
                    Some((_, there)) => *there = merged(there, value),
                    None => fields.push((key.clone(), value.clone())),
                }
            }
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            MetadataValue::Object(fields)
        }
        (MetadataValue::List(old), MetadataValue::List(new)) => {
            MetadataValue::List(old.iter().chain(new).cloned().collect())
        }
        (_, new) => new.clone(),
    }
}

#[expect(deprecated, reason = "older spellings that are still sent")]
fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::Config {
        metadata_namespace,
        value,
        metadata,
    } = decode(config)?;
    let mut entries = each("metadata", metadata, Entry::decode)?;
    if let Some(value) = value {
        let namespace = not_empty(metadata_namespace, "metadata_namespace")?;
        let value = parts::metadata_value(value);
        entries.insert(0, Entry::of(namespace, value, true));
    }
    Ok(Arc::new(SetMetadata {
        entries,
        denied: context.counter("set_metadata.overwrite_denied"),
    }))
}

impl HttpFilter for SetMetadata {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        for entry in &self.entries {
            if !entry.set(stream.state()) {
                self.denied.inc();
            }
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(fields: &[(&str, MetadataValue)]) -> MetadataValue {
        let fields = fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
        MetadataValue::Object(fields.collect())
    }

    #[test]
    fn what_is_there_is_added_to_if_it_may_be() {
        let n = MetadataValue::Number;
        let state = StreamState::default();
        let set =
            |value: MetadataValue, overwrite| Entry::of("n".into(), value, overwrite).set(&state);
        let list = |items: &[f64]| MetadataValue::List(items.iter().map(|i| n(*i)).collect());
        let inner = object(&[("a", n(1.0)), ("l", list(&[1.0]))]);
        assert!(set(object(&[("o", inner), ("x", n(1.0))]), false));
        assert!(!set(object(&[("x", n(9.0))]), false));
        let inner = object(&[("b", n(2.0)), ("l", list(&[2.0]))]);
        assert!(set(object(&[("o", inner), ("x", n(3.0))]), true));
        let inner = object(&[("a", n(1.0)), ("b", n(2.0)), ("l", list(&[1.0, 2.0]))]);
        let expected = object(&[("o", inner), ("x", n(3.0))]);
        assert_eq!(state.metadata("n").as_deref(), Some(&expected));
    }
}
