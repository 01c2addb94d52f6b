//! `/metrics`: the same figures under our own names, in the OpenMetrics text form.
//!
//! Names follow Prometheus' habits: base units (`_seconds`, `_bytes`), counters ending in `_total`,
//! what a value belongs to in labels.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::family::{self, Code, Families, Labels, Sample, Scope, split_code};
use super::{AdminState, reply};
use crate::telemetry::stats::{BUCKETS, Stats};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

pub async fn metrics(State(state): State<AdminState>) -> Response {
    reply::off_thread(move || encoded(&state.stats)).await
}

fn encoded(stats: &Arc<Stats>) -> Response {
    let Ok(out) = text(stats) else {
        return reply::refused(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode\n");
    };
    let mut response = reply::text(out);
    response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
    response
}

/// All statistics in the text form.
pub fn text(stats: &Arc<Stats>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures(Arc::clone(stats))));
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}

/// Walks the statistics at each scrape.
#[derive(Debug)]
struct Figures(Arc<Stats>);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, family) in &families(&self.0) {
            let kind = match family.samples.first() {
                Some((_, Sample::Counter(_))) => MetricType::Counter,
                Some((_, Sample::Gauge(_))) => MetricType::Gauge,
                Some((_, Sample::Histogram { .. })) => MetricType::Histogram,
                None => continue,
            };
            let help = help(name);
            let mut metric = encoder.encode_descriptor(name, &help, None, kind)?;
            for (labels, sample) in &family.samples {
                if labels.is_empty() {
                    encode_sample(&mut metric, sample)?;
                } else {
                    let labels = labels.as_slice();
                    encode_sample(&mut metric.encode_family(&labels)?, sample)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_sample(metric: &mut MetricEncoder<'_>, sample: &Sample) -> Result<(), fmt::Error> {
    match sample {
        Sample::Counter(value) => metric.encode_counter::<NoExemplar, _, u64>(value, None),
        Sample::Gauge(value) => metric.encode_gauge(value),
        Sample::Histogram { counts, total, sum } => {
            let seconds = |ms: f64| ms / 1000.0;
            let mut below = 0;
            let mut buckets = Vec::with_capacity(counts.len() + 1);
            for (bound, count) in BUCKETS.iter().zip(counts) {
                // A value may be counted between two reads; never below zero for that.
                buckets.push((seconds(*bound), count.saturating_sub(below)));
                below = *count;
            }
            buckets.push((f64::MAX, total.saturating_sub(below)));
            metric.encode_histogram::<NoExemplar>(seconds(*sum as f64), *total, &buckets, None)
        }
    }
}

type NoExemplar = [(&'static str, &'static str); 0];

fn families(stats: &Stats) -> Families {
    let mut families = Families::new();
    family::walk(stats, &mut |scope, stat, value| {
        let sample = Sample::from(value);
        let (group, mut labels) = our_scope(scope);
        let name = match split_code(stat) {
            Some((_, Code::Class(class))) => {
                labels.push(("code_class", format!("{class}xx")));
                "responses".to_owned()
            }
            // Apart from the classes: a sum over both would count each answer twice.
            Some((_, Code::Exact(code))) => {
                labels.push(("code", code.to_owned()));
                "responses_by_code".to_owned()
            }
            None => our_name(stat, matches!(sample, Sample::Histogram { .. })),
        };
        let family = families
            .entry(format!("causeway_{group}{name}"))
            .or_default();
        family.samples.push((labels, sample));
    });
    families
}

fn our_scope(scope: Scope<'_>) -> (&'static str, Labels) {
    match scope {
        Scope::Http { prefix } => ("http_", vec![("prefix", prefix.to_owned())]),
        Scope::Cluster { name } => ("cluster_", vec![("cluster", name.to_owned())]),
        Scope::Listener { name } => ("listener_", vec![("listener", name.to_owned())]),
        Scope::ListenerHttp { listener, prefix } => (
            "listener_http_",
            vec![
                ("listener", listener.to_owned()),
                ("prefix", prefix.to_owned()),
            ],
        ),
        Scope::Tcp { prefix } => ("tcp_", vec![("prefix", prefix.to_owned())]),
        Scope::Acme { name } => ("acme_", vec![("name", name.to_owned())]),
        Scope::Process { group: "causeway" } => ("", vec![]),
        Scope::Process {
            group: "listener_manager",
        } => ("listener_manager_", vec![]),
        Scope::Process { .. } => ("cluster_manager_", vec![]),
    }
}

/// Words spelt out; `_total` is added by the encoder.
fn our_name(stat: &str, is_time: bool) -> String {
    let stat = stat.strip_suffix("_total").unwrap_or(stat);
    let stat = stat.strip_suffix("_ms").unwrap_or(stat);
    let stat = stat.strip_suffix("_time").unwrap_or(stat);
    let words = stat.split('_').map(|word| match word {
        "cx" => "connections",
        "rq" => "requests",
        "rx" => "received",
        "tx" => "sent",
        other => other,
    });
    let name = words.collect::<Vec<_>>().join("_");
    if is_time {
        format!("{}_seconds", name.replace("connections_", "connection_"))
    } else {
        name
    }
}

fn help(name: &str) -> String {
    name.trim_start_matches("causeway_").replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_base_units_and_spelt_out() {
        assert_eq!(
            our_name("downstream_cx_rx_bytes_total", false),
            "downstream_connections_received_bytes"
        );
        assert_eq!(
            our_name("upstream_rq_time", true),
            "upstream_requests_seconds"
        );
        assert_eq!(our_name("compile_ms", true), "compile_seconds");
    }

    #[test]
    fn a_scrape_is_well_formed() {
        let stats = Arc::<Stats>::default();
        stats.http("edge").downstream_rq.record(200);
        stats.cluster("a").upstream_rq.record(503);
        stats.cluster("a").upstream_rq_time.observe(7);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Figures(stats)));
        let mut out = String::new();
        encode(&mut out, &registry).unwrap();
        for want in [
            "causeway_http_responses_total{prefix=\"edge\",code_class=\"2xx\"} 1\n",
            "causeway_cluster_responses_by_code_total{cluster=\"a\",code=\"503\"} 1\n",
            "causeway_cluster_upstream_requests_seconds_bucket{le=\"0.01\",cluster=\"a\"} 1\n",
            "causeway_cluster_upstream_requests_seconds_bucket{le=\"0.005\",cluster=\"a\"} 0\n",
            "causeway_generations_total 0\n",
        ] {
            assert!(out.contains(want), "{want} in\n{out}");
        }
        assert_eq!(out.matches("# TYPE causeway_http_responses ").count(), 1);
    }
}
