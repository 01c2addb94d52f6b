//! The subscription, and coming back to it.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::aio::PubSubSink;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::{CHANNEL, envelope};
use crate::coordinator::event::Notice;
use crate::coordinator::redis::{Address, Backoff, Outage, RedisConfig, db, within};

/// How long a notice may wait to be taken. After that the subscription is given up: the library
/// keeps what comes in meanwhile, without a limit, and a listing brings the worker up to date.
const NOTICE_TAKEN: Duration = Duration::from_secs(30);
/// A subscription that held for this long was a good one.
const STABLE: Duration = Duration::from_secs(5);
/// Anybody can write to the bus, and must not be able to fill the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Nobody listens any more, or the program ends.
struct Over;

type Flow<T> = ControlFlow<Over, T>;

pub async fn run(
    config: &RedisConfig,
    authority: &str,
    notices: mpsc::Sender<Notice>,
    mut stop: watch::Receiver<bool>,
) {
    let mut subscriber = Subscriber {
        config,
        authority,
        notices,
        complained: None,
        unseen: 0,
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        Over = subscriber.run() => {}
    }
}

struct Subscriber<'a> {
    config: &'a RedisConfig,
    authority: &'a str,
    notices: mpsc::Sender<Notice>,
    complained: Option<Instant>,
    /// Malformed messages since then.
    unseen: u64,
}

impl Subscriber<'_> {
    async fn run(&mut self) -> Over {
        let mut backoff = Backoff::default();
        let mut down = false;
        loop {
            let mut since = None;
            let outage = match self.subscription(&mut since).await {
                ControlFlow::Break(over) => return over,
                ControlFlow::Continue(outage) => outage,
            };
            // An outage is over once there was a subscription.
            if since.is_some() || !down {
                down = true;
                warn!(%outage, "the event bus is down");
                let reason = outage.to_string();
                if self.notices.send(Notice::Lost { reason }).await.is_err() {
                    return Over;
                }
            } else {
                debug!(%outage, "the event bus is still down");
            }
            if since.is_some_and(|since| since.elapsed() >= STABLE) {
                backoff.reset();
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    /// One subscription, from connecting until it is lost. `since` is set once it stands.
    async fn subscription(&mut self, since: &mut Option<Instant>) -> Flow<Outage> {
        let config = self.config;
        let (server, pubsub) = match config.subscriber(db::EVENTS).await {
            Ok(connected) => connected,
            Err(outage) => return ControlFlow::Continue(outage),
        };
        let (mut sink, mut messages) = pubsub.split();
        let subscribing = sink.subscribe(CHANNEL);
        let limit = config.response_timeout;
        if let Err(outage) = within("redis subscribe", &server, limit, subscribing).await {
            return ControlFlow::Continue(outage);
        }
        *since = Some(Instant::now());
        info!(%server, channel = CHANNEL, "the event bus stands");
        if let Some(outage) = self.notify(Notice::Subscribed, &server).await? {
            return ControlFlow::Continue(outage);
        }
        let watching = guard(config, &server, &mut sink);
        tokio::pin!(watching);
        loop {
            let message = tokio::select! {
                outage = &mut watching => return ControlFlow::Continue(outage),
                message = messages.next() => message,
            };
            let Some(message) = message else {
                let outage = lost("redis subscription", &server, "the connection was closed");
                return ControlFlow::Continue(outage);
            };
            let event = match envelope::decode(message.get_payload_bytes(), self.authority) {
                Ok(Some(event)) => event,
                Ok(None) => continue,
                Err(malformed) => {
                    self.complain(&malformed);
                    continue;
                }
            };
            let sending = self.notify(Notice::Event(event), &server);
            let failed = tokio::select! {
                outage = &mut watching => Some(outage),
                sent = sending => sent?,
            };
            if let Some(outage) = failed {
                return ControlFlow::Continue(outage);
            }
        }
    }

    /// Hands over a notice; an outage is what comes of waiting too long.
    async fn notify(&self, notice: Notice, server: &Address) -> Flow<Option<Outage>> {
        match self.notices.send_timeout(notice, NOTICE_TAKEN).await {
            Ok(()) => ControlFlow::Continue(None),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => ControlFlow::Break(Over),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                warn!(deadline = "notice taken", limit = ?NOTICE_TAKEN, "deadline fired");
                let outage = lost("notice taken", server, "the worker takes no events");
                ControlFlow::Continue(Some(outage))
            }
        }
    }

    fn complain(&mut self, malformed: &envelope::Malformed) {
        let now = Instant::now();
        let lately = |at: Instant| now.duration_since(at) < COMPLAIN_EVERY;
        if self.complained.is_some_and(lately) {
            self.unseen += 1;
            debug!(%malformed, "malformed message on the event bus");
            return;
        }
        warn!(%malformed, unreported = self.unseen, "malformed message on the event bus");
        self.complained = Some(now);
        self.unseen = 0;
    }
}

/// Ends when the connection does not stand any more, or leads to a server that is not the master.
async fn guard(config: &RedisConfig, server: &Address, sink: &mut PubSubSink) -> Outage {
    let mut unanswered = 0;
    loop {
        if unanswered == 0 {
            tokio::time::sleep(config.ping_every).await;
        }
        let ping = sink.ping::<redis::Value>();
        match within("redis ping", server, config.response_timeout, ping).await {
            Ok(_) => unanswered = 0,
            Err(outage) => {
                unanswered += 1;
                if unanswered >= config.ping_failures {
                    return outage;
                }
                // The connection may have been closed, and then this ends at once; the stream of
                // messages says so.
                tokio::task::yield_now().await;
                continue;
            }
        }
        if let Some(master) = config.moved_from(server).await {
            let reason = format!("the sentinels name {master} as master");
            return lost("redis role", server, reason);
        }
    }
}

fn lost(doing: &'static str, server: &Address, reason: impl Into<String>) -> Outage {
    Outage {
        doing,
        server: server.to_string(),
        reason: reason.into(),
    }
}
