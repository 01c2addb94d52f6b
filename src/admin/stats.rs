//! `/stats`: Envoy's names, as text, as JSON, and in Envoy's Prometheus form.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use regex::Regex;
use serde_json::{Value as Json, json};

use super::family::{self, Code, Families, Labels, Sample, Scope, split_code};
use super::{AdminState, reply};
use crate::telemetry::stats::{BUCKETS, Stats, Value};

type Params = Query<HashMap<String, String>>;

/// Quantiles that text and JSON show.
const QUANTILES: [f64; 8] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 100.0];

/// Which statistics are wanted.
#[derive(Debug, Default)]
struct Filter {
    pattern: Option<Regex>,
    used_only: bool,
}

impl Filter {
    fn from(params: &HashMap<String, String>) -> Result<Self, Box<Response>> {
        let pattern = params.get("filter").filter(|p| !p.is_empty());
        let pattern = pattern.map(|p| Regex::new(p)).transpose().map_err(|e| {
            let text = format!("Invalid re2 regex: {e}\n");
            Box::new(reply::refused(StatusCode::BAD_REQUEST, text))
        })?;
        Ok(Self {
            pattern,
            used_only: params.contains_key("usedonly"),
        })
    }

    fn takes(&self, name: &str, sample: &Sample) -> bool {
        let used = match sample {
            Sample::Counter(value) => *value != 0,
            Sample::Gauge(value) => *value != 0,
            Sample::Histogram { total, .. } => *total != 0,
        };
        (used || !self.used_only) && self.pattern.as_ref().is_none_or(|p| p.is_match(name))
    }
}

pub async fn stats(State(state): State<AdminState>, Query(params): Params) -> Response {
    let filter = match Filter::from(&params) {
        Ok(filter) => filter,
        Err(refusal) => return *refusal,
    };
    reply::off_thread(
        move || match params.get("format").map_or("text", String::as_str) {
            "json" => reply::json(&as_json(&collect(&state, &filter))),
            "prometheus" => reply::text(as_prometheus(&state, &filter)),
            "text" | "" => reply::text(as_text(&collect(&state, &filter))),
            other => reply::refused(
                StatusCode::BAD_REQUEST,
                format!("format \"{other}\" is not text, json or prometheus\n"),
            ),
        },
    )
    .await
}

pub async fn prometheus(State(state): State<AdminState>, Query(params): Params) -> Response {
    match Filter::from(&params) {
        Ok(filter) => reply::off_thread(move || reply::text(as_prometheus(&state, &filter))).await,
        Err(refusal) => *refusal,
    }
}

pub async fn reset_counters(State(state): State<AdminState>) -> Response {
    reset(&state.stats);
    reply::text("OK\n")
}

/// Counters only, as in Envoy.
fn reset(stats: &Stats) {
    stats.visit(&mut |_, value| {
        if let Value::Counter(counter) = value {
            counter.reset();
        }
    });
}

/// What counts the process itself and is in no group.
fn server(state: &AdminState) -> [(&'static str, Sample); 5] {
    let now = state.control.readiness.state();
    let live = now == crate::control::State::Live;
    let gauge = |n: u64| Sample::Gauge(i64::try_from(n).unwrap_or(i64::MAX));
    [
        ("concurrency", gauge(state.concurrency as u64)),
        ("live", gauge(u64::from(live))),
        ("state", Sample::Gauge(now.number())),
        ("uptime", gauge(state.started.elapsed().as_secs())),
        ("hot_restart_epoch", gauge(0)),
    ]
}

fn runtime(state: &AdminState) -> [(&'static str, Sample); 2] {
    let count = |n: usize| Sample::Gauge(i64::try_from(n).unwrap_or(i64::MAX));
    let runtime = state.runtime();
    [
        ("num_keys", count(runtime.flattened().len())),
        ("num_layers", count(runtime.layers.len())),
    ]
}

fn collect(state: &AdminState, filter: &Filter) -> BTreeMap<String, Sample> {
    let mut all = BTreeMap::new();
    let mut take = |name: &str, sample: Sample| {
        if filter.takes(name, &sample) {
            all.insert(name.to_owned(), sample);
        }
    };
    state
        .stats
        .visit(&mut |name, value| take(name, value.into()));
    for (stat, sample) in server(state) {
        take(&format!("server.{stat}"), sample);
    }
    for (stat, sample) in runtime(state) {
        take(&format!("runtime.{stat}"), sample);
    }
    all
}

fn as_text(all: &BTreeMap<String, Sample>) -> String {
    let mut out = String::new();
    for (name, sample) in all {
        let value = match sample {
            Sample::Counter(value) => value.to_string(),
            Sample::Gauge(value) => value.to_string(),
            Sample::Histogram { total: 0, .. } => "No recorded values".to_owned(),
            Sample::Histogram { counts, total, .. } => {
                let shown = QUANTILES.map(|q| format!("P{q}(nan,{})", quantile(counts, *total, q)));
                shown.join(" ")
            }
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name}: {value}");
    }
    out
}

fn as_json(all: &BTreeMap<String, Sample>) -> Json {
    let mut stats = Vec::new();
    let mut histograms = Vec::new();
    for (name, sample) in all {
        match sample {
            Sample::Counter(value) => stats.push(json!({"name": name, "value": value})),
            Sample::Gauge(value) => stats.push(json!({"name": name, "value": value})),
            Sample::Histogram { counts, total, .. } => {
                let values = QUANTILES.map(|q| {
                    let value = (*total > 0).then(|| quantile(counts, *total, q));
                    json!({"interval": null, "cumulative": value})
                });
                histograms.push(json!({"name": name, "values": values}));
            }
        }
    }
    if !histograms.is_empty() {
        stats.push(json!({"histograms": {
            "supported_quantiles": QUANTILES,
            "computed_quantiles": histograms,
        }}));
    }
    json!({ "stats": stats })
}

/// Interpolated within the bucket it falls into.
fn quantile(counts: &[u64; 19], total: u64, percent: f64) -> f64 {
    let rank = percent / 100.0 * total as f64;
    let bucket = counts.partition_point(|count| (*count as f64) < rank);
    let Some(upper) = BUCKETS.get(bucket).copied() else {
        return BUCKETS[BUCKETS.len() - 1];
    };
    let (lower, below) = match bucket.checked_sub(1) {
        Some(before) => (BUCKETS[before], counts[before]),
        None => (0.0, 0),
    };
    let inside = counts[bucket] - below;
    if inside == 0 {
        return lower;
    }
    let share = (rank - below as f64) / inside as f64;
    ((lower + (upper - lower) * share) * 100.0).round() / 100.0
}

/// Envoy's families: `envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",...}`.
fn envoy_families(state: &AdminState, filter: &Filter) -> Families {
    let mut families = Families::new();
    let mut add = |name: String, labels: Labels, sample: Sample| {
        let family = families.entry(name).or_default();
        family.samples.push((labels, sample));
    };
    family::walk(&state.stats, &mut |scope, stat, value| {
        let sample = Sample::from(value);
        let (group, dotted, scope_labels) = envoy_scope(scope);
        if !filter.takes(&format!("{dotted}.{stat}"), &sample) {
            return;
        }
        let (stat, mut labels) = match split_code(stat) {
            Some((base, Code::Class(class))) => (
                format!("{base}_xx"),
                vec![("envoy_response_code_class", class.to_owned())],
            ),
            Some((base, Code::Exact(code))) => (
                base.to_owned(),
                vec![("envoy_response_code", code.to_owned())],
            ),
            None => (stat.to_owned(), vec![]),
        };
        labels.extend(scope_labels);
        add(format!("envoy_{group}_{stat}"), labels, sample);
    });
    let server = server(state).map(|(stat, sample)| ("server", stat, sample));
    let runtime = runtime(state).map(|(stat, sample)| ("runtime", stat, sample));
    for (group, stat, sample) in server.into_iter().chain(runtime) {
        if filter.takes(&format!("{group}.{stat}"), &sample) {
            add(format!("envoy_{group}_{stat}"), vec![], sample);
        }
    }
    families
}

fn envoy_scope(scope: Scope<'_>) -> (&'static str, String, Labels) {
    let http = |prefix: &str| ("envoy_http_conn_manager_prefix", prefix.to_owned());
    let listener = |name: &str| ("envoy_listener_address", name.to_owned());
    match scope {
        Scope::Http { prefix } => ("http", format!("http.{prefix}"), vec![http(prefix)]),
        Scope::Cluster { name } => (
            "cluster",
            format!("cluster.{name}"),
            vec![("envoy_cluster_name", name.to_owned())],
        ),
        Scope::Listener { name } => ("listener", format!("listener.{name}"), vec![listener(name)]),
        Scope::ListenerHttp {
            listener: name,
            prefix,
        } => (
            "listener_http",
            format!("listener.{name}.http.{prefix}"),
            vec![http(prefix), listener(name)],
        ),
        Scope::Tcp { prefix } => (
            "tcp",
            format!("tcp.{prefix}"),
            vec![("envoy_tcp_prefix", prefix.to_owned())],
        ),
        Scope::Acme { name } => (
            "acme",
            format!("acme.{name}"),
            vec![("causeway_acme_name", name.to_owned())],
        ),
        Scope::Process { group } => (group, group.to_owned(), vec![]),
    }
}

fn as_prometheus(state: &AdminState, filter: &Filter) -> String {
    let mut out = String::new();
    for (name, family) in &envoy_families(state, filter) {
        let kind = match family.samples.first() {
            Some((_, Sample::Counter(_))) => "counter",
            Some((_, Sample::Gauge(_))) => "gauge",
            Some((_, Sample::Histogram { .. })) => "histogram",
            None => continue,
        };
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for (labels, sample) in &family.samples {
            let labels = show_labels(labels);
            // Writing to a string cannot fail.
            let _ = match sample {
                Sample::Counter(value) => writeln!(out, "{name}{{{labels}}} {value}"),
                Sample::Gauge(value) => writeln!(out, "{name}{{{labels}}} {value}"),
                Sample::Histogram { counts, total, sum } => {
                    let comma = if labels.is_empty() { "" } else { "," };
                    for (bound, count) in BUCKETS.iter().zip(counts) {
                        let _ = writeln!(
                            out,
                            "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
                        );
                    }
                    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
                    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
                    writeln!(out, "{name}_count{{{labels}}} {total}")
                }
            };
        }
    }
    out
}

fn show_labels(labels: &Labels) -> String {
    let show = |(key, value): &(&str, String)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{key}=\"{}\"", value.replace('\n', "\\n"))
    };
    labels.iter().map(show).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::Histogram;

    #[test]
    fn quantiles_are_interpolated() {
        let histogram = Histogram::default();
        for _ in 0..10 {
            histogram.observe(7);
        }
        let (counts, total, _) = histogram.cumulative();
        assert_eq!(quantile(&counts, total, 50.0), 7.5);
        assert_eq!(quantile(&counts, total, 100.0), 10.0);
        histogram.observe(u64::from(u32::MAX));
        let (counts, total, _) = histogram.cumulative();
        assert_eq!(quantile(&counts, total, 100.0), 3.6e6);
    }

    #[test]
    fn label_values_are_escaped() {
        let labels = vec![("a", "x\"y\\z\n".to_owned()), ("b", "1".to_owned())];
        assert_eq!(show_labels(&labels), r#"a="x\"y\\z\n",b="1""#);
    }
}
