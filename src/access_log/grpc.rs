//! Logs that a service gets in entries (`envoy.service.accesslog.v3.AccessLogService`).
//!
//! Entries wait, encoded, in a bounded buffer; what does not fit is dropped and counted. One task for
//! each log sends what has come together, in one message of a stream of its own: there is no stream
//! that could be stuck or has to be opened anew.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causeway_xds::proto::access_log_stream::StreamAccessLogsMessage;
use causeway_xds::proto::core::Node;
use causeway_xds::proto::envoy::service::accesslog::v3::StreamAccessLogsResponse;
use causeway_xds::proto::envoy::service::accesslog::v3::stream_access_logs_message::Identifier;
use causeway_xds::resource::access_log::{EntryKind, GrpcLog as Model};
use http::header::{HOST, HeaderName, HeaderValue};
use tokio::sync::Notify;

use super::entry::{self, Fields};
use crate::filter::Context;
use crate::filter::call::{Calls, unary};
use crate::formatter::{Facts, Wants};
use crate::telemetry::stats::Counter;

const STREAM_ACCESS_LOGS: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// Bytes of entries that may wait: what servers of gRPC take in one message by default is twice
/// that.
const WAITING: usize = 2 << 20;
/// How long sending may take where the service has no timeout of its own.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// As Envoy calls what these logs count.
const SCOPE: &str = "access_logs.grpc_access_log.";

/// One log. Its sender ends when it is dropped, once it has sent what waits.
#[derive(Debug)]
pub struct GrpcLog {
    shared: Arc<Shared>,
    fields: Fields,
}

#[derive(Debug)]
struct Shared {
    kind: EntryKind,
    cluster: String,
    metadata: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
    identifier: Identifier,
    interval: Duration,
    size: usize,
    waiting: Mutex<Waiting>,
    /// Something has come, or cannot wait any longer.
    wake: Notify,
    /// There is a sender.
    started: AtomicBool,
    written: Arc<Counter>,
    dropped: Arc<Counter>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// As fields of the message that holds the entries.
    entries: Vec<u8>,
    count: u64,
    /// No more will come.
    closed: bool,
}

impl GrpcLog {
    pub fn new(model: &Model, context: &Context) -> Self {
        let service = &model.service;
        let authority = HeaderValue::from_str(&service.authority).ok();
        let authority = authority
            .filter(|value| !value.is_empty())
            .map(|v| (HOST, v));
        // Checked when the resource was decoded.
        let own = service.metadata.iter();
        let own = own.filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)));
        let names = |names: &[String]| names.iter().filter_map(|name| name.parse().ok()).collect();
        Self {
            shared: Arc::new(Shared {
                kind: model.kind,
                cluster: service.cluster.clone(),
                metadata: authority.into_iter().chain(own).collect(),
                timeout: match service.timeout {
                    None | Some(Duration::ZERO) => SEND_TIMEOUT,
                    Some(timeout) => timeout,
                },
                identifier: Identifier {
                    node: context.node.as_deref().cloned().map(without_features),
                    log_name: model.name.clone(),
                },
                interval: model.flush_interval,
                size: model.buffer_size as usize,
                waiting: Mutex::default(),
                wake: Notify::new(),
                started: AtomicBool::new(false),
                written: context.counter_in(SCOPE, "logs_written"),
                dropped: context.counter_in(SCOPE, "logs_dropped"),
            }),
            fields: Fields {
                request: names(&model.request_headers),
                response: names(&model.response_headers),
                trailers: names(&model.response_trailers),
            },
        }
    }

    pub fn note(&self, wants: &mut Wants) {
        entry::note(&self.fields, wants);
    }

    /// Starts the sender, on this thread, if there is none.
    pub fn start(&self, calls: impl FnOnce() -> Rc<dyn Calls>) {
        if self.shared.started.swap(true, Relaxed) {
            return;
        }
        tokio::task::spawn_local(send(Arc::clone(&self.shared), calls()));
    }

    pub fn log(&self, facts: &dyn Facts) {
        let mut entry = Vec::new();
        match self.shared.kind {
            EntryKind::Request => encode(&entry::of_request(facts, &self.fields), &mut entry),
            EntryKind::Connection => encode(&entry::of_connection(facts), &mut entry),
        }
        self.shared.push(&entry);
    }
}

/// What a server of configuration wants to know of us is much, and nothing to a service of logs.
fn without_features(node: Node) -> Node {
    Node {
        extensions: Vec::new(),
        client_features: Vec::new(),
        ..node
    }
}

/// As an element of the list that is field 1 of its message.
fn encode(entry: &impl causeway_xds::proto::Message, to: &mut Vec<u8>) {
    const FIELD_1: u8 = 1 << 3 | 2;
    to.push(FIELD_1);
    // A vector takes whatever it is given.
    entry.encode_length_delimited(to).ok();
}

impl Drop for GrpcLog {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, entry: &[u8]) {
        let mut waiting = self.lock();
        if waiting.entries.len() + entry.len() > WAITING {
            drop(waiting);
            return self.dropped.inc();
        }
        let before = waiting.entries.len();
        waiting.entries.extend_from_slice(entry);
        waiting.count += 1;
        let now = waiting.entries.len();
        drop(waiting);
        if before == 0 || (before < self.size && now >= self.size) {
            self.wake.notify_one();
        }
    }

    /// Whether there is something to do at all, and whether at once.
    fn state(&self) -> (bool, bool) {
        let waiting = self.lock();
        let (some, closed) = (!waiting.entries.is_empty(), waiting.closed);
        (
            some || closed,
            closed || (some && waiting.entries.len() >= self.size),
        )
    }

    /// Returns once there is something to send, or nothing will come any more.
    async fn collected(&self) {
        while !self.state().0 {
            self.wake.notified().await;
        }
        let full = async {
            while !self.state().1 {
                self.wake.notified().await;
            }
        };
        // Either will do.
        tokio::time::timeout(self.interval, full).await.ok();
    }
}

async fn send(shared: Arc<Shared>, calls: Rc<dyn Calls>) {
    loop {
        shared.collected().await;
        let Waiting {
            entries,
            count,
            closed,
        } = {
            let mut waiting = shared.lock();
            let closed = waiting.closed;
            std::mem::replace(
                &mut *waiting,
                Waiting {
                    closed,
                    ..Waiting::default()
                },
            )
        };
        if count > 0 {
            let (http, tcp) = match shared.kind {
                EntryKind::Request => (Some(entries), None),
                EntryKind::Connection => (None, Some(entries)),
            };
            let message = StreamAccessLogsMessage {
                identifier: Some(shared.identifier.clone()),
                http_logs: http,
                tcp_logs: tcp,
            };
            let sent = unary::<_, StreamAccessLogsResponse>(
                &*calls,
                &shared.cluster,
                STREAM_ACCESS_LOGS,
                &shared.metadata,
                &message,
                shared.timeout,
            );
            match sent.await {
                Ok(StreamAccessLogsResponse {}) => shared.written.add(count),
                Err(error) => {
                    shared.dropped.add(count);
                    tracing::debug!(%error, cluster = %shared.cluster, count, "entries of an access log are lost");
                }
            }
        }
        if closed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::proto::Message as _;
    use causeway_xds::proto::envoy::service::accesslog::v3::{
        StreamAccessLogsMessage as Whole, stream_access_logs_message::LogEntries,
    };
    use causeway_xds::resource::parts::GrpcService;

    use super::*;

    fn log() -> GrpcLog {
        let model = Model {
            kind: EntryKind::Request,
            service: GrpcService {
                cluster: "c".into(),
                authority: String::new(),
                timeout: None,
                metadata: Vec::new(),
            },
            name: "l".into(),
            flush_interval: Duration::from_secs(1),
            buffer_size: 10,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            response_trailers: Vec::new(),
        };
        GrpcLog::new(&model, &Context::default())
    }

    #[test]
    fn what_waits_is_bounded_and_what_does_not_fit_is_counted() {
        let log = log();
        log.shared.push(&vec![0; WAITING]);
        log.shared.push(&[0]);
        assert_eq!(log.shared.dropped.value(), 1);
        assert_eq!(log.shared.lock().count, 1);
    }

    #[test]
    fn a_full_buffer_is_due() {
        let log = log();
        assert_eq!(log.shared.state(), (false, false));
        log.shared.push(&[0; 9]);
        assert_eq!(log.shared.state(), (true, false));
        log.shared.push(&[0; 1]);
        assert_eq!(log.shared.state(), (true, true));
    }

    #[test]
    fn encoded_entries_are_what_the_message_holds() {
        use causeway_xds::proto::envoy::data::accesslog::v3::HttpAccessLogEntry;
        let entry = |protocol_version| HttpAccessLogEntry {
            protocol_version,
            ..Default::default()
        };
        let mut entries = Vec::new();
        encode(&entry(2), &mut entries);
        encode(&entry(3), &mut entries);
        let message = StreamAccessLogsMessage {
            identifier: None,
            http_logs: Some(entries),
            tcp_logs: None,
        };
        let whole = Whole::decode(&*message.encode_to_vec()).unwrap();
        let Some(LogEntries::HttpLogs(logs)) = whole.log_entries else {
            panic!()
        };
        assert_eq!(logs.log_entry, [entry(2), entry(3)]);
    }
}
