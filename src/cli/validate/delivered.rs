//! What resources that are delivered cannot refer to: only what a program starts with is static.

use std::collections::BTreeSet;

use causeway_xds::resource::api_source::Target;
use causeway_xds::resource::config_source::Place;
use causeway_xds::resource::{Reference, decode, effective_name};
use causeway_xds::source::Update;
use causeway_xds::type_url::ResourceType;

use super::Verdict;
use crate::filter::registry::Registry;

/// Rejects what refers to a static secret, or asks a cluster of the same set for resources.
pub fn refuse(updates: &[Update], verdicts: &mut [Verdict]) {
    let registry = Registry::default();
    let clusters = updates.iter().filter(|u| u.kind == ResourceType::Cluster);
    let clusters: BTreeSet<String> = clusters
        .flat_map(|update| &update.upserts)
        .filter_map(|any| effective_name(ResourceType::Cluster, any))
        .collect();
    for update in updates {
        for any in &update.upserts {
            let Ok(resource) = decode(any, &registry) else {
                continue;
            };
            let references = resource.references();
            let Some(fault) = references.iter().find_map(|r| fault(r, &clusters)) else {
                continue;
            };
            let of_it = |v: &&mut Verdict| {
                v.kind == update.kind.short() && v.name == resource.name() && v.reason.is_none()
            };
            if let Some(verdict) = verdicts.iter_mut().find(of_it) {
                verdict.reason = Some(fault);
            }
        }
    }
}

fn fault(reference: &Reference, clusters: &BTreeSet<String>) -> Option<String> {
    match &reference.source.place {
        Place::Static => Some(format!(
            "secret {:?} has no source, and a set of resources has no static secrets",
            reference.name
        )),
        Place::Api(source) => source
            .servers
            .iter()
            .find_map(|server| match &server.target {
                Target::Cluster { name, .. } if clusters.contains(name) => Some(format!(
                    "cluster {name:?} is delivered itself: a management server has to be static"
                )),
                _ => None,
            }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::source::{Extent, Origin};
    use causeway_xds::text;
    use serde_json::{Value, json};

    use super::*;

    fn refused(cluster: Value) -> Option<String> {
        let list = [json!({"name": "static"}), cluster];
        let packed = list.map(|mut value| {
            value["@type"] = json!("type.googleapis.com/envoy.config.cluster.v3.Cluster");
            text::any_from_value(&value).unwrap()
        });
        let updates = [Update {
            origin: Origin::File("f".into()),
            kind: ResourceType::Cluster,
            version: String::new(),
            extent: Extent::Incremental,
            upserts: packed.into(),
            listing: None,
            removals: Vec::new(),
        }];
        let mut verdicts = vec![Verdict {
            kind: "cluster".into(),
            name: "c".into(),
            path: String::new(),
            reason: None,
            ignored: Vec::new(),
        }];
        refuse(&updates, &mut verdicts);
        verdicts.remove(0).reason
    }

    fn eds(config: &Value) -> Value {
        json!({"name": "c", "type": "EDS", "eds_cluster_config": {"eds_config": config}})
    }

    fn secret(config: Value) -> Value {
        let mut secret = json!({"name": "ca"});
        if !config.is_null() {
            secret["sds_config"] = config;
        }
        let at = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        json!({"name": "c", "transport_socket": {"name": "tls", "typed_config": {
            "@type": at,
            "common_tls_context": {"validation_context_sds_secret_config": secret},
        }}})
    }

    #[test]
    fn what_is_delivered_refers_to_nothing_static_in_its_own_set() {
        let ads = json!({"resource_api_version": "V3", "ads": {}});
        let api = |name: &str| {
            json!({"resource_api_version": "V3", "api_config_source": {
                "api_type": "GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": name}}],
            }})
        };
        assert_eq!(refused(eds(&ads)), None);
        assert_eq!(refused(eds(&api("of_the_bootstrap"))), None);
        assert!(
            refused(eds(&api("static")))
                .unwrap()
                .contains("\"static\" is delivered itself")
        );
        assert_eq!(refused(secret(ads)), None);
        assert!(
            refused(secret(Value::Null))
                .unwrap()
                .contains("secret \"ca\" has no source")
        );
    }
}
