//! `/config_dump`: every resource with its version, where it came from, and whether it is in use.
//!
//! The shape is Envoy's (`envoy.admin.v3`); ours are the fields `origin`, `active_since` (a
//! generation), `warming_for`. Secrets are redacted where messages are printed.

use std::collections::HashMap;

use axum::extract::{Query, State};
use axum::response::Response;
use causeway_xds::ResourceType;
use causeway_xds::source::Origin;
use causeway_xds::text;
use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{AdminState, mask, reply};
use crate::control::{Pipeline, Rejection, ResourceStatus, Version};
use crate::util::time::timestamp;

type Params = Query<HashMap<String, String>>;

const PREFIX: &str = "type.googleapis.com/envoy.admin.v3.";

pub async fn config_dump(State(state): State<AdminState>, Query(params): Params) -> Response {
    let name = params.get("name_regex").filter(|p| !p.is_empty());
    let name = match name.map(|p| Regex::new(p)).transpose() {
        Ok(name) => name,
        Err(e) => {
            let text = format!("Error while parsing name_regex: {e}\n");
            return reply::refused(StatusCode::BAD_REQUEST, text);
        }
    };
    // Cheap on the control task: messages are shared. Printing them is not, and happens here.
    let look = |pipeline: &Pipeline| ResourceType::ALL.map(|kind| pipeline.resources(kind));
    let Ok(all) = state.control.query(look).await else {
        return reply::stopped();
    };
    reply::off_thread(move || {
        let dump = Dump::new(all, name.as_ref());
        answer(&state, &dump, &params)
    })
    .await
}

fn answer(state: &AdminState, dump: &Dump, params: &HashMap<String, String>) -> Response {
    let masked = |value: Value| match params.get("mask").filter(|m| !m.is_empty()) {
        Some(paths) => mask::apply(paths, &value),
        None => value,
    };
    let include_eds = params.contains_key("include_eds");
    let Some(resource) = params.get("resource").filter(|r| !r.is_empty()) else {
        let configs = dump.sections(state, include_eds).into_iter().map(masked);
        return reply::json_pretty(&json!({"configs": configs.collect::<Vec<_>>()}));
    };
    let sections = dump.sections(state, true);
    let mut found = sections.iter().filter_map(|section| {
        let section_type = section["@type"].as_str().unwrap_or_default();
        let value = section.get(resource)?;
        Some((section_type, value))
    });
    let configs: Vec<Value> = match found.next() {
        Some((section, Value::Array(items))) => {
            let inner = format!("{section}.{}", element_type(resource));
            items
                .iter()
                .map(|item| masked(with_type(&inner, item)))
                .collect()
        }
        Some((_, single)) => vec![masked(with_type(
            "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap",
            single,
        ))],
        None if LISTS.iter().any(|(list, _)| list == resource) => vec![],
        None => {
            let text = format!("{resource} not found in config dump\n");
            return reply::refused(StatusCode::NOT_FOUND, text);
        }
    };
    reply::json_pretty(&json!({ "configs": configs }))
}

/// The lists of all sections, with the message name of their elements.
const LISTS: [(&str, &str); 13] = [
    ("static_clusters", "StaticCluster"),
    ("dynamic_active_clusters", "DynamicCluster"),
    ("dynamic_warming_clusters", "DynamicCluster"),
    ("static_endpoint_configs", "StaticEndpointConfig"),
    ("dynamic_endpoint_configs", "DynamicEndpointConfig"),
    ("static_listeners", "StaticListener"),
    ("dynamic_listeners", "DynamicListener"),
    ("static_route_configs", "StaticRouteConfig"),
    ("dynamic_route_configs", "DynamicRouteConfig"),
    ("static_secrets", "StaticSecret"),
    ("dynamic_active_secrets", "DynamicSecret"),
    ("dynamic_virtual_hosts", "DynamicVirtualHost"),
    ("ecds_filters", "EcdsFilterConfig"),
];

fn element_type(list: &str) -> &'static str {
    let found = LISTS.iter().find(|(name, _)| *name == list);
    found.map_or("", |(_, message)| message)
}

fn with_type(message: &str, value: &Value) -> Value {
    let mut object = Map::new();
    object.insert("@type".to_owned(), json!(message));
    object.extend(value.as_object().cloned().unwrap_or_default());
    Value::Object(object)
}

struct Dump {
    by_kind: HashMap<ResourceType, Vec<ResourceStatus>>,
}

impl Dump {
    fn new(all: [Vec<ResourceStatus>; ResourceType::ALL.len()], name: Option<&Regex>) -> Self {
        let wanted = |r: &ResourceStatus| name.is_none_or(|n| n.is_match(&r.name));
        let kinds = ResourceType::ALL.into_iter().zip(all);
        let by_kind = kinds.map(|(kind, mut list)| {
            list.retain(wanted);
            (kind, list)
        });
        Self {
            by_kind: by_kind.collect(),
        }
    }

    fn of(&self, kind: ResourceType) -> impl Iterator<Item = &ResourceStatus> {
        self.by_kind.get(&kind).into_iter().flatten()
    }

    /// In the order in which Envoy has them.
    fn sections(&self, state: &AdminState, include_eds: bool) -> Vec<Value> {
        let bootstrap = state.bootstrap.as_ref().map(|b| &b.message);
        let name = "envoy.config.bootstrap.v3.Bootstrap";
        let mut sections = vec![json!({
            "@type": format!("{PREFIX}BootstrapConfigDump"),
            "bootstrap": bootstrap.map_or_else(|| json!({}), |b| text::message_to_value(b, name)),
        })];
        sections.push(self.clusters());
        if include_eds {
            sections.push(self.flat(
                "EndpointsConfigDump",
                ResourceType::LoadAssignment,
                ["static_endpoint_configs", "dynamic_endpoint_configs"],
                "endpoint_config",
            ));
        }
        let filters = self.flat(
            "EcdsConfigDump",
            ResourceType::FilterConfig,
            ["ecds_filters", "ecds_filters"],
            "ecds_filter",
        );
        if filters.as_object().is_some_and(|o| o.len() > 1) {
            sections.push(filters);
        }
        sections.push(self.listeners());
        sections.push(json!({"@type": format!("{PREFIX}ScopedRoutesConfigDump")}));
        sections.push(self.routes());
        sections.push(self.flat(
            "SecretsConfigDump",
            ResourceType::Secret,
            ["static_secrets", "dynamic_active_secrets"],
            "secret",
        ));
        let hosts = self.flat(
            "VirtualHostsConfigDump",
            ResourceType::VirtualHost,
            ["static_virtual_hosts", "dynamic_virtual_hosts"],
            "virtual_host",
        );
        // A section of ours, so only when there is something in it.
        if hosts.as_object().is_some_and(|o| o.len() > 1) {
            sections.push(hosts);
        }
        sections
    }

    fn clusters(&self) -> Value {
        let mut section = Section::new("ClustersConfigDump");
        for status in self.of(ResourceType::Cluster) {
            if is_static(status) && status.warming_for.is_empty() {
                section.push("static_clusters", resource(status, "cluster"));
                continue;
            }
            if let Some(earlier) = &status.earlier {
                let mut value = version(earlier, "cluster");
                value["name"] = json!(status.name);
                section.push("dynamic_active_clusters", value);
            }
            let list = if status.warming_for.is_empty() {
                "dynamic_active_clusters"
            } else {
                "dynamic_warming_clusters"
            };
            section.push(list, resource(status, "cluster"));
        }
        section.finish()
    }

    fn listeners(&self) -> Value {
        let mut section = Section::new("ListenersConfigDump");
        for status in self.of(ResourceType::Listener) {
            if is_static(status) && status.warming_for.is_empty() {
                section.push("static_listeners", resource(status, "listener"));
                continue;
            }
            let mut value = json!({"name": status.name});
            if let Some(accepted) = &status.accepted {
                let mut state = version(accepted, "listener");
                if status.warming_for.is_empty() {
                    state["active_since"] = json!(status.active_since);
                    value["active_state"] = state;
                } else {
                    state["warming_for"] = json!(status.warming_for);
                    value["warming_state"] = state;
                }
            }
            if let Some(earlier) = &status.earlier {
                value["active_state"] = version(earlier, "listener");
            }
            note_error(&mut value, status.rejected.as_ref());
            section.push("dynamic_listeners", value);
        }
        section.finish()
    }

    fn routes(&self) -> Value {
        let mut section = Section::new("RoutesConfigDump");
        for status in self.of(ResourceType::Listener) {
            for mut config in inline_routes(status) {
                config["version_info"] = json!("");
                section.push("static_route_configs", config);
            }
        }
        for status in self.of(ResourceType::RouteConfiguration) {
            section.push("dynamic_route_configs", resource(status, "route_config"));
        }
        section.finish()
    }

    /// A section of a kind that never waits.
    fn flat(&self, dump: &str, kind: ResourceType, lists: [&'static str; 2], field: &str) -> Value {
        let mut section = Section::new(dump);
        for status in self.of(kind) {
            let list = lists[usize::from(!is_static(status))];
            section.push(list, resource(status, field));
        }
        section.finish()
    }
}

struct Section(Map<String, Value>);

impl Section {
    fn new(name: &str) -> Self {
        let mut object = Map::new();
        object.insert("@type".to_owned(), json!(format!("{PREFIX}{name}")));
        Self(object)
    }

    fn push(&mut self, list: &str, value: Value) {
        let list = self.0.entry(list.to_owned()).or_insert_with(|| json!([]));
        if let Value::Array(items) = list {
            items.push(value);
        }
    }

    fn finish(self) -> Value {
        Value::Object(self.0)
    }
}

fn is_static(status: &ResourceStatus) -> bool {
    let accepted = status.accepted.as_ref();
    accepted.is_some_and(|a| a.origin == Origin::Static)
}

/// A resource with everything about its state.
fn resource(status: &ResourceStatus, field: &str) -> Value {
    let mut value = match &status.accepted {
        Some(accepted) => version(accepted, field),
        None => json!({}),
    };
    value["name"] = json!(status.name);
    if let Some(generation) = status.active_since {
        value["active_since"] = json!(generation);
    }
    if !status.warming_for.is_empty() {
        value["warming_for"] = json!(status.warming_for);
    }
    note_error(&mut value, status.rejected.as_ref());
    value
}

fn version(version: &Version, field: &str) -> Value {
    json!({
        "version_info": &*version.version,
        field: text::to_value(&version.message.any()),
        "last_updated": timestamp(version.since),
        "origin": version.origin.to_string(),
    })
}

fn note_error(value: &mut Value, rejected: Option<&Rejection>) {
    if let Some(rejected) = rejected {
        value["error_state"] = json!({
            "details": rejected.details,
            "last_update_attempt": timestamp(rejected.at),
            "version_info": rejected.version,
        });
    }
}

/// Route configurations that connection managers carry themselves.
fn inline_routes(status: &ResourceStatus) -> Vec<Value> {
    let Some(accepted) = &status.accepted else {
        return Vec::new();
    };
    let listener = text::to_value(&accepted.message.any());
    let chains = listener["filter_chains"].as_array().into_iter().flatten();
    let filters = chains
        .chain(listener.get("default_filter_chain"))
        .flat_map(|chain| chain["filters"].as_array().into_iter().flatten());
    let config = |filter: &Value| {
        let routes = filter["typed_config"].get("route_config")?;
        let message = ResourceType::RouteConfiguration.type_url();
        Some(json!({
            "route_config": with_type(&message, routes),
            "last_updated": timestamp(accepted.since),
            "origin": accepted.origin.to_string(),
        }))
    };
    filters.filter_map(config).collect()
}
