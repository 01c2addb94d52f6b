//! One request and its response, from the head of the one to the last byte of the other.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use http::header::{HOST, HeaderMap, USER_AGENT};
use http::request::Parts;
use http::{HeaderName, StatusCode, Version};

use super::connection_manager::Connection;
use super::forwarded::{X_FORWARDED_FOR, X_REQUEST_ID};
use super::watch::{Fired, Watch};
use crate::error::ResponseFlag;
use crate::filter::Asked;
use crate::telemetry::activity::ActivityGuard;
use crate::telemetry::stats::{ClusterStats, Counter};
use crate::upstream::body::Progress;
use crate::upstream::{Endpoint, Permit, Transport};
use crate::util::time::timestamp;

/// Counts, times and logs one exchange. Its drop is its end: it runs exactly once, whether the
/// response was sent, broke off, or the client left.
pub struct Exchange {
    pub connection: Rc<Connection>,
    pub progress: Rc<Progress>,
    /// Set once a route says how long things may take.
    pub watch: Watch,
    pub start: Instant,
    status: Cell<u16>,
    flag: Cell<Option<ResponseFlag>>,
    /// The response was handed over whole.
    complete: Cell<bool>,
    upstream: RefCell<Option<Upstream>>,
    log: Option<Box<LogFields>>,
    /// Kept for whoever gives failures their form.
    pub asked: Option<Box<Asked>>,
    /// Says that a circuit is in use.
    pub usage: Option<ActivityGuard>,
}

/// The upstream's side of an exchange, for as long as it lasts.
struct Upstream {
    endpoint: Arc<Endpoint>,
    transport: Arc<Transport>,
    _permit: Permit,
    service_ms: Option<u64>,
}

/// What an access log line needs of the request; copied only when something logs.
struct LogFields {
    line: String,
    host: String,
    forwarded_for: String,
    user_agent: String,
    request_id: RefCell<String>,
}

impl Exchange {
    /// Boxed, because it goes from hand to hand until the last byte of the response.
    pub fn begin(connection: &Rc<Connection>, parts: &Parts) -> Box<Self> {
        let stats = &connection.manager.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        if parts.version == Version::HTTP_2 {
            stats.downstream_rq_http2_total.inc();
        } else {
            stats.downstream_rq_http1_total.inc();
        }
        let log = (!connection.manager.access_logs.is_empty()).then(|| LogFields::of(parts));
        let start = Instant::now();
        Box::new(Self {
            connection: Rc::clone(connection),
            progress: Rc::default(),
            watch: Watch::new(start),
            start,
            status: Cell::new(0),
            flag: Cell::new(None),
            complete: Cell::new(false),
            upstream: RefCell::new(None),
            log,
            asked: None,
            usage: None,
        })
    }

    /// Ready when one of the stream's deadlines has fired.
    pub fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Fired> {
        let own = self.connection.polls_streams().then_some(&*self.connection);
        self.watch.poll(cx, &self.progress, own)
    }

    /// The head of the response is known.
    pub fn answered(&self, status: StatusCode) {
        self.status.set(status.as_u16());
    }

    pub fn flag(&self, flag: ResponseFlag) {
        self.flag.set(Some(flag));
    }

    pub fn complete(&self) {
        self.complete.set(true);
    }

    /// An upstream was asked.
    pub fn asked(&self, endpoint: &Arc<Endpoint>, transport: &Arc<Transport>, permit: Permit) {
        // A second attempt ends the first.
        self.release_upstream(None);
        transport.stats.upstream_rq_total.inc();
        transport.stats.upstream_rq_active.inc();
        endpoint.stats.rq_total.inc();
        endpoint.stats.rq_active.inc();
        *self.upstream.borrow_mut() = Some(Upstream {
            endpoint: Arc::clone(endpoint),
            transport: Arc::clone(transport),
            _permit: permit,
            service_ms: None,
        });
    }

    /// The upstream answered with a head. Returns the milliseconds it took.
    pub fn upstream_answered(&self, status: StatusCode) -> u64 {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(upstream) = &mut *self.upstream.borrow_mut() {
            upstream.service_ms = Some(ms);
            let stats = &upstream.transport.stats;
            stats.upstream_rq.record(status.as_u16());
            stats.upstream_rq_completed.inc();
            stats.upstream_rq_time.observe(ms);
            if status.is_server_error() {
                upstream.endpoint.stats.rq_error.inc();
            } else {
                upstream.endpoint.stats.rq_success.inc();
            }
        }
        ms
    }

    /// The upstream did not answer; `status` is what is counted against it.
    pub fn upstream_failed(&self, status: StatusCode) {
        self.release_upstream(Some(status));
    }

    /// The upstream did not do, and is asked once more. Envoy counts an answer that was not good
    /// enough apart from those that clients get.
    pub fn upstream_retried(&self, answer: Option<StatusCode>) {
        if let Some(upstream) = &*self.upstream.borrow() {
            upstream.endpoint.stats.rq_error.inc();
            if let Some(status) = answer {
                upstream.transport.stats.retry_rq.record(status.as_u16());
            }
        }
        self.release_upstream(None);
    }

    /// Counts something against the cluster that is asked.
    pub fn count_upstream(&self, counter: impl FnOnce(&ClusterStats) -> &Counter) {
        if let Some(upstream) = &*self.upstream.borrow() {
            counter(&upstream.transport.stats).inc();
        }
    }

    fn release_upstream(&self, failed: Option<StatusCode>) {
        if let Some(upstream) = self.upstream.borrow_mut().take() {
            if let Some(status) = failed {
                let stats = &upstream.transport.stats;
                stats.upstream_rq.record(status.as_u16());
                stats.upstream_rq_completed.inc();
                upstream.endpoint.stats.rq_error.inc();
            }
            upstream.transport.stats.upstream_rq_active.dec();
            upstream.endpoint.stats.rq_active.dec();
        }
    }

    pub fn request_id(&self, headers: &HeaderMap) {
        if let Some(log) = &self.log {
            *log.request_id.borrow_mut() = text(headers, &X_REQUEST_ID);
        }
    }

    fn log_line(&self, log: &LogFields, ms: u128) -> Vec<u8> {
        let dash = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        let upstream = self.upstream.borrow();
        let (host, service) = upstream.as_ref().map_or((String::new(), None), |u| {
            (u.endpoint.to_string(), u.service_ms)
        });
        let mut line = String::with_capacity(256);
        // Envoy's default format. Writing to a string cannot fail.
        let _ = writeln!(
            line,
            "[{}] {} {} {} {} {} {ms} {} \"{}\" \"{}\" \"{}\" \"{}\" \"{}\"",
            timestamp(SystemTime::now()),
            log.line,
            self.status.get(),
            self.flag.get().map_or("-", ResponseFlag::short),
            self.progress.received.get(),
            self.progress.sent.get(),
            service.map_or("-".to_owned(), |ms| ms.to_string()),
            dash(&log.forwarded_for),
            dash(&log.user_agent),
            dash(&log.request_id.borrow()),
            dash(&log.host),
            dash(&host),
        );
        line.into_bytes()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let manager = &self.connection.manager;
        let stats = &manager.stats;
        if !self.complete.get() {
            stats.downstream_rq_rx_reset.inc();
            if self.flag.get().is_none() {
                self.flag(ResponseFlag::DownstreamTermination);
            }
        }
        let now = Instant::now();
        let elapsed = now.duration_since(self.start).as_millis();
        stats.downstream_rq_active.dec();
        if self.status.get() != 0 {
            stats.downstream_rq_completed.inc();
            stats.downstream_rq.record(self.status.get());
            stats
                .downstream_rq_time
                .observe(u64::try_from(elapsed).unwrap_or(u64::MAX));
            manager.listener_stats.downstream_rq_completed.inc();
            manager.listener_stats.codes.record(self.status.get());
        }
        if let Some(log) = &self.log {
            let line = self.log_line(log, elapsed);
            for file in &manager.access_logs {
                file.write(line.clone());
            }
        }
        self.release_upstream(None);
        self.connection.request_ended(now);
    }
}

impl LogFields {
    fn of(parts: &Parts) -> Box<Self> {
        let path = parts.uri.path_and_query().map_or("", |p| p.as_str());
        let version = match parts.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        };
        Box::new(Self {
            line: format!("\"{} {path} {version}\"", parts.method),
            host: match parts.uri.authority() {
                Some(authority) => authority.to_string(),
                None => text(&parts.headers, &HOST),
            },
            forwarded_for: text(&parts.headers, &X_FORWARDED_FOR),
            user_agent: text(&parts.headers, &USER_AGENT),
            request_id: RefCell::default(),
        })
    }
}

/// A header value that is safe inside a quoted log field.
fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers
        .get(name)
        .map(|v| String::from_utf8_lossy(v.as_bytes()));
    value.map_or(String::new(), |v| v.replace(['"', '\n', '\r'], "_"))
}
