//! Replies, on a connection of their own.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::outbox::{Outbox, USEFUL_FOR};
use super::{CHANNEL, envelope};
use crate::coordinator::event::Reply;
use crate::coordinator::redis::{Backoff, Link, Outage, RedisConfig, db, refused};

/// How long replies that are still there may take at the end.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// Publishes what `replies` brings, until told to stop and then until what is there is sent.
pub async fn run(
    config: &RedisConfig,
    authority: &str,
    mut replies: mpsc::Receiver<Reply>,
    mut stop: watch::Receiver<bool>,
) {
    let mut outbox = Outbox::default();
    let mut link = Link::new(config.clone(), db::EVENTS);
    let mut backoff = Backoff::default();
    let (mut down, mut stopping, mut closed) = (false, false, false);
    // The connection is opened before there is a reply: the first has no more time than others.
    let mut next = Instant::now();
    loop {
        let old = outbox.expire(Instant::now());
        if old > 0 {
            warn!(replies = old, limit = ?USEFUL_FOR, "replies dropped, nobody waits for them now");
        }
        if stopping && closed && outbox.is_empty() {
            return;
        }
        // What is down is tried when it is time, not when there is something to send.
        let due = if down || outbox.is_empty() {
            next
        } else {
            Instant::now()
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                // What was handed over before is still sent.
                replies.close();
                continue;
            }
            reply = replies.recv(), if !closed => {
                match reply {
                    Some(reply) => take(&mut outbox, &reply, authority),
                    None => closed = true,
                }
                continue;
            }
            () = sleep_until(due.into()) => {}
        }
        let reply = outbox.first().map(str::to_owned);
        // Replies are taken in meanwhile, so that their age counts from when they came.
        let attempt = taking_in(
            attempt(&mut link, reply.as_deref()),
            &mut replies,
            |reply| {
                take(&mut outbox, &reply, authority);
            },
        );
        match attempt.await {
            Ok(()) => {
                if down {
                    info!("redis takes replies again");
                }
                down = false;
                backoff.reset();
                next = Instant::now() + config.ping_every;
                if let Some(reply) = reply {
                    outbox.sent(&reply);
                    debug!(waiting = outbox.len(), "reply published");
                }
            }
            Err(outage) => {
                if !down {
                    warn!(%outage, "redis does not take replies");
                }
                down = true;
                next = Instant::now() + backoff.wait();
            }
        }
    }
}

/// Waits for [`run`], which has been told to stop.
pub async fn finish(publishing: impl Future<Output = ()>) {
    if tokio::time::timeout(LAST_REPLIES, publishing)
        .await
        .is_err()
    {
        warn!(deadline = "last replies", limit = ?LAST_REPLIES, "deadline fired, replies are lost");
    }
}

/// Publishes one reply, or without one makes sure that the next can be.
async fn attempt(link: &mut Link, reply: Option<&str>) -> Result<(), Outage> {
    let Some(reply) = reply else {
        return link.check().await;
    };
    let mut pipe = redis::pipe();
    pipe.cmd("PUBLISH").arg(CHANNEL).arg(reply);
    let answers = link.run(&pipe).await?;
    match refused(&answers) {
        None => Ok(()),
        Some(reason) => Err(Outage {
            doing: "redis publish",
            server: CHANNEL.to_owned(),
            reason,
        }),
    }
}

/// Waits for `work` and hands over what comes meanwhile.
async fn taking_in<T>(
    work: impl Future<Output = T>,
    replies: &mut mpsc::Receiver<Reply>,
    mut take: impl FnMut(Reply),
) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            Some(reply) = replies.recv() => take(reply),
        }
    }
}

fn take(outbox: &mut Outbox, reply: &Reply, authority: &str) {
    let dropped = outbox.push(Instant::now(), envelope::encode(reply, authority));
    if dropped > 0 {
        warn!(
            replies = dropped,
            "replies dropped, too many wait for redis"
        );
    }
}
