//! Statistics grouped into labelled families, as Prometheus wants them.
//!
//! Two outputs label the same values in two ways: Envoy's names with Envoy's labels, and our own.

use std::collections::BTreeMap;

use crate::telemetry::stats::{Stats, Value};

/// Values of one name. Labels are in the order in which they are shown.
#[derive(Debug, Default)]
pub struct Family {
    pub samples: Vec<(Labels, Sample)>,
}

pub type Labels = Vec<(&'static str, String)>;

#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    Counter(u64),
    Gauge(i64),
    Histogram {
        /// Cumulative, by the bounds of [`BUCKETS`](crate::telemetry::stats::BUCKETS).
        counts: [u64; 19],
        total: u64,
        sum: u64,
    },
}

pub type Families = BTreeMap<String, Family>;

impl From<Value<'_>> for Sample {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Counter(counter) => Self::Counter(counter.value()),
            Value::Gauge(gauge) => Self::Gauge(gauge.value()),
            Value::Histogram(histogram) => {
                let (counts, total, sum) = histogram.cumulative();
                Self::Histogram { counts, total, sum }
            }
        }
    }
}

/// Whose values a statistic belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    Http {
        prefix: &'a str,
    },
    Cluster {
        name: &'a str,
    },
    Listener {
        name: &'a str,
    },
    ListenerHttp {
        listener: &'a str,
        prefix: &'a str,
    },
    Tcp {
        prefix: &'a str,
    },
    Acme {
        name: &'a str,
    },
    /// `listener_manager`, `cluster_manager`, `causeway`.
    Process {
        group: &'static str,
    },
}

/// Walks everything with its scope and the name below it.
pub fn walk(stats: &Stats, f: &mut dyn FnMut(Scope<'_>, &str, Value<'_>)) {
    for (prefix, http) in stats.http_managers() {
        http.visit(&mut |stat, value| f(Scope::Http { prefix: &prefix }, stat, value));
    }
    for (name, cluster) in stats.clusters() {
        cluster.visit(&mut |stat, value| f(Scope::Cluster { name: &name }, stat, value));
    }
    for (name, listener) in stats.listeners() {
        listener.visit(&mut |stat, value| f(Scope::Listener { name: &name }, stat, value));
    }
    for (name, http) in stats.listener_http_managers() {
        let (listener, prefix) = name.split_once(".http.").unwrap_or((&name, ""));
        let scope = Scope::ListenerHttp { listener, prefix };
        http.visit(&mut |stat, value| f(scope, stat, value));
    }
    for (prefix, tcp) in stats.tcp_proxies() {
        tcp.visit(&mut |stat, value| f(Scope::Tcp { prefix: &prefix }, stat, value));
    }
    for (name, acme) in stats.acme_names() {
        acme.visit(&mut |stat, value| f(Scope::Acme { name: &name }, stat, value));
    }
    let process = |group| Scope::Process { group };
    stats
        .listener_manager
        .visit(&mut |stat, value| f(process("listener_manager"), stat, value));
    stats
        .cluster_manager
        .visit(&mut |stat, value| f(process("cluster_manager"), stat, value));
    stats
        .pipeline
        .visit(&mut |stat, value| f(process("causeway"), stat, value));
}

/// `downstream_rq_2xx` -> (`downstream_rq`, class `2`); `upstream_rq_503` -> (`upstream_rq`, code
/// `503`).
pub fn split_code(stat: &str) -> Option<(&str, Code<'_>)> {
    let (base, last) = stat.rsplit_once('_')?;
    if let Some(class) = last.strip_suffix("xx") {
        return (class.len() == 1).then_some((base, Code::Class(class)));
    }
    let exact = last.len() == 3 && last.bytes().all(|b| b.is_ascii_digit());
    exact.then_some((base, Code::Exact(last)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code<'a> {
    Class(&'a str),
    Exact(&'a str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_split_off() {
        assert_eq!(
            split_code("downstream_rq_2xx"),
            Some(("downstream_rq", Code::Class("2")))
        );
        assert_eq!(
            split_code("upstream_rq_503"),
            Some(("upstream_rq", Code::Exact("503")))
        );
        for none in ["downstream_rq_total", "panics", "rq_xx", "x_1234"] {
            assert_eq!(split_code(none), None, "{none}");
        }
    }
}
