//! Whether Redis answers, for the health page.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Backoff, Link, RedisConfig, db};

/// How often a healthy Redis is asked. One that was down is asked sooner, so that the page does
/// not call it down for a minute after it came back.
pub const PERIOD: Duration = Duration::from_secs(60);

/// One connection's last check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `live` or `stat`, as the Python worker calls its clients.
    pub component: &'static str,
    pub healthy: bool,
    /// `None` before the first check has ended.
    pub checked_at: Option<SystemTime>,
    pub error: Option<String>,
}

/// The last checks; cheap to read, from any thread.
#[derive(Debug)]
pub struct RedisHealth(ArcSwap<[Check; 2]>);

const COMPONENTS: [(&str, i64); 2] = [("live", db::LIVE), ("stat", db::STAT)];

impl RedisHealth {
    pub fn new() -> Arc<Self> {
        let unknown = COMPONENTS.map(|(component, _)| Check {
            component,
            healthy: false,
            checked_at: None,
            error: Some("not checked yet".to_owned()),
        });
        Arc::new(Self(ArcSwap::from_pointee(unknown)))
    }

    pub fn checks(&self) -> Arc<[Check; 2]> {
        self.0.load_full()
    }

    pub fn is_healthy(&self) -> bool {
        self.0.load().iter().all(|check| check.healthy)
    }

    /// Checks at once, and then from time to time until told to stop.
    pub async fn run(self: Arc<Self>, config: RedisConfig, mut stop: watch::Receiver<bool>) {
        let mut links = COMPONENTS.map(|(_, db)| Link::new(config.clone(), db));
        let mut backoff = Backoff::default();
        loop {
            let checking = self.check(&mut links);
            tokio::select! {
                () = checking => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let wait = if self.is_healthy() {
                backoff.reset();
                PERIOD
            } else {
                backoff.wait()
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn check(&self, links: &mut [Link; 2]) {
        let [live, stat] = links;
        let (live, stat) = tokio::join!(live.check(), stat.check());
        let before = self.checks();
        let mut results = [live, stat].into_iter();
        let now = SystemTime::now();
        let checks = COMPONENTS.map(|(component, _)| {
            let error = results.next().and_then(Result::err);
            Check {
                component,
                healthy: error.is_none(),
                checked_at: Some(now),
                error: error.map(|outage| outage.to_string()),
            }
        });
        for (check, before) in checks.iter().zip(before.iter()) {
            let component = check.component;
            match &check.error {
                Some(error) if before.healthy || before.checked_at.is_none() => {
                    warn!(component, %error, "redis does not answer");
                }
                None if !before.healthy => info!(component, "redis answers"),
                _ => {}
            }
        }
        self.0.store(Arc::new(checks));
    }
}
