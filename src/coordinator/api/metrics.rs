//! `GET /metrics`: the names of the other workers first, then our own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use ipnet::IpNet;

use super::Peer;
use super::answer::{self, Refusal};
use super::exposition::{Distribution, Exposition};
use super::legacy::{self, CountLegacy, Remotes};
use super::process::{CpuClock, Memory};
use crate::coordinator::problem;

/// Writes metrics in a text form of Prometheus.
pub type WriteMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What `/metrics` answers from.
pub struct MetricsConfig {
    /// `metric_access_allowed_hosts`. No header can stand in for the address of the connection.
    pub allowed: Vec<IpNet>,
    pub counts: Arc<dyn CountLegacy>,
    /// Our own names, to follow the legacy ones. `None`: there are none.
    pub own: Option<WriteMetrics>,
}

pub struct Metrics {
    config: MetricsConfig,
    pub api: Calls,
    remotes: Mutex<Remotes>,
    cpu: Mutex<Option<CpuClock>>,
}

impl Metrics {
    pub fn new(config: MetricsConfig) -> Self {
        Self {
            config,
            api: Calls::default(),
            remotes: Mutex::default(),
            cpu: Mutex::new(CpuClock::now()),
        }
    }

    pub async fn answer(&self, peer: Option<&Peer>) -> Result<Response, Refusal> {
        // An IPv4 address that arrives in IPv6 clothes is the same address.
        let allowed = peer.is_some_and(|Peer(peer)| {
            let address = peer.ip().to_canonical();
            self.config.allowed.iter().any(|net| net.contains(&address))
        });
        if !allowed {
            return Err(Refusal::of(&problem::FORBIDDEN));
        }
        let counts = self.config.counts.counts().await;
        let mut out = Exposition::default();
        {
            let mut remotes = lock(&self.remotes);
            remotes.add(&counts.upstream);
            legacy::write(&mut out, &counts, &remotes);
        }
        self.api.write(&mut out);
        self.write_process(&mut out);
        if let Some(own) = &self.config.own {
            // Ten thousand clusters take a while; other requests shall not wait for that.
            let own = Arc::clone(own);
            let text = tokio::task::spawn_blocking(move || own()).await;
            out.append(&text.map_err(|_| Refusal::of(&problem::INTERNAL))?);
        }
        Ok(answer::with_body(
            StatusCode::OK,
            answer::TEXT,
            out.into_text(),
        ))
    }

    fn write_process(&self, out: &mut Exposition) {
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        out.gauge(
            "backendai_async_task_count",
            "Tasks of the control runtime.",
            [(&[][..], tasks)],
        );
        if let Some(now) = CpuClock::now() {
            let before = lock(&self.cpu).replace(now);
            let usage = before.map_or(0.0, |before| now.usage_since(&before));
            out.gauge(
                "backendai_cpu_usage_percent",
                "Processor time since the last scrape, in percent of one processor.",
                [(&[][..], usage)],
            );
        }
        let memory = Memory::now();
        for (name, help, bytes) in [
            (
                "backendai_memory_used_rss",
                "Resident memory in bytes.",
                memory.resident,
            ),
            (
                "backendai_memory_used_vms",
                "Virtual memory in bytes.",
                memory.virtual_size,
            ),
        ] {
            out.gauge(name, help, bytes.map(|bytes| (&[][..], bytes)));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One call of this interface, for its counts.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// From a fixed list, as `endpoint` is: callers must not be able to make up series.
    pub method: &'static str,
    pub endpoint: &'static str,
    /// Empty: none.
    pub error_code: &'static str,
    pub status: u16,
    pub took: Duration,
}

/// Upper bounds of `backendai_api_request_duration_sec`.
const BOUNDS: [f64; 9] = [0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Calls of this interface so far.
#[derive(Debug, Default)]
pub struct Calls(Mutex<BTreeMap<CallKey, Took>>);

type CallKey = (&'static str, &'static str, &'static str, u16);

#[derive(Debug, Default)]
struct Took {
    /// By the bounds above; the last is what took longer.
    buckets: [u64; BOUNDS.len() + 1],
    seconds: f64,
}

impl Calls {
    pub fn record(&self, call: Call) {
        let key = (call.method, call.endpoint, call.error_code, call.status);
        let seconds = call.took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        let mut all = lock(&self.0);
        let took = all.entry(key).or_default();
        if let Some(count) = took.buckets.get_mut(bucket) {
            *count += 1;
        }
        took.seconds += seconds;
    }

    fn write(&self, out: &mut Exposition) {
        let all = lock(&self.0);
        let statuses: Vec<String> = all.keys().map(|key| key.3.to_string()).collect();
        let mut rows = Vec::with_capacity(all.len());
        for (((method, endpoint, error_code, _), took), status) in all.iter().zip(&statuses) {
            let mut parts = error_code.splitn(3, '_');
            let mut next = || parts.next().unwrap_or_default();
            let labels = [
                ("method", *method),
                ("endpoint", *endpoint),
                ("domain", next()),
                ("operation", next()),
                ("error_detail", next()),
                ("status_code", status),
            ];
            let mut below = 0;
            let mut cumulative = |n: &u64| {
                below += n;
                below
            };
            let buckets = BOUNDS
                .iter()
                .zip(&took.buckets)
                .map(|(bound, n)| (*bound, cumulative(n)))
                .collect();
            let distribution = Distribution {
                buckets,
                count: took.buckets.iter().sum(),
                sum: took.seconds,
            };
            rows.push((labels, distribution));
        }
        out.counter(
            "backendai_api_request_count",
            "Requests to the worker's interface.",
            rows.iter().map(|(labels, d)| (&labels[..], d.count)),
        );
        out.histogram(
            "backendai_api_request_duration_sec",
            "How long requests to the worker's interface took, in seconds.",
            rows.iter().map(|(labels, d)| (&labels[..], d)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_under_the_parts_of_their_error_code() {
        let calls = Calls::default();
        let call = Call {
            method: "GET",
            endpoint: "/setup",
            error_code: "agent_request_invalid-parameters",
            status: 400,
            took: Duration::from_millis(50),
        };
        calls.record(call);
        calls.record(Call {
            took: Duration::from_secs(60),
            ..call
        });
        let mut out = Exposition::default();
        calls.write(&mut out);
        let out = out.into_text();
        let labels = "method=\"GET\",endpoint=\"/setup\",domain=\"agent\",operation=\"request\",\
                      error_detail=\"invalid-parameters\",status_code=\"400\"";
        for line in [
            format!("backendai_api_request_count_total{{{labels}}} 2\n"),
            format!("backendai_api_request_duration_sec_bucket{{{labels},le=\"0.01\"}} 0\n"),
            format!("backendai_api_request_duration_sec_bucket{{{labels},le=\"0.1\"}} 1\n"),
            format!("backendai_api_request_duration_sec_bucket{{{labels},le=\"30\"}} 1\n"),
            format!("backendai_api_request_duration_sec_bucket{{{labels},le=\"+Inf\"}} 2\n"),
            format!("backendai_api_request_duration_sec_sum{{{labels}}} 60.05\n"),
        ] {
            assert!(out.contains(&line), "{line} in\n{out}");
        }
    }
}
