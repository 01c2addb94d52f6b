//! The event bus: what the Coordinator says to this worker, and what the worker says back.
//!
//! Two connections, since one that is subscribed can do nothing else. Each comes back by itself,
//! for as long as the program runs. What was said while the subscription was down is lost, as is
//! the nature of the bus, so every [`Notice::Subscribed`] calls for a listing of the circuits.

pub mod envelope;
mod outbox;
mod publisher;
mod subscriber;

use tokio::sync::{mpsc, watch};

use super::event::{Notice, Reply};
use super::redis::RedisConfig;

/// Where all events of the app proxy go, in both directions.
const CHANNEL: &str = "events_all-appproxy";

/// The bus of one worker; [`Bus::run`] is its whole life.
#[derive(Debug)]
pub struct Bus {
    config: RedisConfig,
    authority: String,
}

impl Bus {
    pub fn new(config: RedisConfig, authority: impl Into<String>) -> Self {
        Self {
            config,
            authority: authority.into(),
        }
    }

    /// Runs until it is told to stop, or until nobody takes its notices any more.
    ///
    /// `notices` is waited for, up to a limit, so that a slow worker is not flooded. Nothing of
    /// what `replies` brings is waited for; it is queued here, and dropped when it is of no use.
    pub async fn run(
        self,
        notices: mpsc::Sender<Notice>,
        replies: mpsc::Receiver<Reply>,
        stop: watch::Receiver<bool>,
    ) {
        let publishing = publisher::run(&self.config, &self.authority, replies, stop.clone());
        let subscribing = subscriber::run(&self.config, &self.authority, notices, stop);
        tokio::pin!(publishing);
        tokio::select! {
            () = subscribing => {}
            () = &mut publishing => return,
        }
        // Told to stop as well, it only sends what it still has.
        publisher::finish(publishing).await;
    }
}
