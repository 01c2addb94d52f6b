//! What the targets share: a store, and resources that go through it.

use std::time::SystemTime;

use causeway::filter::registry::Registry;
use causeway_xds::proto::Any;
use causeway_xds::resource::http_manager::HttpManager;
use causeway_xds::resource::listener::NetworkFilter;
use causeway_xds::resource::{Resource, decode};
use causeway_xds::source::{Batch, Extent, OnRejection, Origin, Update};
use causeway_xds::store::{Applied, ResourceStore};
use causeway_xds::{ResourceType, text};
use serde_json::{Value, json};

/// Delivers resources as a management server would, and checks what holds for every delivery.
pub fn deliver(
    store: &mut ResourceStore,
    kind: ResourceType,
    extent: Extent,
    upserts: Vec<Any>,
    removals: Vec<String>,
) {
    let update = Update {
        origin: Origin::Xds("fuzz".into()),
        kind,
        version: "1".into(),
        extent,
        upserts,
        listing: None,
        removals,
    };
    let applied = apply(store, update.clone());
    // What a NACK is made from.
    for rejected in &applied.rejected {
        assert!(!rejected.to_string().is_empty());
    }
    for (_, name) in applied.changes.added.iter().chain(&applied.changes.changed) {
        assert!(store.get(kind, name).is_some(), "changed and not there");
    }
    for (_, name) in &applied.changes.removed {
        assert!(store.get(kind, name).is_none(), "removed and still there");
    }
    // The same once more is no change, whatever it says.
    let again = apply(store, update);
    assert!(again.changes.is_empty(), "equal content is a change");
    assert_eq!(applied.rejected.len(), again.rejected.len());
    // What the config dump does.
    for (_, entry) in store.entries(kind) {
        if let Some(accepted) = &entry.accepted {
            text::to_value(&accepted.raw.any());
        }
    }
}

fn apply(store: &mut ResourceStore, update: Update) -> Applied {
    let mut batch = Batch {
        updates: vec![update],
        touched: Vec::new(),
        on_rejection: OnRejection::ApplyOthers,
        answer: None,
    };
    store.apply(&mut batch, &Registry::default(), SystemTime::UNIX_EPOCH)
}

/// Connection managers with different rules for heads.
pub fn managers() -> Vec<HttpManager> {
    [
        json!({}),
        json!({ "normalize_path": true, "merge_slashes": true }),
        json!({
            "strip_any_host_port": true,
            "strip_trailing_host_dot": true,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        }),
        json!({
            "strip_matching_host_port": true,
            "normalize_path": true,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "common_http_protocol_options": { "headers_with_underscores_action": "DROP_HEADER" },
        }),
    ]
    .map(|more| manager(&more))
    .into()
}

fn manager(more: &Value) -> HttpManager {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
    let mut config = json!({
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "web",
        "route_config": { "name": "r" },
        "http_filters": [{
            "name": "router",
            "typed_config": { "@type": format!("{FILTERS}.http.router.v3.Router") },
        }],
    });
    for (key, value) in more.as_object().expect("fields") {
        config[key] = value.clone();
    }
    let listener = json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "l",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 1 } },
        "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": config }] }],
    });
    let any = text::any_from_value(&listener).expect("a listener");
    let Ok(Resource::Listener(listener)) = decode(&any, &Registry::default()) else {
        panic!("the listener is good")
    };
    match &listener.filter_chains[0].filter {
        NetworkFilter::Http(manager) => manager.as_ref().clone(),
        _ => panic!("it speaks HTTP"),
    }
}

/// A kind of resource, chosen by the first byte, and the rest.
pub fn kind_and_rest(data: &[u8]) -> Option<(ResourceType, &[u8])> {
    let (first, rest) = data.split_first()?;
    // Seeds begin with a digit, so that they can be read.
    let kind = ResourceType::ALL[usize::from(first.wrapping_sub(b'0')) % ResourceType::ALL.len()];
    Some((kind, rest))
}
