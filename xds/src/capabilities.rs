//! What becomes of each field, found out by trying.
//!
//! Every field of every message in a few small resources is set to something, and the resource is
//! decoded. So the table says what the decoders do, and not what somebody remembers of them.
//!
//! Its limits: a value that is wrong is taken for a sign that the field is read; of a field with an
//! extension inside it says whether one of those in the examples is known.

mod examples;

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value, json};

use crate::descriptor;
use crate::extension::Extensions;
use crate::resource::decode_noting;
use crate::text;
use crate::type_url::{PREFIX, ResourceType, message_name};

/// What becomes of a field that is set. The later ones win where one field has several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// A resource that sets it is rejected.
    Rejected,
    /// Taken without effect.
    Ignored,
    /// Read and followed.
    Supported,
    /// Only these values are taken.
    Partly(Vec<String>),
}

/// Fates by message, then field; messages by the kind of resource they were met in.
pub type Table = BTreeMap<(ResourceType, String), BTreeMap<String, Fate>>;

/// Everything that was found out.
#[derive(Clone, Debug, Default)]
pub struct Capabilities {
    pub fields: Table,
    /// Messages that were met packed into an `Any`, the resources among them.
    pub extensions: BTreeSet<String>,
}

/// Tries every field of the examples.
///
/// # Panics
/// An example is refused: whoever makes a field mandatory adds it to the example.
pub fn find_out(extensions: &dyn Extensions) -> Capabilities {
    let mut found = Capabilities::default();
    for (example, only) in examples::all() {
        let type_url = example["@type"].as_str().unwrap_or_default();
        let kind = ResourceType::from_type_url(type_url).expect("an example is a resource");
        let before = match attempt(&example, extensions) {
            Attempt::Taken(ignored) => ignored,
            Attempt::Refused(reason) => panic!("example of a {kind}: {reason}"),
            Attempt::NotText => panic!("example of a {kind} is no such message"),
        };
        let mut probe = Probe {
            kind,
            example: &example,
            before,
            extensions,
            found: &mut found,
        };
        probe.resource(only);
    }
    found
}

enum Attempt {
    /// With the fields that had no effect.
    Taken(BTreeSet<&'static str>),
    Refused(String),
    /// The value does not fit the field.
    NotText,
}

fn attempt(resource: &Value, extensions: &dyn Extensions) -> Attempt {
    let Ok(any) = text::any_from_value(resource) else {
        return Attempt::NotText;
    };
    match decode_noting(&any, None, extensions) {
        Ok(decoded) => Attempt::Taken(decoded.ignored.into_iter().collect()),
        Err(rejected) => Attempt::Refused(rejected.invalid.reason.to_string()),
    }
}

struct Probe<'a> {
    kind: ResourceType,
    example: &'a Value,
    /// What has no effect in the example as it is.
    before: BTreeSet<&'static str>,
    extensions: &'a dyn Extensions,
    found: &'a mut Capabilities,
}

impl Probe<'_> {
    /// Tries all of the example, or only what is inside one of its fields.
    fn resource(&mut self, only: Option<&str>) {
        let example = self.example;
        let message = descriptor::message(self.kind.message_name());
        let message = message.expect("every resource is described");
        match only {
            None => self.packed(example, String::new(), false),
            Some(name) => {
                let field = message.get_field_by_name(name).expect("a field of it");
                self.inner(&field.kind(), &example[name], format!("/{name}"), false);
            }
        }
    }

    fn packed(&mut self, value: &Value, at: String, idle: bool) {
        let name = message_name(value["@type"].as_str().unwrap_or_default());
        self.found.extensions.insert(name.to_owned());
        if let Some(message) = descriptor::message(name) {
            self.message(&message, value, at, idle);
        }
    }

    /// `idle` when the message is inside one without effect.
    fn message(&mut self, message: &MessageDescriptor, value: &Value, at: String, idle: bool) {
        for field in message.fields() {
            let fate = match self.fate(&field, value, &at) {
                Fate::Supported if idle => Fate::Ignored,
                fate => fate,
            };
            let idle = fate == Fate::Ignored;
            let key = (self.kind, message.full_name().to_owned());
            let fields = self.found.fields.entry(key).or_default();
            let known = fields
                .entry(field.name().to_owned())
                .or_insert(Fate::Rejected);
            *known = known.clone().max(fate);
            let Some(inner) = value.get(field.name()) else {
                continue;
            };
            let at = format!("{at}/{}", field.name());
            match inner {
                Value::Array(items) => {
                    for (index, item) in items.iter().enumerate() {
                        self.inner(&field.kind(), item, format!("{at}/{index}"), idle);
                    }
                }
                Value::Object(entries) if field.is_map() => {
                    let Kind::Message(entry) = field.kind() else {
                        continue;
                    };
                    for (key, item) in entries {
                        let kind = entry.map_entry_value_field().kind();
                        self.inner(&kind, item, format!("{at}/{key}"), idle);
                    }
                }
                one => self.inner(&field.kind(), one, at, idle),
            }
        }
    }

    fn inner(&mut self, kind: &Kind, value: &Value, at: String, idle: bool) {
        match kind {
            Kind::Message(any) if any.full_name() == "google.protobuf.Any" => {
                self.packed(value, at, idle);
            }
            Kind::Message(message) if value.is_object() => self.message(message, value, at, idle),
            _ => {}
        }
    }

    fn fate(&self, field: &FieldDescriptor, message: &Value, at: &str) -> Fate {
        let (mut taken, mut ignored, mut refused) = (Vec::new(), 0, 0);
        // What an example has of its own is there because it is taken.
        if message.get(field.name()).is_some() {
            let listed = format!("{}.{}", field.parent_message().name(), field.name());
            let is_it = |name: &&str| name.strip_suffix(&*listed).is_some_and(is_outer);
            match self.before.iter().any(is_it) {
                true => ignored += 1,
                false => taken.push(String::new()),
            }
        }
        for candidate in candidates(field) {
            let mut resource = self.example.clone();
            let place = resource.pointer_mut(at).and_then(Value::as_object_mut);
            let place = place.expect("the example was walked down to here");
            if let Some(oneof) = field.containing_oneof() {
                let others = oneof.fields().filter(|other| other != field);
                others.for_each(|other| drop(place.shift_remove(other.name())));
            }
            let shown = candidate
                .as_str()
                .map_or(candidate.to_string(), str::to_owned);
            place.insert(field.name().to_owned(), candidate);
            match attempt(&resource, self.extensions) {
                Attempt::NotText => {}
                Attempt::Taken(now) if now.is_subset(&self.before) => taken.push(shown),
                Attempt::Taken(_) => ignored += 1,
                Attempt::Refused(reason) if reason.contains("not supported") => refused += 1,
                // A bad value, which somebody has looked at.
                Attempt::Refused(_) => taken.push(String::new()),
            }
        }
        taken.retain(|value| !value.is_empty() || refused == 0);
        match (taken.is_empty(), ignored, refused) {
            (false, _, 0) => Fate::Supported,
            (false, _, _) => {
                if let Kind::Enum(names) = field.kind() {
                    taken.insert(0, names.default_value().name().to_owned());
                }
                Fate::Partly(taken)
            }
            (true, 1.., _) => Fate::Ignored,
            (true, ..) if message.get(field.name()).is_some() => Fate::Supported,
            (true, ..) => Fate::Rejected,
        }
    }
}

/// Whether it is what may stand before the name of a message in the table of ignored fields.
fn is_outer(before: &str) -> bool {
    before.is_empty() || before.ends_with('.')
}

/// Values to try, none of them the one that is the same as not setting the field.
fn candidates(field: &FieldDescriptor) -> Vec<Value> {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            return Vec::new();
        };
        let values = values(&entry.map_entry_value_field().kind());
        return values
            .into_iter()
            .map(|value| json!({"x": value}))
            .collect();
    }
    let values = values(&field.kind());
    match field.is_list() {
        true => values.into_iter().map(|value| json!([value])).collect(),
        false => values,
    }
}

fn values(kind: &Kind) -> Vec<Value> {
    match kind {
        Kind::Bool => vec![json!(true)],
        Kind::String => vec![json!("x")],
        // Base64 of one byte.
        Kind::Bytes => vec![json!("eA==")],
        Kind::Enum(names) => {
            let named = names.values().filter(|value| value.number() != 0);
            named.map(|value| json!(value.name())).collect()
        }
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Any" => {
                vec![json!({"@type": format!("{PREFIX}google.protobuf.Empty")})]
            }
            "google.protobuf.BoolValue" => vec![json!(true), json!(false)],
            "google.protobuf.Duration" => vec![json!("1s")],
            "google.protobuf.StringValue" => vec![json!("x")],
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
                vec![json!(1), json!(5)]
            }
            _ => vec![json!({})],
        },
        _ => vec![json!(1), json!(5)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extension::Unchecked;

    #[test]
    fn fields_have_the_fate_that_their_decoders_give_them() {
        let found = find_out(&Unchecked);
        let fate = |kind: ResourceType, message: &str, field: &str| {
            let key = (kind, message.to_owned());
            found.fields[&key][field].clone()
        };
        let cluster = |field| {
            fate(
                ResourceType::Cluster,
                "envoy.config.cluster.v3.Cluster",
                field,
            )
        };
        assert_eq!(cluster("connect_timeout"), Fate::Supported);
        assert_eq!(cluster("track_cluster_stats"), Fate::Ignored);
        assert_eq!(cluster("upstream_bind_config"), Fate::Supported);
        assert_eq!(cluster("upstream_config"), Fate::Rejected);
        let Fate::Partly(policies) = cluster("lb_policy") else {
            panic!("some policies are not there")
        };
        assert!(
            policies.contains(&"RANDOM".to_owned())
                && !policies.contains(&"LOAD_BALANCING_POLICY_CONFIG".into())
        );
        assert_eq!(cluster("original_dst_lb_config"), Fate::Supported);
        assert_eq!(cluster("typed_dns_resolver_config"), Fate::Supported);
        let cares = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
        let cares = |field| fate(ResourceType::Cluster, cares, field);
        assert_eq!(cares("query_tries"), Fate::Supported);
        assert_eq!(cares("qcache_max_ttl"), Fate::Ignored);
        let route = |field| {
            let message = "envoy.config.route.v3.RouteAction";
            fate(ResourceType::RouteConfiguration, message, field)
        };
        assert_eq!(route("prefix_rewrite"), Fate::Supported);
        assert_eq!(route("hedge_policy"), Fate::Rejected);
        let listener = |message, field| fate(ResourceType::Listener, message, field);
        let filter = "envoy.config.listener.v3.Filter";
        assert_eq!(listener(filter, "typed_config"), Fate::Supported);
        let proxy = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
        assert_eq!(listener(proxy, "rules"), Fate::Supported);
        assert_eq!(listener(filter, "config_discovery"), Fate::Rejected);
        let own = "envoy.config.listener.v3.Listener";
        assert_eq!(listener(own, "tcp_backlog_size"), Fate::Ignored);
    }
}
