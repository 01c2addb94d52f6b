//! The access log of one connection.

use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causeway_xds::resource::format::{Fact, Point};
use causeway_xds::resource::metadata::MetadataValue;

use super::Client;
use crate::error::{Failure, ResponseFlag};
use crate::filter::{StreamState, network};
use crate::formatter::{Facts, Value};
use crate::runtime::timer::Deadline;
use crate::snapshot::TcpProxySpec;
use crate::upstream::Endpoint;
use crate::upstream::pool::About;

/// What is known of a connection. Its drop is the end of the connection, and writes the line.
pub(super) struct Log {
    spec: Arc<TcpProxySpec>,
    cluster: Arc<str>,
    client: Client,
    start: SystemTime,
    began: Instant,
    endpoint: OnceCell<Arc<Endpoint>>,
    connection: Cell<Option<About>>,
    received: Cell<u64>,
    sent: Cell<u64>,
    flag: Cell<Option<ResponseFlag>>,
    details: RefCell<String>,
    /// What is written now.
    kind: Cell<&'static str>,
}

impl Log {
    /// From the moment the connection is there, before anything is asked of it.
    pub fn begin(spec: &Arc<TcpProxySpec>, cluster: &Arc<str>, client: Client) -> Self {
        Self {
            spec: Arc::clone(spec),
            cluster: Arc::clone(cluster),
            client,
            start: SystemTime::now(),
            began: Instant::now(),
            endpoint: OnceCell::new(),
            connection: Cell::default(),
            received: Cell::default(),
            sent: Cell::default(),
            flag: Cell::default(),
            details: RefCell::default(),
            kind: Cell::default(),
        }
    }

    fn write(&self, kind: &'static str) {
        self.kind.set(kind);
        for logger in &self.spec.access_logs {
            logger.log(self);
        }
    }

    /// Writes the line of the start, where it is wanted (`flush_access_log_on_start`).
    pub fn started(&self) {
        if self.spec.log_times.start {
            self.write("TcpConnectionStart");
        }
    }

    /// There is an endpoint; writes a line, where it is wanted (`flush_access_log_on_connected`).
    pub fn connected(&self, endpoint: &Arc<Endpoint>, about: About) {
        // A connection has one endpoint.
        self.endpoint.set(Arc::clone(endpoint)).ok();
        if !self.spec.access_logs.is_empty() {
            self.connection.set(Some(about));
        }
        if self.spec.log_times.connected {
            self.write("TcpUpstreamConnected");
        }
    }

    /// Our end of the connection to the endpoint.
    fn upstream_local(&self) -> Option<SocketAddr> {
        self.connection.get()?.local
    }

    /// Writes every so often, if that is wanted. Does not end.
    pub async fn periodic(&self) -> Infallible {
        let every = self.spec.log_times.every;
        loop {
            Deadline::after(every).await;
            self.write("TcpPeriodic");
        }
    }

    /// Bytes that went to the client, and from it.
    pub fn moved(&self, down: u64, up: u64) {
        self.sent.set(self.sent.get() + down);
        self.received.set(self.received.get() + up);
    }

    /// Why the connection ends, for the line of its end.
    pub fn failed(&self, failure: &Failure) {
        self.flag.set(failure.flag);
        *self.details.borrow_mut() = failure.word().to_owned();
    }

    /// What filters have left of the connection.
    pub fn state(&self) -> &StreamState {
        &self.client.state
    }

    fn address(&self) -> Option<SocketAddr> {
        self.endpoint.get().and_then(|e| e.socket_address())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.spec.policy.log {
            tracing::info!(
                cluster = %self.cluster,
                peer = self.client.peer.map(tracing::field::display),
                endpoint = self.endpoint.get().map(tracing::field::display),
                ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                received = self.received.get(),
                sent = self.sent.get(),
                flag = self.flag.get().map_or("-", ResponseFlag::short),
                details = %self.details.borrow(),
                "connection ended"
            );
        }
        self.write("TcpConnectionEnd");
    }
}

impl Facts for Log {
    fn fact(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::AccessLogType => Value::word(self.kind.get()),
            Fact::BytesReceived => Value::Number(self.received.get()),
            Fact::BytesSent => Value::Number(self.sent.get()),
            Fact::Duration => Value::milliseconds(Some(self.began.elapsed())),
            Fact::ResponseCode => Value::Number(0),
            Fact::ConnectionTerminationDetails => {
                let details = self.details.borrow();
                Value::shown((!details.is_empty()).then(|| details.clone()))
            }
            Fact::ResponseFlags => Value::word(self.flag.get().map_or("-", ResponseFlag::short)),
            Fact::ResponseFlagsLong => Value::word(self.flag.get().map_or("-", ResponseFlag::long)),
            Fact::UpstreamCluster | Fact::UpstreamClusterRaw => Value::text(Some(&*self.cluster)),
            Fact::UpstreamHost | Fact::UpstreamRemoteAddress => Value::shown(self.endpoint.get()),
            Fact::UpstreamRemoteAddressWithoutPort => Value::ip(self.address()),
            Fact::UpstreamRemotePort => Value::port(self.address()),
            Fact::UpstreamConnectionId => Value::number(self.connection.get().map(|c| c.id)),
            Fact::UpstreamLocalAddress => Value::address(self.upstream_local()),
            Fact::UpstreamLocalAddressWithoutPort => Value::ip(self.upstream_local()),
            Fact::UpstreamLocalPort => Value::port(self.upstream_local()),
            _ => network::of_connection(&self.client.shown(), fact),
        }
    }

    fn start(&self) -> SystemTime {
        self.start
    }

    fn point(&self, point: Point) -> Option<Duration> {
        match point {
            Point::DownstreamRxBegin => Some(Duration::ZERO),
            Point::DownstreamTxEnd => Some(self.began.elapsed()),
            _ => None,
        }
    }

    fn dynamic_metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        self.client.state.metadata(namespace)
    }

    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        self.client.state.value(key)
    }

    fn filter_state_object(&self, key: &str) -> Option<Rc<MetadataValue>> {
        self.client.state.object(key)
    }
}
