//! Resources as they come, each alone in an `Any` or in a `Resource` with name, version and time to
//! live around it, to one form. What is wrong here spoils the whole response: it cannot be told
//! what the server meant.

use std::collections::HashSet;
use std::time::Duration;

use prost::DecodeError;

use crate::proto::core::TypedExtensionConfig;
use crate::proto::envoy::service::discovery::v3::Resource;
use crate::proto::{
    Any, Cluster, ClusterLoadAssignment, Listener, Message, RouteConfiguration, Secret, VirtualHost,
};
use crate::type_url::{ResourceType, WRAPPER, message_name};

/// One resource of a response.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// As the server calls it.
    pub(super) name: String,
    /// As the resource calls itself: another one for virtual hosts only, and empty in a heartbeat.
    pub(super) own_name: String,
    /// Of this resource; empty when the response has one for all.
    pub(super) version: String,
    pub(super) ttl: Option<Duration>,
    /// `None` in a heartbeat, which says that the resource lives on.
    pub(super) body: Option<Any>,
}

/// The resources of a response with the state of the world.
///
/// # Errors
/// Why the response is of no use.
pub(super) fn sotw(kind: ResourceType, resources: Vec<Any>) -> Result<Vec<Entry>, String> {
    let entry = |(index, any): (usize, Any)| {
        let entry = if message_name(&any.type_url) == WRAPPER {
            let wrapper = Resource::decode(any.value.as_slice()).map_err(|e| e.to_string());
            wrapper.and_then(|wrapper| wrapped(kind, wrapper))
        } else {
            bare(kind, any)
        };
        entry.map_err(|reason| format!("resources[{index}]: {reason}"))
    };
    let entries = resources.into_iter().enumerate().map(entry);
    once(kind, entries.collect::<Result<_, _>>()?, &[])
}

/// The resources of an incremental response.
///
/// # Errors
/// As [`sotw`].
pub(super) fn delta(
    kind: ResourceType,
    resources: Vec<Resource>,
    removed: &[String],
) -> Result<Vec<Entry>, String> {
    let entry = |(index, wrapper)| {
        wrapped(kind, wrapper).map_err(|reason| format!("resources[{index}]: {reason}"))
    };
    let entries = resources.into_iter().enumerate().map(entry);
    once(kind, entries.collect::<Result<_, _>>()?, removed)
}

fn bare(kind: ResourceType, any: Any) -> Result<Entry, String> {
    let name = own_name(kind, &any)?;
    Ok(Entry {
        own_name: name.clone(),
        name,
        version: String::new(),
        ttl: None,
        body: Some(any),
    })
}

fn wrapped(kind: ResourceType, wrapper: Resource) -> Result<Entry, String> {
    let Resource {
        name,
        version,
        resource,
        ttl,
        ..
    } = wrapper;
    // A time that makes no sense (negative) has run out already.
    let ttl = ttl.map(|ttl| {
        let nanos = u32::try_from(ttl.nanos).unwrap_or(0).min(999_999_999);
        Duration::new(u64::try_from(ttl.seconds).unwrap_or(0), nanos)
    });
    let own_name = match &resource {
        Some(any) => own_name(kind, any)?,
        None if ttl.is_some() && !name.is_empty() => String::new(),
        None => return Err("holds no resource".to_owned()),
    };
    let name = if name.is_empty() {
        own_name.clone()
    } else {
        name
    };
    // Removals and subscriptions use the one name, everything else the other. A virtual host has
    // the route configuration it belongs to before its name.
    if resource.is_some() && name != own_name && kind != ResourceType::VirtualHost {
        return Err(format!("{kind} {own_name:?} is sent as {name:?}"));
    }
    Ok(Entry {
        name,
        own_name,
        version,
        ttl,
        body: resource,
    })
}

/// What the resource calls itself. Reads it in full, as broken bytes are to be found now, and with
/// them the name: it may well be the wrong one.
fn own_name(kind: ResourceType, any: &Any) -> Result<String, String> {
    if message_name(&any.type_url) != kind.message_name() {
        let found = shorten(&any.type_url);
        return Err(format!(
            "is a {found:?} in a response of type {:?}{}",
            kind.type_url(),
            if is_v2(&any.type_url) { V2 } else { "" }
        ));
    }
    let bytes = any.value.as_slice();
    let name: Result<_, DecodeError> = match kind {
        ResourceType::Secret => Secret::decode(bytes).map(|message| message.name),
        ResourceType::Cluster => Cluster::decode(bytes).map(|message| message.name),
        ResourceType::LoadAssignment => {
            ClusterLoadAssignment::decode(bytes).map(|message| message.cluster_name)
        }
        ResourceType::FilterConfig => {
            TypedExtensionConfig::decode(bytes).map(|message| message.name)
        }
        ResourceType::Listener => Listener::decode(bytes).map(|message| message.name),
        ResourceType::RouteConfiguration => {
            RouteConfiguration::decode(bytes).map(|message| message.name)
        }
        ResourceType::VirtualHost => VirtualHost::decode(bytes).map(|message| message.name),
    };
    name.map_err(|error| format!("cannot be read as a {}: {error}", kind.message_name()))
}

/// Refuses a response that says two things about one resource.
fn once(kind: ResourceType, entries: Vec<Entry>, removed: &[String]) -> Result<Vec<Entry>, String> {
    let mut seen: HashSet<&str> = removed.iter().map(String::as_str).collect();
    if let Some(entry) = entries.iter().find(|entry| !seen.insert(&entry.name)) {
        let name = shorten(&entry.name);
        return Err(format!("{kind} {name:?} is named twice"));
    }
    Ok(entries)
}

/// Added to what is said of a type of the transport version before this one.
pub(super) const V2: &str = "; version 2 of the API is not supported, send version 3";

/// Whether a type URL is one of version 2 of the API.
pub(super) fn is_v2(url: &str) -> bool {
    let name = message_name(url);
    name.starts_with("envoy.api.v2.") || (name.starts_with("envoy.") && name.contains(".v2."))
}

/// What a server sent, no longer than a line of a log can take.
pub(super) fn shorten(text: &str) -> &str {
    const LONGEST: usize = 200;
    &text[..text.floor_char_boundary(LONGEST)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_url::pack;

    fn cluster(name: &str) -> Any {
        pack(&Cluster {
            name: name.to_owned(),
            ..Cluster::default()
        })
    }

    fn wrap(name: &str, resource: Option<Any>, ttl: Option<i64>) -> Resource {
        Resource {
            name: name.to_owned(),
            version: "7".to_owned(),
            resource,
            ttl: ttl.map(|seconds| crate::proto::Duration { seconds, nanos: 0 }),
            ..Resource::default()
        }
    }

    fn sotw_fault(resources: Vec<Any>) -> String {
        sotw(ResourceType::Cluster, resources).unwrap_err()
    }

    fn delta_fault(resources: Vec<Resource>, removed: &[String]) -> String {
        delta(ResourceType::Cluster, resources, removed).unwrap_err()
    }

    #[test]
    fn both_forms_become_one() {
        let wrapper = pack(&wrap("b", Some(cluster("b")), Some(2)));
        let entries = sotw(ResourceType::Cluster, vec![cluster("a"), wrapper]).unwrap();
        assert_eq!(entries[0].name, "a");
        assert_eq!(entries[0].body, Some(cluster("a")));
        assert_eq!(entries[0].ttl, None);
        assert_eq!(entries[1].name, "b");
        assert_eq!(entries[1].body, Some(cluster("b")));
        assert_eq!(entries[1].ttl, Some(Duration::from_secs(2)));
        let resources = vec![wrap("", Some(cluster("a")), None), wrap("h", None, Some(2))];
        let entries = delta(ResourceType::Cluster, resources, &["x".to_owned()]).unwrap();
        assert_eq!((&*entries[0].name, &*entries[0].version), ("a", "7"));
        assert_eq!((&*entries[1].name, &entries[1].body), ("h", &None));
        let host = pack(&VirtualHost {
            name: "h".to_owned(),
            ..VirtualHost::default()
        });
        let entries = delta(
            ResourceType::VirtualHost,
            vec![wrap("r/h", Some(host), None)],
            &[],
        );
        assert_eq!(entries.unwrap()[0].name, "r/h");
    }

    #[test]
    fn a_response_that_cannot_be_read_is_refused_in_whole() {
        let broken = |url: &str, value: &[u8]| Any {
            type_url: url.to_owned(),
            value: value.to_vec(),
        };
        let url = ResourceType::Cluster.type_url();
        let fault = sotw_fault(vec![cluster("a"), broken(&url, b"\x0a\xff\xff\xff")]);
        assert!(fault.starts_with("resources[1]: cannot be read as a envoy"));
        // Only a reader of the whole message notices.
        let inner = [b"\x0a\x01a\x22".as_slice(), b"\x02\x0a\x7f"].concat();
        assert!(sotw_fault(vec![broken(&url, &inner)]).contains("resources[0]: cannot be read"));
        let other = ResourceType::Listener.type_url();
        let fault = sotw_fault(vec![broken(&other, b"")]);
        assert!(
            fault.contains("v3.Listener") && fault.contains("v3.Cluster"),
            "{fault}"
        );
        let v2 = "type.googleapis.com/envoy.api.v2.Cluster";
        assert!(sotw_fault(vec![broken(v2, b"")]).contains("send version 3"));
        assert!(sotw_fault(vec![cluster("a"), cluster("a")]).contains("\"a\" is named twice"));
        let resource = || wrap("a", Some(cluster("a")), None);
        assert!(delta_fault(vec![resource()], &["a".to_owned()]).contains("twice"));
        assert!(delta_fault(vec![resource(), resource()], &[]).contains("twice"));
        assert!(delta_fault(vec![wrap("a", None, None)], &[]).contains("holds no resource"));
        assert!(delta_fault(vec![wrap("b", Some(cluster("a")), None)], &[]).contains("sent as"));
    }

    #[test]
    fn types_of_version_2_are_known_as_such() {
        assert!(is_v2("type.googleapis.com/envoy.api.v2.Cluster"));
        assert!(is_v2(
            "type.googleapis.com/envoy.api.v2.ClusterLoadAssignment"
        ));
        assert!(is_v2(
            "type.googleapis.com/envoy.service.discovery.v2.Runtime"
        ));
        for kind in ResourceType::ALL {
            assert!(!is_v2(&kind.type_url()));
        }
    }
}
