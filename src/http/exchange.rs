//! One request and its response, from the head of the one to the last byte of the other.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, StatusCode, Version};

use super::connection_manager::Connection;
use super::observed::{Kept, Observed};
use super::watch::{Fired, Watch};
use crate::error::{Failure, ResponseFlag};
use crate::filter::{Asked, StreamState};
use crate::formatter::Wants;
use crate::route::Chosen;
use crate::route::internal_redirect::Trail;
use crate::telemetry::stats::{ClusterStats, Counter};
use crate::upstream::body::Progress;
use crate::upstream::{Endpoint, Permit, Transport};

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
    details: RefCell<Option<Details>>,
    /// How often an endpoint was asked.
    pub attempts: Cell<u32>,
    /// The client's address, once it is worked out.
    pub client: Cell<Option<IpAddr>>,
    version: Version,
    /// What somebody will ask for when the messages are gone. `None`: nobody will.
    pub kept: Option<Rc<Kept>>,
    /// Kept for whoever gives failures their form.
    pub asked: Option<Box<Asked>>,
    /// What filters know of it.
    pub filters: StreamState,
    /// The redirects that have led here.
    pub trail: Option<Box<Trail>>,
    /// Another one gives the client its answer.
    superseded: Cell<bool>,
}

/// The upstream's side of an exchange, for as long as it lasts.
struct Upstream {
    endpoint: Arc<Endpoint>,
    transport: Arc<Transport>,
    _permit: Permit,
}

/// Envoy's `%RESPONSE_CODE_DETAILS%`.
#[derive(Clone, Debug)]
enum Details {
    Word(Cow<'static, str>),
    Named(Arc<str>),
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
        let kept = connection
            .manager
            .wants
            .anything
            .then(Kept::new)
            .map(Rc::new);
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
            details: RefCell::default(),
            attempts: Cell::default(),
            client: Cell::default(),
            version: parts.version,
            kept,
            asked: None,
            filters: StreamState::within(&connection.state),
            trail: None,
            superseded: Cell::new(false),
        })
    }

    /// Ready when one of the stream's deadlines has fired.
    pub fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Fired> {
        let own = self.connection.polls_streams().then_some(&*self.connection);
        self.watch.poll(cx, &self.progress, own)
    }

    /// As [`Exchange::poll_watch`], while the client takes nothing.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Fired> {
        let own = self.connection.polls_streams().then_some(&*self.connection);
        self.watch.poll_stalled(cx, &self.progress, own)
    }

    /// The head of the response is known.
    pub fn answered(&self, status: StatusCode) {
        self.status.set(status.as_u16());
    }

    pub fn flag(&self, flag: ResponseFlag) {
        self.flag.set(Some(flag));
    }

    /// What went wrong is not what the client is told.
    pub fn unflag(&self) {
        self.flag.set(None);
    }

    pub fn flagged(&self) -> Option<ResponseFlag> {
        self.flag.get()
    }

    /// Of the response; 0 before there is one.
    pub fn status(&self) -> u16 {
        self.status.get()
    }

    pub fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        }
    }

    /// How the response came about, in Envoy's words.
    pub fn detail(&self, word: impl Into<Cow<'static, str>>) {
        *self.details.borrow_mut() = Some(Details::Word(word.into()));
    }

    /// How a failure came about, in the words of whoever configured it or in Envoy's.
    pub fn failed(&self, failure: &Failure) {
        if let Some(flag) = failure.flag {
            self.flag(flag);
        }
        *self.details.borrow_mut() = Some(match &failure.named {
            Some(name) => Details::Named(Arc::clone(name)),
            None => Details::Word(failure.details.clone()),
        });
    }

    pub fn details(&self) -> Option<Cow<'static, str>> {
        self.details.borrow().as_ref().map(|details| match details {
            Details::Word(word) => word.clone(),
            Details::Named(name) => Cow::Owned(name.to_string()),
        })
    }

    /// The route asks for something that nobody else did.
    pub fn keep_for(&mut self, wants: &Wants) {
        if wants.anything && self.kept.is_none() {
            self.kept = Some(Rc::new(Kept::new()));
        }
    }

    /// The route is known.
    pub fn routed(&mut self, chosen: &Chosen) {
        let wants = &chosen.edits().wants;
        let filters = &chosen.filters().wants;
        self.keep_for(wants);
        self.keep_for(filters);
        if let Some(kept) = &self.kept
            && (wants.route || filters.route || self.connection.manager.wants.route)
        {
            kept.route.replace(Some(Arc::clone(&chosen.route)));
        }
    }

    /// The request is about to leave, or to be answered here. `route`: what the edits of its
    /// route ask for, and what it says to filters.
    pub fn keep_request(&self, parts: &Parts, route: Option<&Chosen>) {
        let Some(kept) = &self.kept else {
            return;
        };
        let all = [
            Some(&self.connection.manager.wants),
            route.map(|chosen| &chosen.edits().wants),
            route.map(|chosen| &chosen.filters().wants),
        ];
        for wants in all.into_iter().flatten() {
            kept.request(parts, wants);
            if wants.points {
                self.progress.timed.set(true);
                if self.progress.request_ended.get() {
                    self.progress.request_ended_at.set(Some(self.start));
                }
            }
        }
    }

    pub fn complete(&self) {
        self.complete.set(true);
    }

    /// An upstream was asked.
    pub fn asked(&self, endpoint: &Arc<Endpoint>, transport: &Arc<Transport>, permit: Permit) {
        // A second attempt ends the first.
        self.release_upstream(None);
        self.attempts.set(self.attempts.get() + 1);
        if let Some(kept) = &self.kept {
            kept.asked(endpoint, transport);
            kept.request_sent.set(Some(Instant::now()));
        }
        transport.stats.upstream_rq_total.inc();
        transport.stats.upstream_rq_active.inc();
        endpoint.stats.rq_total.inc();
        endpoint.stats.rq_active.inc();
        *self.upstream.borrow_mut() = Some(Upstream {
            endpoint: Arc::clone(endpoint),
            transport: Arc::clone(transport),
            _permit: permit,
        });
    }

    /// The upstream answered with a head. Returns the milliseconds it took.
    pub fn upstream_answered(&self, status: StatusCode) -> u64 {
        let elapsed = self.start.elapsed();
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.detail("via_upstream");
        if let Some(kept) = &self.kept {
            kept.answered(status);
            kept.response_began.set(Some(self.start + elapsed));
        }
        if let Some(upstream) = &mut *self.upstream.borrow_mut() {
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

    /// The answer is a redirect that is followed here, so that no client gets it: it is logged,
    /// with where it leads, and not counted.
    pub fn redirected(self: Box<Self>, to: &Parts, status: StatusCode, answer: &HeaderMap) {
        self.answered(status);
        self.detail("internal_redirect");
        self.complete();
        self.superseded.set(true);
        if let Some(kept) = &self.kept {
            let wants = &self.connection.manager.wants;
            kept.response_began.set(Some(Instant::now()));
            kept.request(to, wants);
            kept.response(answer, wants);
        }
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
                if let Some(kept) = &self.kept {
                    kept.answered(status);
                }
                upstream.transport.stats.retry_rq.record(status.as_u16());
            }
        }
        self.release_upstream(None);
    }

    /// The address of the endpoint that was asked last.
    pub fn endpoint(&self) -> Option<std::net::SocketAddr> {
        self.upstream.borrow().as_ref()?.endpoint.socket_address()
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
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let manager = &self.connection.manager;
        let stats = &manager.stats;
        if !self.complete.get() {
            stats.downstream_rq_rx_reset.inc();
            if self.flag.get().is_none() {
                self.flag(ResponseFlag::DownstreamTermination);
                self.detail("downstream_remote_disconnect");
            }
        }
        let now = Instant::now();
        let elapsed = now.duration_since(self.start).as_millis();
        stats.downstream_rq_active.dec();
        if self.status.get() != 0 && !self.superseded.get() {
            stats.downstream_rq_completed.inc();
            stats.downstream_rq.record(self.status.get());
            stats
                .downstream_rq_time
                .observe(u64::try_from(elapsed).unwrap_or(u64::MAX));
            manager.listener_stats.downstream_rq_completed.inc();
            manager.listener_stats.codes.record(self.status.get());
        }
        for logger in &manager.access_logs {
            logger.log(&Observed::of(self));
        }
        self.release_upstream(None);
        self.connection.request_ended(&self.progress, now);
    }
}
