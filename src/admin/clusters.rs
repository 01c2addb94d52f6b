//! `/clusters` and `/listeners`: what is in use now.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::extract::{Query, State};
use axum::response::Response;
use causeway_xds::resource::Address;
use causeway_xds::resource::cluster::{Discovery, Limits};
use causeway_xds::resource::load_assignment::EndpointHealth;
use serde_json::{Map, Value, json};

use super::{AdminState, reply};
use crate::cluster::Cluster;
use crate::cluster::health_check::kind;
use crate::control::Pipeline;
use crate::snapshot::ListenerSpec;
use crate::upstream::Endpoint;
use crate::upstream::endpoint::Finding;
use crate::util::time::timestamp;

type Params = Query<HashMap<String, String>>;

pub async fn clusters(State(state): State<AdminState>, params: Params) -> Response {
    let as_json = params.get("format").is_some_and(|f| f == "json");
    let dynamic = match state.control.query(Pipeline::dynamic_clusters).await {
        Ok(dynamic) => dynamic,
        Err(_) => return reply::stopped(),
    };
    reply::off_thread(move || {
        let snapshot = state.publisher.current();
        let mut all: Vec<&Cluster> = snapshot.clusters.values().map(|c| &**c).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let added = |cluster: &Cluster| dynamic.contains(&*cluster.name);
        if as_json {
            let all: Vec<Value> = all.iter().map(|c| cluster_value(c, added(c))).collect();
            return reply::json_pretty(&json!({ "cluster_statuses": all }));
        }
        let mut out = String::new();
        for cluster in all {
            cluster_text(cluster, added(cluster), &mut out);
        }
        reply::text(out)
    })
    .await
}

fn by_priority(cluster: &Cluster) -> [(&'static str, Limits); 2] {
    [
        ("default_priority", cluster.model.limits),
        ("high_priority", cluster.model.high_limits),
    ]
}

fn cluster_text(cluster: &Cluster, added: bool, out: &mut String) {
    let name = &cluster.name;
    let mut line = |rest: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name}::{rest}");
    };
    line(format_args!(
        "observability_name::{}",
        cluster.model.stat_name()
    ));
    if let Some(detection) = &cluster.outlier {
        let averages = [
            ("", &detection.external),
            ("local_origin_", &detection.local_origin),
        ];
        for (kind, average) in averages {
            let mean = percent(average.mean.get());
            line(format_args!("outlier::{kind}success_rate_average::{mean}"));
            let threshold = percent(average.threshold.get());
            line(format_args!(
                "outlier::{kind}success_rate_ejection_threshold::{threshold}"
            ));
        }
    }
    for (priority, limits) in by_priority(cluster) {
        line(format_args!(
            "{priority}::max_connections::{}",
            limits.max_connections
        ));
        line(format_args!(
            "{priority}::max_pending_requests::{}",
            limits.max_pending_requests
        ));
        line(format_args!(
            "{priority}::max_requests::{}",
            limits.max_requests
        ));
        line(format_args!(
            "{priority}::max_retries::{}",
            limits.max_retries
        ));
    }
    line(format_args!("added_via_api::{added}"));
    if let Discovery::Eds { service_name, .. } = &cluster.model.discovery {
        line(format_args!("eds_service_name::{service_name}"));
    }
    for endpoint in cluster.known_endpoints().iter() {
        for (stat, value) in numbers(endpoint) {
            line(format_args!("{endpoint}::{stat}::{value}"));
        }
        let attributes = &endpoint.attributes;
        let health = flags(endpoint);
        let locality = &attributes.locality;
        line(format_args!(
            "{endpoint}::hostname::{}",
            attributes.hostname
        ));
        line(format_args!("{endpoint}::health_flags::{health}"));
        for (what, value) in diagnosis(cluster, endpoint) {
            line(format_args!("{endpoint}::{what}::{value}"));
        }
        line(format_args!("{endpoint}::weight::{}", attributes.weight));
        line(format_args!("{endpoint}::region::{}", locality.region));
        line(format_args!("{endpoint}::zone::{}", locality.zone));
        line(format_args!("{endpoint}::sub_zone::{}", locality.sub_zone));
        line(format_args!("{endpoint}::canary::false"));
        line(format_args!(
            "{endpoint}::priority::{}",
            attributes.priority
        ));
        for (kind, rate) in rates(endpoint) {
            let rate = rate.map_or_else(|| "-1".to_owned(), |rate| rate.to_string());
            line(format_args!("{endpoint}::{kind}::{rate}"));
        }
    }
}

/// Of the last interval of outlier detection, where there were requests enough.
fn rates(endpoint: &Endpoint) -> [(&'static str, Option<f64>); 2] {
    let outcomes = endpoint.seen_outcomes();
    [
        ("success_rate", outcomes.and_then(|o| o.external.shown())),
        (
            "local_origin_success_rate",
            outcomes.and_then(|o| o.local_origin.shown()),
        ),
    ]
}

/// With six digits, as Envoy prints it.
fn percent(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "-1".to_owned();
    };
    let before = format!("{:.0}", value.trunc().abs());
    let after = 6_usize.saturating_sub(before.len());
    let text = format!("{value:.after$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// All that speaks against an endpoint, in Envoy's order; `healthy` if nothing does.
fn flags(endpoint: &Endpoint) -> String {
    use EndpointHealth::{Degraded, Healthy, Unknown};
    let health = endpoint.attributes.health;
    let all = [
        (
            endpoint.is_found(Finding::FailedActive),
            "/failed_active_hc",
        ),
        (
            endpoint.is_found(Finding::FailedOutlier),
            "/failed_outlier_check",
        ),
        (
            !matches!(health, Unknown | Healthy | Degraded),
            "/failed_eds_health",
        ),
        (
            endpoint.is_found(Finding::DegradedActive),
            "/degraded_active_hc",
        ),
        (health == Degraded, "/degraded_eds_health"),
    ];
    let set: String = all
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| *name)
        .collect();
    match set.as_str() {
        "" => "healthy".to_owned(),
        _ => set,
    }
}

/// Why an endpoint is as healthy as it is and when that is looked at again; only what there is.
fn diagnosis(cluster: &Cluster, endpoint: &Endpoint) -> Vec<(&'static str, String)> {
    let at = |left: Duration| timestamp(SystemTime::now() + left);
    let diagnosis = endpoint.diagnosis();
    let mut said = Vec::new();
    if let Some(check) = &cluster.model.health_check {
        if let Some(failure) = diagnosis.check_failure() {
            // One line for each thing: what an endpoint answered may have more.
            let failure = failure.replace(['\r', '\n'], " ");
            said.push((
                "health_check_failure",
                format!("{}: {failure}", kind(check)),
            ));
        } else if endpoint.is_found(Finding::PendingActive) {
            said.push(("health_check_failure", "not checked yet".to_owned()));
        }
        if let Some(left) = diagnosis.next_check() {
            said.push(("next_health_check", at(left)));
        }
    }
    if let Some(ejection) = diagnosis.ejection() {
        said.push(("ejected_by", ejection.by.to_owned()));
        said.push(("ejected_until", at(ejection.left())));
    }
    if let Some(left) = endpoint.shunned_for() {
        said.push(("connect_failed_avoided_until", at(left)));
    }
    said
}

fn numbers(endpoint: &Endpoint) -> [(&'static str, u64); 8] {
    let stats = &endpoint.stats;
    let gauge = |value: i64| u64::try_from(value).unwrap_or_default();
    [
        ("cx_active", gauge(stats.cx_active.value())),
        ("cx_connect_fail", stats.cx_connect_fail.value()),
        ("cx_total", stats.cx_total.value()),
        ("rq_active", gauge(stats.rq_active.value())),
        ("rq_error", stats.rq_error.value()),
        ("rq_success", stats.rq_success.value()),
        ("rq_timeout", stats.rq_timeout.value()),
        ("rq_total", stats.rq_total.value()),
    ]
}

fn cluster_value(cluster: &Cluster, added: bool) -> Value {
    let threshold = |(priority, limits): (&str, Limits)| {
        let mut value = json!({
            "max_connections": limits.max_connections,
            "max_pending_requests": limits.max_pending_requests,
            "max_requests": limits.max_requests,
            "max_retries": limits.max_retries,
        });
        if priority == "high_priority" {
            value["priority"] = json!("HIGH");
        }
        value
    };
    let mut value = json!({
        "name": *cluster.name,
        "observability_name": cluster.model.stat_name(),
        "circuit_breakers": {"thresholds": by_priority(cluster).map(threshold)},
    });
    if added {
        value["added_via_api"] = json!(true);
    }
    if let Some(detection) = &cluster.outlier {
        let thresholds = [
            ("success_rate_ejection_threshold", &detection.external),
            (
                "local_origin_success_rate_ejection_threshold",
                &detection.local_origin,
            ),
        ];
        for (name, average) in thresholds {
            if let Some(threshold) = average.threshold.get() {
                value[name] = json!({ "value": threshold });
            }
        }
    }
    if let Discovery::Eds { service_name, .. } = &cluster.model.discovery {
        value["eds_service_name"] = json!(service_name);
    }
    let hosts: Vec<Value> = cluster
        .known_endpoints()
        .iter()
        .map(|e| host_value(cluster, e))
        .collect();
    if !hosts.is_empty() {
        value["host_statuses"] = json!(hosts);
    }
    value
}

fn host_value(cluster: &Cluster, endpoint: &Endpoint) -> Value {
    let stats = numbers(endpoint).map(|(name, value)| {
        let mut stat = Map::new();
        if name.ends_with("_active") {
            stat.insert("type".to_owned(), json!("GAUGE"));
        }
        stat.insert("name".to_owned(), json!(name));
        if value != 0 {
            // proto3 JSON prints 64-bit numbers as text.
            stat.insert("value".to_owned(), json!(value.to_string()));
        }
        Value::Object(stat)
    });
    let attributes = &endpoint.attributes;
    let health = match attributes.health {
        EndpointHealth::Unknown | EndpointHealth::Healthy => "HEALTHY",
        EndpointHealth::Unhealthy => "UNHEALTHY",
        EndpointHealth::Draining => "DRAINING",
        EndpointHealth::Timeout => "TIMEOUT",
        EndpointHealth::Degraded => "DEGRADED",
    };
    let mut value = json!({
        "address": address_value(&endpoint.attributes.address),
        "stats": stats,
        "health_status": {"eds_health_status": health},
        "weight": attributes.weight,
        "locality": {},
    });
    let active = [
        (Finding::FailedActive, "failed_active_health_check"),
        (Finding::FailedOutlier, "failed_outlier_check"),
        (Finding::DegradedActive, "failed_active_degraded_check"),
    ];
    for (finding, name) in active {
        if endpoint.is_found(finding) {
            value["health_status"][name] = json!(true);
        }
    }
    // Beside Envoy's message, which has no place for it.
    for (name, text) in diagnosis(cluster, endpoint) {
        value["health_details"][name] = json!(text);
    }
    for (name, rate) in rates(endpoint) {
        if let Some(rate) = rate {
            value[name] = json!({ "value": rate });
        }
    }
    if !attributes.hostname.is_empty() {
        value["hostname"] = json!(attributes.hostname);
    }
    if attributes.priority != 0 {
        value["priority"] = json!(attributes.priority);
    }
    let locality = &attributes.locality;
    for (key, text) in [
        ("region", &locality.region),
        ("zone", &locality.zone),
        ("sub_zone", &locality.sub_zone),
    ] {
        if !text.is_empty() {
            value["locality"][key] = json!(text);
        }
    }
    value
}

fn address_value(address: &Address) -> Value {
    match address {
        Address::Socket(socket) => socket_value(socket),
        Address::Named { host, port } => {
            json!({"socket_address": {"address": host, "port_value": port}})
        }
        Address::Pipe(path) => json!({"pipe": {"path": path.display().to_string()}}),
    }
}

fn socket_value(socket: &SocketAddr) -> Value {
    json!({"socket_address": {"address": socket.ip().to_string(), "port_value": socket.port()}})
}

pub async fn listeners(State(state): State<AdminState>, params: Params) -> Response {
    let snapshot = state.publisher.current();
    let addresses = |l: &ListenerSpec| -> Vec<String> {
        let bound = (state.addresses)(&l.name);
        match bound.is_empty() {
            true => vec![l.bind.to_string()],
            false => bound.iter().map(SocketAddr::to_string).collect(),
        }
    };
    let listeners = snapshot.listeners.values();
    let mut all: Vec<(&str, Vec<String>)> = listeners.map(|l| (&*l.name, addresses(l))).collect();
    all.sort_unstable();
    if params.get("format").is_none_or(|f| f != "json") {
        let lines = all.iter().flat_map(|(name, addresses)| {
            let line = move |address| format!("{name}::{address}\n");
            addresses.iter().map(line)
        });
        return reply::text(lines.collect::<String>());
    }
    let place = |address: &String| match address.parse::<SocketAddr>() {
        Ok(socket) => socket_value(&socket),
        Err(_) => json!({"pipe": {"path": address}}),
    };
    let status = |(name, addresses): &(&str, Vec<String>)| {
        let mut places = addresses.iter().map(place);
        let mut status = json!({"name": name, "local_address": places.next()});
        let more: Vec<Value> = places.collect();
        if !more.is_empty() {
            status["additional_local_addresses"] = more.into();
        }
        status
    };
    let all: Vec<Value> = all.iter().map(status).collect();
    reply::json_pretty(&json!({ "listener_statuses": all }))
}
